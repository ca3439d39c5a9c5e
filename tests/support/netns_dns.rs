//! The smallest stand-in for the agent's DNS stub: names with an A record each, answered over a TUN.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use kvpn_wire::packet::{DnsHeader, FiveTuple, Ip, build};
use rustix::event::{PollFd, PollFlags, poll};

/// A stub that answers in a thread of its own; it holds the TUN until [`Stub::end`].
pub(crate) struct Stub {
    stop: UnixStream,
    thread: JoinHandle<()>,
}

impl Stub {
    /// Answers every query for these names; any other gets NXDOMAIN.
    pub(crate) fn start(tun: OwnedFd, names: &'static [(&'static str, [u8; 4])]) -> Self {
        let (stop, stopped) = UnixStream::pair().unwrap();
        let thread = std::thread::spawn(move || {
            while wait(&tun, &stopped) {
                let mut packet = [0; 2048];
                let Ok(len) = rustix::io::read(&tun, &mut packet) else {
                    continue;
                };
                if let Some(answer) = answer(&packet[..len], names) {
                    rustix::io::write(&tun, &answer).unwrap();
                }
            }
        });
        Self { stop, thread }
    }

    /// Ends it and closes its TUN.
    pub(crate) fn end(self) {
        drop(self.stop);
        self.thread.join().unwrap();
    }
}

/// Waits for a packet; false when it is time to end.
fn wait(tun: &OwnedFd, stopped: &UnixStream) -> bool {
    let mut ready = [
        PollFd::from_borrowed_fd(tun.as_fd(), PollFlags::IN),
        PollFd::new(stopped, PollFlags::IN),
    ];
    poll(&mut ready, None).unwrap();
    ready[1].revents().is_empty()
}

fn answer(packet: &[u8], names: &[(&str, [u8; 4])]) -> Option<Vec<u8>> {
    let ip = Ip::parse(packet).ok()?;
    let (flow, query) = (FiveTuple::of(&ip)?, ip.udp()?.payload());
    let response = respond(query, names)?;
    let mut out = [0; 2048];
    let (client, stub): (SocketAddr, SocketAddr) = (flow.src, flow.dst);
    let len = build::udp(stub, client, &response, &mut out)?;
    Some(out[..len].to_vec())
}

/// RFC 1035, 4.1: header, the question as asked, and for type A one answer whose name points at the question's.
fn respond(query: &[u8], names: &[(&str, [u8; 4])]) -> Option<Vec<u8>> {
    let id = DnsHeader::parse(query).ok()?.id();
    let end = 12 + query[12..].iter().position(|&byte| byte == 0)? + 1;
    let mut names = names.iter();
    let found = names.find(|(name, _)| query[12..end].eq_ignore_ascii_case(&encoded(name)));
    let known = found.is_some();
    let is_a = query.get(end..end + 2)? == [0, 1];
    let mut response = id.to_be_bytes().to_vec();
    response.extend_from_slice(&[
        0x85,
        if known { 0x80 } else { 0x83 },
        0,
        1,
        0,
        u8::from(known && is_a),
        0,
        0,
        0,
        0,
    ]);
    response.extend_from_slice(query.get(12..end + 4)?);
    if let Some((_, address)) = found.filter(|_| is_a) {
        response.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4]);
        response.extend_from_slice(address);
    }
    Some(response)
}

fn encoded(name: &str) -> Vec<u8> {
    let labels = name.split('.').chain([""]);
    let label = |label: &str| {
        let length = u8::try_from(label.len()).expect("labels are short");
        [&[length], label.as_bytes()].concat()
    };
    labels.flat_map(label).collect()
}
