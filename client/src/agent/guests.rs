//! Two sessions and one /etc/resolv.conf: the session that has it, the host, passes names that it does not know on to its guests, which
//! are told of over its control socket. A guest is one for as long as that connection lives; what it does then is in
//! [`network`](crate::agent::network).
//!
//! Names that the host answers itself, `cluster.local` above all, are never passed on.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::agent::contact::Contact;
use crate::agent::message::Request;
use crate::agent::others;
use crate::agent::places::{Places, SessionName};
use crate::helper::DnsConfig;

const DNS_PORT: u16 = 53;
/// The header of a message (RFC 1035, section 4.1.1), before the question's name.
const HEADER: usize = 12;

/// A session whose names are to be asked for at its own stub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Guest {
    /// What it is called.
    pub(crate) session: SessionName,
    /// Its stub's addresses.
    pub(crate) servers: Vec<IpAddr>,
    /// The domains that it answers.
    pub(crate) domains: Vec<String>,
}

/// A host's guests. Cheap to clone; asked once for a name that is not the host's, never for a packet.
#[derive(Debug, Clone, Default)]
pub(crate) struct Guests(Arc<Mutex<BTreeMap<SessionName, Guest>>>);

impl Guests {
    /// Takes a guest in, or what it has to say anew.
    pub(crate) fn admit(&self, guest: Guest) {
        self.lock().insert(guest.session.clone(), guest);
    }

    /// A guest has left.
    pub(crate) fn dismiss(&self, session: &SessionName) {
        self.lock().remove(session);
    }

    /// Where a question is to be asked, if its name is a guest's: that one's with the longest domain.
    pub(crate) fn servers(&self, query: &[u8]) -> Option<Vec<SocketAddr>> {
        let guests = self.lock();
        if guests.is_empty() {
            return None;
        }
        let name = question(query)?;
        let domains = guests.values().flat_map(|guest| {
            let domains = guest.domains.iter();
            domains.map(move |domain| (domain, guest))
        });
        let mine = domains.filter(|(domain, _)| is_below(&name, domain));
        let (_, guest) = mine.max_by_key(|(domain, _)| domain.len())?;
        let servers = guest.servers.iter();
        Some(
            servers
                .map(|server| SocketAddr::new(*server, DNS_PORT))
                .collect(),
        )
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SessionName, Guest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name that a message asks for, in lower case and without a dot at its end. Names in questions are never compressed.
fn question(query: &[u8]) -> Option<String> {
    let mut rest = query.get(HEADER..)?;
    let mut labels = Vec::new();
    loop {
        let (length, after) = rest.split_first()?;
        if *length == 0 {
            return Some(labels.join("."));
        }
        let (label, after) = after.split_at_checked(usize::from(*length))?;
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        rest = after;
    }
}

fn is_below(name: &str, domain: &str) -> bool {
    let rest = name.strip_suffix(domain);
    rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// A guest's end of it.
#[derive(Debug)]
pub(crate) struct Host {
    contact: Contact,
    guest: SessionName,
    /// The host.
    pub(crate) session: SessionName,
}

impl Host {
    /// Asks the session that has the machine's names to take `guest` in; `None` when none of the user's has them.
    ///
    /// # Errors
    ///
    /// It is gone.
    pub(crate) async fn of_machine(
        places: &Places,
        guest: &SessionName,
        dns: &DnsConfig,
    ) -> anyhow::Result<Option<Self>> {
        let Some(session) = others::holder_of_resolv_conf(places, guest).await else {
            return Ok(None);
        };
        let contact = Contact::open(places, &session).await?;
        let contact = contact.ok_or_else(|| anyhow::anyhow!("the session {session} has ended"))?;
        let mut host = Self {
            contact,
            guest: guest.clone(),
            session,
        };
        host.tell(dns).await?;
        Ok(Some(host))
    }

    /// How the guest has names, in `kvpn status`.
    pub(crate) fn backend(&self) -> String {
        format!("resolv.conf of session {}", self.session)
    }

    /// What that means for the user.
    pub(crate) fn note(&self, domain: &str, own_domain: Option<&str>) -> String {
        format!(
            "/etc/resolv.conf is the session {}'s, which passes this one's names on: SERVICE.NAMESPACE unless it has the namespace itself, and SERVICE.NAMESPACE.{} always; names without a dot, *.svc and *.{domain} are that session's",
            self.session,
            own_domain.unwrap_or_default(),
        )
    }

    /// Says which names are the guest's.
    ///
    /// # Errors
    ///
    /// The host is gone.
    pub(crate) async fn tell(&mut self, dns: &DnsConfig) -> anyhow::Result<()> {
        let guest = Guest {
            session: self.guest.clone(),
            servers: dns.servers.clone(),
            domains: [dns.search.as_slice(), &dns.routing].concat(),
        };
        self.contact.ask(&Request::Guest(guest)).await
    }

    /// Resolves when the host is gone. May be cancelled.
    pub(crate) async fn gone(&mut self) {
        while let Ok(Some(_)) = self.contact.answer().await {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str) -> Vec<u8> {
        let mut query = vec![0; HEADER];
        for label in name.split('.') {
            query.push(u8::try_from(label.len()).unwrap());
            query.extend(label.as_bytes());
        }
        query.extend([0, 0, 1, 0, 1]);
        query
    }

    fn guest(session: &str, server: &str, domains: &[&str]) -> Guest {
        Guest {
            session: session.parse().unwrap(),
            servers: vec![server.parse().unwrap()],
            domains: domains.iter().map(|&domain| domain.to_owned()).collect(),
        }
    }

    #[test]
    fn a_name_goes_to_the_guest_with_the_longest_domain() {
        let guests = Guests::default();
        guests.admit(guest("b", "198.19.0.7", &["eu", "b.kvpn.internal"]));
        guests.admit(guest("c", "198.19.0.11", &["eu.b.kvpn.internal"]));
        let server = |name| {
            guests
                .servers(&query(name))
                .map(|servers| servers[0].to_string())
        };
        assert_eq!(server("web.EU").as_deref(), Some("198.19.0.7:53"));
        assert_eq!(
            server("web.b.kvpn.internal").as_deref(),
            Some("198.19.0.7:53")
        );
        assert_eq!(
            server("web.eu.b.kvpn.internal").as_deref(),
            Some("198.19.0.11:53")
        );
        assert_eq!(server("example.com"), None);
        assert_eq!(server("webeu"), None);
        guests.dismiss(&"c".parse().unwrap());
        assert_eq!(
            server("web.eu.b.kvpn.internal").as_deref(),
            Some("198.19.0.7:53")
        );
    }

    #[test]
    fn what_is_no_question_is_nobodys() {
        let guests = Guests::default();
        guests.admit(guest("b", "198.19.0.7", &["eu"]));
        for bad in [&[][..], &[0; 12], &[7; 20], &query("web.eu")[..16]] {
            assert_eq!(guests.servers(bad), None);
        }
    }
}
