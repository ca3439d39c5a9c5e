//! What is known of an install on its way, and what follows from it. No IO: the watch feeds it.

use super::{
    Progress,
    diagnosis::{Problem, State, diagnose},
};
use crate::{Error, GATEWAY_NAME, GatewayPod};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Event as Notice, Pod},
};
use kube::{ResourceExt, runtime::watcher::Event};
use std::{collections::BTreeMap, time::Duration};

/// One thing that the watch brought.
#[expect(
    clippy::large_enum_variant,
    reason = "each is moved once, from the watch into the rollout"
)]
pub(super) enum Seen {
    Pod(Event<Pod>),
    Set(Event<StatefulSet>),
    /// The user may not watch StatefulSets.
    SetHidden,
    Notice(Event<Notice>),
}

/// What becomes of the install.
#[derive(Debug)]
pub(super) enum Verdict {
    Ready(Box<GatewayPod>),
    /// Waiting does not help.
    Broken(Problem),
    Step(Progress),
}

/// The StatefulSet, as far as known.
#[derive(Debug, Default)]
enum Set {
    #[default]
    Unknown,
    Hidden,
    Missing,
    Here(Box<StatefulSet>),
}

/// A refusal to create the pod, noted by the StatefulSet's controller.
#[derive(Debug)]
struct Refusal {
    message: String,
    /// Seen to come while we watch, so not one of an earlier install.
    fresh: bool,
}

/// An install on its way.
#[derive(Debug)]
pub(super) struct Rollout {
    pub(super) namespace: String,
    set: Set,
    pods: BTreeMap<String, Pod>,
    pods_listed: bool,
    /// How often each pod's image could not be pulled, by uid.
    pull_failures: BTreeMap<String, u32>,
    refusal: Option<Refusal>,
    doubt_over: bool,
    /// The last warning about each pod, by uid.
    warnings: BTreeMap<String, String>,
}

impl Rollout {
    pub(super) fn new(namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            set: Set::default(),
            pods: BTreeMap::new(),
            pods_listed: false,
            pull_failures: BTreeMap::new(),
            refusal: None,
            doubt_over: false,
            warnings: BTreeMap::new(),
        }
    }

    pub(super) fn is_doubt_over(&self) -> bool {
        self.doubt_over
    }

    /// From now on, a refusal that was noted before we looked counts too.
    pub(super) fn end_doubt(&mut self) {
        self.doubt_over = true;
    }

    /// Takes in what the watch brought.
    pub(super) fn handle(&mut self, seen: Seen) -> Result<(), Error> {
        match seen {
            Seen::Pod(event) => self.handle_pod(event),
            Seen::Set(event) => self.handle_set(event),
            Seen::SetHidden => self.set = Set::Hidden,
            Seen::Notice(event) => self.handle_notice(event),
        }
        if matches!(self.set, Set::Missing) && self.pods_listed && self.pods.is_empty() {
            return Err(Error::NotFound {
                what: format!("statefulset {}/{GATEWAY_NAME}", self.namespace),
            });
        }
        Ok(())
    }

    fn handle_pod(&mut self, event: Event<Pod>) {
        match event {
            Event::Init => self.pods.clear(),
            Event::InitDone => self.pods_listed = true,
            Event::InitApply(pod) | Event::Apply(pod) => {
                let failed_before = self.pods.get(&pod.name_any()).is_some_and(is_pull_failed);
                if is_pull_failed(&pod) && !failed_before {
                    *self
                        .pull_failures
                        .entry(pod.uid().unwrap_or_default())
                        .or_default() += 1;
                }
                self.pods.insert(pod.name_any(), pod);
            }
            Event::Delete(pod) => drop(self.pods.remove(&pod.name_any())),
        }
    }

    fn handle_set(&mut self, event: Event<StatefulSet>) {
        match event {
            Event::Init => {}
            Event::InitApply(set) | Event::Apply(set) => self.set = Set::Here(Box::new(set)),
            Event::InitDone => {
                if matches!(self.set, Set::Unknown) {
                    self.set = Set::Missing;
                }
            }
            Event::Delete(_) => self.set = Set::Missing,
        }
    }

    fn handle_notice(&mut self, event: Event<Notice>) {
        let (notice, fresh) = match event {
            Event::InitApply(notice) => (notice, false),
            Event::Apply(notice) => (notice, true),
            Event::Init | Event::InitDone | Event::Delete(_) => return,
        };
        let message = notice.message.unwrap_or_default();
        let about = notice.involved_object;
        if about.kind.as_deref() == Some("StatefulSet")
            && notice.reason.as_deref() == Some("FailedCreate")
        {
            self.refusal = Some(Refusal { message, fresh });
        } else if about.kind.as_deref() == Some("Pod") && notice.type_.as_deref() == Some("Warning")
        {
            self.warnings.insert(about.uid.unwrap_or_default(), message);
        }
    }

    /// What follows from all that was seen.
    pub(super) fn verdict(&self) -> Verdict {
        let Some(revision) = self.revision() else {
            return Verdict::Step(Progress::Creating);
        };
        let (current, old): (Vec<&Pod>, Vec<&Pod>) =
            self.pods.values().partition(|pod| revision.is_of(pod));
        let states: Vec<State> = current.iter().map(|pod| self.diagnose(pod)).collect();
        if let Some(at) = states
            .iter()
            .position(|state| matches!(state, State::Ready))
        {
            return Verdict::Ready(Box::new(GatewayPod::of(current[at])));
        }
        match states.into_iter().next() {
            Some(State::Broken(problem)) => Verdict::Broken(problem),
            Some(State::Step(step, _)) => Verdict::Step(step),
            Some(State::Ready) | None if !old.is_empty() => Verdict::Step(Progress::Replacing),
            Some(State::Ready) | None => self.without_pod(),
        }
    }

    fn without_pod(&self) -> Verdict {
        match &self.refusal {
            Some(refusal) if refusal.fresh || self.doubt_over => {
                Verdict::Broken(Problem::refused(&refusal.message))
            }
            Some(_) | None => Verdict::Step(Progress::Creating),
        }
    }

    fn diagnose(&self, pod: &Pod) -> State {
        let failures = self
            .pull_failures
            .get(&pod.uid().unwrap_or_default())
            .copied()
            .unwrap_or(0);
        diagnose(pod, failures)
    }

    /// Which pods count; `None` while that is not known.
    fn revision(&self) -> Option<Revision<'_>> {
        match &self.set {
            Set::Unknown => None,
            Set::Hidden | Set::Missing => Some(Revision::Any),
            Set::Here(set) => {
                let status = set.status.as_ref()?;
                let is_current = status.observed_generation >= set.metadata.generation;
                is_current.then_some(Revision::Only(status.update_revision.as_deref()?))
            }
        }
    }

    /// The pod to look at when something is wrong.
    pub(super) fn newest_pod(&self) -> Option<String> {
        self.pods
            .values()
            .max_by_key(|pod| pod.creation_timestamp())
            .map(ResourceExt::name_any)
    }

    /// A problem as the user reads it.
    pub(super) fn error(&self, problem: Problem, log: Option<String>) -> Error {
        let log = log.map_or_else(String::new, |log| format!("; its last words:\n{log}"));
        Error::NotReady {
            pod: self.pod_text(),
            reason: problem.reason + &log,
            hint: problem.hint,
        }
    }

    /// The error when time is up: the last thing seen.
    pub(super) fn overdue(&self, limit: Duration) -> Error {
        let pod = self.newest_pod().and_then(|name| self.pods.get(&name));
        let doing = match self.verdict() {
            Verdict::Step(step) => step.to_string(),
            Verdict::Ready(_) | Verdict::Broken(_) => String::new(),
        };
        let problem = match pod.map(|pod| self.diagnose(pod)) {
            Some(State::Broken(problem) | State::Step(_, Some(problem))) => Some(problem),
            Some(State::Step(_, None) | State::Ready) | None => None,
        };
        let what = problem
            .as_ref()
            .map_or(doing, |problem| problem.reason.clone());
        let warning = pod
            .and_then(|pod| self.warnings.get(&pod.uid()?))
            .filter(|warning| !what.contains(warning.as_str()))
            .map(|warning| format!(" ({warning})"));
        let reason = format!(
            "after {} s still: {what}{}",
            limit.as_secs(),
            warning.unwrap_or_default()
        );
        let look = format!(
            "look at `kubectl -n {} describe pod {GATEWAY_NAME}-0`",
            self.namespace
        );
        let hint = problem.map_or(look, |problem| problem.hint);
        Error::NotReady {
            pod: self.pod_text(),
            reason,
            hint,
        }
    }

    fn pod_text(&self) -> String {
        let name = self
            .newest_pod()
            .unwrap_or_else(|| format!("{GATEWAY_NAME}-0"));
        format!("{}/{name}", self.namespace)
    }
}

/// Which revision of the StatefulSet counts.
enum Revision<'a> {
    Any,
    Only(&'a str),
}

impl Revision<'_> {
    fn is_of(&self, pod: &Pod) -> bool {
        match self {
            Self::Any => true,
            Self::Only(revision) => {
                pod.labels()
                    .get("controller-revision-hash")
                    .map(String::as_str)
                    == Some(revision)
            }
        }
    }
}

fn is_pull_failed(pod: &Pod) -> bool {
    super::diagnosis::waiting(pod)
        .is_some_and(|waiting| waiting.reason.as_deref() == Some("ErrImagePull"))
}

#[cfg(test)]
mod tests;
