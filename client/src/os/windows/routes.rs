//! Addresses and routes by the IP Helper API, and what the machine's interfaces are.
//!
//! Must not judge ranges. Everything set here goes with the interface.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context as _, Result};
use ipnetwork::IpNetwork;
use tokio::time::{Instant, sleep};
use windows_sys::Win32::Foundation::{
    ERROR_FILE_NOT_FOUND, ERROR_INVALID_FUNCTION, ERROR_NOT_FOUND, ERROR_NOT_SUPPORTED,
    ERROR_OBJECT_ALREADY_EXISTS,
};
use windows_sys::Win32::NetworkManagement::IpHelper::{MIB_IF_ROW2, MIB_IPNET_ROW2};
use windows_sys::Win32::Networking::WinSock::{
    ADDRESS_FAMILY, IpDadStateDeprecated, IpDadStatePreferred, NlnsIncomplete, NlnsUnreachable,
};

use super::ip_helper::{
    adapters_nameservers, add_address, add_route, address_rows, change, family, guid, interface,
    interfaces, ip, is, neighbour_rows_v4, neighbour_rows_v6, remove_address, remove_route,
    route_rows, set_interface,
};
use crate::os::{Address, Route, Routes, Snapshot};

/// How long a new interface may take to have its addresses' families, and how often that is looked at.
const FAMILY_LIMIT: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(50);
/// How an interface of ours ranks among those that lead to the same range. None of the machine's own leads there.
const METRIC: u32 = 5;

/// The IP Helper API.
pub(crate) struct SystemRoutes;

impl SystemRoutes {
    /// Nothing to be opened here.
    #[expect(
        clippy::unnecessary_wraps,
        reason = "other systems have to open something"
    )]
    pub(crate) fn open() -> Result<Self> {
        Ok(Self)
    }

    /// There is no network here but the machine's, whose loopback is on.
    #[expect(clippy::unused_async, reason = "other systems have to ask the kernel")]
    pub(crate) async fn loopback_up(&self) -> Result<()> {
        Ok(())
    }

    async fn add_addresses(&self, link: u32, addresses: &[IpNetwork]) -> Result<()> {
        for address in addresses {
            // By itself: within a prefix the last address would be taken for the broadcast one. The block is routed beside it.
            change(
                add_address(link, address.ip()),
                &[ERROR_OBJECT_ALREADY_EXISTS],
            )
            .with_context(|| format!("the address {address} cannot be set"))?;
            self.add(link, *address).await?;
        }
        Ok(())
    }
}

impl Routes for SystemRoutes {
    async fn snapshot(&self) -> Result<Snapshot> {
        Ok(Snapshot {
            links: links().context("the interfaces cannot be listed")?,
            addresses: addresses().context("the addresses cannot be listed")?,
            routes: routes().context("the routes cannot be listed")?,
            neighbours: neighbours().context("the neighbours cannot be listed")?,
        })
    }

    async fn bring_up(
        &self,
        link: u32,
        addresses: &[IpNetwork],
        mtu: u16,
    ) -> Result<Vec<IpNetwork>> {
        let mut standing = Vec::new();
        for v4 in [true, false] {
            let mut ours = addresses.iter().copied().filter(|it| it.is_ipv4() == v4);
            let Some(first) = ours.next() else { continue };
            let is_there = settle(link, family(first.ip()), mtu).await;
            if is_there.context("the interface cannot be brought up")? {
                standing.extend([first].into_iter().chain(ours));
            }
        }
        self.add_addresses(link, &standing).await?;
        Ok(standing)
    }

    async fn readdress(
        &self,
        link: u32,
        former: &[IpNetwork],
        addresses: &[IpNetwork],
    ) -> Result<Vec<IpNetwork>> {
        let has_family = |it: &&IpNetwork| interface(link, family(it.ip())).is_ok();
        let standing: Vec<IpNetwork> = addresses.iter().filter(has_family).copied().collect();
        self.add_addresses(link, &standing).await?;
        for address in former.iter().filter(|former| !standing.contains(former)) {
            self.remove(link, *address).await?;
            change(remove_address(link, address.ip()), &[ERROR_NOT_FOUND])
                .with_context(|| format!("the address {address} cannot be removed"))?;
        }
        Ok(standing)
    }

    async fn add(&self, link: u32, range: IpNetwork) -> Result<()> {
        change(add_route(link, range), &[ERROR_OBJECT_ALREADY_EXISTS])
            .with_context(|| format!("the route to {range} cannot be set"))
    }

    async fn remove(&self, link: u32, range: IpNetwork) -> Result<()> {
        change(
            remove_route(link, range),
            &[ERROR_NOT_FOUND, ERROR_FILE_NOT_FOUND],
        )
        .with_context(|| format!("the route to {range} cannot be removed"))
    }

    async fn delete_link(&self, _link: u32) -> Result<()> {
        // A wintun interface goes with its session, and that one with the process at the latest.
        Ok(())
    }
}

/// Waits for a new interface to have a family, and gives it our MTU and metric; whether it has it.
async fn settle(link: u32, family: ADDRESS_FAMILY, mtu: u16) -> io::Result<bool> {
    let deadline = Instant::now() + FAMILY_LIMIT;
    let mut row = loop {
        match interface(link, family) {
            // The family is not there yet, or the interface.
            Err(error) if is(&error, ERROR_NOT_FOUND) || is(&error, ERROR_FILE_NOT_FOUND) => {}
            other => break other?,
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        sleep(LOOK).await;
    };
    row.NlMtu = u32::from(mtu);
    row.UseAutomaticMetric = false;
    row.Metric = METRIC;
    // Nobody else is on the link who could have the address.
    row.DadTransmits = 0;
    // It has to be zero for IPv4 (SetIpInterfaceEntry).
    row.SitePrefixLength = 0;
    set_interface(&mut row).map(|()| true)
}

fn links() -> io::Result<BTreeMap<u32, String>> {
    let name = |row: &MIB_IF_ROW2| {
        let alias = row.Alias.split(|unit| *unit == 0).next();
        String::from_utf16_lossy(alias.unwrap_or_default())
    };
    let rows = interfaces()?;
    Ok(rows
        .iter()
        .map(|row| (row.InterfaceIndex, name(row)))
        .collect())
}

fn addresses() -> io::Result<Vec<Address>> {
    let usable = [IpDadStatePreferred, IpDadStateDeprecated];
    let rows = address_rows()?.into_iter();
    let found = rows.filter(|row| usable.contains(&row.DadState));
    let found = found.filter_map(|row| {
        Some(Address {
            link: row.InterfaceIndex,
            address: IpNetwork::new(ip(&row.Address)?, row.OnLinkPrefixLength).ok()?,
        })
    });
    Ok(found.collect())
}

fn routes() -> io::Result<Vec<Route>> {
    let found = route_rows()?.into_iter().filter_map(|row| {
        let prefix = &row.DestinationPrefix;
        let destination = IpNetwork::new(ip(&prefix.Prefix)?, prefix.PrefixLength).ok()?;
        Some(Route {
            destination,
            link: Some(row.InterfaceIndex),
            gateway: ip(&row.NextHop).filter(|hop| !hop.is_unspecified()),
            in_main_table: true,
        })
    });
    Ok(found
        .filter(|route| is_unicast(route.destination.ip()))
        .collect())
}

fn neighbours() -> io::Result<Vec<IpAddr>> {
    let rows = [neighbour_rows_v4(), neighbour_rows_v6()].map(of_family);
    let [v4, v6] = rows;
    let known = v4?.into_iter().chain(v6?).filter(|row| {
        let length = usize::try_from(row.PhysicalAddressLength).unwrap_or_default();
        let physical = row.PhysicalAddress.get(..length).unwrap_or_default();
        let is_everybody = !physical.is_empty() && physical.iter().all(|byte| *byte == 0xff);
        ![NlnsUnreachable, NlnsIncomplete].contains(&row.State) && !is_everybody
    });
    let addresses = known.filter_map(|row| ip(&row.Address));
    Ok(addresses.filter(|address| is_unicast(*address)).collect())
}

/// What a family's list is where the machine has not that family.
fn of_family(rows: io::Result<Vec<MIB_IPNET_ROW2>>) -> io::Result<Vec<MIB_IPNET_ROW2>> {
    let missing = [ERROR_NOT_SUPPORTED, ERROR_INVALID_FUNCTION];
    match rows {
        Err(error) if missing.iter().any(|code| is(&error, *code)) => Ok(Vec::new()),
        other => other,
    }
}

fn is_unicast(address: IpAddr) -> bool {
    !address.is_multicast() && address != IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// Addresses of the DNS servers of interfaces that are up; those on the machine itself, and those that Windows makes up where an
/// interface has none (`fec0:0:0:ffff::1`), left out.
pub(super) fn nameservers() -> io::Result<Vec<IpAddr>> {
    let is_made_up =
        |it: &IpAddr| matches!(it, IpAddr::V6(it) if it.segments()[0] & 0xffc0 == 0xfec0);
    let mut servers = adapters_nameservers()?;
    servers.retain(|it| !it.is_loopback() && !is_made_up(it));
    let mut known = BTreeSet::new();
    servers.retain(|it| known.insert(*it));
    Ok(servers)
}

/// An interface's GUID in braces, as registry keys have it.
pub(super) fn interface_guid(link: u32) -> Result<String> {
    let guid = guid(link).with_context(|| format!("there is no interface {link}"))?;
    let rest = guid.data4.map(|byte| format!("{byte:02X}"));
    let (first, last) = rest.split_at(2);
    Ok(format!(
        "{{{:08X}-{:04X}-{:04X}-{}-{}}}",
        guid.data1,
        guid.data2,
        guid.data3,
        first.concat(),
        last.concat()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_machine_has_loopback_and_routes_that_name_their_interfaces() {
        let snapshot = SystemRoutes.snapshot().await.unwrap();
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert!(
            snapshot
                .addresses
                .iter()
                .any(|it| it.address.ip() == loopback)
        );
        let has_link = |link: u32| snapshot.links.contains_key(&link);
        assert!(
            snapshot
                .routes
                .iter()
                .all(|it| it.link.is_some_and(has_link))
        );
        assert!(nameservers().unwrap().iter().all(|it| !it.is_loopback()));
        let (link, _) = snapshot.links.first_key_value().unwrap();
        assert_eq!(interface_guid(*link).unwrap().len(), 38);
    }
}
