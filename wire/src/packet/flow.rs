//! To which flow a packet belongs.

use std::net::SocketAddr;

use super::{IcmpMessage, Ip, Protocol, Tcp, be16};

/// Protocol and both ends of a flow, in the direction of the packet.
///
/// For ICMP echo the identifier stands for both ports, so that [`FiveTuple::reversed`] of a request is its reply's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FiveTuple {
    /// TCP, UDP, or ICMP of either version.
    pub protocol: Protocol,
    /// The sender.
    pub src: SocketAddr,
    /// The receiver.
    pub dst: SocketAddr,
}

impl FiveTuple {
    /// The flow of a packet; `None` for later fragments, other protocols, malformed transport headers and ICMP
    /// that is no echo. (The flow of an ICMP error is its quote's: [`FiveTuple::quoted_by`].)
    pub fn of(ip: &Ip<'_>) -> Option<Self> {
        let (src, dst) = match ip.protocol() {
            Protocol::Tcp => ip
                .tcp()
                .map(|tcp: Tcp<'_>| (tcp.src_port(), tcp.dst_port()))?,
            Protocol::Udp if ip.is_fragment() => first_ports(ip)?,
            Protocol::Udp => ip.udp().map(|udp| (udp.src_port(), udp.dst_port()))?,
            Protocol::Icmpv4 | Protocol::Icmpv6 => echo_ports(ip)?,
            Protocol::Other(_) => return None,
        };
        Some(Self::between(ip, src, dst))
    }

    /// The flow of the packet that an ICMP error in `ip` is about, in the direction of that packet. The quote may be cut
    /// off behind the ports.
    pub fn quoted_by(ip: &Ip<'_>) -> Option<Self> {
        let quoted = Ip::parse_quoted(ip.icmp()?.quoted()?).ok()?;
        let (src, dst) = match quoted.protocol() {
            Protocol::Tcp | Protocol::Udp => first_ports(&quoted)?,
            Protocol::Icmpv4 | Protocol::Icmpv6 => echo_ports(&quoted)?,
            Protocol::Other(_) => return None,
        };
        Some(Self::between(&quoted, src, dst))
    }

    /// The same flow in the other direction.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            ..self
        }
    }

    fn between(ip: &Ip<'_>, src: u16, dst: u16) -> Self {
        Self {
            protocol: ip.protocol(),
            src: SocketAddr::new(ip.src(), src),
            dst: SocketAddr::new(ip.dst(), dst),
        }
    }
}

/// TCP and UDP both begin with the two ports.
fn first_ports(ip: &Ip<'_>) -> Option<(u16, u16)> {
    let whole = ip.has_transport_header() && ip.payload().len() >= 8;
    whole.then(|| (be16(ip.payload(), 0), be16(ip.payload(), 2)))
}

fn echo_ports(ip: &Ip<'_>) -> Option<(u16, u16)> {
    match ip.icmp()?.message() {
        IcmpMessage::EchoRequest { ident, .. } | IcmpMessage::EchoReply { ident, .. } => {
            Some((ident, ident))
        }
        IcmpMessage::Unreachable { .. }
        | IcmpMessage::PacketTooBig { .. }
        | IcmpMessage::TimeExceeded { .. }
        | IcmpMessage::ParameterProblem { .. }
        | IcmpMessage::Other { .. } => None,
    }
}
