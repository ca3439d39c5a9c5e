//! kvpn's client without IO: which packet goes where, what a name means, which path works, what to do next.
//!
//! [`ClientState`] is a state machine. Its driver owns the sockets and the TUN and repeats:
//!
//! 1. hand in what arrived: [`handle_tun_packet`](ClientState::handle_tun_packet),
//!    [`handle_datagram`](ClientState::handle_datagram), or [`handle_timeout`](ClientState::handle_timeout) when the
//!    instant of [`poll_timeout`](ClientState::poll_timeout) has come;
//! 2. take out until empty: [`poll_transmit`](ClientState::poll_transmit), [`poll_packet`](ClientState::poll_packet),
//!    [`poll_event`](ClientState::poll_event);
//! 3. ask [`poll_timeout`](ClientState::poll_timeout) again and wait.
//!
//! The clock and randomness come in as arguments: equal inputs give equal outputs. No sockets, no threads, no tokio,
//! no environment in this crate.

mod config;
mod event;
mod kept;
mod names;
mod netmap;
mod paths;
mod random;
mod session;
mod state;
mod status;
#[cfg(test)]
mod testing;
mod track;

pub use config::{CarrierChoice, Config, Names};
pub use event::{Event, Path, QueryType, Resolution, Transmit};
pub use netmap::{Mapping, Netmap};
pub use session::tunnel_mtu;
pub use state::ClientState;
pub use status::{PathState, PathStatus, Status};
