//! Where a request goes, and what becomes of it when the laptop does not take it.

use std::error::Error as _;
use std::sync::Arc;

use http::header::{CONNECTION, EXPECT};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use super::super::choice::{Claim, Route};
use super::super::events::{Share, count};
use super::body::Whole;
use super::exchange::{Exchange, ResponseBody};
use super::gate::Gate;
use super::upstream::{Answer, Failure, To};
use super::{Client, Version, answer, headers, mirror, upgrade};

/// An attempt that brought no response.
struct Missed {
    failure: Failure,
    /// The request's body, if the request can be sent again.
    whole: Option<Whole>,
}

impl Client {
    /// Serves one request. An error resets the stream with the reason that laptop or origin gave.
    pub(super) async fn forward(
        self: Arc<Self>,
        mut request: Request<Incoming>,
    ) -> Result<Response<ResponseBody>, hyper::Error> {
        let asks_for_upgrade = headers::asks_for_upgrade(&request);
        let upgrade = asks_for_upgrade.then(|| hyper::upgrade::on(&mut request));
        let (mut head, incoming) = request.into_parts();
        if self.version == Version::Http2 && head.method == Method::CONNECT {
            let exchange = Exchange::begin(&self, &head, Share::Origin);
            return Ok(answer::not_implemented(exchange));
        }
        let route = self
            .shared
            .choice()
            .route_request(&head, || self.shared.dice());
        let mut exchange = Exchange::begin(&self, &head, Share::Origin);
        headers::prepare_request(
            &mut head.headers,
            self.addresses.client.ip(),
            self.version,
            asks_for_upgrade,
        );
        let copies = match &route {
            Route::Origin { mirrors } if !asks_for_upgrade => mirrors
                .iter()
                .filter_map(|claim| mirror::begin(&self, claim, &head, &incoming))
                .collect(),
            Route::Origin { .. } | Route::Laptop(_) => Vec::new(),
        };
        let gate = self.waits_for_continue(&head).then(Gate::new);
        exchange.keeper = gate.as_ref().map(Gate::keeper);
        let whole = Whole::new(incoming, gate, copies);
        exchange.progress = whole.progress();
        let answered = match &route {
            Route::Laptop(claim) => self.to_laptop(claim, &head, whole, &mut exchange).await,
            Route::Origin { .. } => self.attempt(To::Origin, &head, whole, &mut exchange).await,
        };
        match (answered, upgrade) {
            (Ok(answer), Some(upgrade)) if upgrade::is_accepted(&head.method, &answer.response) => {
                Ok(upgrade::tunnel(&self, upgrade, answer, exchange))
            }
            (Ok(answer), _) => Ok(self.respond(answer, exchange)),
            (Err(missed), _) => self.explain(missed.failure, &head, exchange),
        }
    }

    fn waits_for_continue(&self, head: &Parts) -> bool {
        let expects = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
        self.version == Version::Http1 && head.headers.get(EXPECT).is_some_and(expects)
    }

    /// To the laptop, and to the origin if that fails and may be.
    async fn to_laptop(
        &self,
        claim: &Arc<Claim>,
        head: &Parts,
        whole: Whole,
        exchange: &mut Exchange,
    ) -> Result<Answer, Missed> {
        exchange.to = Share::Laptop(claim.owner.clone());
        let missed = match self
            .attempt(To::Laptop(Arc::clone(claim)), head, whole, exchange)
            .await
        {
            Ok(answer) => return Ok(answer),
            Err(missed) => missed,
        };
        let Some(whole) = missed.whole.filter(|_| claim.fallback) else {
            return Err(Missed {
                whole: None,
                ..missed
            });
        };
        tracing::debug!(error = %missed.failure, owner = %claim.owner, "a laptop does not take a request");
        count(&claim.counters.fallbacks);
        exchange.to = Share::Fallback(claim.owner.clone());
        self.attempt(To::Origin, head, whole, exchange).await
    }

    /// Sends the request to one place. A connection that was closed for having been idle is replaced once.
    async fn attempt(
        &self,
        to: To,
        head: &Parts,
        mut whole: Whole,
        exchange: &mut Exchange,
    ) -> Result<Answer, Missed> {
        exchange.counters = Arc::clone(to.counters(&self.shared));
        let mut fresh = false;
        loop {
            let keeper = whole.gate().map(Gate::keeper);
            let empty = whole.empty;
            let (body, whole_rx) = whole.into_body(&exchange.counters);
            let mut request = Request::from_parts(head.clone(), body);
            if let Some(keeper) = keeper {
                hyper::ext::on_informational(&mut request, move |response| {
                    if response.status() == StatusCode::CONTINUE {
                        keeper.open();
                    }
                });
            }
            let failure = match self.upstreams.send(&to, request, fresh).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            // A request without a body may have been served although no response came.
            let repeatable = !empty || failure.is_unsent() || head.method.is_idempotent();
            let back = whole_rx
                .await
                .ok()
                .filter(|_| repeatable && failure.is_silent(&to));
            match back {
                Some(back) if failure.is_reused() && !fresh => (whole, fresh) = (back, true),
                whole => return Err(Missed { failure, whole }),
            }
        }
    }

    fn respond(&self, answer: Answer, exchange: Exchange) -> Response<ResponseBody> {
        let (mut head, incoming) = answer.response.into_parts();
        headers::prepare_response(&mut head.headers, head.status);
        if self.version == Version::Http1 && self.shared.is_draining() {
            head.headers
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let mut exchange = exchange;
        exchange.status = Some(head.status);
        Response::from_parts(
            head,
            ResponseBody::upstream(incoming, answer.lease, exchange),
        )
    }

    /// A response that says what failed, or the same reset as the other side's.
    fn explain(
        &self,
        failure: Failure,
        head: &Parts,
        exchange: Exchange,
    ) -> Result<Response<ResponseBody>, hyper::Error> {
        match failure {
            Failure::Exchange { error, .. } if reset_reason(&error).is_some() => Err(error),
            failure => Ok(answer::bad_gateway(&self.shared, &failure, head, exchange)),
        }
    }
}

impl Failure {
    fn is_unsent(&self) -> bool {
        match self {
            Self::Dial(_) => true,
            Self::Exchange { unsent, error, .. } => {
                *unsent || reset_reason(error) == Some(h2::Reason::REFUSED_STREAM)
            }
        }
    }

    fn is_reused(&self) -> bool {
        match self {
            Self::Dial(_) => false,
            Self::Exchange { reused, .. } => *reused,
        }
    }

    /// Whether the other side has said nothing to the request: a reset stream is an answer, which its client gets; but
    /// that of a laptop that refuses the stream (RFC 9113 section 8.7) leaves it to the origin.
    fn is_silent(&self, to: &To) -> bool {
        match self {
            Self::Dial(_) => true,
            Self::Exchange { error, .. } => match (reset_reason(error), to) {
                (None, _) | (Some(h2::Reason::REFUSED_STREAM), To::Laptop(_)) => true,
                (Some(_), _) => false,
            },
        }
    }
}

/// The reason with which the other side reset the stream, if that is what it did.
fn reset_reason(error: &hyper::Error) -> Option<h2::Reason> {
    let error = error.source()?.downcast_ref::<h2::Error>()?;
    error
        .reason()
        .filter(|_| error.is_reset() && error.is_remote())
}
