//! The TUN's link and routes, and the other interfaces of the pod, over rtnetlink.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Context as _;
use futures::TryStreamExt as _;
use kvpn_wire::pmtud;
use rtnetlink::packet_route::link::{AfSpecInet, AfSpecUnspec, InetDevConf, LinkAttribute};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};

use super::{TUNNEL_V4, TUNNEL_V6};

/// Sets the TUN up, with a route to all tunnel addresses.
///
/// # Errors
/// What the kernel refused: EPERM without NET_ADMIN.
pub(crate) async fn set_up(tun: &str) -> anyhow::Result<()> {
    let handle = connect()?;
    let index = index_of(&handle, tun).await?;
    let link = LinkUnspec::new_with_index(index)
        .mtu(pmtud::MAX as u32)
        .up()
        .build();
    handle
        .link()
        .set(link)
        .execute()
        .await
        .with_context(|| format!("setting {tun} up"))?;
    let v4 = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(TUNNEL_V4.0, TUNNEL_V4.1)
        .output_interface(index);
    handle
        .route()
        .add(v4.build())
        .execute()
        .await
        .context("adding the route to 198.19.0.0/16")?;
    let v6 = RouteMessageBuilder::<Ipv6Addr>::new()
        .destination_prefix(TUNNEL_V6.0, TUNNEL_V6.1)
        .output_interface(index);
    if let Err(error) = handle.route().add(v6.build()).execute().await {
        tracing::debug!(%error, "no IPv6 route into the tunnel");
    }
    Ok(())
}

/// Switches IPv4 forwarding on for one interface. /proc/sys is read-only in a pod; netlink is not.
///
/// # Errors
/// What the kernel refused.
pub(crate) async fn enable_v4_forwarding(interface: &str) -> anyhow::Result<()> {
    let handle = connect()?;
    let index = index_of(&handle, interface).await?;
    let mut conf = InetDevConf::default();
    conf.forwarding = 1;
    let spec = AfSpecUnspec::Inet(vec![AfSpecInet::DevConfRequest(conf)]);
    let link = LinkUnspec::new_with_index(index)
        .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![spec]))
        .build();
    handle
        .link()
        .set(link)
        .execute()
        .await
        .with_context(|| format!("switching IPv4 forwarding on for {interface}"))
}

/// Must run inside tokio, which drives the netlink socket until the handle is dropped.
fn connect() -> anyhow::Result<Handle> {
    let (connection, handle, _) =
        rtnetlink::new_connection().context("opening a netlink socket")?;
    tokio::spawn(connection);
    Ok(handle)
}

async fn index_of(handle: &Handle, interface: &str) -> anyhow::Result<u32> {
    let mut links = handle
        .link()
        .get()
        .match_name(interface.to_owned())
        .execute();
    let link = links
        .try_next()
        .await
        .with_context(|| format!("looking for interface {interface}"))?;
    Ok(link
        .with_context(|| format!("there is no interface {interface}"))?
        .header
        .index)
}
