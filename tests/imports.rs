//! The arrows between the rooms, held by `cargo metadata`: which package may import which of ours, and
//! which libraries stay out of where, each with its reason. ARCHITECTURE.md shows the same as a picture.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::Context as _;
use serde_json::Value;

/// Who may import which of our packages, and why no others.
const ARROWS: &[(&str, &[&str], &str)] = &[
    (
        "kvpn-wire",
        &[],
        "both ends agree on it, so it knows neither",
    ),
    (
        "kvpn-netstack",
        &["kvpn-wire"],
        "it terminates flows for whoever asks, gateway or client",
    ),
    (
        "kvpn-io",
        &["kvpn-wire"],
        "it moves bytes for both shells and knows neither",
    ),
    (
        "kvpn-client-core",
        &["kvpn-netstack", "kvpn-wire"],
        "a state machine that the simulator runs; it must not see the shell, the gateway or Kubernetes",
    ),
    (
        "kvpn-gateway-core",
        &["kvpn-netstack", "kvpn-wire"],
        "a state machine that the simulator runs; it must not see the shell, the client or Kubernetes",
    ),
    (
        "kvpn-k8s",
        &["kvpn-wire"],
        "it hands out plain types; what to do with them is decided elsewhere",
    ),
    (
        "kvpn-client",
        &[
            "kvpn-client-core",
            "kvpn-io",
            "kvpn-k8s",
            "kvpn-netstack",
            "kvpn-wire",
        ],
        "a shell around its own core; the gateway is reached over the wire only",
    ),
    (
        "kvpn-gateway",
        &[
            "kvpn-gateway-core",
            "kvpn-io",
            "kvpn-k8s",
            "kvpn-netstack",
            "kvpn-wire",
        ],
        "a shell around its own core; the client is reached over the wire only",
    ),
    (
        "kvpn-delaylink",
        &[],
        "it impairs a link and knows nothing of what crosses it",
    ),
    (
        "kvpn-bench",
        &["kvpn-client", "kvpn-wire"],
        "it measures the client's data path from outside; the gateway runs as a program, as in its pod",
    ),
    (
        "kvpn",
        &[
            "kvpn-client-core",
            "kvpn-gateway-core",
            "kvpn-k8s",
            "kvpn-netstack",
            "kvpn-wire",
        ],
        "tests and benches; they run the shells as programs, as users do",
    ),
];

/// Packages that take clock, randomness and IO as arguments.
const PURE: &[&str] = &[
    "kvpn-wire",
    "kvpn-netstack",
    "kvpn-client-core",
    "kvpn-gateway-core",
];

/// What must not stand in a pure package's manifest.
const IMPURE: &[(&str, &str)] = &[
    (
        "tokio",
        "a runtime brings its own clock and scheduler: the simulator could not repeat a run",
    ),
    ("tokio-util", "as tokio"),
    (
        "futures",
        "a core is polled by its driver, it does not wait",
    ),
    ("mio", "sockets belong to the shells"),
    ("socket2", "sockets belong to the shells"),
    ("rustix", "system calls belong to the shells"),
    ("libc", "system calls belong to the shells"),
    ("hyper", "HTTP belongs to the shells"),
    ("axum", "HTTP belongs to the shells"),
    ("kube", "Kubernetes belongs to kvpn-k8s"),
    ("k8s-openapi", "Kubernetes belongs to kvpn-k8s"),
    ("anyhow", "a core's caller matches on its errors"),
];

/// Libraries with one importer each.
const SOLE_IMPORTER: &[(&str, &str, &str)] = &[
    (
        "kube",
        "kvpn-k8s",
        "the rest sees plain types, so that a change of kube stays in one place",
    ),
    ("k8s-openapi", "kvpn-k8s", "as kube"),
    (
        "boringtun",
        "kvpn-wire",
        "the choice of the WireGuard library must stay a choice",
    ),
    (
        "hickory-proto",
        "kvpn-client-core",
        "names are decided in one place",
    ),
    (
        "quinn-udp",
        "kvpn-io",
        "batches of datagrams are one thing for both shells",
    ),
    (
        "zbus",
        "kvpn-client",
        "operating system backends belong to the client's shell",
    ),
];

/// Libraries that nobody imports, however deep.
const BANNED: &[(&str, &str)] = &[
    (
        "openssl-sys",
        "rustls is the one TLS; a static gateway has no OpenSSL",
    ),
    ("native-tls", "as openssl-sys"),
    (
        "aws-lc-sys",
        "ring is the one crypto provider; two would double build time and size",
    ),
];

struct Package {
    name: String,
    ours: bool,
    dependencies: BTreeSet<String>,
}

/// The workspace's own packages with what their manifests name (tests' own needs left out), and the names
/// of all packages that are built for any of them.
fn metadata() -> anyhow::Result<(Vec<Package>, BTreeSet<String>)> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .context("cargo metadata")?;
    anyhow::ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let document: Value = serde_json::from_slice(&output.stdout)?;
    let packages = document["packages"].as_array().context("packages")?;
    let all = packages
        .iter()
        .filter_map(|package| package["name"].as_str())
        .map(ToOwned::to_owned)
        .collect();
    Ok((
        packages
            .iter()
            .filter_map(package)
            .filter(|package| package.ours)
            .collect(),
        all,
    ))
}

fn package(entry: &Value) -> Option<Package> {
    let dependencies = entry["dependencies"]
        .as_array()?
        .iter()
        .filter(|dependency| dependency["kind"].as_str() != Some("dev"))
        .filter_map(|dependency| dependency["name"].as_str())
        .map(ToOwned::to_owned)
        .collect();
    Some(Package {
        name: entry["name"].as_str()?.to_owned(),
        ours: entry["source"].is_null(),
        dependencies,
    })
}

#[test]
fn rooms_import_only_along_the_arrows() {
    let (packages, _) = metadata().unwrap();
    let ours: BTreeSet<&str> = packages
        .iter()
        .map(|package| package.name.as_str())
        .collect();
    let arrows: BTreeMap<&str, _> = ARROWS
        .iter()
        .map(|(from, to, why)| (*from, (*to, *why)))
        .collect();
    assert_eq!(
        ours,
        arrows.keys().copied().collect(),
        "a new package needs its arrows, and the reason for them, here"
    );
    for package in &packages {
        let (allowed, why) = arrows[package.name.as_str()];
        for dependency in package
            .dependencies
            .iter()
            .filter(|name| ours.contains(name.as_str()))
        {
            assert!(
                allowed.contains(&dependency.as_str()),
                "{} imports {dependency}, but: {why}",
                package.name
            );
        }
    }
}

#[test]
fn pure_packages_name_nothing_that_does_io() {
    let (packages, _) = metadata().unwrap();
    for package in packages
        .iter()
        .filter(|package| PURE.contains(&package.name.as_str()))
    {
        for (banned, why) in IMPURE {
            assert!(
                !package.dependencies.contains(*banned),
                "{} imports {banned}, but: {why}",
                package.name
            );
        }
    }
}

#[test]
fn libraries_that_may_change_have_one_importer() {
    let (packages, _) = metadata().unwrap();
    for (library, importer, why) in SOLE_IMPORTER {
        for package in packages
            .iter()
            .filter(|package| package.dependencies.contains(*library))
        {
            assert_eq!(
                package.name, *importer,
                "{} imports {library}, but: {why}",
                package.name
            );
        }
    }
}

#[test]
fn nothing_banned_is_built() {
    let (_, all) = metadata().unwrap();
    for (banned, why) in BANNED {
        assert!(
            !all.contains(*banned),
            "{banned} is in the tree, but: {why} (cargo tree -i {banned})"
        );
    }
}
