//! How `connect` gets a helper on Windows: the agent has it within, and needs the rights of administrators for that.
//!
//! Must not know what the helper is asked for.

use kvpn_k8s::Cluster;

use super::Signals;
use crate::cli::progress::Display;
use crate::cli::user::User;
use crate::helper::Lease;
use crate::os::platform;

/// What is needed to get one.
pub(super) struct Wanted<'a> {
    pub(super) user: &'a User,
    pub(super) cluster: &'a Cluster,
    pub(super) display: &'a Display,
    /// Whether somebody can be asked.
    pub(super) interactive: bool,
}

impl Wanted<'_> {
    /// Looks that the rights are there and the driver's library, then the cluster where a plugin may have to ask. From then on Ctrl-C
    /// does not end this process.
    ///
    /// # Errors
    /// This terminal is not an administrator's, wintun.dll is not there, or the cluster does not answer.
    pub(super) async fn get(&self) -> anyhow::Result<(Lease, Signals)> {
        self.user.ensure_administrator("TUN, routes and names")?;
        platform::find_driver()?;
        if self.interactive {
            self.display
                .step(&format!("calling {}", self.cluster.server()));
            self.cluster.version().await?;
        }
        Ok((Lease, Signals::new()?))
    }
}
