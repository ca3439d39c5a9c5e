//! How `connect` gets a helper: the installed one, or one of its own by sudo.
//!
//! Must not know what the helper is asked for.

use std::path::Path;

use kvpn_k8s::Cluster;

use super::Signals;
use crate::cli::progress::Display;
use crate::cli::user::User;
use crate::helper::{self, Escalation, Installed, Lease};
use crate::os::platform::service::SOCKET;

/// What is needed to get one.
pub(super) struct Wanted<'a> {
    pub(super) user: &'a User,
    pub(super) cluster: &'a Cluster,
    pub(super) display: &'a Display,
    /// Whether somebody can be asked.
    pub(super) interactive: bool,
}

impl Wanted<'_> {
    /// Looks that the cluster is there where somebody has to do something for it, then gets a helper. From then on signals do not
    /// end this process.
    ///
    /// # Errors
    /// The cluster does not answer, or sudo refused.
    pub(super) async fn get(&self) -> anyhow::Result<(Lease, Signals)> {
        let escalation = self.user.escalation();
        let installed = match escalation {
            Escalation::Direct => Installed::Absent,
            Escalation::Sudo => helper::ask_installed(Path::new(SOCKET)).await,
        };
        let is_given = matches!(installed, Installed::Given(_));
        let asks_password = escalation == Escalation::Sudo && !is_given;
        if asks_password || self.interactive {
            // Nobody should type a password for a cluster that is not there; and only here can a plugin ask its user.
            self.display
                .step(&format!("calling {}", self.cluster.server()));
            self.cluster.version().await?;
        }
        let signals = Signals::new()?;
        let helper = match installed {
            Installed::Given(helper) => helper,
            Installed::Absent => self.elevate(escalation)?,
            Installed::Refused(why) => {
                self.display
                    .note(&format!("note: {why}; without it sudo is needed"));
                self.elevate(escalation)?
            }
        };
        Ok((helper, signals))
    }

    /// A helper of our own; sudo may ask for a password on the terminal.
    fn elevate(&self, escalation: Escalation) -> anyhow::Result<Lease> {
        if escalation == Escalation::Sudo {
            self.display.pause();
        }
        let helper = helper::spawn(escalation);
        self.display.resume();
        helper
    }
}
