//! The way to the installed helper, for who would need sudo otherwise.
//!
//! Must not decide what is done without it.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{RecvFlags, recv};

use super::protocol::{Answer, Numbered, VERSION};

/// How long the installed helper may take to greet; what an earlier one left may have to be undone first.
const GREETING_LIMIT: Duration = Duration::from_secs(10);
/// How often, and after which pause each, a lease is asked for that this user's last session is just giving back.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(50);
/// More than any greeting.
const MAX_GREETING: usize = 64 * 1024;

/// What came of asking.
#[derive(Debug)]
pub(crate) enum Installed {
    /// Nothing is installed, or it does not run.
    Absent,
    /// A helper of our own: what [`fn@super::spawn`] would give.
    Given(OwnedFd),
    /// It is there, but not for us: why, and what to do, in the user's words.
    Refused(String),
}

/// Asks the installed helper at this socket for a lease.
pub(crate) async fn ask(socket: &Path) -> Installed {
    for _ in 1..TRIES {
        match ask_once(socket).await {
            (Installed::Refused(_), true) => tokio::time::sleep(PAUSE).await,
            (answer, _) => return answer,
        }
    }
    ask_once(socket).await.0
}

/// The answer, and whether another one may come soon.
async fn ask_once(socket: &Path) -> (Installed, bool) {
    let stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            let why = "the installed helper is for members of group kvpn: `sudo usermod -aG kvpn $USER`, then log in again";
            return (Installed::Refused(why.to_owned()), false);
        }
        Err(_) => return (Installed::Absent, false),
    };
    let greeting = tokio::time::timeout(GREETING_LIMIT, peek(stream)).await;
    match greeting.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into())) {
        Ok((stream, line)) => judge(stream, &line),
        Err(error) => {
            let why = format!("the installed helper does not answer: {error}");
            (Installed::Refused(why), false)
        }
    }
}

/// The first line, which stays in the stream: it is the agent's to read. It comes in one piece.
async fn peek(stream: UnixStream) -> io::Result<(UnixStream, Vec<u8>)> {
    stream.set_nonblocking(true)?;
    let stream = tokio::net::UnixStream::from_std(stream)?;
    stream.readable().await?;
    let stream = stream.into_std()?;
    let mut bytes = vec![0; MAX_GREETING];
    let (count, _) = recv(stream.as_fd(), &mut bytes[..], RecvFlags::PEEK)?;
    bytes.truncate(count);
    Ok((stream, bytes))
}

fn judge(stream: UnixStream, line: &[u8]) -> (Installed, bool) {
    match serde_json::from_slice::<Numbered<Answer>>(line).map(|greeting| greeting.body) {
        Ok(Answer::Hello(hello)) if hello.version == VERSION => {
            (Installed::Given(stream.into()), false)
        }
        Ok(Answer::Failed { error, taken }) => (Installed::Refused(error), taken),
        Ok(Answer::Hello(_) | Answer::Configured(_) | Answer::News(_) | Answer::Done { .. })
        | Err(_) => {
            let why = "the installed helper is of another version: `sudo kvpn service install` brings it up to date";
            (Installed::Refused(why.to_owned()), false)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;

    use super::*;

    /// A socket that says this to everybody who comes.
    fn saying(lines: &'static [&'static str]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("helper.sock");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            for line in lines {
                let (mut stream, _) = listener.accept().unwrap();
                stream.write_all(line.as_bytes()).unwrap();
                kept.push(stream);
            }
        });
        (folder, path)
    }

    #[tokio::test]
    async fn a_greeting_stays_in_the_stream() {
        let hello = "{\"id\":0,\"answer\":\"hello\",\"version\":2,\"pid\":1,\"undone\":[]}\n";
        let (_folder, path) = saying(&[
            "{\"id\":0,\"answer\":\"failed\",\"error\":\"not yet\",\"taken\":true}\n",
            "{\"id\":0,\"answer\":\"hello\",\"version\":2,\"pid\":1,\"undone\":[]}\n",
        ]);
        let Installed::Given(socket) = ask(&path).await else {
            panic!("the second answer was a greeting");
        };
        let mut bytes = vec![0; 1024];
        let (count, _) = recv(&socket, &mut bytes[..], RecvFlags::empty()).unwrap();
        assert_eq!(&bytes[..count], hello.as_bytes());
    }

    #[tokio::test]
    async fn what_is_not_there_is_told_from_what_is_not_for_us() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("helper.sock");
        assert!(matches!(ask(&path).await, Installed::Absent));
        drop(UnixListener::bind(&path).unwrap());
        assert!(matches!(ask(&path).await, Installed::Absent));
        let (_folder, path) = saying(&[
            "{\"id\":0,\"answer\":\"hello\",\"version\":7,\"pid\":1,\"undone\":[]}\n",
            "nonsense\n",
        ]);
        for _ in 0..2 {
            let Installed::Refused(why) = ask(&path).await else {
                panic!("it is no helper of this version");
            };
            assert!(why.contains("sudo kvpn service install"), "{why}");
        }
    }
}
