//! Requests that leave HTTP: WebSocket, CONNECT, whatever a 101 leads to. From then on bytes are passed on.

use std::sync::Arc;

use http::{Method, Response, StatusCode};
use hyper::upgrade::{OnUpgrade, Parts};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::super::dial::Stream;
use super::super::events::{Counters, Protocol, Share};
use super::super::raw::{self, Upstream};
use super::super::rewound::Rewound;
use super::exchange::{Exchange, ResponseBody};
use super::upstream::{Answer, Lease};
use super::{Client, headers};

/// Whether the response ends HTTP on its connection (RFC 9110 sections 7.8 and 9.3.6).
pub(super) fn is_accepted<B>(method: &Method, response: &Response<B>) -> bool {
    response.status() == StatusCode::SWITCHING_PROTOCOLS
        || *method == Method::CONNECT && response.status().is_success()
}

/// The response that ends HTTP; once it is sent, bytes are passed both ways.
pub(super) fn tunnel(
    client: &Arc<Client>,
    upgrade: OnUpgrade,
    answer: Answer,
    mut exchange: Exchange,
) -> Response<ResponseBody> {
    let Answer {
        mut response,
        lease,
    } = answer;
    let upstream = hyper::upgrade::on(&mut response);
    let (mut head, incoming) = response.into_parts();
    headers::prepare_response(&mut head.headers, head.status);
    exchange.status = Some(head.status);
    let tunnel = Tunnel {
        client: Arc::clone(client),
        to: exchange.to.clone(),
        counters: Arc::clone(&exchange.counters),
        lease,
    };
    // The client's connection is over for hyper, and goes on being one for the exposure.
    let counted = client.shared.connections.enter();
    client.shared.spawn(async move {
        if let Err(error) = tunnel.run(upgrade, upstream).await {
            tracing::debug!(%error, "an upgraded connection did not come about");
        }
        drop(counted);
    });
    Response::from_parts(head, ResponseBody::upstream(incoming, None, exchange))
}

struct Tunnel {
    client: Arc<Client>,
    to: Share,
    counters: Arc<Counters>,
    /// The connection, until hyper has handed it out.
    lease: Option<Lease>,
}

impl Tunnel {
    async fn run(self, client: OnUpgrade, upstream: OnUpgrade) -> hyper::Result<()> {
        let incoming = raw::Incoming {
            protocol: Protocol::Upgraded,
            addresses: self.client.addresses,
            accepted: Instant::now(),
        };
        let (client, upstream) = futures::try_join!(client, upstream)?;
        drop(self.lease);
        // Both are the streams that hyper was given.
        let client = client.downcast::<TokioIo<Rewound<TcpStream>>>();
        let upstream = upstream.downcast::<TokioIo<Box<dyn Stream>>>();
        let (Ok(client), Ok(upstream)) = (client, upstream) else {
            return Ok(());
        };
        let Parts { io, read_buf, .. } = client;
        let mut stream = io.into_inner();
        stream.unread(&read_buf);
        let Parts { io, read_buf, .. } = upstream;
        let upstream = Upstream {
            stream: io.into_inner(),
            first: read_buf,
            to: self.to,
            counters: self.counters,
        };
        raw::splice(&self.client.shared, stream, incoming, upstream).await;
        Ok(())
    }
}
