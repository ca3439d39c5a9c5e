//! `kvpn expose`: the cluster's traffic on a laptop, and back again whatever happens. Developers are ordinary users without
//! `kvpn connect` (tests/support/developer.rs); callers are pods (tests/support/exposures.rs).

#[path = "exposures/commands.rs"]
mod commands;
#[path = "exposures/developers.rs"]
mod developers;
#[path = "exposures/failures.rs"]
mod failures;
#[path = "exposures/modes.rs"]
mod modes;
#[path = "exposures/outages.rs"]
mod outages;
#[path = "exposures/refusals.rs"]
mod refusals;
#[path = "exposures/rights.rs"]
mod rights;
#[path = "exposures/scene.rs"]
mod scene;
#[path = "exposures/takeover.rs"]
mod takeover;

const FAILED: i32 = 1;
const USAGE: i32 = 2;
const NOT_PERMITTED: i32 = 4;
const CONFLICT: i32 = 6;

/// What these tests need of the cluster.
const NEEDED: &str = "the program `traffic` on laptops and in pods";
