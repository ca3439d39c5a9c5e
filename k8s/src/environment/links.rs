//! The variables by which Services were found before there was DNS: `WEB_SERVICE_HOST`, `WEB_PORT_80_TCP_ADDR`. Pure.

use k8s_openapi::api::core::v1::{Service, ServicePort};
use std::collections::BTreeMap;

/// The variables of all Services that have an address; docker links and Kubernetes' own, as the kubelet writes both.
pub(super) fn variables(services: &[Service]) -> BTreeMap<String, String> {
    services.iter().flat_map(of_service).collect()
}

fn of_service(service: &Service) -> Vec<(String, String)> {
    let spec = service.spec.clone().unwrap_or_default();
    let address = spec
        .cluster_ip
        .filter(|address| !address.is_empty() && address != "None");
    let ports = spec.ports.unwrap_or_default();
    let (Some(address), Some(first)) = (address, ports.first()) else {
        return Vec::new();
    };
    let name = upper(service.metadata.name.as_deref().unwrap_or_default());
    let mut variables = vec![
        (format!("{name}_SERVICE_HOST"), address.clone()),
        (format!("{name}_SERVICE_PORT"), first.port.to_string()),
        (format!("{name}_PORT"), url(first, &address)),
    ];
    for port in &ports {
        if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            variables.push((
                format!("{name}_SERVICE_PORT_{}", upper(port_name)),
                port.port.to_string(),
            ));
        }
        let protocol = protocol(port);
        let link = format!("{name}_PORT_{}_{protocol}", port.port);
        variables.extend([
            (link.clone(), url(port, &address)),
            (format!("{link}_PROTO"), protocol.to_lowercase()),
            (format!("{link}_PORT"), port.port.to_string()),
            (format!("{link}_ADDR"), address.clone()),
        ]);
    }
    variables
}

fn upper(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

fn protocol(port: &ServicePort) -> &str {
    port.protocol.as_deref().unwrap_or("TCP")
}

fn url(port: &ServicePort, address: &str) -> String {
    let host = if address.contains(':') {
        format!("[{address}]")
    } else {
        address.to_owned()
    };
    format!("{}://{host}:{}", protocol(port).to_lowercase(), port.port)
}
