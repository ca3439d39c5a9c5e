//! The IP Helper API: the system's tables of interfaces, addresses, routes and neighbours as vectors, and changes of single rows.
//!
//! Must not know what a session wants, nor retry.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ptr::null_mut;

use ipnetwork::IpNetwork;
use windows_sys::Win32::Foundation::{ERROR_BUFFER_OVERFLOW, ERROR_SUCCESS};
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
    ADDRESS_FAMILY, AF_INET, AF_INET6, AF_UNSPEC, IpDadStatePreferred, RouteProtocolNetMgmt,
    SOCKADDR_INET,
};
use windows_sys::core::GUID;

use crate::os::SESSION_INTERFACE;

/// The first guess of what the list of adapters needs, in bytes.
const ADAPTERS: usize = 16 << 10;

/// What a call came to; codes beside success that are `as_well` are as good as that.
pub(super) fn change(code: u32, as_well: &[u32]) -> io::Result<()> {
    if code == ERROR_SUCCESS || as_well.contains(&code) {
        return Ok(());
    }
    Err(io::Error::from_raw_os_error(code.cast_signed()))
}

/// Whether the system said this.
pub(super) fn is(error: &io::Error, code: u32) -> bool {
    error.raw_os_error() == Some(code.cast_signed())
}

/// An address's family.
pub(super) fn family(address: IpAddr) -> ADDRESS_FAMILY {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

/// An address of the system's, if it is of a family that we know.
#[expect(unsafe_code, reason = "the families of an address share their bytes")]
pub(super) fn ip(address: &SOCKADDR_INET) -> Option<IpAddr> {
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

/// An address as the system has it.
pub(super) fn address(of: IpAddr) -> SOCKADDR_INET {
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
        pub(super) fn $name() -> io::Result<Vec<$row>> {
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

/// An interface's settings for a family; `ERROR_NOT_FOUND` where it has not that family.
#[expect(unsafe_code, reason = "no crate here wraps the IP Helper API")]
pub(super) fn interface(link: u32, family: ADDRESS_FAMILY) -> io::Result<MIB_IPINTERFACE_ROW> {
    let mut row = MIB_IPINTERFACE_ROW {
        Family: family,
        InterfaceIndex: link,
        ..MIB_IPINTERFACE_ROW::default()
    };
    // SAFETY: the row lives until the call returns.
    change(unsafe { GetIpInterfaceEntry(&raw mut row) }, &[])?;
    Ok(row)
}

/// Changes them.
#[expect(unsafe_code, reason = "no crate here wraps the IP Helper API")]
pub(super) fn set_interface(row: &mut MIB_IPINTERFACE_ROW) -> io::Result<()> {
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

/// Gives an interface an address of its own, without a subnet; the system's code.
#[expect(unsafe_code, reason = "no crate here wraps the IP Helper API")]
pub(super) fn add_address(link: u32, ip: IpAddr) -> u32 {
    let row = address_row(link, ip);
    // SAFETY: the row lives until the call returns.
    unsafe { CreateUnicastIpAddressEntry(&raw const row) }
}

/// Takes one away; the system's code.
#[expect(unsafe_code, reason = "no crate here wraps the IP Helper API")]
pub(super) fn remove_address(link: u32, ip: IpAddr) -> u32 {
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

/// Sends a range to an interface; the system's code.
#[expect(unsafe_code, reason = "no crate here wraps the IP Helper API")]
pub(super) fn add_route(link: u32, range: IpNetwork) -> u32 {
    let row = route_row(link, range);
    // SAFETY: the row lives until the call returns.
    unsafe { CreateIpForwardEntry2(&raw const row) }
}

/// Takes a range away from one; the system's code.
#[expect(unsafe_code, reason = "no crate here wraps the IP Helper API")]
pub(super) fn remove_route(link: u32, range: IpNetwork) -> u32 {
    let row = route_row(link, range);
    // SAFETY: the row lives until the call returns.
    unsafe { DeleteIpForwardEntry2(&raw const row) }
}

/// An interface's GUID.
#[expect(unsafe_code, reason = "no crate here wraps the IP Helper API")]
pub(super) fn guid(link: u32) -> io::Result<GUID> {
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

/// The DNS servers of interfaces that are up, those of sessions left out.
#[expect(unsafe_code, reason = "no crate here wraps the IP Helper API")]
pub(super) fn adapters_nameservers() -> io::Result<Vec<IpAddr>> {
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
            let known: IpAddr = text.parse().unwrap();
            assert_eq!(ip(&address(known)), Some(known));
        }
    }
}
