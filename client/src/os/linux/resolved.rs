//! Split DNS by systemd-resolved over D-Bus (org.freedesktop.resolve1.Manager): the TUN gets servers, search and
//! routing domains of its own. They vanish with the TUN, so a crash leaves nothing. A resolved that was started again
//! gets them again, whatever it remembers.
//!
//! Must not touch resolved's global settings or other links.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::future::{LocalBoxFuture, pending};
use futures::{FutureExt, StreamExt};
use serde::Serialize;
use tokio::time::error::Elapsed;
use tokio::time::timeout;
use zbus::message::Type;
use zbus::{Connection, DynamicType, MatchRule, MessageStream, fdo};

use super::{RESOLVED_UPSTREAMS, resolv_conf};
use crate::os::{Dns, DnsConfig, Record};

/// resolved's own listeners: `127.0.0.53`, and since 251 `127.0.0.54`.
pub(super) const STUBS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)),
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, 54)),
];
/// No call may take longer: resolved answers in milliseconds, or hangs.
const CALL_LIMIT: Duration = Duration::from_secs(1);
const REVERT_LIMIT: Duration = Duration::from_millis(300);
const SERVICE: &str = "org.freedesktop.resolve1";
const OBJECT: &str = "/org/freedesktop/resolve1";
const INTERFACE: &str = "org.freedesktop.resolve1.Manager";
const AF_INET: i32 = 2;
const AF_INET6: i32 = 10;

/// The link's settings in systemd-resolved.
pub(super) struct Resolved {
    bus: Connection,
    link: i32,
    /// Who has resolved's name on the bus, from now on; `None` where that is not told.
    owners: Option<MessageStream>,
    /// What was set last.
    dns: Option<DnsConfig>,
}

impl Resolved {
    /// Connects to the system's D-Bus and checks that resolved answers there.
    pub(super) async fn connect(link: u32) -> Result<Self> {
        let link = i32::try_from(link).context("the interface has an impossible index")?;
        let bus = timeout(CALL_LIMIT, Connection::system()).await;
        let bus = bus.context("the system's D-Bus does not answer within 1 s")??;
        let owners = timeout(CALL_LIMIT, owners(&bus)).await;
        let resolved = Self {
            bus,
            link,
            owners: owners.ok().and_then(zbus::Result::ok),
            dns: None,
        };
        resolved.call("FlushCaches", &()).await?;
        Ok(resolved)
    }

    async fn apply(&self, dns: &DnsConfig) -> Result<()> {
        let link = self.link;
        // What a stub cannot do is switched off first, so that no query is tried that way.
        for mode in [
            "SetLinkDNSSEC",
            "SetLinkDNSOverTLS",
            "SetLinkLLMNR",
            "SetLinkMulticastDNS",
        ] {
            self.call_if_known(mode, &(link, "no")).await?;
        }
        self.call_if_known("SetLinkDefaultRoute", &(link, false))
            .await?;
        let servers: Vec<_> = dns.servers.iter().map(family_and_bytes).collect();
        self.call("SetLinkDNS", &(link, servers)).await?;
        self.call("SetLinkDomains", &(link, domains(dns))).await?;
        self.call("FlushCaches", &()).await
    }

    /// Waits until another process than before answers under resolved's name.
    async fn started_again(&mut self) {
        if let Some(owners) = &mut self.owners {
            while let Some(Ok(change)) = owners.next().await {
                if let Ok((_, _, owner)) = change.body().deserialize::<(&str, &str, &str)>()
                    && !owner.is_empty()
                {
                    return;
                }
            }
        }
        pending().await
    }

    /// Calls a method that returns nothing.
    async fn call<B: Serialize + DynamicType>(&self, method: &str, arguments: &B) -> Result<()> {
        match self.send(method, arguments).await {
            Ok(reply) => reply.with_context(|| format!("systemd-resolved refused {method}")),
            Err(_) => bail!(
                "systemd-resolved did not answer {method} within 1 s; check `systemctl status systemd-resolved`"
            ),
        }
    }

    /// Like [`Self::call`], for what older versions do not know; their defaults serve too.
    async fn call_if_known<B: Serialize + DynamicType>(
        &self,
        method: &str,
        arguments: &B,
    ) -> Result<()> {
        match self.send(method, arguments).await {
            Ok(Err(zbus::Error::FDO(error))) if matches!(*error, fdo::Error::UnknownMethod(_)) => {
                tracing::debug!(method, "this systemd-resolved does not know the call");
                Ok(())
            }
            Ok(reply) => reply.with_context(|| format!("systemd-resolved refused {method}")),
            Err(_) => bail!("systemd-resolved did not answer {method} within 1 s"),
        }
    }

    async fn send<B: Serialize + DynamicType>(
        &self,
        method: &str,
        arguments: &B,
    ) -> Result<zbus::Result<()>, Elapsed> {
        let call = self
            .bus
            .call_method(Some(SERVICE), OBJECT, Some(INTERFACE), method, arguments);
        timeout(CALL_LIMIT, call).await.map(|reply| reply.map(drop))
    }
}

impl Dns for Resolved {
    fn backend(&self) -> &'static str {
        "systemd-resolved"
    }

    fn splits(&self) -> bool {
        true
    }

    fn upstreams(&self) -> Vec<SocketAddr> {
        resolv_conf::nameservers(&std::fs::read(RESOLVED_UPSTREAMS).unwrap_or_default())
    }

    fn set<'a>(
        &'a mut self,
        dns: &'a DnsConfig,
        _: Record<'a>,
    ) -> LocalBoxFuture<'a, Result<Vec<String>>> {
        async move {
            self.dns = Some(dns.clone());
            self.apply(dns).await?;
            Ok(Vec::new())
        }
        .boxed_local()
    }

    fn disturbed(&mut self) -> LocalBoxFuture<'_, ()> {
        self.started_again().boxed_local()
    }

    fn mend<'a>(&'a mut self, _: Record<'a>) -> LocalBoxFuture<'a, Result<bool>> {
        async move {
            let Some(dns) = self.dns.clone() else {
                return Ok(false);
            };
            self.apply(&dns).await?;
            Ok(true)
        }
        .boxed_local()
    }

    fn revert(&mut self) -> LocalBoxFuture<'_, Result<Vec<String>>> {
        async move {
            // The interface goes next, and its settings with it: a resolved that hangs must not delay that.
            let reverted = timeout(REVERT_LIMIT, self.call("RevertLink", &(self.link,))).await;
            tracing::debug!(?reverted, "told systemd-resolved that the link goes");
            Ok(Vec::new())
        }
        .boxed_local()
    }
}

async fn owners(bus: &Connection) -> zbus::Result<MessageStream> {
    let rule = MatchRule::builder()
        .msg_type(Type::Signal)
        .sender("org.freedesktop.DBus")
        .member("NameOwnerChanged")
        .arg(0, SERVICE)
        .build()?;
    MessageStream::for_match_rule(rule, bus, None).await
}

fn family_and_bytes(server: &IpAddr) -> (i32, Vec<u8>) {
    match server {
        IpAddr::V4(address) => (AF_INET, address.octets().to_vec()),
        IpAddr::V6(address) => (AF_INET6, address.octets().to_vec()),
    }
}

/// Search domains route as well; the flag says "routing only".
fn domains(dns: &DnsConfig) -> Vec<(&str, bool)> {
    let search = dns.search.iter().map(|domain| (domain.as_str(), false));
    search
        .chain(dns.routing.iter().map(|domain| (domain.as_str(), true)))
        .collect()
}
