//! The control API's paths about exposures. Who asks is known by the tunnel; whether they may is in the Service's annotation, which
//! only those can write who may change the Service.

use std::convert::Infallible;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, stream};
use kvpn_gateway_core::{ExposureRefused, ServiceKey, SessionIndex};
use kvpn_k8s::{Error, ExposedService};
use kvpn_wire::control::{
    CONNECTION_EVENT, Expose, Exposed, ExposureConflict, ExposureList, LOST_EVENT, LiveEvent,
    REQUEST_EVENT, STATE_EVENT,
};
use kvpn_wire::name::{Namespace, ServiceName};

use super::tunnel::Caller;
use super::{Failure, Parts};
use crate::services::Wish;

/// `PUT /v1/session/exposures/{namespace}/{service}`
pub(super) async fn put(
    State(parts): State<Parts>,
    ConnectInfo(Caller(session)): ConnectInfo<Caller>,
    Path(path): Path<(String, String)>,
    body: Bytes,
) -> Result<Json<Exposed>, Response> {
    let key = key(path).map_err(IntoResponse::into_response)?;
    let expose = parse(&body).map_err(IntoResponse::into_response)?;
    let fingerprint = fingerprint(&parts, session)
        .await
        .map_err(IntoResponse::into_response)?;
    let named = named(&parts, &key, &fingerprint)
        .await
        .map_err(IntoResponse::into_response)?;
    let wish = Wish {
        key,
        session,
        fingerprint,
        expose,
        named,
    };
    let exposed = parts.services.expose(wish).await;
    let exposed = exposed.map_err(|error| Failure::from(error).into_response())?;
    exposed.map(Json).map_err(refused)
}

/// `DELETE` of the same
pub(super) async fn delete(
    State(parts): State<Parts>,
    ConnectInfo(Caller(session)): ConnectInfo<Caller>,
    Path(path): Path<(String, String)>,
) -> Result<StatusCode, Failure> {
    let key = key(path)?;
    let fingerprint = fingerprint(&parts, session).await?;
    let existed = parts.services.unexpose(key.clone(), fingerprint).await?;
    let missing = || {
        let text = format!(
            "this session does not expose {}/{}",
            key.namespace, key.service
        );
        Failure::new(StatusCode::NOT_FOUND, text, None)
    };
    existed
        .then_some(StatusCode::NO_CONTENT)
        .ok_or_else(missing)
}

/// `GET /v1/session/exposures`
pub(super) async fn list(
    State(parts): State<Parts>,
    ConnectInfo(Caller(session)): ConnectInfo<Caller>,
) -> Result<Json<ExposureList>, Failure> {
    let fingerprint = fingerprint(&parts, session).await?;
    Ok(Json(parts.services.list(Some(fingerprint)).await?))
}

/// `GET /v1/exposures`
pub(super) async fn list_all(State(parts): State<Parts>) -> Result<Json<ExposureList>, Failure> {
    Ok(Json(parts.services.list(None).await?))
}

/// `GET /v1/session/events`
pub(super) async fn events(
    State(parts): State<Parts>,
    ConnectInfo(Caller(session)): ConnectInfo<Caller>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Failure> {
    let fingerprint = fingerprint(&parts, session).await?;
    let views = parts.services.watch(fingerprint).await?;
    let events = stream::unfold(views, |mut views| async move {
        let view = views.recv().await?;
        Some((Ok(event(&view)), views))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

fn event(view: &LiveEvent) -> Event {
    let (name, data) = match view {
        LiveEvent::Request(request) => (REQUEST_EVENT, serde_json::to_string(request)),
        LiveEvent::Connection(connection) => (CONNECTION_EVENT, serde_json::to_string(connection)),
        LiveEvent::State(state) => (STATE_EVENT, serde_json::to_string(state)),
        LiveEvent::Lost(lost) => (LOST_EVENT, serde_json::to_string(lost)),
    };
    let data = data.expect("plain types have a JSON form");
    Event::default().event(name).data(data)
}

fn key((namespace, service): (String, String)) -> Result<ServiceKey, Failure> {
    let bad = |error: &dyn ToString| Failure::new(StatusCode::BAD_REQUEST, error.to_string(), None);
    let _: Namespace = namespace.parse().map_err(|error| bad(&error))?;
    let _: ServiceName = service.parse().map_err(|error| bad(&error))?;
    Ok(ServiceKey { namespace, service })
}

fn parse(body: &[u8]) -> Result<Expose, Failure> {
    let bad = |text: String| Failure::new(StatusCode::BAD_REQUEST, text, None);
    let expose: Expose = serde_json::from_slice(body)
        .map_err(|error| bad(format!("the request is no Expose: {error}")))?;
    expose.check().map_err(|error| bad(error.to_string()))?;
    Ok(expose)
}

async fn fingerprint(parts: &Parts, session: SessionIndex) -> Result<String, Failure> {
    let key = parts.commands.key(session).await?;
    key.map(|key| key.fingerprint()).ok_or_else(super::ended)
}

/// The sessions that the Service's annotation names, this one among them; `None` where the gateway may not read it.
async fn named(
    parts: &Parts,
    key: &ServiceKey,
    fingerprint: &str,
) -> Result<Option<Vec<String>>, Failure> {
    let kubernetes = &parts.kubernetes;
    if kubernetes.key(&key.service) != *key {
        return Err(forbidden(format!(
            "the gateway serves Services of its own namespace only, and {}/{} is elsewhere",
            key.namespace, key.service
        )));
    }
    if !kubernetes.is_there() {
        return Ok(None);
    }
    match kubernetes.exposure(key).await {
        Ok(Some(exposed)) => names_caller(key, fingerprint, kubernetes.pod(), &exposed).map(Some),
        Ok(None) => Err(forbidden(format!(
            "Service {}/{} has no annotation that names this session",
            key.namespace, key.service
        ))),
        Err(Error::Forbidden { .. }) => Ok(None),
        Err(error) => Err(Failure::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("the gateway cannot ask the API server whose Service it is: {error}"),
            Some("try again"),
        )),
    }
}

fn names_caller(
    key: &ServiceKey,
    fingerprint: &str,
    pod: &str,
    exposed: &ExposedService,
) -> Result<Vec<String>, Failure> {
    let annotation = &exposed.annotation;
    if annotation.gateway != pod || annotation.owner(fingerprint).is_none() {
        return Err(forbidden(format!(
            "Service {}/{} has no annotation that names this session and this gateway",
            key.namespace, key.service
        )));
    }
    let owners = annotation.owners.iter();
    Ok(owners.map(|owner| owner.session.clone()).collect())
}

fn forbidden(text: String) -> Failure {
    Failure::new(StatusCode::FORBIDDEN, text, None)
}

fn refused(refused: ExposureRefused) -> Response {
    let status = match &refused {
        ExposureRefused::Unusable(_) => StatusCode::BAD_REQUEST,
        ExposureRefused::Taken { .. } | ExposureRefused::PortInUse(_) => StatusCode::CONFLICT,
        ExposureRefused::NoPortLeft | ExposureRefused::Full => StatusCode::TOO_MANY_REQUESTS,
    };
    let ExposureRefused::Taken { owner, .. } = &refused else {
        return Failure::new(status, refused, None).into_response();
    };
    let conflict = ExposureConflict {
        error: refused.to_string(),
        hint: Some("choose traffic that nobody else has, with --match".to_owned()),
        owner: owner.clone(),
    };
    (status, Json(conflict)).into_response()
}
