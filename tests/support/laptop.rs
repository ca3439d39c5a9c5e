//! A laptop for one test: network, mounts and processes of its own (tests/cluster/laptop.sh), gone with all that
//! runs on it when the test ends. With a cluster of the tester's own it shares this machine's network.

use std::fmt::Display;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

use crate::cluster::{Cluster, script, tool};
use crate::gateway::Datapath;
use crate::outcome::{Outcome, eventually};
use crate::turn::Turn;

/// How a laptop finds names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolver {
    /// /etc/resolv.conf names the public resolver.
    Plain,
    /// systemd-resolved asks it, and /etc/resolv.conf and nsswitch.conf name systemd-resolved.
    Resolved,
}

/// A running laptop.
#[derive(Debug)]
pub struct Laptop {
    name: String,
    cluster: &'static Cluster,
    _turn: Turn,
}

impl Laptop {
    /// Boots a laptop; `name` tells it from those of other tests.
    ///
    /// # Panics
    ///
    /// When that fails.
    pub fn start(name: &str, resolver: Resolver) -> Self {
        let cluster = Cluster::get();
        let laptop = Self {
            name: format!("kvpn-laptop-{name}"),
            cluster,
            _turn: Turn::shared(),
        };
        script("laptop.sh", &["stop", &laptop.name]).ok();
        let resolver = match resolver {
            Resolver::Plain => "plain",
            Resolver::Resolved => "resolved",
        };
        let network = if cluster.is_ours() { "own" } else { "shared" };
        let program = cluster.settings.client.to_string_lossy();
        script(
            "laptop.sh",
            &["start", &laptop.name, resolver, network, &program],
        )
        .ok();
        laptop
    }

    /// The name, which is that of its network namespace too.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run on the laptop as root, with the administrator's kubeconfig.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(tool("laptop.sh"));
        command
            .args(["exec", &self.name])
            .args(words)
            .env("KUBECONFIG", &self.cluster.kubeconfig)
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, words: &[&str]) -> Outcome {
        Outcome::of(&mut self.command(words))
    }

    /// Runs a line of shell to its end.
    pub fn shell(&self, line: &str) -> Outcome {
        self.run(&["bash", "-c", line])
    }

    /// Runs kvpn to its end.
    pub fn kvpn(&self, words: &[&str]) -> Outcome {
        self.run(&[&["kvpn"], words].concat())
    }

    /// Runs kvpn with another kubeconfig.
    pub fn kvpn_as(&self, kubeconfig: &Path, words: &[&str]) -> Outcome {
        Outcome::of(
            self.command(&[&["kvpn"], words].concat())
                .env("KUBECONFIG", kubeconfig),
        )
    }

    /// Connects to the shared gateway of a datapath.
    ///
    /// # Panics
    ///
    /// With all that kvpn said, when that fails.
    #[track_caller]
    pub fn connect(&self, datapath: Datapath, options: &[&str]) -> Outcome {
        let gateway = datapath.gateway();
        self.kvpn(&[&["connect", "--gateway-namespace", gateway], options].concat())
            .ok()
    }

    /// The one session that `kvpn status -o json` shows.
    ///
    /// # Panics
    ///
    /// When there is none or more than one.
    #[track_caller]
    pub fn session(&self) -> Value {
        let status = self.kvpn(&["status", "-o", "json"]).ok().json();
        let sessions = status["sessions"].as_array().cloned().unwrap_or_default();
        let [session] = <[Value; 1]>::try_from(sessions)
            .unwrap_or_else(|_| panic!("not one session: {status}"));
        session
    }

    /// Fetches a URL, with 5 s for it.
    pub fn fetch(&self, url: &str) -> Outcome {
        self.run(&["curl", "-fsS", "-m", "5", url])
    }

    /// Looks a name up as programs do.
    pub fn look_up(&self, name: &str) -> Outcome {
        self.run(&["getent", "hosts", name])
    }

    /// Starts a command and does not wait for it.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn spawn(&self, words: &[&str]) -> Child {
        let mut command = self.command(words);
        command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// Runs a closure whose sockets are the laptop's.
    ///
    /// Names are not looked up as the laptop does: the C library's resolver belongs to the process. Use
    /// [`Laptop::run`] with `getent` for them.
    ///
    /// # Panics
    ///
    /// When the closure does, or the laptop is gone.
    pub fn in_network<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        if !self.cluster.is_ours() {
            return work();
        }
        let namespace = File::open(format!("/run/netns/{}", self.name)).expect("the laptop is up");
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("root may enter it");
                work()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// All that `kvpn connect` could change on the laptop and must put back, as text to compare.
    pub fn traces(&self) -> String {
        self.shell(TRACES).ok().stdout
    }

    /// The laptop is, within `limit`, as it was when `before` was taken.
    ///
    /// # Panics
    ///
    /// With what differs and what happened in between, when it is not.
    #[track_caller]
    pub fn is_as_before(&self, before: &str, limit: Duration, between: impl Display) {
        let mut now = String::new();
        let same = eventually(limit, || {
            now = self.traces();
            now == before
        });
        assert!(
            same,
            "{limit:?} after {between} on {}:\n{}",
            self.name,
            difference(before, &now)
        );
    }

    /// The process ids, as the laptop counts them, of kvpn's agents or helpers.
    ///
    /// # Panics
    ///
    /// When the laptop is gone.
    pub fn processes(&self, role: Role) -> Vec<u32> {
        let role = match role {
            Role::Agent => "agent",
            Role::Helper => "helper",
        };
        let found = self
            .shell(&format!(
                "pgrep -f '^[^ ]*kvpn(-helper)? {role}\\b' || true"
            ))
            .ok()
            .stdout;
        found
            .split_whitespace()
            .map(|pid| pid.parse().expect("pgrep prints numbers"))
            .collect()
    }
}

/// What a process of kvpn is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It holds the session.
    Agent,
    /// It holds the TUN, the routes and the names.
    Helper,
}

impl Drop for Laptop {
    fn drop(&mut self) {
        let stopped = script("laptop.sh", &["stop", &self.name]);
        if !std::thread::panicking() {
            stopped.ok();
        }
    }
}

/// The lines that are in one text only, or oftener.
fn difference(before: &str, now: &str) -> String {
    let surplus = |text: &str, other: &str, what: &str| -> String {
        let mut left: Vec<&str> = other.lines().collect();
        let mut report = String::new();
        for line in text.lines() {
            match left.iter().position(|candidate| *candidate == line) {
                Some(place) => drop(left.swap_remove(place)),
                None => report += &format!("{what}: {line}\n"),
            }
        }
        report
    };
    surplus(before, now, "gone") + &surplus(now, before, "new")
}

const TRACES: &str = "
ip -o link | sed 's/^[0-9]*: \\([^:@]*\\).*/link \\1/'
for f in -4 -6; do ip $f route show table all | sort; ip $f rule; done
readlink -f /etc/resolv.conf; ls -l /etc/resolv.conf | cut -c1-10; cat /etc/resolv.conf /etc/hosts
if command -v resolvectl >/dev/null; then for w in dns domain default-route llmnr mdns; do resolvectl $w; done; fi
find /run/kvpn -type f 2>/dev/null
pgrep -af '^[^ ]*kvpn(-helper)? (agent|helper|connect)' | cut -d' ' -f2- || true
";
