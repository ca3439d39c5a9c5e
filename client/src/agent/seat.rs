//! Where commands find a session: its lock and its control socket. The directories that they are in may be emptied meanwhile (a logout
//! removes the user's /run, people tidy up): then both are made again as soon as that works.
//!
//! Must not know what is said over the socket.

use std::io;
use std::time::Duration;

use anyhow::Context as _;

use crate::agent::lock::{Holder, Lock};
use crate::agent::places::{Places, SessionName};
use crate::agent::transport::{self, Listener, Stream};

/// How often is looked whether lock and socket are where they are looked for.
const LOOK: Duration = Duration::from_secs(5);

/// A session's lock and socket.
#[derive(Debug)]
pub(crate) struct Seat {
    places: Places,
    name: SessionName,
    holder: Holder,
    lock: Lock,
    listener: Listener,
}

/// Another agent has the session's name, since this one could not be found.
#[derive(Debug, thiserror::Error)]
#[error("another kvpn took the name of this session, whose files had vanished")]
pub(crate) struct Usurped;

impl Seat {
    /// Takes lock and socket in directories that are there; `None` when another agent has them.
    ///
    /// # Errors
    ///
    /// The user's directories cannot be used.
    pub(crate) fn take(
        places: &Places,
        name: &SessionName,
        holder: Holder,
    ) -> anyhow::Result<Option<Self>> {
        let Some(lock) = Lock::take(places.lock(name), &holder)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            listener: listen(places, name)?,
            places: places.clone(),
            name: name.clone(),
            holder,
            lock,
        }))
    }

    /// Says that this is the exposure of the session with this fingerprint.
    ///
    /// # Errors
    ///
    /// The lock's file cannot be written.
    pub(crate) fn note(&mut self, fingerprint: &str) -> anyhow::Result<()> {
        self.holder.fingerprint = Some(fingerprint.to_owned());
        self.lock.note(&self.holder)
    }

    /// Waits for the next connection. May be cancelled.
    ///
    /// # Errors
    ///
    /// A connection was lost.
    pub(crate) async fn accept(&mut self) -> Result<io::Result<Stream>, Usurped> {
        loop {
            tokio::select! {
                accepted = self.listener.accept() => return Ok(accepted.map(|(stream, _)| stream)),
                () = tokio::time::sleep(LOOK) => self.return_to_place()?,
            }
        }
    }

    fn return_to_place(&mut self) -> Result<(), Usurped> {
        if self.stands() {
            return Ok(());
        }
        match self.take_again() {
            Ok(true) => tracing::info!("the session's files had vanished, and are there again"),
            Ok(false) => return Err(Usurped),
            Err(error) => tracing::debug!(
                error = format!("{error:#}"),
                "the session's files have vanished"
            ),
        }
        Ok(())
    }

    fn take_again(&mut self) -> anyhow::Result<bool> {
        self.places.create()?;
        if !self.lock.stands() {
            let lock = Lock::take(self.places.lock(&self.name), &self.holder)?;
            let Some(lock) = lock else { return Ok(false) };
            self.lock = lock;
        }
        self.listener = listen(&self.places, &self.name)?;
        Ok(true)
    }

    fn stands(&self) -> bool {
        self.lock.stands() && self.places.socket(&self.name).exists()
    }

    /// Leaves nothing behind.
    pub(crate) fn leave(self) {
        if self.lock.stands() {
            let _ = std::fs::remove_file(self.places.socket(&self.name));
            self.lock.release();
        }
    }
}

/// The caller holds the session's lock, so a socket that is there already is a dead agent's.
fn listen(places: &Places, name: &SessionName) -> anyhow::Result<Listener> {
    let path = places.socket(name);
    transport::listen(&path)
        .with_context(|| format!("the control socket {} cannot be made", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::lock::{Held, look};
    use crate::os::platform::Process;

    struct Bench {
        _folder: tempfile::TempDir,
        places: Places,
        name: SessionName,
    }

    fn bench() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let places = Places::within(folder.path());
        places.create().unwrap();
        Bench {
            places,
            name: "dev.shop".parse().unwrap(),
            _folder: folder,
        }
    }

    impl Bench {
        fn take(&self) -> Option<Seat> {
            let holder = Holder {
                process: Process::current().unwrap(),
                context: "c".into(),
                namespace: "n".into(),
                server: "s".into(),
                service: None,
                fingerprint: None,
            };
            Seat::take(&self.places, &self.name, holder).unwrap()
        }

        fn remove_everything(&self) {
            std::fs::remove_dir_all(self.places.turn()).unwrap();
        }

        fn is_held(&self) -> bool {
            matches!(look(&self.places.lock(&self.name)), Held::Alive(_))
        }
    }

    #[tokio::test]
    #[cfg_attr(windows, ignore = "wine keeps files that are open")]
    async fn a_session_whose_files_vanish_is_found_again() {
        let bench = bench();
        let mut seat = bench.take().unwrap();
        seat.return_to_place().unwrap();
        bench.remove_everything();
        assert!(!bench.is_held());
        seat.return_to_place().unwrap();
        let path = bench.places.socket(&bench.name);
        let (found, accepted) = tokio::join!(transport::connect(&path), seat.accept());
        found.unwrap();
        accepted.unwrap().unwrap();
        assert!(bench.is_held());
        assert!(bench.take().is_none(), "nobody else gets it");
        seat.leave();
        assert_eq!(look(&bench.places.lock(&bench.name)), Held::Absent);
        assert!(!path.exists());
    }

    #[tokio::test]
    #[cfg_attr(windows, ignore = "wine keeps files that are open")]
    async fn who_took_the_place_meanwhile_keeps_it() {
        let bench = bench();
        let mut seat = bench.take().unwrap();
        bench.remove_everything();
        bench.places.create().unwrap();
        let other = bench.take().unwrap();
        assert!(seat.return_to_place().is_err());
        seat.leave();
        assert!(bench.is_held() && bench.places.socket(&bench.name).exists());
        other.leave();
    }
}
