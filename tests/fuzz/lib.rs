//! The bodies that the fuzzers share with `tests/replay.rs`.

#[path = "../support/fuzz_targets.rs"]
pub mod fuzz_targets;
