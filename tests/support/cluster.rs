//! The Kubernetes that a test binary runs against: the one of tests/cluster, started if it is not up, or the
//! tester's own. It is left running; `make cluster-down` ends it.

use std::fs::File;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;

use crate::outcome::Outcome;
use crate::settings::{Settings, checkout};

/// Exit status of up.sh when a cluster is up.
const UP_ALREADY: i32 = 3;

/// A Kubernetes cluster with the workloads of tests/cluster/manifests.
#[derive(Debug)]
pub struct Cluster {
    /// The administrator's kubeconfig.
    pub kubeconfig: PathBuf,
    /// What the environment said.
    pub settings: Settings,
    /// Where the test cluster keeps its files.
    state: PathBuf,
    /// Held as long as the process runs: a second test run waits, for both would use the same namespaces.
    _turn: File,
}

/// Somebody who may do less than the administrator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// ClusterRole `admin` in namespace `restricted`.
    NamespaceAdmin,
    /// ClusterRole `edit` in namespace `restricted`.
    NamespaceEditor,
    /// No right at all.
    Nobody,
    /// The administrator, through a credential plugin.
    ExecPlugin,
    /// Nobody yet: the credential plugin never answers.
    HangingPlugin,
    /// A token that the API server does not take.
    ExpiredToken,
}

impl User {
    fn file(self) -> &'static str {
        match self {
            Self::NamespaceAdmin => "ns-admin",
            Self::NamespaceEditor => "ns-edit",
            Self::Nobody => "nobody",
            Self::ExecPlugin => "exec-plugin",
            Self::HangingPlugin => "hanging-plugin",
            Self::ExpiredToken => "expired-token",
        }
    }
}

impl Cluster {
    /// The cluster of this test run, ready to be used.
    ///
    /// # Panics
    ///
    /// When it cannot be started, or its workloads do not get ready.
    pub fn get() -> &'static Self {
        static CLUSTER: OnceLock<Cluster> = OnceLock::new();
        CLUSTER.get_or_init(|| {
            let cluster = Self::start(Settings::read());
            cluster.await_workloads();
            cluster
        })
    }

    fn start(settings: Settings) -> Self {
        for file in [&settings.client, &settings.image_tar] {
            assert!(
                file.exists(),
                "{} is missing: run `make build image`",
                file.display()
            );
        }
        let state = PathBuf::from(in_lib("mkdir -p \"$CACHE\"; echo \"$STATE\""));
        let turn = File::create(state.with_extension("lock")).expect("the cache can be written");
        turn.lock().expect("files there can be locked");
        if let Some(kubeconfig) = settings.kubeconfig.clone() {
            return Self {
                kubeconfig,
                settings,
                state,
                _turn: turn,
            };
        }
        script("build.sh", &[]).ok();
        let up = script("up.sh", &[]);
        assert!([0, UP_ALREADY].contains(&up.code), "{up}");
        script("import-image.sh", &[&settings.image_tar.to_string_lossy()]).ok();
        Self {
            kubeconfig: state.join("kubeconfig"),
            settings,
            state,
            _turn: turn,
        }
    }

    fn await_workloads(&self) {
        for what in ["deploy/echo", "statefulset/db"] {
            self.kubectl(&["rollout", "status", what, "--timeout=120s"])
                .ok();
        }
        self.kubectl(&[
            "-n",
            "other",
            "rollout",
            "status",
            "deploy/echo",
            "--timeout=120s",
        ])
        .ok();
    }

    /// Whether this is the test cluster, whose nodes, users and laptops the scripts of tests/cluster made.
    pub fn is_ours(&self) -> bool {
        self.settings.kubeconfig.is_none()
    }

    /// Whether a test that needs `what` of the test cluster can run; says so when it cannot.
    #[expect(clippy::print_stdout, reason = "a test that does not run must say so")]
    pub fn has(&self, what: &str) -> bool {
        if !self.is_ours() {
            println!("not run: {what} is the test cluster's alone");
        }
        self.is_ours()
    }

    /// Runs kubectl as the administrator.
    pub fn kubectl(&self, arguments: &[&str]) -> Outcome {
        let mut command = if self.is_ours() {
            Command::new(tool("k"))
        } else {
            Command::new("kubectl")
        };
        Outcome::of(command.env("KUBECONFIG", &self.kubeconfig).args(arguments))
    }

    /// An object, as the API gives it.
    ///
    /// # Panics
    ///
    /// When there is none.
    #[track_caller]
    pub fn object(&self, namespace: &str, name: &str) -> Value {
        self.kubectl(&["-n", namespace, "get", name, "-o", "json"])
            .ok()
            .json()
    }

    /// The pods that a label selects, as the API gives them.
    ///
    /// # Panics
    ///
    /// When they cannot be listed.
    pub fn pods(&self, namespace: &str, label: &str) -> Vec<Value> {
        let list = self
            .kubectl(&["-n", namespace, "get", "pods", "-l", label, "-o", "json"])
            .ok()
            .json();
        list["items"].as_array().cloned().unwrap_or_default()
    }

    /// The addresses of a Service, IPv4 first.
    ///
    /// # Panics
    ///
    /// When there is no such Service.
    pub fn service(&self, namespace: &str, name: &str) -> Vec<IpAddr> {
        addresses(
            &self.object(namespace, &format!("service/{name}"))["spec"]["clusterIPs"],
            None,
        )
    }

    /// A kubeconfig with which a user, on the test cluster, signs in.
    ///
    /// # Panics
    ///
    /// On a cluster of the tester's own, which has no such users.
    pub fn user(&self, user: User) -> PathBuf {
        assert!(
            self.is_ours(),
            "the users of manifests/users.yaml have certificates of the test cluster's CA"
        );
        self.state.join("users").join(user.file())
    }

    /// Applies a manifest, as the administrator.
    ///
    /// # Panics
    ///
    /// When it is not taken.
    pub fn apply(&self, manifest: &Value) {
        let text = manifest.to_string();
        let file = std::env::temp_dir().join(format!(
            "kvpn-manifest-{}-{:?}.json",
            std::process::id(),
            std::thread::current().id()
        ));
        std::fs::write(&file, text).expect("a temporary file can be written");
        self.kubectl(&["apply", "-f", &file.to_string_lossy()]).ok();
        std::fs::remove_file(&file).expect("it was just written");
    }

    /// Makes an empty namespace: one of that name that exists is deleted first.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    pub fn fresh_namespace(&self, name: &str, labels: &Value) {
        self.delete_namespace(name);
        self.apply(&serde_json::json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels },
        }));
    }

    /// Deletes a namespace, if it is there, and waits for it to be gone.
    ///
    /// # Panics
    ///
    /// When it stays.
    pub fn delete_namespace(&self, name: &str) {
        self.kubectl(&[
            "delete",
            "namespace",
            name,
            "--ignore-not-found",
            "--timeout=120s",
        ])
        .ok();
    }

    /// What the stand-in public resolver was asked so far, a line a query.
    ///
    /// # Panics
    ///
    /// When its log cannot be read.
    pub fn public_queries(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.state.join("kvpn-net/queries.log"))
            .expect("the resolver's log");
        log.lines().map(ToOwned::to_owned).collect()
    }

    /// Runs a command on a node, as root there.
    pub fn on_node(&self, number: u8, words: &[&str]) -> Outcome {
        let number = number.to_string();
        Outcome::of(Command::new(tool("enter")).arg(number).args(words))
    }

    /// Ends the API server, or starts it again: `node.sh api-stop|api-start`.
    ///
    /// # Panics
    ///
    /// When that fails.
    pub fn api_server(&self, action: &str) {
        script("node.sh", &[&format!("api-{action}")]).ok();
    }

    /// Cuts a node off, or gives it its power back: `node.sh kill|start N`.
    ///
    /// # Panics
    ///
    /// When that fails.
    pub fn node(&self, action: &str, number: u8) {
        script("node.sh", &[action, &number.to_string()]).ok();
    }
}

/// The addresses in a list of strings, or of objects with the address under `key`.
pub fn addresses(list: &Value, key: Option<&str>) -> Vec<IpAddr> {
    let entries = list.as_array().into_iter().flatten();
    let texts = entries.filter_map(|entry| key.map_or(Some(entry), |key| entry.get(key)));
    texts
        .filter_map(|text| text.as_str()?.parse().ok())
        .collect()
}

/// The addresses of a pod, IPv4 first.
pub fn pod_addresses(pod: &Value) -> Vec<IpAddr> {
    addresses(&pod["status"]["podIPs"], Some("ip"))
}

/// Runs a script of tests/cluster to its end.
pub(crate) fn script(name: &str, arguments: &[&str]) -> Outcome {
    Outcome::of(Command::new(tool(name)).args(arguments))
}

pub(crate) fn tool(name: &str) -> PathBuf {
    checkout().join("tests/cluster").join(name)
}

fn in_lib(what: &str) -> String {
    let line = format!(". {}; {what}", tool("lib.sh").display());
    Outcome::of(Command::new("bash").args(["-c", &line]))
        .ok()
        .stdout
        .trim()
        .to_owned()
}

/// The time within which anything that goes well in a cluster has gone well.
pub const PATIENCE: Duration = Duration::from_secs(60);
