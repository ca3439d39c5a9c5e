//! Whole sessions in a box, without Kubernetes: the real `kvpn` with its agent and helper, and a played cluster ([`kvpn::played`]). Its API
//! server is reached at several addresses, which kvpn takes for clusters of their own, with equal ranges.
//!
//! It decides nothing about right or wrong: the tests do.

use std::process::Command;

use kvpn::outcome::Outcome;
use kvpn::played::Played;
use serde_json::{Value, json};

use crate::netns::{Sandbox, program};

/// The contexts of the kubeconfig, and where the API server of each is.
const CONTEXTS: [(&str, &str); 3] = [("a", "192.0.2.1"), ("b", "192.0.2.3"), ("c", "192.0.2.4")];

/// A box from which clusters can be reached, gone with its sessions when the test ends.
pub(crate) struct Laptop {
    pub(crate) sandbox: Sandbox,
    /// Ends after the box.
    _cluster: Played,
}

impl Laptop {
    /// Starts a box of [`Sandbox::with_names`], and the clusters.
    pub(crate) fn start(name: &str, who: &str) -> Self {
        let cluster = Played::start(name, CONTEXTS[0].1);
        let network = cluster.laptop();
        let sandbox = Sandbox::with_names_in(&network, name, who);
        for (_, address) in &CONTEXTS[1..] {
            let address = format!("{address}/24");
            let words = [
                "-n",
                cluster.network(),
                "addr",
                "add",
                &address,
                "dev",
                "eth0",
            ];
            Outcome::of(Command::new("ip").args(words)).ok();
        }
        let write = "mkdir /run/cluster && printf %s \"$1\" >/run/cluster/kubeconfig";
        let config = kubeconfig(&cluster).to_string();
        sandbox.run(&["bash", "-c", write, "bash", &config]).ok();
        Self {
            sandbox,
            _cluster: cluster,
        }
    }

    /// Somebody with a home of their own, whose sessions nobody else's kvpn can ask.
    pub(crate) fn user(&self, name: &'static str) -> User<'_> {
        let sandbox = &self.sandbox;
        User { name, sandbox }
    }

    /// The addresses that programs get for a name.
    pub(crate) fn look_up(&self, name: &str) -> String {
        let line =
            format!("chroot $KVPN_BOX_ROOT getent ahostsv4 {name} | awk 'NR == 1 {{print $1}}'");
        self.sandbox.shell(&line).stdout.trim().to_owned()
    }
}

/// A user of the box. All of them are root.
pub(crate) struct User<'a> {
    name: &'static str,
    pub(crate) sandbox: &'a Sandbox,
}

impl User<'_> {
    /// Runs kvpn to its end.
    pub(crate) fn kvpn(&self, words: &[&str]) -> Outcome {
        let program = program();
        let home = format!("HOME=/run/cluster/{}", self.name);
        let user = [
            "env",
            "-u",
            "XDG_RUNTIME_DIR",
            "-u",
            "XDG_STATE_HOME",
            &home,
        ];
        let kvpn = [
            "KUBECONFIG=/run/cluster/kubeconfig",
            &program.to_string_lossy(),
        ];
        self.sandbox.run(&[&user, &kvpn[..], words].concat())
    }

    /// Connects to the cluster of a context, in a session of the same name.
    #[track_caller]
    pub(crate) fn connect(&self, context: &str) -> Outcome {
        self.kvpn(&["connect", "--context", context, "--name", context])
            .ok()
    }

    /// What `kvpn status -o json` says of a session.
    #[track_caller]
    pub(crate) fn session(&self, name: &str) -> Value {
        let status = self.kvpn(&["status", "-o", "json"]).ok().json();
        let mut sessions = status["sessions"].as_array().unwrap().iter();
        let session = sessions.find(|session| session["name"] == name);
        session
            .unwrap_or_else(|| panic!("no session {name}: {status}"))
            .clone()
    }

    /// The process that holds a session's TUN, as the box counts.
    pub(crate) fn helper_of(&self, name: &str) -> String {
        let interface = &self.session(name)["network"]["interface"];
        let journal =
            format!("grep -l {interface} /var/lib/kvpn/journal-* | sed 's/.*journal-//; s/-.*//'");
        self.sandbox.shell(&journal).ok().stdout.trim().to_owned()
    }
}

impl Drop for Laptop {
    #[expect(
        clippy::print_stderr,
        reason = "what a test that failed needs, and nobody else"
    )]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = "tail -n 40 /run/cluster/*/.local/state/kvpn/*.log";
            eprintln!("{}", self.sandbox.shell(logs).stdout);
        }
    }
}

fn kubeconfig(cluster: &Played) -> Value {
    let mut config: Value = serde_json::from_str(&cluster.kubeconfig()).unwrap();
    let (one, user) = (
        config["clusters"][0]["cluster"].take(),
        config["users"][0]["name"].clone(),
    );
    let cluster = |(name, address)| {
        let mut cluster = one.clone();
        cluster["server"] = json!(format!("http://{address}:6443"));
        json!({"name": name, "cluster": cluster})
    };
    let context = |(name, _)| json!({"name": name, "context": {"cluster": name, "user": user}});
    config["clusters"] = json!(CONTEXTS.map(cluster));
    config["contexts"] = json!(CONTEXTS.map(context));
    config["current-context"] = json!(CONTEXTS[0].0);
    config
}
