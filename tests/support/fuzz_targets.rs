//! What the fuzzers run: one function a parser, which must not panic on any bytes and checks what must hold.
//!
//! `tests/fuzz` drives these with libFuzzer; `tests/replay.rs` runs them over the committed corpora with the stable
//! toolchain. The fuzz crate includes this file by path, so it may import only the pure crates and `serde_json`.
//!
//! A new parser needs: a function here and its line in [`TARGETS`], `fuzz/fuzz_targets/NAME.rs` with a `[[bin]]`, and
//! seeds in `fuzz/corpus/NAME/`. The replay test fails while one of them is missing.

// The paths are spelled out because the fuzz crate includes this file by path, which moves its modules' home.
#[path = "fuzz_targets/control.rs"]
mod control;
#[path = "fuzz_targets/netstack.rs"]
mod netstack;
#[path = "fuzz_targets/offload.rs"]
mod offload;
#[path = "fuzz_targets/packet.rs"]
mod packet;
#[path = "fuzz_targets/text.rs"]
mod text;
#[path = "fuzz_targets/wireguard.rs"]
mod wireguard;

/// What one target does with an input: return, or panic.
pub type Body = fn(&[u8]);

/// Name (of the corpus and of the fuzzer) and body of every target.
pub const TARGETS: &[(&str, Body)] = &[
    ("coalesce", offload::coalesce),
    ("control", control::messages),
    ("dns_header", packet::dns_header),
    ("frame", packet::frame),
    ("name", text::name),
    ("netstack", netstack::commands),
    ("packet", packet::packet),
    ("range", text::range),
    ("split", offload::split),
    ("virtio", offload::vnet),
    ("wireguard", wireguard::datagram),
];

/// Runs the target called `name`.
pub fn run(name: &str, data: &[u8]) {
    let (_, body) = TARGETS
        .iter()
        .find(|(target, _)| *target == name)
        .expect("the target is in TARGETS");
    body(data);
}
