//! What is said over the control socket: JSON lines, a request first, then answers.
//!
//! The agent's standard input is such a connection too, opened by `kvpn connect`; its first line is
//! [`Request::Start`].

use ipnetwork::IpNetwork;
use kvpn_client_core::CarrierChoice;
use serde::{Deserialize, Serialize};

use crate::agent::exposure::Wanted;
use crate::agent::guests::Guest;
use crate::agent::places::{Places, SessionName};
use crate::agent::report::SessionReport;
use crate::cli::failure::Failure;
use crate::cli::log;
use crate::cluster::{Datapath, Kube};
use crate::os::platform::Process;

/// The longest line, in bytes.
pub(crate) const MAX_LINE: usize = 1 << 20;

/// What is asked of an agent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub(crate) enum Request {
    /// Hold this session. Only on standard input; followed as with `Follow`.
    Start(Box<Start>),
    /// Expose this Service. Only on standard input; followed as with `Follow`.
    Expose(Box<Wanted>),
    /// One [`Reply::Report`].
    Status,
    /// Steps and notes until [`Reply::Connected`], [`Reply::Failed`] or [`Reply::Ended`].
    Follow,
    /// End the session; [`Reply::Ended`] when all is undone.
    Disconnect,
    /// Pass these names on, for as long as the connection lives. Not answered.
    Guest(Guest),
}

/// What an agent answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub(crate) enum Reply {
    /// The agent does this now.
    Step {
        /// In the user's words.
        text: String,
    },
    /// Something to read afterwards too.
    Note {
        /// In the user's words.
        text: String,
    },
    /// Traffic and names work.
    Connected(Box<SessionReport>),
    /// It did not come to that; everything is undone.
    Failed(Failure),
    /// Another agent holds the session; nothing was changed.
    Occupied,
    /// How the session is.
    Report(Box<SessionReport>),
    /// The session is over; everything is undone.
    Ended {
        /// Why it ended, unless the user wanted it.
        reason: Option<String>,
        /// What the user should know about what was put back.
        notes: Vec<String>,
    },
}

/// The session that an agent shall hold.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Start {
    /// The user's name for it; else one is made of context and namespace.
    pub(crate) name: Option<SessionName>,
    /// Where the user's files are.
    pub(crate) places: Places,
    /// How to get at the gateway.
    #[serde(flatten)]
    pub(crate) access: Access,
    /// Ranges to route besides the discovered ones.
    pub(crate) ranges: Vec<IpNetwork>,
    /// Ranges not to route.
    pub(crate) exclude: Vec<IpNetwork>,
    /// Namespaces whose names are routed besides the visible ones.
    pub(crate) dns_namespaces: Vec<String>,
    /// Whether the session ends with the command that started it.
    pub(crate) foreground: bool,
    /// The program that alone has the session's network, if it is not the machine's; the session ends with it.
    #[serde(default)]
    pub(crate) program: Option<Process>,
    /// How much is logged, as with `-v`.
    pub(crate) verbose: u8,
    /// How log lines look.
    pub(crate) log_format: log::Format,
}

/// How any session gets at its gateway: the cluster, the pod, the carriers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Access {
    /// How to find the cluster.
    pub(crate) kube: Kube,
    /// `--gateway-namespace`
    pub(crate) gateway_namespace: Option<String>,
    /// The image to install, and to upgrade to.
    pub(crate) image: String,
    /// Whether the user named the image.
    pub(crate) image_is_chosen: bool,
    /// Whether a gateway may be installed or upgraded.
    pub(crate) install: bool,
    /// Whether a busy gateway may be upgraded too.
    pub(crate) upgrade: bool,
    /// Which datapath an install asks for.
    pub(crate) datapath: Datapath,
    /// Which carriers may be used.
    pub(crate) carrier: Carrier,
    /// Whether the kernel may work on several packets at once.
    #[serde(default)]
    pub(crate) offload: Offload,
}

/// `--carrier`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Carrier {
    /// The API server at once, UDP as soon as it answers
    #[default]
    Auto,
    /// UDP only: a node port or load balancer must be reachable
    Udp,
    /// A stream through the API server only
    Api,
}

impl From<Carrier> for CarrierChoice {
    fn from(carrier: Carrier) -> Self {
        match carrier {
            Carrier::Auto => Self::Auto,
            Carrier::Udp => Self::Udp,
            Carrier::Api => Self::Api,
        }
    }
}

/// `--offload`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Offload {
    /// As far as the kernel can
    #[default]
    Auto,
    /// One packet at a time: slower; for drivers and networks that break on the other
    Off,
}

impl Offload {
    /// Whether it is used where it is possible.
    pub(crate) fn is_on(self) -> bool {
        self == Self::Auto
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_by_their_tag() {
        assert_eq!(
            serde_json::to_string(&Request::Status).unwrap(),
            r#"{"request":"status"}"#
        );
        assert!(matches!(
            serde_json::from_str(r#"{"request":"disconnect"}"#).unwrap(),
            Request::Disconnect
        ));
    }

    #[test]
    fn a_failure_comes_through() {
        let reply = Reply::Failed(Failure::new(4, "no").hint("ask"));
        let text = serde_json::to_string(&reply).unwrap();
        assert!(
            matches!(serde_json::from_str(&text).unwrap(), Reply::Failed(failure) if failure.code == 4)
        );
    }
}
