//! Which part of a Service's traffic goes to the laptop.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{BadArgument, HeaderRule, Method, PathPrefix, Rules};

/// A share of connections or requests: 1 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Percent(u8);

impl Percent {
    /// Whether a random number says: to the laptop. Over all of `random`'s values the share is exact to one in 2^32.
    pub fn takes(self, random: u32) -> bool {
        u64::from(random) * 100 < u64::from(self.0) << 32
    }
}

impl TryFrom<u8> for Percent {
    type Error = BadArgument;

    fn try_from(percent: u8) -> Result<Self, BadArgument> {
        (1..=100)
            .contains(&percent)
            .then_some(Self(percent))
            .ok_or_else(|| BadArgument::Percent(percent.to_string()))
    }
}

impl From<Percent> for u8 {
    fn from(percent: Percent) -> Self {
        percent.0
    }
}

impl FromStr for Percent {
    type Err = BadArgument;

    fn from_str(text: &str) -> Result<Self, BadArgument> {
        let number = text.strip_suffix('%').unwrap_or(text);
        let percent: Option<u8> = number.parse().ok();
        percent
            .and_then(|percent| Self::try_from(percent).ok())
            .ok_or_else(|| BadArgument::Percent(text.to_owned()))
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

/// What goes to the laptop; the rest goes to the origin.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Traffic {
    /// Everything.
    #[default]
    All,
    /// The requests that these rules let through.
    Match(Rules),
    /// A share of the requests, or of the connections where requests cannot be told apart.
    Weight(Percent),
    /// A copy of everything; the origin answers.
    Mirror,
}

impl Traffic {
    /// The choice that the command line's options make together.
    ///
    /// # Errors
    /// [`BadArgument::Together`] when they exclude each other.
    pub fn of_options(
        headers: Vec<HeaderRule>,
        paths: Vec<PathPrefix>,
        methods: Vec<Method>,
        weight: Option<Percent>,
        mirror: bool,
    ) -> Result<Self, BadArgument> {
        let rules = Rules {
            headers,
            paths,
            methods,
        };
        match (rules.is_empty(), weight, mirror) {
            (true, None, false) => Ok(Self::All),
            (false, None, false) => Ok(Self::Match(rules)),
            (true, Some(weight), false) => Ok(Self::Weight(weight)),
            (true, None, true) => Ok(Self::Mirror),
            (false, Some(_), _) => Err(BadArgument::Together("--match… and --weight")),
            (false, None, true) => Err(BadArgument::Together("--match… and --mirror")),
            (true, Some(_), true) => Err(BadArgument::Together("--weight and --mirror")),
        }
    }

    /// Whether it takes requests apart: what cannot be understood as HTTP then goes to the origin.
    pub fn needs_requests(&self) -> bool {
        matches!(self, Self::Match(_))
    }

    /// Whether two developers may have these of one Service at once: no request can belong to both, and that is provable.
    pub fn is_disjoint(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Match(one), Self::Match(two)) => one.is_disjoint(two),
            (
                Self::All | Self::Match(_) | Self::Weight(_) | Self::Mirror,
                Self::All | Self::Match(_) | Self::Weight(_) | Self::Mirror,
            ) => false,
        }
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("everything"),
            Self::Match(rules) => rules.fmt(f),
            Self::Weight(percent) => write!(f, "{percent}"),
            Self::Mirror => f.write_str("a copy of everything"),
        }
    }
}
