//! What stands in the way of an exposure, or is worth knowing before: what, on which object, and what to do. No calls.

use super::object::Object;
use crate::Error;
use std::fmt;

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// It may break something: refused without `--force`.
    NeedsForce,
    /// It cannot work.
    Never,
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// The object, such as `Service demo/web`.
    pub object: String,
    /// What is the matter with it: the end of a sentence that begins with the object.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.object, self.what)
    }
}

impl Finding {
    pub(super) fn new(
        severity: Severity,
        object: impl Into<String>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            severity,
            object: object.into(),
            what: what.into(),
            remedy: remedy.into(),
        }
    }
}

/// The error of the gravest finding that is not to be passed over.
pub(super) fn refusal(findings: &[Finding], force: bool) -> Option<Error> {
    let least = if force {
        Severity::Never
    } else {
        Severity::NeedsForce
    };
    let mut grave = findings.iter().filter(|finding| finding.severity >= least);
    let first = grave.next()?;
    let worst = grave.fold(first, |worst, other| {
        if other.severity > worst.severity {
            other
        } else {
            worst
        }
    });
    let remedy = match worst.severity {
        Severity::Never => worst.remedy.clone(),
        Severity::NeedsForce | Severity::Note => {
            format!("{}; --force does it all the same", worst.remedy)
        }
    };
    Some(Error::Refused {
        object: worst.object.clone(),
        why: worst.what.clone(),
        remedy,
    })
}

/// What can be seen on the Service itself.
pub(super) fn of_service(service: &Object) -> Vec<Finding> {
    let typed = service.typed();
    let spec = typed.spec.unwrap_or_default();
    let mut findings = Vec::new();
    let mut add = |severity, what: &str, remedy: &str| {
        findings.push(Finding::new(severity, service.text(), what, remedy));
    };
    if service.is_ending() {
        add(Severity::Never, "is being deleted", "wait until it is gone");
    }
    if spec.type_.as_deref() == Some("ExternalName") {
        add(
            Severity::Never,
            "is of type ExternalName: it is a name for something outside, and has no traffic of its own",
            "expose the Service that it stands for, or a new one under another name",
        );
    } else if service.selector().is_empty() && !is_created(service) {
        add(
            Severity::Never,
            "has no selector: something else looks after its endpoints and would not give them up",
            "expose a new Service under another name",
        );
    }
    if typed
        .metadata
        .labels
        .iter()
        .flatten()
        .any(|(key, value)| key == super::MANAGED_BY && value == "kvpn")
        && !is_created(service)
    {
        add(
            Severity::Never,
            "is kvpn's own",
            "expose the Service that your callers use",
        );
    }
    if spec.cluster_ip.as_deref() == Some("None") {
        add(
            Severity::NeedsForce,
            "is headless: callers look its pods up by themselves, so that those who know the pods already stay with them, the pods' own names (pod.service) are gone meanwhile, and the gateway has to listen at the very port that callers use",
            "give callers a Service with an address and expose that one",
        );
    }
    if spec.external_traffic_policy.as_deref() == Some("Local") {
        add(
            Severity::NeedsForce,
            "has externalTrafficPolicy Local: load balancers would send everything to the gateway's node, and callers at other nodes' ports would get nothing",
            "set externalTrafficPolicy to Cluster for the time",
        );
    }
    if spec.internal_traffic_policy.as_deref() == Some("Local") {
        add(
            Severity::NeedsForce,
            "has internalTrafficPolicy Local: only callers on the gateway's node would reach it",
            "set internalTrafficPolicy to Cluster for the time",
        );
    }
    if spec.session_affinity.as_deref() == Some("ClientIP") {
        add(
            Severity::Note,
            "has session affinity: the origin sees all callers at the gateway's address, and one of its pods serves all that is not yours",
            "expect one pod of the origin to be busier",
        );
    }
    findings.extend(gitops(service));
    findings
}

fn is_created(service: &Object) -> bool {
    matches!(service.annotation(), Ok(Some(annotation)) if annotation.created)
}

/// Who would put the Service back: found by its marks, and by who wrote its fields.
fn gitops(service: &Object) -> Option<Finding> {
    let metadata = service.typed().metadata;
    let labels = metadata.labels.unwrap_or_default();
    let annotations = metadata.annotations.unwrap_or_default();
    let has = |start: &str| {
        labels
            .keys()
            .chain(annotations.keys())
            .any(|key| key.starts_with(start))
    };
    let managers: Vec<String> = metadata
        .managed_fields
        .into_iter()
        .flatten()
        .filter_map(|fields| fields.manager)
        .collect();
    let wrote = |start: &str| managers.iter().any(|manager| manager.starts_with(start));
    let is_paused = |key: &str| {
        annotations
            .get(key)
            .is_some_and(|value| value == "disabled")
    };
    let tracked = |who: &str, remedy: &str| {
        let what = format!("is tracked by {who}, which would put it back");
        Some(Finding::new(
            Severity::NeedsForce,
            service.text(),
            what,
            remedy,
        ))
    };
    if has("argocd.argoproj.io/") || wrote("argocd-") {
        return tracked(
            "Argo CD",
            "turn selfHeal off for the application, or let it ignore differences in /spec/selector and /spec/ports",
        );
    }
    let flux = has("kustomize.toolkit.fluxcd.io/") || wrote("kustomize-controller");
    if flux && !is_paused("kustomize.toolkit.fluxcd.io/reconcile") {
        return tracked(
            "Flux (a Kustomization)",
            "suspend it (`flux suspend kustomization NAME`) or annotate the Service with kustomize.toolkit.fluxcd.io/reconcile: disabled",
        );
    }
    let helm = has("helm.toolkit.fluxcd.io/") || wrote("helm-controller");
    if helm && !is_paused("helm.toolkit.fluxcd.io/driftDetection") {
        return tracked(
            "Flux (a HelmRelease)",
            "suspend it (`flux suspend helmrelease NAME`) or annotate the Service with helm.toolkit.fluxcd.io/driftDetection: disabled",
        );
    }
    let is_helm = labels
        .get(super::MANAGED_BY)
        .is_some_and(|keeper| keeper == "Helm");
    (labels.contains_key("app.kubernetes.io/instance") && !is_helm).then(|| {
        Finding::new(
            Severity::Note,
            service.text(),
            "has the label app.kubernetes.io/instance, by which Argo CD may track it",
            "if it is put back by itself, turn selfHeal off for the application",
        )
    })
}
