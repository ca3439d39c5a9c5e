//! The installed service on a booted systemd with a laptop's network: an ordinary user connects without sudo, and whatever is
//! killed, nothing is left.

use std::process::Command;
use std::time::Duration;

use kvpn::cluster::{Cluster, PATIENCE};
use kvpn::gateway::Datapath;
use kvpn::laptop::{Laptop, Resolver};
use kvpn::machine::Machine;
use kvpn::outcome::{Outcome, eventually};
use kvpn::packages::packages;

const SOON: Duration = Duration::from_secs(10);
/// Asks a Service by its short name, as programs do.
const ASK: &str =
    "exec 3<>/dev/tcp/echo/80 && printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3 && grep -q ' 200 ' <&3";
/// What a session changes on the machine.
const CHANGED: &str =
    "ip -o link | grep -o kvpn0; ip route | grep kvpn; resolvectl domain | grep kvpn";

struct Desk {
    machine: Machine,
    /// The network is its own.
    _laptop: Laptop,
}

impl Desk {
    /// With this file to be seen there, the program or a package of it.
    fn boot(name: &str, file: &str) -> Option<Self> {
        let cluster = Cluster::get();
        if !cluster.has("laptops with a network of their own") {
            return None;
        }
        let laptop = Laptop::start(name, Resolver::Plain);
        let kubeconfig = format!("{}:/mnt/kubeconfig", cluster.kubeconfig.display());
        let machine = Machine::boot_with(name, &["--netns", laptop.name(), &kubeconfig, file]);
        machine
            .shell("install -D -o ana -g ana -m 600 /mnt/kubeconfig /home/ana/.kube/config")
            .ok();
        let resolver = laptop.shell("awk '/^nameserver/ {print $2}' /etc/resolv.conf");
        let resolver = resolver.ok().stdout;
        machine
            .shell(&format!(
                "resolvectl dns eth0 {}; resolvectl domain eth0 '~.'",
                resolver.trim()
            ))
            .ok();
        Some(Self {
            machine,
            _laptop: laptop,
        })
    }

    /// As ana, who has just logged in.
    fn ana(&self, line: &str) -> Outcome {
        let line = format!("cd /home/ana && HOME=$PWD {line}");
        self.machine.shell_as("ana", &line)
    }

    fn connect(&self, options: &str) -> Outcome {
        let gateway = Datapath::Userspace.gateway();
        self.ana(&format!(
            "kvpn connect --gateway-namespace {gateway} {options}"
        ))
    }

    #[track_caller]
    fn answers(&self) {
        let asks = || self.ana(&format!("timeout 5 bash -c \"{ASK}\"")).code == 0;
        assert!(
            eventually(PATIENCE, asks),
            "no answer; {}",
            self.ana("kvpn status")
        );
    }

    #[track_caller]
    fn is_clean(&self, after: &str) {
        let left = || self.machine.shell(CHANGED).stdout;
        assert!(
            eventually(SOON, || left().is_empty()),
            "after {after}: {}",
            left()
        );
    }
}

#[test]
fn a_member_of_the_group_connects_without_sudo() {
    let Some(desk) = Desk::boot("service", &Machine::program()) else {
        return;
    };
    let before = desk.machine.traces();
    desk.machine.shell("kvpn service install --user ana").ok();
    let connected = desk.connect("").ok();
    assert!(!connected.stderr.contains("sudo"), "{connected}");
    desk.answers();
    desk.ana("kvpn disconnect").ok();
    desk.is_clean("disconnect");

    // The service's restart ends the session; the next one is as good.
    desk.connect("").ok();
    desk.machine.shell("systemctl restart kvpn-helper").ok();
    desk.is_clean("a restart of the service");
    for victim in ["helper --serve", "helper --listen", "agent"] {
        desk.ana("kvpn disconnect; true").ok();
        let connects = || desk.connect("").code == 0;
        assert!(eventually(SOON, connects), "before {victim}");
        desk.answers();
        let kill = format!("pkill -KILL -f '^[^ ]*kvpn {victim}'");
        desk.machine.shell(&kill).ok();
        desk.is_clean(victim);
    }
    desk.ana("kvpn disconnect; true").ok();
    desk.connect("").ok();
    desk.machine.shell("kvpn service uninstall").ok();
    desk.is_clean("uninstall");
    assert!(eventually(SOON, || desk.machine.traces() == before));
}

#[test]
fn a_session_begins_at_login() {
    let Some(desk) = Desk::boot("login", &Machine::program()) else {
        return;
    };
    desk.machine.shell("kvpn service install --user ana").ok();
    desk.connect("--at-login").ok();
    desk.answers();
    // All of ana's processes end, as they do when the machine goes down.
    desk.machine
        .shell("pkill -KILL -u ana; while pgrep -u ana; do sleep 0.05; done")
        .ok();
    desk.is_clean("the end of the login");
    desk.machine.shell("loginctl enable-linger ana").ok();
    desk.answers();
    desk.ana("kvpn disconnect").ok();
    desk.is_clean("disconnect");
    let units = desk.ana("find .config -name 'kvpn*'").ok();
    assert_eq!(units.stdout, "", "it begins at no login any more");
}

/// On a clean machine, two commands: the package, and `connect`. Removed, it leaves nothing.
#[test]
fn from_a_package_to_the_first_answer() {
    let found = Outcome::of(
        Command::new("find")
            .arg(packages())
            .args(["-name", "*.deb"]),
    );
    let package = format!("{}:/mnt/kvpn.deb", found.ok().stdout.trim());
    let Some(desk) = Desk::boot("package", &package) else {
        return;
    };
    let before = desk.machine.traces();
    let installed = desk
        .machine
        .shell("DEBIAN_FRONTEND=noninteractive apt-get install -qq /mnt/kvpn.deb");
    let installed = installed.ok().took;
    desk.machine.shell("gpasswd --add ana kvpn").ok();
    let connected = desk.connect("").ok().took;
    let answered = desk.ana(&format!("bash -c \"{ASK}\"")).ok().took;
    println!("install {installed:.2?}, connect {connected:.2?}, the first answer {answered:.2?}");
    desk.machine
        .shell("DEBIAN_FRONTEND=noninteractive apt-get purge -qq kvpn")
        .ok();
    desk.is_clean("purge");
    assert!(
        eventually(SOON, || desk.machine.traces() == before),
        "{}",
        desk.machine.traces()
    );
}
