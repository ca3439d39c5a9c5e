//! How followers learn what happened, in whatever order they come.

use super::*;

fn board() -> Board {
    let text = r#"{"name":"a","state":"connecting","context":"c","namespace":"n","server":"s","pid":1,"log":"/l"}"#;
    Board::new(serde_json::from_str(text).unwrap())
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test of what the shell does with the clock"
)]
fn now() -> Instant {
    Instant::now()
}

#[test]
fn a_late_follower_learns_the_outcome_at_once() {
    let board = board();
    assert!(board.follow().0.is_none());
    board.connected(now());
    assert!(matches!(board.follow().0, Some(Reply::Connected(_))));
    board.finish(Reply::Ended {
        reason: None,
        notes: Vec::new(),
    });
    assert!(matches!(board.follow().0, Some(Reply::Ended { .. })));
}

#[test]
fn a_note_is_said_once_and_kept() {
    let board = board();
    let (_, mut replies) = board.follow();
    board.note("overlap");
    board.note("overlap");
    assert_eq!(board.report(now()).notes, ["overlap"]);
    assert!(matches!(replies.try_recv(), Ok(Reply::Note { .. })));
    assert!(replies.try_recv().is_err());
}

#[test]
fn trouble_before_the_first_connection_is_not_recovery() {
    let board = board();
    board.trouble("silence".into());
    assert_eq!(board.report(now()).state, State::Connecting);
    board.connected(now());
    board.trouble("silence".into());
    assert_eq!(board.report(now()).state, State::Recovering);
    board.recovered();
    let report = board.report(now());
    assert_eq!((report.state, report.trouble), (State::Connected, None));
}

#[tokio::test]
async fn the_first_reason_to_end_stands() {
    let board = board();
    board.end(End::Trouble("the helper died".into()));
    board.end(End::Wanted);
    assert_eq!(
        board.end_wanted().await,
        End::Trouble("the helper died".into())
    );
}
