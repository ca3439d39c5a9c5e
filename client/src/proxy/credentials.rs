//! What a program has to know to use the proxy: RFC 1929 for SOCKS5, the Basic scheme (RFC 7617) for HTTP.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The user of every proxy: the password is what is secret.
const USER: &str = "kvpn";

/// A user and a password.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    password: String,
}

impl Credentials {
    /// With a password that nobody can guess.
    pub(crate) fn new(password: String) -> Self {
        Self { password }
    }

    /// The user's name.
    pub(crate) fn user(&self) -> &'static str {
        USER
    }

    /// The password; printed once.
    pub(crate) fn password(&self) -> &str {
        &self.password
    }

    /// Whether these are the right ones. Takes as long for wrong ones.
    pub(super) fn are(&self, user: &[u8], password: &[u8]) -> bool {
        is_same(user, USER.as_bytes()) & is_same(password, self.password.as_bytes())
    }

    /// Whether this is the value of a header that proves them.
    pub(super) fn are_in(&self, header: &[u8]) -> bool {
        let Some((scheme, encoded)) = header.split_at_checked(6) else {
            return false;
        };
        let Ok(decoded) = STANDARD.decode(encoded.trim_ascii()) else {
            return false;
        };
        let mut parts = decoded.splitn(2, |byte| *byte == b':');
        let (user, password) = (parts.next(), parts.next());
        scheme.eq_ignore_ascii_case(b"basic ")
            && self.are(user.unwrap_or_default(), password.unwrap_or_default())
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}

/// Compares all of it, so that the time tells nothing but the length.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    let differences = one.iter().zip(other).fold(0, |sum, (a, b)| sum | (a ^ b));
    one.len() == other.len() && differences == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_ones_pass() {
        let credentials = Credentials::new("secret".to_owned());
        assert!(credentials.are(b"kvpn", b"secret"));
        for (user, password) in [
            (&b"kvpn"[..], &b"Secret"[..]),
            (b"kvpn", b"secre"),
            (b"kvpn", b"secrets"),
            (b"kvpm", b"secret"),
            (b"", b""),
        ] {
            assert!(!credentials.are(user, password), "{user:?} {password:?}");
        }
    }

    #[test]
    fn headers() {
        let credentials = Credentials::new("se:cret".to_owned());
        let value = |scheme: &str, pair: &str| format!("{scheme} {}", STANDARD.encode(pair));
        assert!(credentials.are_in(value("Basic", "kvpn:se:cret").as_bytes()));
        assert!(credentials.are_in(value("basic", "kvpn:se:cret").as_bytes()));
        for wrong in [
            value("Bearer", "kvpn:se:cret"),
            value("Basic", "kvpn"),
            value("Basic", ""),
            "Basic not base64".to_owned(),
            "Basi".to_owned(),
            String::new(),
        ] {
            assert!(!credentials.are_in(wrong.as_bytes()), "{wrong}");
        }
    }

    #[test]
    fn the_password_is_not_logged() {
        let credentials = Credentials::new("secret".to_owned());
        assert!(!format!("{credentials:?}").contains("secret"));
    }
}
