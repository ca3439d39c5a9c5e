//! Whether what sessions set still stands: their routes, and the MTU of the interfaces below them.
//!
//! Looks at a snapshot; changes nothing.

use ipnetwork::IpNetwork;
use kvpn_wire::pmtud;

use super::Check;
use crate::agent::report::SessionReport;
use crate::os::Snapshot;

/// IPv6, UDP and WireGuard around the smallest packet that a tunnel carries.
const OVERHEAD: usize = 80;

/// Each session's ranges lead to its interface.
pub(super) fn check_routes(sessions: &[SessionReport], snapshot: &Snapshot) -> Check {
    let mut lost = Vec::new();
    let mut count = 0;
    for session in sessions {
        let Some(network) = &session.network else {
            continue;
        };
        let leads = |range: &IpNetwork| {
            snapshot.routes.iter().any(|route| {
                let link = route.link.and_then(|link| snapshot.links.get(&link));
                route.destination == *range && link == Some(&network.interface)
            })
        };
        let gone = network.routes.iter().filter(|range| !leads(range));
        lost.extend(
            gone.map(|range| format!("{range} of {} ({})", session.name, network.interface)),
        );
        count += network.routes.len();
    }
    match (count, lost.as_slice()) {
        (0, _) => Check::ok("routes", "no session has any"),
        (count, []) => Check::ok("routes", format!("all {count} of the sessions' stand")),
        (_, lost) => Check::warning(
            "routes",
            format!("something removed {}", lost.join(", ")),
            "`kvpn disconnect` and `kvpn connect` set them anew; systemd-networkd needs ManageForeignRoutes=no, and other VPNs \
             remove routes while they connect",
        ),
    }
}

/// The interfaces with a default route; `mtu` tells an interface's.
pub(super) fn check_mtu(snapshot: &Snapshot, mtu: impl Fn(&str) -> Option<usize>) -> Check {
    let defaults = snapshot
        .routes
        .iter()
        .filter(|route| route.destination.prefix() == 0);
    let links = defaults.filter_map(|route| snapshot.links.get(&route.link?));
    let mut found: Vec<(&str, usize)> = links
        .filter_map(|link| Some((link.as_str(), mtu(link)?)))
        .collect();
    found.sort_unstable();
    found.dedup();
    let list: Vec<String> = found
        .iter()
        .map(|(link, mtu)| format!("{link} {mtu}"))
        .collect();
    let least = pmtud::MIN + OVERHEAD;
    match found.iter().find(|(_, mtu)| *mtu < least) {
        Some((link, mtu)) => Check::warning(
            "MTU",
            format!(
                "{link} carries packets of {mtu} bytes, and the udp carrier needs {least}: only api is used"
            ),
            format!("if that is not a VPN's doing: `sudo ip link set {link} mtu 1500`"),
        ),
        None if list.is_empty() => Check::ok("MTU", "no interface has a default route"),
        None => Check::ok("MTU", list.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use crate::os::Route;

    fn snapshot(routes: &[(&str, u32)]) -> Snapshot {
        Snapshot {
            links: [(1, "wlan0"), (2, "kvpn0")]
                .map(|(link, name)| (link, name.to_owned()))
                .into(),
            routes: (routes.iter())
                .map(|(destination, link)| Route {
                    destination: destination.parse().unwrap(),
                    link: Some(*link),
                    gateway: None,
                    in_main_table: true,
                })
                .collect(),
            ..Snapshot::default()
        }
    }

    fn session() -> SessionReport {
        let text = r#"{"name":"a","state":"connected","context":"c","namespace":"n","server":"s","pid":1,"log":"/l",
            "network":{"interface":"kvpn0","addresses":[],"routes":["10.96.0.0/12"],"hostRoutes":[],"dnsBackend":"",
            "dnsServers":[],"domain":"","search":[],"routingDomains":[]}}"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_route_that_is_gone_or_leads_elsewhere_is_told() {
        let sessions = [session()];
        let stands = check_routes(&sessions, &snapshot(&[("10.96.0.0/12", 2)]));
        assert_eq!(stands.verdict, Verdict::Ok, "{}", stands.detail);
        for other in [snapshot(&[]), snapshot(&[("10.96.0.0/12", 1)])] {
            let check = check_routes(&sessions, &other);
            assert_eq!(check.verdict, Verdict::Warning);
            assert!(
                check.detail.contains("10.96.0.0/12 of a (kvpn0)"),
                "{}",
                check.detail
            );
        }
        assert_eq!(check_routes(&[], &snapshot(&[])).verdict, Verdict::Ok);
    }

    #[test]
    fn an_mtu_too_small_for_udp_is_told() {
        let machine = snapshot(&[("0.0.0.0/0", 1), ("10.0.0.0/8", 2)]);
        let check = check_mtu(&machine, |_| Some(1500));
        assert_eq!(
            (check.verdict, check.detail.as_str()),
            (Verdict::Ok, "wlan0 1500")
        );
        let check = check_mtu(&machine, |_| Some(1200));
        assert_eq!(check.verdict, Verdict::Warning);
        assert!(check.remedy.unwrap().contains("wlan0"));
    }
}
