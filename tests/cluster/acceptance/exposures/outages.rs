//! A node, or the API server, is gone while a Service is exposed. These tests have the cluster for themselves.

use kvpn::cluster::{Cluster, PATIENCE};
use kvpn::exposures::{ORIGIN, Origin, RESTORED, await_nodes, now};
use kvpn::turn::Turn;

use super::NEEDED;
use super::failures::{
    a_colleague_edits, none_is_lost_but_with_the_laptop, none_is_lost_later, told,
};
use super::scene::Scene;

/// One gateway: the client, which lives, restores the Service by itself. Callers and origin are on the other node.
#[test]
fn the_gateways_node_is_lost() {
    alone(|| {
        let scene = Scene::with(Origin::on("kvpn-test-node-lost", &[1]));
        on_node_2(|| scene.take_over());
        let edited = a_colleague_edits(&scene);
        node_2_is_lost(&scene, |_| scene.origin.is_again("web", &edited, RESTORED));
        scene.ana.kvpn("unexpose web").ok();
        scene.origin.is_again("web", &edited, PATIENCE);
    });
}

/// Two gateways and no client: the other one restores the Service.
#[test]
fn a_gateways_node_and_the_process_are_lost_and_another_gateway_lives() {
    alone(|| {
        let scene = Scene::with(Origin::on("kvpn-test-two-gateways", &[1]));
        on_node_2(|| scene.take_over());
        scene.ana.kvpn("gateway install --replicas 2").ok();
        let edited = a_colleague_edits(&scene);
        node_2_is_lost(&scene, |_| {
            scene.ana.signal("KILL");
            scene.origin.is_again("web", &edited, RESTORED);
        });
    });
}

/// A live gateway proxies to the origin when the client is gone; the Service is restored when the API server is back.
#[test]
fn the_api_server_is_away() {
    alone(|| {
        let scene = Scene::start("kvpn-test-api-away");
        scene.take_over();
        let edited = a_colleague_edits(&scene);
        let callers = scene.callers(1);
        let url = scene.origin.url("web");
        Cluster::get().api_server("stop");
        let lost = now();
        let watched = || {
            scene.ana.signal("KILL");
            let gone = now();
            await_origin_without_an_api_server(&url);
            gone
        };
        let gone = and_then(watched, || Cluster::get().api_server("start"));
        // kubectl would say that there is no such Service until the API server has its rights together.
        let back = kvpn::outcome::eventually(PATIENCE, || {
            Cluster::get().kubectl(&["get", "--raw", "/readyz"]).code == 0
        });
        assert!(back, "the API server is not back");
        scene.origin.is_again("web", &edited, RESTORED);
        let count = callers.stop();
        told(&count, lost);
        none_is_lost_but_with_the_laptop(&count, gone);
    });
}

/// Without an API server there is no `kubectl exec`: the node asks.
fn await_origin_without_an_api_server(url: &str) {
    let asks = || {
        Cluster::get()
            .on_node(1, &["curl", "-fsS", "-m", "5", url])
            .stdout
    };
    let answered = kvpn::outcome::eventually(RESTORED, || asks().starts_with(ORIGIN));
    assert!(answered, "the origin does not answer after {RESTORED:?}");
}

fn alone(work: impl FnOnce()) {
    if !Cluster::get().has(NEEDED) {
        return;
    }
    let _turn = Turn::alone();
    and_then(work, await_nodes);
}

/// What is taken away is given back whatever became of the work.
fn and_then<T>(work: impl FnOnce() -> T, give_back: impl FnOnce()) -> T {
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    give_back();
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Pods that are made meanwhile come to node 2.
fn on_node_2(work: impl FnOnce()) {
    let cordon = |what: &str| Cluster::get().kubectl(&[what, "kvpn-node1"]).ok();
    cordon("cordon");
    and_then(work, || drop(cordon("uncordon")));
}

/// Cuts the power, and gives it back when `meanwhile` is done and callers were answered by the origin.
fn node_2_is_lost(scene: &Scene, meanwhile: impl FnOnce(&Scene)) {
    let callers = scene.callers(1);
    let lost = now();
    Cluster::get().node("kill", 2);
    let watched = || {
        meanwhile(scene);
        assert!(
            scene.origin.is_answered_by("web", ORIGIN, RESTORED),
            "not after {RESTORED:?}"
        );
        callers.stop()
    };
    let count = and_then(watched, || Cluster::get().node("start", 2));
    told(&count, lost);
    none_is_lost_later(&count, lost);
}
