//! The far end of the probes: plain threads and sockets, so that little but the tunnel is measured.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream};

use crate::probe::raise_file_limit;
use crate::{say, stream};

/// Port of HTTP/1.1 with keep-alive: any request is answered with `ok`.
pub(crate) const HTTP_PORT: u16 = 8080;
/// Port that gives a line back and closes.
pub(crate) const LINE_PORT: u16 = 9000;
/// Port of [`stream`].
pub(crate) const STREAM_PORT: u16 = 9100;
/// Port whose connections stay open and quiet.
pub(crate) const HELD_PORT: u16 = 9200;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The address to listen on
    address: IpAddr,
}

/// Serves until the process is killed; says `ready` when all ports are open.
///
/// # Errors
/// A port is taken.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let http = TcpListener::bind((options.address, HTTP_PORT))?;
    let lines = TcpListener::bind((options.address, LINE_PORT))?;
    let streams = TcpListener::bind((options.address, STREAM_PORT))?;
    let held = TcpListener::bind((options.address, HELD_PORT))?;
    raise_file_limit()?;
    say("ready");
    std::thread::spawn(move || hold(&held));
    std::thread::spawn(move || accept(&http, serve_http));
    std::thread::spawn(move || accept(&lines, serve_line));
    accept(&streams, |stream| stream::serve(&stream));
    Ok(())
}

fn accept(listener: &TcpListener, serve: fn(TcpStream) -> anyhow::Result<()>) {
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || {
            if let Err(error) = serve(stream) {
                tracing::info!("a connection broke: {error:#}");
            }
        });
    }
}

/// Keeps what comes, and forgets all of it when the first one has closed.
fn hold(listener: &TcpListener) {
    let mut held = Vec::new();
    for stream in listener.incoming().flatten() {
        if held.first().is_some_and(is_closed) {
            held.clear();
        }
        held.push(stream);
    }
}

fn is_closed(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).is_ok() && matches!(stream.peek(&mut [0]), Ok(0))
}

fn serve_http(mut stream: TcpStream) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = [0; 4096];
    let mut filled = 0;
    loop {
        let count = stream.read(&mut buffer[filled..])?;
        if count == 0 {
            return Ok(());
        }
        filled += count;
        if buffer[..filled].ends_with(b"\r\n\r\n") {
            stream.write_all(ANSWER)?;
            filled = 0;
        }
    }
}

fn serve_line(mut stream: TcpStream) -> anyhow::Result<()> {
    let mut line = Vec::new();
    BufReader::new(&stream).read_until(b'\n', &mut line)?;
    stream.write_all(&line)?;
    Ok(())
}
