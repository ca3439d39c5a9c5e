//! A received segment, as far as flows look at it. It is parsed once, when its packet is sorted to a flow.

use kvpn_wire::packet::{Tcp, TcpFlags};

use super::options::Options;
use super::sequence::Seq;

/// A TCP header without options.
const BARE_HEADER: usize = 20;

/// A segment, or several of one flow in one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment {
    pub(crate) seq: Seq,
    pub(crate) ack: Option<Seq>,
    pub(crate) syn: bool,
    pub(crate) fin: bool,
    pub(crate) rst: bool,
    /// The window field.
    pub(crate) window: u16,
    /// Bytes of payload.
    pub(crate) len: u32,
    pub(crate) options: Options,
}

impl Segment {
    /// `bytes` are the TCP header and what follows it.
    pub(crate) fn of(tcp: &Tcp<'_>, bytes: &[u8]) -> Self {
        let flags = tcp.flags();
        let has = |flag| flags.contains(flag);
        let header = tcp.header_len();
        let options = if header > BARE_HEADER {
            Options::parse(&bytes[BARE_HEADER..header])
        } else {
            Options::default()
        };
        Self {
            seq: Seq(tcp.sequence()),
            ack: has(TcpFlags::ACK).then(|| Seq(tcp.acknowledgement())),
            syn: has(TcpFlags::SYN),
            fin: has(TcpFlags::FIN),
            rst: has(TcpFlags::RST),
            window: tcp.window(),
            len: (bytes.len() - header) as u32,
            options,
        }
    }

    /// A SYN that asks for a new flow.
    pub(crate) fn opens(&self) -> bool {
        self.syn && self.ack.is_none() && !self.rst && !self.fin
    }

    /// The first sequence number behind it, not counting a SYN.
    pub(super) fn end(&self) -> Seq {
        self.seq.plus(self.len).plus(u32::from(self.fin))
    }

    /// An acknowledgement and nothing else.
    pub(super) fn is_bare(&self) -> bool {
        self.len == 0 && !self.syn && !self.fin && !self.rst
    }
}
