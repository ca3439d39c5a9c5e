//! The control API's two doors. On 127.0.0.1, reached by port-forward, sessions are created and renewed; inside the tunnel a
//! session asks about itself. Neither does the other's work: the right to a session is RBAC's right to the port-forward.

use axum::body::Bytes;
use axum::extract::{ConnectInfo, DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use kvpn_gateway_core::Refused;
use kvpn_wire::control::{CreateSession, SESSION_PATH, SESSIONS_PATH, SessionGrant, SessionStatus};
use tokio::net::TcpListener;

use super::Failure;
use super::tunnel::{Caller, ControlConnections};
use crate::commands::Commands;

/// Longest request body, in bytes.
const MAX_BODY: usize = 64 << 10;

/// Serves both doors until one of them breaks.
///
/// # Errors
/// What broke.
pub(crate) async fn serve(
    loopback: TcpListener,
    tunnel: ControlConnections,
    commands: Commands,
) -> anyhow::Result<()> {
    let limit = DefaultBodyLimit::max(MAX_BODY);
    let outside = Router::new()
        .route(SESSIONS_PATH, post(create))
        .layer(limit)
        .with_state(commands.clone());
    let inside = Router::new()
        .route(SESSION_PATH, get(status).delete(end))
        .layer(limit)
        .with_state(commands)
        .into_make_service_with_connect_info::<Caller>();
    tokio::select! {
        served = axum::serve(loopback, outside) => served?,
        served = axum::serve(tunnel, inside) => served?,
    }
    Ok(())
}

async fn create(
    State(commands): State<Commands>,
    body: Bytes,
) -> Result<Json<SessionGrant>, Failure> {
    let request: CreateSession = serde_json::from_slice(&body).map_err(|error| {
        Failure::new(
            StatusCode::BAD_REQUEST,
            format!("the request is no CreateSession: {error}"),
            None,
        )
    })?;
    let granted = commands.create(request).await?;
    granted.map(Json).map_err(Failure::from)
}

async fn status(
    State(commands): State<Commands>,
    ConnectInfo(Caller(session)): ConnectInfo<Caller>,
) -> Result<Json<SessionStatus>, Failure> {
    let status = commands.status(session).await?;
    status.map(Json).ok_or_else(ended)
}

async fn end(
    State(commands): State<Commands>,
    ConnectInfo(Caller(session)): ConnectInfo<Caller>,
) -> Result<StatusCode, Failure> {
    let existed = commands.end(session).await?;
    existed.then_some(StatusCode::NO_CONTENT).ok_or_else(ended)
}

fn ended() -> Failure {
    Failure::new(StatusCode::NOT_FOUND, "the session has ended", None)
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
