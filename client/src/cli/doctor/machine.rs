//! What this machine has to bring for a session: TUN, privileges, networks that leave room, a resolver.

use std::path::Path;

use super::{Check, Ranges, Verdict};
use crate::agent::laptop::{self, Laptop};
use crate::agent::ranges;
use crate::agent::report::OverlapReport;
use crate::cli::Situation;
use crate::helper::{self, Escalation, Installed};
use crate::os::platform::{self, service::SOCKET};

/// What this machine brings: TUN, root, networks, resolver.
pub(super) async fn check(situation: &Situation, ranges: Option<Ranges>, checks: &mut Vec<Check>) {
    checks.push(check_tun());
    checks.push(check_privileges(situation).await);
    match laptop::look().await {
        Ok(laptop) => {
            checks.push(check_overlaps(&laptop, ranges));
            checks.push(check_resolver(&laptop));
        }
        Err(error) => checks.push(Check::failed("networks", error)),
    }
}

fn check_tun() -> Check {
    if Path::new("/dev/net/tun").exists() {
        return Check::ok("TUN", "/dev/net/tun is there");
    }
    let check = Check::new("TUN", Verdict::Failed, "/dev/net/tun is not there");
    Check { remedy: Some("load the module (`sudo modprobe tun`); in a container pass the device (`--device /dev/net/tun`)".into()), ..check }
}

async fn check_privileges(situation: &Situation) -> Check {
    let escalation = situation.user.escalation();
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

fn check_overlaps(laptop: &Laptop, ranges: Option<Ranges>) -> Check {
    let Some(ranges) = ranges else {
        return Check::new(
            "networks",
            Verdict::Skipped,
            "the cluster's ranges are not known",
        );
    };
    let overlaps = ranges::overlaps(&ranges, laptop);
    if overlaps.is_empty() {
        return Check::ok(
            "networks",
            "this machine's networks and the cluster's ranges do not overlap",
        );
    }
    let list: Vec<String> = (overlaps.iter())
        .map(|overlap| {
            let OverlapReport {
                range,
                with,
                interface,
            } = overlap;
            format!("{with} of {interface} (in {range})")
        })
        .collect();
    let text = format!(
        "this machine has {}, which the cluster uses too",
        list.join(", ")
    );
    Check::warning(
        "networks",
        text,
        "that part stays outside the tunnel, except single addresses that names resolve to",
    )
}

fn check_resolver(laptop: &Laptop) -> Check {
    let list: Vec<String> = laptop.resolvers.iter().map(ToString::to_string).collect();
    let asks = if list.is_empty() {
        "no resolver beyond this machine".to_owned()
    } else {
        list.join(", ")
    };
    match helper::visible_leftovers() {
        Some(left) => Check::warning("resolver", left, "`kvpn disconnect` puts it back"),
        None => Check::ok(
            "resolver",
            format!("{}; asks {asks}", platform::likely_dns_backend()),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::laptop::Occupied;

    #[test]
    fn an_overlap_is_a_warning_with_the_overlapping_part() {
        let laptop = Laptop {
            subnets: vec![Occupied {
                range: "192.168.1.0/24".parse().unwrap(),
                interface: "wlan0".to_owned(),
            }],
            ..Laptop::default()
        };
        let check = check_overlaps(&laptop, Some(vec!["192.168.0.0/16".parse().unwrap()]));
        assert_eq!(check.verdict, Verdict::Warning);
        assert!(
            check.detail.contains("192.168.1.0/24 of wlan0"),
            "{}",
            check.detail
        );
    }
}
