//! All names through the stub by `/etc/resolv.conf`, where nothing can split: the agent forwards what is not the
//! cluster's to the servers that the file named before ([`Dns::upstreams`]).
//!
//! The file before is kept durably before it is touched, and comes back byte for byte. A regular file is written in
//! place: it keeps its inode, owner, mode and label, and a bind mount (containers, `ip netns exec`) is no special
//! case. A symbolic link is replaced by a file and comes back as the link; what it points to belongs to someone else
//! and is never written, unless something is mounted there.
//!
//! What another program writes there meanwhile becomes the file before, and ours is written again ([`Dns::mend`]). So
//! nothing of others is ever lost, whoever wrote last. A link's target that changes is followed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use futures::FutureExt;
use futures::future::{LocalBoxFuture, pending};
use kvpn_wire::range;
use serde::{Deserialize, Serialize};

use super::durable::{forget, keep, remove};
use super::inotify::FileChanges;
use super::process::Process;
use crate::os::linux::DnsUndo;
use crate::os::{Dns, DnsConfig, Record, Taken};

mod file;
#[cfg(test)]
mod tests;
pub(super) mod text;

pub(super) use text::nameservers;

/// What undoes the change of the file, also by another process after a crash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Saved {
    /// The path that programs read.
    path: PathBuf,
    /// What stood there.
    before: Before,
    /// Whose change it is; stands in the file's first line.
    session: String,
    /// What kvpn wrote, or was about to; the newest last.
    written: Vec<String>,
}

/// What stood at the path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Before {
    /// A regular file, reached through links or not, which is written in place.
    File {
        /// The file itself.
        target: PathBuf,
        /// Its content.
        backup: PathBuf,
    },
    /// A symbolic link, which is replaced.
    Link {
        /// What it says, unresolved.
        target: PathBuf,
    },
    /// Nothing.
    Nothing,
}

/// The backend that writes the file.
pub(super) struct ResolvConf {
    saved: Saved,
    /// Where the file's content from before is kept.
    state: PathBuf,
    /// The file from before.
    content: Vec<u8>,
    upstreams: Vec<SocketAddr>,
    /// What was set last.
    dns: Option<DnsConfig>,
    changes: Option<FileChanges>,
}

impl ResolvConf {
    /// Looks at the file and keeps its content in the state folder.
    ///
    /// # Errors
    /// [`Taken`]: another session has it, or its owner is dead and was not undone; or it cannot be read.
    pub(super) fn open(path: PathBuf, state: &Path, session: &str) -> Result<Self> {
        let content = file::read(&path)?.unwrap_or_default();
        if let Some(other) = text::session_of(&content) {
            bail!(Taken(format!(
                "{} belongs to the kvpn session of helper {other}, and with a plain resolv.conf one session at a time \
                 can serve names",
                path.display()
            )));
        }
        let before = file::look(&path, state, session)?;
        Ok(Self {
            saved: Saved {
                path,
                before,
                session: session.to_owned(),
                written: Vec::new(),
            },
            state: state.to_owned(),
            upstreams: text::nameservers_or_default(&content),
            content,
            dns: None,
            changes: None,
        })
    }

    /// Writes what is to be set, whoever wrote last.
    fn apply(&mut self, dns: &DnsConfig, record: Record<'_>) -> Result<()> {
        let current = file::read(&self.saved.path)?;
        if !self.saved.written.is_empty() && !self.saved.is_ours(current.as_deref()) {
            self.adopt(current)?;
        }
        self.write(dns, record)
    }

    /// What stands there now is another program's: it is what comes back in the end.
    fn adopt(&mut self, current: Option<Vec<u8>>) -> Result<()> {
        let path = &self.saved.path;
        if let Some(other) = current.as_deref().and_then(text::session_of) {
            bail!(Taken(format!(
                "{} belongs to the kvpn session of helper {other} now",
                path.display()
            )));
        }
        // A crash from here to the next record finds nothing to undo, and the file is not ours.
        if let Before::File { backup, .. } = &self.saved.before {
            forget(backup)?;
        }
        self.saved.before = file::look(path, &self.state, &self.saved.session)?;
        self.saved.written.clear();
        self.follow(current.unwrap_or_default());
        Ok(())
    }

    /// Takes a newer content for the file from before. Without servers, as while a network comes up, the former ones stay.
    fn follow(&mut self, content: Vec<u8>) {
        let mut servers = nameservers(&content);
        // Programs that begin with what they find there find our stub.
        servers.retain(|server| !range::is_tunnel(server.ip()));
        if !servers.is_empty() {
            self.upstreams = servers;
        }
        self.content = content;
    }

    fn check(&mut self, record: Record<'_>) -> Result<bool> {
        let Some(dns) = self.dns.clone() else {
            return Ok(false);
        };
        let current = file::read(&self.saved.path)?;
        if !self.saved.is_ours(current.as_deref()) {
            tracing::info!(path = %self.saved.path.display(), "another program wrote it: kvpn's names are set again");
            self.adopt(current)?;
            self.write(&dns, record)?;
            return Ok(true);
        }
        if let Some(target) = self.saved.link_target()
            && let Some(content) = file::read(&target)?
            && content != self.content
        {
            self.follow(content);
            self.write(&dns, record)?;
        }
        Ok(false)
    }

    async fn changed(&mut self) {
        if self.changes.is_none() {
            self.changes = FileChanges::open()
                .inspect_err(|error| tracing::info!(%error, "resolv.conf is not watched"))
                .ok();
        }
        let Some(changes) = &mut self.changes else {
            return pending().await;
        };
        changes.watch_file(&self.saved.path);
        if let Some(target) = self.saved.link_target() {
            changes.watch_file(&target);
        }
        if let Err(error) = changes.next().await {
            tracing::warn!(%error, "resolv.conf is no longer watched");
            pending().await
        }
    }

    fn write(&mut self, dns: &DnsConfig, record: Record<'_>) -> Result<()> {
        let text = text::compose(
            dns,
            &self.content,
            &self.saved.session,
            &self.saved.recipe(),
        );
        let first = self.saved.written.is_empty();
        self.saved.written.push(text.clone());
        (record.0)(&DnsUndo::ResolvConf(self.saved.clone()))?;
        // The backup comes after the record and goes last: without it there is nothing to undo.
        if let (true, Before::File { backup, .. }) = (first, &self.saved.before) {
            keep(backup, &self.content)?;
        }
        self.saved.write(&text)?;
        self.saved.written = vec![text];
        (record.0)(&DnsUndo::ResolvConf(self.saved.clone()))?;
        self.dns = Some(dns.clone());
        Ok(())
    }
}

impl Dns for ResolvConf {
    fn backend(&self) -> &'static str {
        "resolv.conf"
    }

    fn splits(&self) -> bool {
        false
    }

    fn upstreams(&self) -> Vec<SocketAddr> {
        self.upstreams.clone()
    }

    fn set<'a>(
        &'a mut self,
        dns: &'a DnsConfig,
        record: Record<'a>,
    ) -> LocalBoxFuture<'a, Result<Vec<String>>> {
        async move { self.apply(dns, record).map(|()| Vec::new()) }.boxed_local()
    }

    fn disturbed(&mut self) -> LocalBoxFuture<'_, ()> {
        self.changed().boxed_local()
    }

    fn mend<'a>(&'a mut self, record: Record<'a>) -> LocalBoxFuture<'a, Result<bool>> {
        async move { self.check(record) }.boxed_local()
    }

    fn revert(&mut self) -> LocalBoxFuture<'_, Result<Vec<String>>> {
        async move { self.saved.restore() }.boxed_local()
    }
}

impl Saved {
    /// Puts the file back, unless others changed it. May be called again, and after a crash at any point.
    ///
    /// # Errors
    /// The file or its backup cannot be read or written; then the backup stays.
    pub(super) fn restore(&self) -> Result<Vec<String>> {
        let notes = match &self.before {
            Before::File { target, backup } => self.restore_file(target, backup)?,
            Before::Link { target } => self.restore_link(target)?,
            Before::Nothing => self.restore_nothing()?,
        };
        remove(&file::temporary(&self.path, &self.session))?;
        if let Before::File { backup, .. } = &self.before {
            forget(backup)?;
        }
        Ok(notes)
    }

    fn restore_file(&self, target: &Path, backup: &Path) -> Result<Vec<String>> {
        let Some(original) = file::read(backup)? else {
            // The backup goes last: it is gone because the file is back already, or because it was never changed.
            return Ok(Vec::new());
        };
        let Some(current) = file::read(target)? else {
            return Ok(vec![self.changed_by_others("it was left as it is")]);
        };
        if current == original {
            return Ok(Vec::new());
        }
        let mut versions: Vec<&[u8]> = self.written.iter().map(|text| text.as_bytes()).collect();
        versions.push(&original);
        let known = versions
            .iter()
            .any(|new| versions.iter().any(|old| is_blend(&current, new, old)));
        if !known && !self.is_ours(Some(&current)) {
            return Ok(vec![self.changed_by_others("it was left as it is")]);
        }
        file::write_in_place(target, &original)?;
        Ok(if known {
            Vec::new()
        } else {
            vec![self.edit_lost()]
        })
    }

    fn restore_link(&self, target: &Path) -> Result<Vec<String>> {
        match std::fs::read_link(&self.path) {
            Ok(current) if current == target => return Ok(Vec::new()),
            Ok(_) => return Ok(vec![self.changed_by_others("it was left as it is")]),
            Err(_) => {}
        }
        let current = file::read(&self.path)?;
        if current.is_some() && !self.is_ours(current.as_deref()) {
            return Ok(vec![self.changed_by_others("it was left as it is")]);
        }
        file::replace_by_link(&self.path, target, &self.session)?;
        let edited = current.is_some_and(|current| {
            self.written
                .iter()
                .all(|written| current != written.as_bytes())
        });
        Ok(if edited {
            vec![self.edit_lost()]
        } else {
            Vec::new()
        })
    }

    fn restore_nothing(&self) -> Result<Vec<String>> {
        let current = file::read(&self.path)?;
        if current.is_some() && !self.is_ours(current.as_deref()) {
            return Ok(vec![self.changed_by_others("it was left as it is")]);
        }
        remove(&self.path)?;
        Ok(Vec::new())
    }

    fn write(&self, text: &str) -> Result<()> {
        match &self.before {
            Before::File { target, .. } => file::write_in_place(target, text.as_bytes()),
            Before::Link { .. } | Before::Nothing => {
                file::replace(&self.path, text.as_bytes(), &self.session)
            }
        }
    }

    /// Where the link that we replaced leads to.
    fn link_target(&self) -> Option<PathBuf> {
        match &self.before {
            Before::Link { target } => Some(self.path.parent()?.join(target)),
            Before::File { .. } | Before::Nothing => None,
        }
    }

    /// Whether the file still sends names to our stub: what we wrote, or what others made of it. Without us such a
    /// file leads nowhere.
    fn is_ours(&self, current: Option<&[u8]>) -> bool {
        current
            .and_then(text::session_of)
            .is_some_and(|session| session == self.session)
    }

    fn edit_lost(&self) -> String {
        format!(
            "{} was edited while kvpn's stub stood in it; it led nowhere without kvpn, so the file from before came \
             back and the edit is lost",
            self.path.display()
        )
    }

    fn changed_by_others(&self, consequence: &str) -> String {
        format!(
            "{} was changed by another program after kvpn wrote it; {consequence}",
            self.path.display()
        )
    }

    /// How a user gets the file back by hand.
    fn recipe(&self) -> String {
        match &self.before {
            Before::File { target, backup } => {
                format!("cat {} > {}", backup.display(), target.display())
            }
            Before::Link { target } => {
                format!("ln -sfn {} {}", target.display(), self.path.display())
            }
            Before::Nothing => format!("rm {}", self.path.display()),
        }
    }
}

/// Whether `current` is what a crash leaves while `new` is written over `old`: the one up to some byte, then the other.
fn is_blend(current: &[u8], new: &[u8], old: &[u8]) -> bool {
    let same = current
        .iter()
        .zip(new)
        .take_while(|(current, new)| current == new)
        .count();
    same == current.len() || old.get(same..) == Some(&current[same..])
}

/// Text for the user when the file belongs to a helper that is dead.
pub(super) fn orphaned(path: &Path) -> Option<String> {
    let content = file::read(path).ok().flatten()?;
    let session = text::session_of(&content)?;
    (!Process::session_is_alive(session)).then(|| {
        format!(
            "{} still points to the DNS stub of a kvpn helper that died ({session})",
            path.display()
        )
    })
}
