//! Word that files were written, replaced or removed (inotify(7)).
//!
//! Says only that something happened; what, the one who is told looks up. Must not judge.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, timeout};

use super::process::watch;

/// Who writes a file does so in several steps: this long nothing must happen before it is looked at, unless that lasts too long.
const CALM: Duration = Duration::from_millis(80);
const LONGEST_BURST: Duration = Duration::from_millis(800);

/// Changes of some files and folders.
pub(super) struct FileChanges {
    inotify: AsyncFd<OwnedFd>,
    /// A change was seen and not told yet.
    untold: bool,
}

impl FileChanges {
    /// Watches nothing yet. The first change is told at once: what happened before the watch is looked up then. Needs a tokio
    /// runtime.
    ///
    /// # Errors
    /// The user has no inotify instance left (`fs.inotify.max_user_instances`).
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self {
            inotify: watch(inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?)?,
            untold: true,
        })
    }

    /// Watches a file where it is now, and its name in its folder for others that come to stand there. What is not there, or
    /// watched already, is left.
    pub(super) fn watch_file(&self, path: &Path) {
        self.add(path, WatchFlags::CLOSE_WRITE | WatchFlags::MODIFY);
        if let Some(folder) = path.parent() {
            self.watch_folder(folder);
        }
    }

    /// Watches what stands in a folder.
    pub(super) fn watch_folder(&self, path: &Path) {
        self.add(
            path,
            WatchFlags::CLOSE_WRITE
                | WatchFlags::CREATE
                | WatchFlags::DELETE
                | WatchFlags::MOVED_TO
                | WatchFlags::MOVED_FROM,
        );
    }

    fn add(&self, path: &Path, flags: WatchFlags) {
        // A file that is its folder's too gets both words; another one of the same name gets a watch of its own.
        if let Err(error) = inotify::add_watch(self.inotify.get_ref(), path, flags) {
            tracing::debug!(path = %path.display(), %error, "not watched");
        }
    }

    /// Waits for the end of the next burst of changes. May be cancelled: no change is lost.
    pub(super) async fn next(&mut self) -> io::Result<()> {
        if !self.untold {
            self.read().await?;
            self.untold = true;
            let end = Instant::now() + LONGEST_BURST;
            while Instant::now() < end
                && let Ok(more) = timeout(CALM, self.read()).await
            {
                more?;
            }
        }
        self.untold = false;
        Ok(())
    }

    /// Waits for changes, and forgets what they were.
    async fn read(&self) -> io::Result<()> {
        let mut bytes = [0; 4096];
        loop {
            let mut ready = self.inotify.readable().await?;
            match rustix::io::read(self.inotify.as_fd(), &mut bytes) {
                Ok(_) => return Ok(()),
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::FileChanges;

    #[tokio::test]
    async fn a_file_written_in_place_replaced_or_removed_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        fs::write(&path, "one").unwrap();
        let mut changes = FileChanges::open().unwrap();
        changes.watch_file(&path);
        changes.next().await.unwrap();
        let other = folder.path().join("other");
        for step in [
            &(|| fs::write(&path, "two").unwrap()) as &dyn Fn(),
            &|| fs::write(&other, "three").unwrap(),
            &|| fs::rename(&other, &path).unwrap(),
            &|| fs::remove_file(&path).unwrap(),
        ] {
            step();
            changes.next().await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_is_told_to_nobody_is_told_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        let mut changes = FileChanges::open().unwrap();
        changes.watch_file(&path);
        changes.next().await.unwrap();
        fs::write(&path, "one").unwrap();
        tokio::select! {
            biased;
            _ = changes.next() => panic!("the burst is not over at once"),
            () = tokio::task::yield_now() => {}
        }
        changes.next().await.unwrap();
    }
}
