//! Connections as programs make them, and the sequence of bytes that the echo pods know too.
//! Called inside [`crate::laptop::Laptop::in_network`]; standard library only.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

/// The time within which anything that comes has come.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Connects, with the time limit set on all that follows.
///
/// # Errors
///
/// The system's.
pub fn dial(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends a line and reads one back.
///
/// # Errors
///
/// The system's, or that the connection ended before a line.
pub fn exchange_line(stream: &mut TcpStream, line: &str) -> io::Result<String> {
    writeln!(stream, "{line}")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    if answer.is_empty() {
        Err(io::ErrorKind::UnexpectedEof.into())
    } else {
        Ok(answer)
    }
}

/// Sends a datagram and waits for one back.
///
/// # Errors
///
/// The system's: `ConnectionRefused` when an ICMP error said so, `WouldBlock` when nothing came within `limit`.
pub fn exchange_datagram(to: SocketAddr, payload: &[u8], limit: Duration) -> io::Result<Vec<u8>> {
    let any: IpAddr = if to.is_ipv4() {
        [0, 0, 0, 0].into()
    } else {
        [0_u16; 8].into()
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(limit))?;
    socket.connect(to)?;
    socket.send(payload)?;
    let mut answer = vec![0; 65_535];
    let length = socket.recv(&mut answer)?;
    answer.truncate(length);
    Ok(answer)
}

/// Fetches `http://HOST PATH` and returns the body.
///
/// # Errors
///
/// The system's, or a status other than 200.
pub fn http_get(to: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = dial(to)?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: test\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or(io::ErrorKind::UnexpectedEof)?;
    if head.starts_with("HTTP/1.0 200") || head.starts_with("HTTP/1.1 200") {
        return Ok(body.to_owned());
    }
    Err(io::Error::other(head.to_owned()))
}

/// Sends the first `total` bytes of the sequence to a pod's port 9001, finishes sending, and returns the pod's
/// answer: how many bytes it read and their SHA-256.
///
/// # Errors
///
/// The system's.
pub fn upload(to: SocketAddr, total: u64) -> io::Result<String> {
    let mut stream = dial(to)?;
    let mut block = vec![0; 1 << 16];
    let mut sent = 0;
    while sent < total {
        let length = at_most(block.len(), total - sent);
        fill(&mut block[..length], sent);
        stream.write_all(&block[..length])?;
        sent += length as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.trim().to_owned())
}

/// Reads `/bytes?n=total` and compares every byte with the sequence.
///
/// # Errors
///
/// The system's, or where the first difference is.
pub fn download(to: SocketAddr, total: u64) -> io::Result<()> {
    let mut stream = dial(to)?;
    write!(
        stream,
        "GET /bytes?n={total} HTTP/1.0\r\nHost: test\r\n\r\n"
    )?;
    let mut reader = BufReader::with_capacity(1 << 16, stream);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    compare(&mut reader, total)
}

fn compare(reader: &mut impl io::Read, total: u64) -> io::Result<()> {
    let (mut got, mut expected) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut seen = 0;
    while seen < total {
        let length = at_most(got.len(), total - seen);
        reader.read_exact(&mut got[..length])?;
        fill(&mut expected[..length], seen);
        if got[..length] != expected[..length] {
            return Err(io::Error::other(format!(
                "the bytes differ between {seen} and {}",
                seen + length as u64
            )));
        }
        seen += length as u64;
    }
    Ok(())
}

fn at_most(block: usize, left: u64) -> usize {
    usize::try_from(left).map_or(block, |left| left.min(block))
}

/// Writes the sequence's bytes from `offset`, a multiple of 8, on. The echo pods make the same ones.
fn fill(block: &mut [u8], offset: u64) {
    let first = offset / 8;
    for (place, word) in block.chunks_mut(8).zip(first..) {
        let bytes = word.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes();
        place.copy_from_slice(&bytes[..place.len()]);
    }
}
