//! Files of resolver(5): one a domain, which names the servers that are asked for the names under it, and one more whose
//! `search` line completes short names.
//!
//! Must not touch a file that is not kvpn's: the first line says whose it is.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::os::DnsConfig;

/// First words of our files; the session's name follows.
const OURS: &str = "# Made by kvpn, removed by it: session ";
const PORT: u16 = 53;

/// The files of one session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Files {
    folder: PathBuf,
    session: String,
    names: BTreeSet<String>,
}

impl Files {
    /// None yet.
    pub(crate) fn new(folder: &Path, session: &str) -> Self {
        Self {
            folder: folder.to_owned(),
            session: session.to_owned(),
            names: BTreeSet::new(),
        }
    }

    /// Becomes the files that these settings take; gives those back that are not needed any more.
    pub(crate) fn replace_by(&mut self, dns: &DnsConfig) -> Self {
        let domains = dns.search.iter().chain(&dns.routing).cloned();
        let names: BTreeSet<String> = domains.chain([self.search_file()]).collect();
        let former = std::mem::replace(&mut self.names, names);
        Self {
            names: former.difference(&self.names).cloned().collect(),
            ..self.clone()
        }
    }

    /// Both.
    #[cfg(target_os = "macos")]
    pub(crate) fn with(&self, other: &Self) -> Self {
        let mut both = self.clone();
        both.names.extend(other.names.iter().cloned());
        both
    }

    /// Writes all of them. Returns what the user should know: those that are somebody else's stay.
    pub(crate) fn write(&self, dns: &DnsConfig) -> Result<Vec<String>> {
        fs::create_dir_all(&self.folder)
            .with_context(|| format!("{} cannot be made", self.folder.display()))?;
        let mut notes = Vec::new();
        for name in &self.names {
            let path = self.folder.join(name);
            if !self.is_ours(&path).unwrap_or(true) {
                notes.push(format!(
                    "{} is not kvpn's and stays as it is",
                    path.display()
                ));
                continue;
            }
            fs::write(&path, self.text(name, dns))
                .with_context(|| format!("{} cannot be written", path.display()))?;
        }
        Ok(notes)
    }

    /// Removes those that are still ours.
    pub(crate) fn remove(&self) -> Result<Vec<String>> {
        for name in &self.names {
            let path = self.folder.join(name);
            if self.is_ours(&path) == Some(true) {
                fs::remove_file(&path)
                    .with_context(|| format!("{} cannot be removed", path.display()))?;
            }
        }
        Ok(Vec::new())
    }

    fn search_file(&self) -> String {
        format!("search.kvpn-{}", self.session)
    }

    fn text(&self, name: &str, dns: &DnsConfig) -> String {
        let mut text = format!("{OURS}{}\n", self.session);
        if *name == self.search_file() {
            text += &format!("search {}\n", dns.search.join(" "));
            return text;
        }
        for server in &dns.servers {
            text += &format!("nameserver {server}\n");
        }
        text
    }

    /// `None`: there is no such file.
    fn is_ours(&self, path: &Path) -> Option<bool> {
        match fs::read_to_string(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(_) => Some(false),
            Ok(text) => Some(session_of(&text) == Some(self.session.as_str())),
        }
    }
}

fn session_of(text: &str) -> Option<&str> {
    text.lines().next()?.strip_prefix(OURS)
}

/// A file in the folder whose session is no more.
pub(crate) fn orphaned(folder: &Path, is_alive: impl Fn(&str) -> bool) -> Option<PathBuf> {
    let files = fs::read_dir(folder).ok()?;
    let mut paths = files.filter_map(|file| Some(file.ok()?.path()));
    paths.find(|path| {
        let text = fs::read_to_string(path).unwrap_or_default();
        session_of(&text).is_some_and(|session| !is_alive(session))
    })
}

/// The servers that a resolv.conf names.
pub(crate) fn nameservers(text: &str) -> Vec<SocketAddr> {
    let words = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"));
    let addresses = words.filter_map(|word| word.trim().parse::<IpAddr>().ok());
    addresses
        .map(|address| SocketAddr::new(address, PORT))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(domains: &[&str]) -> DnsConfig {
        DnsConfig {
            servers: vec!["198.19.0.3".parse().unwrap()],
            search: vec!["shop.svc.cluster.local".to_owned()],
            routing: domains.iter().map(|&domain| domain.to_owned()).collect(),
        }
    }

    fn set(files: &mut Files, dns: &DnsConfig) -> Vec<String> {
        files.replace_by(dns).remove().unwrap();
        files.write(dns).unwrap()
    }

    fn there(folder: &Path) -> BTreeSet<String> {
        let files = fs::read_dir(folder).unwrap();
        files
            .map(|file| file.unwrap().file_name().to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn each_domain_has_a_file_and_all_go() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = Files::new(folder.path(), "7-1-ab");
        set(&mut files, &names(&["cluster.local", "svc"]));
        set(&mut files, &names(&["cluster.local", "billing"]));
        let expected = [
            "billing",
            "cluster.local",
            "search.kvpn-7-1-ab",
            "shop.svc.cluster.local",
        ];
        assert_eq!(there(folder.path()), expected.map(str::to_owned).into());
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        assert!(read("cluster.local").ends_with("7-1-ab\nnameserver 198.19.0.3\n"));
        assert!(read("search.kvpn-7-1-ab").ends_with("\nsearch shop.svc.cluster.local\n"));
        files.remove().unwrap();
        assert!(there(folder.path()).is_empty());
    }

    #[test]
    fn what_others_wrote_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cluster.local");
        fs::write(&path, "nameserver 10.0.0.1\n").unwrap();
        let mut files = Files::new(folder.path(), "7-1-ab");
        let notes = set(&mut files, &names(&["cluster.local"]));
        assert!(
            notes[0].contains("cluster.local is not kvpn's"),
            "{notes:?}"
        );
        files.remove().unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), "nameserver 10.0.0.1\n");
    }

    #[test]
    fn files_of_a_dead_session_are_seen() {
        let folder = tempfile::tempdir().unwrap();
        set(&mut Files::new(folder.path(), "7-1-ab"), &names(&[]));
        assert!(orphaned(folder.path(), |session| session == "7-1-ab").is_none());
        assert!(orphaned(folder.path(), |_| false).is_some());
    }

    #[test]
    fn servers_of_a_resolv_conf() {
        let servers = nameservers("# x\nsearch a\nnameserver 192.168.1.1\nnameserver fe80::zz\n");
        assert_eq!(servers, ["192.168.1.1:53".parse().unwrap()]);
    }
}
