//! Whole sessions in a box, without Kubernetes: the real `kvpn` with its agent and helper, and in a network beside the box a real gateway, the
//! cluster's name server, and what stands in for API servers (tests/osparts/apiserver.py). The servers lead to the one gateway: kvpn
//! takes them for clusters of their own, with equal ranges.
//!
//! It decides nothing about right or wrong: the tests do.

use kvpn::outcome::Outcome;
use kvpn::settings::checkout;
use serde_json::{Value, json};

use crate::netns::{Sandbox, program};

/// The contexts of the kubeconfig, each of a cluster of its own.
const CONTEXTS: [(&str, u16); 3] = [("a", 6443), ("b", 6444), ("c", 6445)];

/// The cluster's network: 203.0.113.1 is the box, 203.0.113.2 the gateway's pod, which is no private address and so not one of the cluster's
/// ranges.
const CLUSTERS: &str = "
ip link add cluster0 type veth peer name cluster1
ip addr add 203.0.113.1/24 dev cluster1
ip link set cluster1 addrgenmode none; ip link set cluster1 up
mkdir /run/cluster; cd /run/cluster; printf %s \"$1\" >kubeconfig
printf 'nameserver 203.0.113.2\\nsearch kvpn.svc.cluster.local svc.cluster.local cluster.local\\n' >resolv.conf
# Not used without TLS, but there have to be some, and the box has none.
openssl req -config <(printf '[req]\ndistinguished_name=name\n[name]\n') -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \\
  -subj /CN=box -keyout /dev/null -out ca.pem 2>/dev/null
setsid -f unshare --net bash -c '
  echo $$ >pid
  until ip link show cluster0 >/dev/null 2>&1; do sleep 0.01; done
  ip link set lo up; ip addr add 203.0.113.2/24 dev cluster0; ip link set cluster0 up
  chroot $KVPN_BOX_ROOT dnsmasq -u root -C /dev/null --no-resolv --no-hosts --pid-file= --listen-address=203.0.113.2 --bind-interfaces --local=/#/ \\
    --host-record=kubernetes.default.svc.cluster.local,10.96.0.1 --host-record=web.default.svc.cluster.local,10.96.0.7 \\
    --host-record=far.default.svc.cluster.local,10.96.4.7
  \"$1\" 203.0.113.2 6443 6444 6445 &
  exec \"$0\" --datapath userspace --pod-ips 10.244.0.9 --pod-name kvpn-gateway-0 --pod-namespace kvpn --resolv-conf resolv.conf
' \"$2\" \"$3\" >log 2>&1 </dev/null
until [ -s pid ]; do sleep 0.01; done
ip link set cluster0 netns $(cat pid)
for port in 6443 6180; do
  for i in $(seq 500); do
    [ -z \"$(nsenter --net=/proc/$(cat pid)/ns/net ss -Htln sport = :$port)\" ] || continue 2
    sleep 0.01
  done
  cat log >&2; exit 1
done
";

/// A box from which clusters can be reached, gone with its sessions when the test ends.
pub(crate) struct Laptop {
    pub(crate) sandbox: Sandbox,
}

impl Laptop {
    /// Starts a box of [`Sandbox::with_names`], and the clusters.
    pub(crate) fn start(name: &str, who: &str) -> Self {
        let sandbox = Sandbox::with_names(name, who);
        let gateway = program().with_file_name("kvpn-gateway");
        assert!(
            gateway.exists(),
            "{} is not built: cargo build -p kvpn-gateway",
            gateway.display()
        );
        let server = checkout().join("tests/osparts/apiserver.py");
        let mut command = sandbox.command(&["bash", "-c", CLUSTERS, "clusters"]);
        command.arg(kubeconfig().to_string());
        Outcome::of(command.arg(gateway).arg(server)).ok();
        Self { sandbox }
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
            let logs = "tail -n 40 /run/cluster/*/.local/state/kvpn/*.log /run/cluster/log";
            eprintln!("{}", self.sandbox.shell(logs).stdout);
        }
    }
}

fn kubeconfig() -> Value {
    let cluster = |(name, port)| {
        let server = format!("http://203.0.113.2:{port}");
        json!({"name": name, "cluster": {"server": server, "certificate-authority": "/run/cluster/ca.pem"}})
    };
    let context = |(name, _)| json!({"name": name, "context": {"cluster": name, "user": "u"}});
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "a",
        "users": [{"name": "u", "user": {}}],
        "clusters": CONTEXTS.map(cluster),
        "contexts": CONTEXTS.map(context),
    })
}
