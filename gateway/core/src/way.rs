//! Which way a packet from a client goes: the one place that decides it, for both datapaths.

use kvpn_netstack::EPHEMERAL;
use kvpn_wire::CONTROL_PORT;
use kvpn_wire::control::TunnelAddresses;
use kvpn_wire::packet::{Icmp, IcmpMessage, Ip, Protocol};

use crate::address::Block;
use crate::config::KernelFamilies;
use crate::output::DropReason;
use crate::policy::{Forbidden, Policy};

/// Port of DNS, on the gateway's tunnel address and on the nameservers.
pub(crate) const DNS_PORT: u16 = 53;

/// Where a packet from a client goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// An echo request to the gateway's tunnel address: answered here.
    Echo { ident: u16, sequence: u16 },
    /// The client's own probe of its path, from the stub's address, which no program has: answered here.
    Probe { ident: u16, sequence: u16 },
    /// Into the session's userspace datapath.
    Userspace,
    /// The same, if it belongs to a flow that the gateway opened; else refused.
    Dialled,
    /// Out by the kernel.
    Kernel,
    /// Refused, and the client is told.
    Refused(Forbidden),
    /// Dropped in silence.
    Dropped(DropReason),
}

/// Decides for a packet of the session that has `block`.
pub(crate) fn way(ip: &Ip<'_>, block: Block, policy: &Policy, kernel: KernelFamilies) -> Way {
    let own = block.family(ip.src());
    if ip.src() != own.client {
        return probe(ip, own).unwrap_or(Way::Dropped(DropReason::ForgedSource));
    }
    if ip.is_source_routed() {
        return Way::Refused(Forbidden::SourceRoute);
    }
    if ip.dst() == own.gateway {
        return to_gateway(ip);
    }
    match policy.judge(ip.dst()) {
        Err(reason) => Way::Refused(reason),
        // The kernel takes no loopback address from an interface; an admin's permission for one needs a socket.
        Ok(()) if kernel.forwards(ip.dst()) && !ip.dst().is_loopback() => Way::Kernel,
        Ok(()) => Way::Userspace,
    }
}

fn probe(ip: &Ip<'_>, own: TunnelAddresses) -> Option<Way> {
    if ip.src() != own.dns_stub || ip.dst() != own.gateway {
        return None;
    }
    match ip.icmp().map(echo) {
        Some(Way::Echo { ident, sequence }) => Some(Way::Probe { ident, sequence }),
        _ => None,
    }
}

/// On its tunnel address the gateway answers DNS, control and echo; through userspace, whatever the datapath is.
fn to_gateway(ip: &Ip<'_>) -> Way {
    let port = match ip.protocol() {
        // Those of a datagram are put together before anybody asks whose it is.
        Protocol::Udp if ip.is_fragment() => return Way::Dialled,
        Protocol::Tcp => ip.tcp().map(|tcp| (tcp.dst_port(), CONTROL_PORT)),
        Protocol::Udp => ip.udp().map(|udp| (udp.dst_port(), DNS_PORT)),
        Protocol::Icmpv4 | Protocol::Icmpv6 => {
            return ip.icmp().map_or(Way::Refused(Forbidden::Tunnel), echo);
        }
        Protocol::Other(_) => None,
    };
    match port {
        Some((port, service)) if port == DNS_PORT || port == service => Way::Userspace,
        Some((port, _)) if EPHEMERAL.contains(&port) => Way::Dialled,
        Some(_) | None => Way::Refused(Forbidden::Tunnel),
    }
}

fn echo(icmp: Icmp<'_>) -> Way {
    match icmp.message() {
        IcmpMessage::EchoRequest {
            ident, sequence, ..
        } => Way::Echo { ident, sequence },
        IcmpMessage::Unreachable { .. } => Way::Dialled,
        IcmpMessage::EchoReply { .. }
        | IcmpMessage::PacketTooBig { .. }
        | IcmpMessage::TimeExceeded { .. }
        | IcmpMessage::ParameterProblem { .. }
        | IcmpMessage::Other { .. } => Way::Refused(Forbidden::Tunnel),
    }
}
