//! What programs say, byte by byte.

use proptest::prelude::*;
use tokio::io::duplex;

use super::*;
use crate::agent::driver::tests::current_thread;

type Accepted = io::Result<Result<(Command, Target), Reply>>;

/// What comes of a program that says `said` and no more, and what it is answered.
fn say(said: &[u8], password: Option<&str>) -> (Accepted, Vec<u8>) {
    current_thread().block_on(async {
        let (mut program, mut proxy) = duplex(4096);
        program.write_all(said).await.unwrap();
        program.shutdown().await.unwrap();
        let credentials = password.map(|password| Credentials::new(password.to_owned()));
        let accepted = accept(&mut proxy, credentials.as_ref()).await;
        drop(proxy);
        let mut answer = Vec::new();
        program.read_to_end(&mut answer).await.unwrap();
        (accepted, answer)
    })
}

const HELLO: &[u8] = &[5, 1, 0];

fn after_hello(request: &[u8]) -> Accepted {
    say(&[HELLO, request].concat(), None).0
}

#[test]
fn addresses_and_names() {
    for (address, expected) in [
        (&[1, 10, 96, 0, 1][..], "10.96.0.1:443"),
        (b"\x03\x0aweb.orders", "web.orders:443"),
        (b"\x03\x0910.96.0.1", "10.96.0.1:443"),
        (
            &[4, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
            "[fd00::1]:443",
        ),
    ] {
        let request = [&[5, 1, 0], address, &[1, 187]].concat();
        let (command, target) = after_hello(&request).unwrap().unwrap();
        assert_eq!(
            (command, target.to_string().as_str()),
            (Command::Connect, expected)
        );
    }
    let associate = [5, 3, 0, 1, 0, 0, 0, 0, 0, 0];
    let (command, _) = after_hello(&associate).unwrap().unwrap();
    assert_eq!(command, Command::Associate);
}

#[test]
fn what_is_not_known_is_answered() {
    let bind = [5, 2, 0, 1, 0, 0, 0, 0, 0, 0];
    assert_eq!(after_hello(&bind).unwrap(), Err(Reply::CommandUnknown));
    let kind = [5, 1, 0, 9, 0, 0, 0, 0, 0, 0];
    assert_eq!(after_hello(&kind).unwrap(), Err(Reply::AddressUnknown));
    let not_text = [5, 1, 0, 3, 1, 0xff, 0, 80];
    assert_eq!(after_hello(&not_text).unwrap(), Err(Reply::AddressUnknown));
    assert!(after_hello(&[4, 1, 0]).is_err());
}

#[test]
fn a_password_that_is_wanted_has_to_be_right() {
    let request = [5, 1, 0, 1, 10, 0, 0, 1, 0, 80];
    let (accepted, answer) = say(&[HELLO, &request].concat(), Some("secret"));
    assert!(accepted.is_err());
    assert_eq!(answer, [5, 0xff], "no method without a password");
    let with = |password: &[u8]| {
        let length = [password.len() as u8];
        let proof = [&b"\x01\x04kvpn"[..], &length, password].concat();
        say(
            &[&[5, 2, 0, 2], &proof[..], &request].concat(),
            Some("secret"),
        )
    };
    let (accepted, answer) = with(b"secret");
    assert!(accepted.unwrap().is_ok());
    assert_eq!(answer, [5, 2, 1, 0]);
    let (accepted, answer) = with(b"guess");
    assert!(accepted.is_err());
    assert_eq!(answer, [5, 2, 1, 1]);
}

#[test]
fn replies() {
    let bound = "127.0.0.1:1080".parse().unwrap();
    assert_eq!(
        reply(Reply::Refused, bound),
        [5, 5, 0, 1, 127, 0, 0, 1, 4, 56]
    );
}

#[test]
fn datagrams() {
    let from: SocketAddr = "[fd00::1]:53".parse().unwrap();
    let mut message = datagram_header(from);
    message.extend(b"payload");
    let (target, payload) = datagram(&message).unwrap();
    assert_eq!(target.to_string(), "[fd00::1]:53");
    assert_eq!(payload, b"payload");
    let (target, payload) = datagram(b"\0\0\0\x03\x03dns\0\x35").unwrap();
    assert_eq!(target.to_string(), "dns:53");
    assert_eq!(payload, b"");
    assert!(
        datagram(&[0, 0, 1, 1, 10, 0, 0, 1, 0, 53]).is_none(),
        "a fragment"
    );
}

proptest! {
    #[test]
    fn no_datagram_makes_it_panic(message in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = datagram(&message);
    }

    #[test]
    fn no_request_makes_it_panic(said in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = after_hello(&said);
    }
}
