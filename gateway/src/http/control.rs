//! The control API's two doors. On 127.0.0.1, reached by port-forward, sessions are created and renewed; inside the tunnel a
//! session asks about itself. Neither does the other's work: the right to a session is RBAC's right to the port-forward.

use axum::body::Bytes;
use axum::extract::{ConnectInfo, DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::routing::{get, post, put};
use axum::{Json, Router};
use kvpn_gateway_core::Refused;
use kvpn_wire::control::{
    ALL_EXPOSURES_PATH, CreateSession, EVENTS_PATH, EXPOSURES_PATH, SESSION_PATH, SESSIONS_PATH,
    SessionGrant, SessionStatus, exposure_path,
};
use tokio::net::TcpListener;

use super::tunnel::{Caller, ControlConnections};
use super::{Failure, Parts, ended, exposures};

/// Longest request body, in bytes.
const MAX_BODY: usize = 64 << 10;

/// Serves both doors until one of them breaks.
///
/// # Errors
/// What broke.
pub(crate) async fn serve(
    loopback: TcpListener,
    tunnel: ControlConnections,
    parts: Parts,
) -> anyhow::Result<()> {
    let limit = DefaultBodyLimit::max(MAX_BODY);
    let outside = Router::new()
        .route(SESSIONS_PATH, post(create))
        .route(ALL_EXPOSURES_PATH, get(exposures::list_all))
        .layer(limit)
        .with_state(parts.clone());
    let inside = Router::new()
        .route(SESSION_PATH, get(status).delete(end))
        .route(EXPOSURES_PATH, get(exposures::list))
        .route(
            &exposure_path("{namespace}", "{service}"),
            put(exposures::put).delete(exposures::delete),
        )
        .route(EVENTS_PATH, get(exposures::events))
        .layer(limit)
        .with_state(parts)
        .into_make_service_with_connect_info::<Caller>();
    tokio::select! {
        served = axum::serve(loopback, outside) => served?,
        served = axum::serve(tunnel, inside) => served?,
    }
    Ok(())
}

async fn create(State(parts): State<Parts>, body: Bytes) -> Result<Json<SessionGrant>, Failure> {
    let request: CreateSession = serde_json::from_slice(&body).map_err(|error| {
        Failure::new(
            StatusCode::BAD_REQUEST,
            format!("the request is no CreateSession: {error}"),
            None,
        )
    })?;
    let granted = parts.commands.create(request).await?;
    granted.map(Json).map_err(Failure::from)
}

async fn status(
    State(parts): State<Parts>,
    ConnectInfo(Caller(session)): ConnectInfo<Caller>,
) -> Result<Json<SessionStatus>, Failure> {
    let status = parts.commands.status(session).await?;
    status.map(Json).ok_or_else(ended)
}

async fn end(
    State(parts): State<Parts>,
    ConnectInfo(Caller(session)): ConnectInfo<Caller>,
) -> Result<StatusCode, Failure> {
    let existed = parts.commands.end(session).await?;
    existed.then_some(StatusCode::NO_CONTENT).ok_or_else(ended)
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        let (status, hint) = match &refused {
            Refused::Version { .. } => (
                StatusCode::CONFLICT,
                "use a client and a gateway of the same release: `kvpn connect --upgrade`, or install another client",
            ),
            Refused::Full(_) => (
                StatusCode::TOO_MANY_REQUESTS,
                "wait until a session ends, or raise KVPN_MAX_SESSIONS on the gateway",
            ),
            Refused::NoAddresses => (
                StatusCode::CONFLICT,
                "no block of 198.19.0.0/16 and fd6b:7670:6e00::/40 is free: another network of this machine uses them",
            ),
        };
        Self::new(status, refused, Some(hint))
    }
}
