//! From a container's `env` and `envFrom` to names and values, in the kubelet's order. Pure.

use super::{Environment, Source, Sources, expand::expand, links};
use crate::Error;
use k8s_openapi::api::core::v1::{
    Container, EnvFromSource, EnvVar, EnvVarSource, ObjectFieldSelector, Pod,
    ResourceFieldSelector, Secret,
};
use std::collections::{BTreeMap, BTreeSet};

type Variables = BTreeMap<String, String>;

/// The ConfigMaps that a container's variables come from.
pub(super) fn config_maps(container: &Container) -> BTreeSet<String> {
    let whole = container
        .env_from
        .iter()
        .flatten()
        .filter_map(|from| Some(from.config_map_ref.as_ref()?.name.clone()));
    let keys =
        sources(container).filter_map(|from| Some(from.config_map_key_ref.as_ref()?.name.clone()));
    whole.chain(keys).collect()
}

/// The Secrets that a container's variables come from.
pub(super) fn secrets(container: &Container) -> BTreeSet<String> {
    let whole = container
        .env_from
        .iter()
        .flatten()
        .filter_map(|from| Some(from.secret_ref.as_ref()?.name.clone()));
    let keys =
        sources(container).filter_map(|from| Some(from.secret_key_ref.as_ref()?.name.clone()));
    whole.chain(keys).collect()
}

fn sources(container: &Container) -> impl Iterator<Item = &EnvVarSource> {
    let variables = container.env.iter().flatten();
    variables.filter_map(|variable| variable.value_from.as_ref())
}

/// A Secret's values as texts.
pub(super) fn texts(secret: &Secret) -> BTreeMap<String, String> {
    let data = secret.data.iter().flatten();
    data.map(|(key, bytes)| (key.clone(), String::from_utf8_lossy(&bytes.0).into_owned()))
        .collect()
}

/// All variables: `envFrom`, then `env` over it, then what Services give where nothing else has the name.
pub(super) fn resolve(
    pod: &Pod,
    container: &Container,
    sources: &Sources,
    notes: Vec<String>,
) -> Result<Environment, Error> {
    let links = links::variables(&sources.services);
    let mut resolver = Resolver {
        pod,
        container,
        sources,
        notes,
    };
    let mut variables = Variables::new();
    for from in container.env_from.iter().flatten() {
        variables.extend(resolver.whole(from)?);
    }
    for variable in container.env.iter().flatten() {
        if let Some(value) = resolver.value(variable, &variables, &links)? {
            variables.insert(variable.name.clone(), value);
        }
    }
    for (name, value) in links {
        variables.entry(name).or_insert(value);
    }
    Ok(Environment {
        pod: pod.metadata.name.clone().unwrap_or_default(),
        container: container.name.clone(),
        variables,
        notes: resolver.notes,
    })
}

/// One key of a ConfigMap or a Secret.
enum Key<'a> {
    Value(&'a str),
    Missing,
    Denied,
}

fn key_of<'a>(source: Option<&'a Source>, key: &str) -> Key<'a> {
    match source {
        Some(Source::Values(values)) => values
            .get(key)
            .map_or(Key::Missing, |value| Key::Value(value)),
        Some(Source::Denied) => Key::Denied,
        Some(Source::Missing) | None => Key::Missing,
    }
}

struct Resolver<'a> {
    pod: &'a Pod,
    container: &'a Container,
    sources: &'a Sources,
    notes: Vec<String>,
}

impl Resolver<'_> {
    fn whole(&mut self, from: &EnvFromSource) -> Result<Variables, Error> {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let (kind, name, optional, found) = match (&from.config_map_ref, &from.secret_ref) {
            (Some(reference), _) => (
                "ConfigMap",
                &reference.name,
                reference.optional,
                self.sources.config_maps.get(&reference.name),
            ),
            (None, Some(reference)) => (
                "Secret",
                &reference.name,
                reference.optional,
                self.sources.secrets.get(&reference.name),
            ),
            (None, None) => return Ok(Variables::new()),
        };
        match found {
            Some(Source::Values(values)) => Ok(values
                .iter()
                .map(|(key, value)| (format!("{prefix}{key}"), value.clone()))
                .collect()),
            Some(Source::Denied) => {
                self.notes.push(format!(
                    "what all of {kind} {name} gives is left out: you may not read it"
                ));
                Ok(Variables::new())
            }
            Some(Source::Missing) | None if optional.unwrap_or(false) => Ok(Variables::new()),
            Some(Source::Missing) | None => {
                Err(self.refused(&format!("needs {kind} {name}, which is not there")))
            }
        }
    }

    fn value(
        &mut self,
        variable: &EnvVar,
        before: &Variables,
        links: &Variables,
    ) -> Result<Option<String>, Error> {
        let literal = variable.value.as_deref().unwrap_or_default();
        let Some(from) = variable.value_from.as_ref().filter(|_| literal.is_empty()) else {
            let known = |name: &str| {
                before
                    .get(name)
                    .or_else(|| links.get(name))
                    .map(String::as_str)
            };
            return Ok(Some(expand(literal, known)));
        };
        if let Some(field) = &from.field_ref {
            return Ok(self.field(&variable.name, field));
        }
        if let Some(resource) = &from.resource_field_ref {
            return Ok(self.resource(&variable.name, resource));
        }
        if let Some(key) = &from.config_map_key_ref {
            let values = self.sources.config_maps.get(&key.name);
            let wanted = format!("key {} of ConfigMap {}", key.key, key.name);
            return self.key(
                &variable.name,
                &wanted,
                key.optional,
                key_of(values, &key.key),
            );
        }
        if let Some(key) = &from.secret_key_ref {
            let values = self.sources.secrets.get(&key.name);
            let wanted = format!("key {} of Secret {}", key.key, key.name);
            return self.key(
                &variable.name,
                &wanted,
                key.optional,
                key_of(values, &key.key),
            );
        }
        self.notes.push(format!(
            "{} is left out: where it comes from is not known to this version",
            variable.name
        ));
        Ok(None)
    }

    fn key(
        &mut self,
        variable: &str,
        wanted: &str,
        optional: Option<bool>,
        found: Key<'_>,
    ) -> Result<Option<String>, Error> {
        match found {
            Key::Value(value) => Ok(Some(value.to_owned())),
            Key::Denied => {
                self.notes.push(format!(
                    "{variable} is left out: it is {wanted}, which you may not read"
                ));
                Ok(None)
            }
            Key::Missing if optional.unwrap_or(false) => Ok(None),
            Key::Missing => Err(self.refused(&format!("needs {wanted}, which is not there"))),
        }
    }

    fn refused(&self, why: &str) -> Error {
        let name = self.pod.metadata.name.as_deref().unwrap_or_default();
        Error::Refused {
            object: format!("container {} of pod {name}", self.container.name),
            why: why.to_owned(),
            remedy: "create it: the container would not start without it either".to_owned(),
        }
    }

    /// A field of the pod (Kubernetes docs, Downward API); the kubelet knows no others in the environment.
    fn field(&mut self, variable: &str, field: &ObjectFieldSelector) -> Option<String> {
        let metadata = &self.pod.metadata;
        let spec = self.pod.spec.as_ref();
        let status = self.pod.status.as_ref();
        let value = match field.field_path.as_str() {
            "metadata.name" => metadata.name.clone(),
            "metadata.namespace" => metadata.namespace.clone(),
            "metadata.uid" => metadata.uid.clone(),
            "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()),
            "spec.serviceAccountName" => spec.and_then(|spec| spec.service_account_name.clone()),
            "status.hostIP" => status.and_then(|status| status.host_ip.clone()),
            "status.podIP" => status.and_then(|status| status.pod_ip.clone()),
            "status.hostIPs" => status.map(|status| {
                joined(
                    status
                        .host_ips
                        .iter()
                        .flatten()
                        .map(|entry| entry.ip.as_str()),
                )
            }),
            "status.podIPs" => status.map(|status| {
                joined(
                    status
                        .pod_ips
                        .iter()
                        .flatten()
                        .map(|entry| entry.ip.as_str()),
                )
            }),
            path => return self.entry(path).or_else(|| self.unknown(variable, path)),
        };
        value.or_else(|| self.unknown(variable, &field.field_path))
    }

    /// `metadata.labels['KEY']`, `metadata.annotations['KEY']`: empty when there is no such key.
    fn entry(&self, path: &str) -> Option<String> {
        let (map, key) = path.strip_suffix("']")?.split_once("['")?;
        let map = match map {
            "metadata.labels" => &self.pod.metadata.labels,
            "metadata.annotations" => &self.pod.metadata.annotations,
            _ => return None,
        };
        let value = map.as_ref().and_then(|map| map.get(key)).cloned();
        Some(value.unwrap_or_default())
    }

    fn unknown(&mut self, variable: &str, path: &str) -> Option<String> {
        self.notes
            .push(format!("{variable} is left out: the pod has no {path}"));
        None
    }

    /// A request or limit, in units of the divisor, rounded up. A limit that is not set is the node's, which only the node knows.
    fn resource(&mut self, variable: &str, field: &ResourceFieldSelector) -> Option<String> {
        let value = self.quantity(field);
        if value.is_none() {
            self.notes.push(format!(
                "{variable} is left out: {} is not set, and then it is what the node has",
                field.resource
            ));
        }
        value
    }

    fn quantity(&self, field: &ResourceFieldSelector) -> Option<String> {
        let mut containers = self.pod.spec.iter().flat_map(|spec| &spec.containers);
        let container = match field
            .container_name
            .as_deref()
            .filter(|name| !name.is_empty())
        {
            Some(name) => containers.find(|container| container.name == name)?,
            None => self.container,
        };
        let resources = container.resources.as_ref()?;
        let (kind, name) = field.resource.split_once('.')?;
        let quantities = if kind == "limits" {
            &resources.limits
        } else {
            &resources.requests
        };
        let value = nanos(&quantities.as_ref()?.get(name)?.0)?;
        let divisor = field
            .divisor
            .as_ref()
            .and_then(|divisor| nanos(&divisor.0))
            .filter(|divisor| *divisor > 0);
        let divisor = divisor.unwrap_or(NANOS);
        Some(((value + divisor - 1) / divisor).to_string())
    }
}

fn joined<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    texts.collect::<Vec<_>>().join(",")
}

/// One, in the unit of [`nanos`].
const NANOS: i128 = 1_000_000_000;

/// A quantity (`500m`, `1.5Gi`, `1e3`) in billionths, rounded up as Kubernetes does; `None` when it is none.
fn nanos(text: &str) -> Option<i128> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let mantissa: i128 = format!("{whole}{fraction}").parse().ok()?;
    let (times, by) = factor(suffix)?;
    let (value, scale) = (
        mantissa.checked_mul(times)?.checked_mul(NANOS)?,
        scale.checked_mul(by)?,
    );
    Some((value + scale - 1) / scale)
}

/// A suffix as a fraction.
fn factor(suffix: &str) -> Option<(i128, i128)> {
    let decimal = ["", "k", "M", "G", "T", "P", "E"];
    let binary = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let small = ["m", "u", "n"];
    let at = |list: &[&str]| {
        list.iter()
            .position(|item| *item == suffix)
            .and_then(|index| u32::try_from(index).ok())
    };
    if let Some(index) = at(&decimal) {
        return Some((1000_i128.pow(index), 1));
    }
    if let Some(index) = at(&binary) {
        return Some((1024_i128.pow(index + 1), 1));
    }
    if let Some(index) = at(&small) {
        return Some((1, 1000_i128.pow(index + 1)));
    }
    let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    let power = 10_i128.checked_pow(exponent.unsigned_abs())?;
    Some(if exponent < 0 { (1, power) } else { (power, 1) })
}
