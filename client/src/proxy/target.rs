//! Where a program wants to go, as it says it: an address or a name, and a port. Not whether that is there.

use std::fmt;
use std::net::IpAddr;

use ::http::uri::Authority;

/// A host as programs name it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Host {
    Address(IpAddr),
    Name(String),
}

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    pub(super) host: Host,
    pub(super) port: u16,
}

impl Host {
    /// A host as text, with or without the brackets of an IPv6 address.
    pub(super) fn of(text: &str) -> Self {
        let bare = text
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'))
            .unwrap_or(text);
        bare.parse()
            .map_or_else(|_| Self::Name(text.to_owned()), Self::Address)
    }
}

impl Target {
    /// What stands in a URI, with the scheme's port where it says none.
    pub(super) fn of(authority: &Authority, usual_port: Option<u16>) -> Option<Self> {
        let port = authority.port_u16().or(usual_port)?;
        let host = Host::of(authority.host());
        Some(Self { host, port })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.port;
        match &self.host {
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]:{port}"),
            Host::Address(address) => write!(f, "{address}:{port}"),
            Host::Name(name) => write!(f, "{name}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities() {
        let target = |text: &str, usual| {
            let authority: Authority = text.parse().unwrap();
            Target::of(&authority, usual).map(|target| target.to_string())
        };
        assert_eq!(target("web.orders", Some(80)).unwrap(), "web.orders:80");
        assert_eq!(target("web:8080", Some(80)).unwrap(), "web:8080");
        assert_eq!(target("[fd00::1]:80", None).unwrap(), "[fd00::1]:80");
        assert_eq!(target("10.96.0.1", None), None);
        let host = Host::of("[fd00::1]");
        assert_eq!(host, Host::Address("fd00::1".parse().unwrap()));
    }
}
