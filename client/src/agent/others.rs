//! The user's other sessions: two clusters with equal ranges cannot both be had on one machine, and a plain
//! resolv.conf is one session's.

use ipnetwork::IpNetwork;

use crate::agent::contact::Contact;
use crate::agent::places::{Places, SessionName};
use crate::agent::report::SessionReport;
use crate::cli::failure::{CONFLICT, Failure};

/// Refuses ranges that a session with another cluster routes already. Sessions with the same cluster share theirs.
///
/// # Errors
///
/// The first conflict, with exit code 6.
pub(crate) async fn refuse_equal_ranges(
    places: &Places,
    own: &SessionReport,
    routes: &[IpNetwork],
) -> anyhow::Result<()> {
    for other in reports(places, &own.name).await? {
        let name = &other.name;
        if let Some(range) = conflict(own, &other, routes) {
            let message = format!(
                "the range {range} is routed by the session {name} ({}) already",
                other.context
            );
            let hint = format!(
                "end it with `kvpn disconnect {name}`, or leave the range out with --exclude {range}"
            );
            return Err(Failure::new(CONFLICT, message).hint(hint).into());
        }
    }
    Ok(())
}

/// The session, if it can be told, that has the one /etc/resolv.conf.
pub(crate) async fn holder_of_resolv_conf(
    places: &Places,
    own: &SessionName,
) -> Option<SessionName> {
    let others = reports(places, own).await.ok()?;
    let mut holders = others.into_iter().filter(|other| {
        let network = other.network.as_ref();
        network.is_some_and(|network| matches!(&*network.dns_backend, "resolv.conf" | "openresolv"))
    });
    holders.next().map(|other| other.name)
}

/// What the user's other sessions say of themselves.
async fn reports(places: &Places, own: &SessionName) -> anyhow::Result<Vec<SessionReport>> {
    let mut reports = Vec::new();
    for name in places.sessions()?.into_iter().filter(|name| name != own) {
        if let Some(mut contact) = Contact::open(places, &name).await? {
            reports.extend(contact.status().await.ok());
        }
    }
    Ok(reports)
}

fn conflict(own: &SessionReport, other: &SessionReport, routes: &[IpNetwork]) -> Option<IpNetwork> {
    if other.server == own.server {
        return None;
    }
    let theirs = &other.network.as_ref()?.routes;
    routes
        .iter()
        .copied()
        .find(|range| theirs.iter().any(|their| overlap(*range, *their)))
}

fn overlap(one: IpNetwork, other: IpNetwork) -> bool {
    one.contains(other.network()) || other.contains(one.network())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(server: &str, routes: &str) -> SessionReport {
        let text = format!(
            r#"{{"name":"a","state":"connected","context":"c","namespace":"n","server":"{server}","pid":1,"log":"/l",
            "network":{{"interface":"kvpn0","addresses":[],"routes":["{routes}"],"hostRoutes":[],"dnsBackend":"","dnsServers":[],
            "domain":"","search":[],"routingDomains":[]}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn another_clusters_equal_range_is_a_conflict() {
        let wanted = ["10.96.0.0/12".parse().unwrap()];
        let own = report("https://a", "10.96.0.0/12");
        assert_eq!(
            conflict(&own, &report("https://b", "10.100.0.0/16"), &wanted),
            Some(wanted[0])
        );
        assert_eq!(
            conflict(&own, &report("https://b", "10.200.0.0/16"), &wanted),
            None
        );
        assert_eq!(
            conflict(&own, &report("https://a", "10.96.0.0/12"), &wanted),
            None
        );
    }
}
