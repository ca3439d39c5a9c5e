//! What the gateway sees of its cluster from inside its pod: resolver, routes, whether it may ping. Reads only.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use futures::TryStreamExt as _;
use kvpn_wire::control::ClusterFacts;
use rtnetlink::packet_route::address::AddressAttribute;

use crate::cli::PodOptions;
use crate::driver::ping_permitted;

/// Collects the facts. What cannot be read is left out, with a line in the log.
pub(crate) fn cluster_facts(options: &PodOptions) -> ClusterFacts {
    let Resolver {
        nameservers,
        search,
    } = parse_resolv_conf(&read(&options.resolv_conf));
    let mut node_addresses = addresses(&options.node_ips, "NODE_IPS");
    node_addresses.extend(addresses(&options.host_ip, "HOST_IP"));
    node_addresses.extend(addresses(&options.node_addresses, "KVPN_NODE_ADDRESSES"));
    node_addresses.extend(default_gateways());
    node_addresses.sort_unstable();
    node_addresses.dedup();
    ClusterFacts {
        kubernetes_service: addresses(&options.kubernetes_service_host, "KUBERNETES_SERVICE_HOST"),
        pod_addresses: addresses(&options.pod_ips, "POD_IPS"),
        node_addresses,
        nameservers,
        search,
        namespace: options.pod_namespace.clone(),
        pod_name: options.pod_name.clone(),
        ping: ping_permitted(),
    }
}

/// The addresses in a list separated by commas.
fn addresses(text: &str, variable: &str) -> Vec<IpAddr> {
    let items = text
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty());
    items
        .filter_map(|item| {
            item.parse()
                .inspect_err(|_| tracing::warn!(variable, item, "no IP address, left out"))
                .ok()
        })
        .collect()
}

/// Adds what the pod's interfaces have to the addresses that the manifest told: policy must know them all.
pub(crate) async fn add_own_addresses(cluster: &mut ClusterFacts) {
    match interface_addresses().await {
        Ok(addresses) => {
            for address in addresses.into_iter().filter(|&address| is_global(address)) {
                if !cluster.pod_addresses.contains(&address) {
                    cluster.pod_addresses.push(address);
                }
            }
        }
        Err(error) => tracing::warn!("cannot list the pod's addresses: {error:#}"),
    }
}

async fn interface_addresses() -> anyhow::Result<Vec<IpAddr>> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let connection = tokio::spawn(connection);
    let messages: Vec<_> = handle.address().get().execute().try_collect().await?;
    connection.abort();
    Ok(messages
        .iter()
        .filter_map(|message| own_address(&message.attributes))
        .collect())
}

/// On a point-to-point link the "address" is the other end's, and "local" ours; elsewhere there may be only the former.
fn own_address(attributes: &[AddressAttribute]) -> Option<IpAddr> {
    let local = attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    local.or_else(|| {
        attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}

/// Other addresses are refused, or unreachable, in any pod.
fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "cannot read");
        String::new()
    })
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Resolver {
    nameservers: Vec<IpAddr>,
    search: Vec<String>,
}

/// Reads resolv.conf(5); of several `search` or `domain` lines the last one counts.
fn parse_resolv_conf(text: &str) -> Resolver {
    let mut resolver = Resolver::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => resolver
                .nameservers
                .extend(words.next().and_then(|word| word.parse::<IpAddr>().ok())),
            Some("search" | "domain") => {
                resolver.search = words
                    .map(|word| word.trim_end_matches('.').to_owned())
                    .collect();
            }
            Some(_) | None => {}
        }
    }
    resolver
}

/// The next hops of the pod's default routes: with most network plugins an address of the node, which its
/// other addresses do not tell.
fn default_gateways() -> Vec<IpAddr> {
    let v4 = read(Path::new("/proc/net/route"));
    let v6 = fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
    let v4 = v4
        .lines()
        .skip(1)
        .filter_map(default_gateway_v4)
        .map(IpAddr::V4);
    let v6 = v6.lines().filter_map(default_gateway_v6).map(IpAddr::V6);
    v4.chain(v6).collect()
}

/// A line of /proc/net/route: interface, destination, gateway…, in the machine's byte order.
fn default_gateway_v4(line: &str) -> Option<Ipv4Addr> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [_, "00000000", gateway, ..] = fields[..] else {
        return None;
    };
    let address = Ipv4Addr::from(u32::from_str_radix(gateway, 16).ok()?.to_ne_bytes());
    (!address.is_unspecified()).then_some(address)
}

/// A line of /proc/net/ipv6_route: destination, its length, source, its length, next hop…
fn default_gateway_v6(line: &str) -> Option<Ipv6Addr> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [destination, "00", _, _, gateway, ..] = fields[..] else {
        return None;
    };
    let address = Ipv6Addr::from(u128::from_str_radix(gateway, 16).ok()?);
    (u128::from_str_radix(destination, 16) == Ok(0) && !address.is_unspecified()).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_among_addresses_are_left_out() {
        assert_eq!(addresses("10.0.0.1, api.example,fd00::1,", "X").len(), 2);
        assert!(addresses("", "X").is_empty());
    }

    #[test]
    fn reads_resolv_conf() {
        let text = "# made by kubelet\nnameserver 10.96.0.10\nnameserver fd00:96::a\nnameserver nonsense\n\
                    domain old\nsearch web.svc.cluster.local svc.cluster.local. cluster.local\noptions ndots:5\n";
        let resolver = parse_resolv_conf(text);
        assert_eq!(resolver.nameservers.len(), 2);
        assert_eq!(
            resolver.search,
            [
                "web.svc.cluster.local",
                "svc.cluster.local",
                "cluster.local"
            ]
        );
        assert_eq!(parse_resolv_conf(""), Resolver::default());
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn reads_the_routing_tables() {
        let v4 = "eth0\t00000000\t0101F40A\t0003\t0\t0\t0\t00000000\t0\t0\t0";
        assert_eq!(default_gateway_v4(v4), Some(Ipv4Addr::new(10, 244, 1, 1)));
        assert_eq!(
            default_gateway_v4("eth0\t0001F40A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0"),
            None
        );
        let zero = "0".repeat(32);
        let v6 = format!(
            "{zero} 00 {zero} 00 fd000244000000000000000000000001 00000400 00000001 00000000 00000003 eth0"
        );
        assert_eq!(
            default_gateway_v6(&v6),
            Some("fd00:244::1".parse().unwrap())
        );
        let unreachable =
            format!("{zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200 lo");
        assert_eq!(default_gateway_v6(&unreachable), None);
    }
}
