//! What goes wrong is said, with a remedy, in bounded time, and leaves nothing on the laptop.

use std::path::PathBuf;
use std::time::Duration;

use kvpn::cluster::{Cluster, User};
use kvpn::gateway::Datapath;
use kvpn::laptop::{Laptop, Resolver};

const FAILED: i32 = 1;
const UNREACHABLE: i32 = 5;

/// A laptop that must be as before when the test has seen the failure.
fn on_a_laptop(name: &str, work: impl FnOnce(&Laptop)) {
    let laptop = Laptop::start(name, Resolver::Plain);
    let before = laptop.traces();
    work(&laptop);
    laptop.is_as_before(&before, Duration::from_secs(1), "the failure");
}

#[test]
fn a_context_that_is_not_there() {
    on_a_laptop("context", |laptop| {
        let failed = laptop.kvpn(&["--context", "nosuch", "connect"]);
        failed
            .fails_with(FAILED)
            .within(Duration::from_secs(3))
            .says(&["nosuch", "kvpn"]);
    });
}

#[test]
fn a_cluster_that_cannot_be_reached() {
    if !Cluster::get().has("a network where unused addresses are known") {
        return;
    }
    on_a_laptop("unreachable", |laptop| {
        for server in [
            "https://172.31.2.200:6443",
            "https://203.0.113.1:6443",
            "https://172.31.2.11:1",
        ] {
            let kubeconfig = kubeconfig_for(server);
            let failed = laptop.kvpn_as(&kubeconfig, &["connect"]);
            failed
                .fails_with(UNREACHABLE)
                .within(Duration::from_secs(15))
                .says(&[server, "reached"]);
            std::fs::remove_file(kubeconfig).unwrap();
        }
    });
}

#[test]
fn a_token_that_has_expired() {
    if !Cluster::get().has("a user whose token is not taken") {
        return;
    }
    on_a_laptop("expired", |laptop| {
        let failed = laptop.kvpn_as(&Cluster::get().user(User::ExpiredToken), &["connect"]);
        failed
            .fails_with(FAILED)
            .within(Duration::from_secs(5))
            .says(&["credentials", "token"]);
    });
}

#[test]
fn a_credential_plugin_that_hangs() {
    if !Cluster::get().has("a user whose plugin hangs") {
        return;
    }
    on_a_laptop("hanging", |laptop| {
        let failed = laptop.kvpn_as(&Cluster::get().user(User::HangingPlugin), &["connect"]);
        failed
            .fails_with(FAILED)
            .within(Duration::from_secs(75))
            .says(&["plugin", "sleep 600"]);
        assert_eq!(
            laptop.run(&["pgrep", "-x", "-f", "sleep 600"]).code,
            1,
            "the plugin still runs"
        );
    });
}

#[test]
fn an_image_that_cannot_be_pulled() {
    in_a_fresh_namespace("kvpn-test-no-image", |laptop, namespace| {
        let failed = laptop.kvpn(&[
            "connect",
            "--gateway-namespace",
            namespace,
            "--image",
            "kvpn.invalid/nosuch:1",
        ]);
        failed
            .fails_with(FAILED)
            .within(Duration::from_secs(60))
            .says(&["kvpn.invalid/nosuch:1", "image", namespace]);
    });
}

#[test]
fn a_pod_that_never_gets_ready() {
    in_a_fresh_namespace("kvpn-test-not-ready", |laptop, namespace| {
        let failed = laptop.kvpn(&[
            "connect",
            "--gateway-namespace",
            namespace,
            "--image",
            "kvpn.test/pause:1",
        ]);
        failed
            .fails_with(FAILED)
            .within(Duration::from_secs(150))
            .says(&["kvpn-gateway-0", "ready", namespace]);
    });
}

fn in_a_fresh_namespace(namespace: &str, work: impl FnOnce(&Laptop, &str)) {
    Cluster::get().fresh_namespace(namespace, &serde_json::json!({}));
    on_a_laptop(namespace.trim_start_matches("kvpn-test-"), |laptop| {
        work(laptop, namespace)
    });
    Cluster::get().delete_namespace(namespace);
}

/// Somebody else's interface stays, and kvpn takes the next name.
#[test]
fn an_interface_name_that_is_taken() {
    on_a_laptop("taken", |laptop| {
        laptop
            .shell("ip tuntap add dev kvpn0 mode tun && ip link set kvpn0 up")
            .ok();
        laptop.connect(Datapath::Userspace, &[]);
        assert_eq!(laptop.session()["network"]["interface"], "kvpn1");
        laptop.fetch("http://echo/").ok();
        laptop.kvpn(&["disconnect"]).ok();
        laptop.shell("ip link show kvpn0 && ip link del kvpn0").ok();
    });
}

#[test]
fn a_machine_without_tun() {
    on_a_laptop("no-tun", |laptop| {
        laptop.shell("mv /dev/net/tun /dev/net/gone").ok();
        let failed = laptop.kvpn(&[
            "connect",
            "--gateway-namespace",
            Datapath::Userspace.gateway(),
        ]);
        failed
            .fails_with(FAILED)
            .within(Duration::from_secs(10))
            .says(&["/dev/net/tun"]);
    });
}

/// The administrator's kubeconfig with another server.
fn kubeconfig_for(server: &str) -> PathBuf {
    let text = std::fs::read_to_string(&Cluster::get().kubeconfig).unwrap();
    let (head, rest) = text.split_once("server: \"").unwrap();
    let (_, tail) = rest.split_once('"').unwrap();
    let name = format!("kubeconfig-{}", server.replace([':', '/'], "-"));
    let file = kvpn::settings::checkout().join("target").join(name);
    std::fs::write(&file, format!("{head}server: \"{server}\"{tail}")).unwrap();
    file
}
