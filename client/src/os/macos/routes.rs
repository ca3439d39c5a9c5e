//! Addresses and routes by ifconfig(8), route(8) and netstat(1), which are part of the system.
//!
//! Must not judge ranges. Everything set here goes with the interface.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::Output;

use anyhow::{Context as _, Result, bail};
use ipnetwork::IpNetwork;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::{if_indextoname, if_nameindex};
use nix::sys::socket::SockaddrStorage;
use tokio::process::Command;

use super::netstat;
use crate::os::{Address, Route, Routes, Snapshot};

const IFCONFIG: &str = "/sbin/ifconfig";
const ROUTE: &str = "/sbin/route";
const NETSTAT: &str = "/usr/sbin/netstat";

/// The system's tools.
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

    async fn add_addresses(&self, link: u32, addresses: &[IpNetwork]) -> Result<Vec<IpNetwork>> {
        let name = name(link)?;
        for address in addresses {
            let ip = address.ip().to_string();
            // A point-to-point interface wants the other end's address too; the block is routed to it anyway.
            let peer: &[&str] = if address.is_ipv4() { &[&ip] } else { &[] };
            let own = format!("{ip}/{}", host_prefix(address));
            let words = [&[name.as_str(), family(address), &own], peer, &["alias"]].concat();
            run(IFCONFIG, &words)
                .await
                .with_context(|| format!("the address {address} cannot be set"))?;
            self.add(link, *address).await?;
        }
        Ok(addresses.to_vec())
    }

    /// Routes and neighbours.
    async fn routes(&self, links: &BTreeMap<u32, String>) -> Result<(Vec<Route>, Vec<IpAddr>)> {
        let (mut routes, mut neighbours) = (Vec::new(), Vec::new());
        for family in ["inet", "inet6"] {
            let text = run(NETSTAT, &["-rn", "-f", family]).await?;
            neighbours.extend(netstat::neighbours(&text));
            routes.extend(netstat::routes(&text).into_iter().map(|line| Route {
                destination: line.destination,
                link: index(links, line.interface),
                gateway: line.gateway,
                in_main_table: true,
            }));
        }
        Ok((routes, neighbours))
    }
}

impl Routes for SystemRoutes {
    async fn snapshot(&self) -> Result<Snapshot> {
        let links = links().context("the interfaces cannot be listed")?;
        let routes = self.routes(&links).await;
        let (routes, neighbours) = routes.context("the routes cannot be listed")?;
        Ok(Snapshot {
            addresses: addresses(&links).context("the addresses cannot be listed")?,
            routes,
            neighbours,
            links,
        })
    }

    async fn bring_up(
        &self,
        link: u32,
        addresses: &[IpNetwork],
        mtu: u16,
    ) -> Result<Vec<IpNetwork>> {
        run(IFCONFIG, &[&name(link)?, "mtu", &mtu.to_string(), "up"])
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
        let name = name(link)?;
        for address in former.iter().filter(|former| !standing.contains(former)) {
            self.remove(link, *address).await?;
            let ip = address.ip().to_string();
            run(IFCONFIG, &[&name, family(address), &ip, "-alias"])
                .await
                .with_context(|| format!("the address {address} cannot be removed"))?;
        }
        Ok(standing)
    }

    async fn add(&self, link: u32, range: IpNetwork) -> Result<()> {
        let added = change("add", link, range).await?;
        if !said(&added).contains("File exists") {
            return done(ROUTE, added).map(drop);
        }
        let ours = Some(link);
        let snapshot = self.snapshot().await?;
        let same = |route: &&Route| route.destination == destination(range) && route.link == ours;
        if snapshot.routes.iter().find(same).is_none() {
            bail!("there is another route to {range}, and macOS keeps one");
        }
        Ok(())
    }

    async fn remove(&self, link: u32, range: IpNetwork) -> Result<()> {
        let removed = change("delete", link, range).await?;
        if said(&removed).contains("not in table") {
            return Ok(());
        }
        done(ROUTE, removed).map(drop)
    }

    async fn delete_link(&self, link: u32) -> Result<()> {
        // A utun goes with its last descriptor alone; one that is down leads nothing anywhere.
        let Ok(name) = name(link) else { return Ok(()) };
        run(IFCONFIG, &[&name, "down"])
            .await
            .with_context(|| format!("the interface {name} cannot be switched off"))?;
        Ok(())
    }
}

/// The range itself, whatever address of it is meant.
fn destination(range: IpNetwork) -> IpNetwork {
    IpNetwork::new(range.network(), range.prefix()).unwrap_or(range)
}

async fn change(verb: &str, link: u32, range: IpNetwork) -> Result<Output> {
    let (name, range) = (name(link)?, destination(range));
    let family = format!("-{}", family(&range));
    let words = [
        "-q",
        "-n",
        verb,
        &family,
        &range.to_string(),
        "-interface",
        &name,
    ];
    output(ROUTE, &words).await
}

fn family(range: &IpNetwork) -> &'static str {
    if range.is_ipv4() { "inet" } else { "inet6" }
}

fn host_prefix(address: &IpNetwork) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn name(link: u32) -> Result<String> {
    let name = if_indextoname(link).with_context(|| format!("there is no interface {link}"))?;
    Ok(name.to_string_lossy().into_owned())
}

fn links() -> Result<BTreeMap<u32, String>> {
    let interfaces = if_nameindex()?;
    let named = |interface: &nix::net::if_::Interface| {
        (
            interface.index(),
            interface.name().to_string_lossy().into_owned(),
        )
    };
    Ok(interfaces.iter().map(named).collect())
}

fn index(links: &BTreeMap<u32, String>, name: &str) -> Option<u32> {
    let found = links.iter().find(|(_, link)| *link == name);
    found.map(|(index, _)| *index)
}

fn addresses(links: &BTreeMap<u32, String>) -> Result<Vec<Address>> {
    let found = getifaddrs()?.filter_map(|interface| {
        let prefix = prefix(ip(interface.netmask?)?);
        Some(Address {
            link: index(links, &interface.interface_name)?,
            address: IpNetwork::new(ip(interface.address?)?, prefix).ok()?,
        })
    });
    Ok(found.collect())
}

fn ip(address: SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|it| IpAddr::V4(it.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|it| IpAddr::V6(it.ip())))
}

fn prefix(mask: IpAddr) -> u8 {
    let ones = match mask {
        IpAddr::V4(mask) => mask.to_bits().leading_ones(),
        IpAddr::V6(mask) => mask.to_bits().leading_ones(),
    };
    u8::try_from(ones).unwrap_or(u8::MAX)
}

async fn output(program: &str, words: &[&str]) -> Result<Output> {
    let mut command = Command::new(program);
    // What it says is read here.
    command.args(words).env("LC_ALL", "C").kill_on_drop(true);
    let output = command.output().await;
    output.with_context(|| format!("{program} cannot be run"))
}

async fn run(program: &str, words: &[&str]) -> Result<String> {
    done(program, output(program, words).await?)
        .with_context(|| format!("`{program} {}` failed", words.join(" ")))
}

fn done(program: &str, output: Output) -> Result<String> {
    if !output.status.success() {
        bail!("{program}: {}", said(&output).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// All that it wrote: route(8) is not of one mind where errors go.
fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr]
        .map(|bytes| String::from_utf8_lossy(bytes))
        .join("")
}
