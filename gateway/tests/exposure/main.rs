//! An exposure's port on loopback: real sockets, real HTTP servers as laptops and origin, no Kubernetes, no tunnel.

#![expect(
    clippy::unwrap_used,
    reason = "the tests' own servers and clients are tests too"
)]

mod drain;
mod fallback;
mod grpc;
mod http1;
mod http2;
mod mirror;
mod raw;
mod stage;
mod udp;
mod upgrade;
