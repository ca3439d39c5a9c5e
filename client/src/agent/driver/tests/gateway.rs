//! The driver with a real TUN against a real gateway with the kernel's datapath: everything between two kernels is
//! ours. Needs root, /dev/net/tun and `ip`.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use clap::Parser as _;
use futures::executor::block_on;
use kvpn_gateway::Gateway;
use kvpn_gateway::cli::Options;
use kvpn_io::tun::TunOffload;
use kvpn_io::udp::UdpOffload;
use kvpn_wire::control::{CreateSession, Datapath, SESSIONS_PATH, VERSION};

use super::net::{Net, POD, SERVER, has_needs, inside, ip};
use super::*;
use crate::os::Tun as _;
use crate::os::platform::SystemTun;

const PORT: u16 = 5001;
const INTERFACE: &str = "kvpn0";
/// Bytes of a long transfer, of a short one, and what they are compared by.
const LONG: usize = 200 << 20;
const SHORT: usize = 20 << 20;
const BLOCK: usize = 64 << 10;

/// Two drivers and what ends them.
struct Tunnel {
    net: Net,
    handle: Handle,
    grant: SessionGrant,
    stop: Option<oneshot::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

/// A gateway in the pod; where its control API and its `udp` carrier are.
fn start_gateway(
    offload: bool,
    stop: oneshot::Receiver<()>,
    started_tx: Sender<(SocketAddr, SocketAddr)>,
) {
    let ports = [
        "--udp-port=0",
        "--carrier-port=0",
        "--health-port=0",
        "--control-port=0",
    ];
    let offload = if offload { "auto" } else { "off" };
    let choices = ["kvpn-gateway", "--datapath=kernel", "--offload", offload];
    let options = Options::parse_from(choices.iter().chain(&ports));
    current_thread().block_on(async {
        let settings = kvpn_gateway::Settings::new(&options).unwrap();
        let gateway = Gateway::start(settings).await.unwrap();
        started_tx.send((gateway.control, gateway.udp)).unwrap();
        gateway.serve(async { drop(stop.await) }).await.unwrap();
    });
}

/// `POST /v1/sessions`, as through a port-forward.
fn open_session(control: SocketAddr, key: &PrivateKey) -> SessionGrant {
    let request = CreateSession {
        version: VERSION,
        client_version: "test".into(),
        public_key: key.public(),
        avoid: Vec::new(),
        prefer: Vec::new(),
        session_name: "test".into(),
        super_packets: true,
    };
    let body = serde_json::to_string(&request).unwrap();
    let mut stream = TcpStream::connect(control).unwrap();
    write!(
        stream,
        "POST {SESSIONS_PATH} HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap()
}

/// The client's driver in the laptop, with a TUN that routes to the server.
fn drive(config: Config, offload: bool, namespace: &str, started_tx: &Sender<Handle>) {
    let client = config.grant.addresses[0].client;
    let tun = SystemTun::create(INTERFACE, offload).unwrap();
    for command in [
        format!("link set {INTERFACE} up mtu {}", config.grant.mtu),
        format!("addr add {client}/32 dev {INTERFACE}"),
        format!("route add {SERVER}/32 dev {INTERFACE}"),
    ] {
        ip(&format!("-n {namespace} {command}"));
    }
    let runtime = current_thread();
    runtime.block_on(async {
        let (outlets, mut news) = outlets();
        let state = ClientState::new(config, now());
        let (driver, handle) = Driver::new(state, UdpCarrier::open(offload), outlets);
        let offload = tun.offload();
        handle.tell(Command::Tun(tun.into_handle(), offload)).await;
        let driving = tokio::spawn(tokio::task::unconstrained(driver.run()));
        assert!(matches!(
            news.occurrence_rx.recv().await,
            Some(Occurrence::Established(Path::Udp(_)))
        ));
        started_tx.send(handle).unwrap();
        driving.await.unwrap();
    });
}

impl Tunnel {
    fn start(name: &str, laptop_offloads: bool, gateway_offloads: bool) -> Self {
        let net = Net::new(name);
        let (gateway_stop, stop) = oneshot::channel();
        let (started_tx, started) = channel();
        let gateway = inside(&net.pod, move || {
            start_gateway(gateway_offloads, stop, started_tx);
        });
        let (control, udp) = started.recv().unwrap();
        let private_key = PrivateKey::from_seed([9; 32]);
        let key = private_key.clone();
        let granted = inside(&net.pod, move || open_session(control, &key));
        let grant = granted.join().unwrap();
        let config = config(
            private_key,
            grant.clone(),
            SocketAddr::new(POD.into(), udp.port()),
        );
        let namespace = net.laptop.name().to_owned();
        let (started_tx, started) = channel();
        let laptop = inside(&net.laptop, move || {
            drive(config, laptop_offloads, &namespace, &started_tx);
        });
        let handle = started.recv().unwrap();
        Self {
            net,
            handle,
            grant,
            stop: Some(gateway_stop),
            threads: vec![laptop, gateway],
        }
    }

    /// A transfer each way of `length` bytes, of which every one counts.
    fn transfers_whole(&self, length: usize) {
        let (bound_tx, bound) = channel();
        let server = inside(&self.net.server, move || serve(length, &bound_tx));
        bound.recv().unwrap();
        let laptop = inside(&self.net.laptop, move || {
            let mut stream = TcpStream::connect((SERVER, PORT)).unwrap();
            send(&mut stream, length);
            receive(&mut stream, length);
        });
        laptop.join().unwrap();
        server.join().unwrap();
    }

    fn reading(&self) -> Reading {
        block_on(self.handle.status()).unwrap()
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        block_on(self.handle.tell(Command::Stop));
        drop(self.stop.take());
        for thread in self.threads.drain(..) {
            let outcome = thread.join();
            if !std::thread::panicking() {
                outcome.unwrap();
            }
        }
    }
}

/// The server: takes a transfer, then makes one.
fn serve(length: usize, bound_tx: &Sender<()>) {
    let listener = TcpListener::bind((SERVER, PORT)).unwrap();
    bound_tx.send(()).unwrap();
    let (mut stream, from) = listener.accept().unwrap();
    assert_eq!(from.ip().to_string(), "10.244.1.7", "masqueraded");
    receive(&mut stream, length);
    send(&mut stream, length);
}

/// No two blocks of a transfer are equal.
fn block(number: usize, block: &mut [u8]) {
    for (word, bytes) in block.chunks_exact_mut(8).enumerate() {
        let value = (number as u64) << 32 | word as u64;
        bytes.copy_from_slice(&value.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    }
}

fn send(stream: &mut TcpStream, length: usize) {
    let mut bytes = vec![0; BLOCK];
    for number in 0..length / BLOCK {
        block(number, &mut bytes);
        stream.write_all(&bytes).unwrap();
    }
}

fn receive(stream: &mut TcpStream, length: usize) {
    let (mut bytes, mut expected) = (vec![0; BLOCK], vec![0; BLOCK]);
    for number in 0..length / BLOCK {
        stream.read_exact(&mut bytes).unwrap();
        block(number, &mut expected);
        assert!(bytes == expected, "block {number}");
    }
}

#[test]
fn transfers_arrive_whole_with_offload() {
    if !has_needs() {
        return;
    }
    let tunnel = Tunnel::start("both", true, true);
    assert_eq!(tunnel.grant.datapath, Datapath::Kernel);
    tunnel.transfers_whole(LONG);
    let Reading {
        status, tun, udp, ..
    } = tunnel.reading();
    assert_eq!(
        udp,
        Some(UdpOffload {
            gso: true,
            gro: true
        })
    );
    assert!(tun > Some(TunOffload::Plain));
    let told = tunnel.grant.offload.as_deref();
    assert!(
        told.is_some_and(|told| told.starts_with("TUN TSO")),
        "{told:?}"
    );
    assert!(status.received_bytes > LONG as u64, "{status:?}");
}

#[test]
fn transfers_arrive_whole_without_offload_at_either_end() {
    if !has_needs() {
        return;
    }
    for (name, laptop, gateway) in [
        ("gw", false, true),
        ("lap", true, false),
        ("none", false, false),
    ] {
        let tunnel = Tunnel::start(name, laptop, gateway);
        tunnel.transfers_whole(SHORT);
        let Reading { tun, udp, .. } = tunnel.reading();
        assert_eq!(tun > Some(TunOffload::Plain), laptop);
        assert_eq!(udp.is_some_and(|udp| udp.gso), laptop);
        let told = tunnel.grant.offload.as_deref();
        let none = told.is_some_and(|told| told.starts_with("TUN none, UDP none"));
        assert_eq!(none, !gateway, "{told:?}");
    }
}
