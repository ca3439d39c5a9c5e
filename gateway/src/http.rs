//! The HTTP side: control API, health, metrics. It decides nothing: the driver is asked over [`Commands`].

mod control;
mod exposures;
mod health;
mod tunnel;

pub(crate) use control::serve as serve_control;
pub(crate) use health::serve as serve_health;
pub(crate) use tunnel::{ControlConnections, ControlConnectionsTx, control_connections};

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use kvpn_wire::control::ErrorBody;

use crate::commands::Commands;
use crate::services::{Kubernetes, ServicesHandle};

/// What answers are made of.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) commands: Commands,
    pub(crate) services: ServicesHandle,
    pub(crate) kubernetes: Kubernetes,
}

fn ended() -> Failure {
    Failure::new(StatusCode::NOT_FOUND, "the session has ended", None)
}

/// An answer that is no success.
struct Failure {
    status: StatusCode,
    body: ErrorBody,
}

impl Failure {
    fn new(status: StatusCode, error: impl ToString, hint: Option<&str>) -> Self {
        Self {
            status,
            body: ErrorBody {
                error: error.to_string(),
                hint: hint.map(str::to_owned),
            },
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}

impl From<crate::commands::Unanswered> for Failure {
    fn from(error: crate::commands::Unanswered) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            error,
            Some("try again; if it stays so, look at the gateway pod's log"),
        )
    }
}
