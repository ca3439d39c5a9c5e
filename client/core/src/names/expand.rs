//! Which absolute cluster name a program means by the name it asked.
//!
//! Names only: no addresses, no messages, no knowledge of whether the name exists. The rules, first match wins:
//!
//! | asked | means |
//! |---|---|
//! | any form of a name below the session's own domain | what the form means |
//! | anything under the cluster domain | itself |
//! | reverse name within a cluster range | itself |
//! | `….NS` with a known namespace | `….NS.svc.DOMAIN` |
//! | `….svc`, `….pod` | `….svc.DOMAIN`, `….pod.DOMAIN` |
//! | `svc`, `_port._proto.svc` | `….NAMESPACE.svc.DOMAIN` with the connected namespace |
//!
//! A search list that adds `NS.svc.DOMAIN` to a longer name leads to the first rule: the cluster says NXDOMAIN at once,
//! as it does to a pod, and the resolver goes on with its list.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hickory_proto::op::Message;
use hickory_proto::rr::{Name, RData, RecordType};
use ipnetwork::IpNetwork;
use kvpn_wire::name::{self, is_public_tld, is_special_use};

use crate::config::Names;

/// What to do with a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// Ask the cluster for this absolute name.
    Cluster(Name),
    /// Not the cluster's.
    Foreign,
}

/// The configured names, ready to compare with.
#[derive(Debug)]
pub(crate) struct Scope {
    domain: Name,
    own_domain: Option<Name>,
    namespace: String,
    namespaces: BTreeSet<String>,
    reverse: Vec<IpNetwork>,
}

impl Scope {
    pub(crate) fn new(names: &Names) -> Self {
        Self {
            domain: absolute(&names.domain),
            own_domain: names.own_domain.as_deref().map(absolute),
            namespace: names.namespace.to_ascii_lowercase(),
            namespaces: names.routable_namespaces().collect(),
            reverse: names.reverse.clone(),
        }
    }

    /// What `asked` means when it is asked for records of `record_type`.
    pub(crate) fn meaning(&self, asked: &Name, record_type: RecordType) -> Meaning {
        if let Some(form) = self.below_own(asked) {
            return cluster(self.expanded(&form));
        }
        let labels: Vec<String> = asked.iter().map(lowercase).collect();
        let Some(last) = labels.last() else {
            return Meaning::Foreign;
        };
        if self.domain.zone_of(asked) || (last == "arpa" && self.is_reverse(asked)) {
            return cluster(Some(asked.clone()));
        }
        let several = labels.len() > 1;
        if several && self.namespaces.contains(last) {
            return cluster(self.below(asked, &["svc"]));
        }
        if several && (last == "svc" || last == "pod") {
            return cluster(self.below(asked, &[]));
        }
        if is_service_of_connected_namespace(&labels, record_type) {
            return cluster(self.below(asked, &[&self.namespace, "svc"]));
        }
        Meaning::Foreign
    }

    /// Names that an answer to a question below the session's own domain leads on to are asked for there, too: under the
    /// cluster domain another cluster might answer.
    pub(crate) fn own(&self, answer: &mut Message) {
        let asked = answer.queries.first();
        if asked.is_none_or(|query| self.below_own(&query.name).is_none()) {
            return;
        }
        let sections = [
            &mut answer.answers,
            &mut answer.authorities,
            &mut answer.additionals,
        ];
        for record in sections.into_iter().flatten() {
            self.move_below_own(&mut record.name);
            match &mut record.data {
                RData::CNAME(target) => self.move_below_own(&mut target.0),
                RData::SRV(service) => self.move_below_own(&mut service.target),
                _ => {}
            }
        }
    }

    fn move_below_own(&self, name: &mut Name) {
        if self.domain.zone_of(name)
            && let Some(own) = &self.own_domain
            && let Ok(longer) = name.clone().append_domain(own)
        {
            *name = longer;
        }
    }

    /// What stands before the session's own domain, if `asked` is below it.
    fn below_own(&self, asked: &Name) -> Option<Name> {
        let own = self.own_domain.as_ref()?;
        let form = usize::from(asked.num_labels()).checked_sub(own.num_labels().into())?;
        (form > 0 && own.zone_of(asked))
            .then(|| Name::from_labels(asked.iter().take(form)).ok())
            .flatten()
    }

    /// What `form` means where nothing but names of this cluster can be meant.
    fn expanded(&self, form: &Name) -> Option<Name> {
        let labels: Vec<String> = form.iter().map(lowercase).collect();
        let mut absolute = form.clone();
        absolute.set_fqdn(true);
        if self.domain.zone_of(&absolute) {
            return Some(absolute);
        }
        let is_port = |label: &String| label.starts_with('_');
        match labels.iter().filter(|label| !is_port(label)).count() {
            0 => None,
            1 => self.below(form, &[&self.namespace, "svc"]),
            _ if labels
                .last()
                .is_some_and(|last| last == "svc" || last == "pod") =>
            {
                self.below(form, &[])
            }
            _ => self.below(form, &["svc"]),
        }
    }

    /// `asked` + `between` + the cluster domain; none when that is longer than a name may be.
    fn below(&self, asked: &Name, between: &[&str]) -> Option<Name> {
        let mut name = asked.clone();
        for label in between {
            name = name.append_label(*label).ok()?;
        }
        name.append_domain(&self.domain).ok()
    }

    fn is_reverse(&self, asked: &Name) -> bool {
        let mut asked = asked.clone();
        asked.set_fqdn(true);
        let Ok(net) = asked.parse_arpa_name() else {
            return false;
        };
        self.reverse
            .iter()
            .any(|range| covers(range, net.addr(), net.prefix_len()))
    }
}

impl Names {
    /// Namespaces whose name may be the last label of a name: all but those that would hijack a public top-level domain
    /// or a name with a meaning of its own.
    fn routable_namespaces(&self) -> impl Iterator<Item = String> {
        let all = self.namespaces.iter().chain([&self.namespace]);
        all.map(|namespace| namespace.to_ascii_lowercase())
            .filter(|namespace| is_takeable(namespace))
    }

    /// The domains that the system's resolver has to route to the stub, without dots at their ends: the cluster domain,
    /// `svc`, `pod`, namespaces that hijack no public domain, reverse zones.
    pub fn routing_domains(&self) -> Vec<String> {
        let mut domains = vec![self.domain.clone(), "svc".to_owned(), "pod".to_owned()];
        domains.extend(self.own_domain.clone());
        domains.extend(self.routable_namespaces().collect::<BTreeSet<_>>());
        let zones: BTreeSet<_> = self
            .reverse
            .iter()
            .flat_map(|range| name::reverse_zones(*range))
            .collect();
        domains.extend(zones.into_iter().map(|zone| zone.as_str().to_owned()));
        domains
    }
}

/// Whether names that end in `label` may be taken for the cluster: not if they mean something on every machine.
fn is_takeable(label: &str) -> bool {
    !is_public_tld(label) && !is_special_use(label) && label != "arpa"
}

fn cluster(name: Option<Name>) -> Meaning {
    name.map_or(Meaning::Foreign, |mut name| {
        name.set_fqdn(true);
        Meaning::Cluster(name)
    })
}

/// `svc` or `_port._proto.svc`. Questions about zones are not about Services: `com NS` is for the public DNS.
fn is_service_of_connected_namespace(labels: &[String], record_type: RecordType) -> bool {
    let about_zone = matches!(
        record_type,
        RecordType::NS | RecordType::SOA | RecordType::DS | RecordType::DNSKEY
    );
    match labels {
        [service] => !about_zone && !is_special_use(service) && !service.starts_with('_'),
        [port, protocol, service] => {
            port.starts_with('_') && protocol.starts_with('_') && is_takeable(service)
        }
        _ => false,
    }
}

fn covers(range: &IpNetwork, address: IpAddr, prefix: u8) -> bool {
    range.prefix() <= prefix && range.contains(address)
}

/// A name from configuration, as an absolute one; labels that DNS cannot carry make it the root, under which nothing is ours.
fn absolute(domain: &str) -> Name {
    let mut name = Name::from_ascii(domain.trim_matches('.')).unwrap_or_else(|_| Name::root());
    name.set_fqdn(true);
    name
}

fn lowercase(label: &[u8]) -> String {
    String::from_utf8_lossy(label).to_ascii_lowercase()
}

#[cfg(test)]
mod tests;
