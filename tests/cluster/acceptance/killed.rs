//! kill -9 leaves nothing: the helper undoes what a dead agent had, `kvpn disconnect` what a dead helper had.

use std::time::Duration;

use kvpn::gateway::Datapath;
use kvpn::laptop::{Laptop, Resolver, Role};
use kvpn::outcome::eventually;

/// Milliseconds after the start of `connect`; most fall into it, the last ones into the connected time.
const MOMENTS: [u64; 10] = [20, 60, 110, 170, 240, 330, 450, 700, 1200, 2500];

#[test]
fn the_agent_at_any_moment_with_a_plain_resolv_conf() {
    kill_agent_at_all_moments(Resolver::Plain);
}

#[test]
fn the_agent_at_any_moment_with_systemd_resolved() {
    kill_agent_at_all_moments(Resolver::Resolved);
}

fn kill_agent_at_all_moments(resolver: Resolver) {
    let gateway = Datapath::Userspace.gateway();
    let laptop = Laptop::start(
        &format!("agent-killed-{resolver:?}").to_lowercase(),
        resolver,
    );
    let before = laptop.traces();
    for moment in MOMENTS {
        let mut connect = laptop.spawn(&["kvpn", "connect", "--gateway-namespace", gateway]);
        pause(Duration::from_millis(moment));
        kill(&laptop, &[Role::Agent]);
        connect.wait().unwrap();
        kill(&laptop, &[Role::Agent]);
        let killed = format!("the agent was killed, {moment} ms after connect began,");
        laptop.is_as_before(&before, Duration::from_secs(1), killed);
    }
    laptop.connect(Datapath::Userspace, &[]);
    laptop.kvpn(&["disconnect"]).ok();
    laptop.is_as_before(&before, Duration::from_secs(1), "disconnect");
}

#[test]
fn the_helper_with_a_plain_resolv_conf() {
    kill_and_disconnect(Resolver::Plain, &[Role::Helper]);
}

#[test]
fn the_helper_with_systemd_resolved() {
    kill_and_disconnect(Resolver::Resolved, &[Role::Helper]);
}

#[test]
fn both_with_a_plain_resolv_conf() {
    kill_and_disconnect(Resolver::Plain, &[Role::Helper, Role::Agent]);
}

#[test]
fn both_with_systemd_resolved() {
    kill_and_disconnect(Resolver::Resolved, &[Role::Helper, Role::Agent]);
}

fn kill_and_disconnect(resolver: Resolver, roles: &[Role]) {
    let laptop = Laptop::start(
        &format!("killed-{}-{resolver:?}", roles.len()).to_lowercase(),
        resolver,
    );
    let before = laptop.traces();
    laptop.connect(Datapath::Userspace, &[]);
    for role in roles {
        assert!(
            !laptop.processes(*role).is_empty(),
            "{role:?} is not running"
        );
    }
    kill(&laptop, roles);
    let ended = laptop.kvpn(&["disconnect"]);
    laptop.is_as_before(&before, Duration::from_secs(1), ended);
    laptop.connect(Datapath::Userspace, &[]);
    laptop.fetch("http://echo/").ok();
    laptop.kvpn(&["disconnect"]).ok();
    laptop.is_as_before(&before, Duration::from_secs(1), "disconnect");
}

/// Kills all processes of these roles at once, and waits until they are gone.
fn kill(laptop: &Laptop, roles: &[Role]) {
    let running = || -> Vec<u32> {
        roles
            .iter()
            .flat_map(|role| laptop.processes(*role))
            .collect()
    };
    let pids = running();
    let list: String = pids.iter().map(|pid| format!(" {pid}")).collect();
    laptop
        .shell(&format!("kill -KILL{list} 2>/dev/null || true"))
        .ok();
    let gone = eventually(Duration::from_secs(2), || {
        running().iter().all(|pid| !pids.contains(pid))
    });
    assert!(gone, "{roles:?}, {pids:?} survived SIGKILL");
}

#[expect(
    clippy::disallowed_methods,
    reason = "the moment of the kill is the test's input, not a condition"
)]
fn pause(time: Duration) {
    std::thread::sleep(time);
}
