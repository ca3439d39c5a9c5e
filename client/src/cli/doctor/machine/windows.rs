//! What this machine brings for sessions: wintun, and a user who may change the network.
//!
//! Asks and reports; changes nothing.

use crate::cli::doctor::Check;
use crate::cli::user::User;
use crate::os::platform;

/// Where the user sees the machine's networks.
pub(in crate::cli::doctor) const NETWORKS: &str = "see `ipconfig /all` and `route print`";

/// Whether TUNs can be made.
pub(super) fn tun() -> Check {
    match platform::find_driver() {
        Ok(path) => Check::ok("TUN", format!("{} is there", path.display())),
        Err(failure) => Check::failed("TUN", failure),
    }
}

/// How the TUN, routes and names will be set.
#[expect(clippy::unused_async, reason = "other systems have somebody to ask")]
pub(super) async fn privileges(user: &User) -> Check {
    match user.ensure_administrator("TUN, routes and names") {
        Ok(()) => Check::ok("privileges", "an administrator's"),
        Err(failure) => Check::failed("privileges", failure),
    }
}
