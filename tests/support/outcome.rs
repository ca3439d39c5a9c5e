//! What came of a command: its exit code, what it printed, how long it took.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

/// What came of a command.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The command, for messages.
    pub command: String,
    /// The exit code; 128 + N after signal N.
    pub code: i32,
    /// What it wrote to its standard output.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
    /// From start to end.
    pub took: Duration,
}

impl Outcome {
    /// Runs a command to its end.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    #[expect(
        clippy::disallowed_methods,
        reason = "tests of a real cluster run on the real clock"
    )]
    pub fn of(command: &mut Command) -> Self {
        let start = Instant::now();
        let Output {
            status,
            stdout,
            stderr,
        } = command
            .output()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
        Self {
            command: words(command),
            code: status
                .code()
                .unwrap_or_else(|| 128 + signal.unwrap_or_default()),
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
            took: start.elapsed(),
        }
    }

    /// The outcome of a command that must have succeeded.
    ///
    /// # Panics
    ///
    /// With all that it printed, when it did not.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self}");
        self
    }

    /// The outcome of a command that must have ended with this exit code.
    ///
    /// # Panics
    ///
    /// With all that it printed, when it did not.
    #[track_caller]
    pub fn fails_with(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self}");
        self
    }

    /// The outcome of a command that must have taken at most this long.
    ///
    /// # Panics
    ///
    /// With all that it printed, when it did not.
    #[track_caller]
    pub fn within(self, limit: Duration) -> Self {
        assert!(self.took <= limit, "took longer than {limit:?}: {self}");
        self
    }

    /// The outcome of a command whose standard error must hold all of these.
    ///
    /// # Panics
    ///
    /// With all that it printed, when it does not.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Self {
        let heard = self.stderr.to_lowercase();
        for word in words {
            assert!(
                heard.contains(&word.to_lowercase()),
                "does not say {word:?}: {self}"
            );
        }
        self
    }

    /// The outcome of a command that must have written each of these texts to its standard output.
    ///
    /// # Panics
    ///
    /// With all that it printed, when it did not.
    #[track_caller]
    pub fn prints(self, texts: &[&str]) -> Self {
        for text in texts {
            assert!(
                self.stdout.contains(text),
                "no `{text}` in what it printed: {self}"
            );
        }
        self
    }

    /// The standard output as the one JSON document that it must be.
    ///
    /// # Panics
    ///
    /// When it is not.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {self}"))
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            command,
            code,
            stdout,
            stderr,
            took,
        } = self;
        write!(
            f,
            "`{command}` ended with {code} after {took:.1?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}"
        )
    }
}

fn words(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy()];
    words.extend(
        command
            .get_args()
            .map(|argument| argument.to_string_lossy()),
    );
    words.join(" ")
}

/// Asks until the answer is yes; false when it has not come within `limit`.
#[expect(
    clippy::disallowed_methods,
    reason = "tests of a real cluster run on the real clock"
)]
pub fn eventually(limit: Duration, mut ask: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if ask() {
            return true;
        }
        if start.elapsed() >= limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
