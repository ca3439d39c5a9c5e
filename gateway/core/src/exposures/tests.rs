//! Exposures on a clock that the tests turn.

use super::*;
use kvpn_wire::exposure::{Percent, Rules, Traffic};

#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some instant to start from"
)]
fn start() -> Instant {
    Instant::now()
}

fn key(service: &str) -> ServiceKey {
    ServiceKey {
        namespace: "demo".into(),
        service: service.into(),
    }
}

fn http(owner: &str, traffic: Traffic) -> Expose {
    Expose {
        owner: owner.into(),
        ports: vec![port(80, Some(8080))],
        traffic,
        origin: Some("web-kvpn-origin".into()),
        fallback: true,
        proxy_protocol: false,
    }
}

fn port(port: u16, laptop_port: Option<u16>) -> ExposedPort {
    ExposedPort {
        port,
        name: String::new(),
        protocol: Protocol::Tcp,
        app_protocol: String::new(),
        laptop_port,
        gateway_port: None,
    }
}

fn header(text: &str) -> Traffic {
    Traffic::Match(Rules {
        headers: vec![text.parse().unwrap()],
        ..Rules::default()
    })
}

fn actions(exposures: &mut Exposures) -> Vec<ExposureAction> {
    std::iter::from_fn(|| exposures.poll_action()).collect()
}

fn restore(service: &str, session: &str) -> ExposureAction {
    ExposureAction::Restore(key(service), session.into())
}

fn choose(service: &str) -> ExposureAction {
    ExposureAction::Choose(key(service))
}

fn takers(exposures: &Exposures) -> Vec<&str> {
    exposures
        .claims(&key("web"), 80, Protocol::Tcp)
        .map(|(session, _)| session)
        .collect()
}

/// `web`, exposed by `ana`, its actions done.
fn started(now: Instant) -> (Exposures, ListeningPort) {
    let mut exposures = Exposures::default();
    let ports = exposures
        .expose(&key("web"), "ana", &http("ana@laptop", Traffic::All), now)
        .unwrap();
    actions(&mut exposures);
    (exposures, ports[0])
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn an_exposure_listens_and_chooses() {
    let mut exposures = Exposures::default();
    let ports = exposures
        .expose(&key("web"), "ana", &http("ana", Traffic::All), start())
        .unwrap();
    let listening = ListeningPort {
        port: 80,
        protocol: Protocol::Tcp,
        gateway_port: 20_000,
    };
    assert_eq!(ports, [listening]);
    assert_eq!(
        actions(&mut exposures),
        [ExposureAction::Listen(key("web"), listening), choose("web")]
    );
    assert_eq!(takers(&exposures), ["ana"]);
    assert_eq!(exposures.claims(&key("web"), 81, Protocol::Tcp).count(), 0);
    assert_eq!(exposures.claims(&key("web"), 80, Protocol::Udp).count(), 0);
}

#[test]
fn asking_again_changes_the_choice_and_keeps_the_ports() {
    let now = start();
    let (mut exposures, before) = started(now);
    let again = exposures
        .expose(
            &key("web"),
            "ana",
            &http("ana", Traffic::Mirror),
            now + seconds(60),
        )
        .unwrap();
    assert_eq!(again, [before]);
    assert_eq!(actions(&mut exposures), [choose("web")]);
    let parts: Vec<_> = exposures.parts().collect();
    assert_eq!(
        (parts.len(), parts[0].since),
        (1, now),
        "its age is that of the first wish"
    );
}

#[test]
fn disjoint_sessions_share_and_rivals_are_named() {
    let now = start();
    let (mut exposures, _) = started(now);
    let refused = exposures
        .expose(&key("web"), "bob", &http("bob", Traffic::All), now)
        .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "ana@laptop exposes it already (everything)"
    );
    exposures
        .expose(&key("web"), "ana", &http("ana", header("x-dev: ana")), now)
        .unwrap();
    exposures
        .expose(&key("web"), "bob", &http("bob", header("x-dev: bob")), now)
        .unwrap();
    assert_eq!(takers(&exposures), ["ana", "bob"]);
    let share = Traffic::Weight(Percent::try_from(10).unwrap());
    assert!(
        exposures
            .expose(&key("web"), "eve", &http("eve", share), now)
            .is_err()
    );
    assert_eq!(
        takers(&exposures),
        ["ana", "bob"],
        "a refusal changes nothing"
    );
}

#[test]
fn a_silent_session_loses_its_traffic_and_gets_it_back() {
    let now = start();
    let (mut exposures, _) = started(now);
    assert_eq!(exposures.poll_timeout().unwrap().0, now + SILENT_AFTER);
    exposures.handle_timeout(now + SILENT_AFTER);
    assert_eq!(
        (actions(&mut exposures), takers(&exposures)),
        (vec![choose("web")], vec![])
    );
    exposures.heard("ana", now + seconds(6));
    assert_eq!(
        (actions(&mut exposures), takers(&exposures)),
        (vec![choose("web")], vec!["ana"])
    );
    assert_eq!(
        exposures.poll_timeout().unwrap().0,
        now + seconds(6) + SILENT_AFTER
    );
}

#[test]
fn a_vanished_session_is_restored_until_it_is_done() {
    let now = start();
    let (mut exposures, listening) = started(now);
    exposures.handle_timeout(now + SILENT_AFTER);
    actions(&mut exposures);
    assert_eq!(exposures.poll_timeout().unwrap().0, now + RESTORE_AFTER);
    exposures.handle_timeout(now + RESTORE_AFTER);
    assert_eq!(actions(&mut exposures), [restore("web", "ana")]);
    exposures.handle_timeout(now + RESTORE_AFTER + seconds(1));
    assert_eq!(actions(&mut exposures), []);
    let again = now + RESTORE_AFTER + RESTORE_AGAIN;
    exposures.handle_timeout(again);
    assert_eq!(
        actions(&mut exposures),
        [restore("web", "ana")],
        "the API server was away"
    );
    exposures.ended(&key("web"), "ana", again);
    assert_eq!(actions(&mut exposures), [choose("web")]);
    exposures.handle_timeout(again + GRACE - seconds(1));
    assert_eq!(
        actions(&mut exposures),
        [],
        "callers' routes to the gateway outlive the Service's change"
    );
    exposures.handle_timeout(again + GRACE);
    assert_eq!(
        actions(&mut exposures),
        [ExposureAction::Close(key("web"), listening)]
    );
    assert_eq!(exposures.poll_timeout(), None);
}

#[test]
fn a_session_that_returns_in_time_is_not_restored() {
    let now = start();
    let (mut exposures, _) = started(now);
    exposures.handle_timeout(now + RESTORE_AFTER);
    assert_eq!(
        actions(&mut exposures),
        [choose("web"), restore("web", "ana")]
    );
    exposures.heard("ana", now + seconds(13));
    exposures.handle_timeout(now + seconds(14));
    assert_eq!(
        actions(&mut exposures),
        [choose("web")],
        "the restore failed so far, and is no longer wanted"
    );
    assert_eq!(takers(&exposures), ["ana"]);
}

#[test]
fn an_end_is_restored_at_once_and_the_others_stay() {
    let now = start();
    let (mut exposures, _) = started(now);
    exposures
        .expose(&key("api"), "ana", &http("ana", header("x-dev: ana")), now)
        .unwrap();
    exposures
        .expose(&key("api"), "bob", &http("bob", header("x-dev: bob")), now)
        .unwrap();
    actions(&mut exposures);
    assert!(
        exposures.unexpose(&key("web"), "ana", now) && !exposures.unexpose(&key("web"), "bob", now)
    );
    assert_eq!(
        actions(&mut exposures),
        [choose("web"), restore("web", "ana")]
    );
    exposures.session_ended("ana", now);
    let expected = [choose("api"), restore("api", "ana"), restore("web", "ana")];
    assert_eq!(actions(&mut exposures), expected);
    exposures.ended(&key("api"), "ana", now);
    exposures.heard("bob", now + GRACE);
    exposures.handle_timeout(now + GRACE);
    assert!(
        !actions(&mut exposures)
            .iter()
            .any(|action| matches!(action, ExposureAction::Close(..)))
    );
    assert_eq!(exposures.claims(&key("api"), 80, Protocol::Tcp).count(), 1);
}

/// The client lives on, and is heard every second; what it ended stays ended.
#[test]
fn signs_of_life_do_not_bring_back_what_was_ended() {
    let now = start();
    let (mut exposures, _) = started(now);
    exposures.unexpose(&key("web"), "ana", now);
    actions(&mut exposures);
    exposures.heard("ana", now + seconds(1));
    assert_eq!(
        (actions(&mut exposures), takers(&exposures)),
        (vec![], vec![])
    );
    exposures.handle_timeout(now + RESTORE_AGAIN);
    assert_eq!(actions(&mut exposures), [restore("web", "ana")]);
    exposures
        .expose(
            &key("web"),
            "ana",
            &http("ana", Traffic::All),
            now + seconds(3),
        )
        .unwrap();
    assert_eq!(takers(&exposures), ["ana"], "wanted again");
}

#[test]
fn who_comes_back_in_the_grace_finds_the_same_port() {
    let now = start();
    let (mut exposures, before) = started(now);
    exposures.ended(&key("web"), "ana", now);
    let later = now + seconds(20);
    assert_eq!(
        exposures
            .expose(&key("web"), "bob", &http("bob", Traffic::All), later)
            .unwrap(),
        [before]
    );
    exposures.heard("bob", now + GRACE);
    actions(&mut exposures);
    exposures.handle_timeout(now + GRACE);
    assert_eq!(actions(&mut exposures), []);
}

#[test]
fn who_is_no_longer_named_is_no_rival() {
    let now = start();
    let (mut exposures, _) = started(now);
    exposures.named(&key("web"), &["ana", "ana2"], now);
    assert_eq!(takers(&exposures), ["ana"]);
    exposures.named(&key("web"), &["ana2"], now);
    let next = http("ana", Traffic::All);
    exposures.expose(&key("web"), "ana2", &next, now).unwrap();
    assert_eq!(
        takers(&exposures),
        ["ana2"],
        "the same client's next session"
    );
}

#[test]
fn a_gateway_that_starts_again_takes_up_its_ports_for_the_origin() {
    let now = start();
    let mut exposures = Exposures::default();
    let mut found = http("ana", Traffic::All);
    found.ports[0].gateway_port = Some(23_456);
    exposures.resume(&key("web"), "ana", &found, now).unwrap();
    let listening = ListeningPort {
        port: 80,
        protocol: Protocol::Tcp,
        gateway_port: 23_456,
    };
    assert!(actions(&mut exposures).contains(&ExposureAction::Listen(key("web"), listening)));
    assert_eq!(takers(&exposures), [""; 0], "nobody is there yet");
    exposures.heard("ana", now + seconds(3));
    assert_eq!(takers(&exposures), ["ana"]);
    exposures
        .resume(&key("web"), "ana", &found, now + seconds(4))
        .unwrap();
    assert_eq!(takers(&exposures), ["ana"], "the watch tells what is known");
}

#[test]
fn ports_are_given_once_and_used_again_late() {
    let now = start();
    let mut exposures = Exposures {
        ports: Ports::new(20_000..=20_002),
        ..Exposures::default()
    };
    let mut expose = |service: &str, wanted: Option<u16>| {
        let mut wish = http("ana", Traffic::All);
        wish.ports[0].gateway_port = wanted;
        exposures
            .expose(&key(service), service, &wish, now)
            .map(|ports| ports[0].gateway_port)
    };
    assert_eq!(expose("a", Some(20_001)), Ok(20_001));
    assert_eq!(
        expose("b", Some(20_001)),
        Err(ExposureRefused::PortInUse(20_001))
    );
    assert_eq!(
        expose("b", Some(6180)),
        Err(ExposureRefused::PortInUse(6180))
    );
    assert_eq!(expose("b", Some(80)), Ok(80), "a headless Service's");
    assert_eq!(
        (expose("c", None), expose("d", None)),
        (Ok(20_000), Ok(20_002))
    );
    assert_eq!(expose("e", None), Err(ExposureRefused::NoPortLeft));
    exposures.ended(&key("c"), "c", now);
    exposures.heard("a", now + GRACE);
    exposures.handle_timeout(now + GRACE);
    let again = exposures
        .expose(&key("e"), "e", &http("e", Traffic::All), now)
        .unwrap();
    assert_eq!(again[0].gateway_port, 20_000);
    exposures.port_unusable(&key("e"), again[0]);
    assert_eq!(
        exposures.expose(&key("e"), "e", &http("e", Traffic::All), now),
        Err(ExposureRefused::NoPortLeft)
    );
}

#[test]
fn a_number_is_one_port_of_tcp_and_one_of_udp() {
    let mut exposures = Exposures::default();
    let mut wish = http("ana", Traffic::All);
    wish.ports = vec![port(53, Some(5353)), port(53, Some(5353))];
    wish.ports[1].protocol = Protocol::Udp;
    for port in &mut wish.ports {
        port.gateway_port = Some(9000);
    }
    let ports = exposures
        .expose(&key("dns"), "ana", &wish, start())
        .unwrap();
    assert!(ports.iter().all(|port| port.gateway_port == 9000));
    assert_eq!(ports[1].protocol, Protocol::Udp);
}

#[test]
fn a_refusal_takes_no_port() {
    let now = start();
    let mut exposures = Exposures {
        ports: Ports::new(20_000..=20_001),
        ..Exposures::default()
    };
    let mut wish = http("ana", Traffic::All);
    wish.ports = vec![port(1, Some(1)), port(2, None), port(3, None)];
    assert_eq!(
        exposures.expose(&key("web"), "ana", &wish, now),
        Err(ExposureRefused::NoPortLeft)
    );
    wish.ports.pop();
    assert_eq!(
        exposures
            .expose(&key("web"), "ana", &wish, now)
            .unwrap()
            .len(),
        2
    );
    assert_eq!(
        exposures.claims(&key("web"), 2, Protocol::Tcp).count(),
        0,
        "passed on"
    );
}
