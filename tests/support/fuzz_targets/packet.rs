//! IP packets and what is in them, DNS headers, carrier frames.

use std::net::IpAddr;

use kvpn_wire::frame::{self, Control, Deframer, Frame};
use kvpn_wire::packet::build::{self, Unreachable};
use kvpn_wire::packet::{DnsHeader, FiveTuple, Fragments, Ip, Version, checksum, clamp_mss};

/// Any bytes as an IP packet: every view, every answer to it.
pub(super) fn packet(data: &[u8]) {
    if let Ok(ip) = Ip::parse_quoted(data) {
        views(&ip);
    }
    let Ok(ip) = Ip::parse(data) else {
        return;
    };
    assert_eq!(ip.bytes().len(), ip.total_len());
    assert_eq!(ip.header_len() + ip.payload().len(), ip.total_len());
    views(&ip);
    answers(&ip);
    clamp(ip.bytes(), checksum::verify(&ip));
    fragments(&ip);
}

fn views(ip: &Ip<'_>) {
    let _ = (
        ip.fragment(),
        ip.hop_limit(),
        ip.is_source_routed(),
        checksum::verify(ip),
    );
    if let Some(flow) = FiveTuple::of(ip) {
        assert_eq!((flow.src.ip(), flow.dst.ip()), (ip.src(), ip.dst()));
        assert_eq!(flow.reversed().reversed(), flow);
    }
    let _ = FiveTuple::quoted_by(ip);
    if let Some(tcp) = ip.tcp() {
        assert_eq!(tcp.header_len() + tcp.payload().len(), ip.payload().len());
        let _ = (
            tcp.mss(),
            tcp.sequence_len(),
            tcp.is_opening(),
            tcp.window(),
        );
    }
    if let Some(udp) = ip.udp() {
        assert!(udp.payload().len() + 8 <= ip.payload().len());
    }
    if let Some(icmp) = ip.icmp() {
        let _ = (icmp.message(), icmp.is_error());
    }
}

/// Whatever is answered must itself be a good packet, back to the sender.
fn answers(ip: &Ip<'_>) {
    let gateway = match ip.version() {
        Version::V4 => IpAddr::from([10, 0, 0, 1]),
        Version::V6 => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1]),
    };
    let mut out = [0; 2048];
    for reason in [
        Unreachable::Net,
        Unreachable::Host,
        Unreachable::Port,
        Unreachable::Prohibited,
    ] {
        let n = build::icmp_unreachable(reason, gateway, ip.bytes(), &mut out);
        good_answer(ip, n, &out);
    }
    let n = build::icmp_packet_too_big(1360, gateway, ip.bytes(), &mut out);
    good_answer(ip, n, &out);
    let n = build::tcp_reset(ip.bytes(), &mut out);
    good_answer(ip, n, &out);
}

/// What is cut has the packet's end in it, in order, in pieces that are short enough and share its header.
fn fragments(ip: &Ip<'_>) {
    let limit = 128 + ip.bytes().len() / 3;
    let Some(mut fragments) = Fragments::new(ip.bytes(), limit, 7) else {
        return;
    };
    let head = match ip.version() {
        Version::V4 => ip.header_len(),
        Version::V6 => 48,
    };
    let (mut out, mut joined) = (vec![0; limit], Vec::new());
    while let Some(n) = fragments.next(&mut out) {
        assert!(Ip::parse_quoted(&out[..n]).is_ok_and(|piece| piece.total_len() == n));
        joined.extend_from_slice(&out[head..n]);
    }
    assert!(ip.bytes().ends_with(&joined));
}

fn good_answer(ip: &Ip<'_>, n: Option<usize>, out: &[u8]) {
    let Some(n) = n else {
        return;
    };
    let answer = Ip::parse(&out[..n]).expect("an answer is a packet");
    assert!(checksum::verify(&answer));
    assert_eq!(answer.dst(), ip.src());
}

fn clamp(packet: &[u8], sound: bool) {
    let mut packet = packet.to_vec();
    if clamp_mss(&mut packet, 1300) {
        let ip = Ip::parse(&packet).expect("still a packet");
        assert_eq!(ip.tcp().and_then(|tcp| tcp.mss()), Some(1300));
        assert!(!sound || checksum::verify(&ip));
        assert!(!clamp_mss(&mut packet, 1300));
    }
}

/// Any bytes as a DNS message's header.
pub(super) fn dns_header(data: &[u8]) {
    let Ok(header) = DnsHeader::parse(data) else {
        assert!(data.len() < 12);
        return;
    };
    assert_eq!(header.is_response(), header.flags() & 0x8000 != 0);
    assert_eq!(u16::from(header.response_code()), header.flags() & 0xf);
    assert!(header.opcode() < 16);
    let _ = (
        header.id(),
        header.is_truncated(),
        header.is_authoritative(),
    );
    let _ = (header.recursion_desired(), header.recursion_available());
    let _ = (
        header.questions(),
        header.answers(),
        header.authorities(),
        header.additionals(),
    );
}

/// Any bytes as a carrier's stream: however it is cut, the same datagrams come out.
pub(super) fn frame(data: &[u8]) {
    let Some((&cut, stream)) = data.split_first() else {
        return;
    };
    let whole = frames(stream, stream.len().max(1));
    let pieces = frames(stream, usize::from(cut).max(1));
    assert_eq!(whole, pieces);
    let mut again = Vec::new();
    for found in &whole.0 {
        match found {
            Found::Datagram(datagram) => assert!(frame::encode(datagram, &mut again)),
            Found::Control(control) => control.encode(&mut again),
        }
    }
    // What was understood reads the same when it is written again; unknown control frames are left out.
    assert_eq!(frames(&again, again.len().max(1)), (whole.0, false));
}

/// A frame with bytes of its own.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Datagram(Vec<u8>),
    Control(Control),
}

/// The frames of a stream that comes in pieces of `cut` bytes, and whether it broke.
fn frames(stream: &[u8], cut: usize) -> (Vec<Found>, bool) {
    let mut deframer = Deframer::new();
    let mut found = Vec::new();
    for chunk in stream.chunks(cut) {
        let fed = deframer.feed(chunk, |frame| {
            found.push(match frame {
                Frame::Datagram(datagram) => Found::Datagram(datagram.to_vec()),
                Frame::Control(control) => Found::Control(control),
            });
        });
        if fed.is_err() {
            return (found, true);
        }
    }
    (found, false)
}
