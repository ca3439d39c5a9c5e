//! Several sessions of a machine at once, with agents and helpers as `kvpn connect` starts them.

use std::time::Duration;

use kvpn::outcome::eventually;
use serde_json::json;

use crate::assert_as_before;
use crate::netns_sessions::{Laptop, User};

/// What follows something that happened to another session.
const SECONDS: Duration = Duration::from_secs(5);

/// The session that has taken the names, once the others are its guests.
#[track_caller]
fn new_owner<'a>(user: &User<'_>, sessions: &[&'a str], own: &str, when: &str) -> &'a str {
    let mut owner = None;
    let mut backends = Vec::new();
    let settled = eventually(SECONDS, || {
        let backend = |name: &&str| user.session(name)["network"]["dnsBackend"].clone();
        backends = sessions.iter().map(backend).collect();
        let place = backends.iter().position(|backend| backend == own);
        owner = place.map(|place| sessions[place]);
        owner.is_some_and(|owner| {
            let theirs = format!("resolv.conf of session {owner}");
            let guests = backends.iter().filter(|backend| **backend == *theirs);
            guests.count() + 1 == sessions.len()
        })
    });
    assert!(settled, "{when}: {sessions:?} have {backends:?}");
    owner.unwrap()
}

#[track_caller]
fn assert_names(laptop: &Laptop, names: &[(String, String)], when: &str) {
    for (name, address) in names {
        let mut found = String::new();
        let resolves = eventually(SECONDS, || {
            found = laptop.look_up(name);
            found == *address
        });
        assert!(resolves, "{when}: {name} is {found:?}, not {address}");
    }
}

/// How the session ends that has the machine's names.
#[derive(Debug, Clone, Copy)]
enum End {
    Disconnected,
    /// Its agent is.
    Killed,
    /// Its agent and its helper, which leaves the file as it is.
    AllKilled,
}

impl End {
    fn of(self, user: &User<'_>, owner: &str) {
        if matches!(self, Self::Disconnected) {
            user.kvpn(&["disconnect", owner]).ok();
            return;
        }
        let agent = user.session(owner)["pid"].to_string();
        let helper = match self {
            Self::AllKilled => user.helper_of(owner),
            Self::Disconnected | Self::Killed => String::new(),
        };
        user.sandbox
            .shell(&format!("kill -9 {helper} {agent}"))
            .ok();
    }
}

#[test]
fn a_guest_takes_the_place_of_the_session_that_has_the_names() {
    for (who, ends) in [
        ("plain", [End::Disconnected, End::AllKilled]),
        ("plain", [End::Killed, End::Disconnected]),
        ("openresolv", [End::AllKilled, End::Disconnected]),
    ] {
        let laptop = Laptop::start("succession", who);
        if who == "plain" {
            let original = "printf '# by hand\\t\\nnameserver 10.99.1.53' >/etc/resolv.conf";
            laptop.sandbox.shell(original).ok();
        }
        let own = if who == "plain" { "resolv.conf" } else { who };
        let user = laptop.user("ana");
        let before = laptop.sandbox.traces();
        let mut sessions = vec!["a", "b", "c"];
        let mut names = vec![("example.com".to_owned(), "198.51.100.7".to_owned())];
        for session in &sessions {
            user.connect(session);
            let name = format!("web.default.{session}.kvpn.internal");
            let address = laptop.look_up(&name);
            assert!(!address.is_empty(), "{name} at first");
            names.push((name, address));
        }
        let mut owner = sessions[0];
        for end in ends {
            let when = format!("{who}, {owner} {end:?}");
            end.of(&user, owner);
            sessions.retain(|session| *session != owner);
            names.retain(|(name, _)| !name.ends_with(&format!(".{owner}.kvpn.internal")));
            owner = new_owner(&user, &sessions, own, &when);
            assert_names(&laptop, &names, &when);
        }
        user.kvpn(&["disconnect", owner]).ok();
        assert_as_before(&laptop.sandbox, &before, who);
    }
}

/// The interface through which an address is reached.
fn way(laptop: &Laptop, address: &str) -> String {
    let line = format!("ip -o route get {address} | sed 's/.* dev //; s/ .*//'");
    laptop.sandbox.shell(&line).ok().stdout.trim().to_owned()
}

#[test]
fn a_vpn_that_comes_and_goes_after_connect_is_noticed() {
    let laptop = Laptop::start("later", "resolved");
    let ana = laptop.user("ana");
    ana.connect("a");
    let overlaps = || ana.session("a")["network"]["overlaps"].clone();
    let notes = || ana.session("a")["notes"].clone();
    let (at_first, unmoved) = (
        notes(),
        [way(&laptop, "10.96.4.9"), way(&laptop, "10.96.0.7")],
    );
    assert_eq!(
        (overlaps(), unmoved),
        (json!([]), ["kvpn0", "kvpn0"].map(str::to_owned))
    );

    let vpn = "ip link add vpn0 type veth peer name vpn1
        for end in vpn0 vpn1; do ip link set $end addrgenmode none; ip link set $end up; done
        ip route add 10.96.4.0/24 dev vpn0";
    laptop.sandbox.shell(vpn).ok();
    let theirs = json!([{"range": "10.96.0.0/16", "with": "10.96.4.0/24", "interface": "vpn0"}]);
    assert!(
        eventually(SECONDS, || overlaps() == theirs),
        "{}",
        overlaps()
    );
    ana.kvpn(&["status"])
        .ok()
        .prints(&["10.96.0.0/16 with 10.96.4.0/24 of vpn0"]);
    assert!(notes().to_string().contains("vpn0"), "{}", notes());
    // Theirs stays theirs, but what a name of the cluster leads to.
    assert_eq!(way(&laptop, "10.96.4.9"), "vpn0");
    assert_eq!(laptop.look_up("far.default.svc.cluster.local"), "10.96.4.7");
    assert_eq!(way(&laptop, "10.96.4.7"), "kvpn0");
    assert_eq!(way(&laptop, "10.96.0.7"), "kvpn0");

    laptop.sandbox.shell("ip link del vpn0").ok();
    assert!(
        eventually(SECONDS, || overlaps() == json!([])),
        "{}",
        overlaps()
    );
    assert_eq!(notes(), at_first);
    assert!(eventually(SECONDS, || way(&laptop, "10.96.4.9") == "kvpn0"));
}

/// What another user's session routes is seen by its interface alone.
#[test]
fn ranges_of_another_users_session_are_left_to_it() {
    let laptop = Laptop::start("users", "resolved");
    let (ana, ben) = (laptop.user("ana"), laptop.user("ben"));
    ana.connect("a");
    let connected = ben.connect("b");
    connected.says(&["10.96.0.0/16", "kvpn0 of another user", "appear as"]);
    assert_eq!(ben.session("b")["network"]["interface"], "kvpn1");
    let address = laptop.look_up("web.default.b.kvpn.internal");
    assert_eq!(way(&laptop, &address), "kvpn1", "{address}");
    let address = laptop.look_up("web.default.a.kvpn.internal");
    assert_eq!(
        (way(&laptop, &address), &*address),
        ("kvpn0".to_owned(), "10.96.0.7")
    );
    ben.kvpn(&["disconnect"]).ok();
}

/// A logout removes /run/user/ID, and people tidy up.
#[test]
fn a_session_whose_files_vanish_is_found_again() {
    let laptop = Laptop::start("vanished", "plain");
    let ana = laptop.user("ana");
    let before = laptop.sandbox.traces();
    ana.connect("a");
    let folder = "/run/cluster/ana/.local/state/kvpn";
    let remove = format!("test -d {folder} && rm -r {folder}");
    laptop.sandbox.shell(&remove).ok();
    ana.kvpn(&["status"]).fails_with(3);
    let back = || ana.kvpn(&["status"]).code == 0;
    assert!(eventually(3 * SECONDS, back), "it does not come back");
    ana.kvpn(&["disconnect"]).ok();
    laptop.sandbox.shell(&format!("rm -r {folder}")).ok();
    assert_as_before(&laptop.sandbox, &before, "the session ended");
}
