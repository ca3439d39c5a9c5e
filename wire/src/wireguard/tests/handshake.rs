//! Handshakes, and data on the sessions they make.

use super::*;

#[test]
fn data_goes_both_ways() {
    let mut pair = Pair::connected();
    for len in [20, 100, 1359, 1360] {
        let sealed = seal(&mut pair.client, &packet(len), pair.now);
        assert_eq!(
            open(&mut pair.gateway, &sealed, pair.now),
            (opened(len), packet(len))
        );
        let sealed = seal(&mut pair.gateway, &packet(len), pair.now);
        assert_eq!(
            open(&mut pair.client, &sealed, pair.now),
            (opened(len), packet(len))
        );
    }
}

#[test]
fn packets_are_padded_to_sixteen_but_not_beyond_the_mtu() {
    let mut pair = Pair::connected();
    for (len, padded) in [
        (20, 32),
        (32, 32),
        (1344, 1344),
        (1345, 1360),
        (1360, 1360),
        (1365, 1365),
    ] {
        assert_eq!(
            seal(&mut pair.client, &packet(len), pair.now).len(),
            padded + OVERHEAD,
            "{len}"
        );
    }
}

#[test]
fn packets_wait_for_the_session_in_order() {
    let mut pair = Pair::new();
    let mut out = [0; 2048];
    assert_eq!(
        pair.client.seal(&packet(20), &mut out, pair.now),
        Sealed::Handshake(148)
    );
    let initiation = out[..148].to_vec();
    assert_eq!(
        pair.client.seal(&packet(21), &mut out, pair.now),
        Sealed::Queued
    );
    assert_eq!(pair.client.flush_queued(&mut out, pair.now), None);
    let response = answer(&mut pair.gateway, &initiation, pair.now);
    establish(&mut pair.client, &response, pair.now);
    for len in [20, 21] {
        let n = pair.client.flush_queued(&mut out, pair.now).unwrap();
        assert_eq!(open(&mut pair.gateway, &out[..n], pair.now).1, packet(len));
    }
    assert_eq!(pair.client.flush_queued(&mut out, pair.now), None);
    assert_eq!(pair.client.dropped(), 0);
}

#[test]
fn the_waiting_room_is_bounded_and_counts() {
    let mut pair = Pair::new();
    let mut out = [0; 2048];
    let sealed: Vec<Sealed> = (0..100)
        .map(|_| pair.client.seal(&packet(20), &mut out, pair.now))
        .collect();
    assert_eq!(
        sealed
            .iter()
            .filter(|sealed| **sealed == Sealed::Dropped)
            .count(),
        36
    );
    assert_eq!(pair.client.dropped(), 36);
}

#[test]
fn the_responder_has_a_session_only_after_the_first_data() {
    let mut pair = Pair::new();
    let initiation = initiate(&mut pair.client, pair.now);
    let response = answer(&mut pair.gateway, &initiation, pair.now);
    assert!(!pair.gateway.has_session(pair.now));
    let mut out = [0; 2048];
    // A response went out just now, so the gateway does not start a handshake of its own for five seconds.
    assert_eq!(
        pair.gateway.seal(&packet(20), &mut out, pair.now),
        Sealed::Queued
    );
    let keepalive = establish(&mut pair.client, &response, pair.now);
    assert_eq!(
        open(&mut pair.gateway, &keepalive, pair.now).0,
        Opened::Keepalive
    );
    let n = pair.gateway.flush_queued(&mut out, pair.now).unwrap();
    assert_eq!(open(&mut pair.client, &out[..n], pair.now).1, packet(20));
    assert_eq!(
        pair.run(seconds(9)),
        [],
        "the gateway's own attempt is over"
    );
}

#[test]
fn a_gateway_answers_an_initiation_of_a_peer_that_it_has_a_session_with() {
    let mut pair = Pair::connected();
    let before = seal(&mut pair.gateway, &packet(50), pair.now);
    pair.advance(seconds(1));
    // The client moved to another network and asks from there.
    let initiation = initiate(&mut pair.client, pair.now);
    assert_eq!(initiator(&key(2), &initiation), Some(key(1).public()));
    let response = answer(&mut pair.gateway, &initiation, pair.now);
    assert!(
        pair.gateway.has_session(pair.now),
        "the old session holds until the new one is confirmed"
    );
    let keepalive = establish(&mut pair.client, &response, pair.now);
    assert_eq!(
        open(&mut pair.client, &before, pair.now).1,
        packet(50),
        "still under way on the old session"
    );
    assert_eq!(
        open(&mut pair.gateway, &keepalive, pair.now).0,
        Opened::Keepalive
    );
    let sealed = seal(&mut pair.gateway, &packet(60), pair.now);
    assert_eq!(open(&mut pair.client, &sealed, pair.now).1, packet(60));
    assert_eq!(pair.gateway.last_handshake(), Some(pair.now));
}

#[test]
fn late_packets_on_the_old_session_do_not_bring_it_back() {
    let mut pair = Pair::connected();
    let old_receiver = classify(&seal(&mut pair.client, &packet(20), pair.now));
    let (late_up, late_down) = (
        seal(&mut pair.client, &packet(30), pair.now),
        seal(&mut pair.gateway, &packet(40), pair.now),
    );
    pair.advance(seconds(119));
    pair.shake_hands();
    assert_eq!(open(&mut pair.gateway, &late_up, pair.now).1, packet(30));
    assert_eq!(open(&mut pair.client, &late_down, pair.now).1, packet(40));
    let sealed = seal(&mut pair.client, &packet(20), pair.now);
    assert_ne!(
        classify(&sealed),
        old_receiver,
        "the client sends on the new session"
    );
    pair.advance(seconds(90));
    let (up, down) = (
        seal(&mut pair.client, &packet(50), pair.now),
        seal(&mut pair.gateway, &packet(60), pair.now),
    );
    assert_eq!(open(&mut pair.gateway, &up, pair.now).1, packet(50));
    assert_eq!(open(&mut pair.client, &down, pair.now).1, packet(60));
}

#[test]
fn both_may_begin_at_the_same_time() {
    let mut pair = Pair::new();
    let (up, down) = (
        initiate(&mut pair.client, pair.now),
        initiate(&mut pair.gateway, pair.now),
    );
    let (to_client, to_gateway) = (
        answer(&mut pair.gateway, &up, pair.now),
        answer(&mut pair.client, &down, pair.now),
    );
    // boringtun gives its own attempt up for the peer's when they cross; one of the two still gets through.
    for (from, response) in [("gateway", to_client), ("client", to_gateway)] {
        pair.deliver(from, response);
    }
    pair.run(seconds(12));
    let sealed = seal(&mut pair.client, &packet(20), pair.now);
    assert_eq!(open(&mut pair.gateway, &sealed, pair.now).1, packet(20));
    let sealed = seal(&mut pair.gateway, &packet(30), pair.now);
    assert_eq!(open(&mut pair.client, &sealed, pair.now).1, packet(30));
}

#[test]
fn a_wrong_preshared_key_is_no_session() {
    let mut other = config(1, 2);
    other.preshared = None;
    let mut pair = Pair::with(other, config(2, 1));
    let initiation = initiate(&mut pair.client, pair.now);
    let response = answer(&mut pair.gateway, &initiation, pair.now);
    assert_eq!(
        open(&mut pair.client, &response, pair.now).0,
        Opened::Rejected(Reason::Forged)
    );
    assert!(!pair.client.has_session(pair.now) && !pair.gateway.has_session(pair.now));
}

#[test]
fn many_handshakes_wrap_the_session_index() {
    let mut pair = Pair::connected();
    for _ in 0..300 {
        pair.shake_hands();
    }
    let sealed = seal(&mut pair.client, &packet(20), pair.now);
    assert!(
        matches!(classify(&sealed), Some(Kind::Data { receiver }) if receiver >> 8 == 0x00ab_cd02)
    );
    assert_eq!(open(&mut pair.gateway, &sealed, pair.now).1, packet(20));
}

#[test]
fn unconfirmed_handshakes_do_not_replace_the_session() {
    let mut pair = Pair::connected();
    for _ in 0..7 {
        let initiation = initiate(&mut pair.client, pair.now);
        answer(&mut pair.gateway, &initiation, pair.now);
    }
    let sealed = seal(&mut pair.gateway, &packet(20), pair.now);
    assert_eq!(open(&mut pair.client, &sealed, pair.now).1, packet(20));
}
