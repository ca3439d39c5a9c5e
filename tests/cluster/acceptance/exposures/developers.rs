//! Several developers on one Service: each gets what is theirs, at once, and nobody gets what is another's.

use std::thread;

use kvpn::cluster::PATIENCE;
use kvpn::developer::Developer;
use kvpn::exposures::ORIGIN;
use kvpn::outcome::eventually;

use super::CONFLICT;
use super::failures::in_a_scene;
use super::scene::Scene;

#[test]
fn two_developers_and_everyone_else_at_once() {
    in_a_scene("kvpn-test-developers", |scene| {
        let bob = Developer::start("bob", scene.origin.namespace);
        scene
            .ana
            .exposes("8080:80 8081:grpc as web --match 'x-dev: ana'");
        bob.exposes("8080:80 8081:grpc as web --match 'x-dev: bob'");
        for name in ["ana", "bob"] {
            let header = format!("x-dev: {name}");
            assert!(
                scene
                    .origin
                    .matched_by("web", &["-header", &header], name, PATIENCE),
                "{name}"
            );
        }
        each_gets_their_own(scene);
        a_third_who_overlaps_is_told_whose_it_is(scene);

        // One leaves, the other stays; the last one restores the Service.
        scene.ana.kvpn("unexpose web").ok();
        let matched = |name: &str, server: &str| {
            scene
                .origin
                .matched_by("web", &["-header", name], server, PATIENCE)
        };
        assert!(matched("x-dev: ana", ORIGIN) && matched("x-dev: bob", "bob"));
        bob.kvpn("unexpose web").ok();
        scene.origin.is_again("web", &scene.before, PATIENCE);
    });
}

/// 1,000 requests each, in three modes, all at the same time.
fn each_gets_their_own(scene: &Scene) {
    let url = scene.origin.url("web");
    let askers = [
        ("x-dev: ana", "ana"),
        ("x-dev: bob", "bob"),
        ("x-dev: eve", ORIGIN),
    ];
    let counts = thread::scope(|scope| {
        let mut threads = Vec::new();
        for (header, server) in askers {
            for mode in ["new", "keepalive", "h2"] {
                let words = [
                    "-mode", mode, "-to", &url, "-header", header, "-n", "1000", "-c", "4",
                ];
                let words = words.map(ToOwned::to_owned);
                let origin = &scene.origin;
                let ask = move || origin.asks(&words.each_ref().map(String::as_str));
                threads.push((server, scope.spawn(ask)));
            }
        }
        let join = |(server, thread): (_, thread::ScopedJoinHandle<'_, _>)| {
            (server, thread.join().unwrap())
        };
        threads.into_iter().map(join).collect::<Vec<_>>()
    });
    for (server, count) in counts {
        println!("for {server}: {count}");
        count.is(&[(server, 1000)]);
    }
}

fn a_third_who_overlaps_is_told_whose_it_is(scene: &Scene) {
    let eve = Developer::start("eve", scene.origin.namespace);
    for options in [
        "--match 'x-dev: ana'",
        "--match 'x-dev=~a.*'",
        "--match-path /",
        "--takeover",
    ] {
        let refused = eve.kvpn(&format!("expose --detach 8080:80 as web {options}"));
        let owner = format!("dev@{}", scene.ana.laptop.name());
        refused.fails_with(CONFLICT).says(&[&owner]);
    }
    let still = eventually(PATIENCE, || {
        scene
            .origin
            .matched_by("web", &["-header", "x-dev: ana"], "ana", PATIENCE)
    });
    assert!(still, "the third one changed something");
}
