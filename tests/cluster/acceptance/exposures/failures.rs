//! What dies while a Service is exposed, and what callers notice: nothing while the gateway lives; otherwise nothing after 15 s. The
//! Service becomes what it was, with what a colleague changed meanwhile.

use kvpn::cluster::{Cluster, PATIENCE};
use kvpn::exposures::{ORIGIN, RESTORED, now};
use kvpn::traffic::Count;
use serde_json::{Value, json};

use super::NEEDED;
use super::scene::Scene;

/// Takeover and the way back, undisturbed.
#[test]
fn nobody_notices_takeover_and_unexpose() {
    in_a_scene("kvpn-test-undisturbed", |scene| {
        let lives = scene.origin.lives();
        let callers = scene.callers(1);
        let began = now();
        scene.take_over();
        let asked = now();
        scene.ana.kvpn("unexpose web").ok();
        scene.is_the_origins();
        let count = callers.stop();
        println!(
            "in effect {:?} ms after the command began, back {:?} ms after unexpose",
            count.first(&scene.ana.name, began).map(|at| at - began),
            count.first(ORIGIN, asked).map(|at| at - asked)
        );
        none_is_lost(&count);
        scene.origin.is_again("web", &scene.before, PATIENCE);
        assert_eq!(scene.origin.lives(), lives, "pods were restarted");
    });
}

#[test]
fn ctrl_c() {
    in_a_scene("kvpn-test-ctrl-c", |scene| {
        let callers = scene.callers(1);
        let mut expose = scene.ana.exposes_in_front("8080:80 as web --takeover");
        scene.is_anas();
        let edited = a_colleague_edits(scene);
        scene.ana.signal("INT");
        expose.wait().unwrap();
        scene.is_the_origins();
        none_is_lost(&callers.stop());
        scene.origin.is_again("web", &edited, PATIENCE);
    });
}

#[test]
fn the_process_is_killed() {
    the_client_is_lost("kvpn-test-killed", |scene| scene.ana.signal("KILL"));
}

#[test]
fn the_laptop_is_unplugged() {
    the_client_is_lost("kvpn-test-unplugged", |scene| scene.ana.cable("down"));
}

/// The program ends: the origin answers, the exposure stays; and the program is asked again when it is back.
#[test]
fn the_program_does_not_listen() {
    in_a_scene("kvpn-test-no-program", |scene| {
        scene.take_over();
        let callers = scene.callers(1);
        scene.ana.stop_serving();
        scene.is_the_origins();
        scene.ana.serve();
        scene.is_anas();
        let count = callers.stop();
        // What the program was answering when it was killed is lost, as it is without kvpn.
        assert!(count.lost().len() <= 1, "{count}");
        scene.ana.kvpn("unexpose web").ok();
        scene.origin.is_again("web", &scene.before, PATIENCE);
    });
}

/// The gateway lives: no new connection is lost, and it restores the Service by itself.
fn the_client_is_lost(namespace: &'static str, loss: impl FnOnce(&Scene)) {
    in_a_scene(namespace, |scene| {
        scene.take_over();
        let edited = a_colleague_edits(scene);
        let callers = scene.callers(1);
        let lost = now();
        loss(scene);
        let gone = now();
        assert!(
            scene.origin.is_answered_by("web", ORIGIN, RESTORED),
            "not after {RESTORED:?}"
        );
        scene.origin.is_again("web", &edited, RESTORED);
        let count = callers.stop();
        told(&count, lost);
        none_is_lost_but_with_the_laptop(&count, gone);
    });
}

#[test]
fn the_gateways_pod_is_deleted() {
    the_gateway_is_lost("kvpn-test-deleted", |scene| delete_gateway(scene, &[]));
}

#[test]
fn the_gateways_pod_is_deleted_without_warning() {
    the_gateway_is_lost("kvpn-test-forced", |scene| {
        delete_gateway(scene, &["--force", "--grace-period=0"])
    });
}

#[test]
fn the_gateways_container_is_killed() {
    the_gateway_is_lost("kvpn-test-oom", kill_gateway);
}

fn delete_gateway(scene: &Scene, how: &[&str]) {
    let delete = ["delete", "pod", "kvpn-gateway-0", "--wait=false"];
    scene.origin.kubectl(&[&delete[..], how].concat()).ok();
}

/// As the kernel does when memory is short.
pub(super) fn kill_gateway(scene: &Scene) {
    let pod = Cluster::get().object(scene.origin.namespace, "pod/kvpn-gateway-0");
    let node = pod["spec"]["nodeName"]
        .as_str()
        .unwrap()
        .trim_start_matches("kvpn-node")
        .parse()
        .unwrap();
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let line = format!(
        "for p in $(pgrep -x kvpn-gateway); do ! grep -q {uid} /proc/$p/cgroup || kill -KILL $p; done"
    );
    Cluster::get().on_node(node, &["bash", "-c", &line]).ok();
}

/// The client lives: after 15 s at the latest every new connection is answered, and in the end the laptop answers again.
fn the_gateway_is_lost(namespace: &'static str, loss: impl FnOnce(&Scene)) {
    in_a_scene(namespace, |scene| {
        scene.take_over();
        let edited = a_colleague_edits(scene);
        let callers = scene.callers(1);
        let lost = now();
        loss(scene);
        scene
            .origin
            .kubectl(&[
                "wait",
                "pod/kvpn-gateway-0",
                "--for=jsonpath={.status.phase}=Running",
                "--timeout=60s",
            ])
            .ok();
        scene.is_anas();
        scene.ana.kvpn("unexpose web").ok();
        scene.origin.is_again("web", &edited, PATIENCE);
        let count = callers.stop();
        told(&count, lost);
        none_is_lost_later(&count, lost);
    });
}

/// Nobody is left but the next gateway.
#[test]
fn the_process_and_the_gateway_at_once() {
    in_a_scene("kvpn-test-both", |scene| {
        scene.take_over();
        let edited = a_colleague_edits(scene);
        let callers = scene.callers(1);
        let lost = now();
        scene.ana.signal("KILL");
        kill_gateway(scene);
        assert!(
            scene.origin.is_answered_by("web", ORIGIN, RESTORED),
            "not after {RESTORED:?}"
        );
        scene.origin.is_again("web", &edited, RESTORED);
        let count = callers.stop();
        told(&count, lost);
        none_is_lost_later(&count, lost);
    });
}

pub(super) fn in_a_scene(namespace: &'static str, work: impl FnOnce(&Scene)) {
    if Cluster::get().has(NEEDED) {
        work(&Scene::start(namespace));
    }
}

/// A colleague labels the Service, and gives it another port: what it has to be in the end.
pub(super) fn a_colleague_edits(scene: &Scene) -> Value {
    let Scene { origin, before, .. } = scene;
    origin
        .kubectl(&["label", "service", "web", "edited=meanwhile"])
        .ok();
    let port = json!({ "name": "more", "port": 7000, "protocol": "TCP", "targetPort": 8080 });
    let patch = json!([{ "op": "add", "path": "/spec/ports/-", "value": port }]).to_string();
    origin
        .kubectl(&["patch", "service", "web", "--type=json", "-p", &patch])
        .ok();
    let mut edited = before.clone();
    edited["metadata"]["labels"]["edited"] = json!("meanwhile");
    edited["spec"]["ports"].as_array_mut().unwrap().push(port);
    edited
}

/// What a table of numbers is made of.
pub(super) fn told(count: &Count, lost: i64) {
    let back = count.first(ORIGIN, lost).map(|at| at - lost);
    println!(
        "the origin answered {back:?} ms after the loss; {} questions were lost",
        count.lost().len()
    );
}

/// What the laptop was asked while it still lived dies with it; what is asked later is answered.
#[track_caller]
pub(super) fn none_is_lost_but_with_the_laptop(count: &Count, gone: i64) {
    let late = count.lost_after(gone);
    assert!(
        late.is_empty(),
        "{} questions were lost afterwards: {count}",
        late.len()
    );
}

#[track_caller]
fn none_is_lost(count: &Count) {
    assert!(count.lost().is_empty(), "{count}");
}

#[track_caller]
pub(super) fn none_is_lost_later(count: &Count, lost: i64) {
    let limit = lost + i64::try_from(RESTORED.as_millis()).unwrap();
    let late = count.lost_after(limit);
    assert!(
        late.is_empty(),
        "{} questions were lost more than {RESTORED:?} later: {count}",
        late.len()
    );
}
