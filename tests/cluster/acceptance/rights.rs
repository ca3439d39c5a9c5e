//! Users with few rights: what they can install and use, and what those who may not are told.

use std::time::Duration;

use kvpn::cluster::{Cluster, User};
use kvpn::laptop::{Laptop, Resolver};

const NOT_PERMITTED: i32 = 4;

/// What who sees one namespace can still find: its names, full names, and those of namespaces that were named.
const NAMES: [&str; 4] = [
    "kvpn-gateway",
    "echo.other",
    "echo.default.svc",
    "echo.default.svc.cluster.local",
];

/// In a namespace that enforces `restricted`, one after the other: they share it.
#[test]
fn namespace_admins_and_editors_install_and_connect() {
    if !Cluster::get().has("a user with few rights") {
        return;
    }
    let laptop = Laptop::start("rights", Resolver::Plain);
    let before = laptop.traces();
    for user in [User::NamespaceAdmin, User::NamespaceEditor] {
        let kubeconfig = Cluster::get().user(user);
        let connect = ["connect", "--dns-namespace", "other"];
        let connected = laptop.kvpn_as(&kubeconfig, &connect).ok();
        if user == User::NamespaceEditor {
            connected.clone().says(&["role"]);
        }
        for name in NAMES {
            let found = laptop.look_up(name);
            assert_eq!(found.code, 0, "{user:?}: {found}\n{connected}");
        }
        laptop.fetch("http://echo.default.svc.cluster.local/").ok();
        laptop.kvpn_as(&kubeconfig, &["disconnect"]).ok();
        laptop.is_as_before(&before, Duration::from_secs(1), "disconnect");
        laptop.kvpn_as(&kubeconfig, &["gateway", "uninstall"]).ok();
    }
}

/// The verbs and resources that are missing, and on stdout what to hand to an administrator.
#[test]
fn who_may_not_is_told_what_is_missing() {
    if !Cluster::get().has("a user without rights") {
        return;
    }
    let laptop = Laptop::start("nobody", Resolver::Plain);
    let before = laptop.traces();
    let refused = laptop.kvpn_as(&Cluster::get().user(User::Nobody), &["connect"]);
    let refused =
        refused
            .fails_with(NOT_PERMITTED)
            .says(&["create", "pods/portforward", "restricted"]);
    assert!(
        refused.stdout.contains("kind: StatefulSet"),
        "no manifest: {refused}"
    );
    laptop.is_as_before(&before, Duration::from_secs(1), "the refusal");
}

/// Credentials from a plugin, as cloud logins give them.
#[test]
fn a_credential_plugin_serves() {
    if !Cluster::get().has("a user with a plugin") {
        return;
    }
    let laptop = Laptop::start("plugin", Resolver::Plain);
    laptop
        .kvpn_as(
            &Cluster::get().user(User::ExecPlugin),
            &[
                "gateway",
                "status",
                "-n",
                kvpn::gateway::Datapath::Userspace.gateway(),
            ],
        )
        .ok();
}
