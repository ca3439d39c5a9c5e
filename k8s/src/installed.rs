//! What an install was given, read back from the cluster, so that an upgrade changes the version and nothing else.

use crate::{
    Cluster, DatapathChoice, Error, GATEWAY_NAME, GatewaySpec, UdpExposure,
    cluster::call::Call,
    manifest::{DATAPATH_LABEL, VERSION_LABEL},
};
use k8s_openapi::api::{apps::v1::StatefulSet, core::v1::Service};
use serde_json::Value;

impl Cluster {
    /// What the gateway of a namespace was installed with; `None` when kvpn installed none there, or the user may
    /// not look. Addresses that an install finds out by itself are left for it to find again.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Unauthorized`].
    pub async fn installed_spec(&self, namespace: &str) -> Result<Option<GatewaySpec>, Error> {
        let sets = self.api::<StatefulSet>(namespace).await?;
        let call = Call::namespaced("get", "statefulsets.apps", namespace).named(GATEWAY_NAME);
        let set = match self.run(&call, sets.get_opt(GATEWAY_NAME)).await {
            Err(Error::Forbidden { .. }) => None,
            other => other?,
        };
        let services = self.api::<Service>(namespace).await?;
        let call = Call::namespaced("get", "services", namespace).named(GATEWAY_NAME);
        let service = match self.run(&call, services.get_opt(GATEWAY_NAME)).await {
            Err(Error::Forbidden { .. }) => None,
            other => other?,
        };
        let as_value = |object: Result<Value, _>| object.unwrap_or(Value::Null);
        let set = set.map(|set| as_value(serde_json::to_value(set)));
        let service = service.map(|service| as_value(serde_json::to_value(service)));
        Ok(set.and_then(|set| spec_of(namespace, &set, service.as_ref())))
    }
}

fn spec_of(namespace: &str, set: &Value, service: Option<&Value>) -> Option<GatewaySpec> {
    let labels = &set["metadata"]["labels"];
    let pod = &set["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let spec = GatewaySpec::new(
        namespace,
        container["image"].as_str()?,
        labels[VERSION_LABEL].as_str()?,
    );
    Some(GatewaySpec {
        pull_policy: text(&container["imagePullPolicy"]),
        pull_secret: text(&pod["imagePullSecrets"][0]["name"]),
        datapath: DatapathChoice::from_label(labels[DATAPATH_LABEL].as_str().unwrap_or_default()),
        replicas: set["spec"]["replicas"]
            .as_u64()
            .and_then(|count| u8::try_from(count).ok())
            .unwrap_or(1),
        udp: service.map_or_else(UdpExposure::default, exposure),
        allow: list(container, "KVPN_ALLOW"),
        ..spec
    })
}

fn exposure(service: &Value) -> UdpExposure {
    match service["spec"]["type"].as_str() {
        Some("LoadBalancer") => UdpExposure::LoadBalancer,
        Some("ClusterIP") => UdpExposure::None,
        Some(_) | None => UdpExposure::NodePort,
    }
}

/// A list in the container's environment.
fn list(container: &Value, name: &str) -> Vec<String> {
    let env = container["env"].as_array().into_iter().flatten();
    let value = env
        .filter(|variable| variable["name"] == name)
        .find_map(|variable| variable["value"].as_str());
    value
        .into_iter()
        .flat_map(|value| value.split(','))
        .filter(|item| !item.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::spec_of;
    use crate::{DatapathChoice, GatewaySpec, UdpExposure, manifest};

    #[test]
    fn what_was_installed_is_read_back() {
        let plain = GatewaySpec {
            pull_policy: Some("IfNotPresent".into()),
            ..GatewaySpec::new("tools", "example/gateway:1", "0.1.0")
        };
        let chosen = GatewaySpec {
            pull_policy: Some("Always".into()),
            pull_secret: Some("registry".into()),
            datapath: DatapathChoice::Kernel,
            replicas: 2,
            udp: UdpExposure::LoadBalancer,
            allow: vec!["10.0.0.0/8".into(), "172.16.0.1/32".into()],
            ..GatewaySpec::new("tools", "example/gateway:1", "0.1.0")
        };
        let headless = GatewaySpec {
            udp: UdpExposure::None,
            ..plain.clone()
        };
        for spec in [plain, chosen, headless] {
            let objects = manifest(&spec);
            let object = |kind: &str| {
                objects
                    .iter()
                    .find(|object| object["kind"] == kind)
                    .unwrap()
            };
            assert_eq!(
                spec_of("tools", object("StatefulSet"), Some(object("Service"))),
                Some(spec)
            );
        }
    }
}
