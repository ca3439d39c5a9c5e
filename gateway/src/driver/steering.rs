//! Sockets that share a port, and which of them the kernel gives a datagram to: the one of the part that has the session.
//!
//! The program (classic BPF, `SO_ATTACH_REUSEPORT_CBPF`, Linux 4.5) sees the datagram's payload and answers with a socket's number in the order
//! in which they were bound. A number that none has means: by the hash of both addresses, as without a program.

use std::fmt;
use std::io;
use std::os::fd::AsFd;

use libc::{
    BPF_A, BPF_ABS, BPF_ALU, BPF_AND, BPF_B, BPF_JA, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET,
    sock_filter, sock_fprog,
};
use nix::sys::socket::{setsockopt, sockopt::AttachReusePortCbpf};

/// Who gives datagrams to the part that has their session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Steering {
    /// There is one part.
    Alone,
    /// The kernel, to so many.
    Kernel(u8),
    /// The drivers among each other: the kernel cannot.
    Drivers(u8),
}

impl fmt::Display for Steering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alone => Ok(()),
            Self::Kernel(parts) => write!(f, ", {parts} shards"),
            Self::Drivers(parts) => write!(f, ", {parts} shards not steered by the kernel"),
        }
    }
}

/// Has the kernel steer among `parts` sockets that share the port of `socket`.
///
/// # Errors
/// What the kernel refused: ENOPROTOOPT before Linux 4.5, EPERM where system calls are filtered.
pub(crate) fn steer(socket: &impl AsFd, parts: u8) -> io::Result<()> {
    let mut program = program(parts);
    let program = sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    Ok(setsockopt(socket, AttachReusePortCbpf, &program)?)
}

/// Byte 1 of a receiver index has the low bits of the session's: byte 0 numbers its handshakes (see
/// [`Shard::of_datagram`](kvpn_gateway_core::Shard::of_datagram)). The index is at byte 4 of cookies (3) and data (4), at byte 8 of
/// responses (2). Initiations (1) have none of ours.
fn program(parts: u8) -> [sock_filter; 10] {
    let load = |at| instruction(BPF_LD | BPF_B | BPF_ABS, at, 0);
    let jump_if = |value, by| instruction(BPF_JMP | BPF_JEQ | BPF_K, value, by);
    [
        load(0),
        jump_if(4, 5),
        jump_if(3, 4),
        jump_if(2, 1),
        instruction(BPF_RET | BPF_K, u32::MAX, 0),
        load(9),
        instruction(BPF_JMP | BPF_JA, 1, 0),
        load(5),
        instruction(BPF_ALU | BPF_AND | BPF_K, u32::from(parts) - 1, 0),
        instruction(BPF_RET | BPF_A, 0, 0),
    ]
}

/// `by` instructions are left out when a comparison holds.
fn instruction(code: u32, k: u32, by: u8) -> sock_filter {
    sock_filter {
        code: u16::try_from(code).expect("codes have 16 bits"),
        jt: by,
        jf: 0,
        k,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use socket2::{Domain, Socket, Type};

    use super::*;

    fn bind(address: SocketAddr) -> Socket {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&address.into()).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    }

    #[test]
    fn each_message_reaches_the_socket_of_its_session() {
        let first = bind((Ipv4Addr::LOCALHOST, 0).into());
        let address = first.local_addr().unwrap();
        steer(&first, 4).unwrap();
        let mut sockets = vec![first];
        sockets.extend((1..4).map(|_| bind(address.as_socket().unwrap())));
        let sender = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        for (kind, length, receiver) in [(4, 1400, 4), (4, 32, 4), (3, 64, 4), (2, 92, 8)] {
            for part in 0..4_u8 {
                let mut datagram = vec![0xff; length];
                datagram[..4].copy_from_slice(&[kind, 0, 0, 0]);
                datagram[receiver + 1] = 0xa8 + part;
                sender.send_to(&datagram, &address).unwrap();
                let received = sockets.iter().map(|socket| socket.peek_sender().is_ok());
                let expected = (0..4).map(|other| other == part);
                assert!(received.eq(expected), "{kind} {part}");
                sockets[usize::from(part)].recv(&mut []).unwrap();
            }
        }
    }

    #[test]
    fn an_initiation_reaches_some_socket() {
        let first = bind((Ipv4Addr::LOCALHOST, 0).into());
        let address = first.local_addr().unwrap();
        steer(&first, 2).unwrap();
        let sockets = [first, bind(address.as_socket().unwrap())];
        let sender = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        let mut datagram = [0xff; 148];
        datagram[..4].copy_from_slice(&[1, 0, 0, 0]);
        sender.send_to(&datagram, &address).unwrap();
        let received = sockets.iter().filter(|socket| socket.peek_sender().is_ok());
        assert_eq!(received.count(), 1);
    }
}
