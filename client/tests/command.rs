//! The program as users run it, as far as that needs neither a cluster nor a change of the machine's network.
#![cfg(unix)]
#![expect(
    clippy::unwrap_used,
    reason = "clippy knows the tests, but not the functions that they share"
)]

use std::fs::{DirBuilder, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, geteuid, kill_process};

/// A home of its own, so that nobody's kubeconfig or session is met.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn kvpn(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kvpn"));
        command
            .env_clear()
            .env("HOME", self.0.path())
            .env("PATH", "/usr/bin:/bin")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .args(arguments);
        command
    }

    /// Where sockets and locks of sessions are.
    fn run_folder(&self) -> PathBuf {
        self.0.path().join(".local/state/kvpn/run")
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

    /// Files of sessions and exposures; directories stay.
    fn left_behind(&self) -> Vec<PathBuf> {
        let run = self.run_folder();
        [run.join("expose"), run]
            .iter()
            .flat_map(std::fs::read_dir)
            .flatten()
            .map(|entry| entry.unwrap().path())
            .filter(|path| !path.is_dir())
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
        &["expose", "8080", "as", "web"],
        &["expose", "8080", "as", "web", "--detach"],
        &["restore", "web"],
        &["list"],
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
fn without_an_exposure_unexpose_names_what_else_there_is() {
    let home = Home::new();
    let output = home.kvpn(&["unexpose", "web"]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(stderr(&output).contains("kvpn restore web"));
    assert!(home.kvpn(&["unexpose", "--all"]).status.success());
}

/// The lock is what tells, so a process that has not even begun counts.
#[test]
fn a_second_exposure_of_a_service_is_a_conflict() {
    let home = Home::new();
    let kubeconfig = home.kubeconfig(&closed_port());
    let run = home.run_folder().join("expose");
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&run)
        .unwrap();
    let lock = File::create(run.join("dead.default.web.lock")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    for detach in [&[][..], &["--detach"]] {
        let kubeconfig = kubeconfig.to_str().unwrap();
        let expose = ["expose", "8080", "as", "web", "--kubeconfig", kubeconfig];
        let output = home.kvpn(&[&expose, detach].concat());
        assert_eq!(output.status.code(), Some(6), "{}", stderr(&output));
        assert!(
            stderr(&output).contains("kvpn -n default unexpose web"),
            "{}",
            stderr(&output)
        );
    }
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

/// An API server that knows one pod, which takes its environment from a ConfigMap and a Secret that nobody may read.
fn api_with_a_pod() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            answer(&stream.unwrap());
        }
    });
    server
}

fn answer(mut stream: &std::net::TcpStream) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let request = lines.next().unwrap_or_default();
    lines.find(String::is_empty);
    let path = request.split(' ').nth(1).unwrap_or_default();
    let (status, body) = match path.trim_start_matches("/api/v1/namespaces/default/") {
        "pods/web" => (
            200,
            serde_json::json!({ "metadata": { "name": "web" }, "spec": { "enableServiceLinks": false, "containers": [{ "name": "app", "env": [
                { "name": "GREETING", "value": "it's\n$5" },
                { "name": "COLOUR", "valueFrom": { "configMapKeyRef": { "name": "settings", "key": "colour" } } },
                { "name": "PASSWORD", "valueFrom": { "secretKeyRef": { "name": "db", "key": "password" } } },
            ] }] } }),
        ),
        "configmaps/settings" => (
            200,
            serde_json::json!({ "metadata": {}, "data": { "colour": "red" } }),
        ),
        "secrets/db" => (
            403,
            serde_json::json!({ "kind": "Status", "code": 403, "reason": "Forbidden", "message": "secrets \"db\" is forbidden: User \"ana\" cannot get it" }),
        ),
        _ => (
            404,
            serde_json::json!({ "kind": "Status", "code": 404, "reason": "NotFound", "message": "not found" }),
        ),
    };
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {status} x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    // A client that hung up is a client's matter.
    let _ = stream.write_all((head + &body).as_bytes());
}

#[test]
fn an_environment_is_printed_whole_or_not_at_all() {
    let home = Home::new();
    let kubeconfig = home.kubeconfig(&api_with_a_pod());
    let env = |arguments: &[&str]| {
        let config = ["--kubeconfig", kubeconfig.to_str().unwrap()];
        home.kvpn(&[&["env", "web"], arguments, &config].concat())
    };
    let denied = env(&[]);
    assert_eq!(denied.status.code(), Some(4), "{}", stderr(&denied));
    assert!(denied.stdout.is_empty());
    let said = stderr(&denied);
    assert!(
        said.contains("get secrets in namespace default") && said.contains("--ignore-denied"),
        "{said}"
    );
    let rest = env(&["--ignore-denied"]);
    assert_eq!(
        String::from_utf8_lossy(&rest.stdout),
        "COLOUR=red\nGREETING=\"it's\n\\$5\"\n"
    );
    assert!(stderr(&rest).contains("PASSWORD is left out"));
    let json = env(&["--ignore-denied", "-o", "json"]);
    let document: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(document["variables"]["GREETING"], "it's\n$5");
    assert_eq!(
        (&document["pod"], &document["container"]),
        (&"web".into(), &"app".into())
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

#[test]
fn a_value_that_cannot_be_one_is_wrong_usage() {
    let home = Home::new();
    let kubeconfig = home.kubeconfig(&closed_port());
    let kubeconfig = kubeconfig.to_str().unwrap();
    for (wrong, said) in [
        (&["-n", "", "connect"][..], "--namespace"),
        (&["-n", "Shop", "connect"], "Shop"),
        (&["-n", "a_b", "disconnect"], "a_b"),
        (&["connect", "--gateway-namespace", "a/b"], "a/b"),
        (&["connect", "--dns-namespace", ""], "--dns-namespace"),
        (&["connect", "--image", ""], "--image"),
        (&["gateway", "install", "--image", ""], "--image"),
        (&["connect", "--name", "../x"], "../x"),
        (&["connect", "--cidr", "0.0.0.0/0"], "default route"),
        (&["expose", "8080"], "as SERVICE"),
        (&["expose", "0", "as", "web"], "`0` is no port"),
        (&["expose", "8080", "as", "Web"], "`Web`"),
        (
            &["expose", "8080", "as", "web", "--weight", "101%"],
            "1% to 100%",
        ),
        (
            &["expose", "8080", "as", "web", "--mirror", "--match", "a: b"],
            "choose one",
        ),
    ] {
        let output = home.kvpn(&[wrong, &["--kubeconfig", kubeconfig]].concat());
        assert_eq!(
            output.status.code(),
            Some(2),
            "{wrong:?}: {}",
            stderr(&output)
        );
        assert!(
            stderr(&output).contains(said),
            "{wrong:?}: {}",
            stderr(&output)
        );
        assert!(output.stdout.is_empty());
    }
    assert!(home.left_behind().is_empty());
}

/// Only root may start helpers; elsewhere `sudo` would ask for a password.
fn may_connect() -> bool {
    geteuid().is_root()
}

#[test]
fn an_interrupted_connect_is_exit_code_1_and_leaves_nothing() {
    if !may_connect() {
        return;
    }
    let home = Home::new();
    // An API server that takes connections and says nothing.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = format!("https://{}", listener.local_addr().unwrap());
    let kubeconfig = home.kubeconfig(&server);
    let connect = home
        .command(&["connect", "--kubeconfig", kubeconfig.to_str().unwrap()])
        .spawn()
        .unwrap();
    let _silent = listener.accept().unwrap();
    let pid = Pid::from_raw(i32::try_from(connect.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let output = connect.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("interrupted"),
        "{}",
        stderr(&output)
    );
    assert!(home.left_behind().is_empty(), "{:?}", home.left_behind());
}

/// The other `connect` has the lock, but its socket is not there before this one's agent has met the lock.
#[test]
fn of_two_connects_at_once_the_slower_one_waits_for_the_others_session() {
    if !may_connect() {
        return;
    }
    let home = Home::new();
    let server = closed_port();
    let kubeconfig = home.kubeconfig(&server);
    let run = home.run_folder();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&run)
        .unwrap();
    let lock = File::create(run.join("dead.default.lock")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let slower = home
        .command(&["connect", "--kubeconfig", kubeconfig.to_str().unwrap()])
        .spawn()
        .unwrap();
    await_file(&run.with_file_name("dead.default.log"));
    let listener = UnixListener::bind(run.join("dead.default.sock")).unwrap();
    let (stream, _) = listener.accept().unwrap();
    let mut requests = BufReader::new(&stream).lines();
    for (request, reply, state) in [
        ("status", "report", "connecting"),
        ("follow", "connected", "connected"),
    ] {
        let line = requests.next().unwrap().unwrap();
        assert!(line.contains(request), "{line}");
        let answer = serde_json::json!({
            "reply": reply, "name": "dead.default", "state": state, "context": "dead",
            "namespace": "default", "server": server, "pid": 1, "log": "/l"
        });
        writeln!(&stream, "{answer}").unwrap();
    }
    let output = slower.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let said = stderr(&output) + &String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("connected to dead"), "{said}");
}

#[expect(
    clippy::disallowed_methods,
    reason = "a file of another process cannot be awaited otherwise"
)]
fn await_file(path: &Path) {
    let end = Instant::now() + Duration::from_secs(10);
    while !path.exists() {
        assert!(Instant::now() < end, "{} does not appear", path.display());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_proxy_without_a_password_is_for_this_machine_only() {
    let home = Home::new();
    for open in [["--socks", "0.0.0.0:0"], ["--http", "[::]:0"]] {
        let output = home.kvpn(&["proxy", "--no-auth", open[0], open[1]]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("--no-auth"), "{said}");
    }
}

#[test]
fn a_port_that_is_taken_is_named_before_the_cluster_is_asked() {
    let home = Home::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = home.kvpn(&["proxy", "--socks", &address]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains(&address) && said.contains("--socks 127.0.0.1:0"),
        "{said}"
    );
}
