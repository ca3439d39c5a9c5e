//! The helper in network namespaces: what it sets stands, what it refuses is said, and whoever is killed at whatever
//! moment, the machine is as before. Needs root; the program under test is the built `kvpn` (KVPN_BIN).

#![expect(
    clippy::unwrap_used,
    reason = "the tests' own tools panic with the test"
)]

#[path = "netns/names.rs"]
mod names;
#[path = "support/netns.rs"]
mod netns;
#[path = "support/netns_cluster.rs"]
mod netns_cluster;
#[path = "support/netns_dns.rs"]
mod netns_dns;
#[path = "support/netns_sessions.rs"]
mod netns_sessions;
#[path = "netns/routes.rs"]
mod routes;
#[path = "netns/sessions.rs"]
mod sessions;
#[expect(
    dead_code,
    reason = "of the simulator only cores, links and servers are used here"
)]
#[path = "support/sim.rs"]
mod sim;

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use kvpn::outcome::{Outcome, eventually};
use netns::{Agent, Sandbox, pause, session};
use netns_cluster::Served;
use netns_dns::Stub;
use rustix::process::Signal;
use serde_json::{Value, json};
use sim::Setup;

/// A second is what DESIGN.md gives a dead client to leave nothing.
const SOON: Duration = Duration::from_secs(1);
/// How many moments of a session's life somebody is killed at.
const MOMENTS: u32 = 10;
/// `configure` takes 1 to 6 ms: the moments are spread over it and a little beyond.
const BETWEEN_MOMENTS: Duration = Duration::from_micros(600);

#[track_caller]
fn assert_as_before(sandbox: &Sandbox, before: &str, what: &str) {
    let mut now = String::new();
    let same = eventually(SOON, || {
        now = sandbox.traces();
        now == before
    });
    let only_in = |one: &str, other: &str| -> String {
        one.lines()
            .filter(|line| !other.lines().any(|known| known == *line))
            .fold(String::new(), |text, line| text + "\n" + line)
    };
    let (gone, left) = (only_in(before, &now), only_in(&now, before));
    assert!(
        same,
        "{what}: not as before after 1 s\n--- gone{gone}\n--- left{left}"
    );
}

fn texts(answer: &Value, field: &str) -> String {
    answer[field]
        .as_array()
        .unwrap()
        .iter()
        .map(|text| text.as_str().unwrap())
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn addresses_routes_and_names_stand_and_go_with_the_agent() {
    let sandbox = Sandbox::start("stand", &[]);
    let before = sandbox.traces();
    let mut agent = Agent::start(&sandbox);
    let answer = agent.configure(&session());
    assert_eq!(answer["name"], "kvpn0");
    assert_eq!(answer["dnsBackend"], "resolv.conf");
    assert_eq!(
        (texts(&answer, "refused"), texts(&answer, "notes")),
        (String::new(), String::new())
    );
    let link = sandbox
        .shell("ip -o addr show kvpn0; ip -o link show kvpn0")
        .ok()
        .stdout;
    for part in ["198.19.0.2/32", "fd6b:7670:6e00::2/128", "mtu 1360", ",UP,"] {
        assert!(link.contains(part), "{part} in {link}");
    }
    assert!(
        !link.contains("fe80"),
        "no link-local address, so no router solicitations: {link}"
    );
    for address in [
        "10.96.0.1",
        "10.244.3.4",
        "198.19.0.1",
        "198.19.0.3",
        "fd00:10:96::1",
        "fd6b:7670:6e00::3",
    ] {
        let route = sandbox.run(&["ip", "route", "get", address]).ok().stdout;
        assert!(
            route.contains("dev kvpn0") && !route.contains("broadcast"),
            "{route}"
        );
    }

    let added = agent.ask(
        json!({"request": "addRoutes", "routes": ["10.9.8.7/32", "10.9.8.7/32", "fd00::9/128"]}),
    );
    assert_eq!(added["answer"], "done", "{added}");
    assert!(
        sandbox
            .shell("ip route show 10.9.8.7")
            .ok()
            .stdout
            .contains("kvpn0")
    );
    agent.ask(json!({"request": "removeRoutes", "routes": ["10.9.8.7/32", "10.96.0.0/16", "203.0.113.0/24"]}));
    assert_eq!(
        sandbox
            .shell("ip route show 10.9.8.7; ip route show 10.96.0.0/16")
            .ok()
            .stdout,
        ""
    );

    drop(agent);
    assert_as_before(&sandbox, &before, "the agent died");
}

#[test]
fn plain_resolv_conf_leads_to_the_stub_and_comes_back_byte_for_byte() {
    let sandbox = Sandbox::start("plain", &[]);
    let original = "# by hand\t\nsearch corp.example\nnameserver 192.0.2.53\nnameserver 2001:db8::53\noptions timeout:1";
    for (kind, prepare) in [
        (
            "a file",
            "rm -f /etc/resolv.conf; cp /run/original /etc/resolv.conf; chmod 640 /etc/resolv.conf",
        ),
        (
            "a link",
            "cp /run/original /run/target; ln -sfn ../run/target /etc/resolv.conf",
        ),
        (
            "a mounted file",
            "rm -f /etc/resolv.conf; : >/etc/resolv.conf; mount --bind /run/original /etc/resolv.conf",
        ),
    ] {
        sandbox
            .run(&[
                "bash",
                "-c",
                "printf %s \"$1\" >/run/original",
                "bash",
                original,
            ])
            .ok();
        sandbox.shell(prepare).ok();
        let before = sandbox.traces();
        let mut agent = Agent::start(&sandbox);
        let answer = agent.configure(&session());
        assert_eq!(answer["split"], false);
        assert_eq!(
            answer["upstreams"],
            json!(["192.0.2.53:53", "[2001:db8::53]:53"]),
            "{kind}"
        );
        let file = sandbox.shell("grep -v '^#' /etc/resolv.conf").ok().stdout;
        assert_eq!(
            file,
            "search default.svc.cluster.local svc.cluster.local corp.example\nnameserver 198.19.0.3\n\
             nameserver fd6b:7670:6e00::3\noptions timeout:1\n",
            "{kind}"
        );
        let names = json!({"request": "setDns", "servers": ["198.19.0.3"], "search": ["svc.cluster.local"], "routing": []});
        assert_eq!(agent.ask(names)["answer"], "done");
        assert!(
            sandbox
                .shell("cat /etc/resolv.conf")
                .ok()
                .stdout
                .contains("\nsearch svc.cluster.local corp.example\n")
        );
        let released = agent.ask(json!({"request": "release"}));
        assert_eq!(texts(&released, "notes"), "", "{kind}");
        assert_eq!(
            sandbox.traces(),
            before,
            "{kind}: undone before the answer to release"
        );
    }
}

#[test]
fn an_agent_killed_at_any_moment_leaves_nothing() {
    for sandbox in [
        Sandbox::start("agent", &[]),
        Sandbox::with_resolved("agent-resolved"),
    ] {
        let before = sandbox.traces();
        for moment in 0..MOMENTS {
            let mut agent = Agent::start(&sandbox);
            agent.send(session());
            pause(BETWEEN_MOMENTS * moment);
            drop(agent);
            assert_as_before(
                &sandbox,
                &before,
                &format!("the agent died at moment {moment}"),
            );
        }
    }
}

#[test]
fn a_helper_killed_at_any_moment_leaves_nothing_after_the_undo() {
    for sandbox in [
        Sandbox::start("helper", &[]),
        Sandbox::with_resolved("helper-resolved"),
    ] {
        let before = sandbox.traces();
        for moment in 0..MOMENTS {
            let mut agent = Agent::start(&sandbox);
            agent.send(session());
            pause(BETWEEN_MOMENTS * moment);
            agent.signal_helper(Signal::KILL);
            // The agent hears of it, and ends. What it still holds of the TUN goes with it.
            while agent.receive().is_some() {}
            drop(agent);
            sandbox.undo().ok();
            assert_as_before(
                &sandbox,
                &before,
                &format!("the helper was killed at moment {moment}"),
            );
        }
    }
}

#[test]
fn a_killed_helpers_interface_is_removed_even_while_its_agent_lives() {
    let sandbox = Sandbox::start("survivor", &[]);
    let before = sandbox.traces();
    let mut agent = Agent::start(&sandbox);
    agent.configure(&session());
    agent.signal_helper(Signal::KILL);
    assert!(agent.receive().is_none());
    assert!(
        sandbox.traces().contains("198.19.0.3"),
        "resolv.conf waits for the undo"
    );
    let second = Agent::start(&sandbox);
    let undone = texts(&second.hello, "undone");
    assert!(
        undone.contains("DNS settings back") && undone.contains("kvpn0"),
        "the next helper undoes it: {undone}"
    );
    drop(second);
    assert_as_before(&sandbox, &before, "undone by the next helper");
    drop(agent);
}

#[test]
fn the_undo_leaves_living_helpers_alone() {
    let sandbox = Sandbox::start("alive", &[]);
    let mut agent = Agent::start(&sandbox);
    agent.configure(&session());
    let standing = sandbox.traces();
    assert_eq!(sandbox.undo().ok().stdout, "");
    assert_eq!(sandbox.traces(), standing);
    drop(agent);
}

#[test]
fn an_occupied_name_is_an_error_when_asked_for_and_skipped_when_not() {
    let sandbox = Sandbox::start("occupied", &[]);
    sandbox
        .shell("ip link add kvpn0 type veth peer name work; ip tuntap add mode tun dev kvpn1")
        .ok();
    let before = sandbox.traces();
    for taken in ["work", "kvpn1"] {
        let mut agent = Agent::start(&sandbox);
        let mut config = session();
        config["name"] = json!(taken);
        let answer = agent.ask(config);
        let error = answer["error"].as_str().unwrap();
        assert!(
            error.contains(&format!("an interface named {taken} exists already")),
            "{error}"
        );
        assert!(error.contains("choose another name"), "{error}");
        assert_eq!(
            agent.configure(&session())["name"],
            "kvpn2",
            "the helper goes on after a failure"
        );
        drop(agent);
        assert_as_before(&sandbox, &before, taken);
    }
}

#[test]
fn the_machines_own_network_is_never_taken() {
    let sandbox = Sandbox::start("own", &[]);
    sandbox.shell(
        "for name in lan vpn; do
           ip link add ${name}0 type veth peer name ${name}1
           for end in ${name}0 ${name}1; do ip link set $end addrgenmode none; ip link set $end up; done
         done
         ip addr add 192.168.7.2/24 dev lan0
         ip neigh add 192.168.7.30 lladdr 02:00:00:00:00:30 dev lan0 nud stale
         ip neigh add 192.168.7.31 dev lan0 nud failed
         ip addr add 10.200.0.1/32 dev vpn0; ip route add 10.50.0.0/16 dev vpn0
         echo 'nameserver 10.77.0.53' >/etc/resolv.conf",
    ).ok();
    let before = sandbox.traces();
    let mut agent = Agent::start(&sandbox);
    let mut config = session();
    config["routes"] = json!([
        "0.0.0.0/0",
        "127.0.0.0/8",
        "169.254.169.254/32",
        "224.0.0.0/4",
        "192.168.7.0/24",
        "10.50.0.0/16",
        "10.77.0.0/16",
        "8.0.0.0/8",
        "10.50.3.0/24",
        "192.168.7.77/32",
        "192.168.7.30/32",
        "192.168.7.31/32",
        "192.168.7.2/32"
    ]);
    config["dns"]["routing"] = json!([".", "dev", "example.com", "cluster.local"]);
    let answer = agent.configure(&config);
    let refused = texts(&answer, "refused");
    for part in [
        "0.0.0.0/0",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "224.0.0.0/3",
        "lan0",
        "vpn0",
        "10.77.0.53",
        "8.0.0.0/8",
        "root",
        "`dev`",
        "`example.com`",
        "192.168.7.30 is a neighbour",
        "192.168.7.2 is this machine itself",
    ] {
        assert!(refused.contains(part), "{part} in {refused}");
    }
    assert_eq!(answer["refused"].as_array().unwrap().len(), 13, "{refused}");
    assert!(
        texts(&answer, "notes")
            .contains("10.50.3.0/24 is taken out of 10.50.0.0/16, which goes through vpn0"),
        "{answer}"
    );
    let ours = sandbox
        .shell("ip -4 -o route show dev kvpn0 | cut -d' ' -f1")
        .ok()
        .stdout;
    assert_eq!(
        ours.split_whitespace().collect::<Vec<_>>(),
        [
            "10.50.3.0/24",
            "192.168.7.31",
            "192.168.7.77",
            "198.19.0.0/30"
        ]
    );
    drop(agent);
    assert_as_before(&sandbox, &before, "after refusals");

    for (field, wrong) in [
        ("addresses", json!(["10.0.0.2/30"])),
        ("mtu", json!(500)),
        ("name", json!("../x")),
        (
            "dns",
            json!({"servers": ["8.8.8.8"], "search": [], "routing": ["cluster.local"]}),
        ),
    ] {
        let mut agent = Agent::start(&sandbox);
        let mut config = session();
        config[field] = wrong;
        assert_eq!(agent.ask(config)["answer"], "failed", "{field}");
        assert_eq!(
            sandbox
                .shell("ip -o link show | grep -c kvpn")
                .stdout
                .trim(),
            "0",
            "{field}: nothing stays"
        );
    }
}

#[test]
fn a_machine_without_ipv6_gets_the_rest() {
    let sandbox = Sandbox::start("v4only", &[]);
    sandbox
        .shell("echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6")
        .ok();
    let before = sandbox.traces();
    let mut agent = Agent::start(&sandbox);
    let answer = agent.configure(&session());
    assert!(
        texts(&answer, "notes").contains("1 of the cluster's ranges cannot be reached"),
        "{answer}"
    );
    let servers = sandbox
        .shell("grep nameserver /etc/resolv.conf")
        .ok()
        .stdout;
    assert_eq!(servers, "nameserver 198.19.0.3\n");
    drop(agent);
    assert_as_before(&sandbox, &before, "without IPv6");
}

#[test]
fn ctrl_c_and_a_closed_terminal_are_ignored_and_an_orderly_stop_undoes() {
    let sandbox = Sandbox::start("signals", &[]);
    let before = sandbox.traces();
    let mut agent = Agent::start(&sandbox);
    agent.configure(&session());
    let session_leader = sandbox
        .shell(&format!("ps -o sid= -p {}", agent.helper))
        .ok()
        .stdout;
    assert_eq!(
        session_leader.trim(),
        agent.helper.to_string(),
        "in a session of its own"
    );
    for signal in [Signal::INT, Signal::HUP, Signal::QUIT] {
        agent.signal_helper(signal);
        assert_eq!(
            agent.ask(json!({"request": "addRoutes", "routes": []}))["answer"],
            "done",
            "after {signal:?}"
        );
    }
    agent.signal_helper(Signal::TERM);
    assert!(
        agent.receive().is_none(),
        "the agent hears that the helper ended"
    );
    assert_eq!(
        sandbox.traces(),
        before,
        "undone before the end, though the agent still holds the TUN"
    );
}

#[test]
fn two_sessions_have_two_interfaces_but_a_plain_resolv_conf_serves_one() {
    let sandbox = Sandbox::start("two", &[]);
    let before = sandbox.traces();
    let mut first = Agent::start(&sandbox);
    let upstreams = first.configure(&session())["upstreams"].clone();
    let standing = sandbox.traces();
    let mut other = session();
    other["addresses"] = json!(["198.19.0.6/30"]);
    other["routes"] = json!(["10.100.0.0/16", "10.96.0.0/16"]);
    other["dns"]["servers"] = json!(["198.19.0.7"]);
    let mut second = Agent::start(&sandbox);
    let error = second.ask(other.clone())["error"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        error.contains("/etc/resolv.conf belongs to the kvpn session"),
        "{error}"
    );
    other["dns"] = Value::Null;
    let answer = second.configure(&other);
    assert_eq!(answer["name"], "kvpn1");
    assert_eq!(
        texts(&answer, "refused"),
        "",
        "both may have the cluster's range"
    );
    let way = || {
        sandbox
            .run(&["ip", "route", "get", "10.96.0.1"])
            .ok()
            .stdout
    };
    assert!(
        way().contains("kvpn0"),
        "the elder session's route holds: {}",
        way()
    );
    drop(second);
    assert_as_before(&sandbox, &standing, "the second session ended");

    let mut second = Agent::start(&sandbox);
    second.configure(&other);
    let names =
        json!({"request": "setDns", "servers": ["198.19.0.7"], "search": [], "routing": ["b"]});
    let taken = second.ask(names.clone());
    assert_eq!(taken["taken"], true, "{taken}");
    drop(first);
    assert!(
        eventually(SOON, || way().contains("kvpn1")),
        "then the younger's: {}",
        way()
    );
    let mut set = Value::Null;
    let free = || {
        set = second.ask(names.clone());
        set["answer"] == "done"
    };
    assert!(eventually(SOON, free), "and the file is free: {set}");
    assert_eq!(set["dnsBackend"], "resolv.conf");
    assert_eq!(second.news()["upstreams"], upstreams);
    drop(second);
    assert_as_before(&sandbox, &before, "both sessions ended");
}

#[test]
fn nonsense_ends_the_helper_and_undoes() {
    let sandbox = Sandbox::start("nonsense", &[]);
    let before = sandbox.traces();
    for nonsense in [
        &b"{\"id\":7,\"request\":\"shell\",\"command\":\"id\"}\n"[..],
        b"GET / HTTP/1.1\r\n\r\n",
        &[b'x'; 300_000],
    ] {
        let mut agent = Agent::start(&sandbox);
        agent.configure(&session());
        agent.send_raw(nonsense);
        assert!(agent.receive().is_none());
        assert_eq!(sandbox.traces(), before);
    }
}

#[test]
fn the_peer_must_be_root_or_who_called_sudo() {
    let sandbox = Sandbox::start("peer", &[]);
    // A socketpair bears the user who made it; only this thread is another user meanwhile.
    let strangers = std::thread::scope(|scope| {
        let made = scope.spawn(|| {
            let (root, stranger) = (
                rustix::process::Uid::ROOT,
                rustix::process::Uid::from_raw(4242),
            );
            rustix::thread::set_thread_res_uid(root, stranger, root).unwrap();
            UnixStream::pair().unwrap()
        });
        made.join().unwrap()
    });
    Agent::spawn(&sandbox, strangers.1)
        .fails_with(1)
        .says(&["another user", "4242"]);
    let program = netns::program();
    sandbox
        .run(&[&program.to_string_lossy(), "helper"])
        .fails_with(1)
        .says(&["not a socket"]);
}

#[test]
fn resolved_gets_the_links_names_and_loses_them_when_everybody_is_killed() {
    let sandbox = Sandbox::with_resolved("resolved");
    let before = sandbox.traces();
    let mut agent = Agent::start(&sandbox);
    let answer = agent.configure(&session());
    assert_eq!(answer["dnsBackend"], "systemd-resolved");
    assert_eq!(answer["split"], true);
    assert_eq!(answer["upstreams"], json!(["10.99.1.53:53"]));
    let link = sandbox
        .shell("chroot $KVPN_BOX_ROOT resolvectl status kvpn0")
        .ok()
        .stdout;
    for part in [
        "Current Scopes: DNS",
        "-DefaultRoute",
        "-LLMNR",
        "-mDNS",
        "-DNSOverTLS",
        "DNSSEC=no",
        "198.19.0.3",
        "~cluster.local",
        "~96.10.in-addr.arpa",
    ] {
        assert!(link.contains(part), "{part} in {link}");
    }

    let stub = Stub::start(
        agent.tun.as_ref().unwrap().try_clone().unwrap(),
        &[("web.default.svc.cluster.local", [10, 96, 0, 7])],
    );
    let ask = |name: &str| dig(&sandbox, name);
    assert_eq!(
        ask("web.default.svc.cluster.local").trim(),
        "10.96.0.7",
        "cluster names go through the TUN"
    );
    assert_eq!(
        ask("example.com").trim(),
        "198.51.100.7",
        "public names go where they went"
    );
    let by_nss = sandbox
        .shell("chroot $KVPN_BOX_ROOT getent ahostsv4 web")
        .ok()
        .stdout;
    assert!(
        by_nss.starts_with("10.96.0.7"),
        "a short name through nss-resolve and the search list: {by_nss}"
    );

    let names = json!({"request": "setDns", "servers": ["198.19.0.3"], "search": [], "routing": ["cluster.local", "other"]});
    assert_eq!(agent.ask(names)["answer"], "done");
    let domains = sandbox
        .shell("chroot $KVPN_BOX_ROOT resolvectl domain kvpn0")
        .ok()
        .stdout;
    assert!(
        domains.contains("~other") && !domains.contains("default"),
        "{domains}"
    );

    agent.signal_helper(Signal::KILL);
    drop(agent);
    stub.end();
    sandbox.undo().ok();
    assert_as_before(&sandbox, &before, "helper and agent were killed");
    assert_eq!(ask("example.com").trim(), "198.51.100.7");
}

fn dig(sandbox: &Sandbox, name: &str) -> String {
    let line = format!("chroot $KVPN_BOX_ROOT dig +short +time=2 +tries=1 {name} A");
    sandbox.shell(&line).ok().stdout
}

/// Two clusters have 10.96.0.0/12, and an echo server at 10.96.0.7 with the same name. The second one's appears as 100.64.0.7.
#[test]
fn one_shell_reaches_two_clusters_with_equal_ranges_by_name() {
    let sandbox = Sandbox::with_resolved("twins");
    let before = sandbox.traces();
    let first = Setup {
        own_domain: Some("a.kvpn.internal"),
        ..Setup::udp_only(1)
    };
    let second = Setup {
        own_domain: Some("b.kvpn.internal"),
        shown: Some("100.64.0.0/12"),
        avoid: vec!["198.19.0.0/28".parse().unwrap()],
        ..Setup::udp_only(2)
    };
    let sessions = [first, second].map(|setup| Served::start(&sandbox, setup));
    for session in &sessions {
        assert_eq!(texts(&session.settled, "refused"), "");
    }
    for (name, address, interface) in [
        ("echo.default.a.kvpn.internal", "10.96.0.7", "kvpn0"),
        ("echo.default.b.kvpn.internal", "100.64.0.7", "kvpn1"),
        ("echo.a.kvpn.internal", "10.96.0.7", "kvpn0"),
        ("echo.b.kvpn.internal", "100.64.0.7", "kvpn1"),
    ] {
        let by_nss = format!("chroot $KVPN_BOX_ROOT getent ahostsv4 {name}");
        let by_nss = sandbox.shell(&by_nss).ok().stdout;
        assert!(by_nss.starts_with(address), "{name}: {by_nss}");
        let way = sandbox.run(&["ip", "route", "get", address]).ok().stdout;
        assert!(way.contains(interface), "{name}: {way}");
        let echo = format!(
            "exec 3<>/dev/tcp/{address}/7; echo hello {name} >&3; read -t 5 line <&3; echo $line"
        );
        assert_eq!(
            sandbox.shell(&echo).ok().stdout.trim(),
            format!("hello {name}")
        );
    }
    for session in sessions {
        assert!(session.end() > 2, "both clusters served");
    }
    assert_as_before(&sandbox, &before, "both sessions ended");
}

/// systemd-resolved asks every session that routes the longest matching domain: who knows the name wins.
#[test]
fn a_name_that_one_of_two_sessions_has_is_found() {
    let sandbox = Sandbox::with_resolved("either");
    let mut config = session();
    config["dns"]["search"] = json!(["payments.svc.cluster.local"]);
    config["dns"]["routing"] = json!(["cluster.local", "svc", "default", "payments"]);
    let mut first = Agent::start(&sandbox);
    first.configure(&config);
    config["addresses"] = json!(["198.19.0.6/30"]);
    config["routes"] = json!(["100.64.0.0/16"]);
    config["dns"] = json!({
        "servers": ["198.19.0.7"], "search": ["orders.svc.cluster.local"],
        "routing": ["cluster.local", "svc", "default", "orders", "64.100.in-addr.arpa"],
    });
    let mut second = Agent::start(&sandbox);
    let answer = second.configure(&config);
    assert_eq!(texts(&answer, "refused"), "");
    let stub =
        |agent: &Agent, names| Stub::start(agent.tun.as_ref().unwrap().try_clone().unwrap(), names);
    let stubs = [
        stub(
            &first,
            &[
                ("web.payments", [10, 96, 0, 7]),
                ("db.tools.svc.cluster.local", [10, 96, 0, 8]),
                ("api.payments.svc.cluster.local", [10, 96, 0, 9]),
                ("api.orders.svc.cluster.local", [10, 96, 0, 10]),
            ],
        ),
        stub(
            &second,
            &[
                ("web.orders", [100, 64, 0, 7]),
                ("queue.tools.svc.cluster.local", [100, 64, 0, 8]),
                ("api.payments.svc.cluster.local", [100, 64, 0, 9]),
                ("api.orders.svc.cluster.local", [100, 64, 0, 10]),
            ],
        ),
    ];
    for (name, address) in [
        ("web.payments", "10.96.0.7"),
        ("web.orders", "100.64.0.7"),
        ("db.tools.svc.cluster.local", "10.96.0.8"),
        ("queue.tools.svc.cluster.local", "100.64.0.8"),
        // Both know it, and its namespace is the one that a session is connected to.
        ("api.payments.svc.cluster.local", "10.96.0.9"),
        ("api.orders.svc.cluster.local", "100.64.0.10"),
    ] {
        assert_eq!(dig(&sandbox, name).trim(), address, "{name}");
    }
    drop((first, second));
    for stub in stubs {
        stub.end();
    }
}

#[test]
fn the_box_ends_without_a_trace() {
    let mounts = || {
        fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .matches("kvpn-box")
            .count()
    };
    let before = mounts();
    drop(Sandbox::start("trace", &[]));
    assert_eq!(mounts(), before);
}

#[test]
fn without_any_privilege_a_network_of_its_own_stands() {
    let sandbox = Sandbox::start("unprivileged", &[]);
    sandbox
        .shell("echo 'hosts: files resolve [!UNAVAIL=return] dns' > /etc/nsswitch.conf; mkdir /run/nscd; touch /run/nscd/socket")
        .ok();
    let before = sandbox.traces();
    let mut agent = Agent::start_own(&sandbox);
    let beside = Agent::start_own(&sandbox);
    let answer = agent.configure(&session());
    assert_eq!(
        (&answer["name"], &answer["dnsBackend"]),
        (&json!("kvpn0"), &json!("own resolv.conf"))
    );
    let said = agent
        .inside(
            &sandbox,
            "ip -o addr; ip route; cat /etc/resolv.conf /etc/nsswitch.conf; wc -c /run/nscd/socket; (exec 3<>/dev/tcp/127.0.0.1/9) 2>&1; \
             grep -E '^(Uid|CapEff|Groups)' /proc/self/status",
        )
        .ok();
    said.prints(&[
        "198.19.0.2/32",
        "10.96.0.0/16 dev kvpn0",
        "search default.svc.cluster.local svc.cluster.local",
        "nameserver 198.19.0.3",
        "hosts: files dns",
        // Loopback is up: who is not there refuses.
        "Connection refused",
    ]);
    // Nobody else has it: not the machine, not the next one.
    let other = beside
        .inside(&sandbox, "ip -o link; cat /etc/resolv.conf")
        .ok();
    assert!(
        !other.stdout.contains("kvpn0") && !other.stdout.contains("198.19.0.3"),
        "{other}"
    );
    assert!(!sandbox.traces().contains("kvpn0"));
    drop(agent);
    drop(beside);
    assert_as_before(&sandbox, &before, "the agents' end");
}

#[test]
fn where_user_namespaces_are_off_the_remedy_is_told() {
    let sandbox = Sandbox::start("unprivileged-off", &[]);
    // In a user namespace of its own, so that the machine's setting stays.
    let line = "echo 0 > /proc/sys/user/max_user_namespaces && exec /run/kvpn-program helper --own";
    let (_agent, theirs) = UnixStream::pair().unwrap();
    let words = ["unshare", "--user", "--map-root-user", "sh", "-c", line];
    let mut command = sandbox.unprivileged(&words);
    let refused = Outcome::of(command.stdin(OwnedFd::from(theirs))).fails_with(1);
    let failure: Value = serde_json::from_str(&refused.stdout).unwrap();
    let hint = failure["hint"].as_str().unwrap();
    assert!(
        hint.contains("sudo sysctl user.max_user_namespaces=10000"),
        "{failure}"
    );
}
