//! Which requests and connections go to whose laptop. Decides from what it is given: no IO, no randomness of its own.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use ::http::header::COOKIE;
use ::http::request::Parts;
use kvpn_wire::exposure::{Head, Traffic};

use super::events::Counters;
use super::proxy_protocol::ProxyProtocol;

/// The claims on one port, the first that matches wins; what none of them wants goes to the origin.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    claims: Vec<Arc<Claim>>,
}

/// Whose laptop it is: a name that users see.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(Arc<str>);

/// What one developer asked for.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Whose laptop.
    pub owner: Owner,
    /// Which traffic. Copies are of HTTP only, and not of upgrades and CONNECT.
    pub traffic: Traffic,
    /// Whether the origin serves what the laptop does not take.
    pub fallback: bool,
    /// Whether connections to the laptop begin with the client's address.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// What went to this laptop; keep it when the choice changes.
    pub counters: Arc<Counters>,
}

/// What becomes of a request or connection.
#[derive(Debug)]
pub(super) enum Route {
    Laptop(Arc<Claim>),
    /// The laptops get copies.
    Origin {
        mirrors: Vec<Arc<Claim>>,
    },
}

impl Choice {
    /// The claims in the order in which they are asked.
    #[must_use]
    pub fn new(claims: impl IntoIterator<Item = Claim>) -> Self {
        Self {
            claims: claims.into_iter().map(Arc::new).collect(),
        }
    }

    /// `dice` are random.
    pub(super) fn route_request(&self, head: &Parts, dice: impl Fn() -> u32) -> Route {
        let mut mirrors = Vec::new();
        for claim in &self.claims {
            let is_wanted = match &claim.traffic {
                Traffic::All => true,
                Traffic::Match(rules) => rules.matches(&Matched(head)),
                Traffic::Weight(percent) => percent.takes(dice()),
                Traffic::Mirror => {
                    mirrors.push(Arc::clone(claim));
                    false
                }
            };
            if is_wanted {
                return Route::Laptop(Arc::clone(claim));
            }
        }
        Route::Origin { mirrors }
    }

    /// For what cannot be matched.
    pub(super) fn route_connection(&self, dice: impl Fn() -> u32) -> Route {
        let wants = |claim: &&Arc<Claim>| match claim.traffic {
            Traffic::All => true,
            Traffic::Weight(percent) => percent.takes(dice()),
            Traffic::Match(_) | Traffic::Mirror => false,
        };
        self.claims.iter().find(wants).map_or(
            Route::Origin {
                mirrors: Vec::new(),
            },
            |claim| Route::Laptop(Arc::clone(claim)),
        )
    }
}

impl Claim {
    /// A claim of everything: no rules, no copy, origin as fallback.
    #[must_use]
    pub fn everything(owner: Owner) -> Self {
        Self {
            owner,
            traffic: Traffic::All,
            fallback: true,
            proxy_protocol: None,
            counters: Arc::default(),
        }
    }
}

impl Owner {
    /// An owner of this name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A request's head as the rules see it.
struct Matched<'a>(&'a Parts);

impl Head for Matched<'_> {
    fn method(&self) -> &str {
        self.0.method.as_str()
    }

    fn path(&self) -> &str {
        self.0.uri.path()
    }

    fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        let mut lines = self.0.headers.get_all(name).into_iter();
        let first = String::from_utf8_lossy(lines.next()?.as_bytes());
        let separator = if name == COOKIE { "; " } else { ", " };
        Some(lines.fold(first, |joined, line| {
            joined + separator + String::from_utf8_lossy(line.as_bytes())
        }))
    }
}

#[cfg(test)]
mod tests {
    use kvpn_wire::exposure::{Percent, Rules};

    use super::*;

    fn head(method: &str, path: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = ::http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn claim(owner: &str, traffic: Traffic) -> Claim {
        Claim {
            traffic,
            ..Claim::everything(Owner::new(owner))
        }
    }

    fn matching(header: &str) -> Traffic {
        Traffic::Match(Rules {
            headers: vec![header.parse().unwrap()],
            ..Rules::default()
        })
    }

    fn owner_of(route: &Route) -> String {
        match route {
            Route::Laptop(claim) => claim.owner.to_string(),
            Route::Origin { mirrors } => format!("origin+{}", mirrors.len()),
        }
    }

    #[test]
    fn rules_of_a_claim_all_hold_and_the_first_claim_wins() {
        let strict = Traffic::Match(Rules {
            headers: vec!["X-Dev: ana".parse().unwrap()],
            paths: vec!["/api/".parse().unwrap()],
            methods: vec!["POST".parse().unwrap()],
        });
        let choice = Choice::new([
            claim("ana", strict),
            claim("ben", matching("x-dev=~^(a.*|ben)$")),
        ]);
        let route = |method, path, dev| {
            owner_of(&choice.route_request(&head(method, path, &[("x-dev", dev)]), || u32::MAX))
        };
        assert_eq!(route("POST", "/api/users?q=1", "ana"), "ana");
        assert_eq!(route("POST", "/apis", "ana"), "ben");
        assert_eq!(route("GET", "/api/", "ana"), "ben");
        assert_eq!(route("GET", "/", "ben"), "ben");
        assert_eq!(route("GET", "/", "ruben"), "origin+0");
        assert_eq!(route("GET", "/", "Ana"), "origin+0");
    }

    #[test]
    fn lines_of_a_header_are_one_value() {
        let choice = Choice::new([claim("ana", matching("x-dev: ben, ana"))]);
        let head = head("GET", "/", &[("x-dev", "ben"), ("x-dev", "ana")]);
        assert_eq!(owner_of(&choice.route_request(&head, || 0)), "ana");
        let choice = Choice::new([claim("ana", matching("cookie=~(^|; )dev=ana(;|$)"))]);
        let head = self::head("GET", "/", &[("cookie", "a=b"), ("cookie", "dev=ana")]);
        assert_eq!(owner_of(&choice.route_request(&head, || 0)), "ana");
    }

    #[test]
    fn a_weight_is_for_requests_and_for_connections() {
        let light = Traffic::Weight(Percent::try_from(10).unwrap());
        let choice = Choice::new([claim("ana", light)]);
        for (dice, expected) in [(u32::MAX / 11, "ana"), (u32::MAX / 9, "origin+0")] {
            let request = choice.route_request(&head("GET", "/", &[]), || dice);
            assert_eq!(owner_of(&request), expected);
            assert_eq!(owner_of(&choice.route_connection(|| dice)), expected);
        }
    }

    #[test]
    fn copies_are_for_what_the_origin_answers() {
        let puts = Traffic::Match(Rules {
            methods: vec!["PUT".parse().unwrap()],
            ..Rules::default()
        });
        let choice = Choice::new([claim("ana", Traffic::Mirror), claim("ben", puts)]);
        let route = |method| owner_of(&choice.route_request(&head(method, "/", &[]), || 0));
        assert_eq!(
            (route("GET").as_str(), route("PUT").as_str()),
            ("origin+1", "ben")
        );
        assert_eq!(owner_of(&choice.route_connection(|| 0)), "origin+0");
    }
}
