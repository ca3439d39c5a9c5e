//! The names that are asked, and what the right answers are: taken from the Kubernetes API.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use kvpn::cluster::{Cluster, pod_addresses};

/// A record type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    A,
    Aaaa,
    Srv,
    Ptr,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Srv => "SRV",
            Self::Ptr => "PTR",
        })
    }
}

/// The right answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expected {
    /// These records, as text: addresses, or names with a dot at the end.
    Records(BTreeSet<String>),
    /// The name is there, with other types of record only.
    NoData,
    /// There is no such name.
    NxDomain,
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Records(records) => match records.iter().next() {
                Some(first) if records.len() == 1 => f.write_str(first),
                Some(first) => write!(f, "{first} +{}", records.len() - 1),
                None => f.write_str("nothing"),
            },
            Self::NoData => f.write_str("NODATA"),
            Self::NxDomain => f.write_str("NXDOMAIN"),
        }
    }
}

/// A name, a type and the right answer. A PTR question's name is the address.
#[derive(Debug, Clone)]
pub(super) struct Question {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) expected: Expected,
}

impl Question {
    fn new(name: &str, kind: Kind, expected: Expected) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            expected,
        }
    }

    /// Whether the answer comes from the cluster, and not from the public resolver.
    pub(super) fn is_of_the_cluster(&self) -> bool {
        !self.name.contains("example.")
            && self.expected != Expected::NxDomain
            && self.kind != Kind::Ptr
    }
}

/// All questions.
pub(super) fn questions() -> Vec<Question> {
    let cluster = Cluster::get();
    let mut all = Vec::new();
    let echo = cluster.service("default", "echo");
    hosts(
        &mut all,
        &[
            "echo",
            "echo.default",
            "echo.default.svc",
            "echo.default.svc.cluster.local",
        ],
        &echo,
    );
    let other = cluster.service("other", "echo");
    hosts(
        &mut all,
        &[
            "echo.other",
            "echo.other.svc",
            "echo.other.svc.cluster.local",
        ],
        &other,
    );
    hosts(
        &mut all,
        &["v4only", "v4only.default.svc.cluster.local"],
        &cluster.service("default", "v4only"),
    );
    hosts(
        &mut all,
        &["kubernetes.default", "kubernetes.default.svc"],
        &cluster.service("default", "kubernetes"),
    );

    let echo_pods: Vec<_> = cluster
        .pods("default", "app=echo")
        .iter()
        .flat_map(pod_addresses)
        .collect();
    hosts(
        &mut all,
        &["echo-headless", "echo-headless.default.svc.cluster.local"],
        &echo_pods,
    );
    let db = pod_addresses(&cluster.object("default", "pod/db-0"));
    hosts(
        &mut all,
        &[
            "db-0.db.default",
            "db-0.db.default.svc",
            "db-0.db.default.svc.cluster.local",
        ],
        &db,
    );
    let dashed = db[0].to_string().replace('.', "-");
    for name in [
        format!("{dashed}.default.pod"),
        format!("{dashed}.default.pod.cluster.local"),
    ] {
        all.push(Question::new(
            &name,
            Kind::A,
            addresses_of(&db, IpAddr::is_ipv4),
        ));
    }

    let public: [IpAddr; 2] = [
        "198.51.100.7".parse().unwrap(),
        "2001:db8:100::7".parse().unwrap(),
    ];
    hosts(
        &mut all,
        &["external", "external.default.svc.cluster.local"],
        &public,
    );
    hosts(
        &mut all,
        &["alias", "alias.default.svc.cluster.local"],
        &other,
    );
    hosts(&mut all, &["example.com"], &public);

    services(&mut all);
    reverse(&mut all, &echo, "echo.default.svc.cluster.local.");
    reverse(&mut all, &db, "db-0.db.default.svc.cluster.local.");
    for name in [
        "nosuch",
        "nosuch.default",
        "nosuch.other.svc",
        "nosuch.default.svc.cluster.local",
        "nosuch.example.org",
    ] {
        for kind in [Kind::A, Kind::Aaaa] {
            all.push(Question::new(name, kind, Expected::NxDomain));
        }
    }
    all
}

fn hosts(all: &mut Vec<Question>, names: &[&str], addresses: &[IpAddr]) {
    for name in names {
        all.push(Question::new(
            name,
            Kind::A,
            addresses_of(addresses, IpAddr::is_ipv4),
        ));
        all.push(Question::new(
            name,
            Kind::Aaaa,
            addresses_of(addresses, IpAddr::is_ipv6),
        ));
    }
}

fn addresses_of(addresses: &[IpAddr], family: fn(&IpAddr) -> bool) -> Expected {
    let found: BTreeSet<_> = addresses
        .iter()
        .filter(|address| family(address))
        .map(ToString::to_string)
        .collect();
    if found.is_empty() {
        Expected::NoData
    } else {
        Expected::Records(found)
    }
}

fn services(all: &mut Vec<Question>) {
    let one = |target: &str| Expected::Records([target.to_owned()].into());
    for name in [
        "_http._tcp.echo.default",
        "_http._tcp.echo.default.svc.cluster.local",
    ] {
        all.push(Question::new(
            name,
            Kind::Srv,
            one("80 echo.default.svc.cluster.local."),
        ));
    }
    let members = [
        "9000 db-0.db.default.svc.cluster.local.",
        "9000 db-1.db.default.svc.cluster.local.",
    ];
    let members = Expected::Records(members.map(ToOwned::to_owned).into());
    all.push(Question::new(
        "_sql._tcp.db.default.svc.cluster.local",
        Kind::Srv,
        members,
    ));
    all.push(Question::new(
        "_nosuch._tcp.echo.default.svc.cluster.local",
        Kind::Srv,
        Expected::NxDomain,
    ));
}

fn reverse(all: &mut Vec<Question>, addresses: &[IpAddr], name: &str) {
    for address in addresses {
        all.push(Question::new(
            &address.to_string(),
            Kind::Ptr,
            Expected::Records([name.to_owned()].into()),
        ));
    }
}
