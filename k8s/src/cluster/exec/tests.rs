//! Plugins that answer, fail, hang, and want a terminal. Each is a script run by /bin/sh.
#![cfg(unix)]

use super::*;
use serde_json::json;
use std::{fs, path::Path};
use tempfile::TempDir;

const ANSWER: &str = r#"echo '{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1","status":{"token":"t1","expirationTimestamp":"2030-01-01T00:00:00Z"}}'"#;

fn plugin(directory: &TempDir, script: &str, mode: Option<&str>) -> Plugin {
    let file = directory.path().join("plugin.sh");
    fs::write(&file, script).unwrap();
    let config = json!({
        "apiVersion": "client.authentication.k8s.io/v1", "command": "/bin/sh", "args": [file],
        "env": [{ "name": "EXTRA", "value": "yes" }], "interactiveMode": mode,
    });
    Plugin {
        config: serde_json::from_value(config).unwrap(),
        timeout: Duration::from_secs(10),
        terminal: false,
    }
}

async fn run(script: &str) -> Result<Credential, Error> {
    plugin(&tempfile::tempdir().unwrap(), script, Some("Never"))
        .run()
        .await
}

#[tokio::test]
async fn a_token_with_its_end_comes_back() {
    let credential = run(ANSWER).await.unwrap();
    assert_eq!(credential.token.as_deref(), Some("t1"));
    assert_eq!(
        credential.expires.unwrap().to_string(),
        "2030-01-01T00:00:00Z"
    );
}

#[tokio::test]
async fn the_plugin_sees_the_request_and_its_variables() {
    let script = r#"
        case "$KUBERNETES_EXEC_INFO" in *'"interactive":false'*) ;; *) exit 3;; esac
        case "$KUBERNETES_EXEC_INFO" in *'"apiVersion":"client.authentication.k8s.io/v1"'*) ;; *) exit 4;; esac
        [ "$EXTRA" = yes ] || exit 5
        cat - >/dev/null
        printf 'status:\n  clientCertificateData: CERT\n  clientKeyData: KEY\n'
    "#;
    let credential = run(script).await.unwrap();
    assert_eq!(
        credential.certificate,
        Some(("CERT".to_owned(), "KEY".to_owned()))
    );
    assert_eq!(credential.token, None);
}

#[tokio::test]
async fn a_failure_carries_what_the_plugin_said() {
    let error = run("echo 'please run: corp-login' >&2; exit 7")
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("plugin.sh")
            && text.contains("please run: corp-login")
            && text.contains("exit status: 7"),
        "{text}"
    );
    assert!(error.hint().is_some());
    assert_eq!(error.exit_code(), 1);
}

#[tokio::test]
async fn useless_answers_are_failures() {
    for (script, expected) in [
        ("echo '{\"kind\":\"ExecCredential\"}'", "no status"),
        (
            "echo '{\"status\":{}}'",
            "neither a token nor a certificate",
        ),
        ("echo '<html>'", "no ExecCredential"),
        ("true", ""),
    ] {
        let error = run(script).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn a_missing_command_shows_the_install_hint() {
    let mut plugin = plugin(&tempfile::tempdir().unwrap(), "", Some("Never"));
    plugin.config.command = Some("no-such-plugin-anywhere".to_owned());
    plugin.config.install_hint = Some("brew install corp".to_owned());
    let error = plugin.run().await.unwrap_err();
    assert!(error.to_string().contains("was not found"));
    assert_eq!(error.hint().as_deref(), Some("brew install corp"));
}

/// Hangs with a child of its own, which takes no heed of hang-ups; tells the child's pid.
const HANGING: &str = "trap '' HUP TERM; sleep 1000 & echo $! > \"$(dirname \"$0\")/pid\"; wait";

#[tokio::test]
async fn a_hanging_plugin_is_ended_with_its_children() {
    let directory = tempfile::tempdir().unwrap();
    let mut plugin = plugin(&directory, HANGING, Some("Never"));
    plugin.timeout = Duration::from_millis(700);
    let error = plugin.run().await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::ExecPlugin {
                timeout: Some(_),
                ..
            }
        ),
        "{error:?}"
    );
    assert!(error.to_string().contains("it was ended"), "{error}");
    assert_gone(&directory.path().join("pid")).await;
}

#[tokio::test]
async fn a_plugin_nobody_waits_for_any_more_is_ended_too() {
    let directory = tempfile::tempdir().unwrap();
    let plugin = plugin(&directory, HANGING, Some("Never"));
    let pid = directory.path().join("pid");
    tokio::select! {
        _ = plugin.run() => panic!("it hangs"),
        () = until(|| fs::read_to_string(&pid).is_ok_and(|text| text.ends_with('\n'))) => {}
    }
    assert_gone(&pid).await;
}

#[tokio::test]
async fn a_plugin_that_needs_a_terminal_is_not_run_without() {
    let plugin = plugin(&tempfile::tempdir().unwrap(), ANSWER, Some("Always"));
    let error = plugin.run().await.unwrap_err();
    assert!(error.to_string().contains("needs a terminal"), "{error}");
    for mode in [Some("IfAvailable"), None] {
        let plugin = Plugin {
            config: with_mode(&plugin.config, mode),
            ..plugin.clone()
        };
        assert!(!plugin.interactive().unwrap());
        assert!(
            Plugin {
                terminal: true,
                ..plugin
            }
            .interactive()
            .unwrap()
        );
    }
}

fn with_mode(config: &ExecConfig, mode: Option<&str>) -> ExecConfig {
    let mode = mode.map(|mode| serde_json::from_value(json!(mode)).unwrap());
    ExecConfig {
        interactive_mode: mode,
        ..config.clone()
    }
}

/// Waits until the process whose pid stands in the file has ended.
async fn assert_gone(file: &Path) {
    let pid = fs::read_to_string(file).unwrap();
    let status = Path::new("/proc").join(pid.trim()).join("stat");
    let is_gone = || fs::read_to_string(&status).map_or(true, |stat| stat.contains(") Z "));
    timeout(Duration::from_secs(5), until(is_gone))
        .await
        .expect("the plugin's child still runs");
}

async fn until(condition: impl Fn() -> bool) {
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    while !condition() {
        ticks.tick().await;
    }
}
