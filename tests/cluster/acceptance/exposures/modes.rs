//! Which traffic goes to the laptop: everything, what matches, a share, a copy; and what becomes of it when nothing listens there.

use kvpn::cluster::{Cluster, PATIENCE};
use kvpn::exposures::ORIGIN;
use kvpn::outcome::eventually;
use kvpn::traffic::Count;

use super::failures::in_a_scene;
use super::scene::Scene;

const ANA: &str = "ana";
const PORTS: &str = "8080:80 8081:grpc";

/// Options of expose, words of `traffic burst` whose requests match, and some that do not.
const MATCHES: [(&str, &[&str], &[&str]); 7] = [
    (
        "--match 'x-dev: ana'",
        &["-header", "x-dev: ana"],
        &["-header", "x-dev: bob"],
    ),
    ("--match 'x-dev: ana'", &["-header", "X-DEV: ana"], &[]),
    (
        "--match 'cookie=~dev=(ana|bob)'",
        &["-header", "cookie: a=b; dev=bob"],
        &["-header", "cookie: dev=eve"],
    ),
    (
        "--match 'x-dev: ana' --match 'x-team: shop'",
        &["-header", "x-dev: ana", "-header", "x-team: shop"],
        &["-header", "x-dev: ana"],
    ),
    (
        "--match-path /api",
        &["-path", "/api/items?x=1"],
        &["-path", "/apis"],
    ),
    (
        "--match-method PUT --match-method DELETE",
        &["-method", "DELETE"],
        &["-method", "POST"],
    ),
    (
        "--match-method POST --match 'x-dev: ana'",
        &["-method", "POST", "-header", "x-dev: ana"],
        &["-header", "x-dev: ana"],
    ),
];

#[test]
fn what_matches_goes_to_the_laptop_and_the_rest_to_the_origin() {
    in_a_scene("kvpn-test-matches", |scene| {
        for (options, matching, other) in MATCHES {
            scene.ana.exposes(&format!("{PORTS} as web {options}"));
            assert!(
                scene.origin.matched_by("web", matching, ANA, PATIENCE),
                "{options}: {matching:?}"
            );
            for mode in ["new", "keepalive", "h2"] {
                let ask = |words: &[&str]| {
                    let url = scene.origin.url("web");
                    scene.origin.asks(
                        &[&["-mode", mode, "-to", &url, "-n", "50", "-c", "4"], words].concat(),
                    )
                };
                ask(matching).is(&[(ANA, 50)]);
                ask(other).is(&[(ORIGIN, 50)]);
            }
            scene.ana.kvpn("unexpose web").ok();
            scene.origin.is_again("web", &scene.before, PATIENCE);
        }
    });
}

/// Every kind of HTTP, matched: bodies both ways with trailers, WebSocket, server-sent events, gRPC.
#[test]
fn matches_in_every_kind_of_http() {
    in_a_scene("kvpn-test-http-kinds", |scene| {
        scene
            .ana
            .exposes(&format!("{PORTS} as web --match 'x-dev: ana'"));
        let host = scene.origin.address("web");
        for (header, server) in [("x-dev: ana", ANA), ("x-dev: bob", ORIGIN)] {
            let words = [
                "every",
                "-host",
                &host,
                "-lines",
                "0",
                "-datagrams",
                "0",
                "-header",
                header,
            ];
            all_by(scene, &words, server);
        }
    });
}

/// A real gRPC library on both sides: streams of one connection go different ways.
#[test]
fn streams_of_one_connection_go_different_ways() {
    in_a_scene("kvpn-test-streams", |scene| {
        anas_header_is_anas(scene);
        let target = format!("{}:8081", scene.origin.address("web"));
        let found = scene.origin.asks_in_all_ways(&[
            "streams",
            "-to",
            &target,
            "-header",
            "x-dev: ana",
            "-n",
            "50",
        ]);
        assert_eq!(found.len(), 8, "four kinds of calls, matched and not");
        for (kind, count) in found {
            println!("{count}");
            count.is(&[(
                if kind.ends_with("unmatched") {
                    ORIGIN
                } else {
                    ANA
                },
                50,
            )]);
        }
    });
}

/// 1,000 requests, of which 300 are expected at the laptop; seven standard deviations are 101.
#[test]
fn a_share_of_the_requests() {
    in_a_scene("kvpn-test-weight", |scene| {
        scene.ana.exposes(&format!("{PORTS} as web --weight 30%"));
        assert!(
            eventually(PATIENCE, || asks(scene, &["-n", "20"]).by(ANA) > 0),
            "none goes to the laptop"
        );
        let count = asks(scene, &["-n", "1000"]);
        println!("{count}");
        assert!((199..=401).contains(&count.by(ANA)), "{count}");
        assert_eq!(count.by(ANA) + count.by(ORIGIN), 1000, "{count}");
    });
}

/// The origin answers everything; the laptop gets all of it too, bodies included.
#[test]
fn a_copy_of_the_requests() {
    in_a_scene("kvpn-test-mirror", |scene| {
        let before = asks(scene, &["-mode", "keepalive", "-n", "2000", "-c", "1"]);
        let received = |field: &str| {
            let received = scene
                .ana
                .laptop
                .fetch("http://127.0.0.1:8080/received")
                .ok()
                .json();
            received[field].as_u64().unwrap()
        };
        // kube-proxy sends later connections through the gateway; one kept from before would stay with the origin.
        let own = received("requests");
        scene.ana.exposes(&format!("{PORTS} as web --mirror"));
        assert!(eventually(PATIENCE, || asks(scene, &["-n", "1"])
            .by(ORIGIN)
            == 1
            && received("requests") > own));
        let (requests, bytes) = (received("requests"), received("bytes"));
        let mirrored = asks(scene, &["-mode", "keepalive", "-n", "2000", "-c", "1"]);
        mirrored.is(&[(ORIGIN, 2000)]);
        asks(scene, &["-mode", "echo", "-n", "20", "-c", "2"]).is(&[(ORIGIN, 20)]);
        let complete = eventually(PATIENCE, || received("requests") - requests == 2020);
        assert!(
            complete,
            "{} of 2020 requests were copied: {}",
            received("requests") - requests,
            scene.ana.kvpn("list -o json")
        );
        assert_eq!(
            received("bytes") - bytes,
            20 * (256 << 10),
            "bodies of the copies"
        );
        println!("origin directly {before}\nmirrored {mirrored}");

        // A laptop that takes connections and never answers must not be noticed.
        scene.ana.shell("pkill -STOP -x traffic").ok();
        let hanging = asks(scene, &["-mode", "keepalive", "-n", "2000", "-c", "1"]);
        scene.ana.shell("pkill -CONT -x traffic").ok();
        println!("hanging laptop {hanging}");
        hanging.is(&[(ORIGIN, 2000)]);
    });
}

#[test]
fn without_a_program_the_origin_answers_or_nobody() {
    in_a_scene("kvpn-test-fallback", |scene| {
        scene.ana.stop_serving();
        for (options, header) in [
            ("--takeover", "x: y"),
            ("--match 'x-dev: ana'", "x-dev: ana"),
        ] {
            scene.ana.exposes(&format!("{PORTS} as web {options}"));
            asks(scene, &["-header", header, "-n", "100"]).is(&[(ORIGIN, 100)]);
            scene.ana.kvpn("unexpose web").ok();
            scene
                .ana
                .exposes(&format!("{PORTS} as web {options} --no-fallback"));
            let refused = eventually(PATIENCE, || {
                asks(scene, &["-header", header, "-n", "20"]).lost().len() == 20
            });
            let count = asks(scene, &["-header", header, "-n", "100"]);
            assert!(
                refused && count.lost().len() == 100,
                "{options} --no-fallback: {count}"
            );
            if options != "--takeover" {
                assert!(
                    count.lost().iter().all(|lost| lost.text.contains("502")),
                    "{count}"
                );
            }
            scene.ana.kvpn("unexpose web").ok();
            scene.origin.is_again("web", &scene.before, PATIENCE);
        }
    });
}

/// TLS cannot be matched: it goes to the origin, and the command says so before.
#[test]
fn what_is_no_http_goes_to_the_origin() {
    in_a_scene("kvpn-test-no-http", |scene| {
        let said = scene.ana.exposes("9000:lines as web --match 'x-dev: ana'");
        let all = format!("{}{}", said.stdout, said.stderr).to_lowercase();
        assert!(all.contains("tls") && all.contains("match"), "{said}");
        let target = format!("{}:9000", scene.origin.address("web"));
        asks(scene, &["-mode", "lines", "-to", &target, "-n", "20"]).is(&[(ORIGIN, 20)]);
    });
}

/// The caller's address arrives: in a header, or before the first byte.
#[test]
fn the_callers_address_is_passed_on() {
    in_a_scene("kvpn-test-caller", |scene| {
        anas_header_is_anas(scene);
        let url = format!("{}/headers", scene.origin.url("web"));
        let pod = Cluster::get().object(scene.origin.namespace, "pod/asker-1");
        let address = pod["status"]["podIP"].as_str().unwrap();
        let line = format!("wget -q -O - --header 'x-dev: ana' {url}");
        let seen = scene
            .origin
            .kubectl(&["exec", "asker-1", "--", "sh", "-c", &line])
            .ok()
            .json();
        assert_eq!(seen["headers"]["X-Forwarded-For"][0], address, "{seen}");
        assert_eq!(seen["server"], ANA);
    });
}

#[track_caller]
fn asks(scene: &Scene, words: &[&str]) -> Count {
    let url = scene.origin.url("web");
    scene.origin.asks(&[&["-to", &url], words].concat())
}

#[track_caller]
fn all_by(scene: &Scene, words: &[&str], server: &str) {
    let mut counts = Vec::new();
    let all = eventually(PATIENCE, || {
        counts = scene.origin.asks_in_all_ways(words);
        counts.iter().all(|(_, count)| count.by(server) == 3)
    });
    let told: String = counts
        .iter()
        .map(|(_, count)| format!("\n{count}"))
        .collect();
    assert!(all, "not all by {server}:{told}");
}

/// Requests with `x-dev: ana` come to Ana.
#[track_caller]
fn anas_header_is_anas(scene: &Scene) {
    scene
        .ana
        .exposes(&format!("{PORTS} as web --match 'x-dev: ana'"));
    assert!(
        scene
            .origin
            .matched_by("web", &["-header", "x-dev: ana"], ANA, PATIENCE)
    );
}
