//! Control connections without a session behind them.

use super::*;
use crate::agent::contact::Contact;
use crate::agent::guests::Guest;
use crate::agent::report::State;
use crate::agent::transport;
use crate::cli::failure::Failure;

async fn both_ends() -> (Stream, Stream) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let listener = transport::listen(&path).unwrap();
    let (ours, theirs) = tokio::join!(transport::connect(&path), listener.accept());
    (ours.unwrap(), theirs.unwrap().0)
}

struct Bench {
    board: Arc<Board>,
    control: Control,
}

fn bench() -> Bench {
    let text = r#"{"name":"a","state":"connecting","context":"c","namespace":"n","server":"s","pid":1,"log":"/l"}"#;
    let board = Arc::new(Board::new(serde_json::from_str(text).unwrap()));
    Bench {
        control: Control::new(Arc::clone(&board), Figures::default()),
        board,
    }
}

impl Bench {
    async fn connect(&mut self, caller: Caller) -> Contact {
        let (ours, theirs) = both_ends().await;
        self.control.attend(lines(theirs), caller);
        Contact::with_child(ours)
    }
}

#[tokio::test]
async fn the_status_is_told() {
    let mut bench = bench();
    let mut contact = bench.connect(Caller::Anybody).await;
    assert_eq!(contact.status().await.unwrap().state, State::Connecting);
}

#[tokio::test]
async fn the_launcher_hears_steps_and_the_outcome() {
    let mut bench = bench();
    let mut contact = bench.connect(Caller::Launcher { foreground: false }).await;
    bench.board.step("looking");
    bench
        .board
        .finish(Reply::Failed(Failure::new(5, "unreachable")));
    assert!(matches!(
        contact.answer().await.unwrap(),
        Some(Reply::Step { .. })
    ));
    assert!(
        matches!(contact.answer().await.unwrap(), Some(Reply::Failed(failure)) if failure.code == 5)
    );
    assert!(contact.answer().await.unwrap().is_none());
}

#[tokio::test]
async fn a_launcher_that_leaves_early_ends_the_session() {
    let mut bench = bench();
    drop(bench.connect(Caller::Launcher { foreground: false }).await);
    assert_eq!(bench.board.end_wanted().await, End::Wanted);
}

#[tokio::test]
async fn a_launcher_may_leave_a_connected_session() {
    let mut bench = bench();
    let mut contact = bench.connect(Caller::Launcher { foreground: false }).await;
    bench.board.connected(crate::agent::now());
    assert!(matches!(
        contact.answer().await.unwrap(),
        Some(Reply::Connected(_))
    ));
    drop(contact);
    bench.control.finish().await;
    let ended = tokio::time::timeout(Duration::from_millis(50), bench.board.end_wanted()).await;
    assert!(ended.is_err());
}

#[tokio::test]
async fn disconnect_waits_for_the_last_word() {
    let mut bench = bench();
    let mut contact = bench.connect(Caller::Anybody).await;
    contact.ask(&Request::Disconnect).await.unwrap();
    assert_eq!(bench.board.end_wanted().await, End::Wanted);
    bench.board.finish(Reply::Ended {
        reason: None,
        notes: vec![],
    });
    assert!(matches!(
        contact.answer().await.unwrap(),
        Some(Reply::Ended { .. })
    ));
}

#[tokio::test]
async fn nonsense_ends_the_connection() {
    let mut bench = bench();
    let (mut ours, theirs) = both_ends().await;
    bench.control.attend(lines(theirs), Caller::Anybody);
    tokio::io::AsyncWriteExt::write_all(&mut ours, b"{}\n")
        .await
        .unwrap();
    let mut nothing = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut ours, &mut nothing)
        .await
        .unwrap();
    assert!(nothing.is_empty());
}

#[tokio::test]
async fn a_guest_hears_at_once_that_the_session_is_over() {
    let mut bench = bench();
    let mut contact = bench.connect(Caller::Anybody).await;
    contact.ask(&Request::Guest(guest())).await.unwrap();
    contact.status().await.unwrap();
    bench.board.finish(Reply::Ended {
        reason: None,
        notes: vec![],
    });
    while contact.answer().await.unwrap().is_some() {}
}

#[tokio::test]
async fn a_guest_is_one_while_its_connection_lives() {
    let mut bench = bench();
    let mut contact = bench.connect(Caller::Anybody).await;
    let question = [&[0; 12][..], b"\x03web\x02eu\x00\x00\x01\x00\x01"].concat();
    contact.ask(&Request::Guest(guest())).await.unwrap();
    contact.status().await.unwrap();
    let Bench { board, control } = bench;
    assert!(board.guests.servers(&question).is_some());
    drop(contact);
    control.finish().await;
    assert_eq!(board.guests.servers(&question), None);
}

fn guest() -> Guest {
    Guest {
        session: "b".parse().unwrap(),
        servers: vec!["198.19.0.7".parse().unwrap()],
        domains: vec!["eu".to_owned()],
    }
}
