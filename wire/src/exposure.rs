//! Exposures in words that both ends agree on: which ports, which traffic, and when two choices collide. Text in, meaning out.
//!
//! The messages that carry them are in [`crate::control`]. This module must not know HTTP libraries or Kubernetes: a request is
//! what [`Head`] says of it.

mod ports;
mod rules;
mod traffic;

pub use ports::{PortMapping, Protocol, ServicePort};
pub use rules::{Head, HeaderRule, HeaderValue, Method, PathPrefix, Pattern, Rules};
pub use traffic::{Percent, Traffic};

/// Text that is not what it should be, in words for whoever wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadArgument {
    /// Neither `NAME: VALUE` nor `NAME=~REGEX`.
    #[error("`{0}` is no header rule: write `NAME: VALUE` or `NAME=~REGEX`, such as `x-dev: ana`")]
    Header(String),
    /// A header's name with characters that no header has (RFC 9110, section 5.1).
    #[error("`{0}` is no header name")]
    HeaderName(String),
    /// A header's value with characters that no header has (RFC 9110, section 5.5).
    #[error("a header's value has no such characters: {0:?}")]
    HeaderValue(String),
    /// Not a regular expression, or one that is too large.
    #[error("`{pattern}` is no regular expression: {why}")]
    Pattern {
        /// The text.
        pattern: String,
        /// What is wrong with it.
        why: String,
    },
    /// Not a path prefix.
    #[error(
        "`{0}` is no path prefix: it begins with `/` and has no query, no fragment and no spaces"
    )]
    Path(String),
    /// Not a method.
    #[error("`{0}` is no HTTP method")]
    Method(String),
    /// Not a share.
    #[error("`{0}` is no share: write 1% to 100%")]
    Percent(String),
    /// Not a port mapping.
    #[error(
        "`{0}` is no port: write PORT[:SERVICE-PORT][/udp], such as 8080, 8080:80, 8080:http or 9090:9090/udp"
    )]
    Port(String),
    /// `--match…`, `--weight` and `--mirror` exclude each other.
    #[error("{0} cannot be used together: choose one")]
    Together(&'static str),
}

#[cfg(test)]
mod tests;
