//! `kvpn service` on a booted systemd: installed, used without sudo, misused, upgraded and removed without a trace. Needs root; the
//! program under test is the built `kvpn` (KVPN_BIN).

#![expect(
    clippy::unwrap_used,
    reason = "the tests' own tools panic with the test"
)]
#![expect(
    clippy::print_stdout,
    reason = "which moments were drawn belongs into the test's output"
)]

#[path = "service/killed.rs"]
mod killed;
#[path = "service/openresolv.rs"]
mod openresolv;

use std::time::Duration;

use kvpn::machine::{Lease, Machine};
use kvpn::outcome::eventually;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(5);
/// Within this the installed helper has noticed that a lease is over.
const AT_ONCE: Duration = Duration::from_secs(1);

fn session() -> Value {
    json!({
        "request": "configure", "addresses": ["198.19.0.2/30"], "mtu": 1360, "routes": ["10.96.0.0/16"],
        "dns": { "servers": ["198.19.0.3"], "search": ["shop.svc.cluster.local"], "routing": ["cluster.local"] },
    })
}

#[track_caller]
fn configured(lease: &mut Lease) -> Value {
    let hello = lease.receive().unwrap();
    assert_eq!(hello["answer"], "hello", "{hello}");
    let answer = lease.ask(session());
    assert_eq!(answer["answer"], "configured", "{answer}");
    answer
}

#[test]
fn members_of_the_group_get_a_network_and_others_do_not() {
    let machine = Machine::boot("service");
    let before = machine.traces();
    machine
        .shell("SUDO_UID=$(id -u ana) SUDO_GID=$(id -g ana) kvpn service install")
        .ok()
        .says(&["ana is a member"]);
    let status = machine
        .shell_as("ana", "kvpn service status -o json")
        .ok()
        .json();
    assert_eq!(
        (&status["active"], &status["names"]),
        (&json!(true), &json!("systemd-resolved"))
    );
    machine
        .shell("kvpn service install")
        .ok()
        .prints(&["runs already"]);
    let score = machine
        .shell("systemd-analyze security --no-pager --threshold=20 kvpn-helper.service")
        .ok();
    assert!(score.stdout.contains("Overall exposure level"), "{score}");

    let mut ana = machine.lease("ana", true);
    assert_eq!(configured(&mut ana)["dnsBackend"], "systemd-resolved");
    machine
        .shell(
            "ip -o addr show kvpn0; ip route; resolvectl domain kvpn0; ps -eo user=,args= | grep '[k]vpn helper'",
        )
        .ok()
        .prints(&[
            "198.19.0.2/32",
            "10.96.0.0/16 dev kvpn0",
            "~cluster.local",
            "kvpn     kvpn helper --serve",
        ]);
    let mut others: Vec<Lease> = (1..4).map(|_| machine.lease("ana", true)).collect();
    for other in &mut others {
        assert_eq!(other.receive().unwrap()["answer"], "hello");
    }
    let refused = machine.lease("ana", true).receive().unwrap();
    assert_eq!(
        (&refused["answer"], &refused["taken"]),
        (&json!("failed"), &json!(true))
    );
    assert_eq!(
        machine.lease("bo", false).receive(),
        None,
        "bo is no member"
    );
    machine.shell("gpasswd --add bo kvpn").ok();
    assert_eq!(
        machine.lease("bo", true).receive().unwrap()["answer"],
        "hello"
    );

    drop((ana, others));
    let gone = || !machine.shell("ip -o link").ok().stdout.contains("kvpn0");
    assert!(eventually(AT_ONCE, gone), "the interface stays");
    let again = || machine.lease("ana", true).receive().unwrap()["answer"] == "hello";
    assert!(eventually(AT_ONCE, again), "the lease is not given back");

    let mut ana = machine.lease("ana", true);
    configured(&mut ana);
    machine.shell("kvpn service uninstall").ok();
    assert_eq!(ana.receive(), None, "the lease ends with the service");
    drop(ana);
    assert_eq!(machine.traces(), before);
}

#[test]
fn whoever_is_killed_the_service_comes_back_and_nothing_is_left() {
    let machine = Machine::boot("service-killed");
    machine.shell("kvpn service install --user ana").ok();
    let served = || {
        let mut lease = machine.lease("ana", true);
        lease
            .receive()
            .is_some_and(|answer| answer["answer"] == "hello")
    };
    for victim in ["helper --serve", "helper --listen"] {
        let mut ana = machine.lease("ana", true);
        configured(&mut ana);
        machine
            .shell(&format!("pkill -KILL -f '^[^ ]*kvpn {victim}'"))
            .ok();
        drop(ana);
        assert!(
            eventually(SOON, served),
            "{victim}: the service is not back"
        );
        let left = machine.shell("ip -o link; resolvectl domain").ok().stdout;
        assert!(!left.contains("kvpn"), "{victim}: {left}");
    }
}

#[test]
fn a_hostile_member_changes_nothing_and_the_memory_stays() {
    let machine = Machine::boot("service-hostile");
    machine
        .shell("kvpn service install --user ana --user bo")
        .ok();
    let memory = || -> u64 {
        let line = "awk '/VmRSS/ {print $2}' /proc/$(systemctl show -P MainPID kvpn-helper)/status";
        machine.shell(line).ok().stdout.trim().parse().unwrap()
    };
    let mut bo = machine.lease("bo", true);
    configured(&mut bo);
    let (before, links) = (memory(), machine.shell("ip -o addr; ip route").ok().stdout);
    for message in [
        "x".repeat(4 << 20),
        "{\"id\":1,\"request\":\"nonsense\"}\n".to_owned(),
        "\0\u{1}\u{2}\n".to_owned(),
        format!("{}\n", "[".repeat(100_000)),
        "{\"id\":1,\"request\":\"configure\",\"addresses\":[\"10.0.0.1/8\"],\"mtu\":9,\"routes\":[\"0.0.0.0/0\"],\"dns\":null}\n".to_owned(),
    ] {
        let told = || {
            let mut ana = machine.lease("ana", true);
            let hello = ana.receive().unwrap();
            if hello["answer"] != "hello" {
                return false;
            }
            ana.send_raw(message.as_bytes());
            ana.receive().is_none_or(|answer| answer["answer"] == "failed")
        };
        assert!(eventually(SOON, told), "{:.40}", message);
    }
    let _held = machine.lease("ana", true);
    machine.knock("ana", 1000);
    assert_eq!(machine.shell("ip -o addr; ip route").ok().stdout, links);
    let after = memory();
    assert!(
        after <= before + 1024,
        "{before} KiB before, {after} KiB after"
    );
    assert_eq!(
        bo.ask(json!({ "request": "addRoutes", "routes": ["10.97.0.0/16"] }))["answer"],
        "done"
    );
}

/// Where /etc/resolv.conf is the only way, the helper is root's: a sandbox all the same, and what it writes is taken back.
#[test]
fn a_plain_resolv_conf_is_put_back_whoever_is_killed() {
    let machine = Machine::boot("service-file");
    machine
        .shell(
            "systemctl disable --now systemd-resolved && sed -i 's/^hosts:.*/hosts: files dns/' /etc/nsswitch.conf
             rm /etc/resolv.conf && echo nameserver 192.0.2.1 >/etc/resolv.conf",
        )
        .ok();
    machine.shell("kvpn service install --user ana").ok();
    let status = machine.shell("kvpn service status -o json").ok().json();
    assert_eq!(status["names"], "resolv.conf");
    machine
        .shell("systemd-analyze security --no-pager --threshold=20 kvpn-helper.service")
        .ok();
    let file = || machine.shell("cat /etc/resolv.conf").ok().stdout;
    let before = file();
    for victim in ["helper --serve", "helper --listen", "helper"] {
        let mut lease = None;
        let is_given = || {
            let mut ana = machine.lease("ana", true);
            let hello = ana
                .receive()
                .is_some_and(|hello| hello["answer"] == "hello");
            lease = Some(ana);
            hello
        };
        assert!(eventually(SOON, is_given), "no lease before {victim}");
        let mut ana = lease.expect("it was just given");
        let answer = ana.ask(session());
        assert_eq!(answer["dnsBackend"], "resolv.conf", "{answer}");
        assert_ne!(file(), before);
        let kill = format!("pkill -KILL -f '^[^ ]*kvpn {victim}'");
        machine.shell(&kill).ok();
        assert!(
            eventually(SOON, || file() == before),
            "{victim}: {}",
            file()
        );
    }
    machine.shell("kvpn service uninstall").ok();
    assert_eq!(file(), before);
}
