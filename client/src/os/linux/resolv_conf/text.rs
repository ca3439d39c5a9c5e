//! The format of resolv.conf(5): what kvpn writes, and what it reads of others' files.
//!
//! Must not open files.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};

use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketType, socket};

use crate::os::DnsConfig;

/// The first line's start; the session's name follows, then ` ` and text.
const HEADER: &str = "# kvpn ";
/// glibc reads no more servers than this (MAXNS).
const MAX_SERVERS: usize = 3;
const DNS_PORT: u16 = 53;

/// The file that sends every name to the stub. Search domains of the file before follow ours, and its options stay.
pub(super) fn compose(dns: &DnsConfig, before: &[u8], session: &str, recipe: &str) -> String {
    format!(
        "{HEADER}{session} - every name goes to kvpn, which asks the servers from before for those that are not the \
         cluster's.\n# The file from before comes back when kvpn ends; after a crash by `kvpn disconnect`, or: {recipe}\n{}",
        body(dns, Lines::of(before))
    )
}

/// The same for a file that only one program's network has; `outside` is the machine's.
pub(in crate::os::linux) fn compose_own(dns: &DnsConfig, outside: &[u8]) -> String {
    let mut before = Lines::of(outside);
    if session_of(outside).is_some() {
        // Another session's, of another namespace or cluster.
        before.search.clear();
    }
    format!(
        "# The names of this program's own network (kvpn run).\n{}",
        body(dns, before)
    )
}

fn body(dns: &DnsConfig, before: Lines) -> String {
    let mut text = String::new();
    let mut search = dns.search.clone();
    search.extend(
        before
            .search
            .into_iter()
            .filter(|domain| !dns.search.contains(domain)),
    );
    if !search.is_empty() {
        text += &format!("search {}\n", search.join(" "));
    }
    for server in dns.servers.iter().take(MAX_SERVERS) {
        text += &format!("nameserver {server}\n");
    }
    for line in before.kept {
        text += &line;
        text.push('\n');
    }
    text
}

/// The session's part of a resolv.conf that others put together; its search list goes before that of `before`.
pub(in crate::os::linux) fn compose_record(dns: &DnsConfig, before: &[u8]) -> String {
    let before = Lines {
        kept: Vec::new(),
        ..Lines::of(before)
    };
    body(dns, before)
}

/// The session whose file this is.
pub(super) fn session_of(content: &[u8]) -> Option<&str> {
    let end = content
        .iter()
        .position(|&byte| byte == b'\n')
        .unwrap_or(content.len());
    std::str::from_utf8(&content[..end])
        .ok()?
        .strip_prefix(HEADER)?
        .split(' ')
        .next()
}

/// The servers a file names, in order.
pub(crate) fn nameservers(content: &[u8]) -> Vec<SocketAddr> {
    Lines::of(content).servers
}

/// Like [`nameservers`]; a file without any means a server on this machine (resolv.conf(5)).
pub(in crate::os::linux) fn nameservers_or_default(content: &[u8]) -> Vec<SocketAddr> {
    let servers = nameservers(content);
    if servers.is_empty() {
        vec![SocketAddr::from((Ipv4Addr::LOCALHOST, DNS_PORT))]
    } else {
        servers
    }
}

/// What matters of a file.
#[derive(Default)]
struct Lines {
    servers: Vec<SocketAddr>,
    search: Vec<String>,
    /// `options` and `sortlist` lines as they stand.
    kept: Vec<String>,
}

impl Lines {
    fn of(content: &[u8]) -> Self {
        let mut lines = Self::default();
        for line in String::from_utf8_lossy(content).lines() {
            // A keyword starts its line; glibc ignores lines that begin with a blank.
            let mut words = line.split_whitespace();
            match line.split([' ', '\t']).next().unwrap_or_default() {
                "nameserver" => lines.servers.extend(words.nth(1).and_then(parse_server)),
                // The last one counts, and `domain` is `search` with one entry.
                "search" => lines.search = words.skip(1).map(str::to_owned).collect(),
                "domain" => lines.search = words.skip(1).take(1).map(str::to_owned).collect(),
                "options" | "sortlist" => lines.kept.push(line.to_owned()),
                _ => {}
            }
        }
        lines
    }
}

/// An address, with the interface of a link-local one behind `%`.
fn parse_server(word: &str) -> Option<SocketAddr> {
    if let Ok(address) = word.parse::<IpAddr>() {
        return Some(SocketAddr::from((address, DNS_PORT)));
    }
    let (address, zone) = word.split_once('%')?;
    let scope = zone.parse().ok().or_else(|| interface_index(zone))?;
    Some(SocketAddr::V6(SocketAddrV6::new(
        address.parse().ok()?,
        DNS_PORT,
        0,
        scope,
    )))
}

fn interface_index(name: &str) -> Option<u32> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None).ok()?;
    name_to_index(socket, name).ok()
}
