//! Both ends of a tunnel as programs, with the kernel's TUNs and routes, over a path that is narrower than its ends believe:
//! a router in the middle says nothing. Needs root, /dev/net/tun, and the built kvpn-gateway and kvpn-bench.

#![expect(
    clippy::unwrap_used,
    reason = "the tests' own tools panic with the test"
)]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use kvpn::outcome::{Outcome, eventually};
use kvpn::settings::checkout;

const LAPTOP: &str = "192.0.2.1";
const GATEWAY: &str = "192.0.2.5";
const POD: [&str; 2] = ["10.96.0.1", "fd00:96::1"];
/// Longer than it takes to find out what a path carries, six lost probes and a search.
const SEARCH: Duration = Duration::from_secs(30);

/// laptop -- router -- gateway -- pod, each a network namespace; what runs in them ends with it.
struct Lane {
    name: String,
    programs: Vec<Child>,
}

impl Lane {
    fn new(datapath: &str, mtu: u16) -> Self {
        static LANES: AtomicU32 = AtomicU32::new(0);
        let number = LANES.fetch_add(1, Ordering::Relaxed);
        let mut lane = Self {
            name: format!("kvpn-mtu-{}-{number}", std::process::id()),
            programs: Vec::new(),
        };
        lane.build();
        lane.narrow(mtu);
        let gateway = target("kvpn-gateway");
        let addresses = "10.97.0.1,fd00:97::1";
        let words = [
            "--datapath",
            datapath,
            "--pod-ips",
            addresses,
            "--log",
            "error",
        ];
        lane.start("g", &gateway, &words);
        let listens = || lane.inside("g", "ss -ltn").contains(":6180");
        assert!(eventually(SEARCH, listens), "the gateway does not listen");
        let netns = format!("/run/netns/{}", lane.namespace("g"));
        let to = format!("{GATEWAY}:51820");
        let words = ["tunnel", "--netns", &netns, "--gateway", &to];
        let routes = ["--route", "10.96.0.0/16", "--route", "fd00:96::/64"];
        lane.start_ready("l", &[&words[..], &routes].concat());
        for pod in POD {
            lane.start_ready("p", &["serve", pod]);
        }
        lane
    }

    fn build(&self) {
        for end in ["l", "r", "g", "p"] {
            self.ip(&format!("netns add {}", self.namespace(end)));
            self.on(end, "link set lo up");
        }
        for (near, near_if, near_ip, far, far_if, far_ip) in [
            ("l", "e0", LAPTOP, "r", "l0", "192.0.2.2"),
            ("g", "e0", GATEWAY, "r", "g0", "192.0.2.6"),
            ("g", "p0", "10.97.0.1", "p", "e0", "10.97.0.2"),
        ] {
            let far_namespace = self.namespace(far);
            self.on(
                near,
                &format!("link add {near_if} type veth peer name {far_if} netns {far_namespace}"),
            );
            for (end, interface, address) in [(near, near_if, near_ip), (far, far_if, far_ip)] {
                self.on(end, &format!("addr add {address}/30 dev {interface}"));
                self.on(end, &format!("link set {interface} up"));
            }
        }
        self.on("g", "addr add fd00:97::1/64 dev p0 nodad");
        self.on("p", "addr add fd00:97::2/64 dev e0 nodad");
        for (end, route) in [
            ("l", "default via 192.0.2.2"),
            ("g", "default via 192.0.2.6"),
            ("g", "10.96.0.1 via 10.97.0.2"),
            ("g", "fd00:96::1 via fd00:97::2"),
            ("p", "default via 10.97.0.1"),
            ("p", "default via fd00:97::1"),
        ] {
            let family = if route.contains("::") { "-6 " } else { "" };
            self.on(end, &format!("{family}route add {route}"));
        }
        self.on("p", "addr add 10.96.0.1/32 dev lo");
        self.on("p", "addr add fd00:96::1/128 dev lo nodad");
        self.inside("r", "sysctl -qw net.ipv4.ip_forward=1");
        self.inside(
            "g",
            "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
        );
        // The router drops what is too long and keeps quiet about it: its answers have no way back.
        self.on("r", "rule add from 192.0.2.2 blackhole pref 1");
    }

    /// Gives the cable between router and gateway this MTU.
    fn narrow(&self, mtu: u16) {
        self.on("r", &format!("link set g0 mtu {mtu}"));
        self.on("g", &format!("link set e0 mtu {mtu}"));
    }

    fn namespace(&self, end: &str) -> String {
        format!("{}-{end}", self.name)
    }

    fn ip(&self, words: &str) {
        let mut command = Command::new("ip");
        Outcome::of(command.args(words.split(' '))).ok();
    }

    fn on(&self, end: &str, words: &str) {
        self.ip(&format!("-n {} {words}", self.namespace(end)));
    }

    fn command(&self, end: &str, program: &str, words: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace(end), program])
            .args(words);
        command
    }

    fn inside(&self, end: &str, line: &str) -> String {
        Outcome::of(&mut self.command(end, "sh", &["-c", line]))
            .ok()
            .stdout
    }

    fn start(&mut self, end: &str, program: &str, words: &[&str]) -> &mut Child {
        let mut command = self.command(end, program, words);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        self.programs.push(command.spawn().unwrap());
        self.programs.last_mut().expect("one was just started")
    }

    /// Starts kvpn-bench, and waits until it says that it is ready.
    fn start_ready(&mut self, end: &str, words: &[&str]) {
        let child = self.start(end, &target("kvpn-bench"), words);
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "{words:?}");
    }

    /// A stream of so many MiB, whose hashes both ends compare.
    fn stream(&self, pod: &str, way: &str, mib: u64) -> Command {
        let bytes = (mib << 20).to_string();
        self.command("l", &target("kvpn-bench"), &["stream", pod, way, &bytes])
    }

    /// Whether the laptop learns that its packets of 1,400 bytes are too long for the path.
    fn refuses_1400(&self) -> bool {
        let ping = "ping -n -c 1 -W 1 -M do -s 1372 10.96.0.1 2>&1 || true";
        let text = self.inside("l", ping);
        text.contains("too long") || text.contains("needed")
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        for program in &mut self.programs {
            program.kill().ok();
            program.wait().ok();
        }
        for end in ["l", "r", "g", "p"] {
            let namespace = self.namespace(end);
            Outcome::of(Command::new("ip").args(["netns", "del", &namespace]));
        }
    }
}

fn target(program: &str) -> String {
    let path = checkout().join("target/debug").join(program);
    assert!(
        path.exists(),
        "{} is not built: make test-fast builds it",
        path.display()
    );
    path.to_string_lossy().into_owned()
}

#[test]
fn every_packet_passes_where_the_path_carries_1280() {
    for datapath in ["kernel", "userspace"] {
        let lane = Lane::new(datapath, 1280);
        assert!(
            eventually(SEARCH, || lane.refuses_1400()),
            "{datapath}: the limit was not found"
        );
        for pod in POD {
            for way in ["up", "down"] {
                Outcome::of(&mut lane.stream(pod, way, 16)).ok();
            }
        }
        let big = "ping -n -c 1 -W 5 -M dont -s 3000 10.96.0.1";
        if datapath == "kernel" {
            lane.inside("l", big);
        }
    }
}

#[test]
fn a_wide_path_is_used_whole() {
    let lane = Lane::new("kernel", 1500);
    let whole = || {
        let ping = "ping -n -c 1 -W 1 -M do -s 1412 10.96.0.1 || true";
        lane.inside("l", ping).contains("1 received")
    };
    assert!(eventually(SEARCH, whole), "1,440 bytes do not pass");
}

#[test]
fn streams_go_on_when_the_path_narrows() {
    for (datapath, way) in [("kernel", "up"), ("kernel", "down"), ("userspace", "down")] {
        let lane = Lane::new(datapath, 1500);
        let mut stream = lane.stream(POD[0], way, 256);
        let child = stream
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let counter = if way == "up" { "tx_bytes" } else { "rx_bytes" };
        let file = format!("cat /sys/class/net/kvpn0/statistics/{counter}");
        let begun = || lane.inside("l", &file).trim().len() > 6;
        assert!(eventually(SEARCH, begun), "{datapath} {way}: nothing moves");
        lane.narrow(1280);
        let output = child.wait_with_output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{datapath} {way}: {error}");
    }
}
