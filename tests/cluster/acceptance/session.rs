//! A session from `connect` to `disconnect`: what works meanwhile, and that nothing is left.

use std::time::Duration;

use kvpn::cluster::{Cluster, PATIENCE};
use kvpn::gateway::Datapath;
use kvpn::laptop::{Laptop, Resolver, Role};
use kvpn::outcome::eventually;

const NOT_CONNECTED: i32 = 3;

#[test]
fn connect_and_disconnect_with_a_plain_resolv_conf() {
    connect_and_disconnect(Resolver::Plain);
}

#[test]
fn connect_and_disconnect_with_systemd_resolved() {
    connect_and_disconnect(Resolver::Resolved);
}

fn connect_and_disconnect(resolver: Resolver) {
    let laptop = Laptop::start(&format!("session-{resolver:?}").to_lowercase(), resolver);
    let before = laptop.traces();
    laptop.kvpn(&["status"]).fails_with(NOT_CONNECTED);

    laptop.connect(Datapath::Userspace, &[]);
    laptop.fetch("http://echo/").ok();
    laptop.fetch("http://echo.other/").ok();
    laptop.kvpn(&["status"]).ok();
    assert_eq!(laptop.session()["state"], "connected");

    laptop
        .connect(Datapath::Userspace, &[])
        .within(Duration::from_secs(2));
    assert_eq!(
        laptop.processes(Role::Agent).len(),
        1,
        "connecting again adds nothing"
    );

    laptop
        .kvpn(&["disconnect"])
        .ok()
        .within(Duration::from_secs(5));
    laptop.is_as_before(&before, Duration::from_secs(1), "disconnect");
    laptop.kvpn(&["status"]).fails_with(NOT_CONNECTED);
}

#[test]
fn foreground_stays_until_it_is_told_to_end() {
    let laptop = Laptop::start("foreground", Resolver::Plain);
    let before = laptop.traces();
    let gateway = Datapath::Userspace.gateway();
    let mut connect = laptop.spawn(&[
        "kvpn",
        "connect",
        "--gateway-namespace",
        gateway,
        "--foreground",
    ]);
    let answers = || {
        laptop
            .run(&["curl", "-fsS", "-m", "2", "http://echo/"])
            .code
            == 0
    };
    assert!(
        eventually(PATIENCE, answers),
        "no answer from echo; {}",
        laptop.kvpn(&["status"])
    );
    laptop.shell("pkill -INT -f '^[^ ]*kvpn connect'").ok();
    connect.wait().unwrap();
    laptop.is_as_before(&before, Duration::from_secs(1), "disconnect");
}

/// The agent and everything that the kubeconfig names run as the user; root is the helper alone.
#[test]
fn an_ordinary_user_connects_through_sudo() {
    let laptop = Laptop::start("user", Resolver::Plain);
    laptop
        .shell("install -D -o dev -g dev -m 600 \"$KUBECONFIG\" /home/dev/.kube/config")
        .ok();
    let before = laptop.traces();
    let as_user = |line: &str| {
        laptop.shell(&format!(
            "cd /home/dev && HOME=$PWD exec runuser -u dev -- env -u KUBECONFIG {line}"
        ))
    };
    as_user(&format!(
        "kvpn connect --gateway-namespace {}",
        Datapath::Userspace.gateway()
    ))
    .ok();
    laptop.fetch("http://echo/").ok();
    for (role, user) in [(Role::Agent, "dev"), (Role::Helper, "root")] {
        let worker = laptop.processes(role).pop();
        let worker = worker
            .unwrap_or_else(|| panic!("{role:?} is not running"))
            .to_string();
        let owner = laptop.run(&["ps", "-o", "user=", "-p", &worker]).ok();
        assert_eq!(owner.stdout.trim(), user, "{role:?}");
    }
    as_user("kvpn disconnect").ok();
    laptop.is_as_before(&before, Duration::from_secs(1), "disconnect");
}

/// Public names and the API server, while connected and while the gateway is a black hole; and no name of the
/// cluster was asked of the public resolver.
#[test]
fn the_laptops_own_network_is_never_taken_over() {
    if !Cluster::get().has("the public resolver") {
        return;
    }
    let cluster = Cluster::get();
    let namespace = "kvpn-test-black-hole";
    cluster.fresh_namespace(namespace, &serde_json::json!({}));
    let laptop = Laptop::start("own-network", Resolver::Resolved);
    let before = laptop.traces();
    laptop.kvpn(&["-n", namespace, "gateway", "install"]).ok();
    laptop
        .kvpn(&["connect", "--gateway-namespace", namespace])
        .ok();
    let asked = cluster.public_queries().len();
    laptop.fetch("http://echo.default.svc.cluster.local/").ok();
    laptop
        .shell("getent hosts nosuch.default.svc.cluster.local; dig +short -x 10.96.0.1")
        .ok();
    own_network(&laptop);

    cluster
        .kubectl(&[
            "-n",
            namespace,
            "scale",
            "statefulset/kvpn-gateway",
            "--replicas=0",
        ])
        .ok();
    cluster
        .kubectl(&[
            "-n",
            namespace,
            "wait",
            "--for=delete",
            "pod/kvpn-gateway-0",
            "--timeout=60s",
        ])
        .ok();
    own_network(&laptop);

    leaked_nothing(&laptop, asked);
    laptop.kvpn(&["disconnect"]).ok();
    laptop.is_as_before(&before, Duration::from_secs(1), "disconnect");
    cluster.delete_namespace(namespace);
}

fn own_network(laptop: &Laptop) {
    laptop.fetch("http://example.com/").ok();
    laptop
        .run(&["kubectl", "--request-timeout=5s", "get", "--raw", "/readyz"])
        .ok();
}

fn leaked_nothing(laptop: &Laptop, asked_before: usize) {
    let route = laptop
        .shell("ip -4 -o addr show eth0 | sed 's,.*inet \\([0-9.]*\\)/.*,\\1,'")
        .ok()
        .stdout;
    let own = route.trim();
    let queries = Cluster::get().public_queries();
    let leaks: Vec<_> = queries
        .iter()
        .skip(asked_before)
        .filter(|line| line.contains(own) && !line.contains("example.com"))
        .collect();
    assert!(leaks.is_empty(), "the public resolver was asked {leaks:?}");
}
