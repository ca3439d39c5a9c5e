//! What a pod's status means, and the remedy.

use super::Progress;
use crate::gateway::is_ready;
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, Pod,
};

/// Pull failures after which an image is given up: one may be a registry's hiccup.
const PULLS_TRIED: u32 = 2;

/// Something that keeps the pod from becoming ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) reason: String,
    pub(super) hint: String,
    /// The container ran, so its log may tell more.
    pub(super) has_log: bool,
}

/// A pod's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    Ready,
    /// Under way; with a problem that may pass.
    Step(Progress, Option<Problem>),
    /// Waiting does not help.
    Broken(Problem),
}

impl Problem {
    fn new(reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            hint: hint.into(),
            has_log: false,
        }
    }

    /// The cluster does not let the pod be created.
    pub(super) fn refused(message: &str) -> Self {
        let why = message
            .split_once("failed error: ")
            .map_or(message, |(_, why)| why);
        let hint = crate::error::classify::rejection_hint(why)
            .unwrap_or_else(|| "change the policy, limit or webhook that says so, or choose another namespace with --gateway-namespace".to_owned());
        Self::new(why, hint)
    }
}

/// What a pod's status means. `pull_failures`: how often its image could not be pulled so far.
pub(super) fn diagnose(pod: &Pod, pull_failures: u32) -> State {
    if is_ready(pod) {
        return State::Ready;
    }
    let status = pod.status.clone().unwrap_or_default();
    if pod.metadata.deletion_timestamp.is_some() {
        return State::Step(Progress::Replacing, None);
    }
    if status.phase.as_deref() == Some("Failed") {
        let reason = [status.reason, status.message]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(": ");
        return State::Broken(Problem::new(
            format!("its node refused or ended it: {reason}"),
            describe(pod),
        ));
    }
    match container(pod) {
        Some(container) => container_state(pod, &container, pull_failures),
        None => unscheduled(pod),
    }
}

/// Why the gateway's container waits, if it does.
pub(super) fn waiting(pod: &Pod) -> Option<ContainerStateWaiting> {
    container(pod)?.state?.waiting
}

fn container(pod: &Pod) -> Option<ContainerStatus> {
    pod.status
        .as_ref()?
        .container_statuses
        .as_ref()?
        .first()
        .cloned()
}

fn unscheduled(pod: &Pod) -> State {
    let conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let refused = conditions
        .clone()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    let message = refused.and_then(|condition| condition.message.clone());
    let problem = message.clone().map(|message| {
        Problem::new(
            format!("no node takes it: {message}"),
            "free or add nodes; taints, quotas and node selectors may keep it away",
        )
    });
    State::Step(Progress::Scheduling(message), problem)
}

fn container_state(pod: &Pod, container: &ContainerStatus, pull_failures: u32) -> State {
    match &container.state {
        Some(ContainerState {
            waiting: Some(waiting),
            ..
        }) => waiting_state(pod, container, waiting, pull_failures),
        Some(ContainerState {
            terminated: Some(end),
            ..
        }) => State::Step(Progress::Starting, Some(crashed(pod, Some(end)))),
        Some(ContainerState {
            running: Some(_), ..
        }) => {
            let mut problem = Problem::new(
                "it runs, but its readiness probe (port 6182, /readyz) does not pass",
                describe(pod),
            );
            problem.has_log = true;
            State::Step(Progress::Starting, Some(problem))
        }
        Some(_) | None => State::Step(Progress::Pulling(image(pod)), None),
    }
}

fn waiting_state(
    pod: &Pod,
    container: &ContainerStatus,
    waiting: &ContainerStateWaiting,
    pull_failures: u32,
) -> State {
    let message = waiting.message.clone().unwrap_or_default();
    match waiting.reason.as_deref().unwrap_or_default() {
        "ErrImageNeverPull" => State::Broken(Problem::new(
            format!(
                "the image {} is not on its node, and its pull policy is Never",
                image(pod)
            ),
            "load the image into every node, or use --image-pull-policy IfNotPresent",
        )),
        "InvalidImageName" => State::Broken(Problem::new(
            format!("`{}` is no image name", image(pod)),
            "correct --image (KVPN_GATEWAY_IMAGE)",
        )),
        "ErrImagePull" | "ImagePullBackOff" | "RegistryUnavailable" => {
            unpullable(pod, &message, pull_failures)
        }
        "CrashLoopBackOff" => {
            let end = container
                .last_state
                .as_ref()
                .and_then(|state| state.terminated.as_ref());
            State::Broken(crashed(pod, end))
        }
        reason @ ("CreateContainerConfigError"
        | "CreateContainerError"
        | "RunContainerError"
        | "PreStartHookError") => State::Broken(Problem::new(
            format!("its container cannot be started ({reason}): {message}"),
            describe(pod),
        )),
        _ => State::Step(Progress::Pulling(image(pod)), None),
    }
}

fn unpullable(pod: &Pod, message: &str, pull_failures: u32) -> State {
    let problem = Problem::new(
        format!("the image {} cannot be pulled: {message}", image(pod)),
        "check --image (KVPN_GATEWAY_IMAGE), --image-pull-secret, and that the nodes reach the registry",
    );
    let is_final = [
        "not found",
        "manifest unknown",
        "unauthorized",
        "denied",
        "403 Forbidden",
    ]
    .iter()
    .any(|text| message.contains(text));
    if is_final || pull_failures >= PULLS_TRIED {
        State::Broken(problem)
    } else {
        State::Step(Progress::Pulling(image(pod)), Some(problem))
    }
}

fn crashed(pod: &Pod, end: Option<&ContainerStateTerminated>) -> Problem {
    let how = end.map_or_else(String::new, |end| {
        let texts = [end.reason.clone(), end.message.clone()]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(": ");
        format!(" (exit code {}, {texts})", end.exit_code)
    });
    let image = image(pod);
    let hint = format!(
        "is {image} the gateway's image? look at `kubectl -n {} logs {}`",
        pod.metadata.namespace.as_deref().unwrap_or_default(),
        name(pod)
    );
    Problem {
        has_log: true,
        ..Problem::new(format!("the gateway ends soon after it starts{how}"), hint)
    }
}

fn describe(pod: &Pod) -> String {
    format!(
        "look at `kubectl -n {} describe pod {}`",
        pod.metadata.namespace.as_deref().unwrap_or_default(),
        name(pod)
    )
}

fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

fn image(pod: &Pod) -> String {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    containers
        .filter_map(|container| container.image.clone())
        .next()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
