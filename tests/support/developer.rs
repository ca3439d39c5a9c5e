//! A developer at a laptop: an ordinary user without privileges, without `kvpn connect`, whose programs listen on 127.0.0.1
//! alone and say their developer's name.

use std::path::Path;
use std::process::Child;

use crate::cluster::{Cluster, PATIENCE};
use crate::laptop::{Laptop, Resolver, Role};
use crate::outcome::{Outcome, eventually};

/// Ports of the developer's program: HTTP/1.1 and h2c, gRPC, and lines over TCP and UDP.
pub const HTTP: u16 = 8080;
/// See [`HTTP`].
pub const GRPC: u16 = 8081;
/// See [`HTTP`].
pub const LINES: u16 = 9000;

/// A developer with a program that runs.
#[derive(Debug)]
pub struct Developer {
    /// The name that the program says.
    pub name: String,
    /// Theirs.
    pub laptop: Laptop,
    namespace: String,
}

impl Developer {
    /// Boots a laptop and starts the program; the administrator's kubeconfig is theirs.
    ///
    /// # Panics
    ///
    /// When that fails.
    pub fn start(name: &str, namespace: &str) -> Self {
        Self::start_as(name, namespace, &Cluster::get().kubeconfig)
    }

    /// The same with another kubeconfig.
    ///
    /// # Panics
    ///
    /// When that fails.
    pub fn start_as(name: &str, namespace: &str, kubeconfig: &Path) -> Self {
        let short = namespace.trim_start_matches("kvpn-test-");
        let developer = Self {
            name: name.to_owned(),
            laptop: Laptop::start(&format!("{short}-{name}"), Resolver::Plain),
            namespace: namespace.to_owned(),
        };
        let install = format!(
            "install -D -o dev -g dev -m 600 {} /home/dev/.kube/config && install $(command -v traffic) /usr/local/bin/traffic",
            kubeconfig.display()
        );
        developer.laptop.shell(&install).ok();
        developer.serve();
        developer
    }

    /// Starts the program.
    ///
    /// # Panics
    ///
    /// When it does not answer.
    pub fn serve(&self) {
        let at = |port: u16| format!("127.0.0.1:{port}");
        let line = format!(
            "traffic serve -name {} -http {} -grpc {} -lines {} >/tmp/traffic.log 2>&1 &",
            self.name,
            at(HTTP),
            at(GRPC),
            at(LINES)
        );
        self.shell(&line).ok();
        let url = format!("http://{}/", at(HTTP));
        assert!(
            eventually(PATIENCE, || self.laptop.fetch(&url).code == 0),
            "the program does not answer: {}",
            self.laptop.shell("cat /tmp/traffic.log")
        );
    }

    /// Ends the program.
    ///
    /// # Panics
    ///
    /// When it does not run.
    pub fn stop_serving(&self) {
        self.laptop.shell("pkill -KILL -x traffic").ok();
    }

    /// Runs a line of shell as the developer.
    pub fn shell(&self, line: &str) -> Outcome {
        self.laptop.run(&["sh", "-c", &as_developer(line)])
    }

    /// Runs kvpn in the namespace, to its end.
    pub fn kvpn(&self, words: &str) -> Outcome {
        self.shell(&format!("kvpn -n {} {words}", self.namespace))
    }

    /// Exposes in the background: `ports as service`, options; it is in effect when this returns.
    ///
    /// # Panics
    ///
    /// When it is not.
    #[track_caller]
    pub fn exposes(&self, words: &str) -> Outcome {
        self.kvpn(&format!("expose --detach {words}")).ok()
    }

    /// Exposes in the foreground, with its output in `/tmp/expose.out` and `.err`, until something ends it. In effect when this
    /// returns.
    ///
    /// # Panics
    ///
    /// When it does not say so.
    pub fn exposes_in_front(&self, words: &str) -> Child {
        let line = format!(
            "exec kvpn -n {} expose {words} >/tmp/expose.out 2>/tmp/expose.err",
            self.namespace
        );
        let child = self.laptop.spawn(&["sh", "-c", &as_developer(&line)]);
        let said = || self.laptop.shell("grep -q exposed /tmp/expose.out").code == 0;
        assert!(eventually(PATIENCE, said), "{}", self.said());
        child
    }

    /// What the command in the foreground said.
    pub fn said(&self) -> Outcome {
        self.laptop
            .shell("cat /tmp/expose.out; cat /tmp/expose.err >&2")
    }

    /// Sends a signal to the process that holds the exposure, wherever it runs.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn signal(&self, signal: &str) {
        let behind = self.laptop.processes(Role::Agent);
        let behind: String = behind.iter().map(|pid| format!(" {pid}")).collect();
        let front = "$(pgrep -f '^kvpn .*expose')";
        self.laptop
            .shell(&format!("kill -{signal}{behind} {front}"))
            .ok();
    }

    /// Pulls the laptop's cable, or plugs it in again.
    ///
    /// # Panics
    ///
    /// When that fails.
    pub fn cable(&self, state: &str) {
        self.laptop.run(&["ip", "link", "set", "eth0", state]).ok();
        if state == "up" {
            // What a DHCP client does.
            let gateway =
                "$(ip -4 -o addr show eth0 | sed 's,.*inet \\([0-9.]*\\.\\)[0-9]*/.*,\\11,')";
            self.laptop
                .shell(&format!("ip route replace default via {gateway}"))
                .ok();
        }
    }
}

fn as_developer(line: &str) -> String {
    let quoted = line.replace('\'', "'\\''");
    format!("cd /home/dev && HOME=$PWD exec runuser -u dev -- env -u KUBECONFIG sh -c '{quoted}'")
}
