//! What stands in a rule of the Name Resolution Policy Table (MS-GPNRPT 2.2.2), as text.
//!
//! Pure, so that it is tested on every system. Must not judge domains, nor know where rules are kept.

use crate::os::DnsConfig;

/// Domains that one rule takes; with more, Windows heeds none.
const DOMAINS: usize = 50;
/// What comments of ours begin with.
const MARK: &str = "kvpn session ";

/// The domains of each rule: a dot before each, those with which names are completed among them.
pub(super) fn domains(dns: &DnsConfig) -> Vec<Vec<String>> {
    let mut domains: Vec<String> = (dns.search.iter().chain(&dns.routing))
        .map(|domain| format!(".{}", domain.trim_matches('.')))
        .collect();
    domains.sort();
    domains.dedup();
    domains.chunks(DOMAINS).map(<[String]>::to_vec).collect()
}

/// The servers of each rule.
pub(super) fn servers(dns: &DnsConfig) -> String {
    let servers: Vec<String> = dns.servers.iter().map(ToString::to_string).collect();
    servers.join(";")
}

/// The comment of a session's rules.
pub(super) fn comment(session: &str) -> String {
    format!("{MARK}{session}")
}

/// The session that a comment names, if the rule is one's.
pub(super) fn session(comment: &str) -> Option<&str> {
    comment.strip_prefix(MARK)
}

/// A GUID of random bits (RFC 9562, version 4), as keys of the registry are called.
pub(super) fn guid(random: u128) -> String {
    let bits = random & !(0xf << 76) & !(3 << 62) | (4 << 76) | (2 << 62);
    let digits = format!("{bits:032X}");
    let ends = [0, 8, 12, 16, 20, 32];
    let parts: Vec<&str> = ends.windows(2).map(|at| &digits[at[0]..at[1]]).collect();
    format!("{{{}}}", parts.join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_has_few_domains_and_each_domain_one_rule() {
        let routing: Vec<String> = (0..120).map(|number| format!("ns{number}")).collect();
        let dns = DnsConfig {
            servers: vec!["198.19.0.3".parse().unwrap(), "fd00::3".parse().unwrap()],
            search: vec!["shop.svc.cluster.local".to_owned()],
            routing: [routing, vec!["shop.svc.cluster.local.".to_owned()]].concat(),
        };
        let rules = domains(&dns);
        let lengths: Vec<usize> = rules.iter().map(Vec::len).collect();
        assert_eq!(lengths, [50, 50, 21]);
        assert!(rules.concat().iter().all(|domain| domain.starts_with('.')));
        assert_eq!(servers(&dns), "198.19.0.3;fd00::3");
        assert!(domains(&DnsConfig::default()).is_empty());
    }

    #[test]
    fn a_rule_is_known_by_its_comment() {
        assert_eq!(session(&comment("12-34")), Some("12-34"));
        assert_eq!(session("somebody else's"), None);
    }

    #[test]
    fn guids_have_their_form() {
        assert_eq!(guid(0), "{00000000-0000-4000-8000-000000000000}");
        assert_eq!(guid(u128::MAX), "{FFFFFFFF-FFFF-4FFF-BFFF-FFFFFFFFFFFF}");
    }
}
