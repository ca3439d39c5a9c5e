//! `kvpn run` and `kvpn env` as a user without any privilege: the program has the cluster, the laptop does not notice.

use std::time::Duration;

use kvpn::cluster::Cluster;
use kvpn::gateway::Datapath;
use kvpn::laptop::{Laptop, Resolver};
use kvpn::outcome::{Outcome, eventually};

/// A laptop whose user `dev` (tests/cluster/laptop-init.sh) has no right but to the cluster.
pub(super) struct Unprivileged {
    laptop: Laptop,
}

impl Unprivileged {
    pub(super) fn start(name: &str, resolver: Resolver) -> Self {
        let laptop = Laptop::start(name, resolver);
        let line = "install -o dev -m 600 \"$KUBECONFIG\" /home/dev/kubeconfig";
        laptop.shell(line).ok();
        Self { laptop }
    }

    /// A line of shell as `dev`, without capabilities and without a way to get any.
    pub(super) fn shell(&self, line: &str) -> Outcome {
        let words = [
            "setpriv",
            "--reuid=dev",
            "--regid=dev",
            "--clear-groups",
            "--bounding-set=-all",
            "--no-new-privs",
            "env",
            "HOME=/home/dev",
            "KUBECONFIG=/home/dev/kubeconfig",
            "sh",
            "-c",
        ];
        self.laptop.run(&[&words[..], &[line]].concat())
    }

    /// What kvpn could have changed, as text to compare.
    pub(super) fn traces(&self) -> String {
        self.laptop.traces()
    }

    /// `kvpn run` with the shared gateway.
    fn run(&self, options: &str, line: &str) -> Outcome {
        let gateway = Datapath::Userspace.gateway();
        self.shell(&format!(
            "cd /tmp && kvpn run --gateway-namespace {gateway} {options} -- sh -c '{line}'"
        ))
    }

    #[track_caller]
    fn nothing_is_left(&self, before: &str) {
        self.laptop
            .is_as_before(before, Duration::from_secs(1), "the program's end");
        let left = self.shell("ls -A ~/.local/state/kvpn/run/run").ok().stdout;
        assert_eq!(left, "", "files of sessions");
    }
}

#[test]
fn a_program_reaches_the_cluster_and_the_laptop_stays_as_it_is() {
    for resolver in [Resolver::Plain, Resolver::Resolved] {
        let user = Unprivileged::start(&format!("run-{resolver:?}").to_lowercase(), resolver);
        let before = user.laptop.traces();
        let said = user.run("", "id -u; pwd; curl -fsS -m 5 http://echo/; curl -fsS -m 5 http://echo.other.svc/; exit 7");
        let said = said.fails_with(7).stdout;
        assert!(said.starts_with("61000\n/tmp\n"), "{said}");
        assert_eq!(said.matches("host=echo-").count(), 2, "{said}");
        user.nothing_is_left(&before);
    }
}

/// Names of the internet are answered, but there is no way out but the tunnel, and none to the laptop's own loopback.
#[test]
fn nothing_but_the_tunnel_leads_out() {
    if !Cluster::get().has("the stand-in internet") {
        return;
    }
    let user = Unprivileged::start("run-inside", Resolver::Resolved);
    user.run("", "getent ahostsv4 example.com")
        .ok()
        .prints(&["198.51.100.7"]);
    user.run("", "curl -sS -m 5 http://198.51.100.7/")
        .fails_with(7);
    user.laptop
        .shell("setsid -f python3 -m http.server --bind 127.0.0.1 8000 >/dev/null 2>&1")
        .ok();
    let serves = || user.shell("curl -fsS -m 1 http://127.0.0.1:8000/").code == 0;
    assert!(
        eventually(Duration::from_secs(5), serves),
        "the laptop's own server"
    );
    user.run("", "curl -sS -m 5 http://127.0.0.1:8000/")
        .fails_with(7);
    // Its own loopback is one, too.
    user.run("", "python3 -m http.server --bind 127.0.0.1 8000 >/dev/null 2>&1 & curl -fsS --retry 20 --retry-connrefused --retry-delay 1 http://127.0.0.1:8000/").ok();
}

#[test]
fn two_at_once_are_in_two_namespaces() {
    let user = Unprivileged::start("run-two", Resolver::Plain);
    let gateway = Datapath::Userspace.gateway();
    let one = |namespace: &str| {
        format!(
            "kvpn run -n {namespace} --gateway-namespace {gateway} -- sh -c 'echo > /tmp/{namespace}; \
                 until [ -e /tmp/default ] && [ -e /tmp/other ]; do sleep 0.02; done; curl -fsS -m 5 http://echo/ | cut -d\" \" -f1'"
        )
    };
    let said = user
        .shell(&format!("{} & {}; wait", one("default"), one("other")))
        .ok();
    let of = |namespace: &str| {
        let pods = Cluster::get().pods(namespace, "app=echo");
        let names = pods
            .iter()
            .filter_map(|pod| pod["metadata"]["name"].as_str());
        let lines: Vec<String> = names.map(|name| format!("host={name}")).collect();
        let answers = said.stdout.lines();
        answers
            .filter(|answer| lines.iter().any(|line| line == answer))
            .count()
    };
    assert_eq!((of("default"), of("other")), (1, 1), "{said}");
}

#[test]
fn a_killed_program_leaves_nothing() {
    let user = Unprivileged::start("run-killed", Resolver::Plain);
    let before = user.laptop.traces();
    for signal in ["TERM", "KILL"] {
        let said = user.run("", &format!("kill -{signal} $$"));
        assert_ne!(said.code, 0, "{said}");
        user.nothing_is_left(&before);
    }
}

#[test]
fn a_program_runs_like_the_pod() {
    let user = Unprivileged::start("run-like", Resolver::Plain);
    let pods = Cluster::get().pods("default", "app=echo");
    let printed = user
        .shell("kvpn -n default env deployment/echo -o json")
        .ok()
        .json();
    let pod = printed["pod"].as_str().unwrap();
    assert!(
        pods.iter().any(|known| known["metadata"]["name"] == pod),
        "{printed}"
    );
    let address = Cluster::get().service("default", "echo")[0].to_string();
    assert_eq!(printed["variables"]["ECHO_SERVICE_HOST"], *address);
    user.run(
        "-n default --like echo",
        "echo $ECHO_SERVICE_HOST; curl -fsS -m 5 http://$ECHO_SERVICE_HOST/",
    )
    .ok()
    .prints(&[&address, "host=echo-"]);
    user.run("--like nosuch", "true")
        .fails_with(1)
        .says(&["deployment, statefulset, daemonset or pod nosuch"]);
}
