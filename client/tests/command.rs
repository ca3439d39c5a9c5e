//! The program as users run it, as far as that needs neither a cluster nor a change of the machine's network.
#![expect(
    clippy::unwrap_used,
    reason = "clippy knows the tests, but not the functions that they share"
)]

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// A home of its own, so that nobody's kubeconfig or session is met.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn kvpn(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kvpn"));
        command
            .env_clear()
            .env("HOME", self.0.path())
            .env("PATH", "/usr/bin:/bin");
        command.args(arguments).output().unwrap()
    }

    /// A kubeconfig whose only context is `dead`, with this API server.
    fn kubeconfig(&self, server: &str) -> PathBuf {
        let path = self.0.path().join("kubeconfig");
        let text = format!(
            "{{apiVersion: v1, kind: Config, current-context: dead, \
             contexts: [{{name: dead, context: {{cluster: dead, user: dead}}}}], \
             clusters: [{{name: dead, cluster: {{server: \"{server}\"}}}}], \
             users: [{{name: dead, user: {{token: x}}}}]}}"
        );
        std::fs::write(&path, text).unwrap();
        path
    }

    fn left_behind(&self) -> Vec<PathBuf> {
        let run = self.0.path().join(".local/state/kvpn/run");
        std::fs::read_dir(run)
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().path())
            .collect()
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// An address at which nobody listens.
fn closed_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("https://{}", listener.local_addr().unwrap())
}

#[test]
fn without_a_kubeconfig_it_says_so() {
    let output = Home::new().kvpn(&["connect"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("kubeconfig"),
        "{}",
        stderr(&output)
    );
    assert!(output.stdout.is_empty());
}

#[test]
fn a_wrong_context_is_told_with_the_right_ones() {
    let home = Home::new();
    let kubeconfig = home.kubeconfig(&closed_port());
    let output = home.kvpn(&[
        "connect",
        "--context",
        "prod",
        "--kubeconfig",
        kubeconfig.to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(text.contains("prod") && text.contains("dead"), "{text}");
    assert!(home.left_behind().is_empty());
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "measures how long a user would wait"
)]
fn an_api_server_that_is_not_there_is_exit_code_5_soon() {
    let home = Home::new();
    let kubeconfig = home.kubeconfig(&closed_port());
    let kubeconfig = kubeconfig.to_str().unwrap();
    for command in [
        &["connect"][..],
        &["gateway", "status"],
        &["gateway", "install"],
    ] {
        let began = Instant::now();
        let output = home.kvpn(&[command, &["--kubeconfig", kubeconfig]].concat());
        assert_eq!(
            output.status.code(),
            Some(5),
            "{command:?}: {}",
            stderr(&output)
        );
        assert!(stderr(&output).contains("hint: "), "{}", stderr(&output));
        assert!(began.elapsed() < Duration::from_secs(10));
    }
    assert!(home.left_behind().is_empty(), "{:?}", home.left_behind());
}

#[test]
fn without_a_session_the_exit_code_is_3_and_json_stays_json() {
    let home = Home::new();
    assert_eq!(home.kvpn(&["disconnect", "nope"]).status.code(), Some(3));
    let output = home.kvpn(&["status", "-o", "json"]);
    assert_eq!(output.status.code(), Some(3));
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["sessions"].as_array().unwrap().len(), 0);
}

#[test]
fn the_doctor_names_what_is_wrong_as_json_too() {
    let home = Home::new();
    let kubeconfig = home.kubeconfig(&closed_port());
    let output = home.kvpn(&[
        "doctor",
        "-o",
        "json",
        "--kubeconfig",
        kubeconfig.to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(1));
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let failed = document["checks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|check| check["verdict"] == "failed")
        .unwrap();
    assert_eq!(failed["name"], "API server");
    assert!(failed["remedy"].is_string());
}

#[test]
fn manifests_and_roles_need_no_cluster() {
    let home = Home::new();
    let manifest = home.kvpn(&[
        "gateway",
        "manifest",
        "-n",
        "tools",
        "--image",
        "example/gateway:1",
    ]);
    assert!(manifest.status.success(), "{}", stderr(&manifest));
    let text = String::from_utf8(manifest.stdout).unwrap();
    assert!(
        text.contains("kind: StatefulSet")
            && text.contains("example/gateway:1")
            && text.contains("namespace: tools"),
        "{text}"
    );
    let rbac = home.kvpn(&["gateway", "rbac", "-n", "tools", "--user", "ana"]);
    assert!(
        String::from_utf8(rbac.stdout)
            .unwrap()
            .contains("pods/portforward")
    );
}

#[test]
fn completion_and_manual_are_printed() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish"] {
        let output = home.kvpn(&["completion", shell]);
        assert!(
            String::from_utf8(output.stdout)
                .unwrap()
                .contains("disconnect"),
            "{shell}"
        );
    }
    let manual = String::from_utf8(home.kvpn(&["man"]).stdout).unwrap();
    assert!(manual.starts_with(".") && manual.contains("kvpn"));
}

#[test]
fn the_internal_processes_say_who_starts_them() {
    let home = Home::new();
    for internal in ["agent", "helper"] {
        let output = home.kvpn(&[internal]);
        assert_eq!(output.status.code(), Some(1), "{internal}");
        assert!(
            stderr(&output).contains("kvpn connect"),
            "{internal}: {}",
            stderr(&output)
        );
    }
}
