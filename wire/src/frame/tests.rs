//! Frames cut anywhere, and frames that are none.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Owned {
    Datagram(Vec<u8>),
    Control(Control),
}

fn feed(deframer: &mut Deframer, bytes: &[u8], got: &mut Vec<Owned>) -> Result<(), Malformed> {
    deframer.feed(bytes, |frame| {
        got.push(match frame {
            Frame::Datagram(datagram) => Owned::Datagram(datagram.to_vec()),
            Frame::Control(control) => Owned::Control(control),
        });
    })
}

fn cut(stream: &[u8], cut: usize) -> Result<Vec<Owned>, Malformed> {
    let (mut deframer, mut got) = (Deframer::new(), Vec::new());
    for chunk in stream.chunks(cut) {
        feed(&mut deframer, chunk, &mut got)?;
    }
    Ok(got)
}

fn encoded(frames: &[Owned]) -> Vec<u8> {
    let mut stream = Vec::new();
    for frame in frames {
        match frame {
            Owned::Datagram(datagram) => assert!(encode(datagram, &mut stream)),
            Owned::Control(control) => control.encode(&mut stream),
        }
    }
    stream
}

#[test]
fn the_wire_form_is_length_and_bytes() {
    let mut stream = Vec::new();
    assert!(encode(b"abc", &mut stream));
    assert_eq!(stream, [0, 3, b'a', b'b', b'c']);
}

#[test]
fn the_wire_form_of_control_frames() {
    let mut stream = Vec::new();
    Control::Received(0x0102).encode(&mut stream);
    Control::ReportEvery(4096).encode(&mut stream);
    assert_eq!(stream[..12], [0, 0, 1, 8, 0, 0, 0, 0, 0, 0, 1, 2]);
    assert_eq!(stream[12..], [0, 0, 2, 4, 0, 0, 16, 0]);
}

#[test]
fn what_does_not_fit_the_length_is_refused() {
    let mut stream = Vec::new();
    assert!(!encode(b"", &mut stream) && !encode(&[0; MAX_DATAGRAM + 1], &mut stream));
    assert!(stream.is_empty());
    assert!(encode(&[0; MAX_DATAGRAM], &mut stream));
}

#[test]
fn zeroes_end_the_stream() {
    let (mut deframer, mut got) = (Deframer::new(), Vec::new());
    let stream = [0, 1, 7, 0, 0, 0, 0, 0, 1, 7];
    assert_eq!(feed(&mut deframer, &stream, &mut got), Err(Malformed));
    assert_eq!(got, [Owned::Datagram(vec![7])]);
    assert_eq!(feed(&mut deframer, &[0, 1, 7], &mut got), Err(Malformed));
    assert_eq!(got.len(), 1, "a broken stream stays broken");
}

#[test]
fn a_control_frame_that_is_too_short_ends_the_stream() {
    assert_eq!(cut(&[0, 0, 1, 7, 0, 0, 0, 0, 0, 0, 0], 100), Err(Malformed));
    assert_eq!(cut(&[0, 0, 2, 0], 1), Err(Malformed));
}

#[test]
fn later_versions_control_frames_are_understood_or_skipped() {
    let stream = [0, 0, 9, 2, 1, 1, 0, 0, 2, 6, 0, 0, 0, 5, 99, 99, 0, 1, 7];
    let known = [
        Owned::Control(Control::ReportEvery(5)),
        Owned::Datagram(vec![7]),
    ];
    for size in 1..=stream.len() {
        assert_eq!(cut(&stream, size).unwrap(), known);
    }
}

#[test]
fn memory_stays_below_a_frame_and_goes_when_it_is_not_needed() {
    let mut deframer = Deframer::new();
    let mut stream = Vec::new();
    encode(&[7; MAX_DATAGRAM], &mut stream);
    for chunk in stream.repeat(20).chunks(1000) {
        deframer.feed(chunk, |_| {}).unwrap();
        assert!(deframer.held.capacity() <= HEADER + MAX_DATAGRAM);
    }
    assert_eq!(deframer.held.capacity(), 0);
}

fn frames() -> impl Strategy<Value = Vec<Owned>> {
    let frame = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 1..300).prop_map(Owned::Datagram),
        1 => any::<u64>().prop_map(|total| Owned::Control(Control::Received(total))),
        1 => any::<u32>().prop_map(|bytes| Owned::Control(Control::ReportEvery(bytes))),
    ];
    prop::collection::vec(frame, 0..20)
}

proptest! {
    #[test]
    fn any_cutting_gives_the_same_frames(frames in frames(), size in 1usize..700) {
        prop_assert_eq!(cut(&encoded(&frames), size).unwrap(), frames);
    }

    #[test]
    fn bytes_of_any_kind_are_cut_the_same_in_any_pieces(bytes in prop::collection::vec(0u8..4, 0..200), size in 1usize..9) {
        let (mut whole, mut pieces) = (Vec::new(), Vec::new());
        let mut deframer = Deframer::new();
        let whole_end = feed(&mut deframer, &bytes, &mut whole);
        let mut deframer = Deframer::new();
        let pieces_end = bytes.chunks(size).try_for_each(|chunk| feed(&mut deframer, chunk, &mut pieces));
        prop_assert_eq!((whole, whole_end), (pieces, pieces_end));
    }
}
