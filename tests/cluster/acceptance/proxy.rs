//! `kvpn proxy` as a user without any privilege: programs that know a proxy have the cluster, by name, and public names too.

use kvpn::cluster::PATIENCE;
use kvpn::gateway::Datapath;
use kvpn::laptop::Resolver;
use kvpn::outcome::eventually;
use serde_json::Value;

use super::run::Unprivileged;

/// A proxy in the background, on a laptop that is not connected.
struct Proxy {
    laptop: Unprivileged,
    /// What it printed.
    served: Value,
}

impl Proxy {
    fn start(name: &str, options: &str) -> Self {
        let laptop = Unprivileged::start(name, Resolver::Plain);
        let gateway = Datapath::Userspace.gateway();
        laptop
            .shell(&format!(
                "cd /tmp && {{ kvpn proxy -o json --gateway-namespace {gateway} {options} >served 2>said & }}"
            ))
            .ok();
        let mut served = Value::Null;
        let is_served = || {
            let text = laptop.shell("cat /tmp/served").stdout;
            served = serde_json::from_str(&text).unwrap_or_default();
            served.is_object()
        };
        assert!(
            eventually(PATIENCE, is_served),
            "{}",
            laptop.shell("cat /tmp/said")
        );
        Self { laptop, served }
    }

    fn text(&self, field: &str) -> &str {
        self.served[field].as_str().unwrap()
    }

    /// curl's options for a way into the cluster.
    fn way(&self, scheme: &str, address: &str, more: &str) -> String {
        let (user, password) = (self.text("user"), self.text("password"));
        let address = self.text(address);
        format!("-x {scheme}://{user}:{password}@{address} {more}")
    }
}

#[test]
fn curl_reaches_names_of_the_cluster_and_public_ones() {
    let proxy = Proxy::start("proxy", "");
    let before = proxy.laptop.traces();
    for way in [
        proxy.way("socks5h", "socks", ""),
        proxy.way("http", "http", ""),
        proxy.way("http", "http", "--proxytunnel"),
    ] {
        for name in [
            "echo",
            "echo.other",
            "echo.default.svc",
            "echo.other.svc.cluster.local",
            "example.com",
        ] {
            let line = format!("curl -fsS -m 10 {way} http://{name}/");
            proxy.laptop.shell(&line).ok();
        }
        let line = format!("curl -sS -m 10 {way} -o /dev/null http://nosuch.other/");
        assert_ne!(proxy.laptop.shell(&format!("{line} -f")).code, 0, "{line}");
    }
    let stranger = format!(
        "curl -fsS -m 10 -x http://{} http://echo/",
        proxy.text("http")
    );
    assert!(proxy.laptop.shell(&stranger).stderr.contains("407"));
    let stranger = format!(
        "curl -fsS -m 10 -x socks5h://{} http://echo/",
        proxy.text("socks")
    );
    assert_ne!(proxy.laptop.shell(&stranger).code, 0);
    assert_eq!(proxy.laptop.traces(), before, "the laptop is as it was");
}

#[test]
fn a_browser_finds_its_way_by_the_pac_file() {
    let proxy = Proxy::start("browser", "--no-auth");
    if proxy.laptop.shell("command -v chromium").code != 0 {
        println!("not run: there is no chromium (apt-get install chromium)");
        return;
    }
    let pac = proxy.text("pac");
    for name in [
        "echo.other",
        "echo.default.svc.cluster.local",
        "example.com",
    ] {
        let line = format!(
            "cd /tmp && timeout 60 chromium --headless --no-sandbox --disable-gpu --user-data-dir=/tmp/profile \
             --proxy-pac-url={pac} --dump-dom http://{name}/"
        );
        let page = proxy.laptop.shell(&line).ok();
        assert!(page.stdout.contains("<body>"), "{page}");
        let is_answer = !page.stdout.contains("ERR_") && !page.stdout.contains("can’t be reached");
        assert!(is_answer, "{page}");
    }
}
