//! The keeper beside a driver that says what the test wants, and an API server that shows a gateway but forwards nothing.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use kvpn_client_core::{Names, Netmap, Path, PathState, PathStatus, Status};
use kvpn_wire::control::SessionGrant;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;
use crate::agent::driver::{self, Reading};
use crate::agent::message::Start;
use crate::agent::names;
use crate::agent::network::Wish;
use crate::agent::report::State;

/// What a test waits for at most.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a storm is looked for.
const OBSERVED: Duration = Duration::from_secs(2);
/// Attempts in that time are made at once, then after 0.2, 0.4 and 0.8 s; each forwards twice.
const MOST_FORWARDS: usize = 10;

struct Rig {
    board: Arc<Board>,
    occurrence_tx: mpsc::Sender<Occurrence>,
    changed: Arc<Notify>,
    /// Whether the driver says that the gateway answers.
    works: Arc<AtomicBool>,
    /// Port-forwards that were asked for.
    forwards: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<()>>,
    _home: tempfile::TempDir,
}

impl Rig {
    async fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let start = start(home.path(), &server);
        let cluster = Cluster::load(&start.access.kube.options(false)).unwrap();
        let board = Arc::new(board(&server));
        board.connected(now());
        let (forwards, works) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let (command_tx, command_rx) = mpsc::channel(64);
        let (driver::Outlets { occurrence_tx, .. }, news) = driver::outlets();
        let changed = Arc::new(Notify::new());
        let names = Names {
            namespace: "default".to_owned(),
            domain: "cluster.local".to_owned(),
            namespaces: vec!["default".to_owned()],
            own_domain: None,
            reverse: Vec::new(),
        };
        let wish = Wish {
            addresses: Vec::new(),
            routes: Vec::new(),
            netmap: Netmap::default(),
            outside: Vec::new(),
            dns: names::dns_config(Vec::new(), &names),
        };
        let keys = keys();
        let keeper = Keeper {
            gateway: cluster_gateway(),
            cluster,
            access: Arc::new(start.access.clone()),
            board: Arc::clone(&board),
            peer_tx: watch::Sender::new(Peer::new(&cluster_gateway(), &keys.grant)),
            keys,
            driver: Handle::new(command_tx),
            occurrence_rx: news.occurrence_rx,
            udp_candidates: Vec::new(),
            changed: Arc::clone(&changed),
            keeps_key: false,
            routing: Some(Routing {
                start: Arc::new(start),
                wish_tx: watch::Sender::new(wish),
                names,
                survey: Survey::default(),
                notes: Vec::new(),
                ranges: Arc::default(),
                resolvers: Vec::new(),
                upstream_rx: watch::Sender::new(Vec::new()).subscribe(),
            }),
        };
        let tasks = vec![
            tokio::spawn(serve(listener, Arc::clone(&forwards))),
            tokio::spawn(drive(command_rx, Arc::clone(&works))),
            tokio::spawn(keeper.keep()),
        ];
        Self {
            board,
            occurrence_tx,
            changed,
            works,
            forwards,
            tasks,
            _home: home,
        }
    }

    async fn tell(&self, occurrence: Occurrence) {
        self.occurrence_tx.send(occurrence).await.unwrap();
    }

    fn state(&self) -> State {
        self.board.report(now()).state
    }

    fn forwarded(&self) -> usize {
        self.forwards.load(Ordering::Relaxed)
    }

    #[track_caller]
    fn until(&self, what: &str, done: impl Fn(&Self) -> bool) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let met = tokio::time::timeout(PATIENCE, async {
                while !done(self) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
            let report = || self.board.report(now());
            assert!(met.await.is_ok(), "{what}, {caller}: {:?}", report());
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

#[tokio::test]
async fn a_lost_session_is_looked_for_without_a_storm_until_the_gateway_answers() {
    let rig = Rig::start().await;
    rig.tell(Occurrence::Quiet).await;
    rig.until("interrupted", |rig| rig.state() == State::Recovering)
        .await;
    // What the core wishes meanwhile is being done anyway.
    for _ in 0..100 {
        rig.tell(Occurrence::ApiWanted).await;
    }
    tokio::time::sleep(OBSERVED).await;
    let forwarded = rig.forwarded();
    assert!((2..=MOST_FORWARDS).contains(&forwarded), "{forwarded}");
    assert_eq!(rig.state(), State::Recovering);
    rig.tell(Occurrence::Established(udp())).await;
    rig.until("recovered", |rig| rig.state() == State::Connected)
        .await;
    assert_eq!(rig.board.report(now()).trouble, None);
}

#[tokio::test]
async fn a_stream_that_cannot_be_opened_is_no_trouble_while_packets_flow_another_way() {
    let rig = Rig::start().await;
    rig.works.store(true, Ordering::Relaxed);
    rig.tell(Occurrence::ApiWanted).await;
    rig.until("asked", |rig| rig.forwarded() == 1).await;
    rig.tell(Occurrence::ApiWanted).await;
    rig.until("asked again", |rig| rig.forwarded() == 2).await;
    assert_eq!(rig.state(), State::Connected);
}

/// The core takes the old session for established for some seconds more.
#[tokio::test]
async fn without_a_word_from_the_gateway_the_session_is_interrupted_until_there_is_one() {
    let rig = Rig::start().await;
    rig.tell(Occurrence::ApiWanted).await;
    rig.until("interrupted", |rig| rig.state() == State::Recovering)
        .await;
    rig.works.store(true, Ordering::Relaxed);
    rig.until("recovered", |rig| rig.state() == State::Connected)
        .await;
}

#[tokio::test]
async fn a_change_of_the_network_opens_a_stream_at_once() {
    let rig = Rig::start().await;
    rig.works.store(true, Ordering::Relaxed);
    rig.changed.notify_one();
    rig.until("asked", |rig| rig.forwarded() == 1).await;
}

fn udp() -> Path {
    Path::Udp("192.0.2.1:1".parse().unwrap())
}

/// The driver, as far as the keeper asks.
async fn drive(mut command_rx: mpsc::Receiver<Command>, works: Arc<AtomicBool>) {
    while let Some(command) = command_rx.recv().await {
        if let Command::Status(answer_tx) = command {
            let works = works.load(Ordering::Relaxed);
            let udp = PathStatus {
                path: udp(),
                state: PathState::Answering,
                rtt: None,
                received_ago: works.then_some(Duration::ZERO),
            };
            let status = Status {
                path: Some(udp.path),
                // The core does not know at once.
                established: true,
                handshake_age: None,
                rtt: None,
                mtu: 1360,
                sent_bytes: 0,
                received_bytes: 0,
                flows: 0,
                drops: Default::default(),
                paths: vec![udp],
            };
            let reading = Reading {
                status,
                tun: None,
                udp: None,
                laptop_flows: 0,
            };
            answer_tx.send(reading).unwrap();
        }
    }
}

/// An API server: one gateway pod, no rights beyond it, every port-forward fails.
async fn serve(listener: TcpListener, forwards: Arc<AtomicUsize>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(answer(stream, Arc::clone(&forwards)));
    }
}

async fn answer(stream: TcpStream, forwards: Arc<AtomicUsize>) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut request = String::new();
        while !request.ends_with("\r\n\r\n") {
            match stream.read_line(&mut request).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        let path = request.split(' ').nth(1).unwrap_or_default();
        let (code, body) = if path.contains("/portforward") {
            forwards.fetch_add(1, Ordering::Relaxed);
            (500, refusal(500, "InternalError"))
        } else if path.contains("/namespaces/default/pods?") {
            (
                200,
                json!({ "apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": [pod()] }),
            )
        } else {
            (403, refusal(403, "Forbidden"))
        };
        let body = body.to_string();
        let head = format!(
            "HTTP/1.1 {code} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let written = stream.write_all((head + &body).as_bytes()).await;
        if written.is_err() {
            return;
        }
    }
}

fn refusal(code: u16, reason: &str) -> serde_json::Value {
    json!({ "apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": reason })
}

fn pod() -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "kvpn-gateway-0", "namespace": "default", "uid": "u1" },
        "spec": { "containers": [{ "name": "gateway", "image": "kvpn/gateway:1" }] },
        "status": { "conditions": [{ "type": "Ready", "status": "True" }] }
    })
}

fn cluster_gateway() -> GatewayPod {
    GatewayPod {
        namespace: "default".to_owned(),
        name: "kvpn-gateway-0".to_owned(),
        uid: "u1".to_owned(),
        node: None,
        host_ips: Vec::new(),
        pod_ips: Vec::new(),
        image: "kvpn/gateway:1".to_owned(),
        version: None,
        datapath: kvpn_k8s::DatapathChoice::Auto,
        ready: true,
    }
}

fn keys() -> Keys {
    let private = session::new_key().unwrap();
    let grant = json!({
        "version": 1, "sessionId": "s1", "gatewayPublicKey": private.public(),
        "presharedKey": private.public(), "addresses": [], "mtu": 1360,
        "datapath": "userspace", "udpPort": 51820
    });
    let grant: SessionGrant = serde_json::from_value(grant).unwrap();
    Keys { private, grant }
}

fn board(server: &str) -> Board {
    let report = json!({
        "name": "a", "state": "connecting", "context": "c", "namespace": "default", "server": server,
        "pid": 1, "log": "/l"
    });
    Board::new(serde_json::from_value(report).unwrap())
}

fn start(home: &std::path::Path, server: &str) -> Start {
    let kubeconfig = home.join("kubeconfig");
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "c" } }],
        "clusters": [{ "name": "c", "cluster": { "server": server } }],
        "users": [{ "name": "c", "user": {} }]
    });
    std::fs::write(&kubeconfig, text.to_string()).unwrap();
    let start = json!({
        "name": null, "places": { "run": home, "state": home },
        "kube": {
            "kubeconfig": kubeconfig, "kubeconfig_env": null, "home": home, "context": null, "namespace": null,
            "https_proxy": null, "no_proxy": null, "exec_timeout": { "secs": 5, "nanos": 0 }
        },
        "gateway_namespace": "default", "image": "i", "image_is_chosen": false, "install": false,
        "upgrade": false, "datapath": "auto", "carrier": "auto", "ranges": [], "exclude": [],
        "dns_namespaces": [], "foreground": false, "verbose": 0, "log_format": "text"
    });
    serde_json::from_value(start).unwrap()
}
