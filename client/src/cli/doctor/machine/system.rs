//! What this machine brings for sessions: TUNs, and somebody who may change the network.
//!
//! Asks and reports; changes nothing.

use std::path::Path;

use crate::cli::doctor::{Check, Verdict};
use crate::cli::user::User;
use crate::helper::{self, Escalation, Installed};
use crate::os::platform::service::SOCKET;

/// Where the user sees the machine's networks.
pub(in crate::cli::doctor) const NETWORKS: &str = "see `ip address` and `ip route`";

/// Whether TUNs can be made.
pub(super) fn tun() -> Check {
    if Path::new("/dev/net/tun").exists() {
        return Check::ok("TUN", "/dev/net/tun is there");
    }
    let check = Check::new("TUN", Verdict::Failed, "/dev/net/tun is not there");
    Check { remedy: Some("load the module (`sudo modprobe tun`); in a container pass the device (`--device /dev/net/tun`)".into()), ..check }
}

/// How the TUN, routes and names will be set.
pub(super) async fn privileges(user: &User) -> Check {
    let escalation = user.escalation();
    if escalation == Escalation::Sudo {
        match helper::ask_installed(Path::new(SOCKET)).await {
            Installed::Given(_) => {
                return Check::ok("privileges", "the installed helper serves you");
            }
            Installed::Refused(why) => {
                let remedy = "`kvpn service status` tells more; without it sudo is used";
                return Check::warning("privileges", why, remedy);
            }
            Installed::Absent => {}
        }
    }
    match escalation {
        Escalation::Direct => Check::ok("privileges", "root"),
        Escalation::Sudo if Path::new("/usr/bin/sudo").exists() => Check::ok(
            "privileges",
            "TUN, routes and names will be set through sudo",
        ),
        Escalation::Sudo => {
            let check = Check::new(
                "privileges",
                Verdict::Failed,
                "not root, and there is no /usr/bin/sudo",
            );
            Check {
                remedy: Some("install sudo, or connect as root".into()),
                ..check
            }
        }
    }
}
