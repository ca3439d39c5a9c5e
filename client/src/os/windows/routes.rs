//! Addresses and routes by the IP Helper API, and what the machine's interfaces are.
//!
//! Must not judge ranges. Everything set here goes with the interface.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ptr::null_mut;
use std::time::Duration;

use anyhow::{Context as _, Result};
use ipnetwork::IpNetwork;
use tokio::time::{Instant, sleep};
use windows_sys::Win32::Foundation::{
    ERROR_BUFFER_OVERFLOW, ERROR_FILE_NOT_FOUND, ERROR_INVALID_FUNCTION, ERROR_NOT_FOUND,
    ERROR_NOT_SUPPORTED, ERROR_OBJECT_ALREADY_EXISTS, ERROR_SUCCESS,
};
use windows_sys::Win32::NetworkManagement::IpHelper::{
    ConvertInterfaceIndexToLuid, ConvertInterfaceLuidToGuid, CreateIpForwardEntry2,
    CreateUnicastIpAddressEntry, DeleteIpForwardEntry2, DeleteUnicastIpAddressEntry, FreeMibTable,
    GAA_FLAG_SKIP_ANYCAST, GAA_FLAG_SKIP_MULTICAST, GAA_FLAG_SKIP_UNICAST, GetAdaptersAddresses,
    GetIfTable2, GetIpForwardTable2, GetIpInterfaceEntry, GetIpNetTable2, GetUnicastIpAddressTable,
    IP_ADAPTER_ADDRESSES_LH, InitializeIpForwardEntry, InitializeUnicastIpAddressEntry,
    MIB_IF_ROW2, MIB_IPFORWARD_ROW2, MIB_IPINTERFACE_ROW, MIB_IPNET_ROW2, MIB_UNICASTIPADDRESS_ROW,
    SetIpInterfaceEntry,
};
use windows_sys::Win32::NetworkManagement::Ndis::{IfOperStatusUp, NET_LUID_LH};
use windows_sys::Win32::Networking::WinSock::{
    ADDRESS_FAMILY, AF_INET, AF_INET6, AF_UNSPEC, IpDadStateDeprecated, IpDadStatePreferred,
    NlnsIncomplete, NlnsUnreachable, RouteProtocolNetMgmt, SOCKADDR_INET,
};
use windows_sys::core::GUID;

use crate::os::{Address, Route, Routes, SESSION_INTERFACE, Snapshot};

/// How long a new interface may take to have its addresses' families, and how often that is looked at.
const FAMILY_LIMIT: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(50);
/// How an interface of ours ranks among those that lead to the same range. None of the machine's own leads there.
const METRIC: u32 = 5;
/// The first guess of what the list of adapters needs, in bytes.
const ADAPTERS: usize = 16 << 10;

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

fn change(code: u32, as_well: &[u32]) -> io::Result<()> {
    if code == ERROR_SUCCESS || as_well.contains(&code) {
        return Ok(());
    }
    Err(io::Error::from_raw_os_error(code.cast_signed()))
}

fn is(error: &io::Error, code: u32) -> bool {
    error.raw_os_error() == Some(code.cast_signed())
}

fn family(address: IpAddr) -> ADDRESS_FAMILY {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
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
    let mut known = std::collections::BTreeSet::new();
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

#[expect(unsafe_code, reason = "the families of an address share their bytes")]
fn ip(address: &SOCKADDR_INET) -> Option<IpAddr> {
    // SAFETY: the family, which all forms have at their beginning, says which form it is; any bytes are an address.
    unsafe {
        match address.si_family {
            AF_INET => {
                let bits = address.Ipv4.sin_addr.S_un.S_addr;
                Some(Ipv4Addr::from(bits.to_ne_bytes()).into())
            }
            AF_INET6 => Some(Ipv6Addr::from(address.Ipv6.sin6_addr.u.Byte).into()),
            _ => None,
        }
    }
}

fn address(of: IpAddr) -> SOCKADDR_INET {
    let mut address = SOCKADDR_INET::default();
    match of {
        IpAddr::V4(v4) => {
            address.Ipv4.sin_addr.S_un.S_addr = u32::from_ne_bytes(v4.octets());
        }
        IpAddr::V6(v6) => address.Ipv6.sin6_addr.u.Byte = v6.octets(),
    }
    address.si_family = family(of);
    address
}

/// A function that copies one of the system's tables: they all have a count and, behind it, as many rows.
macro_rules! table {
    ($name:ident, $row:ty, $get:ident($($family:expr)?)) => {
        #[expect(unsafe_code, reason = "no crate here wraps the IP Helper API")]
        fn $name() -> io::Result<Vec<$row>> {
            let mut table = null_mut();
            // SAFETY: the table that is returned has as many rows as it says, stays until it is freed, and is not used after that.
            unsafe {
                change($get($($family,)? &raw mut table), &[])?;
                let first = (&raw const (*table).Table).cast::<$row>();
                let count = usize::try_from((*table).NumEntries).unwrap_or_default();
                let rows = std::slice::from_raw_parts(first, count).to_vec();
                FreeMibTable(table.cast());
                Ok(rows)
            }
        }
    };
}

table!(interfaces, MIB_IF_ROW2, GetIfTable2());
table!(
    address_rows,
    MIB_UNICASTIPADDRESS_ROW,
    GetUnicastIpAddressTable(AF_UNSPEC)
);
table!(
    route_rows,
    MIB_IPFORWARD_ROW2,
    GetIpForwardTable2(AF_UNSPEC)
);
table!(neighbour_rows_v4, MIB_IPNET_ROW2, GetIpNetTable2(AF_INET));
table!(neighbour_rows_v6, MIB_IPNET_ROW2, GetIpNetTable2(AF_INET6));

#[expect(unsafe_code, reason = "no crate here wraps the IP Helper API")]
fn interface(link: u32, family: ADDRESS_FAMILY) -> io::Result<MIB_IPINTERFACE_ROW> {
    let mut row = MIB_IPINTERFACE_ROW {
        Family: family,
        InterfaceIndex: link,
        ..MIB_IPINTERFACE_ROW::default()
    };
    // SAFETY: the row lives until the call returns.
    change(unsafe { GetIpInterfaceEntry(&raw mut row) }, &[])?;
    Ok(row)
}

#[expect(unsafe_code, reason = "no crate here wraps the IP Helper API")]
fn set_interface(row: &mut MIB_IPINTERFACE_ROW) -> io::Result<()> {
    // SAFETY: the row lives until the call returns.
    change(unsafe { SetIpInterfaceEntry(row) }, &[])
}

#[expect(unsafe_code, reason = "no crate here wraps the IP Helper API")]
fn address_row(link: u32, ip: IpAddr) -> MIB_UNICASTIPADDRESS_ROW {
    let mut row = MIB_UNICASTIPADDRESS_ROW::default();
    // SAFETY: the row lives until the call returns.
    unsafe { InitializeUnicastIpAddressEntry(&raw mut row) };
    row.InterfaceIndex = link;
    row.Address = address(ip);
    row.OnLinkPrefixLength = if ip.is_ipv4() { 32 } else { 128 };
    row.DadState = IpDadStatePreferred;
    row
}

#[expect(unsafe_code, reason = "no crate here wraps the IP Helper API")]
fn add_address(link: u32, ip: IpAddr) -> u32 {
    let row = address_row(link, ip);
    // SAFETY: the row lives until the call returns.
    unsafe { CreateUnicastIpAddressEntry(&raw const row) }
}

#[expect(unsafe_code, reason = "no crate here wraps the IP Helper API")]
fn remove_address(link: u32, ip: IpAddr) -> u32 {
    let row = address_row(link, ip);
    // SAFETY: the row lives until the call returns.
    unsafe { DeleteUnicastIpAddressEntry(&raw const row) }
}

#[expect(unsafe_code, reason = "no crate here wraps the IP Helper API")]
fn route_row(link: u32, range: IpNetwork) -> MIB_IPFORWARD_ROW2 {
    let mut row = MIB_IPFORWARD_ROW2::default();
    // SAFETY: the row lives until the call returns.
    unsafe { InitializeIpForwardEntry(&raw mut row) };
    row.InterfaceIndex = link;
    row.DestinationPrefix.Prefix = address(range.network());
    row.DestinationPrefix.PrefixLength = range.prefix();
    row.NextHop = address(match range {
        IpNetwork::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpNetwork::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    });
    row.Metric = 0;
    row.Protocol = RouteProtocolNetMgmt;
    row
}

#[expect(unsafe_code, reason = "no crate here wraps the IP Helper API")]
fn add_route(link: u32, range: IpNetwork) -> u32 {
    let row = route_row(link, range);
    // SAFETY: the row lives until the call returns.
    unsafe { CreateIpForwardEntry2(&raw const row) }
}

#[expect(unsafe_code, reason = "no crate here wraps the IP Helper API")]
fn remove_route(link: u32, range: IpNetwork) -> u32 {
    let row = route_row(link, range);
    // SAFETY: the row lives until the call returns.
    unsafe { DeleteIpForwardEntry2(&raw const row) }
}

#[expect(unsafe_code, reason = "no crate here wraps the IP Helper API")]
fn guid(link: u32) -> io::Result<GUID> {
    let mut luid = NET_LUID_LH::default();
    let mut guid = GUID::from_u128(0);
    // SAFETY: what the pointers lead to lives until the calls return.
    unsafe {
        change(ConvertInterfaceIndexToLuid(link, &raw mut luid), &[])?;
        change(
            ConvertInterfaceLuidToGuid(&raw const luid, &raw mut guid),
            &[],
        )?;
    }
    Ok(guid)
}

#[expect(unsafe_code, reason = "no crate here wraps the IP Helper API")]
fn adapters_nameservers() -> io::Result<Vec<IpAddr>> {
    let flags = GAA_FLAG_SKIP_UNICAST | GAA_FLAG_SKIP_ANYCAST | GAA_FLAG_SKIP_MULTICAST;
    let mut space = vec![0u64; ADAPTERS / size_of::<u64>()];
    loop {
        let mut size = u32::try_from(size_of_val(&*space)).unwrap_or(u32::MAX);
        let first = space.as_mut_ptr().cast::<IP_ADAPTER_ADDRESSES_LH>();
        // SAFETY: the space is aligned for the list, and as long as is said.
        let code = unsafe {
            GetAdaptersAddresses(
                u32::from(AF_UNSPEC),
                flags,
                null_mut(),
                first,
                &raw mut size,
            )
        };
        if code == ERROR_BUFFER_OVERFLOW {
            let size = usize::try_from(size).unwrap_or_default();
            space.resize(size.div_ceil(size_of::<u64>()) + 1, 0);
            continue;
        }
        change(code, &[])?;
        // SAFETY: the call filled the space, which lives until the list was read.
        return Ok(unsafe { servers_of(first) });
    }
}

/// # Safety
/// The list must be one of GetAdaptersAddresses that is not empty.
#[expect(unsafe_code, reason = "no crate here wraps the IP Helper API")]
unsafe fn servers_of(first: *const IP_ADAPTER_ADDRESSES_LH) -> Vec<IpAddr> {
    let mut servers = Vec::new();
    // SAFETY: both lists end with null, and all that they lead to lies in the list's space; names are null-terminated.
    unsafe {
        let mut adapter = first;
        while let Some(row) = adapter.as_ref() {
            let prefix = SESSION_INTERFACE.encode_utf16().enumerate();
            let is_ours = { prefix }.all(|(at, unit)| *row.FriendlyName.add(at) == unit);
            let mut server = row.FirstDnsServerAddress;
            while let Some(entry) = server.as_ref() {
                let sockaddr = entry.Address.lpSockaddr.cast::<SOCKADDR_INET>();
                if row.OperStatus == IfOperStatusUp && !is_ours {
                    servers.extend(ip_at(sockaddr));
                }
                server = entry.Next;
            }
            adapter = row.Next;
        }
    }
    servers
}

/// # Safety
/// It must lead to an address that is as long as its family says.
#[expect(unsafe_code, reason = "the families of an address share their bytes")]
unsafe fn ip_at(address: *const SOCKADDR_INET) -> Option<IpAddr> {
    // SAFETY: every form begins with the family; no more is read than it has. A reference to all forms at once would be too long.
    unsafe {
        match (&raw const (*address).si_family).read() {
            AF_INET => {
                let form = (&raw const (*address).Ipv4).read();
                Some(Ipv4Addr::from(form.sin_addr.S_un.S_addr.to_ne_bytes()).into())
            }
            AF_INET6 => {
                let form = (&raw const (*address).Ipv6).read();
                Some(Ipv6Addr::from(form.sin6_addr.u.Byte).into())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_stand_in_rows_as_the_system_reads_them() {
        for text in ["198.19.0.2", "fd6b:7670::2"] {
            let ip_address: IpAddr = text.parse().unwrap();
            assert_eq!(ip(&address(ip_address)), Some(ip_address));
        }
    }

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
