//! Drives the target of this name; its body stands in `tests/support/fuzz_targets.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kvpn_fuzz::fuzz_targets::run("netstack", data));
