//! The driver against what stands for a gateway ([`peer`]), and against a real one ([`gateway`]).

use std::net::SocketAddr;

use kvpn_client_core::{CarrierChoice, Config, Names, Netmap};
use kvpn_wire::control::SessionGrant;
use kvpn_wire::wireguard::PrivateKey;

use super::*;

#[cfg(target_os = "linux")]
mod gateway;
#[cfg(target_os = "linux")]
pub(super) mod net;
pub(crate) mod peer;

pub(crate) fn current_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

pub(super) fn config(private_key: PrivateKey, grant: SessionGrant, gateway: SocketAddr) -> Config {
    Config {
        private_key,
        grant,
        index: 7,
        seed: 7,
        carrier: CarrierChoice::Udp,
        udp_candidates: vec![gateway],
        names: Names {
            namespace: "default".into(),
            domain: "cluster.local".into(),
            namespaces: Vec::new(),
            own_domain: None,
            reverse: Vec::new(),
        },
        netmap: Netmap::default(),
        ranges: Vec::new(),
        split_dns: true,
        host_routes: false,
    }
}
