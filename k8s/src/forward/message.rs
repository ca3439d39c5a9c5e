//! What the messages of a port-forward mean (subprotocols v4 and v5.channel.k8s.io).
//!
//! Every message is binary and begins with a channel number: 0 carries the bytes, 1 the kubelet's error text.
//! The first message of each channel holds the port as a little-endian u16 (k8s.io/kubelet,
//! pkg/cri/streaming/portforward/websocket.go). It does no IO.

use bytes::{BufMut as _, Bytes, BytesMut};
use std::io;
use tokio_tungstenite::tungstenite::{self, Message};

pub(super) const DATA: u8 = 0;
pub(super) const ERROR: u8 = 1;

/// A message that carries `bytes`.
pub(super) fn data(bytes: &[u8]) -> Message {
    let mut message = BytesMut::with_capacity(1 + bytes.len());
    message.put_u8(DATA);
    message.put_slice(bytes);
    Message::Binary(message.freeze())
}

/// Which channels have told their port yet.
#[derive(Debug, Default)]
pub(super) struct PortsSeen {
    data: bool,
    error: bool,
}

impl PortsSeen {
    /// A message's channel and bytes; `None` for the one that only tells the port.
    pub(super) fn strip(&mut self, mut payload: Bytes) -> io::Result<Option<(u8, Bytes)>> {
        if payload.is_empty() {
            return Ok(None);
        }
        let channel = payload.split_to(1)[0];
        let seen = match channel {
            DATA => &mut self.data,
            ERROR => &mut self.error,
            _ => return Ok(None),
        };
        if !std::mem::replace(seen, true) {
            if payload.len() < 2 {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the port-forward began without its port",
                ));
            }
            payload = payload.slice(2..);
        }
        Ok((!payload.is_empty()).then_some((channel, payload)))
    }
}

/// The kubelet's words for a connection that it could not make or keep.
pub(super) fn refused(text: &[u8]) -> io::Error {
    let text = String::from_utf8_lossy(text).trim().to_owned();
    let kind = if text.contains("connection refused") {
        io::ErrorKind::ConnectionRefused
    } else {
        io::ErrorKind::ConnectionAborted
    };
    io::Error::new(kind, text)
}

pub(super) fn broken(error: tungstenite::Error) -> io::Error {
    match error {
        tungstenite::Error::Io(error) => error,
        tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => {
            io::Error::new(io::ErrorKind::BrokenPipe, "the port-forward was closed")
        }
        other => io::Error::new(io::ErrorKind::ConnectionReset, other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_message_of_each_channel_tells_its_port() {
        let mut ports = PortsSeen::default();
        let mut strip = |bytes: &'static [u8]| ports.strip(Bytes::from_static(bytes)).unwrap();
        assert_eq!(strip(&[0, 0x90, 0x1f]), None);
        assert_eq!(strip(&[1, 0x90, 0x1f]), None);
        assert_eq!(strip(b"\0abc"), Some((DATA, Bytes::from_static(b"abc"))));
        assert_eq!(strip(b"\x01no"), Some((ERROR, Bytes::from_static(b"no"))));
        assert_eq!(strip(&[7, 1, 2]), None, "a channel that we do not know");
        assert_eq!(strip(&[]), None);
        assert_eq!(strip(&[0]), None);
    }

    #[test]
    fn bytes_right_behind_the_port_are_data() {
        let mut ports = PortsSeen::default();
        let stripped = ports
            .strip(Bytes::from_static(&[0, 0x90, 0x1f, b'x']))
            .unwrap();
        assert_eq!(stripped, Some((DATA, Bytes::from_static(b"x"))));
        assert!(
            PortsSeen::default()
                .strip(Bytes::from_static(&[0, 1]))
                .is_err()
        );
    }

    #[test]
    fn a_refused_connection_is_told_as_such() {
        let error = refused(
            b"error forwarding port 1 to pod x: dial tcp4 127.0.0.1:1: connect: connection refused",
        );
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(refused(b"gone").kind(), io::ErrorKind::ConnectionAborted);
    }
}
