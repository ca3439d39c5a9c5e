//! Streams between drivers: one driver accepts them all, and each goes to the part that has its session, with what it brought.

use std::time::Instant;

use kvpn_gateway_core::{GatewayState, Path, Stranger, StreamId};
use mio::Registry;

use super::ApiCarrier;
use super::stream::Stream;

/// A stream on its way to another driver.
pub(crate) struct Handover {
    stream: Stream,
    /// What it brought that began a session's handshake.
    initiation: Option<Stranger>,
}

impl ApiCarrier {
    /// Gives a stream up, for the driver that has its session.
    pub(crate) fn hand_over(
        &mut self,
        id: StreamId,
        initiation: Option<Stranger>,
        registry: &Registry,
        state: &mut GatewayState,
    ) -> Option<Handover> {
        let mut stream = self.streams.remove(&id)?;
        state.path_closed(Path::Api(id));
        if let Err(error) = registry.deregister(&mut stream.socket) {
            tracing::warn!(%error, "api carrier stream lost");
            return None;
        }
        Some(Handover { stream, initiation })
    }

    /// Takes a stream over, and what it brought for a session that is here.
    pub(crate) fn take_over(
        &mut self,
        handover: Handover,
        registry: &Registry,
        state: &mut GatewayState,
        now: Instant,
    ) {
        let Handover {
            mut stream,
            initiation,
        } = handover;
        let strays = std::mem::take(&mut stream.strays);
        stream.unflushed = false;
        // What it has to tell it told another poll.
        stream.readable = true;
        let Some(id) = self.add(stream, registry) else {
            return;
        };
        self.readable.push_back(id);
        let path = Path::Api(id);
        if let Some(initiation) = initiation {
            state.handle_stranger(&Stranger { path, ..initiation }, now);
        }
        for datagram in strays {
            state.handle_datagram(path, &datagram, now);
        }
        self.flush_later(id);
    }
}
