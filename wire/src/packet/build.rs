//! The few packets that kvpn writes itself: UDP, ICMP, and TCP segments without a connection.
//!
//! Every builder writes into the caller's buffer and returns the length, or `None` when the buffer is too short, the
//! addresses are of two families, the payload is too long for the length fields, or no packet is due. IPv4 packets are
//! written with "don't fragment" and identification 0 (RFC 6864, section 4.1); hop limit 64.

use std::net::{IpAddr, SocketAddr};

use super::checksum::{self, Sum};
use super::{Icmp, Ip, Protocol, Tcp, TcpFlags, Version, icmp, ipv4, ipv6, udp};

const HOP_LIMIT: u8 = 64;
const TCP_HEADER: usize = 20;

/// The longest ICMP error for IPv4 (RFC 1812, section 4.3.2.3).
const MAX_ERROR_V4: usize = 576;

/// The longest ICMP error for IPv6 (RFC 4443, section 3.1).
const MAX_ERROR_V6: usize = 1280;

/// Why a destination was not reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unreachable {
    /// No route: IPv4 3/0, IPv6 1/0.
    Net,
    /// The host does not answer: IPv4 3/1, IPv6 1/3.
    Host,
    /// Nothing listens on the port: IPv4 3/3, IPv6 1/4.
    Port,
    /// The policy forbids it: IPv4 3/13, IPv6 1/1.
    Prohibited,
}

impl Unreachable {
    fn code(self, version: Version) -> u8 {
        match (self, version) {
            (Self::Net, Version::V4 | Version::V6) => 0,
            (Self::Host, Version::V4) => 1,
            (Self::Port, Version::V4) => 3,
            (Self::Prohibited, Version::V4) => 13,
            (Self::Prohibited, Version::V6) => 1,
            (Self::Host, Version::V6) => 3,
            (Self::Port, Version::V6) => 4,
        }
    }
}

/// The fields of a TCP segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment<'a> {
    /// The sequence number of the first byte.
    pub sequence: u32,
    /// The next byte expected.
    pub acknowledgement: u32,
    /// The control bits.
    pub flags: TcpFlags,
    /// The window, unscaled.
    pub window: u16,
    /// Options, a multiple of four bytes, at most 40.
    pub options: &'a [u8],
    /// The data.
    pub payload: &'a [u8],
}

/// A UDP datagram.
pub fn udp(src: SocketAddr, dst: SocketAddr, payload: &[u8], out: &mut [u8]) -> Option<usize> {
    let len = udp::HEADER + payload.len();
    let (total, body) = ip_header(src.ip(), dst.ip(), Protocol::Udp, len, out)?;
    body[0..2].copy_from_slice(&src.port().to_be_bytes());
    body[2..4].copy_from_slice(&dst.port().to_be_bytes());
    body[4..6].copy_from_slice(&u16::try_from(len).ok()?.to_be_bytes());
    body[6..8].fill(0);
    body[8..].copy_from_slice(payload);
    let sum = transport_sum(src.ip(), dst.ip(), Protocol::Udp, body);
    // Zero means "no checksum" (RFC 768), so a sum of zero is written as its other form.
    body[6..8].copy_from_slice(&if sum == 0 { 0xffff } else { sum }.to_be_bytes());
    Some(total)
}

/// A TCP segment.
pub fn tcp(
    src: SocketAddr,
    dst: SocketAddr,
    segment: &Segment<'_>,
    out: &mut [u8],
) -> Option<usize> {
    let header = TCP_HEADER + segment.options.len();
    if !header.is_multiple_of(4) || header > 60 {
        return None;
    }
    let len = header + segment.payload.len();
    let (total, body) = ip_header(src.ip(), dst.ip(), Protocol::Tcp, len, out)?;
    body[0..2].copy_from_slice(&src.port().to_be_bytes());
    body[2..4].copy_from_slice(&dst.port().to_be_bytes());
    body[4..8].copy_from_slice(&segment.sequence.to_be_bytes());
    body[8..12].copy_from_slice(&segment.acknowledgement.to_be_bytes());
    body[12] = u8::try_from(header / 4).ok()? << 4;
    body[13] = segment.flags.0;
    body[14..16].copy_from_slice(&segment.window.to_be_bytes());
    body[16..20].fill(0);
    body[TCP_HEADER..header].copy_from_slice(segment.options);
    body[header..].copy_from_slice(segment.payload);
    let sum = transport_sum(src.ip(), dst.ip(), Protocol::Tcp, body);
    body[16..18].copy_from_slice(&sum.to_be_bytes());
    Some(total)
}

/// The RST that answers the segment in `original` (RFC 9293, section 3.5.2), as if its receiver sent it.
///
/// `None` when `original` is no TCP segment or is itself a RST.
pub fn tcp_reset(original: &[u8], out: &mut [u8]) -> Option<usize> {
    let ip = Ip::parse(original).ok()?;
    let tcp = ip.tcp()?;
    if tcp.flags().contains(TcpFlags::RST) {
        return None;
    }
    let src = SocketAddr::new(ip.dst(), tcp.dst_port());
    let dst = SocketAddr::new(ip.src(), tcp.src_port());
    self::tcp(src, dst, &reset_for(&tcp), out)
}

fn reset_for(tcp: &Tcp<'_>) -> Segment<'static> {
    if tcp.flags().contains(TcpFlags::ACK) {
        return Segment {
            sequence: tcp.acknowledgement(),
            flags: TcpFlags::RST,
            ..Segment::default()
        };
    }
    Segment {
        acknowledgement: tcp.sequence().wrapping_add(tcp.sequence_len()),
        flags: TcpFlags::RST.with(TcpFlags::ACK),
        ..Segment::default()
    }
}

/// An ICMP echo request.
pub fn icmp_echo_request(
    src: IpAddr,
    dst: IpAddr,
    ident: u16,
    sequence: u16,
    payload: &[u8],
    out: &mut [u8],
) -> Option<usize> {
    let kind = if src.is_ipv4() { 8 } else { 128 };
    icmp(
        src,
        dst,
        [kind, 0],
        echo_word(ident, sequence),
        payload,
        out,
    )
}

/// An ICMP echo reply.
pub fn icmp_echo_reply(
    src: IpAddr,
    dst: IpAddr,
    ident: u16,
    sequence: u16,
    payload: &[u8],
    out: &mut [u8],
) -> Option<usize> {
    let kind = if src.is_ipv4() { 0 } else { 129 };
    icmp(
        src,
        dst,
        [kind, 0],
        echo_word(ident, sequence),
        payload,
        out,
    )
}

/// "Destination unreachable", sent by `gateway` to the sender of `original`, which it quotes. The head of `original` is enough.
///
/// `None` also when RFC 1122 (3.2.2) and RFC 4443 (2.4) forbid an answer: to ICMP errors, later fragments, and packets from or to no
/// single host.
pub fn icmp_unreachable(
    reason: Unreachable,
    gateway: IpAddr,
    original: &[u8],
    out: &mut [u8],
) -> Option<usize> {
    let ip = answerable(original)?;
    let kind = match ip.version() {
        Version::V4 => 3,
        Version::V6 => 1,
    };
    icmp(
        gateway,
        ip.src(),
        [kind, reason.code(ip.version())],
        [0; 4],
        quote(&ip),
        out,
    )
}

/// "Packet too big" (IPv4: "fragmentation needed"), sent by `gateway` to the sender of `original`; `mtu` in bytes.
///
/// `None` as in [`icmp_unreachable`].
pub fn icmp_packet_too_big(
    mtu: u16,
    gateway: IpAddr,
    original: &[u8],
    out: &mut [u8],
) -> Option<usize> {
    let ip = answerable(original)?;
    let kind = match ip.version() {
        Version::V4 => [3, 4],
        Version::V6 => [2, 0],
    };
    let [high, low] = mtu.to_be_bytes();
    icmp(gateway, ip.src(), kind, [0, 0, high, low], quote(&ip), out)
}

fn answerable(original: &[u8]) -> Option<Ip<'_>> {
    let ip = Ip::parse_quoted(original).ok()?;
    let single = |address: IpAddr| {
        !address.is_unspecified() && !address.is_multicast() && !is_broadcast(address)
    };
    let error = ip.icmp().is_some_and(|icmp: Icmp<'_>| icmp.is_error());
    (ip.has_transport_header() && !error && single(ip.src()) && single(ip.dst())).then_some(ip)
}

fn is_broadcast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_broadcast(),
        IpAddr::V6(_) => false,
    }
}

/// As much of a packet as an error about it may carry.
fn quote<'a>(ip: &Ip<'a>) -> &'a [u8] {
    let room = match ip.version() {
        Version::V4 => MAX_ERROR_V4 - ipv4::MIN_HEADER - icmp::HEADER,
        Version::V6 => MAX_ERROR_V6 - ipv6::HEADER - icmp::HEADER,
    };
    &ip.bytes()[..ip.bytes().len().min(room)]
}

fn echo_word(ident: u16, sequence: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (ident.to_be_bytes(), sequence.to_be_bytes());
    [a, b, c, d]
}

fn icmp(
    src: IpAddr,
    dst: IpAddr,
    [kind, code]: [u8; 2],
    word: [u8; 4],
    payload: &[u8],
    out: &mut [u8],
) -> Option<usize> {
    let protocol = if src.is_ipv4() {
        Protocol::Icmpv4
    } else {
        Protocol::Icmpv6
    };
    let (total, body) = ip_header(src, dst, protocol, icmp::HEADER + payload.len(), out)?;
    body[..4].copy_from_slice(&[kind, code, 0, 0]);
    body[4..8].copy_from_slice(&word);
    body[8..].copy_from_slice(payload);
    let sum = match protocol {
        Protocol::Icmpv4 => checksum::of(body),
        Protocol::Icmpv6 | Protocol::Tcp | Protocol::Udp | Protocol::Other(_) => {
            transport_sum(src, dst, protocol, body)
        }
    };
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    Some(total)
}

fn transport_sum(src: IpAddr, dst: IpAddr, protocol: Protocol, body: &[u8]) -> u16 {
    Sum::default()
        .pseudo_header(src, dst, protocol, body.len())
        .bytes(body)
        .finish()
}

/// Writes the IP header for `len` bytes of payload; gives the whole length and the payload's place.
fn ip_header(
    src: IpAddr,
    dst: IpAddr,
    protocol: Protocol,
    len: usize,
    out: &mut [u8],
) -> Option<(usize, &mut [u8])> {
    let (header, length_field) = match src {
        IpAddr::V4(_) => (ipv4::MIN_HEADER, ipv4::MIN_HEADER + len),
        IpAddr::V6(_) => (ipv6::HEADER, len),
    };
    let length_field = u16::try_from(length_field).ok()?.to_be_bytes();
    let (head, body) = out.get_mut(..header + len)?.split_at_mut(header);
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            head.copy_from_slice(&[0; ipv4::MIN_HEADER]);
            head[0] = 0x45;
            head[2..4].copy_from_slice(&length_field);
            head[6] = 0x40;
            head[8] = HOP_LIMIT;
            head[9] = protocol.number();
            head[12..16].copy_from_slice(&src.octets());
            head[16..20].copy_from_slice(&dst.octets());
            let sum = checksum::of(head);
            head[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            head.copy_from_slice(&[0; ipv6::HEADER]);
            head[0] = 0x60;
            head[4..6].copy_from_slice(&length_field);
            head[6] = protocol.number();
            head[7] = HOP_LIMIT;
            head[8..24].copy_from_slice(&src.octets());
            head[24..40].copy_from_slice(&dst.octets());
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
    }
    Some((header + len, body))
}
