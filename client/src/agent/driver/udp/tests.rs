//! A socket that is faster than its link. Needs root.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use rustix::net::sockopt::set_socket_send_buffer_size;

use super::*;
use crate::agent::driver::tests::current_thread;
use crate::agent::driver::tests::net::{NEIGHBOUR, Namespace, has_needs, inside};

async fn blocks_and_goes_on() {
    let mut carrier = UdpCarrier::open(true);
    let v4 = carrier.v4.as_ref().unwrap();
    set_socket_send_buffer_size(v4.datagrams.socket(), 64 << 10).unwrap();
    let to = SocketAddr::new(NEIGHBOUR.into(), 9);
    for batch in 0.. {
        assert!(batch < 10_000, "it never fills");
        assert!(carrier.send(to, &[7; 14_000], 1_400));
        if carrier.is_blocked() {
            break;
        }
    }
    poll_fn(|cx| {
        carrier.flush(cx);
        if carrier.is_blocked() {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    })
    .await;
    let v4 = carrier.v4.as_ref().unwrap();
    assert!(v4.room.is_none(), "nobody is woken for room any more");
}

#[test]
fn a_full_socket_holds_and_tells_of_room() {
    if !has_needs() {
        return;
    }
    let namespace = Namespace::slow("slow");
    let outcome = inside(&namespace, || {
        let limit = Duration::from_secs(10);
        current_thread().block_on(async { tokio::time::timeout(limit, blocks_and_goes_on()).await })
    });
    outcome.join().unwrap().expect("there is room again");
}
