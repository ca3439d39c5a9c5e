//! Which requests and connections go to whose laptop. Decides from what it is given: no IO, no randomness of its own.

use std::fmt;
use std::sync::Arc;

use ::http::request::Parts;
use ::http::{HeaderName, Method};
use regex::bytes::{Regex, RegexBuilder};

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
    /// A request is wanted when all of them hold. Empty: everything is wanted, connections that are not HTTP too.
    pub rules: Vec<Rule>,
    /// The share of what the rules want.
    pub weight: Weight,
    /// The origin answers, the laptop gets a copy. Of HTTP only, and not of upgrades and CONNECT.
    pub mirror: bool,
    /// Whether the origin serves what the laptop does not take.
    pub fallback: bool,
    /// Whether connections to the laptop begin with the client's address.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// What went to this laptop; keep it when the choice changes.
    pub counters: Arc<Counters>,
}

/// A share in percent, 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Weight(u8);

/// One condition on a request.
#[derive(Debug, Clone)]
pub enum Rule {
    /// One line of the header field is exactly this.
    Header {
        /// The field's name.
        name: HeaderName,
        /// Its value, byte for byte.
        value: Vec<u8>,
    },
    /// One line of the header field matches as a whole.
    HeaderRegex {
        /// The field's name.
        name: HeaderName,
        /// Made by [`Rule::header_regex`].
        regex: Regex,
    },
    /// The path is this or below it, element by element, as PathPrefix of Kubernetes' Gateway API: `/api` has
    /// `/api/users` and not `/apis`.
    PathPrefix(String),
    /// The method.
    Method(Method),
}

/// Why a rule cannot be.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    /// Not a header field's name (RFC 9110 section 5.1).
    #[error("{0:?} cannot be the name of a header")]
    Name(String),
    /// Not a regular expression, or one that compiles to more than 64 KiB.
    #[error("the regular expression cannot be used: {0}")]
    Regex(#[from] regex::Error),
    /// A path begins with a slash.
    #[error("path {0:?} does not begin with a slash")]
    Path(String),
    /// Not a method (RFC 9110 section 9.1).
    #[error("{0:?} is not an HTTP method")]
    Method(String),
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

    pub(super) fn route_request(&self, head: &Parts, dice: impl Fn() -> u8) -> Route {
        let mut mirrors = Vec::new();
        for claim in &self.claims {
            if !claim.rules.iter().all(|rule| rule.holds(head)) || !claim.weight.has(&dice) {
                continue;
            }
            if !claim.mirror {
                return Route::Laptop(Arc::clone(claim));
            }
            mirrors.push(Arc::clone(claim));
        }
        Route::Origin { mirrors }
    }

    /// For what cannot be matched.
    pub(super) fn route_connection(&self, dice: impl Fn() -> u8) -> Route {
        let wants = |claim: &&Arc<Claim>| {
            claim.rules.is_empty() && !claim.mirror && claim.weight.has(&dice)
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
            rules: Vec::new(),
            weight: Weight::ALL,
            mirror: false,
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

impl Weight {
    /// Everything.
    pub const ALL: Self = Self(100);

    /// `percent` of 100; more is all.
    #[must_use]
    pub fn percent(percent: u8) -> Self {
        Self(percent.min(100))
    }

    fn has(self, dice: impl Fn() -> u8) -> bool {
        self == Self::ALL || dice() < self.0
    }
}

impl Rule {
    /// The header field `name` has a line that is exactly `value`.
    ///
    /// # Errors
    /// When `name` is no header's.
    pub fn header(name: &str, value: &str) -> Result<Self, RuleError> {
        Ok(Self::Header {
            name: header_name(name)?,
            value: value.as_bytes().to_vec(),
        })
    }

    /// The header field `name` has a line that `regex` matches from its beginning to its end.
    ///
    /// # Errors
    /// When `name` is no header's, or `regex` is none or too large.
    pub fn header_regex(name: &str, regex: &str) -> Result<Self, RuleError> {
        Ok(Self::HeaderRegex {
            name: header_name(name)?,
            regex: RegexBuilder::new(&format!("^(?:{regex})$"))
                .size_limit(REGEX_SIZE)
                .build()?,
        })
    }

    /// The path is `prefix` or below it.
    ///
    /// # Errors
    /// When it does not begin with a slash.
    pub fn path_prefix(prefix: &str) -> Result<Self, RuleError> {
        if !prefix.starts_with('/') {
            return Err(RuleError::Path(prefix.to_owned()));
        }
        Ok(Self::PathPrefix(prefix.trim_end_matches('/').to_owned()))
    }

    /// The method is `method`, which is case-sensitive (RFC 9110 section 9.1).
    ///
    /// # Errors
    /// When it cannot be a method.
    pub fn method(method: &str) -> Result<Self, RuleError> {
        let parsed = Method::from_bytes(method.as_bytes());
        parsed
            .map(Self::Method)
            .map_err(|_| RuleError::Method(method.to_owned()))
    }

    fn holds(&self, head: &Parts) -> bool {
        let lines = |name| head.headers.get_all(name).into_iter();
        match self {
            Self::Header { name, value } => lines(name).any(|line| line.as_bytes() == value),
            Self::HeaderRegex { name, regex } => {
                lines(name).any(|line| regex.is_match(line.as_bytes()))
            }
            Self::PathPrefix(prefix) => head
                .uri
                .path()
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            Self::Method(method) => head.method == *method,
        }
    }
}

fn header_name(name: &str) -> Result<HeaderName, RuleError> {
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| RuleError::Name(name.to_owned()))
}

/// Bytes of a compiled expression: far beyond what a header needs.
const REGEX_SIZE: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn head(method: &str, path: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = ::http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn claim(owner: &str, rules: Vec<Rule>) -> Claim {
        Claim {
            rules,
            ..Claim::everything(Owner::new(owner))
        }
    }

    fn owner_of(route: &Route) -> String {
        match route {
            Route::Laptop(claim) => claim.owner.to_string(),
            Route::Origin { mirrors } => format!("origin+{}", mirrors.len()),
        }
    }

    #[test]
    fn rules_of_a_claim_all_hold_and_the_first_claim_wins() {
        let choice = Choice::new([
            claim(
                "ana",
                vec![
                    Rule::header("X-Dev", "ana").unwrap(),
                    Rule::path_prefix("/api/").unwrap(),
                    Rule::method("POST").unwrap(),
                ],
            ),
            claim("ben", vec![Rule::header_regex("x-dev", "a.*|ben").unwrap()]),
        ]);
        let route = |method, path, dev| {
            owner_of(&choice.route_request(&head(method, path, &[("x-dev", dev)]), || 99))
        };
        assert_eq!(route("POST", "/api", "ana"), "ana");
        assert_eq!(route("POST", "/api/users?q=1", "ana"), "ana");
        assert_eq!(route("POST", "/apis", "ana"), "ben");
        assert_eq!(route("GET", "/api", "ana"), "ben");
        assert_eq!(route("GET", "/", "ben"), "ben");
        assert_eq!(route("GET", "/", "ruben"), "origin+0");
        assert_eq!(route("GET", "/", "Ana"), "origin+0");
    }

    #[test]
    fn any_line_of_a_header_may_match() {
        let choice = Choice::new([claim("ana", vec![Rule::header("x-dev", "ana").unwrap()])]);
        let head = head("GET", "/", &[("x-dev", "ben"), ("x-dev", "ana")]);
        assert_eq!(owner_of(&choice.route_request(&head, || 0)), "ana");
    }

    #[test]
    fn a_weight_of_ten_has_ten_of_a_hundred() {
        let mut light = claim("ana", Vec::new());
        light.weight = Weight::percent(10);
        let choice = Choice::new([light]);
        let had = (0..100).filter(|&dice| {
            owner_of(&choice.route_request(&head("GET", "/", &[]), || dice)) == "ana"
        });
        assert_eq!(had.count(), 10);
        let had = (0..100).filter(|&dice| owner_of(&choice.route_connection(|| dice)) == "ana");
        assert_eq!(had.count(), 10);
    }

    #[test]
    fn copies_are_for_what_the_origin_answers() {
        let mut copy = claim("ana", Vec::new());
        copy.mirror = true;
        let choice = Choice::new([copy, claim("ben", vec![Rule::method("PUT").unwrap()])]);
        let route = |method| owner_of(&choice.route_request(&head(method, "/", &[]), || 0));
        assert_eq!(
            (route("GET").as_str(), route("PUT").as_str()),
            ("origin+1", "ben")
        );
        assert_eq!(owner_of(&choice.route_connection(|| 0)), "origin+0");
    }

    #[test]
    fn rules_that_cannot_be_are_refused() {
        assert!(matches!(Rule::header("x dev", ""), Err(RuleError::Name(_))));
        assert!(matches!(
            Rule::header_regex("x", "("),
            Err(RuleError::Regex(_))
        ));
        assert!(matches!(
            Rule::header_regex("x", r"\w{1000}"),
            Err(RuleError::Regex(_))
        ));
        assert!(matches!(Rule::path_prefix("api"), Err(RuleError::Path(_))));
        assert!(matches!(Rule::method("GE T"), Err(RuleError::Method(_))));
    }
}
