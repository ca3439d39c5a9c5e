//! The queue beside a `VecDeque` of vectors.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

#[test]
fn packets_come_out_in_order_with_their_tags() {
    let mut queue = PacketQueue::new(4, 64);
    assert!(queue.push('a', b"first"));
    assert!(queue.push('b', b"second"));
    assert_eq!(queue.peek(), Some((&'a', &b"first"[..])));
    assert_eq!(queue.pop(), Some(('a', &b"first"[..])));
    assert_eq!(queue.pop(), Some(('b', &b"second"[..])));
    assert_eq!(queue.pop(), None);
}

#[test]
fn refusals_are_counted_by_packets_and_by_bytes() {
    let mut queue = PacketQueue::new(2, 10);
    assert!(!queue.push((), &[0; 11]));
    assert!(queue.push((), &[1; 4]) && queue.push((), &[2; 4]));
    assert!(!queue.push((), &[3; 1]));
    assert_eq!((queue.len(), queue.dropped()), (2, 2));
    queue.clear();
    assert!(queue.push((), &[4; 10]));
}

#[test]
fn an_empty_packet_is_nothing() {
    let mut queue = PacketQueue::new(2, 10);
    assert!(!queue.push((), b""));
    assert!(!queue.push_with((), 5, |_| 0));
    assert_eq!((queue.len(), queue.dropped()), (0, 0));
}

#[test]
fn push_with_is_not_called_without_room() {
    let mut queue = PacketQueue::new(8, 10);
    assert!(queue.push((), &[1; 8]));
    assert!(!queue.push_with((), 4, |_| unreachable!("there is no room")));
    assert!(queue.push_with((), 2, |buf| buf.len()));
}

proptest! {
    #[test]
    fn behaves_like_a_queue_of_vectors(steps in prop::collection::vec((any::<bool>(), 0usize..40), 0..400)) {
        let mut queue = PacketQueue::new(8, 100);
        let mut model = VecDeque::new();
        for (n, (push, len)) in steps.into_iter().enumerate() {
            let byte = u8::try_from(n % 251).unwrap();
            if push {
                if queue.push(n, &vec![byte; len]) {
                    model.push_back((n, vec![byte; len]));
                }
            } else {
                let got = queue.pop().map(|(tag, bytes)| (tag, bytes.to_vec()));
                prop_assert_eq!(got, model.pop_front());
            }
            prop_assert_eq!(queue.len(), model.len());
            prop_assert!(queue.len() <= 8);
        }
    }
}
