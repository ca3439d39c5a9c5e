//! Replays the committed fuzz corpora with the stable toolchain, so that what a fuzzer once found stays found.
//!
//! It explores nothing: that is `tests/fuzz`.

use std::collections::BTreeSet;
use std::fs;
use std::panic;
use std::path::{Path, PathBuf};

use kvpn::fuzz_targets::TARGETS;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz")
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("the directory can be read").path())
        .collect();
    paths.sort();
    paths
}

fn stems(dir: &Path) -> BTreeSet<String> {
    entries(dir)
        .iter()
        .map(|path| {
            path.file_stem()
                .expect("an entry has a name")
                .to_string_lossy()
                .into_owned()
        })
        .collect()
}

#[test]
fn every_input_of_every_corpus_is_survived() {
    for (name, body) in TARGETS {
        let inputs = entries(&fuzz().join("corpus").join(name));
        assert!(!inputs.is_empty(), "the corpus of {name} is empty");
        for input in inputs {
            let data = fs::read(&input).unwrap();
            let survived = panic::catch_unwind(|| body(&data));
            assert!(survived.is_ok(), "{name} fails on {}", input.display());
        }
    }
}

#[test]
fn every_target_has_a_fuzzer_and_a_corpus() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(stems(&fuzz().join("fuzz_targets")), targets);
    assert_eq!(stems(&fuzz().join("corpus")), targets);
}
