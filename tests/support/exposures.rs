//! Exposures as callers in the cluster see them: an origin whose pods say `origin`, Services of every kind that lead to it, and
//! pods that ask.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::cluster::{Cluster, PATIENCE};
use crate::outcome::{Outcome, eventually};
use crate::traffic::Count;

/// The name that the origin's pods say.
pub const ORIGIN: &str = "origin";

/// The product's promise: whatever dies, the origin serves again after this time.
pub const RESTORED: Duration = Duration::from_secs(15);

/// How long the gateway goes on proxying after a restore; then the shadow goes.
pub const GRACE: Duration = Duration::from_secs(30);

/// A namespace with an origin and somebody who asks.
#[derive(Debug)]
pub struct Origin {
    /// The namespace, which is the Services' too.
    pub namespace: &'static str,
    polls: AtomicU32,
}

impl Origin {
    /// Two pods of the origin and two that ask, one of each on each node, in a namespace that allows no privileges.
    ///
    /// # Panics
    ///
    /// When they do not get ready.
    pub fn start(namespace: &'static str) -> Self {
        Self::on(namespace, &[1, 2])
    }

    /// The same on these nodes alone.
    ///
    /// # Panics
    ///
    /// When they do not get ready.
    pub fn on(namespace: &'static str, nodes: &[u8]) -> Self {
        let cluster = Cluster::get();
        let labels = json!({ "pod-security.kubernetes.io/enforce": "restricted" });
        cluster.fresh_namespace(namespace, &labels);
        let mut pods = Vec::new();
        for node in nodes {
            pods.push(pod(
                namespace,
                &format!("origin-{node}"),
                *node,
                &["traffic", "serve", "-name", ORIGIN],
            ));
            pods.push(pod(namespace, &asker(*node), *node, &["sleep", "1000000"]));
        }
        cluster.apply(&json!({ "apiVersion": "v1", "kind": "List", "items": pods }));
        let wait = [
            "wait",
            "pod",
            "--all",
            "--for=condition=Ready",
            "--timeout=60s",
        ];
        cluster
            .kubectl(&[&["-n", namespace][..], &wait].concat())
            .ok();
        Self {
            namespace,
            polls: AtomicU32::new(0),
        }
    }

    /// Runs kubectl in the namespace, as the administrator.
    pub fn kubectl(&self, words: &[&str]) -> Outcome {
        Cluster::get().kubectl(&[&["-n", self.namespace][..], words].concat())
    }

    /// Makes a Service of the origin's four ports; `more` is merged into its spec.
    ///
    /// # Panics
    ///
    /// When the API server refuses it.
    pub fn service(&self, name: &str, more: &Value) {
        let mut spec = json!({
            "selector": { "app": ORIGIN },
            "ports": [
                { "name": "http", "port": 80, "targetPort": 8080 },
                { "name": "grpc", "port": 8081, "targetPort": "grpc" },
                { "name": "lines", "port": 9000 },
                { "name": "datagrams", "port": 9000, "protocol": "UDP" },
            ],
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "spec": spec,
            "metadata": { "name": name, "namespace": self.namespace, "labels": { "team": "shop" }, "annotations": { "note": "ours" } },
        });
        Cluster::get().apply(&service);
    }

    /// A Service without what the API server counts by itself; the rest has to be the same, byte for byte, after an exposure.
    ///
    /// # Panics
    ///
    /// When there is no such Service.
    pub fn object(&self, service: &str) -> Value {
        let mut object = Cluster::get().object(self.namespace, &format!("service/{service}"));
        let metadata = object["metadata"]
            .as_object_mut()
            .expect("objects have metadata");
        metadata.remove("resourceVersion");
        metadata.remove("managedFields");
        object
    }

    /// The first address of a Service.
    ///
    /// # Panics
    ///
    /// When it has none.
    pub fn address(&self, service: &str) -> String {
        let addresses = Cluster::get().service(self.namespace, service);
        addresses
            .first()
            .expect("a Service with an address")
            .to_string()
    }

    /// A URL at which the Service's HTTP port is.
    pub fn url(&self, service: &str) -> String {
        format!("http://{}:80", bracketed(&self.address(service)))
    }

    /// Which pods of the origin run, and how often their containers were started again.
    pub fn lives(&self) -> Vec<String> {
        let pods = Cluster::get().pods(self.namespace, &format!("app={ORIGIN}"));
        let life = |pod: &Value| {
            let restarts = &pod["status"]["containerStatuses"][0]["restartCount"];
            format!("{} {restarts}", pod["metadata"]["uid"])
        };
        pods.iter().map(life).collect()
    }

    /// Asks a number of questions from a pod of node 1: words of `traffic burst`.
    ///
    /// # Panics
    ///
    /// When the pod cannot be asked.
    #[track_caller]
    pub fn asks(&self, words: &[&str]) -> Count {
        Count::of(self.burst(words).ok().json())
    }

    fn burst(&self, words: &[&str]) -> Outcome {
        let command = [
            "exec",
            &asker(1),
            "--",
            "traffic",
            "burst",
            "-patience",
            "2s",
        ];
        self.kubectl(&[&command[..], words].concat())
    }

    /// What `traffic streams` or `traffic every` finds from a pod of node 1: a count for each kind of call, or mode.
    ///
    /// # Panics
    ///
    /// When the pod cannot be asked.
    pub fn asks_in_all_ways(&self, words: &[&str]) -> Vec<(String, Count)> {
        let command = ["exec", &asker(1), "--", "traffic"];
        let found = self.kubectl(&[&command[..], words].concat()).ok().json();
        let kinds = found.as_object().cloned().unwrap_or_default();
        kinds
            .into_iter()
            .map(|(kind, count)| (kind, Count::of(count)))
            .collect()
    }

    /// Somebody answers eight questions in a row at a Service's HTTP port, within that time.
    pub fn is_answered_by(&self, service: &str, server: &str, limit: Duration) -> bool {
        self.matched_by(service, &[], server, limit)
    }

    /// The same for questions with more words of `traffic burst`, such as `-header`.
    pub fn matched_by(&self, service: &str, more: &[&str], server: &str, limit: Duration) -> bool {
        let url = self.url(service);
        let question = ["-to", &url, "-n", "8", "-c", "2"];
        let question = [&question[..], more].concat();
        eventually(limit, || {
            let answers = self.burst(&question);
            answers.code == 0 && Count::of(answers.json()).by(server) == 8
        })
    }

    /// A Service is what it was, within that time.
    ///
    /// # Panics
    ///
    /// With both, when it is not.
    #[track_caller]
    pub fn is_again(&self, service: &str, before: &Value, limit: Duration) {
        let mut now = Value::Null;
        let same = eventually(limit, || {
            now = self.object(service);
            now == *before
        });
        assert!(
            same,
            "{limit:?} later Service {service} is not as before:\n{before:#}\n{now:#}"
        );
    }

    /// Whether a Service of that name is there.
    pub fn has(&self, service: &str) -> bool {
        self.kubectl(&["get", "service", service]).code == 0
    }

    /// Asks 50 times a second from a pod of that node, until [`Poll::stop`]; words of `traffic poll`. It goes on while the API server
    /// is away.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn poll(&self, node: u8, words: &[&str]) -> Poll<'_> {
        let number = self.polls.fetch_add(1, Ordering::Relaxed);
        let file = format!("/tmp/poll-{number}.json");
        let line = format!(
            "traffic poll -for 10m {} >{file} 2>&1 & echo $!",
            words.join(" ")
        );
        let started = self
            .kubectl(&["exec", &asker(node), "--", "sh", "-c", &line])
            .ok();
        Poll {
            origin: self,
            node,
            file,
            pid: started.stdout.trim().to_owned(),
        }
    }
}

/// The pods of a test that went well make way for those of the next.
impl Drop for Origin {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let delete = ["delete", "namespace", self.namespace, "--wait=false"];
            Cluster::get().kubectl(&delete).ok();
        }
    }
}

/// A poller in a pod.
#[derive(Debug)]
pub struct Poll<'origin> {
    origin: &'origin Origin,
    node: u8,
    file: String,
    pid: String,
}

impl Poll<'_> {
    /// Ends it, and gives what it counted.
    ///
    /// # Panics
    ///
    /// When the pod cannot be asked.
    pub fn stop(self) -> Count {
        let Self {
            origin,
            node,
            file,
            pid,
        } = self;
        let line = format!("kill -INT {pid}; until [ -s {file} ]; do sleep 0.05; done; cat {file}");
        let said = origin.kubectl(&["exec", &asker(node), "--", "sh", "-c", &line]);
        Count::of(said.ok().json())
    }
}

/// Now, as pods and laptops of the test cluster tell the time: they share the machine's clock.
///
/// # Panics
///
/// When the machine's clock stands before 1970.
#[expect(
    clippy::disallowed_methods,
    reason = "times that programs print are compared with it"
)]
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let millis = since.expect("a clock that was set").as_millis();
    i64::try_from(millis).expect("years to come")
}

/// Waits until all nodes and pods are ready, as a test that took a node away leaves them.
///
/// # Panics
///
/// When they do not get so.
pub fn await_nodes() {
    let ready = || {
        let all = Cluster::get().kubectl(&["get", "nodes,pods", "-A", "-o", "json"]);
        let all = (all.code == 0).then(|| all.json());
        let items = all.and_then(|all| all["items"].as_array().cloned());
        items.is_some_and(|items| items.iter().all(is_ready))
    };
    assert!(
        eventually(2 * PATIENCE, ready),
        "{}",
        Cluster::get().kubectl(&["get", "nodes,pods", "-A"])
    );
}

fn is_ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|one| one["type"] == "Ready" && one["status"] == "True")
}

fn asker(node: u8) -> String {
    format!("asker-{node}")
}

/// An address as it stands in a URL.
pub fn bracketed(address: &str) -> String {
    if address.contains(':') {
        format!("[{address}]")
    } else {
        address.to_owned()
    }
}

fn pod(namespace: &str, name: &str, node: u8, command: &[&str]) -> Value {
    let mut container = json!({
        "name": "traffic", "image": "kvpn.test/echo:1", "imagePullPolicy": "Never", "command": command,
        "volumeMounts": [{ "name": "tmp", "mountPath": "/tmp" }],
        "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
    });
    let is_origin = name.starts_with(ORIGIN);
    if is_origin {
        container["ports"] = json!([{ "name": "http", "containerPort": 8080 }, { "name": "grpc", "containerPort": 8081 }]);
        container["readinessProbe"] =
            json!({ "httpGet": { "path": "/", "port": 8080 }, "periodSeconds": 1 });
    }
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": namespace, "labels": { "app": if is_origin { ORIGIN } else { "asker" } } },
        "spec": {
            "nodeName": format!("kvpn-node{node}"), "terminationGracePeriodSeconds": 0, "containers": [container],
            "volumes": [{ "name": "tmp", "emptyDir": {} }],
            "securityContext": { "runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": { "type": "RuntimeDefault" } },
        },
    })
}
