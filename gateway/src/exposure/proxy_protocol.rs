//! The client's address before a connection's first byte, as HAProxy's PROXY protocol has it (proxy-protocol.txt,
//! sections 2.1 and 2.2). Writes headers, reads none.

use std::net::{IpAddr, SocketAddr};

/// Which version of the PROXY protocol a laptop's program reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

impl ProxyProtocol {
    /// The header of a TCP connection from `client` to `server`.
    pub(super) fn header(self, client: SocketAddr, server: SocketAddr) -> Vec<u8> {
        let (client, server) = same_family(client, server);
        match self {
            Self::V1 => v1(client, server),
            Self::V2 => v2(client, server),
        }
    }
}

/// A listener of both families sees IPv4 clients as mapped addresses (RFC 4291 section 2.5.5.2).
fn same_family(client: SocketAddr, server: SocketAddr) -> (SocketAddr, SocketAddr) {
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    (plain(client), plain(server))
}

fn v1(client: SocketAddr, server: SocketAddr) -> Vec<u8> {
    let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (client.ip(), server.ip());
    let (from_port, to_port) = (client.port(), server.port());
    format!("PROXY {family} {from} {to} {from_port} {to_port}\r\n").into_bytes()
}

fn v2(client: SocketAddr, server: SocketAddr) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    let (family, length) = if client.is_ipv4() {
        (0x11, 12_u16)
    } else {
        (0x21, 36)
    };
    header.extend_from_slice(&[0x21, family]);
    header.extend_from_slice(&length.to_be_bytes());
    for address in [client, server] {
        match address.ip() {
            IpAddr::V4(address) => header.extend_from_slice(&address.octets()),
            IpAddr::V6(address) => header.extend_from_slice(&address.octets()),
        }
    }
    header.extend_from_slice(&client.port().to_be_bytes());
    header.extend_from_slice(&server.port().to_be_bytes());
    header
}

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_is_a_line() {
        let header = ProxyProtocol::V1.header(
            "[::ffff:10.1.2.3]:40000".parse().unwrap(),
            "[::ffff:10.9.9.9]:8080".parse().unwrap(),
        );
        assert_eq!(header, b"PROXY TCP4 10.1.2.3 10.9.9.9 40000 8080\r\n");
        let header = ProxyProtocol::V1.header(
            "[fd00::1]:1".parse().unwrap(),
            "[fd00::2]:2".parse().unwrap(),
        );
        assert_eq!(header, b"PROXY TCP6 fd00::1 fd00::2 1 2\r\n");
    }

    #[test]
    fn version_2_is_signature_command_family_length_addresses_ports() {
        let header = ProxyProtocol::V2.header(
            "10.1.2.3:258".parse().unwrap(),
            "10.9.9.9:80".parse().unwrap(),
        );
        let mut expected = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec();
        expected.extend_from_slice(&[10, 1, 2, 3, 10, 9, 9, 9, 1, 2, 0, 80]);
        assert_eq!(header, expected);
        let header = ProxyProtocol::V2.header(
            "[fd00::1]:1".parse().unwrap(),
            "[fd00::2]:2".parse().unwrap(),
        );
        assert_eq!((header.len(), header[13], header[15]), (16 + 36, 0x21, 36));
    }
}
