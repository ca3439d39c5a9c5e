//! TCP, UDP and ICMP echo flows terminated in userspace: IP packets in, bytes and events out.
//!
//! The gateway's `userspace` datapath and the client's `stack` link stand on it. It does no IO: no
//! socket, clock, thread or random source is in here; `now` and a seed come in as arguments.
//!
//! # Usage loop
//!
//! 1. Feed what came: [`Netstack::handle_packet`] for each IP packet of a batch, and
//!    [`Netstack::handle_timeout`] when [`Netstack::poll_timeout`] is due.
//! 2. Drain [`Netstack::poll_event`], answering with the `tcp_`, `udp_` and `echo_` methods.
//! 3. Drain [`Netstack::poll_packet`]; segments are made there, on demand, so that whoever cannot
//!    send leaves them in the flows' buffers instead of losing them, and one acknowledgement
//!    answers a whole batch.
//! 4. Again from 2 until both return `None`; then wait for a packet or for the timeout.
//!
//! # How it is made
//!
//! Around the TCP of `tcp.rs` are the table of flows, deadlines for those that are due only, SYNs held until the caller has decided,
//! TIME-WAIT without buffers, and one budget of memory for the buffers of all flows. A segment's payload is copied once on its way in (into
//! the flow's buffer) and not at all on its way out: super-packets of up to 64 KiB are handed out as slices of the buffer.

mod answers;
mod clock;
mod config;
mod datagram;
mod deadlines;
mod drops;
mod emitted;
mod event;
mod flows;
mod fragments;
mod lingering;
mod memory;
mod outbox;
mod reassembly;
mod seeds;
mod stack;
mod tcp;
mod waiting;

pub use config::Config;
pub use drops::Drops;
pub use emitted::Emitted;
pub use event::{Event, FlowCounts, FlowId, Full, Refusal};
pub use stack::{EPHEMERAL, Netstack};
