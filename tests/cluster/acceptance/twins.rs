//! Two clusters with equal ranges at once. The second one is the test cluster again, under its API server's other address and
//! through another gateway: the address is what tells clusters apart.

use std::time::Duration;

use kvpn::cluster::Cluster;
use kvpn::gateway::Datapath;
use kvpn::laptop::{Laptop, Resolver};

/// A kubeconfig with the API server's IPv6 address.
const TWIN: &str = "sed 's#https://172.31.2.11:6443#https://[fd00:172:31:2::11]:6443#' \"$KUBECONFIG\" >/tmp/twin && grep -q fd00 /tmp/twin";

#[test]
fn both_are_reached_by_name_with_systemd_resolved() {
    both_are_reached_by_name(Resolver::Resolved);
}

/// The first session has the file and passes the second one's names on.
#[test]
fn both_are_reached_by_name_with_a_plain_resolv_conf() {
    both_are_reached_by_name(Resolver::Plain);
}

fn both_are_reached_by_name(resolver: Resolver) {
    if !Cluster::get().has("an API server with two addresses") {
        return;
    }
    let laptop = Laptop::start(&format!("twins-{resolver:?}").to_lowercase(), resolver);
    let before = laptop.traces();
    laptop.connect(Datapath::Userspace, &["--name", "first"]);
    let gateway = Datapath::Kernel.gateway();
    let second = laptop.shell(&format!(
        "{TWIN} && KUBECONFIG=/tmp/twin kvpn connect --gateway-namespace {gateway} -n other --name second"
    ));
    second.ok().says(&["10.96.0.0/16", "appear as"]);

    for (name, interface) in [
        ("echo.default.first.kvpn.internal", "kvpn0"),
        ("echo.other.first.kvpn.internal", "kvpn0"),
        ("echo.default.second.kvpn.internal", "kvpn1"),
        ("echo.second.kvpn.internal", "kvpn1"),
        ("echo.other.svc.cluster.local.second.kvpn.internal", "kvpn1"),
    ] {
        laptop.fetch(&format!("http://{name}/")).ok();
        let way = laptop.shell(&format!(
            "ip route get $(getent ahostsv4 {name} | awk 'NR == 1 {{print $1}}')"
        ));
        way.ok().prints(&[interface]);
    }
    for name in ["echo.default", "echo.other", "echo.other.svc.cluster.local"] {
        laptop.fetch(&format!("http://{name}/")).ok();
    }
    laptop.fetch("http://example.com/").ok();

    laptop.kvpn(&["disconnect", "second"]).ok();
    laptop.fetch("http://echo.first.kvpn.internal/").ok();
    laptop.kvpn(&["disconnect"]).ok();
    laptop.is_as_before(&before, Duration::from_secs(1), "disconnect");
}
