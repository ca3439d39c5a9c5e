//! From the ports that a user names to the ports of a Service. No calls.

use super::{
    annotation::TargetPort,
    object::{self, Object},
    service_text,
};
use crate::Error;
use kvpn_wire::{
    control::ExposedPort,
    exposure::{PortMapping, Protocol, ServicePort},
};

/// All ports of a Service that is there, those that are named with the laptop's port.
pub(super) fn of_existing(
    service: &Object,
    mappings: &[PortMapping],
) -> Result<Vec<ExposedPort>, Error> {
    let mut ports = all(service)?;
    for mapping in mappings {
        let index = find(&ports, mapping).ok_or_else(|| unknown(service, mapping, &ports))?;
        let port = &mut ports[index];
        if port.laptop_port.is_some() {
            return Err(twice(&service.text(), port));
        }
        port.laptop_port = Some(mapping.laptop);
    }
    Ok(ports)
}

/// The ports of a Service that is to be made.
pub(super) fn of_new(
    namespace: &str,
    service: &str,
    mappings: &[PortMapping],
) -> Result<Vec<ExposedPort>, Error> {
    let mut ports: Vec<ExposedPort> = Vec::new();
    for mapping in mappings {
        let protocol = mapping.protocol.unwrap_or_default();
        let (port, name) = match &mapping.service {
            Some(ServicePort::Number(number)) => (*number, None),
            Some(ServicePort::Name(name)) => (mapping.laptop, Some(name.clone())),
            None => (mapping.laptop, None),
        };
        let new = ExposedPort {
            port,
            name: name.unwrap_or_else(|| format!("{protocol}-{port}")),
            protocol,
            app_protocol: String::new(),
            laptop_port: Some(mapping.laptop),
            gateway_port: None,
        };
        let is_same = |other: &ExposedPort| {
            (other.port, other.protocol) == (port, protocol) || other.name == new.name
        };
        if ports.iter().any(is_same) {
            return Err(twice(&service_text(namespace, service), &new));
        }
        ports.push(new);
    }
    Ok(ports)
}

fn all(service: &Object) -> Result<Vec<ExposedPort>, Error> {
    let annotation = service.annotation().ok().flatten();
    let is_headless = service.0["spec"]["clusterIP"] == "None";
    let mut ports = Vec::new();
    for port in service.ports() {
        let Some(protocol) = object::protocol(port) else {
            return Err(Error::Refused {
                object: service.text(),
                why: format!(
                    "has port {} with protocol {}, which the gateway cannot pass on",
                    object::number(port),
                    port["protocol"]
                ),
                remedy: "expose a Service without that port".to_owned(),
            });
        };
        let target = object::target(port);
        let ours = annotation
            .as_ref()
            .and_then(|annotation| annotation.original_target(protocol, &target));
        let gateway_port = match (&target, ours) {
            (TargetPort::Number(number), Some(_)) => Some(*number),
            // Callers of a headless Service go to the pod itself, at the port that they know.
            (TargetPort::Number(number), None) if is_headless => Some(*number),
            (TargetPort::Name(_), _) if is_headless => Some(object::number(port)),
            (TargetPort::Number(_) | TargetPort::Name(_), _) => None,
        };
        let text = |field: &str| port[field].as_str().unwrap_or_default().to_owned();
        ports.push(ExposedPort {
            port: object::number(port),
            name: text("name"),
            protocol,
            app_protocol: text("appProtocol"),
            laptop_port: None,
            gateway_port,
        });
    }
    Ok(ports)
}

/// The port that is meant. Without a Service's port: the only one there is, else the one with the laptop's number.
fn find(ports: &[ExposedPort], mapping: &PortMapping) -> Option<usize> {
    let fits = |port: &ExposedPort| {
        mapping
            .protocol
            .is_none_or(|protocol| protocol == port.protocol)
    };
    let among = |is_it: &dyn Fn(&ExposedPort) -> bool| {
        let found = ports
            .iter()
            .enumerate()
            .filter(|(_, port)| fits(port) && is_it(port));
        // TCP and UDP may share a number: TCP is meant when nothing is said.
        found
            .min_by_key(|(_, port)| port.protocol)
            .map(|(index, _)| index)
    };
    match &mapping.service {
        Some(ServicePort::Number(number)) => among(&|port| port.port == *number),
        Some(ServicePort::Name(name)) => among(&|port| port.name == *name),
        None if ports.iter().filter(|port| fits(port)).count() == 1 => among(&|_| true),
        None => among(&|port| port.port == mapping.laptop),
    }
}

fn unknown(service: &Object, mapping: &PortMapping, ports: &[ExposedPort]) -> Error {
    let protocol = mapping
        .protocol
        .map(|protocol| format!("/{protocol}"))
        .unwrap_or_default();
    let why = match &mapping.service {
        Some(port) => format!("has no port {port}{protocol}"),
        None => format!(
            "has several ports, none of them {}{protocol}",
            mapping.laptop
        ),
    };
    Error::Refused {
        object: service.text(),
        why,
        remedy: format!("name one of its ports: {}", choices(mapping.laptop, ports)),
    }
}

/// `8080:80 (http), 8080:53/udp (dns)`.
fn choices(laptop: u16, ports: &[ExposedPort]) -> String {
    let texts = ports.iter().map(|port| {
        let protocol = if port.protocol == Protocol::Udp {
            "/udp"
        } else {
            ""
        };
        let name = if port.name.is_empty() {
            String::new()
        } else {
            format!(" ({})", port.name)
        };
        format!("{laptop}:{}{protocol}{name}", port.port)
    });
    texts.collect::<Vec<_>>().join(", ")
}

fn twice(object: &str, port: &ExposedPort) -> Error {
    Error::Refused {
        object: object.to_owned(),
        why: format!("would get port {}/{} twice", port.port, port.protocol),
        remedy: "name each port once, with :PORT for the Service's".to_owned(),
    }
}
