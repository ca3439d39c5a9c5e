//! Three network namespaces in a row: a laptop, a pod, and a server that only the pod reaches.
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
/// Where the server is for the pod.
pub(super) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// Three namespaces, gone when dropped.
pub(super) struct Net {
    pub(super) laptop: String,
    pub(super) pod: String,
    pub(super) server: String,
}

impl Net {
    pub(super) fn new(name: &str) -> Self {
        let namespace = |place: &str| format!("kvpn-{name}-{place}-{}", std::process::id());
        let net = Self {
            laptop: namespace("l"),
            pod: namespace("p"),
            server: namespace("s"),
        };
        let (laptop, pod, server) = (&net.laptop, &net.pod, &net.server);
        for namespace in [laptop, pod, server] {
            ip(&format!("netns add {namespace}"));
            ip(&format!("-n {namespace} link set lo up"));
        }
        for (one, name, address, other, other_address) in [
            (laptop, "wan0", "192.0.2.2/24", pod, "192.0.2.1/24"),
            (pod, "eth0", "10.244.1.7/24", server, "10.244.1.1/24"),
        ] {
            ip(&format!(
                "-n {one} link add {name} type veth peer name {name} netns {other}"
            ));
            for (namespace, address) in [(one, address), (other, other_address)] {
                ip(&format!("-n {namespace} addr add {address} dev {name}"));
                ip(&format!("-n {namespace} link set {name} up"));
            }
        }
        ip(&format!("-n {server} addr add {SERVER}/32 dev lo"));
        ip(&format!("-n {pod} route add default via 10.244.1.1"));
        net
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for namespace in [&self.laptop, &self.pod, &self.server] {
            ip(&format!("netns del {namespace}"));
        }
    }
}

pub(super) fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {said}");
}

/// Runs `act` in a thread inside the namespace.
pub(super) fn inside<T: Send + 'static>(
    namespace: &str,
    act: impl FnOnce() -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    let file = File::open(Path::new("/run/netns").join(namespace)).unwrap();
    std::thread::spawn(move || {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        act()
    })
}
