//! The manifests parse as what they are, pass `restricted`, and carry the chosen values.

use super::*;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Container, PodSpec, Service, ServiceAccount},
    rbac::v1::{Role, RoleBinding},
};
use serde::de::DeserializeOwned;

fn spec(datapath: DatapathChoice) -> GatewaySpec {
    GatewaySpec {
        datapath,
        ..GatewaySpec::new("demo", "registry.example/gw:7", "1.2.3")
    }
}

/// Parses strictly: what k8s-openapi does not know is lost on the way back, and that fails.
fn typed<T: DeserializeOwned + serde::Serialize>(object: &Value) -> T {
    let typed: T = serde_json::from_value(object.clone()).unwrap();
    assert_eq!(
        &serde_json::to_value(&typed).unwrap(),
        object,
        "a field is misspelt or out of place"
    );
    typed
}

fn pod_spec(spec: &GatewaySpec) -> PodSpec {
    let set: StatefulSet = typed(manifest(spec).last().unwrap());
    set.spec.unwrap().template.spec.unwrap()
}

fn env(container: &Container, name: &str) -> Option<String> {
    container
        .env
        .iter()
        .flatten()
        .find(|variable| variable.name == name)?
        .value
        .clone()
}

/// Without it the C library's heap keeps what connections once used: 500 of them, twice, passed the memory limit.
#[test]
fn memory_of_closed_connections_goes_back_to_the_system() {
    for datapath in [DatapathChoice::Auto, DatapathChoice::Kernel] {
        let pod = pod_spec(&spec(datapath));
        let tunables = env(&pod.containers[0], "GLIBC_TUNABLES").unwrap_or_default();
        assert!(
            tunables
                .split(':')
                .any(|tunable| tunable == "glibc.malloc.mmap_threshold=65536"),
            "{datapath:?}: {tunables:?}"
        );
    }
}

#[test]
fn every_object_is_well_formed_and_in_its_namespace() {
    let objects = manifest(&spec(DatapathChoice::Auto));
    let [account, role, binding, service, set] = objects.as_slice() else {
        panic!("five objects expected, not {}", objects.len());
    };
    typed::<ServiceAccount>(account);
    typed::<Role>(role);
    typed::<Service>(service);
    typed::<StatefulSet>(set);
    let binding: RoleBinding = typed(binding);
    assert_eq!(
        binding.subjects.unwrap()[0].namespace.as_deref(),
        Some("demo")
    );
    for object in &objects {
        assert_eq!(object["metadata"]["namespace"], "demo");
        assert_eq!(object["metadata"]["name"], crate::GATEWAY_NAME);
        assert_eq!(
            object["metadata"]["labels"]["app.kubernetes.io/name"],
            "kvpn-gateway"
        );
        assert_eq!(
            object["metadata"]["labels"]["app.kubernetes.io/managed-by"],
            "kvpn"
        );
        assert_eq!(object["metadata"]["labels"][VERSION_LABEL], "1.2.3");
    }
}

#[test]
fn without_rbac_only_the_account_stays() {
    let objects = manifest(&GatewaySpec {
        rbac: false,
        ..spec(DatapathChoice::Auto)
    });
    let kinds: Vec<&str> = objects
        .iter()
        .filter_map(|object| object["kind"].as_str())
        .collect();
    assert_eq!(kinds, ["ServiceAccount", "Service", "StatefulSet"]);
}

/// The controls of Pod Security `restricted` (Kubernetes docs, Pod Security Standards).
#[test]
fn the_unprivileged_pod_passes_restricted() {
    for datapath in [DatapathChoice::Auto, DatapathChoice::Userspace] {
        let pod = pod_spec(&spec(datapath));
        let security = pod.security_context.clone().unwrap();
        assert_eq!(security.run_as_non_root, Some(true));
        assert_eq!(security.run_as_user, Some(65532));
        assert_eq!(security.seccomp_profile.unwrap().type_, "RuntimeDefault");
        let sysctls: Vec<_> = security
            .sysctls
            .unwrap()
            .into_iter()
            .map(|sysctl| (sysctl.name, sysctl.value))
            .collect();
        assert_eq!(
            sysctls,
            [(
                "net.ipv4.ping_group_range".to_owned(),
                "0 2147483647".to_owned()
            )]
        );
        assert!(
            pod.volumes.is_none() && pod.host_network.is_none() && pod.init_containers.is_none()
        );
        let security = pod.containers[0].security_context.clone().unwrap();
        assert_eq!(security.allow_privilege_escalation, Some(false));
        assert_eq!(security.read_only_root_filesystem, Some(true));
        let capabilities = security.capabilities.unwrap();
        assert_eq!(
            (capabilities.drop.unwrap(), capabilities.add),
            (vec!["ALL".to_owned()], None)
        );
        assert_eq!(pod.automount_service_account_token, Some(true));
    }
}

#[test]
fn the_kernel_pod_differs_only_in_its_privileges() {
    let mut kernel = only(documents(GATEWAY_KERNEL));
    let mut plain = only(documents(GATEWAY));
    let pod = pod_spec(&spec(DatapathChoice::Kernel));
    let capabilities = pod.containers[0]
        .security_context
        .clone()
        .unwrap()
        .capabilities
        .unwrap();
    assert_eq!(capabilities.drop.unwrap(), ["ALL"]);
    assert_eq!(capabilities.add.unwrap(), ["NET_ADMIN"]);
    let tun = pod.volumes.unwrap()[0].host_path.clone().unwrap();
    assert_eq!(
        (tun.path.as_str(), tun.type_.as_deref()),
        ("/dev/net/tun", Some("CharDevice"))
    );
    for object in [&mut kernel, &mut plain] {
        object["metadata"]["labels"][DATAPATH_LABEL] = Value::Null;
        let template = &mut object["spec"]["template"];
        template["metadata"]["labels"][DATAPATH_LABEL] = Value::Null;
        template["spec"]["containers"][0]["env"][0]["value"] = Value::Null;
        template["spec"]["containers"][0]["securityContext"]["capabilities"] = Value::Null;
        template["spec"]["containers"][0]["volumeMounts"] = Value::Null;
        template["spec"]["volumes"] = Value::Null;
        for field in ["runAsNonRoot", "runAsUser", "runAsGroup"] {
            template["spec"]["securityContext"][field] = Value::Null;
        }
    }
    assert_eq!(kernel, plain);
}

#[test]
fn the_chosen_values_arrive() {
    let spec = GatewaySpec {
        pull_policy: Some("Never".into()),
        pull_secret: Some("registry".into()),
        allow: vec!["10.1.0.0/16".into(), "fd00::/64".into()],
        node_addresses: vec!["172.31.2.11".parse().unwrap()],
        udp_endpoints: vec!["[fd00::1]:30001".parse().unwrap()],
        ..spec(DatapathChoice::Userspace)
    };
    let pod = pod_spec(&spec);
    let container = &pod.containers[0];
    assert_eq!(container.image.as_deref(), Some("registry.example/gw:7"));
    assert_eq!(container.image_pull_policy.as_deref(), Some("Never"));
    assert_eq!(pod.image_pull_secrets.unwrap()[0].name, "registry");
    assert_eq!(
        env(container, "KVPN_DATAPATH").as_deref(),
        Some("userspace")
    );
    assert_eq!(
        env(container, "KVPN_ALLOW").as_deref(),
        Some("10.1.0.0/16,fd00::/64")
    );
    assert_eq!(
        env(container, "KVPN_NODE_ADDRESSES").as_deref(),
        Some("172.31.2.11")
    );
    assert_eq!(
        env(container, "KVPN_UDP_ENDPOINTS").as_deref(),
        Some("[fd00::1]:30001")
    );
}

#[test]
fn the_ports_are_those_of_wire() {
    let container = pod_spec(&spec(DatapathChoice::Auto)).containers.remove(0);
    let ports: Vec<i32> = container
        .ports
        .unwrap()
        .iter()
        .map(|port| port.container_port)
        .collect();
    assert_eq!(
        ports,
        [
            i32::from(kvpn_wire::WIREGUARD_PORT),
            i32::from(kvpn_wire::HEALTH_PORT)
        ]
    );
    assert_eq!(container.image_pull_policy.as_deref(), Some("IfNotPresent"));
}

#[test]
fn udp_is_offered_as_chosen() {
    let service = |udp, replicas| {
        let objects = manifest(&GatewaySpec {
            udp,
            replicas,
            ..spec(DatapathChoice::Auto)
        });
        let service: Service = typed(&objects[3]);
        let spec = service.spec.unwrap();
        (
            spec.type_.unwrap(),
            spec.cluster_ip,
            spec.external_traffic_policy,
        )
    };
    assert_eq!(
        service(UdpExposure::NodePort, 1),
        ("NodePort".into(), None, None)
    );
    assert_eq!(
        service(UdpExposure::LoadBalancer, 2),
        ("LoadBalancer".into(), None, Some("Local".into()))
    );
    assert_eq!(
        service(UdpExposure::None, 2),
        ("ClusterIP".into(), Some("None".into()), None)
    );
}

#[test]
fn yaml_comes_back_as_the_same_objects() {
    let objects = manifest(&GatewaySpec {
        image: "x: [evil\n---\n".into(),
        ..spec(DatapathChoice::Kernel)
    });
    assert_eq!(documents(&to_yaml(&objects)), objects);
}
