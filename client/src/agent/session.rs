//! What makes a session: its keys, the request for it, and what the grant means for this machine.
//!
//! Talks to nobody. The only source of randomness of the agent.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, ensure};
use ipnetwork::IpNetwork;
use kvpn_k8s::GatewayPod;
use kvpn_wire::CONTROL_PORT;
use kvpn_wire::control::{self, CreateSession, SessionGrant, TunnelAddresses};
use kvpn_wire::wireguard::PrivateKey;
use rand::TryRng as _;

use crate::agent::laptop::Laptop;
use crate::agent::report::GatewayReport;
use crate::cluster;

/// What identifies and protects a session.
pub(crate) struct Keys {
    /// The session's own key.
    pub(crate) private: PrivateKey,
    /// What was granted for it.
    pub(crate) grant: SessionGrant,
}

/// The other end of a session, as it is now.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// The pod.
    pub(crate) gateway: GatewayPod,
    /// What it granted.
    pub(crate) grant: SessionGrant,
}

impl Peer {
    /// The other end of a session that was just opened, or taken up again.
    pub(crate) fn new(gateway: &GatewayPod, grant: &SessionGrant) -> Self {
        Self {
            gateway: gateway.clone(),
            grant: grant.clone(),
        }
    }

    /// Where the gateway's control API listens in the tunnel.
    ///
    /// # Errors
    ///
    /// It granted no addresses.
    pub(crate) fn control(&self) -> anyhow::Result<SocketAddr> {
        let addresses = self.grant.addresses.first();
        let addresses = addresses.context("the gateway granted no addresses")?;
        Ok(SocketAddr::new(addresses.gateway, CONTROL_PORT))
    }
}

/// The request for a session; `former` are the addresses of the one that it continues.
pub(crate) fn request(
    private: &PrivateKey,
    laptop: &Laptop,
    former: &[TunnelAddresses],
    session_name: String,
) -> CreateSession {
    let prefer: Vec<IpAddr> = former.iter().map(|addresses| addresses.client).collect();
    let own: Vec<IpNetwork> = prefer
        .iter()
        .filter_map(|client| block(*client).ok())
        .collect();
    CreateSession {
        version: control::VERSION,
        client_version: cluster::VERSION.to_owned(),
        public_key: private.public(),
        avoid: laptop.avoided(&own),
        prefer,
        session_name,
        super_packets: true,
    }
}

/// The gateway's end in a report.
pub(crate) fn gateway_report(gateway: &GatewayPod, grant: &SessionGrant) -> GatewayReport {
    GatewayReport {
        namespace: gateway.namespace.clone(),
        pod: gateway.name.clone(),
        image: gateway.image.clone(),
        version: grant.gateway_version.clone(),
        datapath: grant.datapath.to_string(),
        datapath_note: grant.datapath_note.clone(),
        offload: grant.offload.clone(),
        session_id: grant.session_id.clone(),
    }
}

/// The stub's addresses.
pub(crate) fn stubs(grant: &SessionGrant) -> Vec<IpAddr> {
    grant
        .addresses
        .iter()
        .map(|addresses| addresses.dns_stub)
        .collect()
}

/// A session's block of four addresses, on the link as a whole: gateway and stub are in it.
///
/// # Errors
///
/// The gateway granted an address that is none.
pub(crate) fn block(client: IpAddr) -> anyhow::Result<IpNetwork> {
    let prefix = if client.is_ipv4() { 30 } else { 126 };
    let block = IpNetwork::new(client, prefix)?;
    ensure!(
        !client.is_unspecified(),
        "the gateway granted the address {client}"
    );
    Ok(block)
}

/// The blocks of all tunnel addresses.
///
/// # Errors
///
/// As [`block`].
pub(crate) fn blocks(grant: &SessionGrant) -> anyhow::Result<Vec<IpNetwork>> {
    let clients = grant.addresses.iter().map(|addresses| addresses.client);
    clients.map(block).collect()
}

/// Addresses at which the gateway may answer UDP: what the cluster shows, then what the gateway was told.
pub(crate) fn candidates(mut shown: Vec<SocketAddr>, grant: &SessionGrant) -> Vec<SocketAddr> {
    for endpoint in &grant.udp_endpoints {
        if !shown.contains(endpoint) {
            shown.push(*endpoint);
        }
    }
    shown
}

/// A fresh key.
///
/// # Errors
///
/// The system has no randomness.
pub(crate) fn new_key() -> anyhow::Result<PrivateKey> {
    let mut seed = [0; 32];
    rand::rngs::SysRng
        .try_fill_bytes(&mut seed)
        .context("the system gives no random bytes")?;
    Ok(PrivateKey::from_seed(seed))
}

/// A password that nobody can guess: 128 bits, as hexadecimal digits.
///
/// # Errors
///
/// The system has no randomness.
pub(crate) fn new_password() -> anyhow::Result<String> {
    let mut secret = [0; 16];
    rand::rngs::SysRng
        .try_fill_bytes(&mut secret)
        .context("the system gives no random bytes")?;
    Ok(format!("{:032x}", u128::from_be_bytes(secret)))
}

/// A fresh 24-bit prefix of session indices.
pub(crate) fn new_index() -> u32 {
    rand::rngs::SysRng.try_next_u32().unwrap_or_default() >> 8
}

/// A seed for the core's choices.
pub(crate) fn new_seed() -> u64 {
    rand::rngs::SysRng.try_next_u64().unwrap_or_default()
}

/// Whether a grant renews the session, and does not stand for another one.
pub(crate) fn is_same(old: &SessionGrant, new: &SessionGrant) -> bool {
    old.session_id == new.session_id
        && old.gateway_public_key == new.gateway_public_key
        && old.preshared_key == new.preshared_key
        && old.addresses == new.addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_keeps_the_clients_address() {
        let address: IpAddr = "198.19.0.6".parse().unwrap();
        assert_eq!(block(address).unwrap().to_string(), "198.19.0.6/30");
        let address: IpAddr = "fd6b:7670:6e00::6".parse().unwrap();
        assert_eq!(block(address).unwrap().prefix(), 126);
    }

    #[test]
    fn indices_have_24_bits_and_keys_differ() {
        assert!(new_index() < 1 << 24);
        assert_ne!(new_key().unwrap().public(), new_key().unwrap().public());
    }
}
