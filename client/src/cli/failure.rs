//! From an error to what the user reads and the exit code that scripts read (DESIGN.md, Commands).

use std::fmt;
use std::io;
use std::process::ExitCode;

use kvpn_k8s::Error as ClusterError;
use serde::{Deserialize, Serialize};

/// Exit code: something failed.
pub(crate) const FAILED: u8 = 1;
/// Exit code: wrong usage.
pub(crate) const USAGE: u8 = 2;
/// Exit code: there is no session.
pub(crate) const NOT_CONNECTED: u8 = 3;
/// Exit code: the user may not do it.
pub(crate) const NOT_PERMITTED: u8 = 4;
/// Exit code: someone or something else is in the way.
pub(crate) const CONFLICT: u8 = 6;

/// A failure as the user meets it. Travels from the agent to the command that waits for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Failure {
    /// The exit code, 1 to 6.
    pub(crate) code: u8,
    /// What failed, on which object.
    pub(crate) message: String,
    /// What to check or do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hint: Option<String>,
    /// What belongs on stdout all the same: the manifest to hand to an admin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) document: Option<String>,
}

impl Failure {
    /// A failure with an exit code.
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            hint: None,
            document: None,
        }
    }

    /// The same, with what to check or do.
    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }

    /// The same, with a document for stdout.
    pub(crate) fn document(self, document: String) -> Self {
        Self {
            document: Some(document),
            ..self
        }
    }

    /// What an error means to the user. The innermost failure of kvpn's own, or of the cluster, decides the code.
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        if let Some(known) = error.chain().find_map(|cause| cause.downcast_ref::<Self>()) {
            return known.clone();
        }
        let message = format!("{error:#}");
        match error
            .chain()
            .find_map(|cause| cause.downcast_ref::<ClusterError>())
        {
            Some(cause) => Self {
                code: cause.exit_code(),
                message,
                hint: cause.hint(),
                document: None,
            },
            None => Self::new(FAILED, message),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Tells the user and gives the exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    let failure = Failure::of(error);
    if let Some(document) = &failure.document {
        super::output::print(document);
    }
    super::output::complain(&failure);
    ExitCode::from(failure.code)
}

/// Tells the user that a command's result is not all there; the exit code, of a command that would have ended with `code`.
pub(crate) fn report_lost(why: &io::Error, code: ExitCode) -> ExitCode {
    let message = format!("the result could not be written to standard output: {why}");
    super::output::complain(&Failure::new(FAILED, message));
    if code == ExitCode::SUCCESS {
        ExitCode::from(FAILED)
    } else {
        code
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clusters_errors_keep_their_code_and_hint_under_context() {
        let inner = ClusterError::Unreachable {
            server: "https://c:6443".into(),
            why: "refused".into(),
        };
        let failure = Failure::of(&anyhow::Error::new(inner).context("connecting to c"));
        assert_eq!(failure.code, 5);
        assert!(
            failure.message.starts_with("connecting to c: "),
            "{}",
            failure.message
        );
        assert!(failure.hint.is_some());
    }

    #[test]
    fn our_own_failures_pass_unchanged() {
        let failure = Failure::new(CONFLICT, "taken").hint("use --name");
        assert_eq!(
            Failure::of(&anyhow::Error::new(failure.clone()).context("x")),
            failure
        );
    }

    #[test]
    fn anything_else_is_1() {
        let failure = Failure::of(&anyhow::anyhow!("inner").context("outer"));
        assert_eq!(
            (failure.code, failure.message.as_str()),
            (FAILED, "outer: inner")
        );
    }

    #[test]
    fn a_failure_survives_the_way_from_the_agent() {
        let failure = Failure::new(NOT_PERMITTED, "no").document("kind: Role".into());
        let text = serde_json::to_string(&failure).unwrap();
        assert_eq!(serde_json::from_str::<Failure>(&text).unwrap(), failure);
    }
}
