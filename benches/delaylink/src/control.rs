//! The control socket: a line of options in, the state of both directions out, ended by a dot.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};

use crate::{DIRECTIONS, Link, say, shape};

/// Serves `path` in a thread of its own.
///
/// # Errors
/// The socket cannot be made.
pub(crate) fn listen(path: &str, link: Arc<Link>) -> Result<(), String> {
    let _ = fs::remove_file(path);
    let listener = UnixListener::bind(path).map_err(|error| format!("{path}: {error}"))?;
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            // Whoever asked has gone: the next one may ask.
            let _ = serve(&link, &connection);
        }
    });
    Ok(())
}

fn serve(link: &Link, mut connection: &UnixStream) -> std::io::Result<()> {
    for line in BufReader::new(connection).lines() {
        let complaint = match change(link, &line?) {
            Ok(()) => String::new(),
            Err(why) => format!("error {why}\n"),
        };
        writeln!(connection, "{complaint}{}.", state(link))?;
    }
    Ok(())
}

/// Applies all words, or none of them.
fn change(link: &Link, line: &str) -> Result<(), String> {
    let mut shapes = link.shapes.lock().unwrap_or_else(PoisonError::into_inner);
    let mut changed = *shapes;
    for word in line.split_whitespace() {
        shape::apply(&mut changed, word)?;
    }
    *shapes = changed;
    link.generation.fetch_add(1, Relaxed);
    Ok(())
}

fn state(link: &Link) -> String {
    let shapes = *link.shapes.lock().unwrap_or_else(PoisonError::into_inner);
    let lines = (0..2).map(|i| format!("{} {} | {}\n", DIRECTIONS[i], shapes[i], link.stats[i]));
    lines.collect()
}

/// `delaylink ctl`: sends the words and prints the answer.
///
/// # Errors
/// Nobody listens, or a word was refused.
pub(crate) fn ask(path: &str, words: &[String]) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{path}: {error}");
    let mut connection = UnixStream::connect(path).map_err(failed)?;
    writeln!(connection, "{}", words.join(" ")).map_err(failed)?;
    for line in BufReader::new(connection).lines() {
        let line = line.map_err(failed)?;
        if let Some(why) = line.strip_prefix("error ") {
            return Err(why.to_owned());
        }
        if line == "." {
            return Ok(());
        }
        say(line);
    }
    Err(format!("{path}: the link ended"))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::AtomicU64;

    use super::*;
    use crate::shape::Shape;

    fn link() -> Link {
        Link {
            shapes: Mutex::new([Shape::default(); 2]),
            generation: AtomicU64::new(1),
            stats: Default::default(),
        }
    }

    #[test]
    fn a_line_is_applied_whole_or_not_at_all() {
        let link = link();
        assert!(change(&link, "delay=1ms loss=200%").is_err());
        assert!(state(&link).starts_with("up delay=0ms"), "{}", state(&link));
        change(&link, "delay=1ms down.loss=2%").unwrap();
        assert!(state(&link).contains("down delay=1ms jitter=0ms loss=2%"));
        assert_eq!(link.generation.load(Relaxed), 2);
    }

    #[test]
    fn an_asker_is_answered_until_the_dot() {
        let (mut asker, answerer) = UnixStream::pair().unwrap();
        let link = link();
        writeln!(asker, "cut=1").unwrap();
        asker.shutdown(std::net::Shutdown::Write).unwrap();
        serve(&link, &answerer).unwrap();
        drop(answerer);
        let lines: Vec<_> = BufReader::new(asker).lines().map(Result::unwrap).collect();
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[0].contains("cut=1") && lines[2] == ".");
    }
}
