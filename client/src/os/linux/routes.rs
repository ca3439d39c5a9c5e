//! Addresses and routes over rtnetlink, in the main table.
//!
//! Must not judge ranges. Everything set here goes with the interface.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use futures::TryStreamExt;
use ipnetwork::IpNetwork;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkMessage,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{AddressMessageBuilder, Handle, LinkUnspec, RouteMessageBuilder};
use rustix::io::Errno;
use tokio::task::JoinHandle;

use crate::os::{Address, Route, Routes, Snapshot};

/// The kernel's own table of the machine's addresses (`linux/rtnetlink.h`).
const RT_TABLE_LOCAL: u8 = 255;

/// Every network namespace's first interface.
const LOOPBACK: u32 = 1;

/// A netlink socket and the task that reads it. Needs a tokio runtime.
pub(crate) struct Netlink {
    handle: Handle,
    reader: JoinHandle<()>,
}

impl Netlink {
    /// Opens a netlink socket in this process's network namespace.
    pub(crate) fn open() -> Result<Self> {
        let (connection, handle, _) =
            rtnetlink::new_connection().context("a netlink socket cannot be opened")?;
        Ok(Self {
            handle,
            reader: tokio::spawn(connection),
        })
    }

    /// Switches the loopback on: in a new network namespace it is off.
    pub(crate) async fn loopback_up(&self) -> Result<()> {
        let up = LinkUnspec::new_with_index(LOOPBACK).up().build();
        let request = self.handle.link().change(up);
        request
            .execute()
            .await
            .context("the loopback interface cannot be brought up")
    }

    async fn links(&self) -> Result<BTreeMap<u32, String>> {
        let messages: Vec<LinkMessage> = self.handle.link().get().execute().try_collect().await?;
        Ok(messages
            .into_iter()
            .map(|message| (message.header.index, link_name(&message)))
            .collect())
    }

    async fn addresses(&self) -> Result<Vec<Address>> {
        let messages: Vec<AddressMessage> =
            self.handle.address().get().execute().try_collect().await?;
        Ok(messages.iter().filter_map(parse_address).collect())
    }

    /// Those of a family that is switched off are left out.
    async fn add_addresses(&self, link: u32, addresses: &[IpNetwork]) -> Result<Vec<IpNetwork>> {
        let mut standing = Vec::new();
        for address in addresses {
            let request = self
                .handle
                .address()
                .add(link, address.ip(), host_prefix(address));
            match ignoring(request.execute().await, Errno::EXIST) {
                Err(error) if address.is_ipv6() && is_switched_off(&error) => continue,
                result => result.with_context(|| format!("the address {address} cannot be set"))?,
            }
            self.add(link, *address).await?;
            standing.push(*address);
        }
        Ok(standing)
    }

    async fn routes(&self) -> Result<Vec<Route>> {
        let mut routes = Vec::new();
        for any in [
            RouteMessageBuilder::<Ipv4Addr>::new().build(),
            RouteMessageBuilder::<Ipv6Addr>::new().build(),
        ] {
            let messages: Vec<RouteMessage> =
                self.handle.route().get(any).execute().try_collect().await?;
            routes.extend(messages.iter().filter_map(parse_route));
        }
        Ok(routes)
    }

    async fn neighbours(&self) -> Result<Vec<IpAddr>> {
        let messages: Vec<NeighbourMessage> = self
            .handle
            .neighbours()
            .get()
            .execute()
            .try_collect()
            .await?;
        Ok(messages.iter().filter_map(parse_neighbour).collect())
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Routes for Netlink {
    async fn snapshot(&self) -> Result<Snapshot> {
        Ok(Snapshot {
            links: self
                .links()
                .await
                .context("the interfaces cannot be listed")?,
            addresses: self
                .addresses()
                .await
                .context("the addresses cannot be listed")?,
            routes: self.routes().await.context("the routes cannot be listed")?,
            neighbours: self
                .neighbours()
                .await
                .context("the neighbours cannot be listed")?,
        })
    }

    async fn bring_up(
        &self,
        link: u32,
        addresses: &[IpNetwork],
        mtu: u16,
    ) -> Result<Vec<IpNetwork>> {
        // No link-local address: the kernel would send router solicitations into the tunnel. A kernel without
        // IPv6 refuses this, and then there is nothing to keep quiet.
        let quiet = LinkUnspec::new_with_index(link)
            .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(
                vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)],
            )]))
            .build();
        if let Err(error) = self.handle.link().change(quiet).execute().await {
            tracing::debug!(%error, "the interface keeps its IPv6 link-local address");
        }
        let up = LinkUnspec::new_with_index(link)
            .mtu(u32::from(mtu))
            .up()
            .build();
        self.handle
            .link()
            .change(up)
            .execute()
            .await
            .context("the interface cannot be brought up")?;
        self.add_addresses(link, addresses).await
    }

    async fn readdress(
        &self,
        link: u32,
        former: &[IpNetwork],
        addresses: &[IpNetwork],
    ) -> Result<Vec<IpNetwork>> {
        let standing = self.add_addresses(link, addresses).await?;
        for address in former.iter().filter(|former| !standing.contains(former)) {
            self.remove(link, *address).await?;
            let removed = self.handle.address().del(our_address(link, address));
            ignoring(removed.execute().await, Errno::ADDRNOTAVAIL)
                .with_context(|| format!("the address {address} cannot be removed"))?;
        }
        Ok(standing)
    }

    async fn add(&self, link: u32, range: IpNetwork) -> Result<()> {
        let added = self
            .handle
            .route()
            .add(our_route(link, range)?)
            .execute()
            .await;
        ignoring(added, Errno::EXIST).with_context(|| format!("the route to {range} cannot be set"))
    }

    async fn remove(&self, link: u32, range: IpNetwork) -> Result<()> {
        let removed = self
            .handle
            .route()
            .del(our_route(link, range)?)
            .execute()
            .await;
        ignoring(removed, Errno::SRCH)
            .with_context(|| format!("the route to {range} cannot be removed"))
    }

    async fn delete_link(&self, link: u32) -> Result<()> {
        ignoring(self.handle.link().del(link).execute().await, Errno::NODEV)
            .with_context(|| format!("the interface with index {link} cannot be removed"))
    }
}

/// Takes one error for success: what was wanted is so already.
fn ignoring(result: Result<(), rtnetlink::Error>, harmless: Errno) -> Result<(), rtnetlink::Error> {
    match result {
        Err(error) if errno(&error) == Some(harmless) => Ok(()),
        other => other,
    }
}

/// Whether the interface (sysctl `disable_ipv6`) or the kernel (`ipv6.disable=1`) has no IPv6.
fn is_switched_off(error: &rtnetlink::Error) -> bool {
    matches!(
        errno(error),
        Some(Errno::ACCESS | Errno::OPNOTSUPP | Errno::AFNOSUPPORT)
    )
}

fn errno(error: &rtnetlink::Error) -> Option<Errno> {
    let rtnetlink::Error::NetlinkError(error) = error else {
        return None;
    };
    Some(Errno::from_raw_os_error(-error.code?.get()))
}

/// The address alone: with its block's prefix the kernel would take the block's last address, which is the stub's,
/// for a broadcast address, and programs could not speak to it.
fn host_prefix(address: &IpNetwork) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn our_address(link: u32, address: &IpNetwork) -> AddressMessage {
    let prefix = host_prefix(address);
    match address.ip() {
        IpAddr::V4(ip) => AddressMessageBuilder::<Ipv4Addr>::new()
            .index(link)
            .address(ip, prefix)
            .build(),
        IpAddr::V6(ip) => AddressMessageBuilder::<Ipv6Addr>::new()
            .index(link)
            .address(ip, prefix)
            .build(),
    }
}

/// The metric is the interface's index: of two sessions with one range the elder's route holds, and the younger's
/// when the elder ends. With equal metrics the kernel would take the second for the first.
fn our_route(link: u32, range: IpNetwork) -> Result<RouteMessage> {
    Ok(RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(range.network(), range.prefix())
        .context("a range has an impossible prefix")?
        .output_interface(link)
        // Sessions with one cluster have equal ranges: of their routes the elder interface's holds.
        .priority(link)
        .scope(if range.is_ipv4() {
            RouteScope::Link
        } else {
            RouteScope::Universe
        })
        .protocol(RouteProtocol::Static)
        .priority(link)
        .build())
}

fn link_name(message: &LinkMessage) -> String {
    let name = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        });
    name.unwrap_or_else(|| format!("if{}", message.header.index))
}

fn parse_address(message: &AddressMessage) -> Option<Address> {
    // On a point-to-point interface `Address` is the peer's and `Local` ours; IPv6 has `Address` alone.
    let mut found = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => found = Some(*address),
            AddressAttribute::Address(address) => found = found.or(Some(*address)),
            _ => {}
        }
    }
    let address = IpNetwork::new(found?, message.header.prefix_len).ok()?;
    Some(Address {
        link: message.header.index,
        address,
    })
}

fn parse_route(message: &RouteMessage) -> Option<Route> {
    let mut route = Route {
        destination: whole_family(message.header.address_family)?,
        link: None,
        gateway: None,
        in_main_table: message.header.table == RouteHeader::RT_TABLE_MAIN,
    };
    if message.header.kind != RouteType::Unicast || message.header.table == RT_TABLE_LOCAL {
        return None;
    }
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => {
                route.destination =
                    IpNetwork::new(plain(address)?, message.header.destination_prefix_length)
                        .ok()?;
            }
            RouteAttribute::Oif(link) => route.link = Some(*link),
            RouteAttribute::Gateway(address) => route.gateway = plain(address),
            RouteAttribute::Table(table) => {
                route.in_main_table = *table == u32::from(RouteHeader::RT_TABLE_MAIN)
            }
            _ => {}
        }
    }
    Some(route)
}

/// Those that answered once and were not found gone since. Entries without a state are the kernel's own: broadcast, multicast.
fn parse_neighbour(message: &NeighbourMessage) -> Option<IpAddr> {
    let is_there = matches!(
        message.header.state,
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
    );
    let mut attributes = message.attributes.iter();
    let address = attributes.find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some((*address).into()),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => {
            Some((*address).into())
        }
        _ => None,
    });
    address.filter(|_| is_there)
}

fn whole_family(family: AddressFamily) -> Option<IpNetwork> {
    match family {
        AddressFamily::Inet => IpNetwork::new(IpAddr::from([0; 4]), 0).ok(),
        AddressFamily::Inet6 => IpNetwork::new(IpAddr::from([0; 16]), 0).ok(),
        _ => None,
    }
}

fn plain(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}
