//! What a connected laptop reaches, and how: the same for both datapaths and both carriers.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use kvpn::cluster::{Cluster, pod_addresses};
use kvpn::flow::{self, dial, download, exchange_datagram, exchange_line, http_get, upload};
use kvpn::gateway::Datapath;
use kvpn::laptop::{Laptop, Resolver};

/// More than any pod of the test has, and no pod's address: node 1's range ends with it.
const NO_POD: &str = "10.244.1.250";
/// Nothing listens there in any pod.
const CLOSED_PORT: u16 = 9999;
const CONNECTIONS_AT_ONCE: usize = 500;

#[test]
fn userspace_over_api() {
    reach(Datapath::Userspace, "api");
}

#[test]
fn userspace_over_udp() {
    reach(Datapath::Userspace, "udp");
}

#[test]
fn kernel_over_api() {
    reach(Datapath::Kernel, "api");
}

#[test]
fn kernel_over_udp() {
    reach(Datapath::Kernel, "udp");
}

fn reach(datapath: Datapath, carrier: &str) {
    let laptop = Laptop::start(&format!("reach-{datapath}-{carrier}"), Resolver::Plain);
    let before = laptop.traces();
    laptop.connect(datapath, &["--carrier", carrier]);
    let session = laptop.session();
    assert!(
        session["carrier"]
            .as_str()
            .unwrap_or_default()
            .starts_with(carrier),
        "{session}"
    );
    assert_eq!(
        session["gateway"]["datapath"],
        datapath.to_string().as_str(),
        "{session}"
    );
    // In a pod the kernel does not forward IPv6: the kernel datapath takes the other way for it, and says so.
    println!("{datapath}: {}", session["gateway"]["datapathNote"]);

    services(&laptop);
    pods(&laptop);
    echo_requests(&laptop);
    refusals(&laptop);
    half_closed(&laptop);
    many_at_once(&laptop);
    bulk(&laptop, Cluster::get().settings.bulk);

    laptop.kvpn(&["disconnect"]).ok();
    laptop.is_as_before(&before, Duration::from_secs(1), "disconnect");
}

/// A ClusterIP over TCP and UDP in each family, a headless name, and the NodePort that worked before.
fn services(laptop: &Laptop) {
    let cluster = Cluster::get();
    let addresses = cluster.service("default", "echo");
    assert_eq!(addresses.len(), 2, "dual stack: {addresses:?}");
    for address in addresses {
        laptop.in_network(|| {
            let body = http_get((address, 80).into(), "/")
                .unwrap_or_else(|error| panic!("{address}: {error}"));
            assert!(body.starts_with("host=echo-"), "{body}");
            let answer =
                exchange_datagram((address, 9000).into(), b"ping", flow::PATIENCE).unwrap();
            assert!(
                String::from_utf8_lossy(&answer).ends_with("data=ping"),
                "{address}: {answer:?}"
            );
        });
    }
    for name in [
        "echo",
        "echo-headless:8080",
        "echo.other",
        "kubernetes.default.svc.cluster.local:443",
    ] {
        laptop
            .run(&[
                "curl",
                "-sS",
                "-m",
                "10",
                "-o",
                "/dev/null",
                &format!("http://{name}/"),
            ])
            .ok();
    }
    if cluster.is_ours() {
        laptop.fetch("http://172.31.2.11:30080/").ok();
    }
}

/// Every echo pod, on every node, by each of its addresses; the pod sees no address of the laptop's.
fn pods(laptop: &Laptop) {
    let pods = Cluster::get().pods("default", "app=echo");
    let nodes: std::collections::BTreeSet<_> = pods
        .iter()
        .map(|pod| pod["spec"]["nodeName"].to_string())
        .collect();
    assert!(
        nodes.len() > 1 || !Cluster::get().is_ours(),
        "echo pods are on {nodes:?} only"
    );
    for pod in &pods {
        let name = pod["metadata"]["name"].as_str().unwrap();
        for address in pod_addresses(pod) {
            let body = laptop
                .in_network(|| http_get((address, 8080).into(), "/"))
                .unwrap();
            assert!(
                body.starts_with(&format!("host={name} ")),
                "{address}: {body}"
            );
            assert!(
                !body.contains("client=172.31.") && !body.contains("client=[fd00:172:31:"),
                "{body}"
            );
        }
    }
}

fn echo_requests(laptop: &Laptop) {
    for address in first_echo_pod() {
        laptop
            .run(&[
                "ping",
                "-c",
                "2",
                "-i",
                "0.2",
                "-W",
                "3",
                &address.to_string(),
            ])
            .ok();
    }
    let nobody = laptop.run(&["ping", "-c", "1", "-W", "2", NO_POD]);
    assert_ne!(
        nobody.code, 0,
        "somebody answers for a pod that is not there: {nobody}"
    );
}

/// A closed port is refused, as quickly as a pod's kernel does it, and not connected first.
fn refusals(laptop: &Laptop) {
    for address in first_echo_pod() {
        let to = SocketAddr::new(address, CLOSED_PORT);
        let (refusal, took) = laptop.in_network(|| timed(|| dial(to)));
        assert_eq!(
            refusal.unwrap_err().kind(),
            ErrorKind::ConnectionRefused,
            "{to}"
        );
        assert!(took < Duration::from_millis(500), "{to} took {took:?}");
        let silence = laptop.in_network(|| exchange_datagram(to, b"?", Duration::from_secs(3)));
        assert_eq!(
            silence.unwrap_err().kind(),
            ErrorKind::ConnectionRefused,
            "udp {to}"
        );
    }
    let to: SocketAddr = (NO_POD.parse::<IpAddr>().unwrap(), 80).into();
    let error = laptop.in_network(|| dial(to)).unwrap_err();
    assert_ne!(
        error.kind(),
        ErrorKind::ConnectionRefused,
        "nobody is there to refuse: {error}"
    );
}

/// The laptop finishes sending; the pod's answer, which it gives only then, still arrives. And the other way
/// round: the pod finishes, the laptop may still send.
fn half_closed(laptop: &Laptop) {
    for address in first_echo_pod() {
        laptop.in_network(|| {
            let mut stream = dial((address, 9001).into()).unwrap();
            stream.write_all(b"abc").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert_eq!(
                answer.trim(),
                "3 ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
            );
        });
    }
}

fn many_at_once(laptop: &Laptop) {
    let to: SocketAddr = (Cluster::get().service("default", "echo")[0], 9000).into();
    laptop.in_network(|| {
        let mut streams: Vec<_> = (0..CONNECTIONS_AT_ONCE)
            .map(|_| dial(to).unwrap())
            .collect();
        for (number, stream) in streams.iter_mut().enumerate() {
            let answer = exchange_line(stream, &format!("n{number}")).unwrap();
            assert!(answer.ends_with(&format!("line=n{number}\n")), "{answer}");
        }
    });
}

/// Equal bytes each way: the pod's digest of what was sent, and every byte of what came.
fn bulk(laptop: &Laptop, total: u64) {
    let address = Cluster::get().service("default", "echo")[0];
    let expected =
        laptop.in_network(|| http_get((address, 80).into(), &format!("/sha256?n={total}")));
    let (sent, took) = laptop.in_network(|| timed(|| upload((address, 9001).into(), total)));
    assert_eq!(sent.unwrap(), expected.unwrap().trim());
    println!("{}: up {}", laptop.name(), speed(total, took));
    let (received, took) = laptop.in_network(|| timed(|| download((address, 80).into(), total)));
    received.unwrap();
    println!("{}: down {}", laptop.name(), speed(total, took));
}

fn first_echo_pod() -> Vec<IpAddr> {
    pod_addresses(&Cluster::get().pods("default", "app=echo")[0])
}

#[expect(
    clippy::disallowed_methods,
    reason = "tests of a real cluster run on the real clock"
)]
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = work();
    (result, start.elapsed())
}

fn speed(bytes: u64, took: Duration) -> String {
    #[expect(clippy::cast_precision_loss, reason = "for reading")]
    let mbit = bytes as f64 * 8.0 / 1e6 / took.as_secs_f64();
    format!("{bytes} bytes in {took:.1?}, {mbit:.0} Mbit/s")
}
