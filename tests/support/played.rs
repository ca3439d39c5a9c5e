//! A played cluster (tests/osparts/cluster.py) in a network namespace of its own: the real agent connects through the real gateway
//! where there is no Kubernetes.
//!
//! Nothing here decides what is right: that stands in the tests.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::outcome::Outcome;
use crate::settings::{Settings, checkout};

/// A cluster that ends with the test.
#[derive(Debug)]
pub struct Played {
    namespace: String,
    address: &'static str,
    process: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Played {
    /// Starts one that a laptop finds at this address.
    ///
    /// # Panics
    ///
    /// Without root or the gateway's program, or when it does not start.
    pub fn start(name: &str, address: &'static str) -> Self {
        let gateway = Settings::read().client.with_file_name("kvpn-gateway");
        assert!(
            gateway.exists(),
            "{} is not built: cargo build -p kvpn-gateway",
            gateway.display()
        );
        let namespace = format!("kvpn-played-{name}-{}", std::process::id());
        ip(&format!("netns add {namespace}"));
        ip(&format!("-n {namespace} link set lo up"));
        let mut process = Command::new("ip")
            .args(["netns", "exec", &namespace])
            .arg(checkout().join("tests/osparts/cluster.py"))
            .arg(gateway)
            .arg(address)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("ip can be run");
        let stdout = process.stdout.take().expect("it was piped");
        let mut played = Self {
            namespace,
            address,
            stdin: process.stdin.take(),
            stdout: BufReader::new(stdout),
            process,
        };
        played.await_gateway();
        played
    }

    /// The cluster's own network.
    pub fn network(&self) -> &str {
        &self.namespace
    }

    /// A further network, which leads to the cluster and nowhere else.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    pub fn laptop(&self) -> String {
        let (cluster, address) = (&self.namespace, self.address);
        let laptop = format!("{cluster}-l");
        ip(&format!("netns add {laptop}"));
        ip(&format!("-n {laptop} link set lo up"));
        ip(&format!(
            "-n {laptop} link add eth0 type veth peer name eth0 netns {cluster}"
        ));
        ip(&format!("-n {cluster} addr add {address}/24 dev eth0"));
        // Its link-local address would come to stay a second later.
        ip(&format!("-n {laptop} link set eth0 addrgenmode none"));
        ip(&format!("-n {cluster} link set eth0 up"));
        ip(&format!("-n {laptop} addr add 192.0.2.2/24 dev eth0"));
        ip(&format!("-n {laptop} link set eth0 up"));
        ip(&format!("-n {laptop} route add default via {address}"));
        laptop
    }

    /// What leads to it. The certificate is nobody's: without one the client looks for the machine's, and there are none.
    ///
    /// # Panics
    ///
    /// Without openssl.
    pub fn kubeconfig(&self) -> String {
        const CERTIFICATE: &str = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout /dev/null \
            -subj /CN=played -days 1 2>/dev/null | base64 -w0";
        let certificate = Outcome::of(Command::new("sh").args(["-c", CERTIFICATE])).ok();
        serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "played",
            "contexts": [{ "name": "played", "context": { "cluster": "played", "user": "played", "namespace": "default" } }],
            "clusters": [{ "name": "played", "cluster": {
                "server": format!("http://{}:6443", self.address), "certificate-authority-data": certificate.stdout,
            } }],
            "users": [{ "name": "played", "user": { "token": "played" } }],
        })
        .to_string()
    }

    /// Sets the gateway's clock ahead by more than a session's lease, and waits until it has forgotten all sessions.
    ///
    /// # Panics
    ///
    /// When the cluster has ended.
    pub fn pass_leases(&mut self) {
        let stdin = self.stdin.as_mut().expect("it is open");
        stdin.write_all(b"\n").expect("the cluster lives");
        self.await_gateway();
    }

    fn await_gateway(&mut self) {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("it is text");
        assert_eq!(line, "ready\n", "the played cluster has ended");
    }
}

impl Drop for Played {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.process.wait();
        let laptop = format!("{}-l", self.namespace);
        for namespace in [&laptop, &self.namespace] {
            let _ = Outcome::of(Command::new("ip").args(["netns", "del", namespace]));
        }
    }
}

fn ip(words: &str) {
    Outcome::of(Command::new("ip").args(words.split(' '))).ok();
}
