//! Kubeconfigs of every kind, and requests that fail, against a stand-in API server.

use super::*;
use crate::testing::{Answer, FakeApi, failure, forbidden, kubeconfig};
use serde_json::{Value, json};
use std::{
    fs,
    sync::atomic::{AtomicUsize, Ordering},
};

fn version(_: &crate::testing::Asked) -> Answer {
    Answer::Json(
        200,
        json!({
            "major": "1", "minor": "35", "gitVersion": "v1.35.4", "gitCommit": "", "gitTreeState": "", "buildDate": "",
            "goVersion": "", "compiler": "", "platform": ""
        }),
    )
}

fn write(directory: &tempfile::TempDir, name: &str, value: &Value) -> PathBuf {
    let file = directory.path().join(name);
    fs::write(&file, value.to_string()).unwrap();
    file
}

fn options(file: PathBuf) -> KubeOptions {
    KubeOptions {
        kubeconfig: Some(file),
        ..KubeOptions::default()
    }
}

#[test]
fn several_files_merge_and_the_first_to_name_a_thing_wins() {
    let directory = tempfile::tempdir().unwrap();
    let mut first = kubeconfig("https://first:6443", json!({ "token": "one" }));
    first["current-context"] = "".into();
    let mut second = kubeconfig("https://second:6443", json!({ "token": "two" }));
    second["contexts"][0]["name"] = "other".into();
    second["contexts"][0]["context"]["namespace"] = Value::Null;
    second["current-context"] = "other".into();
    let files = [
        directory.path().join("missing"),
        write(&directory, "a", &first),
        PathBuf::new(),
        write(&directory, "b", &second),
    ];
    let list = std::env::join_paths(&files).unwrap();
    let cluster = Cluster::load(&KubeOptions {
        kubeconfig_env: Some(list),
        ..KubeOptions::default()
    })
    .unwrap();
    assert_eq!(
        cluster.context(),
        "other",
        "an empty current-context does not count"
    );
    assert_eq!(
        cluster.server(),
        "https://first:6443",
        "both name the cluster `test`"
    );
    assert_eq!(cluster.namespace(), "default");
    assert_eq!(cluster.user(), Some("ana"));
}

#[test]
fn a_file_that_is_no_yaml_is_not_quoted() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a");
    fs::write(&file, "users:\n- name: ana\n  user: {token: s3cret\n").unwrap();
    let Err(error) = Cluster::load(&options(file)) else {
        panic!("it is read");
    };
    let text = error.to_string();
    assert!(text.contains("line ") && !text.contains("s3cret"), "{text}");
}

#[test]
fn options_overrule_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = write(
        &directory,
        "a",
        &kubeconfig("https://a:6443/k8s/clusters/c-1", json!({})),
    );
    let cluster = Cluster::load(&options(file.clone())).unwrap();
    assert_eq!(
        (cluster.namespace(), cluster.server()),
        ("demo", "https://a:6443/k8s/clusters/c-1")
    );
    let cluster = Cluster::load(&KubeOptions {
        namespace: Some("mine".into()),
        ..options(file.clone())
    })
    .unwrap();
    assert_eq!(cluster.namespace(), "mine");
    let error = Cluster::load(&KubeOptions {
        context: Some("nope".into()),
        ..options(file)
    })
    .unwrap_err();
    assert_eq!(error.to_string(), "the kubeconfig has no context `nope`");
    assert_eq!(error.hint().unwrap(), "choose one with --context: test");
}

#[test]
fn the_home_directory_is_the_last_place() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join(".kube")).unwrap();
    fs::write(
        home.path().join(".kube/config"),
        kubeconfig("https://home:6443", json!({})).to_string(),
    )
    .unwrap();
    let at_home = KubeOptions {
        home: Some(home.path().to_owned()),
        kubeconfig_env: Some("".into()),
        ..KubeOptions::default()
    };
    assert_eq!(
        Cluster::load(&at_home).unwrap().server(),
        "https://home:6443"
    );
}

#[test]
fn files_that_are_missing_or_broken_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing");
    let error = Cluster::load(&options(missing.clone()))
        .unwrap_err()
        .to_string();
    assert!(error.contains(missing.to_str().unwrap()), "{error}");
    let listed = KubeOptions {
        kubeconfig_env: Some(missing.clone().into()),
        ..KubeOptions::default()
    };
    assert!(
        Cluster::load(&listed)
            .unwrap_err()
            .to_string()
            .contains("none of KUBECONFIG's files exists")
    );
    fs::write(&missing, "clusters: [").unwrap();
    assert!(matches!(
        Cluster::load(&options(missing)).unwrap_err(),
        Error::Config { .. }
    ));
    let nothing = Cluster::load(&KubeOptions::default()).unwrap_err();
    assert!(nothing.to_string().contains("there is none"), "{nothing}");
}

#[test]
fn what_cannot_work_is_refused_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = kubeconfig("nonsense", json!({}));
    let error = Cluster::load(&options(write(&directory, "a", &config)))
        .unwrap_err()
        .to_string();
    assert!(error.contains("`nonsense` is no URL"), "{error}");
    config = kubeconfig(
        "https://a:6443",
        json!({ "auth-provider": { "name": "azure", "config": {} } }),
    );
    let error = Cluster::load(&options(write(&directory, "b", &config))).unwrap_err();
    assert!(error.hint().unwrap().contains("kubelogin"), "{error}");
    config = kubeconfig("https://a:6443", json!({}));
    config["clusters"][0]["cluster"]["certificate-authority-data"] = "bm90IGEgY2VydA==".into();
    let error = Cluster::load(&options(write(&directory, "c", &config)))
        .unwrap_err()
        .to_string();
    assert!(error.contains("certificate authority"), "{error}");
    config["clusters"][0]["name"] = "other".into();
    let error = Cluster::load(&options(write(&directory, "d", &config)))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("names cluster `test`, which is not in it"),
        "{error}"
    );
}

#[tokio::test]
async fn the_version_proves_that_the_server_answers_us() {
    let api = FakeApi::start(version).await;
    assert_eq!(api.cluster().version().await.unwrap(), "v1.35.4");
    assert_eq!(api.asked()[0].token.as_deref(), Some("Bearer secret"));
    let addresses = api.cluster().api_server_addresses().await;
    assert_eq!(addresses.len(), 1);
    assert!(addresses[0].ip().is_loopback());
}

#[tokio::test]
async fn an_expired_token_is_told_as_such() {
    let api = FakeApi::start(|_| failure(401, "Unauthorized")).await;
    let error = api.cluster().version().await.unwrap_err();
    assert!(
        matches!(&error, Error::Unauthorized { user, .. } if user == "ana (token)"),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unreachable_at_once() {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
        .await
        .unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    drop(listener);
    let directory = tempfile::tempdir().unwrap();
    let cluster = Cluster::load(&options(write(
        &directory,
        "a",
        &kubeconfig(&url, json!({})),
    )))
    .unwrap();
    let error = cluster.version().await.unwrap_err();
    assert_eq!(error.exit_code(), 5);
    assert!(
        error.to_string().contains(&url) && error.to_string().contains("refused"),
        "{error}"
    );
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let api = FakeApi::start(|_| Answer::Silence).await;
    let cluster = api.cluster();
    let call = Call::cluster("get", "/version").within(Duration::from_millis(200));
    let client = cluster.client().await.unwrap();
    let error = cluster
        .run(&call, client.apiserver_version())
        .await
        .unwrap_err();
    assert_eq!(error.exit_code(), 5);
}

#[tokio::test]
async fn a_busy_server_is_asked_again_a_few_times() {
    let asked = AtomicUsize::new(0);
    let api = FakeApi::start(move |request| match asked.fetch_add(1, Ordering::Relaxed) {
        0 | 1 => failure(429, "too many requests"),
        _ => version(request),
    })
    .await;
    api.cluster().version().await.unwrap();
    assert_eq!(api.asked().len(), 3);
}

fn plugin_user(script: &std::path::Path) -> Value {
    json!({ "exec": {
        "apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never", "command": "/bin/sh", "args": [script],
    }})
}

#[cfg(unix)]
#[tokio::test]
async fn a_plugins_token_is_used_until_it_is_refused() {
    let api = FakeApi::start(|asked| match asked.token.as_deref() {
        Some("Bearer t1") if asked.path == "/version" => version(asked),
        Some("Bearer t1") => failure(401, "Unauthorized"),
        _ => forbidden(),
    })
    .await;
    let runs = api.file("runs", "");
    let script = api.file(
        "plugin.sh",
        &format!(
            "echo >> {}; echo '{{\"status\":{{\"token\":\"t1\"}}}}'",
            runs.display()
        ),
    );
    let cluster = Cluster::load(&api.options(plugin_user(&script))).unwrap();
    let count = || fs::read_to_string(&runs).unwrap().lines().count();
    assert_eq!(count(), 0, "loading runs nothing");
    let (one, two) = tokio::join!(cluster.version(), cluster.version());
    one.and(two).unwrap();
    assert_eq!(count(), 1, "one run serves all");
    cluster.find_gateway(&["demo"]).await.unwrap_err();
    cluster.version().await.unwrap();
    assert_eq!(count(), 2, "a refused token is not used again");
}

#[cfg(unix)]
#[tokio::test]
async fn an_ending_token_is_renewed_before_use() {
    let api = FakeApi::start(version).await;
    let runs = api.file("runs", "");
    let answer = r#"{"status":{"token":"t","expirationTimestamp":"2020-01-01T00:00:00Z"}}"#;
    let script = api.file(
        "plugin.sh",
        &format!("echo >> {}; echo '{answer}'", runs.display()),
    );
    let cluster = Cluster::load(&api.options(plugin_user(&script))).unwrap();
    cluster.version().await.unwrap();
    cluster.version().await.unwrap();
    assert_eq!(fs::read_to_string(&runs).unwrap().lines().count(), 2);
}

/// The first request that a proxy on the loopback gets; it refuses, which is enough to see that it was asked.
async fn asked_of_proxy(proxy: &tokio::net::TcpListener) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (mut socket, _) = proxy.accept().await.unwrap();
    let mut bytes = [0; 1024];
    let length = socket.read(&mut bytes).await.unwrap();
    let refusal = b"HTTP/1.1 403 Forbidden\r\n\r\n";
    socket.write_all(refusal).await.unwrap();
    String::from_utf8_lossy(&bytes[..length]).to_lowercase()
}

#[tokio::test]
async fn the_proxy_is_asked_for_requests_and_for_streams() {
    let proxy = tokio::net::TcpListener::bind(("127.0.0.1", 0))
        .await
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut config = kubeconfig("https://api.invalid:6443", json!({}));
    config["clusters"][0]["cluster"]["proxy-url"] =
        format!("http://ana:x@{}", proxy.local_addr().unwrap()).into();
    let cluster = Cluster::load(&options(write(&directory, "a", &config))).unwrap();
    let gateway = crate::GatewayPod::of(&Default::default());
    let (version, for_request) = tokio::join!(cluster.version(), asked_of_proxy(&proxy));
    let (stream, for_stream) = tokio::join!(cluster.forward(&gateway, 1), asked_of_proxy(&proxy));
    for asked in [for_request, for_stream] {
        assert!(asked.starts_with("connect api.invalid:6443 "), "{asked}");
        assert!(
            asked.contains("proxy-authorization: basic yw5hong="),
            "{asked}"
        );
    }
    assert_eq!(version.unwrap_err().exit_code(), 5);
    assert_eq!(stream.unwrap_err().exit_code(), 5);
}
