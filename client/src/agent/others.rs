//! The user's other sessions: what those with other clusters route, which names they answer, and who has a plain resolv.conf, of
//! which there is but one.

use std::fs::File;

use anyhow::Context as _;
use ipnetwork::IpNetwork;

use crate::agent::contact::Contact;
use crate::agent::laptop::Laptop;
use crate::agent::places::{Places, SessionName};
use crate::agent::report::SessionReport;
use crate::agent::virtual_ranges::Foreign;
use crate::os::hold;

/// What other sessions have, as far as it matters to this one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Others {
    /// What the user's sessions with other clusters route. Those with the same cluster share their ranges.
    foreign: Vec<Foreign>,
    /// The domains of their own.
    pub(crate) own_domains: Vec<String>,
    /// Names of sessions with other clusters.
    pub(crate) names: Vec<SessionName>,
    /// The interfaces of all of them, and this one's.
    interfaces: Vec<String>,
}

/// While it lives, no other session of the user decides what it routes.
#[derive(Debug)]
pub(crate) struct Turn(#[expect(dead_code, reason = "the lock is the descriptor's")] File);

/// Waits until the sessions that are just being set up have said what they route.
///
/// # Errors
///
/// The directory that is locked for it cannot be used.
pub(crate) async fn turn(places: &Places) -> anyhow::Result<Turn> {
    let path = places.turn().to_owned();
    let taken = tokio::task::spawn_blocking(move || hold::wait_for_folder(&path));
    let file = taken
        .await?
        .context("the turn among sessions cannot be waited for")?;
    Ok(Turn(file))
}

/// Asks the user's other sessions.
///
/// # Errors
///
/// The sessions' directory cannot be read.
pub(crate) async fn look(places: &Places, own: &SessionReport) -> anyhow::Result<Others> {
    let mut others = Others::default();
    let network = own.network.iter();
    (others.interfaces).extend(network.map(|network| network.interface.clone()));
    for other in reports(places, &own.name).await? {
        others.add(own, &other);
    }
    Ok(others)
}

impl Others {
    /// Everything that other sessions route, those of other users too. Of theirs only the interfaces can be seen: they are taken for
    /// sessions with other clusters.
    pub(crate) fn foreign(&self, laptop: &Laptop) -> Vec<Foreign> {
        let sessions = laptop.sessions.iter();
        let strangers = sessions.filter(|routed| !self.interfaces.contains(&routed.interface));
        let strangers = strangers.map(|routed| Foreign {
            range: routed.range,
            session: format!("{} of another user", routed.interface),
        });
        self.foreign.iter().cloned().chain(strangers).collect()
    }

    fn add(&mut self, own: &SessionReport, other: &SessionReport) {
        let Some(network) = &other.network else {
            return;
        };
        self.own_domains.extend(network.own_domain.clone());
        self.interfaces.push(network.interface.clone());
        if other.server == own.server {
            return;
        }
        self.names.push(other.name.clone());
        let session = format!("{} ({})", other.name, other.context);
        let hosts = network.host_routes.iter().copied().map(IpNetwork::from);
        let ranges = network.routes.iter().copied().chain(hosts);
        self.foreign.extend(ranges.map(|range| Foreign {
            range,
            session: session.clone(),
        }));
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::laptop::Occupied;

    fn report(server: &str, routes: &str) -> SessionReport {
        let text = format!(
            r#"{{"name":"a","state":"connected","context":"c","namespace":"n","server":"{server}","pid":1,"log":"/l",
            "network":{{"interface":"kvpn0","addresses":[],"routes":["{routes}"],"hostRoutes":["10.9.0.1"],"dnsBackend":"","dnsServers":[],
            "domain":"","search":[],"routingDomains":[],"ownDomain":"a.kvpn.internal"}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn another_clusters_ranges_are_foreign_and_the_same_clusters_are_not() {
        let own = report("https://a", "10.96.0.0/12");
        let mut others = Others::default();
        others.add(&own, &report("https://a", "10.96.0.0/12"));
        assert!(others.foreign.is_empty() && others.names.is_empty());
        others.add(&own, &report("https://b", "10.96.0.0/16"));
        let ranges: Vec<String> = (others.foreign.iter())
            .map(|foreign| foreign.range.to_string())
            .collect();
        assert_eq!(ranges, ["10.96.0.0/16", "10.9.0.1/32"]);
        assert_eq!(others.foreign[0].session, "a (c)");
        assert_eq!(others.own_domains.len(), 2);

        let routed = |range: &str, interface: &str| Occupied {
            range: range.parse().unwrap(),
            interface: interface.to_owned(),
        };
        let laptop = Laptop {
            sessions: vec![
                routed("10.96.0.0/16", "kvpn0"),
                routed("10.8.0.0/16", "kvpn1"),
            ],
            ..Laptop::default()
        };
        let strangers = &others.foreign(&laptop)[2..];
        assert_eq!(strangers[0].session, "kvpn1 of another user");
        assert_eq!(strangers.len(), 1);
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn one_session_after_the_other_decides() {
        use rustix::fs::{FlockOperation, flock};
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path();
        let places = serde_json::json!({"run": folder, "state": folder});
        let places: Places = serde_json::from_value(places).unwrap();
        let first = turn(&places).await.unwrap();
        let other = File::open(places.turn()).unwrap();
        let try_lock = || flock(&other, FlockOperation::NonBlockingLockExclusive);
        assert!(try_lock().is_err());
        drop(first);
        try_lock().unwrap();
    }
}
