//! Network namespaces for the driver's tests: a laptop, a pod and a server that only the pod reaches, in a row; or one
//! with a slow link.
//!
//! Namespaces belong to threads, so whoever works in one has a thread of its own. Needs root.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Command;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where the pod is for the laptop.
pub(super) const POD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Whom a namespace with a slow link sends to; nobody is there.
pub(in crate::agent::driver) const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
/// Where the server is for the pod.
pub(super) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// A namespace, gone when dropped.
pub(in crate::agent::driver) struct Namespace(String);

impl Namespace {
    fn new(name: &str) -> Self {
        let namespace = Self(format!("kvpn-{name}-{}", std::process::id()));
        ip(&format!("netns add {}", namespace.0));
        namespace.ip("link set lo up");
        namespace
    }

    /// One whose way to [`NEIGHBOUR`] takes 20 Mbit/s, and 64 MB in its queue.
    pub(in crate::agent::driver) fn slow(name: &str) -> Self {
        let namespace = Self::new(name);
        namespace.ip("link add v0 type veth peer name v1");
        namespace.ip("link set v1 up");
        namespace.ip("link set v0 up");
        namespace.ip("addr add 192.0.2.1/24 dev v0");
        namespace.ip(&format!(
            "neigh add {NEIGHBOUR} lladdr 02:00:00:00:00:09 dev v0"
        ));
        let shape = "qdisc add dev v0 root tbf rate 20mbit burst 128k limit 64m";
        run("tc", &format!("-n {} {shape}", namespace.0));
        namespace
    }

    pub(super) fn name(&self) -> &str {
        &self.0
    }

    fn ip(&self, arguments: &str) {
        ip(&format!("-n {} {arguments}", self.0));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        ip(&format!("netns del {}", self.0));
    }
}

/// Three namespaces, gone when dropped.
pub(super) struct Net {
    pub(super) laptop: Namespace,
    pub(super) pod: Namespace,
    pub(super) server: Namespace,
}

impl Net {
    pub(super) fn new(name: &str) -> Self {
        let [laptop, pod, server] =
            ["l", "p", "s"].map(|place| Namespace::new(&format!("{name}-{place}")));
        for (one, name, address, other, other_address) in [
            (&laptop, "wan0", "192.0.2.2/24", &pod, "192.0.2.1/24"),
            (&pod, "eth0", "10.244.1.7/24", &server, "10.244.1.1/24"),
        ] {
            let there = other.name();
            one.ip(&format!(
                "link add {name} type veth peer name {name} netns {there}"
            ));
            for (namespace, address) in [(one, address), (other, other_address)] {
                namespace.ip(&format!("addr add {address} dev {name}"));
                namespace.ip(&format!("link set {name} up"));
            }
        }
        server.ip(&format!("addr add {SERVER}/32 dev lo"));
        pod.ip("route add default via 10.244.1.1");
        Self {
            laptop,
            pod,
            server,
        }
    }
}

/// Whether namespaces and TUNs can be made; a word about it if not.
pub(in crate::agent::driver) fn has_needs() -> bool {
    let has = rustix::process::geteuid().is_root() && Path::new("/dev/net/tun").exists();
    if !has {
        eprintln!("skipped: network namespaces and TUNs need root and /dev/net/tun");
    }
    has
}

pub(super) fn ip(arguments: &str) {
    run("ip", arguments);
}

fn run(program: &str, arguments: &str) {
    let output = Command::new(program)
        .args(arguments.split(' '))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments}: {said}");
}

/// Runs `act` in a thread inside the namespace.
pub(in crate::agent::driver) fn inside<T: Send + 'static>(
    namespace: &Namespace,
    act: impl FnOnce() -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    let file = File::open(Path::new("/run/netns").join(&namespace.0)).unwrap();
    std::thread::spawn(move || {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        act()
    })
}
