//! What a helper changed, written down before each change, for the case that it is killed.
//!
//! The interface, its addresses, routes and per-link DNS go by themselves when the last descriptor of the TUN is
//! closed; the journal is for what does not (resolv.conf), and for a TUN that a surviving agent still holds.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::os::platform::{
    DnsUndo, Process, SystemRoutes, forget, is_unfinished, keep, network_namespace, remove,
};
use crate::os::{Routes, Snapshot};

const PREFIX: &str = "journal-";
const SUFFIX: &str = ".json";

/// The journal of one helper, on disk since [`Journal::open`].
pub(super) struct Journal {
    path: PathBuf,
    entries: Entries,
}

/// What stands in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entries {
    helper: Process,
    /// The network namespace it worked in; another's files must not be taken for ours.
    namespace: String,
    interface: Option<Interface>,
    dns: Option<DnsUndo>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Interface {
    name: String,
    index: u32,
}

impl Journal {
    /// Begins a journal of this process in the state folder.
    pub(super) fn open(state: &Path) -> Result<Self> {
        let helper = Process::current()?;
        let path = state.join(format!("{PREFIX}{}{SUFFIX}", helper.session()));
        let entries = Entries {
            helper,
            namespace: network_namespace()?,
            interface: None,
            dns: None,
        };
        let journal = Self { path, entries };
        journal.write()?;
        Ok(journal)
    }

    /// Names what this helper keeps for a crash.
    pub(super) fn session(&self) -> String {
        self.entries.helper.session()
    }

    /// Notes the interface.
    pub(super) fn record_interface(&mut self, name: &str, index: u32) -> Result<()> {
        self.entries.interface = Some(Interface {
            name: name.to_owned(),
            index,
        });
        self.write()
    }

    /// Notes how DNS is undone.
    pub(super) fn record_dns(&mut self, undo: &DnsUndo) -> Result<()> {
        self.entries.dns = Some(undo.clone());
        self.write()
    }

    /// Everything is undone.
    pub(super) fn close(&self) -> Result<()> {
        forget(&self.path)
    }

    fn write(&self) -> Result<()> {
        keep(
            &self.path,
            &serde_json::to_vec_pretty(&self.entries)
                .context("the journal cannot be written as JSON")?,
        )
    }
}

/// Undoes what dead helpers of this network namespace left. Returns what was undone, one text each.
pub(super) async fn undo_leftovers(state: &Path) -> Result<Vec<String>> {
    let dead = dead_journals(state, &network_namespace()?)?;
    if dead.is_empty() {
        return Ok(Vec::new());
    }
    let system = SystemRoutes::open()?;
    let mut undone = Vec::new();
    for journal in dead {
        undone.extend(undo(&journal, &system).await?);
        journal.close()?;
    }
    Ok(undone)
}

async fn undo(journal: &Journal, system: &SystemRoutes) -> Result<Vec<String>> {
    let Entries {
        helper,
        interface,
        dns,
        ..
    } = &journal.entries;
    let mut texts = Vec::new();
    if let Some(dns) = dns {
        let notes = dns
            .undo()
            .with_context(|| format!("DNS from before helper {} cannot be put back", helper.pid))?;
        if notes.is_empty() {
            texts.push(format!(
                "put the DNS settings back that helper {} had left when it was killed",
                helper.pid
            ));
        }
        texts.extend(notes);
    }
    if let Some(interface) = interface
        && stands(interface, &system.snapshot().await?)
    {
        system.delete_link(interface.index).await?;
        texts.push(format!(
            "removed the interface {} that helper {} had left",
            interface.name, helper.pid
        ));
    }
    Ok(texts)
}

fn stands(interface: &Interface, snapshot: &Snapshot) -> bool {
    snapshot.links.get(&interface.index) == Some(&interface.name)
}

/// Journals whose helper is dead and whose changes can only be seen, and undone, from here. Removes what a helper was
/// writing when it was killed: that was never in force.
fn dead_journals(state: &Path, namespace: &str) -> Result<Vec<Journal>> {
    let Ok(folder) = fs::read_dir(state) else {
        return Ok(Vec::new());
    };
    let mut journals = Vec::new();
    for file in folder {
        let path = file
            .with_context(|| format!("{} cannot be listed", state.display()))?
            .path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if is_unfinished(&path) {
            remove_unless_alive(&path, &name)?;
        } else if name.starts_with(PREFIX) && name.ends_with(SUFFIX) {
            journals.extend(read(path, namespace)?);
        }
    }
    Ok(journals)
}

/// The journal, unless its helper lives or worked elsewhere.
fn read(path: PathBuf, namespace: &str) -> Result<Option<Journal>> {
    let content = fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))?;
    let mut entries: Entries = serde_json::from_slice(&content)
        .with_context(|| format!("{} is no journal of kvpn; remove it", path.display()))?;
    if !entries.helper.is_of_this_boot() {
        // The power went: interfaces with it, files not.
        entries.interface = None;
    } else if entries.helper.is_alive() || entries.namespace != namespace {
        return Ok(None);
    }
    Ok(Some(Journal { path, entries }))
}

/// The session stands between the first dash and the first dot after it, whatever is kept.
fn remove_unless_alive(path: &Path, name: &str) -> Result<()> {
    let session = name
        .split_once('-')
        .and_then(|(_, rest)| rest.split('.').next());
    if session.is_some_and(Process::session_is_alive) {
        Ok(())
    } else {
        remove(path)
    }
}

#[cfg(test)]
mod tests {
    use super::{Entries, Journal, PREFIX, SUFFIX, dead_journals};
    use crate::os::platform::{Process, keep, network_namespace};

    /// In a folder of its own, as the helper makes it.
    fn folder() -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("kvpn");
        (folder, state)
    }

    fn write(state: &std::path::Path, helper: Process, namespace: &str) {
        let path = state.join(format!("{PREFIX}{}{SUFFIX}", helper.session()));
        let entries = Entries {
            helper,
            namespace: namespace.to_owned(),
            interface: None,
            dns: None,
        };
        keep(&path, &serde_json::to_vec(&entries).unwrap()).unwrap();
    }

    #[test]
    #[cfg_attr(windows, ignore = "wine keeps no owners of folders")]
    fn only_dead_helpers_of_this_namespace_are_undone() {
        let (_folder, state) = folder();
        let alive = Process::current().unwrap();
        let dead = Process {
            start_time: 1,
            ..alive.clone()
        };
        let elsewhere = Process {
            start_time: 2,
            ..alive.clone()
        };
        write(&state, alive, "net:[1]");
        write(&state, dead.clone(), "net:[1]");
        write(&state, elsewhere, "net:[2]");
        let found = dead_journals(&state, "net:[1]").unwrap();
        assert_eq!(
            found
                .iter()
                .map(|journal| &journal.entries.helper)
                .collect::<Vec<_>>(),
            [&dead]
        );
    }

    // Elsewhere start times tell boots apart.
    #[cfg(unix)]
    #[test]
    fn after_a_power_cut_every_journal_is_undone_but_no_interface_removed() {
        let state = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(state.path()).unwrap();
        journal.entries.helper.boot = "another".to_owned();
        journal.record_interface("kvpn0", 7).unwrap();
        let found = dead_journals(state.path(), "net:[9]").unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].entries.interface, None);
    }

    #[test]
    fn what_a_killed_helper_was_writing_goes_and_a_living_ones_stays() {
        let state = tempfile::tempdir().unwrap();
        let alive = Process::current().unwrap();
        let dead = Process {
            start_time: 1,
            ..alive.clone()
        };
        let file = |name: String| {
            let path = state.path().join(name);
            std::fs::write(&path, "{").unwrap();
            path
        };
        let gone = [
            file(format!("{PREFIX}{}{SUFFIX}.new", dead.session())),
            file(format!("resolv.conf-{}.new", dead.session())),
        ];
        let kept = [
            file(format!("{PREFIX}{}{SUFFIX}.new", alive.session())),
            file(format!("resolv.conf-{}", dead.session())),
        ];
        assert!(dead_journals(state.path(), "net:[1]").unwrap().is_empty());
        assert!(gone.iter().all(|path| !path.exists()) && kept.iter().all(|path| path.exists()));
    }

    #[test]
    fn a_closed_journal_is_gone_and_a_missing_folder_is_none() {
        let state = tempfile::tempdir().unwrap();
        let inner = state.path().join("kvpn");
        assert!(dead_journals(&inner, "net:[1]").unwrap().is_empty());
        let journal = Journal::open(&inner).unwrap();
        assert!(
            dead_journals(&inner, &network_namespace().unwrap())
                .unwrap()
                .is_empty()
        );
        journal.close().unwrap();
        assert_eq!(std::fs::read_dir(&inner).unwrap().count(), 0);
    }
}
