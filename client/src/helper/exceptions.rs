//! What the administrator of this machine allows the helper beyond its own limits: /etc/kvpn/helper.toml (on Windows
//! `%ProgramData%\kvpn\helper.toml`).
//!
//! ```toml
//! # Wider than a private /8 or a public /16 (IPv6: /32).
//! allow-ranges = ["10.0.0.0/7"]
//! # Domains of the public DNS; those below them too.
//! allow-domains = ["corp.example.com"]
//! ```
//!
//! Must not lift what would cut the machine off: default route, loopback, link-local, multicast, its own subnets, its routers and
//! DNS servers, and the root domain stay out of reach whatever is written there.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use ipnetwork::IpNetwork;
use serde::Deserialize;

use crate::os::{platform, private};

/// The exceptions of this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct Exceptions {
    allow_ranges: Vec<IpNetwork>,
    allow_domains: Vec<String>,
}

impl Exceptions {
    /// Those of this machine; none when there is no file.
    ///
    /// # Errors
    /// The file is not root's alone, or cannot be understood.
    pub(crate) fn of_this_machine() -> Result<Self> {
        let file = platform::exceptions_file();
        Self::read(&file).with_context(|| {
            format!(
                "the helper's exceptions in {} cannot be used: correct the file or remove it",
                file.display()
            )
        })
    }

    fn read(path: &Path) -> Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error.into()),
        };
        ensure!(
            private::is_administrators(path)?,
            "others than root may write it"
        );
        Ok(Self::parse(&text)?)
    }

    fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// Whether a range may be as wide as it is.
    pub(super) fn allow_range(&self, range: IpNetwork) -> bool {
        let holds = |allowed: &&IpNetwork| {
            allowed.contains(range.network()) && allowed.prefix() <= range.prefix()
        };
        self.allow_ranges.iter().find(holds).is_some()
    }

    /// Whether a domain, in lower case and without dots at its ends, may be taken although it is of the public DNS.
    pub(super) fn allow_domain(&self, domain: &str) -> bool {
        self.allow_domains.iter().any(|allowed| {
            let allowed = allowed.trim_matches('.').to_ascii_lowercase();
            let above = domain.strip_suffix(&allowed);
            above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_allowed_and_nothing_beside_it() {
        let text = "allow-ranges = [\"10.0.0.0/7\"]\nallow-domains = [\"Corp.example.\"]\n";
        let exceptions = Exceptions::parse(text).unwrap();
        for (range, allowed) in [
            ("10.0.0.0/7", true),
            ("11.0.0.0/8", true),
            ("8.0.0.0/7", false),
            ("8.0.0.0/6", false),
        ] {
            assert_eq!(
                exceptions.allow_range(range.parse().unwrap()),
                allowed,
                "{range}"
            );
        }
        for (domain, allowed) in [
            ("corp.example", true),
            ("a.corp.example", true),
            ("acorp.example", false),
            ("example", false),
        ] {
            assert_eq!(exceptions.allow_domain(domain), allowed, "{domain}");
        }
    }

    #[test]
    fn a_mistake_is_told_with_its_place() {
        let error = Exceptions::parse("allow-range = []\n")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("line 1") && error.contains("allow-ranges"),
            "{error}"
        );
        assert!(Exceptions::parse("allow-ranges = [\"10.0.0.0/99\"]").is_err());
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_may_write_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("helper.toml");
        assert_eq!(Exceptions::read(&path).unwrap(), Exceptions::default());
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        assert!(
            Exceptions::read(&path)
                .unwrap_err()
                .to_string()
                .contains("root")
        );
    }
}
