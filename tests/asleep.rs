//! A laptop that sleeps: a virtual machine, suspended to memory by its own kernel. Nothing runs meanwhile, and the clock that
//! connections are timed with stands. Needs root and QEMU; the programs under test are the built `kvpn` (KVPN_BIN) and the
//! `kvpn-gateway` beside it.

use std::time::Duration;

use kvpn::desk::{Desk, Names};
use kvpn::outcome::eventually;

/// Longer than a nap, which leaves a session as it was.
const ASLEEP: Duration = Duration::from_secs(3);
/// Within this after waking everything is as before; whether the machine slept is looked at every 2 s.
const SOON: Duration = Duration::from_secs(20);
/// Asks as the machine's programs do.
const RESOLVES: &str = "timeout 3 getent ahostsv4 web | grep -q ^10.96.0.7 && timeout 3 getent ahostsv4 example.com | grep -q ^198.51.100.7";

/// Writes its own names until kvpn has given up.
const FIGHT: &str = "echo 'nameserver 10.0.2.2' >/run/theirs; quiet=0
until [ $quiet = 20 ]; do
  if cmp -s /run/theirs /etc/resolv.conf; then quiet=$((quiet + 1)); else cp /run/theirs /etc/resolv.conf; quiet=0; fi
  sleep 0.1
done";

#[track_caller]
fn assert_works_again(desk: &Desk, sleeps: usize, when: &str) {
    let works = || desk.ask().code == 0 && desk.machine.shell(RESOLVES).code == 0;
    assert!(
        eventually(SOON, works),
        "{when}: {}",
        desk.ana("kvpn status")
    );
    let log = || desk.ana("cat .local/state/kvpn/*.log").ok().stdout;
    let noticed = || log().matches("the machine slept").count() == sleeps;
    assert!(eventually(SOON, noticed), "{when}: {}", log());
}

#[track_caller]
fn assert_forgot(desk: &Desk, how: &str) {
    desk.machine.shell(how).ok();
    assert_ne!(desk.machine.shell(RESOLVES).code, 0, "{how}");
}

#[test]
fn names_and_addresses_answer_again_after_a_sleep() {
    let Some(mut desk) = Desk::boot_vm("asleep", Names::Resolved) else {
        return;
    };
    desk.connects("at first");
    desk.machine.sleep_for(ASLEEP, || {});
    assert_works_again(&desk, 1, "nothing happened meanwhile");

    // Nobody tells the helper of that.
    assert_forgot(&desk, "resolvectl revert kvpn0");
    desk.machine.sleep_for(ASLEEP, || {});
    assert_works_again(&desk, 2, "systemd-resolved forgot the names");

    let (machine, played) = (&desk.machine, &mut desk.played);
    machine.sleep_for(ASLEEP, || played.pass_leases());
    assert_works_again(&desk, 3, "the lease had passed");
    desk.ana("kvpn disconnect").ok();
    desk.assert_idle("disconnected");

    let desk = desk.with_names(Names::File);
    desk.connects("with a plain resolv.conf");
    assert_forgot(&desk, FIGHT);
    desk.machine.sleep_for(ASLEEP, || {});
    assert_works_again(&desk, 4, "resolv.conf was left to somebody else");
    desk.ana("kvpn disconnect").ok();
    desk.assert_idle("disconnected at last");
    desk.uninstall();
}
