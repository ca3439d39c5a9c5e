//! What both ends of a kvpn tunnel agree on: packet views, super-packets, the WireGuard session, carrier framing,
//! control messages, exposures, names and address ranges.
//!
//! Nothing here reads a clock, draws randomness, opens a socket or starts a thread: `now` and seeds
//! come in as arguments. The exceptions sit inside boringtun and are named in [`wireguard`].

pub mod control;
pub mod exposure;
pub mod fq_codel;
pub mod frame;
pub mod name;
pub mod offload;
pub mod packet;
pub mod pmtud;
pub mod queue;
pub mod range;
pub mod stream;
pub mod window;
pub mod wireguard;

use std::ops::RangeInclusive;

/// TCP port of the control API: on 127.0.0.1 in the pod, and on the gateway's tunnel address.
pub const CONTROL_PORT: u16 = 6180;

/// TCP port of the `api` carrier, on 127.0.0.1 in the pod; reached through port-forward.
pub const API_CARRIER_PORT: u16 = 6181;

/// TCP port of `/healthz`, `/readyz` and `/metrics` in the pod.
pub const HEALTH_PORT: u16 = 6182;

/// UDP port of the `udp` carrier.
pub const WIREGUARD_PORT: u16 = 51820;

/// Ports of the gateway pod at which exposures are listened for: above the well-known ones, below those that Linux gives to
/// outgoing connections (32768 to 60999).
pub const EXPOSURE_PORTS: RangeInclusive<u16> = 20000..=32767;
