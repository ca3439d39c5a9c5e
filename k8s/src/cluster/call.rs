//! One request to the API server: what is asked of which object, for error texts, and the time it may take.

use std::time::Duration;

/// How long an ordinary request may take, connecting included.
pub(crate) const CALL_LIMIT: Duration = Duration::from_secs(10);

/// What a request asks, in RBAC's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    /// `get`, `list`, `create`, ...
    pub(crate) verb: &'static str,
    /// Resource with group and subresource, such as `statefulsets.apps` or `pods/portforward`.
    pub(crate) resource: &'static str,
    /// `None`: cluster-wide.
    pub(crate) namespace: Option<String>,
    /// The object, when it is one.
    pub(crate) name: Option<String>,
    /// The bound on its time.
    pub(crate) limit: Duration,
}

impl Call {
    /// A request about a namespace's objects.
    pub(crate) fn namespaced(verb: &'static str, resource: &'static str, namespace: &str) -> Self {
        Self {
            namespace: Some(namespace.to_owned()),
            ..Self::cluster(verb, resource)
        }
    }

    /// A request about the whole cluster.
    pub(crate) fn cluster(verb: &'static str, resource: &'static str) -> Self {
        Self {
            verb,
            resource,
            namespace: None,
            name: None,
            limit: CALL_LIMIT,
        }
    }

    /// The same about one object.
    pub(crate) fn named(self, name: &str) -> Self {
        Self {
            name: Some(name.to_owned()),
            ..self
        }
    }

    /// The same within another time.
    pub(crate) fn within(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// The object as error texts name it: `pods demo/web-0`.
    pub(crate) fn object(&self) -> String {
        match (&self.namespace, &self.name) {
            (Some(namespace), Some(name)) => format!("{} {namespace}/{name}", self.resource),
            (Some(namespace), None) => format!("{} in namespace {namespace}", self.resource),
            (None, Some(name)) => format!("{} {name}", self.resource),
            (None, None) => self.resource.to_owned(),
        }
    }
}
