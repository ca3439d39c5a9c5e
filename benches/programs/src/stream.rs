//! One long stream of bytes that nobody could guess, hashed where it is made and where it arrives.
//!
//! The client says a byte (`u` or `d`) and a length (u64, big-endian); whoever has the bytes sends them, and after them
//! their SHA-256; whoever receives answers with the SHA-256 of what came.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::time::Duration;

use anyhow::{bail, ensure};
use clap::ValueEnum;
use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use serde_json::json;

use crate::probe::connect;
use crate::server::STREAM_PORT;
use crate::{now, say};

/// A stream may stand still this long, while packets are dropped.
const PATIENCE: Duration = Duration::from_secs(60);
const BUFFER: usize = 256 << 10;

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Way {
    Up,
    Down,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The server's address
    server: IpAddr,
    /// Which way
    way: Way,
    /// How many bytes
    bytes: u64,
    /// What the bytes are made of
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

type Hash = [u8; SHA256_OUTPUT_LEN];

/// `{"bytes": N, "seconds": .., "sha256": ".."}`; fails when the hashes differ.
///
/// # Errors
/// The stream broke, stood still for a minute, or arrived changed.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let stream = connect(options.server, STREAM_PORT)?;
    be_patient(&stream)?;
    let start = now();
    let kind = match options.way {
        Way::Up => b'u',
        Way::Down => b'd',
    };
    (&stream).write_all(&[kind])?;
    (&stream).write_all(&options.bytes.to_be_bytes())?;
    (&stream).write_all(&options.seed.to_be_bytes())?;
    let hash = match options.way {
        Way::Up => send(&stream, options.bytes, options.seed)?,
        Way::Down => receive(&stream, options.bytes)?,
    };
    let mut other: Hash = [0; SHA256_OUTPUT_LEN];
    (&stream).read_exact(&mut other)?;
    ensure!(hash == other, "what arrived is not what was sent");
    let text: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let seconds = start.elapsed().as_secs_f64();
    say(json!({ "bytes": options.bytes, "seconds": seconds, "sha256": text }));
    Ok(())
}

/// The server's side of a stream.
///
/// # Errors
/// The stream broke.
pub(crate) fn serve(stream: &TcpStream) -> anyhow::Result<()> {
    be_patient(stream)?;
    let mut head = [0; 17];
    let mut reader = stream;
    reader.read_exact(&mut head)?;
    let number = |at: usize| {
        let bytes = head[at..at + 8].iter();
        bytes.fold(0, |sum: u64, &byte| sum << 8 | u64::from(byte))
    };
    let (bytes, seed) = (number(1), number(9));
    let hash = match head[0] {
        b'u' => receive(stream, bytes)?,
        b'd' => send(stream, bytes, seed)?,
        _ => bail!("neither up nor down"),
    };
    let mut writer = stream;
    writer.write_all(&hash)?;
    Ok(())
}

fn be_patient(stream: &TcpStream) -> anyhow::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(())
}

fn send(mut to: impl Write, bytes: u64, seed: u64) -> anyhow::Result<Hash> {
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; BUFFER];
    let mut state = seed.max(1);
    let mut left = bytes;
    while left > 0 {
        fill(&mut buffer, &mut state);
        let length = left.min(BUFFER as u64) as usize;
        context.update(&buffer[..length]);
        to.write_all(&buffer[..length])?;
        left -= length as u64;
    }
    Ok(finish(context))
}

fn receive(mut from: impl Read, bytes: u64) -> anyhow::Result<Hash> {
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; BUFFER];
    let mut left = bytes;
    while left > 0 {
        let room = left.min(BUFFER as u64) as usize;
        let count = from.read(&mut buffer[..room])?;
        ensure!(count > 0, "the stream ended {left} bytes too early");
        context.update(&buffer[..count]);
        left -= count as u64;
    }
    Ok(finish(context))
}

fn finish(context: Context) -> Hash {
    let mut hash = [0; SHA256_OUTPUT_LEN];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

/// xorshift64: no two places of the stream look alike.
fn fill(buffer: &mut [u8], state: &mut u64) {
    for piece in buffer.chunks_exact_mut(8) {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        piece.copy_from_slice(&state.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    #[test]
    fn both_ends_have_the_hash_of_what_passed() {
        let mut wire = Vec::new();
        let sent = send(&mut wire, 300_001, 7).unwrap();
        assert_eq!(wire.len(), 300_001);
        assert_eq!(receive(wire.as_slice(), 300_001).unwrap(), sent);
        wire[200_000] ^= 1;
        assert_ne!(receive(wire.as_slice(), 300_001).unwrap(), sent);
        assert!(receive(&wire[1..], 300_001).is_err());
    }

    #[test]
    fn a_server_answers_with_its_hash() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || serve(&listener.accept().unwrap().0).unwrap());
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"u").unwrap();
        stream.write_all(&1000_u64.to_be_bytes()).unwrap();
        stream.write_all(&3_u64.to_be_bytes()).unwrap();
        let sent = send(&stream, 1000, 3).unwrap();
        let mut heard = [0; SHA256_OUTPUT_LEN];
        stream.read_exact(&mut heard).unwrap();
        assert_eq!(heard, sent);
        server.join().unwrap();
    }
}
