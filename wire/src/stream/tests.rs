//! Both ends of a stream: its window, its reports, its order.

use std::time::Duration;

use super::*;

#[expect(
    clippy::disallowed_methods,
    reason = "a test's clock has to start somewhere"
)]
fn start() -> Instant {
    Instant::now()
}

/// Moves what one end has to the other in pieces of `size`; the datagrams that came out.
fn carry(from: &mut Stream, to: &mut Stream, size: usize, now: Instant) -> Vec<Vec<u8>> {
    let mut got = Vec::new();
    while !from.unsent().is_empty() {
        let bytes = from.unsent()[..from.unsent().len().min(size)].to_vec();
        from.taken(bytes.len());
        to.receive(&bytes, now, |datagram| got.push(datagram.to_vec()))
            .unwrap();
    }
    to.report(now);
    got
}

#[test]
fn ends_that_know_no_control_frames_send_none() {
    let now = start();
    let (mut client, mut gateway) = (Stream::new(), Stream::new());
    for n in 1..200 {
        assert!(client.push(&vec![n; 1000], now));
        assert_eq!(client.unsent().len(), 1002);
        assert_eq!(carry(&mut client, &mut gateway, 300, now), [vec![n; 1000]]);
    }
    assert!(gateway.unsent().is_empty() && client.window().is_none());
}

#[test]
fn without_reports_room_is_what_the_socket_has_taken() {
    let now = start();
    let mut stream = Stream::new();
    while stream.room() > 0 {
        assert!(stream.push(&[1; 1000], now));
    }
    assert!(stream.unsent().len() >= UNSENT && stream.unsent().len() < UNSENT + 1002);
    stream.taken(50_000);
    assert!(stream.room() >= 48_000);
}

#[test]
fn reports_open_the_window_and_their_lack_closes_it() {
    let mut now = start();
    let (mut client, mut gateway) = (Stream::with_control(now), Stream::new());
    assert!(gateway.window().is_none());
    assert!(carry(&mut client, &mut gateway, 100, now).is_empty());
    assert!(
        gateway.window().is_some(),
        "a control frame is an answer to the question who knows them"
    );
    carry(&mut gateway, &mut client, 100, now);
    for stream in [&mut client, &mut gateway] {
        while stream.room() > 0 {
            stream.push(&[7; 1000], now);
        }
    }
    let sent = client.unsent().len();
    client.taken(sent);
    assert_eq!(
        client.room(),
        0,
        "the socket's taking them does not make room"
    );
    now += Duration::from_millis(10);
    carry(&mut gateway, &mut client, 100_000, now);
    // Only the client reports now: what it took makes room at the gateway.
    carry(&mut client, &mut gateway, 100_000, now);
    assert!(gateway.room() > 50_000, "{}", gateway.room());
    assert_eq!(client.room(), 0);
}

#[test]
fn a_stream_never_stands_still() {
    let mut now = start();
    let (mut client, mut gateway) = (Stream::with_control(now), Stream::new());
    let mut got = 0;
    for round in 0..2000 {
        while client.room() > 0 {
            client.push(&vec![1; client.piece().min(60_000)], now);
        }
        // Round trips of 1 to 200 ms: the window shrinks and grows.
        now += Duration::from_millis(1 + round % 200);
        got += carry(&mut client, &mut gateway, 10_000, now).len();
        carry(&mut gateway, &mut client, 10_000, now);
        assert!(
            client.room() > 0,
            "round {round}, window {:?}",
            client.window()
        );
    }
    assert!(got > 2000);
}

#[test]
fn anything_but_frames_is_an_error() {
    let now = start();
    let mut stream = Stream::new();
    assert!(stream.receive(&[0; 16], now, |_| {}).is_err());
    assert!(stream.receive(&[0, 1, 1], now, |_| {}).is_err());
}
