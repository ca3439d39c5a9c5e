//! A Service as the API server gave it, with the fields that this build does not know. No calls.

use super::annotation::{ANNOTATION, Annotation, BadAnnotation, TargetPort};
use k8s_openapi::api::core::v1::Service;
use kvpn_wire::exposure::Protocol;
use serde_json::Value;
use std::collections::BTreeMap;

/// A Service whole: a patch that replaces its list of ports must give back what others wrote there.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Object(pub(super) Value);

impl Object {
    fn metadata(&self, field: &str) -> &str {
        self.0["metadata"][field].as_str().unwrap_or_default()
    }

    pub(super) fn name(&self) -> &str {
        self.metadata("name")
    }

    pub(super) fn namespace(&self) -> &str {
        self.metadata("namespace")
    }

    pub(super) fn uid(&self) -> &str {
        self.metadata("uid")
    }

    pub(super) fn resource_version(&self) -> &str {
        self.metadata("resourceVersion")
    }

    /// As error texts name it.
    pub(super) fn text(&self) -> String {
        super::service_text(self.namespace(), self.name())
    }

    /// Whether it is on its way out.
    pub(super) fn is_ending(&self) -> bool {
        !self.metadata("deletionTimestamp").is_empty()
    }

    /// Our annotation, if it bears one.
    pub(super) fn annotation(&self) -> Result<Option<Annotation>, BadAnnotation> {
        let text = self.0["metadata"]["annotations"][ANNOTATION].as_str();
        text.map(Annotation::parse).transpose()
    }

    pub(super) fn selector(&self) -> BTreeMap<String, String> {
        serde_json::from_value(self.0["spec"]["selector"].clone()).unwrap_or_default()
    }

    pub(super) fn ports(&self) -> &[Value] {
        self.0["spec"]["ports"]
            .as_array()
            .map_or(&[], Vec::as_slice)
    }

    /// The fields that this build knows.
    pub(super) fn typed(&self) -> Service {
        serde_json::from_value(self.0.clone()).unwrap_or_default()
    }
}

/// What a port of a Service speaks; `None` for SCTP.
pub(super) fn protocol(port: &Value) -> Option<Protocol> {
    Protocol::from_kubernetes(port["protocol"].as_str().unwrap_or("TCP"))
}

/// A port's number.
pub(super) fn number(port: &Value) -> u16 {
    port["port"]
        .as_u64()
        .and_then(|port| u16::try_from(port).ok())
        .unwrap_or_default()
}

/// Where a port leads; its own number when nothing is said, as the API server fills in.
pub(super) fn target(port: &Value) -> TargetPort {
    serde_json::from_value(port["targetPort"].clone())
        .unwrap_or_else(|_| TargetPort::Number(number(port)))
}
