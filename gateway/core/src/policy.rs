//! What the tunnel may never reach, judged on the address dialled. Both datapaths ask here.
//!
//! Whoever is inside the tunnel may reach the cluster, not the gateway's host. Nothing here knows flows or
//! packets; that the inner source is the session's own is checked elsewhere, before.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use crate::address::is_tunnel_address;
use crate::config::Config;

/// Why a destination is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Forbidden {
    /// 127.0.0.0/8, `::1`.
    Loopback,
    /// 0.0.0.0/8, `::`, and other forms of no address at all.
    Unspecified,
    /// 224.0.0.0/4, `ff00::/8`.
    Multicast,
    /// 255.255.255.255.
    Broadcast,
    /// 169.254.0.0/16, `fe80::/10`, and the clouds' metadata services elsewhere.
    LinkLocal,
    /// The gateway pod's own addresses.
    GatewayPod,
    /// Other sessions, and what of the own tunnel addresses answers nothing.
    Tunnel,
    /// A node's address.
    Node,
    /// An IPv4 address inside an IPv6 one (`::ffff:0:0/96`), which never appears on a wire.
    Mapped,
    /// A packet that names further hosts to pass through: its destination is not where it ends up.
    SourceRoute,
}

/// Metadata services that clouds keep outside the link-local ranges.
const METADATA: [&str; 5] = [
    "100.100.100.200/32",
    "168.63.129.16/32",
    "192.0.0.192/32",
    "fd00:ec2::/32",
    "fd20:ce::254/128",
];

/// The rules, as the pod's facts and the admin's permissions make them.
#[derive(Debug, Clone)]
pub struct Policy {
    allow: Vec<IpNetwork>,
    pods: Vec<IpAddr>,
    nodes: Vec<IpAddr>,
    metadata: Vec<IpNetwork>,
}

impl Policy {
    /// The rules that follow from the configuration.
    pub fn new(config: &Config) -> Self {
        let nodes = if config.allow_nodes {
            Vec::new()
        } else {
            config.cluster.node_addresses.clone()
        };
        Self {
            allow: config.allow.clone(),
            pods: config.cluster.pod_addresses.clone(),
            nodes,
            metadata: METADATA
                .iter()
                .map(|text| text.parse().expect("constant ranges"))
                .collect(),
        }
    }

    /// Whether a session may send to `destination`.
    ///
    /// # Errors
    /// The rule that refuses it.
    pub fn judge(&self, destination: IpAddr) -> Result<(), Forbidden> {
        if is_tunnel_address(destination) {
            return Err(Forbidden::Tunnel);
        }
        if self.allow.iter().any(|range| range.contains(destination)) {
            return Ok(());
        }
        self.judge_known(destination)?;
        match destination {
            IpAddr::V4(v4) => judge_v4(v4),
            IpAddr::V6(v6) => self.judge_v6(v6),
        }
    }

    /// The addresses that are only known from the pod's facts.
    fn judge_known(&self, destination: IpAddr) -> Result<(), Forbidden> {
        if self.pods.contains(&destination) {
            return Err(Forbidden::GatewayPod);
        }
        if self.nodes.contains(&destination) {
            return Err(Forbidden::Node);
        }
        if self
            .metadata
            .iter()
            .any(|range| range.contains(destination))
        {
            return Err(Forbidden::LinkLocal);
        }
        Ok(())
    }

    fn judge_v6(&self, address: Ipv6Addr) -> Result<(), Forbidden> {
        if address.is_loopback() {
            return Err(Forbidden::Loopback);
        }
        if address.to_ipv4_mapped().is_some() {
            return Err(Forbidden::Mapped);
        }
        // Covers `::` and the IPv4-compatible form, which RFC 4291 section 2.5.5.1 gave up.
        if address.segments()[..6] == [0; 6] {
            return Err(Forbidden::Unspecified);
        }
        if address.is_multicast() {
            return Err(Forbidden::Multicast);
        }
        if address.is_unicast_link_local() {
            return Err(Forbidden::LinkLocal);
        }
        translated(address).map_or(Ok(()), |v4| self.judge(v4.into()))
    }
}

fn judge_v4(address: Ipv4Addr) -> Result<(), Forbidden> {
    if address.is_loopback() {
        return Err(Forbidden::Loopback);
    }
    // Linux takes 0.0.0.0 for the machine itself; the rest of 0.0.0.0/8 is no address (RFC 1122 section 3.2.1.3).
    if address.octets()[0] == 0 {
        return Err(Forbidden::Unspecified);
    }
    if address.is_multicast() {
        return Err(Forbidden::Multicast);
    }
    if address.is_broadcast() {
        return Err(Forbidden::Broadcast);
    }
    if address.is_link_local() {
        return Err(Forbidden::LinkLocal);
    }
    Ok(())
}

/// The IPv4 address that a translator on the way would make of `address`: NAT64 (RFC 6052) and 6to4 (RFC 3056).
fn translated(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    if [a, b, c, d, e, f] == [0x64, 0xff9b, 0, 0, 0, 0] {
        return Some(v4(g, h));
    }
    (a == 0x2002).then(|| v4(b, c))
}

#[cfg(test)]
mod tests;
