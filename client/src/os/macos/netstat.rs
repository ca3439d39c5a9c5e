//! What netstat(1) prints of macOS' routes.
//!
//! Pure: must not run it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

/// A line of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    /// Where to.
    pub(crate) destination: IpNetwork,
    /// The next hop, if that is an address.
    pub(crate) gateway: Option<IpAddr>,
    /// Whether the next hop is a link-layer address.
    is_on_link: bool,
    /// The interface's name.
    pub(crate) interface: &'a str,
}

/// The unicast routes in what `netstat -rn -f inet` or `-f inet6` printed.
pub(crate) fn routes(text: &str) -> Vec<Line<'_>> {
    let known = lines(text).filter(|(flags, _)| !flags.contains('L'));
    known.map(|(_, line)| line).collect()
}

/// The neighbours in it: addresses whose link-layer address the system knows.
pub(crate) fn neighbours(text: &str) -> Vec<IpAddr> {
    let known = lines(text).filter(|(flags, line)| flags.contains('L') && line.is_on_link);
    known.map(|(_, line)| line.destination.ip()).collect()
}

fn lines(text: &str) -> impl Iterator<Item = (&str, Line<'_>)> {
    let mut is_v6 = false;
    text.lines().filter_map(move |line| match line.trim() {
        "Internet:" | "Internet6:" => {
            is_v6 = line.trim() == "Internet6:";
            None
        }
        line => parse(line, is_v6),
    })
}

/// Its flags, and the rest.
fn parse(line: &str, is_v6: bool) -> Option<(&str, Line<'_>)> {
    let mut words = line.split_whitespace();
    let (destination, gateway) = (words.next()?, words.next()?);
    let (flags, interface) = (words.next()?, words.next()?);
    // m: multicast; B, R: nowhere.
    if !flags.starts_with('U') || flags.contains(['m', 'B', 'R']) {
        return None;
    }
    let is_host = flags.contains('H');
    let destination = if is_v6 {
        destination_v6(destination, is_host)?
    } else {
        destination_v4(destination, is_host)?
    };
    let address = without_zone(gateway).parse().ok();
    let line = Line {
        destination,
        gateway: address,
        // `8c:59:c3:aa:bb:cc`; `link#6` is an interface, `(incomplete)` an answer that is awaited.
        is_on_link: address.is_none() && gateway.matches(':').count() == 5,
        interface,
    };
    Some((flags, line))
}

/// `default`, `10.96/16`, `192.168.1` (as many bytes as there are), `192.168.1.7` or `169.254`.
fn destination_v4(text: &str, is_host: bool) -> Option<IpNetwork> {
    if text == "default" {
        return IpNetwork::new(Ipv4Addr::UNSPECIFIED.into(), 0).ok();
    }
    let (address, prefix) = split_prefix(text)?;
    let mut octets = [0; 4];
    let mut count = 0;
    for part in address.split('.') {
        *octets.get_mut(count)? = part.parse().ok()?;
        count += 1;
    }
    let usual = if is_host {
        32
    } else {
        u8::try_from(count * 8).ok()?
    };
    IpNetwork::new(Ipv4Addr::from(octets).into(), prefix.unwrap_or(usual)).ok()
}

fn destination_v6(text: &str, is_host: bool) -> Option<IpNetwork> {
    if text == "default" {
        return IpNetwork::new(Ipv6Addr::UNSPECIFIED.into(), 0).ok();
    }
    let (address, prefix) = split_prefix(text)?;
    let address: Ipv6Addr = without_zone(address).parse().ok()?;
    let usual = if is_host { 128 } else { 64 };
    IpNetwork::new(address.into(), prefix.unwrap_or(usual)).ok()
}

fn split_prefix(text: &str) -> Option<(&str, Option<u8>)> {
    match text.split_once('/') {
        Some((address, prefix)) => Some((address, Some(prefix.parse().ok()?))),
        None => Some((text, None)),
    }
}

fn without_zone(address: &str) -> &str {
    address.split('%').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: &str = "\
Routing tables

Internet:
Destination        Gateway            Flags               Netif Expire
default            192.168.1.1        UGScg                 en0
default            link#20            UCSIg           bridge100      !
10.96/16           utun7              USc                 utun7
127                127.0.0.1          UCS                   lo0
127.0.0.1          127.0.0.1          UH                    lo0
169.254            link#14            UCS                   en0      !
192.168.1          link#14            UCS                   en0      !
192.168.1.1/32     link#14            UCS                   en0      !
192.168.1.1        8c:59:c3:aa:bb:cc  UHLWIir               en0   1195
198.19.0.2         198.19.0.2         UH                  utun7
224.0.0/4          link#14            UmCS                  en0      !
";
    const V6: &str = "\
Routing tables

Internet6:
Destination                             Gateway                                 Flags               Netif Expire
default                                 fe80::%utun0                            UGcIg               utun0
::1                                     ::1                                     UHL                   lo0
fd00:10:96::/112                        utun7                                   USc                 utun7
fe80::%en0/64                           link#14                                 UCI                   en0
fe80::1%lo0                             link#1                                  UHLI                  lo0
ff02::%en0/32                           link#14                                 UmCI                  en0
";

    fn seen(text: &str) -> Vec<String> {
        let shown = |line: Line<'_>| format!("{} {}", line.destination, line.interface);
        routes(text).into_iter().map(shown).collect()
    }

    #[test]
    fn shortened_addresses_are_read_as_netstat_means_them() {
        assert_eq!(
            seen(V4),
            [
                "0.0.0.0/0 en0",
                "0.0.0.0/0 bridge100",
                "10.96.0.0/16 utun7",
                "127.0.0.0/8 lo0",
                "127.0.0.1/32 lo0",
                "169.254.0.0/16 en0",
                "192.168.1.0/24 en0",
                "192.168.1.1/32 en0",
                "198.19.0.2/32 utun7",
            ]
        );
        assert_eq!(routes(V4)[0].gateway, Some("192.168.1.1".parse().unwrap()));
        assert_eq!(routes(V4)[2].gateway, None);
        assert_eq!(neighbours(V4), ["192.168.1.1".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn zones_of_ipv6_are_left_out() {
        assert_eq!(
            seen(V6),
            ["::/0 utun0", "fd00:10:96::/112 utun7", "fe80::/64 en0"]
        );
        assert_eq!(routes(V6)[0].gateway, Some("fe80::".parse().unwrap()));
        assert!(neighbours(V6).is_empty());
    }
}
