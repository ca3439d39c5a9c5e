//! What smoltcp takes for a network device: one packet in, packets straight into the outbox. No copy is made on
//! the way in, one (from the flow's buffer) on the way out.

use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant as StackInstant;

use crate::outbox::Outbox;
use crate::tcp::Track;

/// The device of one flow for the length of one call.
pub(crate) struct Link<'a> {
    /// The packet to take in.
    pub(crate) inbound: Option<&'a [u8]>,
    pub(crate) outbox: &'a mut Outbox,
    /// Told of each segment that goes out.
    pub(crate) track: &'a mut Track,
    pub(crate) now: StackInstant,
    /// Make segments even when the outbox wants none (a RST must not wait, the flow goes away).
    pub(crate) urgent: bool,
}

pub(crate) struct Inbound<'a>(&'a [u8]);

pub(crate) struct Outbound<'a> {
    outbox: &'a mut Outbox,
    track: &'a mut Track,
    now: StackInstant,
}

/// The capabilities of every flow's device.
pub(crate) fn capabilities(mtu: usize) -> DeviceCapabilities {
    let mut capabilities = DeviceCapabilities::default();
    capabilities.medium = Medium::Ip;
    capabilities.max_transmission_unit = mtu;
    // `stack/inbound.rs` has verified them.
    capabilities.checksum.ipv4 = Checksum::Tx;
    capabilities.checksum.tcp = Checksum::Tx;
    capabilities
}

impl Device for Link<'_> {
    type RxToken<'b>
        = Inbound<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Outbound<'b>
    where
        Self: 'b;

    fn receive(&mut self, _: StackInstant) -> Option<(Inbound<'_>, Outbound<'_>)> {
        let packet = self.inbound.take()?;
        Some((Inbound(packet), self.outbound()))
    }

    fn transmit(&mut self, _: StackInstant) -> Option<Outbound<'_>> {
        let may = self.urgent || self.outbox.has_room();
        may.then(|| self.outbound())
    }

    fn capabilities(&self) -> DeviceCapabilities {
        capabilities(self.outbox.mtu())
    }
}

impl Link<'_> {
    fn outbound(&mut self) -> Outbound<'_> {
        Outbound {
            outbox: self.outbox,
            track: self.track,
            now: self.now,
        }
    }
}

impl RxToken for Inbound<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(self.0)
    }
}

impl TxToken for Outbound<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let Self { outbox, track, now } = self;
        outbox.emit(len, |buf| {
            let result = write(buf);
            (result, track.sent(buf, now))
        })
    }
}
