//! Pod statuses as kubelets write them, and what they mean.

use super::*;
use serde_json::{Value, json};

fn pod(status: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": { "name": "kvpn-gateway-0", "namespace": "demo", "uid": "u1" },
        "spec": { "containers": [{ "name": "gateway", "image": "registry.example/gw:1" }] },
        "status": status,
    }))
    .unwrap()
}

fn container(state: Value, last: Value) -> Pod {
    pod(json!({ "phase": "Pending", "containerStatuses": [{
        "name": "gateway", "image": "", "imageID": "", "ready": false, "restartCount": 1, "state": state, "lastState": last,
    }]}))
}

fn waiting_for(reason: &str, message: &str) -> Pod {
    container(
        json!({ "waiting": { "reason": reason, "message": message } }),
        json!({}),
    )
}

fn broken(state: State) -> Problem {
    match state {
        State::Broken(problem) => problem,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_ready_pod_is_ready_unless_it_leaves() {
    let mut pod = pod(json!({ "conditions": [{ "type": "Ready", "status": "True" }] }));
    assert_eq!(diagnose(&pod, 0), State::Ready);
    pod.metadata.deletion_timestamp =
        Some(serde_json::from_value(json!("2026-11-21T10:00:00Z")).unwrap());
    assert_eq!(diagnose(&pod, 0), State::Step(Progress::Replacing, None));
}

#[test]
fn what_cannot_heal_is_broken_at_once() {
    for (reason, message, text, hint) in [
        (
            "ErrImageNeverPull",
            "",
            "is not on its node",
            "load the image",
        ),
        (
            "InvalidImageName",
            "",
            "`registry.example/gw:1` is no image name",
            "--image",
        ),
        (
            "ErrImagePull",
            "manifest unknown",
            "cannot be pulled: manifest unknown",
            "--image-pull-secret",
        ),
        (
            "ImagePullBackOff",
            "Back-off ... 401 unauthorized",
            "cannot be pulled",
            "--image-pull-secret",
        ),
        (
            "CreateContainerConfigError",
            "image will run as root",
            "(CreateContainerConfigError): image will run as root",
            "describe pod",
        ),
        (
            "RunContainerError",
            "exec: no such file",
            "exec: no such file",
            "kubectl -n demo describe pod kvpn-gateway-0",
        ),
    ] {
        let problem = broken(diagnose(&waiting_for(reason, message), 1));
        assert!(problem.reason.contains(text), "{problem:?}");
        assert!(problem.hint.contains(hint), "{problem:?}");
    }
}

#[test]
fn a_pull_is_given_up_after_its_second_failure() {
    let pod = waiting_for("ErrImagePull", "dial tcp: i/o timeout");
    assert!(matches!(
        diagnose(&pod, 1),
        State::Step(Progress::Pulling(_), Some(_))
    ));
    assert!(broken(diagnose(&pod, 2)).reason.contains("i/o timeout"));
}

#[test]
fn a_crash_tells_its_exit_code_and_asks_for_the_log() {
    let end = json!({ "terminated": { "exitCode": 2, "reason": "Error", "message": "no key" } });
    let problem = broken(diagnose(
        &container(
            json!({ "waiting": { "reason": "CrashLoopBackOff" } }),
            end.clone(),
        ),
        0,
    ));
    assert!(
        problem.reason.contains("(exit code 2, Error: no key)"),
        "{problem:?}"
    );
    assert!(problem.has_log);
    let once = diagnose(&container(end, json!({})), 0);
    assert!(
        matches!(once, State::Step(Progress::Starting, Some(_))),
        "one end may be followed by a good start: {once:?}"
    );
}

#[test]
fn a_pod_without_a_node_waits_with_the_schedulers_words() {
    let message = "0/2 nodes are available: 2 Insufficient memory.";
    let state = diagnose(
        &pod(json!({ "conditions": [
            { "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message },
        ]})),
        0,
    );
    let State::Step(Progress::Scheduling(Some(told)), Some(problem)) = state else {
        panic!("{state:?}")
    };
    assert_eq!(told, message);
    assert!(problem.reason.contains("Insufficient memory"));
    assert_eq!(
        diagnose(&pod(json!({})), 0),
        State::Step(Progress::Scheduling(None), None)
    );
}

#[test]
fn a_pod_that_its_node_refused_is_broken() {
    let problem = broken(diagnose(
        &pod(
            json!({ "phase": "Failed", "reason": "SysctlForbidden", "message": "forbidden sysctl" }),
        ),
        0,
    ));
    assert!(problem.reason.contains("SysctlForbidden: forbidden sysctl"));
}

#[test]
fn a_running_pod_is_starting_and_blames_its_probe() {
    let state = diagnose(&container(json!({ "running": {} }), json!({})), 0);
    let State::Step(Progress::Starting, Some(problem)) = state else {
        panic!("{state:?}")
    };
    assert!(problem.reason.contains("readiness probe"));
    assert_eq!(
        diagnose(&waiting_for("ContainerCreating", ""), 0),
        State::Step(Progress::Pulling("registry.example/gw:1".into()), None)
    );
}

#[test]
fn a_refused_creation_keeps_the_policys_words_and_a_remedy() {
    let message = r#"create Pod kvpn-gateway-0 in StatefulSet kvpn-gateway failed error: pods "kvpn-gateway-0" is forbidden: violates PodSecurity "restricted:latest": hostPath volumes"#;
    let problem = Problem::refused(message);
    assert!(
        problem
            .reason
            .starts_with("pods \"kvpn-gateway-0\" is forbidden"),
        "{problem:?}"
    );
    assert!(problem.hint.contains("--datapath userspace"));
    assert!(
        Problem::refused("denied by webhook")
            .hint
            .contains("--gateway-namespace")
    );
}
