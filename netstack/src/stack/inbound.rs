//! Sorts packets that come in: which flow they belong to, which are none. It decides nothing about policy.

use std::net::{IpAddr, SocketAddr};

use kvpn_wire::packet::{Icmp, IcmpMessage, Ip, Protocol, Tcp, Udp, checksum};

use super::Netstack;
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
        let IcmpMessage::EchoRequest {
            ident,
            sequence,
            payload,
        } = icmp.message()
        else {
            self.drops.unsupported += 1;
            return;
        };
        let tuple = tuple(Kind::Echo, ip, ident, 0);
        if self.is_sound(ip, &tuple) {
            self.datagram_of(tuple, ip.bytes(), sequence, payload);
        }
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
