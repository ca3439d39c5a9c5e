//! Asking beforehand what the user may do (SelfSubjectAccessReview), so that a missing right is named, not met.

use crate::{Cluster, Error, cluster::call::Call};
use futures::future::join_all;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::{Api, api::PostParams};
use std::fmt;

/// What the rights are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Finding a gateway and opening a session through it.
    Connect,
    /// Exposing Services through a gateway.
    Expose,
    /// Installing a gateway, and connecting to it.
    Install,
}

/// A right that the user does not have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Missing {
    /// Kubernetes verb.
    pub verb: String,
    /// Resource with group and subresource, as `kubectl auth can-i` takes it.
    pub resource: String,
    /// `None` for cluster-wide resources.
    pub namespace: Option<String>,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        match &self.namespace {
            Some(namespace) => write!(f, " in namespace {namespace}"),
            None => Ok(()),
        }
    }
}

/// One question of a preflight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Right {
    pub(crate) verb: &'static str,
    /// Resource with group and subresource: `statefulsets.apps`, `pods/portforward`.
    pub(crate) resource: &'static str,
}

const CONNECT: &[Right] = &[
    Right {
        verb: "list",
        resource: "pods",
    },
    Right {
        verb: "get",
        resource: "pods/portforward",
    },
    // Kubernetes checks it from 1.35 on, for WebSockets too.
    Right {
        verb: "create",
        resource: "pods/portforward",
    },
];

/// What an exposure cannot do without; autoscalers and policies are looked for only where they may be.
const EXPOSE: &[Right] = &[
    Right {
        verb: "get",
        resource: "services",
    },
    Right {
        verb: "create",
        resource: "services",
    },
    Right {
        verb: "patch",
        resource: "services",
    },
    Right {
        verb: "delete",
        resource: "services",
    },
    Right {
        verb: "list",
        resource: "endpointslices.discovery.k8s.io",
    },
    Right {
        verb: "watch",
        resource: "endpointslices.discovery.k8s.io",
    },
];

/// The gateway's Role is not among them: it is left out when it may not be made.
const INSTALL: &[Right] = &[
    Right {
        verb: "watch",
        resource: "pods",
    },
    Right {
        verb: "get",
        resource: "statefulsets.apps",
    },
    Right {
        verb: "create",
        resource: "statefulsets.apps",
    },
    Right {
        verb: "patch",
        resource: "statefulsets.apps",
    },
    Right {
        verb: "get",
        resource: "services",
    },
    Right {
        verb: "create",
        resource: "services",
    },
    Right {
        verb: "patch",
        resource: "services",
    },
    Right {
        verb: "get",
        resource: "serviceaccounts",
    },
    Right {
        verb: "create",
        resource: "serviceaccounts",
    },
    Right {
        verb: "patch",
        resource: "serviceaccounts",
    },
];

/// The rights that a purpose takes.
pub(crate) fn rights(purpose: Purpose) -> Vec<Right> {
    match purpose {
        Purpose::Connect => CONNECT.to_vec(),
        Purpose::Expose => [CONNECT, EXPOSE].concat(),
        Purpose::Install => [CONNECT, INSTALL].concat(),
    }
}

impl Cluster {
    /// The rights that are missing for `purpose` in `namespace`; empty when all are there. All are asked at once.
    ///
    /// A cluster that does not answer such questions makes the list shorter, never longer.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Unauthorized`], [`Error::ExecPlugin`].
    pub async fn preflight(
        &self,
        namespace: &str,
        purpose: Purpose,
    ) -> Result<Vec<Missing>, Error> {
        let reviews: Api<SelfSubjectAccessReview> = Api::all(self.client().await?);
        let rights = rights(purpose);
        let answers = join_all(
            rights
                .iter()
                .map(|right| self.may(&reviews, namespace, *right)),
        )
        .await;
        let mut missing = Vec::new();
        for (right, allowed) in rights.iter().zip(answers) {
            if !allowed? {
                missing.push(Missing {
                    verb: right.verb.to_owned(),
                    resource: right.resource.to_owned(),
                    namespace: Some(namespace.to_owned()),
                });
            }
        }
        Ok(missing)
    }

    async fn may(
        &self,
        reviews: &Api<SelfSubjectAccessReview>,
        namespace: &str,
        right: Right,
    ) -> Result<bool, Error> {
        let call = Call::cluster("create", "selfsubjectaccessreviews.authorization.k8s.io");
        let review = review(namespace, right);
        match self
            .run(&call, reviews.create(&PostParams::default(), &review))
            .await
        {
            Ok(answer) => Ok(answer.status.is_none_or(|status| status.allowed)),
            // Not allowed to ask: the deed itself will tell.
            Err(Error::Forbidden { .. } | Error::NotFound { .. } | Error::Rejected { .. }) => {
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }
}

fn review(namespace: &str, right: Right) -> SelfSubjectAccessReview {
    let (path, group) = right
        .resource
        .split_once('.')
        .unwrap_or((right.resource, ""));
    let (resource, subresource) = path.split_once('/').unzip();
    let attributes = ResourceAttributes {
        verb: Some(right.verb.to_owned()),
        group: Some(group.to_owned()),
        resource: Some(resource.unwrap_or(path).to_owned()),
        subresource: subresource.map(str::to_owned),
        namespace: Some(namespace.to_owned()),
        ..ResourceAttributes::default()
    };
    SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            ..Default::default()
        },
        ..Default::default()
    }
}

#[cfg(test)]
mod tests;
