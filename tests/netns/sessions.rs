//! Several sessions of a machine at once, with agents and helpers as `kvpn connect` starts them.

use std::time::Duration;

use kvpn::outcome::eventually;

use crate::assert_as_before;
use crate::netns_sessions::Laptop;

/// What follows something that happened to another session.
const SECONDS: Duration = Duration::from_secs(5);

/// The session that has taken the names, once the others are its guests.
#[track_caller]
fn new_owner<'a>(laptop: &Laptop, sessions: &[&'a str], own: &str, when: &str) -> &'a str {
    let mut owner = None;
    let mut backends = Vec::new();
    let settled = eventually(SECONDS, || {
        let backend = |name: &&str| laptop.session(name)["network"]["dnsBackend"].clone();
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
    fn of(self, laptop: &Laptop, owner: &str) {
        if matches!(self, Self::Disconnected) {
            laptop.kvpn(&["disconnect", owner]).ok();
            return;
        }
        let agent = laptop.session(owner)["pid"].to_string();
        let helper = match self {
            Self::AllKilled => laptop.helper_of(owner),
            Self::Disconnected | Self::Killed => String::new(),
        };
        laptop
            .sandbox
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
        let before = laptop.sandbox.traces();
        let mut sessions = vec!["a", "b", "c"];
        let mut names = vec![("example.com".to_owned(), "198.51.100.7".to_owned())];
        for session in &sessions {
            laptop.connect(session);
            let name = format!("web.default.{session}.kvpn.internal");
            let address = laptop.look_up(&name);
            assert!(!address.is_empty(), "{name} at first");
            names.push((name, address));
        }
        let mut owner = sessions[0];
        for end in ends {
            let when = format!("{who}, {owner} {end:?}");
            end.of(&laptop, owner);
            sessions.retain(|session| *session != owner);
            names.retain(|(name, _)| !name.ends_with(&format!(".{owner}.kvpn.internal")));
            owner = new_owner(&laptop, &sessions, own, &when);
            assert_names(&laptop, &names, &when);
        }
        laptop.kvpn(&["disconnect", owner]).ok();
        assert_as_before(&laptop.sandbox, &before, who);
    }
}
