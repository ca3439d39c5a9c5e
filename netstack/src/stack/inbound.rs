//! Sorts packets that come in: which flow they belong to, which are none. It decides nothing about policy.

use std::net::{IpAddr, SocketAddr};

use kvpn_wire::packet::{Icmp, IcmpMessage, Ip, Protocol, Tcp, Udp, checksum};

use super::Netstack;
use crate::event::Event;
use crate::flows::{Kind, Tuple};
use crate::reassembly::Outcome;
use crate::tcp::Segment;

impl Netstack {
    /// Takes one packet to where it belongs.
    pub(super) fn sort(&mut self, packet: &[u8]) {
        let Ok(ip) = Ip::parse(packet) else {
            self.drops.malformed += 1;
            return;
        };
        let Some(fragment) = ip.fragment() else {
            return self.sort_whole(&ip);
        };
        match self.reassembly.add(&ip, fragment, self.now) {
            Outcome::Kept => {}
            Outcome::Dropped(fragments) => self.drops.fragments += fragments as u64,
            Outcome::Whole(packet) => match Ip::parse(&packet) {
                Ok(ip) if !ip.is_fragment() => self.sort_whole(&ip),
                Ok(_) | Err(_) => self.drops.malformed += 1,
            },
        }
    }

    fn sort_whole(&mut self, ip: &Ip<'_>) {
        match ip.protocol() {
            Protocol::Tcp => match ip.tcp() {
                Some(tcp) => self.sort_segment(ip, tcp),
                None => self.drops.malformed += 1,
            },
            Protocol::Udp => match ip.udp() {
                Some(udp) => self.sort_datagram(ip, udp),
                None => self.drops.malformed += 1,
            },
            Protocol::Icmpv4 | Protocol::Icmpv6 => match ip.icmp() {
                Some(icmp) => self.sort_icmp(ip, icmp),
                None => self.drops.malformed += 1,
            },
            Protocol::Other(_) => self.drops.unsupported += 1,
        }
    }

    fn sort_segment(&mut self, ip: &Ip<'_>, tcp: Tcp<'_>) {
        let tuple = tuple(Kind::Tcp, ip, tcp.src_port(), tcp.dst_port());
        if !self.is_sound(ip, &tuple) {
            return;
        }
        let segment = Segment::of(&tcp, ip.payload());
        match self.flows.find_again(&tuple) {
            Some(id) => self.segment_of(id, &segment, ip),
            None => self.segment_of_none(tuple, &segment, ip.bytes()),
        }
    }

    fn sort_datagram(&mut self, ip: &Ip<'_>, udp: Udp<'_>) {
        let tuple = tuple(Kind::Udp, ip, udp.src_port(), udp.dst_port());
        if self.is_sound(ip, &tuple) {
            self.datagram_of(tuple, ip.bytes(), 0, udp.payload());
        }
    }

    fn sort_icmp(&mut self, ip: &Ip<'_>, icmp: Icmp<'_>) {
        let (ident, sequence, payload) = match icmp.message() {
            IcmpMessage::EchoRequest {
                ident,
                sequence,
                payload,
            } => (ident, sequence, payload),
            IcmpMessage::Unreachable { quoted, .. } if self.refuse_quoted(ip, quoted) => return,
            IcmpMessage::Unreachable { .. }
            | IcmpMessage::EchoReply { .. }
            | IcmpMessage::PacketTooBig { .. }
            | IcmpMessage::TimeExceeded { .. }
            | IcmpMessage::ParameterProblem { .. }
            | IcmpMessage::Other { .. } => {
                self.drops.unsupported += 1;
                return;
            }
        };
        let tuple = tuple(Kind::Echo, ip, ident, 0);
        if self.is_sound(ip, &tuple) {
            self.datagram_of(tuple, ip.bytes(), sequence, payload);
        }
    }

    /// The peer of a UDP flow says that nobody takes its datagrams: the flow is over. Whether there is such a flow; TCP has its resets.
    fn refuse_quoted(&mut self, ip: &Ip<'_>, quoted: &[u8]) -> bool {
        let Some(tuple) = quoted_tuple(quoted).filter(|tuple| tuple.peer.ip() == ip.src()) else {
            return false;
        };
        let Some(id) = self.flows.find(&tuple) else {
            return false;
        };
        if self.is_sound(ip, &tuple) {
            self.end(id, Some(Event::UdpRefused { flow: id }));
        }
        true
    }

    /// Whether a packet belongs to a flow that is open or was a short while ago; of fragments nobody knows.
    pub fn knows(&self, ip: &Ip<'_>) -> bool {
        let tcp = || {
            let tcp = ip.tcp()?;
            Some(tuple(Kind::Tcp, ip, tcp.src_port(), tcp.dst_port()))
        };
        let udp = || {
            let udp = ip.udp()?;
            Some(tuple(Kind::Udp, ip, udp.src_port(), udp.dst_port()))
        };
        let quoted = || quoted_tuple(ip.icmp()?.quoted()?);
        tcp().or_else(udp).or_else(quoted).is_some_and(|tuple| {
            self.flows.find(&tuple).is_some() || self.lingering.find(&tuple, self.now).is_some()
        })
    }

    /// Whether the checksums are right and a flow can have these ends; counts what is wrong.
    fn is_sound(&mut self, ip: &Ip<'_>, tuple: &Tuple) -> bool {
        let sound = self.authentic || checksum::verify(ip);
        let addressable = tuple.is_addressable();
        self.drops.malformed += u64::from(!sound);
        self.drops.unaddressable += u64::from(sound && !addressable);
        sound && addressable
    }
}

impl Tuple {
    /// Whether packets can go both ways between these ends: single hosts of one family, ports that are ports.
    pub(super) fn is_addressable(&self) -> bool {
        let ports = match self.kind {
            Kind::Tcp | Kind::Udp => self.peer.port() != 0,
            Kind::Echo => true,
        };
        let hosts = is_host(self.peer.ip()) && is_host(self.own.ip());
        ports && hosts && self.peer.is_ipv4() == self.own.is_ipv4()
    }
}

/// The flow whose datagram an ICMP error quotes: what this stack sent, so that its source is our end.
fn quoted_tuple(quoted: &[u8]) -> Option<Tuple> {
    let sent = Ip::parse_quoted(quoted).ok()?;
    let udp = sent.udp()?;
    Some(Tuple {
        kind: Kind::Udp,
        peer: SocketAddr::new(sent.dst(), udp.dst_port()),
        own: SocketAddr::new(sent.src(), udp.src_port()),
    })
}

fn tuple(kind: Kind, ip: &Ip<'_>, peer_port: u16, own_port: u16) -> Tuple {
    Tuple {
        kind,
        peer: SocketAddr::new(ip.src(), peer_port),
        own: SocketAddr::new(ip.dst(), own_port),
    }
}

fn is_host(address: IpAddr) -> bool {
    let broadcast = match address {
        IpAddr::V4(address) => address.is_broadcast(),
        IpAddr::V6(_) => false,
    };
    !broadcast && !address.is_unspecified() && !address.is_multicast()
}
