//! Which port of the laptop serves which port of a Service: `8080:80`, `8080:http`, `9090:9090/udp`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::BadArgument;

/// What is spoken on a port. Kubernetes' third, SCTP, cannot be exposed.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "camelCase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Kubernetes' word: `TCP`, `UDP`.
    pub fn as_kubernetes(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }

    /// The protocol of Kubernetes' word; `None` for SCTP and what is to come.
    pub fn from_kubernetes(word: &str) -> Option<Self> {
        [Self::Tcp, Self::Udp]
            .into_iter()
            .find(|protocol| protocol.as_kubernetes() == word)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A Service's port as a user names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServicePort {
    /// By number, 1 to 65535.
    Number(u16),
    /// By name: an RFC 1123 label, at most 63 characters.
    Name(String),
}

impl fmt::Display for ServicePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// One `PORT[:SERVICE-PORT][/tcp|/udp]` of the command line; in JSON the same text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortMapping {
    /// The port of 127.0.0.1 on the laptop, 1 to 65535.
    pub laptop: u16,
    /// The Service's port, if it is named: else the one that the Service has, or the laptop's own number in a new Service.
    pub service: Option<ServicePort>,
    /// What is spoken, if it is said: else what the Service says, or TCP.
    pub protocol: Option<Protocol>,
}

impl TryFrom<String> for PortMapping {
    type Error = BadArgument;

    fn try_from(text: String) -> Result<Self, BadArgument> {
        text.parse()
    }
}

impl From<PortMapping> for String {
    fn from(mapping: PortMapping) -> Self {
        mapping.to_string()
    }
}

impl FromStr for PortMapping {
    type Err = BadArgument;

    fn from_str(text: &str) -> Result<Self, BadArgument> {
        parse(text).ok_or_else(|| BadArgument::Port(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<PortMapping> {
    let (ports, protocol) = match text.rsplit_once('/') {
        Some((ports, "tcp")) => (ports, Some(Protocol::Tcp)),
        Some((ports, "udp")) => (ports, Some(Protocol::Udp)),
        Some(_) => return None,
        None => (text, None),
    };
    let (laptop, service) = match ports.split_once(':') {
        Some((laptop, service)) => (laptop, Some(service_port(service)?)),
        None => (ports, None),
    };
    Some(PortMapping {
        laptop: number(laptop)?,
        service,
        protocol,
    })
}

fn service_port(text: &str) -> Option<ServicePort> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return number(text).map(ServicePort::Number);
    }
    let is_label = crate::name::ServiceName::from_str(text).is_ok();
    is_label.then(|| ServicePort::Name(text.to_owned()))
}

/// A port's number: digits only, not zero.
fn number(text: &str) -> Option<u16> {
    let is_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|number| *number != 0);
    number.filter(|_| is_digits)
}

impl fmt::Display for PortMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.laptop.fmt(f)?;
        if let Some(service) = &self.service {
            write!(f, ":{service}")?;
        }
        match self.protocol {
            Some(protocol) => write!(f, "/{protocol}"),
            None => Ok(()),
        }
    }
}
