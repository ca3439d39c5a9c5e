//! DNS names as text.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::BadName;
use super::label::MAX_LABEL;

/// The longest name in text form without the last dot (RFC 1035, section 2.3.4).
const MAX_NAME: usize = 253;

/// An absolute DNS name in lower case, without the last dot. The root is not one of them.
///
/// Labels are of letters, digits, `-` and `_` (SRV names); what else DNS allows is refused.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DnsName(String);

impl DnsName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The labels, from the first to the top-level one.
    pub fn labels(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('.')
    }

    /// How many labels there are; at least one.
    pub fn label_count(&self) -> usize {
        self.labels().count()
    }

    /// The last label.
    pub fn top_level(&self) -> &str {
        self.labels().next_back().expect("a name has a label")
    }

    /// Whether the name is `suffix` or lies below it. Whole labels count: `notexample.com` is not within `example.com`.
    pub fn is_within(&self, suffix: &Self) -> bool {
        self == suffix || self.prefix_of(suffix).is_some()
    }

    /// What stands before `.suffix`; `None` when the name is not below it.
    pub fn prefix_of(&self, suffix: &Self) -> Option<&str> {
        self.0
            .strip_suffix(suffix.as_str())?
            .strip_suffix('.')
            .filter(|prefix| !prefix.is_empty())
    }

    /// `self.suffix`.
    ///
    /// # Errors
    /// [`BadName::TooLong`].
    pub fn within(&self, suffix: &Self) -> Result<Self, BadName> {
        format!("{self}.{suffix}").parse()
    }
}

fn check(name: &str) -> Result<(), BadName> {
    if name.len() > MAX_NAME {
        return Err(BadName::TooLong);
    }
    for label in name.split('.') {
        if label.is_empty() {
            return Err(BadName::Empty);
        }
        if label.len() > MAX_LABEL {
            return Err(BadName::TooLong);
        }
        if !label
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_')
        {
            return Err(BadName::Character);
        }
    }
    Ok(())
}

impl FromStr for DnsName {
    type Err = BadName;

    /// Takes any case, with or without the last dot.
    fn from_str(text: &str) -> Result<Self, BadName> {
        let name = text.strip_suffix('.').unwrap_or(text);
        check(name).map(|()| Self(name.to_ascii_lowercase()))
    }
}

impl TryFrom<String> for DnsName {
    type Error = BadName;

    fn try_from(text: String) -> Result<Self, BadName> {
        text.parse()
    }
}

impl From<DnsName> for String {
    fn from(name: DnsName) -> Self {
        name.0
    }
}

impl AsRef<str> for DnsName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DnsName({})", self.0)
    }
}

/// The domain below which a cluster's names live, usually `cluster.local`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterDomain(DnsName);

impl ClusterDomain {
    /// The domain as a name.
    pub fn as_name(&self) -> &DnsName {
        &self.0
    }

    /// The domain that a pod's search list tells: what stands behind `NAMESPACE.svc.` in one of its entries, or behind `svc.` in another.
    pub fn from_search_list<'a>(search: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        search.into_iter().find_map(|entry| {
            let entry: DnsName = entry.parse().ok()?;
            let mut rest = entry.as_str();
            while let Some((label, tail)) = rest.split_once('.') {
                if label == "svc" {
                    return tail.parse().ok();
                }
                rest = tail;
            }
            None
        })
    }
}

impl Default for ClusterDomain {
    fn default() -> Self {
        Self(DnsName("cluster.local".to_owned()))
    }
}

impl FromStr for ClusterDomain {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        text.parse().map(Self)
    }
}

impl fmt::Display for ClusterDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
