//! What the tests share: a real cluster, laptops to run `kvpn` on, and ways to look at both from outside.
//!
//! Nothing here decides what is right: that stands in the tests.

pub mod cluster;
pub mod desk;
pub mod developer;
pub mod exposures;
pub mod flow;
pub mod fuzz_targets;
pub mod gateway;
pub mod laptop;
pub mod machine;
pub mod outcome;
pub mod packages;
pub mod played;
pub mod rogue;
pub mod settings;
pub mod table;
pub mod traffic;
pub mod turn;
