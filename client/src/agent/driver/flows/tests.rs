//! A driver's flows against real sockets on loopback at one end, and a stack behind a tunnel at the other.

use std::future::Future;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use kvpn_wire::packet::Protocol;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinHandle;

use super::*;
use crate::agent::driver::handle::Handle;
use crate::agent::driver::tests::current_thread;
use crate::agent::driver::tests::peer::{CLIENT, GATEWAY, Peer};
use crate::agent::now;

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// Longer than any test needs, so that a hang is a failure.
const LIMIT: Duration = Duration::from_secs(60);

fn run(test: impl Future<Output = ()>) {
    current_thread().block_on(async {
        tokio::time::timeout(LIMIT, test).await.expect("it goes on");
    });
}

/// No two pieces of it are equal.
fn bytes(length: usize) -> Vec<u8> {
    let words = (0..length as u64 / 8).map(|word| word.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    words.flat_map(u64::to_le_bytes).collect()
}

/// A listener, and its port exposed.
async fn exposed(handle: &Handle, address: IpAddr) -> (TcpListener, u16) {
    let listener = TcpListener::bind((address, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    handle.expose([(Protocol::Tcp, port)].into()).await;
    (listener, port)
}

/// A port at which nobody listens, on either loopback, and nobody will for as long as the sockets live: those for TCP do not
/// listen, those for UDP hear only themselves.
fn deaf(kind: Type) -> ([Socket; 2], u16) {
    let bound = |address: IpAddr, port: u16| -> io::Result<(Socket, u16)> {
        let address = SocketAddr::from((address, port));
        let socket = Socket::new(Domain::for_address(address), kind, None)?;
        socket.bind(&address.into())?;
        let own = socket.local_addr()?;
        if kind == Type::DGRAM {
            socket.connect(&own)?;
        }
        Ok((socket, own.as_socket().map_or(0, |own| own.port())))
    };
    loop {
        let (v4, port) = bound(V4, 0).unwrap();
        // Somebody may have the same port of the other family.
        if let Ok((v6, _)) = bound(V6, port) {
            return ([v4, v6], port);
        }
    }
}

async fn flows(handle: &Handle) -> usize {
    handle.status().await.unwrap().laptop_flows
}

#[test]
fn a_program_answers_megabytes_with_megabytes_and_ends_half_by_half() {
    run(async {
        let (handle, mut peer) = Peer::start().await;
        let (listener, port) = exposed(&handle, V4).await;
        let program = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut received = Vec::new();
            stream.read_to_end(&mut received).await.unwrap();
            // The peer's end came, and this one is still open.
            stream.write_all(&received).await.unwrap();
        });
        let sent = bytes(10 << 20);
        let flow = peer.connected(port).await;
        assert_eq!(flows(&handle).await, 1);
        assert!(peer.exchange(flow, &sent).await == sent);
        assert_eq!(peer.last_event(flow).await, Event::TcpClosed { flow });
        program.await.unwrap();
        while flows(&handle).await > 0 {
            peer.step().await;
        }
    });
}

#[test]
fn a_program_that_does_not_read_holds_the_peer_back() {
    run(async {
        let (handle, mut peer) = Peer::start().await;
        let (listener, port) = exposed(&handle, V4).await;
        let flow = peer.connected(port).await;
        let (mut stream, _) = listener.accept().await.unwrap();
        let sent = bytes(48 << 20);
        let mut taken = 0;
        // Until its buffer, the tunnel's and the socket's are full.
        loop {
            let more = peer.stack.tcp_send(flow, &sent[taken..], now());
            taken += more;
            let quiet = Duration::from_secs(1);
            if more == 0 && tokio::time::timeout(quiet, peer.event(flow)).await.is_err() {
                break;
            }
        }
        assert!(taken < 32 << 20, "{taken}");
        peer.stack.tcp_finish(flow, now());
        let mut received = Vec::new();
        peer.during(stream.read_to_end(&mut received))
            .await
            .unwrap();
        assert!(received == sent[..taken]);
    });
}

#[test]
fn where_nobody_listens_connections_are_refused() {
    run(async {
        let (handle, mut peer) = Peer::start().await;
        let (_deaf, port) = deaf(Type::STREAM);
        handle.expose([(Protocol::Tcp, port)].into()).await;
        let flow = peer.connect(port);
        assert_eq!(peer.event(flow).await, Event::TcpReset { flow });
        assert_eq!(flows(&handle).await, 0);
    });
}

#[test]
fn a_program_may_listen_at_the_ipv6_loopback_only() {
    run(async {
        let (handle, mut peer) = Peer::start().await;
        let (listener, port) = exposed(&handle, V6).await;
        let flow = peer.connected(port).await;
        let (mut stream, _) = listener.accept().await.unwrap();
        let program = tokio::spawn(async move {
            let mut request = [0; 5];
            stream.read_exact(&mut request).await.unwrap();
            stream.write_all(&request).await.unwrap();
        });
        assert_eq!(peer.exchange(flow, b"hello").await, b"hello");
        program.await.unwrap();
    });
}

#[test]
#[cfg_attr(windows, ignore = "wine sends no resets")]
fn a_reset_of_the_peers_reaches_the_program() {
    run(async {
        let (handle, mut peer) = Peer::start().await;
        let (listener, port) = exposed(&handle, V4).await;
        let flow = peer.connected(port).await;
        let (mut stream, _) = listener.accept().await.unwrap();
        peer.stack.tcp_abort(flow, now());
        let read = peer.during(stream.read_u8()).await;
        assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
#[cfg_attr(windows, ignore = "wine sends no resets")]
fn a_reset_of_the_programs_reaches_the_peer() {
    run(async {
        let (handle, mut peer) = Peer::start().await;
        let (listener, port) = exposed(&handle, V4).await;
        let flow = peer.connected(port).await;
        let (stream, _) = listener.accept().await.unwrap();
        socket2::SockRef::from(&stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(stream);
        assert_eq!(peer.event(flow).await, Event::TcpReset { flow });
    });
}

#[test]
fn a_dialled_connection_carries_both_ways_and_ends_half_by_half() {
    run(async {
        let (handle, mut peer) = Peer::start().await;
        let to = SocketAddr::new(GATEWAY, 6180);
        let sent = bytes(1 << 20);
        let expected = sent.clone();
        let dialler = tokio::spawn({
            let handle = handle.clone();
            async move {
                let mut stream = handle.dial(to).await.unwrap();
                let mut received = Vec::new();
                stream.read_to_end(&mut received).await.unwrap();
                stream.write_all(&received).await.unwrap();
            }
        });
        let flow = peer.opening().await;
        peer.stack.tcp_accept(flow, now());
        assert_eq!(peer.event(flow).await, Event::TcpConnected { flow });
        assert!(peer.exchange(flow, &sent).await == expected);
        dialler.await.unwrap();
        assert_eq!(flows(&handle).await, 0, "it is not the gateway's");
    });
}

/// Somebody who wants a connection to the gateway's control API.
fn dials(handle: &Handle) -> JoinHandle<io::Result<Pipe>> {
    let handle = handle.clone();
    tokio::spawn(async move { handle.dial(SocketAddr::new(GATEWAY, 6180)).await })
}

#[test]
fn a_dialled_connection_that_is_refused_is_refused() {
    run(async {
        let (handle, mut peer) = Peer::start().await;
        let dialler = dials(&handle);
        let flow = peer.opening().await;
        peer.stack.tcp_refuse(flow, Refusal::Reset, now());
        let refused = peer.during(dialler).await.unwrap();
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
        let unaddressable = handle.dial("[fd00::1]:80".parse().unwrap()).await;
        assert_eq!(
            unaddressable.unwrap_err().kind(),
            ErrorKind::AddrNotAvailable
        );
    });
}

#[test]
fn who_gives_up_dialling_leaves_nothing_behind() {
    run(async {
        let (handle, mut peer) = Peer::start().await;
        let dialler = dials(&handle);
        let flow = peer.opening().await;
        dialler.abort();
        assert!(dialler.await.unwrap_err().is_cancelled());
        peer.stack.tcp_accept(flow, now());
        assert_eq!(peer.last_event(flow).await, Event::TcpReset { flow });
    });
}

#[test]
#[cfg_attr(windows, ignore = "wine wakes nobody for ICMP errors")]
fn datagrams_go_to_the_program_and_back() {
    run(async {
        for address in [V4, V6] {
            let (handle, mut peer) = Peer::start().await;
            let program = UdpSocket::bind((address, 0)).await.unwrap();
            let port = program.local_addr().unwrap().port();
            handle.expose([(Protocol::Udp, port)].into()).await;
            let (src, dst) = (SocketAddr::new(GATEWAY, 0), SocketAddr::new(CLIENT, port));
            let flow = peer.stack.udp_open(src, dst, now()).unwrap();
            let mut buffer = [0; 2048];
            for message in [&b"one"[..], b"two", &[7; 1200]] {
                peer.stack.udp_send(flow, message, now());
                let (n, from) = peer.during(program.recv_from(&mut buffer)).await.unwrap();
                assert_eq!(&buffer[..n], message);
                program.send_to(message, from).await.unwrap();
                assert_eq!(peer.event(flow).await, Event::UdpDatagram { flow });
                let n = peer.stack.udp_recv(flow, &mut buffer);
                assert_eq!(n.map(|n| &buffer[..n]), Some(message));
            }
            assert_eq!(flows(&handle).await, 1);
        }
    });
}

#[test]
fn dialled_datagrams_go_both_ways() {
    run(async {
        let (handle, mut peer) = Peer::start().await;
        let socket = handle.dial_udp(SocketAddr::new(GATEWAY, 7)).await.unwrap();
        socket.send(b"hello").await.unwrap();
        let flow = peer.opening().await;
        assert_eq!(peer.event(flow).await, Event::UdpDatagram { flow });
        let mut buffer = [0; 16];
        let n = peer.stack.udp_recv(flow, &mut buffer);
        assert_eq!(n.map(|n| &buffer[..n]), Some(&b"hello"[..]));
        peer.stack.udp_send(flow, b"world", now());
        let n = peer.during(socket.recv(&mut buffer)).await.unwrap();
        assert_eq!(&buffer[..n], b"world");
        assert_eq!(flows(&handle).await, 0, "it is not the gateway's");
    });
}

#[test]
#[cfg_attr(windows, ignore = "wine wakes nobody for ICMP errors")]
fn where_nobody_listens_datagrams_end_their_flow() {
    run(async {
        let (handle, mut peer) = Peer::start().await;
        let (_deaf, port) = deaf(Type::DGRAM);
        handle.expose([(Protocol::Udp, port)].into()).await;
        let (src, dst) = (SocketAddr::new(GATEWAY, 0), SocketAddr::new(CLIENT, port));
        let flow = peer.stack.udp_open(src, dst, now()).unwrap();
        peer.stack.udp_send(flow, b"anybody?", now());
        while peer.unreachable == 0 {
            peer.step().await;
        }
        assert_eq!(flows(&handle).await, 0);
    });
}
