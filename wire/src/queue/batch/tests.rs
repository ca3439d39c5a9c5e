//! Batches beside a `VecDeque` of vectors.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

/// Lengths of the datagrams of each batch, in order.
fn drain<T: PartialEq>(queue: &mut BatchQueue<T>) -> Vec<(T, Vec<usize>)> {
    let mut batches = Vec::new();
    while let Some(batch) = queue.pop() {
        let lengths = batch.datagrams().map(<[u8]>::len).collect();
        batches.push((batch.path, lengths));
    }
    batches
}

#[test]
fn equal_neighbours_come_out_together() {
    let mut queue = BatchQueue::new(16, 1000);
    for (tag, len) in [
        ('a', 9),
        ('a', 9),
        ('a', 4),
        ('a', 9),
        ('b', 9),
        ('b', 10),
        ('b', 10),
    ] {
        assert!(queue.push(tag, &vec![0; len]));
    }
    assert_eq!(queue.len(), 7);
    assert_eq!(
        drain(&mut queue),
        [
            ('a', vec![9, 9, 4]),
            ('a', vec![9]),
            ('b', vec![9]),
            ('b', vec![10, 10]),
        ]
    );
    assert_eq!((queue.is_empty(), queue.len()), (true, 0));
}

#[test]
fn the_bytes_lie_side_by_side() {
    let mut queue = BatchQueue::new(16, 1000);
    for datagram in [b"first-", b"second", b"third."] {
        assert!(queue.push_with((), 100, |buf| {
            buf[..6].copy_from_slice(datagram);
            6
        }));
    }
    let wanted = Transmit {
        path: (),
        payload: b"first-secondthird.",
        segment: 6,
    };
    assert_eq!(queue.pop(), Some(wanted));
}

#[test]
fn a_batch_has_at_most_64_datagrams_and_65000_bytes() {
    let mut queue = BatchQueue::new(1000, 1 << 20);
    for _ in 0..130 {
        assert!(queue.push((), &[0; 10]));
    }
    let batches = drain(&mut queue);
    let sizes: Vec<usize> = batches.iter().map(|(_, batch)| batch.len()).collect();
    assert_eq!(sizes, [64, 64, 2]);
    for len in [1392, 65_000, 65_535, 65_535, 20] {
        for _ in 0..47 {
            assert!(len > 2000 || queue.push((), &vec![0; len]));
        }
        assert!(len < 2000 || queue.push((), &vec![0; len]));
    }
    let batches = drain(&mut queue);
    let sizes: Vec<usize> = batches.iter().map(|(_, batch)| batch.len()).collect();
    assert_eq!(sizes, [46, 1, 1, 1, 1, 47]);
}

#[test]
fn refusals_are_counted_by_datagrams_and_by_bytes() {
    let mut queue = BatchQueue::new(2, 10);
    assert!(!queue.push((), &[0; 11]));
    assert!(queue.push((), &[1; 4]) && queue.push((), &[2; 4]));
    assert!(!queue.push((), &[3; 1]));
    assert_eq!((queue.len(), queue.dropped()), (2, 2));
    queue.clear();
    assert_eq!((queue.is_empty(), queue.len()), (true, 0));
    assert!(queue.push((), &[4; 10]));
    assert!(!queue.push_with((), 1, |_| unreachable!("there is no room")));
    assert_eq!(queue.dropped(), 3);
}

#[test]
fn an_empty_datagram_is_nothing() {
    let mut queue = BatchQueue::new(2, 10);
    assert!(!queue.push((), b""));
    assert!(!queue.push_with((), 5, |_| 0));
    assert_eq!((queue.len(), queue.dropped()), (0, 0));
    assert!(queue.pop().is_none());
}

proptest! {
    #[test]
    fn behaves_like_a_queue_of_vectors(
        steps in prop::collection::vec((0..4_u8, 0..3_u8, 0_usize..40), 0..400),
    ) {
        let mut queue = BatchQueue::new(12, 150);
        let mut model = VecDeque::new();
        for (n, (what, tag, len)) in steps.into_iter().enumerate() {
            // Most datagrams are of a size.
            let len = if len < 25 { 10 } else { len - 25 };
            let byte = u8::try_from(n % 251).unwrap();
            if what > 0 {
                let pushed = queue.push_with(tag, 20, |buf| {
                    buf[..len].fill(byte);
                    len
                });
                if pushed {
                    model.push_back((tag, vec![byte; len]));
                }
            } else if let Some(batch) = queue.pop() {
                prop_assert!(batch.datagrams().all(|datagram| !datagram.is_empty()));
                for datagram in batch.datagrams() {
                    prop_assert_eq!(Some((batch.path, datagram.to_vec())), model.pop_front());
                }
            } else {
                prop_assert!(model.is_empty());
            }
            prop_assert_eq!(queue.len(), model.len());
            prop_assert_eq!(queue.is_empty(), model.is_empty());
            prop_assert!(queue.len() <= 12);
        }
    }
}
