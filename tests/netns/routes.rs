//! Interfaces, addresses and routes of a session that other programs take away.

use std::time::Duration;

use kvpn::outcome::eventually;
use serde_json::{Value, json};

use crate::assert_as_before;
use crate::netns::{Agent, Sandbox, session};
use crate::netns_sessions::Laptop;

/// What others do is followed within seconds.
const SECONDS: Duration = Duration::from_secs(5);

#[test]
fn what_another_program_takes_away_is_set_again() {
    let sandbox = Sandbox::start("taken", &[]);
    let before = sandbox.traces();
    let mut agent = Agent::start(&sandbox);
    agent.configure(&session());
    let standing = sandbox.traces();
    for taken in [
        "ip route del 10.96.0.0/16 dev kvpn0",
        "ip addr flush dev kvpn0",
        "ip link set kvpn0 down",
    ] {
        sandbox.shell(taken).ok();
        let news = agent.news();
        assert!(news["routesAgain"].as_u64() > Some(0), "{taken}: {news}");
        assert_eq!((&news["notes"], &news["lost"]), (&json!([]), &Value::Null));
        assert_as_before(&sandbox, &standing, taken);
    }
    // What the session itself takes away stays away.
    agent.ask(json!({"request": "removeRoutes", "routes": ["10.96.0.0/16"]}));
    sandbox.shell("ip route flush dev kvpn0").ok();
    agent.news();
    let routes = sandbox.shell("ip route show dev kvpn0").ok().stdout;
    assert!(
        routes.contains("198.19.0.") && !routes.contains("10.96.0.0/16"),
        "{routes}"
    );
    drop(agent);
    assert_as_before(&sandbox, &before, "the session ended");
}

#[test]
fn a_fight_over_routes_is_given_up_and_said() {
    let sandbox = Sandbox::start("routes", &[]);
    let mut agent = Agent::start(&sandbox);
    agent.configure(&session());
    let line = "setsid -f bash -c 'while :; do ip route flush dev kvpn0; sleep 0.05; done' >/dev/null 2>&1 </dev/null";
    sandbox.shell(line).ok();
    let told = |news: &Value| news["notes"].to_string();
    let mut news = agent.news();
    while !told(&news).contains("kvpn leaves them") {
        assert_eq!(told(&news), "[]");
        news = agent.news();
    }
}

#[test]
fn a_session_without_its_interface_ends_and_says_why() {
    let laptop = Laptop::start("removed", "plain");
    let ana = laptop.user("ana");
    let before = laptop.sandbox.traces();
    ana.connect("a");
    let log = ana.session("a")["log"].as_str().unwrap().to_owned();
    laptop.sandbox.shell("ip link del kvpn0").ok();
    assert!(
        eventually(SECONDS, || ana.kvpn(&["status"]).code == 3),
        "it is still there"
    );
    let why = laptop.sandbox.shell(&format!("cat {log}")).ok().stdout;
    assert!(
        why.contains("another program removed the interface kvpn0"),
        "{why}"
    );
    assert_as_before(&laptop.sandbox, &before, "the session ended");
}
