//! Rules on requests: headers, path prefixes, methods. What they match, and when no request can match two sets of them.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

use super::BadArgument;

/// Bytes that a compiled pattern may take: refuses `(a{1000}){1000}`.
const PATTERN_SIZE: usize = 256 << 10;

/// What rules look at in a request.
pub trait Head {
    /// The method, such as `GET`.
    fn method(&self) -> &str;

    /// The path, without the query.
    fn path(&self) -> &str;

    /// A header's value by its lower-case name. Several lines are one value, joined with `, ` (RFC 9110, section 5.3; `cookie`
    /// with `; `, RFC 9113, section 8.2.3), so that a request has one value a name.
    fn header(&self, name: &str) -> Option<Cow<'_, str>>;
}

/// Which requests: each header rule holds, and the path has one of the prefixes, and the method is one of those named.
/// An empty list lets everything through.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rules {
    /// All of them hold.
    pub headers: Vec<HeaderRule>,
    /// One of them holds.
    pub paths: Vec<PathPrefix>,
    /// One of them holds.
    pub methods: Vec<Method>,
}

impl Rules {
    /// Whether there are none, so that they would match everything.
    pub fn is_empty(&self) -> bool {
        self.headers.is_empty() && self.paths.is_empty() && self.methods.is_empty()
    }

    /// Whether the request matches.
    pub fn matches(&self, head: &impl Head) -> bool {
        let any_path = self.paths.iter().any(|prefix| prefix.holds(head.path()));
        let any_method = self.methods.iter().any(|method| method.0 == head.method());
        (self.paths.is_empty() || any_path)
            && (self.methods.is_empty() || any_method)
            && self.headers.iter().all(|rule| rule.holds(head))
    }

    /// Whether provably no request matches both. Two regular expressions, or two different headers, prove nothing.
    pub fn is_disjoint(&self, other: &Self) -> bool {
        none_meet(&self.methods, &other.methods, |one, two| one == two)
            || none_meet(&self.paths, &other.paths, PathPrefix::meets)
            || self
                .headers
                .iter()
                .any(|one| other.headers.iter().any(|two| one.excludes(two)))
    }
}

/// Whether both lists say something, and no item of one goes with an item of the other.
fn none_meet<T>(one: &[T], two: &[T], meet: impl Fn(&T, &T) -> bool) -> bool {
    !one.is_empty() && !two.is_empty() && !one.iter().any(|a| two.iter().any(|b| meet(a, b)))
}

impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = self.headers.iter().map(ToString::to_string).collect();
        for list in [joined(&self.paths), joined(&self.methods)] {
            parts.extend(Some(list).filter(|list| !list.is_empty()));
        }
        f.write_str(&parts.join(" and "))
    }
}

fn joined<T: ToString>(items: &[T]) -> String {
    let texts: Vec<String> = items.iter().map(ToString::to_string).collect();
    texts.join(" or ")
}

/// A rule about one header: `x-dev: ana`, or `x-dev=~^an`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeaderRule {
    name: HeaderName,
    value: HeaderValue,
}

/// What a header's value has to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HeaderValue {
    /// This, byte for byte.
    Exact(String),
    /// Something in which the pattern is found; `^` and `$` bind it to the ends.
    Regex(Pattern),
}

impl HeaderRule {
    fn holds(&self, head: &impl Head) -> bool {
        head.header(&self.name.0)
            .is_some_and(|value| self.value.holds(&value))
    }

    /// Whether no value satisfies both.
    fn excludes(&self, other: &Self) -> bool {
        self.name == other.name
            && match (&self.value, &other.value) {
                (HeaderValue::Exact(one), HeaderValue::Exact(two)) => one != two,
                (HeaderValue::Exact(value), HeaderValue::Regex(pattern))
                | (HeaderValue::Regex(pattern), HeaderValue::Exact(value)) => {
                    !pattern.is_match(value)
                }
                (HeaderValue::Regex(_), HeaderValue::Regex(_)) => false,
            }
    }
}

impl HeaderValue {
    fn holds(&self, value: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == value,
            Self::Regex(pattern) => pattern.is_match(value),
        }
    }
}

impl FromStr for HeaderRule {
    type Err = BadArgument;

    fn from_str(text: &str) -> Result<Self, BadArgument> {
        let separator = text
            .find([':', '='])
            .ok_or_else(|| BadArgument::Header(text.to_owned()))?;
        let (name, rest) = text.split_at(separator);
        let value = if let Some(pattern) = rest.strip_prefix("=~") {
            HeaderValue::Regex(pattern.parse()?)
        } else if let Some(value) = rest.strip_prefix(':') {
            HeaderValue::Exact(header_value(value.trim())?)
        } else {
            return Err(BadArgument::Header(text.to_owned()));
        };
        Ok(Self {
            name: name.trim().parse()?,
            value,
        })
    }
}

fn header_value(value: &str) -> Result<String, BadArgument> {
    if value.is_empty() || value.chars().any(char::is_control) {
        return Err(BadArgument::HeaderValue(value.to_owned()));
    }
    Ok(value.to_owned())
}

/// RFC 9110, section 5.6.2.
fn is_token(text: &str) -> bool {
    let is_tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_tchar)
}

impl fmt::Display for HeaderRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            HeaderValue::Exact(value) => write!(f, "{}: {value}", self.name),
            HeaderValue::Regex(pattern) => write!(f, "{}=~{pattern}", self.name),
        }
    }
}

/// A regular expression as the `regex` crate has them: matching takes time linear in the value, whatever the pattern.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(Regex);

impl Pattern {
    /// Whether the pattern is found in the text.
    pub fn is_match(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl FromStr for Pattern {
    type Err = BadArgument;

    fn from_str(text: &str) -> Result<Self, BadArgument> {
        let built = RegexBuilder::new(text).size_limit(PATTERN_SIZE).build();
        built.map(Self).map_err(|error| BadArgument::Pattern {
            pattern: text.to_owned(),
            why: in_one_line(&error),
        })
    }
}

/// The last line of a parser's error is what is wrong; those before draw an arrow.
fn in_one_line(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default().trim();
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}

impl TryFrom<String> for Pattern {
    type Error = BadArgument;

    fn try_from(text: String) -> Result<Self, BadArgument> {
        text.parse()
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.0.as_str().to_owned()
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl TryFrom<String> for $name {
            type Error = BadArgument;

            fn try_from(text: String) -> Result<Self, BadArgument> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(text: $name) -> Self {
                text.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

checked_text! {
    /// A header's name, in lower case.
    HeaderName
}

impl FromStr for HeaderName {
    type Err = BadArgument;

    fn from_str(text: &str) -> Result<Self, BadArgument> {
        is_token(text)
            .then(|| Self(text.to_ascii_lowercase()))
            .ok_or_else(|| BadArgument::HeaderName(text.to_owned()))
    }
}

checked_text! {
    /// A path and all below it: `/api` holds for `/api` and `/api/x`, not for `/apiary`, as in Kubernetes' Ingress.
    PathPrefix
}

checked_text! {
    /// An HTTP method. Methods are case-sensitive (RFC 9110, section 9.1); the registered ones are taken in any case.
    Method
}

impl PathPrefix {
    /// Whether a path is at or below the prefix.
    fn holds(&self, path: &str) -> bool {
        let prefix = self.0.trim_end_matches('/');
        path.strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Whether some path is below both.
    fn meets(&self, other: &Self) -> bool {
        self.holds(&other.0) || other.holds(&self.0)
    }
}

impl FromStr for PathPrefix {
    type Err = BadArgument;

    fn from_str(text: &str) -> Result<Self, BadArgument> {
        let allowed = |c: char| !c.is_control() && !c.is_whitespace() && c != '?' && c != '#';
        if text.starts_with('/') && text.chars().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadArgument::Path(text.to_owned()))
        }
    }
}

/// RFC 9110, section 9.3, and PATCH (RFC 5789).
const REGISTERED: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
];

impl FromStr for Method {
    type Err = BadArgument;

    fn from_str(text: &str) -> Result<Self, BadArgument> {
        if !is_token(text) {
            return Err(BadArgument::Method(text.to_owned()));
        }
        let upper = text.to_ascii_uppercase();
        let registered = REGISTERED.contains(&upper.as_str());
        Ok(Self(if registered { upper } else { text.to_owned() }))
    }
}
