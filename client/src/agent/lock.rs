//! One agent a session: a lock file that the living agent holds, with who it is inside.
//!
//! The kernel drops the lock when the process ends, however it ends; the file may stay behind.

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use kvpn_k8s::Cluster;
use serde::{Deserialize, Serialize};

use crate::os::hold;
use crate::os::platform::Process;

/// Who holds a session. Enough to show one whose agent is dead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Holder {
    /// The agent.
    pub(crate) process: Process,
    /// The kubeconfig's context.
    pub(crate) context: String,
    /// The connected namespace.
    pub(crate) namespace: String,
    /// The API server's URL.
    pub(crate) server: String,
    /// The Service of an exposure.
    #[serde(default)]
    pub(crate) service: Option<String>,
    /// The fingerprint of an exposure's session: who comes after a dead one may take its place.
    #[serde(default)]
    pub(crate) fingerprint: Option<String>,
}

impl Holder {
    /// This process, with a session of this cluster's connected namespace.
    ///
    /// # Errors
    ///
    /// The process cannot be looked at.
    pub(crate) fn of(cluster: &Cluster) -> anyhow::Result<Self> {
        Ok(Self {
            process: Process::current()?,
            context: cluster.context().to_owned(),
            namespace: cluster.namespace().to_owned(),
            server: cluster.server().to_owned(),
            service: None,
            fingerprint: None,
        })
    }
}

/// A lock that is held as long as this value lives.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    file: File,
}

impl Lock {
    /// Takes the lock; `None` when a living agent has it.
    ///
    /// # Errors
    ///
    /// The file cannot be used.
    pub(crate) fn take(path: PathBuf, holder: &Holder) -> anyhow::Result<Option<Self>> {
        let taken = Self::open(&path, holder)
            .with_context(|| format!("the lock {} cannot be taken", path.display()))?;
        Ok(taken.map(|file| Self { path, file }))
    }

    fn open(path: &Path, holder: &Holder) -> anyhow::Result<Option<File>> {
        let Some(file) = hold::hold(path)? else {
            return Ok(None);
        };
        write(&file, holder)?;
        Ok(Some(file))
    }

    /// Says anew who holds it.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub(crate) fn note(&self, holder: &Holder) -> anyhow::Result<()> {
        write(&self.file, holder)
            .with_context(|| format!("the lock {} cannot be written", self.path.display()))
    }

    /// Whether who looks for the lock finds this one: its file may have been removed, and another one made.
    pub(crate) fn stands(&self) -> bool {
        hold::is_at(&self.file, &self.path)
    }

    /// Ends the lock and removes its file.
    pub(crate) fn release(self) {
        // Removed while still held: whoever opens the path now gets a new file.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn write(mut file: &File, holder: &Holder) -> anyhow::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(&serde_json::to_vec(holder)?)?;
    Ok(())
}

/// What a lock file tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Held {
    /// There is none.
    Absent,
    /// Its agent lives; who it is, when that could be read.
    Alive(Option<Holder>),
    /// Its agent is dead.
    Dead(Option<Holder>),
}

/// Looks at a lock without disturbing it for longer than that.
pub(crate) fn look(path: &Path) -> Held {
    let Ok((text, is_held)) = hold::read(path) else {
        return Held::Absent;
    };
    let holder = serde_json::from_slice(&text).ok();
    if is_held {
        Held::Alive(holder)
    } else {
        Held::Dead(holder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder() -> Holder {
        let process = Process::current().unwrap();
        Holder {
            process,
            context: "c".into(),
            namespace: "n".into(),
            server: "s".into(),
            service: None,
            fingerprint: None,
        }
    }

    #[test]
    fn a_second_agent_does_not_get_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.lock");
        assert_eq!(look(&path), Held::Absent);
        let lock = Lock::take(path.clone(), &holder()).unwrap().unwrap();
        assert!(Lock::take(path.clone(), &holder()).unwrap().is_none());
        assert_eq!(look(&path), Held::Alive(Some(holder())));
        lock.release();
        assert_eq!(look(&path), Held::Absent);
    }

    #[test]
    fn a_dead_agents_lock_is_taken_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.lock");
        drop(Lock::take(path.clone(), &holder()).unwrap().unwrap());
        assert_eq!(look(&path), Held::Dead(Some(holder())));
        let lock = Lock::take(path.clone(), &holder()).unwrap().unwrap();
        let named = Holder {
            fingerprint: Some("f".into()),
            ..holder()
        };
        lock.note(&named).unwrap();
        assert_eq!(look(&path), Held::Alive(Some(named)));
    }
}
