//! What this machine has to bring for a session: TUN, privileges, networks that leave room, a resolver.

#[cfg_attr(windows, path = "machine/windows.rs")]
mod system;

use super::{Check, Ranges, Verdict};
use crate::agent::laptop::{self, Laptop};
use crate::agent::ranges;
use crate::agent::report::OverlapReport;
use crate::cli::Situation;
use crate::helper;
use crate::os::platform;

pub(super) use system::NETWORKS;

/// What this machine brings: TUN, root, networks, resolver.
pub(super) async fn check(situation: &Situation, ranges: Option<Ranges>, checks: &mut Vec<Check>) {
    checks.push(system::tun());
    checks.push(system::privileges(&situation.user).await);
    match laptop::look().await {
        Ok(laptop) => {
            checks.push(check_overlaps(&laptop, ranges));
            checks.push(check_resolver(&laptop));
        }
        Err(error) => checks.push(Check::failed("networks", error)),
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
