//! The kinds of objects that kvpn installs.

use crate::GATEWAY_NAME;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Service, ServiceAccount},
    rbac::v1::{Role, RoleBinding},
};
use kube::core::ApiResource;
use serde_json::Value;

/// A kind of object that kvpn installs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    ServiceAccount,
    Role,
    RoleBinding,
    Service,
    StatefulSet,
}

impl Kind {
    /// Users before what they use.
    pub(super) const REMOVAL_ORDER: [Self; 5] = [
        Self::StatefulSet,
        Self::Service,
        Self::RoleBinding,
        Self::Role,
        Self::ServiceAccount,
    ];

    /// The kind of one of our manifests' objects.
    pub(super) fn of(object: &Value) -> Option<Self> {
        Self::REMOVAL_ORDER
            .into_iter()
            .find(|kind| kind.api_resource().kind == object["kind"])
    }

    pub(super) fn api_resource(self) -> ApiResource {
        match self {
            Self::ServiceAccount => ApiResource::erase::<ServiceAccount>(&()),
            Self::Role => ApiResource::erase::<Role>(&()),
            Self::RoleBinding => ApiResource::erase::<RoleBinding>(&()),
            Self::Service => ApiResource::erase::<Service>(&()),
            Self::StatefulSet => ApiResource::erase::<StatefulSet>(&()),
        }
    }

    /// RBAC's name.
    pub(super) fn resource(self) -> &'static str {
        match self {
            Self::ServiceAccount => "serviceaccounts",
            Self::Role => "roles.rbac.authorization.k8s.io",
            Self::RoleBinding => "rolebindings.rbac.authorization.k8s.io",
            Self::Service => "services",
            Self::StatefulSet => "statefulsets.apps",
        }
    }

    /// The kind in messages, as kubectl prints it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::ServiceAccount => "serviceaccount",
            Self::Role => "role",
            Self::RoleBinding => "rolebinding",
            Self::Service => "service",
            Self::StatefulSet => "statefulset",
        }
    }

    pub(super) fn object_text(self) -> String {
        format!("{} {GATEWAY_NAME}", self.word())
    }

    /// Whether a gateway works without it: users with only `edit` may not touch Roles.
    pub(super) fn is_optional(self) -> bool {
        match self {
            Self::Role | Self::RoleBinding => true,
            Self::ServiceAccount | Self::Service | Self::StatefulSet => false,
        }
    }
}
