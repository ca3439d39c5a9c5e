//! The Name Resolution Policy Table, by its registry keys: which domains go to which servers. And the list of domains with which an
//! interface completes names without a dot.
//!
//! A rule takes few domains, so there are several. Each has the session's name in its comment, by which it is found again, and is
//! volatile: it does not survive the machine. Where a group policy has rules, Windows heeds those alone: then ours are among them
//! too. Must not judge domains.

use anyhow::{Context as _, Result};
use rand::TryRng as _;
use rand::rngs::SysRng;
use serde::{Deserialize, Serialize};
use windows_registry::Key;
pub(super) use windows_registry::LOCAL_MACHINE as MACHINE;

use super::rule;
use crate::os::DnsConfig;

/// The machine's own rules, and those of group policies.
const LOCAL: &str = r"SYSTEM\CurrentControlSet\Services\Dnscache\Parameters\DnsPolicyConfig";
const POLICY: &str = r"SOFTWARE\Policies\Microsoft\Windows NT\DNSClient\DnsPolicyConfig";
/// Where the settings of interfaces are, one key a GUID.
const INTERFACES: [&str; 2] = [
    r"SYSTEM\CurrentControlSet\Services\Tcpip\Parameters\Interfaces",
    r"SYSTEM\CurrentControlSet\Services\Tcpip6\Parameters\Interfaces",
];
const SEARCH_LIST: &str = "SearchList";

/// MS-GPNRPT 2.2.2: the form of a rule.
const VERSION: u32 = 1;
/// MS-GPNRPT 2.2.2.13: `GenericDNSServers` counts.
const GENERIC_SERVERS: u32 = 8;
const COMMENT: &str = "Comment";

/// What a session leaves behind when it is killed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Traces {
    /// The name of the helper's process.
    pub(super) session: String,
    /// The GUID of the interface, in braces.
    pub(super) interface: String,
}

/// A session's rules.
#[derive(Debug)]
pub(super) struct Rules {
    traces: Traces,
    /// The names of their keys: GUIDs.
    keys: Vec<String>,
}

impl Rules {
    /// None are written yet.
    pub(super) fn new(traces: Traces) -> Self {
        Self {
            traces,
            keys: Vec::new(),
        }
    }

    /// What is to be removed if the process is killed.
    pub(super) fn traces(&self) -> &Traces {
        &self.traces
    }

    /// Makes the rules be these; a name that has one before and after is never without.
    pub(super) fn write(&mut self, root: &Key, dns: &DnsConfig) -> Result<()> {
        let rules = rule::domains(dns);
        // Not volatile itself: those of others could not be below it then.
        root.create(LOCAL)?;
        while self.keys.len() < rules.len() {
            self.keys.push(guid()?);
        }
        for (key, domains) in self.keys.iter().zip(&rules) {
            for base in bases(root) {
                self.write_rule(
                    root,
                    &format!(r"{base}\{key}"),
                    domains,
                    &rule::servers(dns),
                )
                .with_context(|| format!(r"the rule HKLM\{base}\{key} cannot be written"))?;
            }
        }
        for key in self.keys.split_off(rules.len()) {
            for base in [LOCAL, POLICY] {
                remove_key(root, &format!(r"{base}\{key}"))?;
            }
        }
        self.traces.search(root, &dns.search.join(","))
    }

    fn write_rule(&self, root: &Key, path: &str, domains: &[String], servers: &str) -> Result<()> {
        let mut options = root.options();
        let key = options.write().create().volatile().open(path)?;
        let domains: Vec<&str> = domains.iter().map(String::as_str).collect();
        key.set_string(COMMENT, rule::comment(&self.traces.session))?;
        key.set_u32("Version", VERSION)?;
        key.set_multi_string("Name", &domains)?;
        key.set_string("GenericDNSServers", servers)?;
        key.set_u32("ConfigOptions", GENERIC_SERVERS)?;
        Ok(())
    }
}

impl Traces {
    /// Removes them; nothing happens where they are gone. Rules of others stay, whatever is written here.
    pub(super) fn remove(&self, root: &Key) -> Result<()> {
        for (path, session) in ours(root) {
            if session == self.session {
                remove_key(root, &path)?;
            }
        }
        self.search(root, "")
    }

    /// Names without a dot get these domains; the interface's key is the system's, and goes with it.
    fn search(&self, root: &Key, domains: &str) -> Result<()> {
        for base in INTERFACES {
            let path = format!(r"{base}\{}", self.interface);
            let Ok(key) = root.options().read().write().open(&path) else {
                continue;
            };
            if domains.is_empty() && key.get_string(SEARCH_LIST).is_err() {
                continue;
            }
            key.set_string(SEARCH_LIST, domains)
                .with_context(|| format!(r"HKLM\{path} cannot be written"))?;
        }
        Ok(())
    }
}

/// The session of rules whose process is not there any more.
pub(super) fn orphaned(root: &Key, is_alive: impl Fn(&str) -> bool) -> Option<String> {
    let mut sessions = ours(root).into_iter().map(|(_, session)| session);
    sessions.find(|session| !is_alive(session))
}

/// The paths of rules of sessions, and which one's each is.
fn ours(root: &Key) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for base in [LOCAL, POLICY] {
        let Ok(rules) = root.open(base) else {
            continue;
        };
        let names = rules.keys().into_iter().flatten();
        found.extend(names.filter_map(|name| {
            let session = session_of(&rules.open(&name).ok()?)?;
            Some((format!(r"{base}\{name}"), session))
        }));
    }
    found
}

fn session_of(rule: &Key) -> Option<String> {
    let comment = rule.get_string(COMMENT).ok()?;
    rule::session(&comment).map(str::to_owned)
}

/// Where rules have to stand to be heeded.
fn bases(root: &Key) -> Vec<&'static str> {
    let mut bases = vec![LOCAL];
    if root.open(POLICY).is_ok() {
        bases.push(POLICY);
    }
    bases
}

/// Whether rules stand among those of group policies.
pub(super) fn has_policies() -> bool {
    MACHINE.open(POLICY).is_ok()
}

fn remove_key(root: &Key, path: &str) -> Result<()> {
    if root.open(path).is_err() {
        return Ok(());
    }
    root.remove_tree(path)
        .with_context(|| format!(r"HKLM\{path} cannot be removed"))
}

fn guid() -> Result<String> {
    let mut random = [0; 16];
    SysRng
        .try_fill_bytes(&mut random)
        .context("the system has no random numbers")?;
    Ok(rule::guid(u128::from_ne_bytes(random)))
}

#[cfg(test)]
mod tests {
    use windows_registry::CURRENT_USER;

    use super::*;

    /// What stands for the machine's keys, gone when dropped.
    struct Root(String, Key);

    impl Root {
        fn new(test: &str) -> Self {
            let path = format!(r"Software\kvpn-test-{}-{test}", std::process::id());
            let key = CURRENT_USER.create(&path).unwrap();
            Self(path, key)
        }

        fn names(&self, base: &str) -> Vec<String> {
            let rules = self.1.open(base).unwrap();
            rules.keys().unwrap().collect()
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = CURRENT_USER.remove_tree(&self.0);
        }
    }

    fn traces() -> Traces {
        Traces {
            session: "7-8".to_owned(),
            interface: "{0}".to_owned(),
        }
    }

    fn dns(domains: usize) -> DnsConfig {
        DnsConfig {
            servers: vec!["198.19.0.3".parse().unwrap()],
            search: vec!["shop.svc.cluster.local".to_owned()],
            routing: (1..domains).map(|number| format!("ns{number}")).collect(),
        }
    }

    #[test]
    fn rules_are_written_as_windows_reads_them_and_go_without_those_of_others() {
        let root = Root::new("rules");
        let others = root.1.create(format!(r"{LOCAL}\{{1}}")).unwrap();
        others.set_string(COMMENT, "somebody's").unwrap();
        let mut rules = Rules::new(traces());
        rules.write(&root.1, &dns(51)).unwrap();
        assert_eq!(root.names(LOCAL).len(), 3, "two, and the other's");
        let rule = root.1.open(format!(r"{LOCAL}\{}", rules.keys[1])).unwrap();
        assert_eq!(rule.get_u32("Version").unwrap(), 1);
        assert_eq!(rule.get_u32("ConfigOptions").unwrap(), 8);
        assert_eq!(rule.get_string("GenericDNSServers").unwrap(), "198.19.0.3");
        let names = rule.get_value("Name").unwrap();
        let text: Vec<u16> = ".shop.svc.cluster.local\0\0".encode_utf16().collect();
        assert_eq!(names.as_wide(), text);
        rules.write(&root.1, &dns(1)).unwrap();
        assert_eq!(root.names(LOCAL).len(), 2, "one was enough");
        assert_eq!(orphaned(&root.1, |_| false).as_deref(), Some("7-8"));
        assert_eq!(orphaned(&root.1, |session| session == "7-8"), None);
        rules.traces().remove(&root.1).unwrap();
        assert_eq!(root.names(LOCAL), ["{1}"]);
        rules.traces().remove(&root.1).unwrap();
    }

    #[test]
    fn where_group_policies_have_rules_ours_are_among_them() {
        let root = Root::new("policy");
        root.1.create(POLICY).unwrap();
        let mut rules = Rules::new(traces());
        rules.write(&root.1, &dns(1)).unwrap();
        assert_eq!(root.names(POLICY), root.names(LOCAL));
        rules.traces().remove(&root.1).unwrap();
        assert!(root.names(POLICY).is_empty() && root.names(LOCAL).is_empty());
    }

    #[test]
    fn the_interface_completes_names_for_as_long_as_the_session_lives() {
        let root = Root::new("search");
        let [path, _] = INTERFACES.map(|base| format!(r"{base}\{{0}}"));
        let interface = root.1.create(path).unwrap();
        let mut rules = Rules::new(traces());
        rules.write(&root.1, &dns(1)).unwrap();
        root.1.create(format!(r"{LOCAL}\{{2}}")).unwrap();
        let list = || interface.get_string(SEARCH_LIST).unwrap();
        assert_eq!(list(), "shop.svc.cluster.local");
        rules.traces().remove(&root.1).unwrap();
        assert_eq!(list(), "");
    }
}
