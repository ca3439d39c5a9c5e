//! openresolv's records are root's to write, from inside the sandbox of the installed helper.

use kvpn::desk::{Desk, Names};

#[test]
fn the_sandboxed_helper_tells_openresolv_and_takes_it_back_whoever_is_killed() {
    for package in ["openresolv", "openresolv-new"] {
        let desk = Desk::boot(package, Names::Openresolv(package));
        desk.connects(package);
        let status = desk.ana("kvpn status -o json").ok().json();
        assert_eq!(
            status["sessions"][0]["network"]["dnsBackend"], "openresolv",
            "{package}: {status}"
        );
        // The network comes and goes meanwhile, and its record with it.
        desk.machine
            .shell("resolvconf -d eth0.dhcp; echo nameserver 192.0.2.1 | resolvconf -a eth0.dhcp")
            .ok();
        desk.connects(package);
        desk.ana("kvpn disconnect").ok();
        desk.assert_idle(package);
        for victim in ["helper --serve", "helper --listen", "agent"] {
            desk.connects(package);
            assert!(desk.kill(victim), "{package}: {victim}");
            desk.assert_idle(&format!("{package}: {victim}"));
        }
        desk.connects(package);
        desk.uninstall();
    }
}
