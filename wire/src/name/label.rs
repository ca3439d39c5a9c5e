//! Names of Kubernetes objects that become DNS labels (RFC 1123).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::BadName;

pub(super) const MAX_LABEL: usize = 63;

/// Lower-case letters, digits and inner hyphens, 1 to 63 of them.
pub(super) fn check(label: &str) -> Result<(), BadName> {
    if label.is_empty() {
        return Err(BadName::Empty);
    }
    if label.len() > MAX_LABEL {
        return Err(BadName::TooLong);
    }
    let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    if !label.bytes().all(allowed) || label.starts_with('-') || label.ends_with('-') {
        return Err(BadName::Character);
    }
    Ok(())
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = BadName;

            fn from_str(text: &str) -> Result<Self, BadName> {
                check(text).map(|()| Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadName;

            fn try_from(text: String) -> Result<Self, BadName> {
                check(&text).map(|()| Self(text))
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

label! {
    /// A namespace's name.
    Namespace
}

label! {
    /// A Service's name. (RFC 1035 once, RFC 1123 since Kubernetes 1.34: the wider of the two.)
    ServiceName
}
