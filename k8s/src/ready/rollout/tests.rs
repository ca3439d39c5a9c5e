//! Installs on their way, event by event.

use super::*;
use serde_json::{Value, json};

const IMAGE: &str = "gw:1";

fn set(generation: i64, observed: i64, revision: &str) -> StatefulSet {
    serde_json::from_value(json!({
        "metadata": { "name": "kvpn-gateway", "uid": "s1", "generation": generation },
        "spec": { "selector": {}, "template": {}, "serviceName": "kvpn-gateway" },
        "status": { "observedGeneration": observed, "replicas": 1, "updateRevision": revision },
    }))
    .unwrap()
}

fn pod(uid: &str, revision: &str, status: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": { "name": "kvpn-gateway-0", "namespace": "demo", "uid": uid, "labels": { "controller-revision-hash": revision } },
        "spec": { "containers": [{ "name": "gateway", "image": IMAGE }] },
        "status": status,
    }))
    .unwrap()
}

fn ready() -> Value {
    json!({ "conditions": [{ "type": "Ready", "status": "True" }] })
}

fn waiting(reason: &str) -> Value {
    json!({ "containerStatuses": [{
        "name": "gateway", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": { "waiting": { "reason": reason } },
    }]})
}

fn notice(kind: &str, uid: &str, reason: &str, message: &str) -> Notice {
    serde_json::from_value(json!({
        "metadata": {}, "involvedObject": { "kind": kind, "uid": uid }, "type": "Warning", "reason": reason, "message": message,
    }))
    .unwrap()
}

fn rollout(seen: Vec<Seen>) -> Rollout {
    let mut rollout = Rollout::new("demo");
    for seen in seen {
        rollout.handle(seen).unwrap();
    }
    rollout
}

fn no_pods() -> Vec<Seen> {
    vec![Seen::Pod(Event::Init), Seen::Pod(Event::InitDone)]
}

fn step(rollout: &Rollout) -> Progress {
    match rollout.verdict() {
        Verdict::Step(step) => step,
        other => panic!("{other:?}"),
    }
}

fn problem(rollout: &Rollout) -> Problem {
    match rollout.verdict() {
        Verdict::Broken(problem) => problem,
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_a_pod_of_the_newest_revision_counts() {
    let mut rollout = rollout(vec![Seen::Pod(Event::Apply(pod("p1", "old", ready())))]);
    assert_eq!(
        step(&rollout),
        Progress::Creating,
        "nothing is known of the StatefulSet yet"
    );
    rollout
        .handle(Seen::Set(Event::Apply(set(2, 1, "old"))))
        .unwrap();
    assert_eq!(
        step(&rollout),
        Progress::Creating,
        "its controller has not seen our change yet"
    );
    rollout
        .handle(Seen::Set(Event::Apply(set(2, 2, "new"))))
        .unwrap();
    assert_eq!(step(&rollout), Progress::Replacing);
    rollout
        .handle(Seen::Pod(Event::Apply(pod(
            "p2",
            "new",
            waiting("ContainerCreating"),
        ))))
        .unwrap();
    assert_eq!(step(&rollout), Progress::Pulling(IMAGE.into()));
    rollout
        .handle(Seen::Pod(Event::Apply(pod("p2", "new", ready()))))
        .unwrap();
    let Verdict::Ready(gateway) = rollout.verdict() else {
        panic!("{rollout:?}")
    };
    assert_eq!(
        (gateway.uid.as_str(), gateway.image.as_str()),
        ("p2", IMAGE)
    );
}

#[test]
fn who_may_not_see_the_set_takes_any_ready_pod() {
    let rollout = rollout(vec![
        Seen::SetHidden,
        Seen::Pod(Event::Apply(pod("p1", "old", ready()))),
    ]);
    assert!(matches!(rollout.verdict(), Verdict::Ready(_)));
}

#[test]
fn nothing_installed_is_told_at_once() {
    let mut rollout = rollout(no_pods());
    let error = rollout.handle(Seen::Set(Event::InitDone)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "statefulset demo/kvpn-gateway was not found"
    );
}

#[test]
fn pull_failures_are_counted_for_each_pod() {
    let mut seen = vec![Seen::Set(Event::Apply(set(1, 1, "a")))];
    for (uid, reason) in [
        ("p1", "ErrImagePull"),
        ("p1", "ErrImagePull"),
        ("p1", "ImagePullBackOff"),
        ("p2", "ErrImagePull"),
    ] {
        seen.push(Seen::Pod(Event::Apply(pod(uid, "a", waiting(reason)))));
    }
    let mut rollout = rollout(seen);
    assert_eq!(
        step(&rollout),
        Progress::Pulling(IMAGE.into()),
        "one failure of each pod"
    );
    rollout
        .handle(Seen::Pod(Event::Apply(pod(
            "p2",
            "a",
            waiting("ImagePullBackOff"),
        ))))
        .unwrap();
    rollout
        .handle(Seen::Pod(Event::Apply(pod(
            "p2",
            "a",
            waiting("ErrImagePull"),
        ))))
        .unwrap();
    assert!(problem(&rollout).reason.contains("cannot be pulled"));
}

#[test]
fn a_fresh_refusal_ends_the_wait_and_an_old_one_is_doubted() {
    let message = "create Pod x failed error: exceeded quota: small";
    let refusal = || notice("StatefulSet", "s1", "FailedCreate", message);
    let begun = || {
        let mut seen = no_pods();
        seen.push(Seen::Set(Event::Apply(set(1, 1, "a"))));
        rollout(seen)
    };
    let mut fresh = begun();
    fresh.handle(Seen::Notice(Event::Apply(refusal()))).unwrap();
    assert!(problem(&fresh).reason.starts_with("exceeded quota"));
    let mut old = begun();
    old.handle(Seen::Notice(Event::InitApply(refusal())))
        .unwrap();
    assert_eq!(step(&old), Progress::Creating);
    old.end_doubt();
    assert!(matches!(old.verdict(), Verdict::Broken(_)));
    old.handle(Seen::Pod(Event::Apply(pod(
        "p1",
        "a",
        waiting("ContainerCreating"),
    ))))
    .unwrap();
    assert_eq!(
        step(&old),
        Progress::Pulling(IMAGE.into()),
        "there is a pod: the refusal is history"
    );
}

#[test]
fn overdue_tells_the_last_thing_seen() {
    let stuck = pod("p1", "a", waiting("ContainerCreating"));
    let mut rollout = rollout(vec![
        Seen::Set(Event::Apply(set(1, 1, "a"))),
        Seen::Pod(Event::Apply(stuck)),
    ]);
    let warning = notice(
        "Pod",
        "p1",
        "FailedMount",
        "hostPath type check failed: /dev/net/tun is not a character device",
    );
    rollout
        .handle(Seen::Notice(Event::InitApply(warning)))
        .unwrap();
    let error = rollout.overdue(Duration::from_secs(60));
    let text = error.to_string();
    assert!(text.starts_with("the gateway pod demo/kvpn-gateway-0 is not ready: after 60 s still: getting the image gw:1"), "{text}");
    assert!(text.contains("hostPath type check failed"), "{text}");
    assert!(
        error
            .hint()
            .unwrap()
            .contains("kubectl -n demo describe pod")
    );
}
