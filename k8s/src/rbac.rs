//! What an admin grants so that somebody may use kvpn: least rights, as plain RBAC objects.

use crate::manifest::{documents, place};
use serde_json::{Value, json};

const CONNECT: &str = include_str!("../manifests/rbac-connect.yaml");
const EXPOSE: &str = include_str!("../manifests/rbac-expose.yaml");
const INSTALL: &str = include_str!("../manifests/rbac-install.yaml");
const DISCOVER: &str = include_str!("../manifests/rbac-discover.yaml");

/// Who gets the rights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A user by name.
    User(String),
    /// A group by name.
    Group(String),
    /// A ServiceAccount.
    ServiceAccount {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// How much is granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RbacLevel {
    /// Connecting to a gateway that is there.
    #[default]
    Connect,
    /// Exposing Services too.
    Expose,
    /// Installing and removing a gateway too.
    Install,
}

/// What to grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RbacSpec {
    /// The gateway's namespace.
    pub namespace: String,
    /// How much.
    pub level: RbacLevel,
    /// Also the cluster-wide reading that makes discovery complete (namespaces, Services, pods, nodes, ServiceCIDRs).
    pub discover: bool,
    /// To whom; without any, the roles are made but not bound.
    pub subjects: Vec<Subject>,
}

/// The objects to apply, in the order to apply them.
pub fn rbac(spec: &RbacSpec) -> Vec<Value> {
    let mut objects = documents(CONNECT);
    match spec.level {
        RbacLevel::Connect => {}
        RbacLevel::Expose => objects.extend(documents(EXPOSE)),
        RbacLevel::Install => objects.extend(documents(INSTALL)),
    }
    for role in &mut objects {
        place(role, &spec.namespace);
    }
    if spec.discover {
        objects.extend(documents(DISCOVER));
    }
    let bindings: Vec<Value> = objects
        .iter()
        .filter_map(|role| binding(role, &spec.subjects))
        .collect();
    objects.extend(bindings);
    objects
}

/// The binding of a role to the subjects, under the role's own name.
fn binding(role: &Value, subjects: &[Subject]) -> Option<Value> {
    if subjects.is_empty() {
        return None;
    }
    let mut binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": format!("{}Binding", role["kind"].as_str().unwrap_or_default()),
        "metadata": role["metadata"],
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": role["kind"], "name": role["metadata"]["name"] },
    });
    binding["subjects"] = subjects.iter().map(subject).collect();
    Some(binding)
}

fn subject(subject: &Subject) -> Value {
    match subject {
        Subject::User(name) => {
            json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name })
        }
        Subject::Group(name) => {
            json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": name })
        }
        Subject::ServiceAccount { namespace, name } => {
            json!({ "kind": "ServiceAccount", "namespace": namespace, "name": name })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::rbac::v1::{
        ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding,
    };

    fn rules(objects: &[Value]) -> Vec<PolicyRule> {
        let roles = objects
            .iter()
            .filter(|object| object["kind"] == "Role" || object["kind"] == "ClusterRole");
        roles
            .flat_map(|role| {
                serde_json::from_value::<Vec<PolicyRule>>(role["rules"].clone()).unwrap()
            })
            .collect()
    }

    fn spec(level: RbacLevel, discover: bool, subjects: Vec<Subject>) -> RbacSpec {
        RbacSpec {
            namespace: "demo".into(),
            level,
            discover,
            subjects,
        }
    }

    #[test]
    fn connecting_takes_no_write_but_the_port_forward() {
        for rule in rules(&rbac(&spec(RbacLevel::Connect, true, Vec::new()))) {
            let resources = rule.resources.unwrap();
            let writes = rule
                .verbs
                .iter()
                .any(|verb| !["get", "list", "watch"].contains(&verb.as_str()));
            assert!(
                !writes || resources == ["pods/portforward"],
                "{resources:?}"
            );
            assert!(!resources.iter().any(|resource| resource == "*"));
        }
    }

    #[test]
    fn every_right_that_preflight_asks_for_is_granted() {
        all_granted(RbacLevel::Connect, crate::Purpose::Connect);
        all_granted(RbacLevel::Expose, crate::Purpose::Expose);
        all_granted(RbacLevel::Install, crate::Purpose::Install);
    }

    fn all_granted(level: RbacLevel, purpose: crate::Purpose) {
        let rules = rules(&rbac(&spec(level, false, Vec::new())));
        for right in crate::preflight::rights(purpose) {
            let (resource, group) = right
                .resource
                .split_once('.')
                .unwrap_or((right.resource, ""));
            let granted = rules.iter().any(|rule| {
                let has = |list: &Option<Vec<String>>, item: &str| {
                    list.iter().flatten().any(|other| other == item)
                };
                rule.verbs.iter().any(|verb| verb == right.verb)
                    && has(&rule.resources, resource)
                    && has(&rule.api_groups, group)
            });
            assert!(granted, "{} {}", right.verb, right.resource);
        }
    }

    #[test]
    fn the_installer_holds_what_the_gateway_is_given() {
        let installer = rules(&rbac(&spec(RbacLevel::Install, false, Vec::new())));
        let objects = crate::manifest(&crate::GatewaySpec::new("demo", "image", "0"));
        for rule in rules(&objects) {
            for (verb, resource) in rule.verbs.iter().flat_map(|verb| {
                rule.resources
                    .iter()
                    .flatten()
                    .map(move |resource| (verb, resource))
            }) {
                let held = installer.iter().any(|rule| {
                    rule.verbs.contains(verb)
                        && rule
                            .resources
                            .iter()
                            .flatten()
                            .any(|other| other == resource)
                });
                assert!(held, "{verb} {resource}");
            }
        }
    }

    #[test]
    fn roles_are_bound_to_all_subjects() {
        let subjects = vec![
            Subject::User("ana".into()),
            Subject::Group("devs".into()),
            Subject::ServiceAccount {
                namespace: "ci".into(),
                name: "runner".into(),
            },
        ];
        let objects = rbac(&spec(RbacLevel::Connect, true, subjects));
        let [role, cluster_role, binding, cluster_binding] = objects.as_slice() else {
            panic!("four objects expected, not {}", objects.len());
        };
        serde_json::from_value::<Role>(role.clone()).unwrap();
        serde_json::from_value::<ClusterRole>(cluster_role.clone()).unwrap();
        let binding: RoleBinding = serde_json::from_value(binding.clone()).unwrap();
        assert_eq!(binding.metadata.namespace.as_deref(), Some("demo"));
        assert_eq!(binding.role_ref.name, "kvpn-connect");
        assert_eq!(binding.subjects.unwrap().len(), 3);
        let binding: ClusterRoleBinding = serde_json::from_value(cluster_binding.clone()).unwrap();
        assert_eq!(
            (
                binding.role_ref.kind.as_str(),
                binding.role_ref.name.as_str()
            ),
            ("ClusterRole", "kvpn-discover")
        );
        assert_eq!(binding.metadata.namespace, None);
    }
}
