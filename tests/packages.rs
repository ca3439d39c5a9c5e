//! What a release is made of: the packages, put into a clean Debian and out of it again, and the chart beside what
//! `kvpn gateway manifest` prints. Needs root and what `make package-tools` installs; the program inside is the built
//! `kvpn` (KVPN_BIN).

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "the tests' own tools panic with the test"
)]

use std::collections::BTreeMap;
use std::process::Command;

use kvpn::machine::Machine;
use kvpn::outcome::Outcome;
use kvpn::packages::packages;
use kvpn::settings::{Settings, checkout};
use serde_json::Value;

/// What a package puts on a machine beside manual pages and completions for zsh.
const FILES: [&str; 7] = [
    "/usr/bin/kvpn",
    "/usr/lib/systemd/system/kvpn-helper.service",
    "/usr/lib/sysusers.d/kvpn.conf",
    "/usr/libexec/kvpn-settle",
    "/usr/share/bash-completion/completions/kvpn",
    "/usr/share/fish/vendor_completions.d/kvpn.fish",
    "/usr/share/polkit-1/rules.d/50-kvpn.rules",
];

/// Everything of a Debian that a package could change, but the package manager's own books.
const TRACES: &str = r#"traces() {
    (cd "$root"; find . \( -path ./proc -o -path ./var/lib/dpkg -o -path ./var/lib/rpm -o -path ./var/log \) -prune \
        -o -type d -printf '%p %M\n' -o -not -path './etc/*-' -not -path ./etc/.pwd.lock -printf '%p %M %s %l\n' | sort
    cat etc/passwd etc/group)
}
"#;

/// Runs these shell lines beside a clean Debian; they end with the first that fails.
fn in_clean_root(lines: &str) -> Outcome {
    let mut command = Command::new(checkout().join("tests/osparts/clean.sh"));
    command.args(["bash", "-euxc", &format!("{TRACES}{lines}")]);
    Outcome::of(command.current_dir(packages()))
}

#[test]
fn a_deb_comes_and_goes() {
    let files = FILES.join(" ");
    in_clean_root(&format!(
        r#"
        mkdir -p "$root/etc/apparmor.d/abi"
        touch "$root/etc/apparmor.d/abi/4.0"
        traces >/mnt/before
        cp ./*.deb "$root/kvpn.deb"
        chroot "$root" dpkg --install kvpn.deb
        chroot "$root" dpkg --install kvpn.deb
        rm "$root/kvpn.deb"
        grep --count userns, "$root/etc/apparmor.d/kvpn"
        test -z "$(chroot "$root" dpkg --verify kvpn)"
        chroot "$root" ls {files} /usr/share/zsh/vendor-completions/_kvpn /usr/share/man/man1/kvpn-connect.1.gz
        chroot "$root" kvpn --version
        chroot "$root" bash -c '. /usr/share/bash-completion/completions/kvpn; complete -p kvpn'
        chroot "$root" getent passwd kvpn
        chroot "$root" dpkg --purge kvpn
        traces | diff /mnt/before -
        "#
    ))
    .ok()
    .prints(&[concat!("kvpn ", env!("CARGO_PKG_VERSION")), "kvpn's helper"]);
}

#[test]
fn with_a_deb_comes_the_service_and_goes() {
    let deb = format!(
        "kvpn_{}-1_{}.deb:/root/kvpn.deb",
        env!("CARGO_PKG_VERSION"),
        if cfg!(target_arch = "aarch64") {
            "arm64"
        } else {
            "amd64"
        }
    );
    let deb = format!("{}/{deb}", packages().display());
    let machine = Machine::boot_with("package", &[&deb]);
    let before = machine.traces();
    let install = "SUDO_UID=$(id -u ana) SUDO_GID=$(id -g ana) dpkg --install /root/kvpn.deb";
    machine.shell(install).ok();
    let status = machine.shell_as("ana", "kvpn service status -o json");
    assert_eq!(status.ok().json()["program"], "/usr/bin/kvpn");
    machine
        .shell("id --name --groups ana")
        .ok()
        .prints(&["kvpn"]);
    let mut ana = machine.lease("ana", true);
    assert_eq!(ana.receive().unwrap()["answer"], "hello");
    // An upgrade: who is served by the program before has to ask again.
    machine.shell(install).ok();
    assert_eq!(ana.receive(), None);
    let mut ana = machine.lease("ana", true);
    assert_eq!(ana.receive().unwrap()["answer"], "hello");
    machine.shell("dpkg --purge kvpn").ok();
    assert_eq!(ana.receive(), None);
    drop(ana);
    assert_eq!(machine.traces(), before);
    machine.shell("systemctl status kvpn-helper").fails_with(4);
}

#[test]
fn an_rpm_comes_and_goes() {
    let files = FILES.join(" ");
    // The Debian's libraries are not in rpm's books, and it lacks folders that every system with rpm has.
    in_clean_root(&format!(
        r#"
        mkdir -p "$root"/usr/share/{{fish/vendor_completions.d,licenses,man/man1,zsh/site-functions}}
        rpm() {{ command rpm --root "$root" --dbpath /var/lib/rpm "$@"; }}
        traces >/mnt/before
        rpm --install --nodeps ./*.rpm
        rpm --verify --nodeps kvpn
        rpm --query --requires kvpn
        chroot "$root" ls {files} /usr/share/zsh/site-functions/_kvpn /usr/share/man/man1/kvpn-connect.1.gz
        chroot "$root" kvpn --version
        chroot "$root" getent passwd kvpn
        rpm --erase kvpn
        traces | diff /mnt/before -
        "#
    ))
    .ok()
    .prints(&[
        concat!("kvpn ", env!("CARGO_PKG_VERSION")),
        "kvpn's helper",
        "libc.so.6(GLIBC_2.34)(64bit)",
    ]);
}

#[test]
fn archives_hold_what_their_manifests_name() {
    let script = r#"
        sha256sum --quiet --check SHA256SUMS
        tar -tf kvpn-*-linux-*.tar.gz
        for manifest in kvpn.yaml kvpn.rb; do
            for named in $(sed -n 's/.*sha256:\? "\?\([0-9a-f]\{64\}\)"\?$/\1/p' $manifest); do
                grep "^$named" SHA256SUMS
            done
        done
        ! grep -n '@[A-Z_]*@' kvpn.yaml kvpn.rb
    "#;
    let mut shell = Command::new("bash");
    let said = Outcome::of(shell.args(["-euxc", script]).current_dir(packages())).ok();
    let version = env!("CARGO_PKG_VERSION");
    said.prints(&[
        "LICENSE\n",
        "kvpn\n",
        &format!("  kvpn-{version}-linux-"),
        &format!("  kvpn-{version}.tar.gz"),
    ]);
    let bill =
        std::fs::read_to_string(packages().join(format!("kvpn-{version}.spdx.json"))).unwrap();
    let bill: Value = serde_json::from_str(&bill).unwrap();
    let names: Vec<&str> = bill["packages"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|package| package["name"].as_str())
        .collect();
    for name in ["boringtun", "rustls", "kvpn-client"] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
}

/// Objects of a YAML stream by kind, without the label that says whose they are: kvpn changes only its own.
fn objects(yaml: &str) -> BTreeMap<String, Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).unwrap();
    let by_kind = |mut object: Value| {
        for labels in ["/metadata/labels", "/spec/template/metadata/labels"] {
            if let Some(labels) = object.pointer_mut(labels).and_then(Value::as_object_mut) {
                assert!(labels.remove("app.kubernetes.io/managed-by").is_some());
            }
        }
        (object["kind"].as_str().unwrap().to_owned(), object)
    };
    documents.into_iter().map(by_kind).collect()
}

/// Whether Helm is there to ask; building it takes minutes, so not everybody has it.
fn has_helm() -> bool {
    let there = Command::new("helm").arg("version").output().is_ok();
    if !there {
        println!("not run: there is no helm (`make package-tools HELM=yes` builds it)");
    }
    there
}

#[test]
fn the_chart_says_what_gateway_manifest_says() {
    if !has_helm() {
        return;
    }
    let chart = checkout().join("k8s/chart");
    Outcome::of(Command::new("helm").args(["lint", "--strict"]).arg(&chart)).ok();
    for (options, values) in [
        ("", ""),
        (
            "--datapath kernel --replicas 2 --udp loadbalancer",
            "datapath=kernel,replicas=2,udp=loadbalancer",
        ),
        (
            "--datapath userspace --udp none --replicas 3 --image registry.example/gw:7 --image-pull-policy always \
             --image-pull-secret pull",
            "datapath=userspace,udp=none,replicas=3,image=registry.example/gw:7,imagePullPolicy=Always,imagePullSecret=pull",
        ),
    ] {
        let mut helm = Command::new("helm");
        // A helm that was not released renders for Kubernetes 1.20.
        helm.args([
            "template",
            "any-release",
            "--namespace",
            "demo",
            "--kube-version",
            "1.35.0",
        ]);
        helm.args(["--set", values]);
        let rendered = Outcome::of(helm.arg(&chart)).ok();
        let mut kvpn = Command::new(Settings::read().client);
        kvpn.args(["-n", "demo", "gateway", "manifest"]);
        let printed = Outcome::of(kvpn.args(options.split_whitespace())).ok();
        assert_eq!(
            objects(&rendered.stdout),
            objects(&printed.stdout),
            "{values}"
        );
    }
    let refused = ["template", "x", "--set", "datapath=kernl"];
    Outcome::of(Command::new("helm").args(refused).arg(&chart))
        .fails_with(1)
        .says(&["datapath"]);
}
