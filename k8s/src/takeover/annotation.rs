//! The annotation that a Service bears while it is exposed: for whom, and what it was before. No calls.
//!
//! A gateway that starts again finds its exposures here, so that all it needs to listen is inside. Fields are added, never
//! renamed; what cannot be read is left alone, by everybody.

use k8s_openapi::jiff::Timestamp;
use kvpn_wire::{control::Expose, exposure::Protocol};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

/// Key of the annotation.
pub const ANNOTATION: &str = "kvpn.dev/exposure";

/// The version this build writes and understands.
const VERSION: u32 = 1;

/// Sessions that may share one Service: keeps the annotation far below Kubernetes' 256 KiB.
pub(super) const MAX_OWNERS: usize = 32;

/// The annotation's content.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Annotation {
    /// Always 1.
    pub version: u32,
    /// The gateway pod that the Service leads to, or is about to.
    pub gateway: String,
    /// kvpn made the Service, and removes it at the end.
    #[serde(default)]
    pub created: bool,
    /// What the Service was before.
    pub original: Original,
    /// Whose sessions they are, at least one.
    pub owners: Vec<Owner>,
}

/// The fields of a Service that a swap changes, as they were.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Original {
    /// `spec.selector`.
    #[serde(default)]
    pub selector: BTreeMap<String, String>,
    /// `spec.ports[].targetPort`, for each port that was changed.
    #[serde(default)]
    pub ports: Vec<OriginalPort>,
}

/// One port's original target. Found again by the gateway's port, which is unique: others may rename and renumber.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OriginalPort {
    /// What is spoken.
    #[serde(default)]
    pub protocol: Protocol,
    /// The gateway's port that stands there now.
    pub gateway_port: u16,
    /// What stood there before.
    pub target_port: TargetPort,
}

/// A target port: a number, or the name of a container's port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TargetPort {
    /// By number.
    Number(u16),
    /// By name.
    Name(String),
}

/// One session's part of an exposure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// The fingerprint of the session's public key.
    pub session: String,
    /// Since when, RFC 3339.
    pub since: String,
    /// What it exposes; `owner` in it is who it is, for people.
    pub expose: Expose,
}

impl Owner {
    /// Who it is, for people.
    pub fn name(&self) -> &str {
        self.expose.owner_name()
    }

    /// How long it has exposed the Service; `None` when that is in no form that can be read. Clocks differ: never negative.
    pub fn age(&self, now: SystemTime) -> Option<Duration> {
        let since: Timestamp = self.since.parse().ok()?;
        Some(now.duration_since(since.into()).unwrap_or_default())
    }
}

/// A moment as [`Owner::since`] has it: RFC 3339, in whole seconds, UTC.
pub fn since(now: SystemTime) -> String {
    // A clock outside the years that a timestamp has is nobody's.
    let now = Timestamp::try_from(now).unwrap_or(Timestamp::UNIX_EPOCH);
    format!("{now:.0}")
}

/// An annotation that this build cannot read.
#[derive(Debug, thiserror::Error)]
#[error("its annotation {ANNOTATION} cannot be read: {0}")]
pub struct BadAnnotation(String);

impl Annotation {
    /// The annotation of a Service that nobody exposes yet.
    pub(super) fn new(gateway: &str, created: bool) -> Self {
        Self {
            version: VERSION,
            gateway: gateway.to_owned(),
            created,
            original: Original::default(),
            owners: Vec::new(),
        }
    }

    /// Reads an annotation.
    ///
    /// # Errors
    /// It is not JSON of ours, of another version, or has no owner.
    pub fn parse(text: &str) -> Result<Self, BadAnnotation> {
        let bad = |why: &dyn ToString| BadAnnotation(why.to_string());
        let annotation: Self = serde_json::from_str(text).map_err(|error| bad(&error))?;
        if annotation.version != VERSION {
            let why = format!("version {} is not known", annotation.version);
            return Err(BadAnnotation(why));
        }
        if annotation.owners.is_empty() || annotation.gateway.is_empty() {
            return Err(bad(&"it names no owner or no gateway"));
        }
        Ok(annotation)
    }

    /// The annotation as text.
    pub(super) fn to_text(&self) -> String {
        serde_json::to_string(self).expect("text keys and plain values have a JSON form")
    }

    /// The session's part.
    pub fn owner(&self, session: &str) -> Option<&Owner> {
        self.owners.iter().find(|owner| owner.session == session)
    }

    /// The selector that leads to the gateway pod and nowhere else.
    pub(super) fn gateway_selector(&self) -> BTreeMap<String, String> {
        gateway_selector(&self.gateway)
    }

    /// What a target port was before, if it is one of the gateway's.
    pub(super) fn original_target(
        &self,
        protocol: Protocol,
        target: &TargetPort,
    ) -> Option<&TargetPort> {
        let TargetPort::Number(number) = target else {
            return None;
        };
        let ports = self.original.ports.iter();
        let mut ours =
            ports.filter(|port| (port.protocol, port.gateway_port) == (protocol, *number));
        ours.next().map(|port| &port.target_port)
    }
}

/// The labels of one gateway pod: the StatefulSet's controller puts the second on each.
pub(super) fn gateway_selector(pod: &str) -> BTreeMap<String, String> {
    [
        ("app.kubernetes.io/name", crate::GATEWAY_NAME),
        ("statefulset.kubernetes.io/pod-name", pod),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_is_that_of_the_moment_written_down() {
        let began = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_280_400_700);
        let owner = |since: String| Owner {
            session: String::new(),
            since,
            expose: serde_json::from_str(r#"{"ports":[]}"#).unwrap(),
        };
        let text = since(began);
        assert!(text.ends_with('Z') && text.len() == 20, "{text}");
        let later = began + Duration::from_secs(61);
        let age = owner(text).age(later).unwrap();
        assert_eq!(age.as_secs(), 61);
        assert_eq!(owner(since(later)).age(began), Some(Duration::ZERO));
        assert_eq!(owner("yesterday".into()).age(later), None);
    }
}
