//! The timers of the paper's section 6, on a clock that jumps from timeout to timeout.

use super::*;

fn kinds(log: &[(Duration, &'static str, Kind)]) -> Vec<(u64, &'static str, bool)> {
    log.iter()
        .map(|(at, side, kind)| (at.as_secs(), *side, *kind == Kind::Initiation))
        .collect()
}

#[test]
fn nothing_is_sent_without_a_reason() {
    let mut pair = Pair::new();
    assert_eq!(pair.next_timeout(), None);
    pair.shake_hands();
    assert_eq!(pair.run(seconds(179)), []);
}

#[test]
fn the_initiator_asks_again_after_120_seconds_of_sending() {
    let mut pair = Pair::connected();
    let begin = pair.now;
    let mut initiations = Vec::new();
    for _ in 0..23 {
        let offset = (pair.now - begin).as_secs();
        exchange(&mut pair, "client");
        exchange(&mut pair, "gateway");
        let log = pair.run(seconds(10));
        assert!(pair.client.has_session(pair.now));
        let sent = kinds(&log)
            .into_iter()
            .filter(|(_, _, initiation)| *initiation);
        initiations.extend(sent.map(|(at, side, _)| (offset + at, side)));
    }
    assert_eq!(initiations, [(120, "client")]);
    assert_eq!(pair.client.last_handshake(), Some(begin + seconds(120)));
}

#[test]
fn the_initiator_asks_again_late_when_it_only_receives() {
    let mut pair = Pair::connected();
    pair.advance(seconds(164));
    let sealed = seal(&mut pair.gateway, &packet(20), pair.now);
    assert_eq!(open(&mut pair.client, &sealed, pair.now).0, opened(20));
    assert!(
        !timeouts(&mut pair.client, pair.now)
            .iter()
            .any(|datagram| classify(datagram) == Some(Kind::Initiation))
    );
    pair.advance(seconds(1));
    let sealed = seal(&mut pair.gateway, &packet(20), pair.now);
    assert_eq!(open(&mut pair.client, &sealed, pair.now).0, opened(20));
    let sent = timeouts(&mut pair.client, pair.now);
    assert_eq!(classify(&sent[0]), Some(Kind::Initiation));
}

#[test]
fn the_responder_does_not_ask() {
    let mut pair = Pair::connected();
    pair.advance(seconds(150));
    exchange(&mut pair, "gateway");
    assert_eq!(timeouts(&mut pair.gateway, pair.now).len(), 0);
}

#[test]
fn a_session_is_dead_after_180_seconds() {
    let mut pair = Pair::connected();
    let (early, late) = (
        seal(&mut pair.gateway, &packet(20), pair.now),
        seal(&mut pair.gateway, &packet(20), pair.now),
    );
    pair.advance(seconds(179));
    assert!(pair.client.has_session(pair.now));
    assert_eq!(open(&mut pair.client, &early, pair.now).0, opened(20));
    pair.advance(seconds(1));
    assert!(!pair.client.has_session(pair.now) && !pair.gateway.has_session(pair.now));
    assert_eq!(
        open(&mut pair.client, &late, pair.now).0,
        Opened::Rejected(Reason::Expired)
    );
    let mut out = [0; 2048];
    assert_eq!(
        pair.client.seal(&packet(20), &mut out, pair.now),
        Sealed::Handshake(148)
    );
}

#[test]
fn an_unanswered_initiation_is_repeated_every_five_seconds_with_jitter_for_ninety() {
    let mut pair = Pair::new();
    let mut out = [0; 2048];
    assert_eq!(
        pair.client.seal(&packet(20), &mut out, pair.now),
        Sealed::Handshake(148)
    );
    let (begin, mut last, mut gaps) = (pair.now, pair.now, Vec::new());
    while let Some((at, _)) = pair.client.poll_timeout() {
        for datagram in timeouts(&mut pair.client, at) {
            assert_eq!(classify(&datagram), Some(Kind::Initiation));
            gaps.push(at - last);
            last = at;
        }
        pair.now = at;
    }
    assert_eq!(pair.now - begin, seconds(90), "then it gives up");
    assert!((16..=17).contains(&gaps.len()), "{}", gaps.len());
    assert!(
        gaps.iter()
            .all(|gap| (5000..5334).contains(&gap.as_millis())),
        "{gaps:?}"
    );
    assert!(gaps.iter().any(|gap| *gap != gaps[0]), "jitter");
    assert_eq!(pair.client.dropped(), 1, "the packet that waited");
    pair.advance(REKEY_TIMEOUT);
    assert_eq!(
        pair.client.seal(&packet(20), &mut out, pair.now),
        Sealed::Handshake(148),
        "and begins anew"
    );
}

#[test]
fn packets_that_come_meanwhile_prolong_the_attempt() {
    let mut pair = Pair::new();
    let mut out = [0; 2048];
    assert_eq!(
        pair.client.seal(&packet(20), &mut out, pair.now),
        Sealed::Handshake(148)
    );
    for _ in 0..10 {
        pair.advance(seconds(60));
        timeouts(&mut pair.client, pair.now);
        assert_eq!(
            pair.client.seal(&packet(20), &mut out, pair.now),
            Sealed::Queued
        );
    }
    assert_eq!(pair.client.dropped(), 0);
}

#[test]
fn a_late_response_to_the_initiation_before_the_last_still_counts() {
    let mut pair = Pair::new();
    let first = initiate(&mut pair.client, pair.now);
    let response = answer(&mut pair.gateway, &first, pair.now);
    pair.advance(seconds(6));
    assert_eq!(timeouts(&mut pair.client, pair.now).len(), 1);
    let keepalive = establish(&mut pair.client, &response, pair.now);
    assert_eq!(
        open(&mut pair.gateway, &keepalive, pair.now).0,
        Opened::Keepalive
    );
}

#[test]
fn received_data_is_answered_with_a_keepalive_after_ten_seconds() {
    let mut pair = Pair::connected();
    exchange(&mut pair, "client");
    let log = pair.run(seconds(60));
    assert_eq!(kinds(&log), [(10, "gateway", false)]);
}

#[test]
fn an_answer_makes_the_keepalive_unnecessary() {
    let mut pair = Pair::connected();
    exchange(&mut pair, "client");
    pair.advance(seconds(9));
    exchange(&mut pair, "gateway");
    assert_eq!(
        kinds(&pair.run(seconds(60))),
        [(10, "client", false)],
        "the answer is data too"
    );
}

#[test]
fn silence_after_sending_starts_a_handshake_after_fifteen_seconds() {
    let mut pair = Pair::connected();
    let begin = pair.now;
    seal(&mut pair.gateway, &packet(20), pair.now);
    let (at, why) = pair.gateway.poll_timeout().unwrap();
    assert_eq!(why, "no answer");
    assert!(
        (15_000..15_334).contains(&(at - begin).as_millis()),
        "{:?}",
        at - begin
    );
    let sent = timeouts(&mut pair.gateway, at);
    assert_eq!(classify(&sent[0]), Some(Kind::Initiation));
}

#[test]
fn persistent_keepalives_keep_the_interval_and_the_session() {
    let mut client = config(1, 2);
    client.persistent_keepalive = Some(seconds(25));
    let mut pair = Pair::with(client, config(2, 1));
    let log = pair.run(seconds(25));
    assert_eq!(
        kinds(&log),
        [(25, "client", true)],
        "no session yet: it makes one"
    );
    let log = pair.run(seconds(100));
    let keepalives = [
        (25, "client", false),
        (50, "client", false),
        (75, "client", false),
        (100, "client", false),
    ];
    assert_eq!(kinds(&log), keepalives);
    pair.run(seconds(600));
    assert!(pair.client.has_session(pair.now));
}

#[test]
fn keys_are_wiped_after_540_seconds_and_old_initiations_stay_refused() {
    let mut pair = Pair::new();
    let old = initiate(&mut pair.client, pair.now);
    pair.advance(seconds(1));
    pair.shake_hands();
    assert_eq!(
        pair.gateway
            .poll_timeout()
            .map(|(at, why)| (at - pair.now, why)),
        Some((seconds(540), "forget keys"))
    );
    assert_eq!(pair.run(seconds(540)), []);
    assert_eq!(pair.next_timeout(), None);
    assert_eq!(
        open(&mut pair.gateway, &old, pair.now).0,
        Opened::Rejected(Reason::Replayed)
    );
    pair.shake_hands();
    exchange(&mut pair, "client");
}

#[test]
fn rekey_now_asks_once_in_five_seconds() {
    let mut pair = Pair::connected();
    pair.client.rekey_now(pair.now);
    assert_eq!(
        timeouts(&mut pair.client, pair.now).len(),
        0,
        "one went out just now"
    );
    assert_eq!(kinds(&pair.run(seconds(6))), [(5, "client", true)]);
    assert_eq!(pair.client.last_handshake(), pair.gateway.last_handshake());
    pair.advance(seconds(30));
    pair.client.rekey_now(pair.now);
    assert_eq!(kinds(&pair.run(seconds(1))), [(0, "client", true)]);
}

#[test]
fn an_hour_of_traffic_survives_on_one_tunnel() {
    let mut pair = Pair::connected();
    for second in 0..3600 {
        exchange(
            &mut pair,
            if second % 3 == 0 { "gateway" } else { "client" },
        );
        pair.run(seconds(1));
    }
    assert_eq!(pair.client.dropped() + pair.gateway.dropped(), 0);
}

/// One packet from `side` to the other.
fn exchange(pair: &mut Pair, side: &'static str) {
    let now = pair.now;
    let (from, to) = match side {
        "client" => (&mut pair.client, &mut pair.gateway),
        _ => (&mut pair.gateway, &mut pair.client),
    };
    let sealed = seal(from, &packet(100), now);
    assert_eq!(open(to, &sealed, now), (opened(100), packet(100)));
}
