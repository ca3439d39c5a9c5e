//! What both shells do with the kernel by the batch: datagrams of a UDP socket (`UDP_SEGMENT`, `UDP_GRO`), and
//! packets of a TUN with virtio-net headers (TCP and UDP segmentation).
//!
//! It moves bytes over descriptors that the shells own and watch, each with the runtime it has. It must not open
//! devices, wait for anything, or know sessions, paths and carriers.

mod os;
pub mod tun;
pub mod udp;
