//! The gateway's decisions: sessions, leases, what may be reached, and where each packet goes. No IO.
//!
//! No clock, random source, environment, socket or thread is in here: `now`, a seed and the facts of the pod
//! come in as arguments. The shell (`kvpn-gateway`) owns the sockets and drives a [`GatewayState`].
//!
//! # Usage loop
//!
//! 1. Feed what came: [`GatewayState::handle_datagram`] for each WireGuard datagram,
//!    [`GatewayState::handle_tun_packet`] for each packet of the kernel datapath's TUN,
//!    [`GatewayState::handle_timeout`] when [`GatewayState::poll_timeout`] is due. Who is behind empties its sockets into
//!    [`GatewayState::queue_datagrams`] and opens with [`GatewayState::handle_waiting`], some at a time.
//! 2. Drain [`GatewayState::poll_event`], answering with the `tcp_`, `udp_` and `echo_` methods.
//! 3. Drain [`GatewayState::poll_packet`] (to the TUN) and [`GatewayState::poll_transmit`] (to the carriers).
//! 4. Again from 2 until all return `None`; only then is [`GatewayState::poll_timeout`] up to date.

mod address;
mod allowance;
mod config;
mod event;
mod exposures;
mod output;
mod path;
mod policy;
mod rooms;
mod schedule;
mod session;
mod sessions;
mod shard;
mod state;
mod strangers;
mod way;

pub use config::{Config, KernelFamilies, Limits};
pub use event::{Event, Flow, FlowEvent, SessionIndex, Target};
pub use exposures::{
    ExposureAction, ExposurePart, ExposureRefused, Exposures, GRACE, RESTORE_AFTER, RESTORE_AGAIN,
    SILENT_AFTER, ServiceKey,
};
pub use kvpn_netstack::{FlowCounts, Refusal};
pub use output::{DropReason, Drops};
pub use path::{Path, StreamId, Transmit};
pub use policy::{Forbidden, Policy};
pub use shard::{MAX_SHARDS, Shard};
pub use state::{Elsewhere, GatewayState, Refused, Snapshot, Undialled};
pub use strangers::Stranger;
