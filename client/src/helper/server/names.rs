//! The session's names: how it begins to have them, and what others take their place.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use ipnetwork::IpNetwork;

use super::{Outcome, Place, Server, standing};
use crate::helper::journal;
use crate::helper::patience::Patience;
use crate::helper::protocol::{Answer, DnsBackend, DnsConfig, News, Settled};
use crate::helper::validate;
use crate::os::platform;
use crate::os::{Dns, Record};

impl Server {
    /// Chooses how names are set, sets them, and says so in `settled`. When this fails, its caller undoes everything.
    pub(super) async fn begin_dns(
        &mut self,
        choice: DnsBackend,
        dns: DnsConfig,
        settled: &mut Settled,
    ) -> Result<Outcome> {
        let backend = self.open_dns(choice).await?;
        settled.dns_backend = backend.backend().to_owned();
        settled.upstreams = backend.upstreams();
        settled.split = backend.splits();
        standing(&mut self.network)?.dns = Some(backend);
        self.replace_dns(dns).await
    }

    /// Sets names; a session without any begins to have them then, if no other has what only one can have.
    pub(super) async fn set_dns(&mut self, dns: DnsConfig) -> Result<Outcome> {
        if standing(&mut self.network)?.dns.is_some() {
            return self.replace_dns(dns).await;
        }
        // Who had the names may have been killed, its helper too.
        let undone = journal::undo_leftovers(&self.state).await?;
        let backend = self.open_dns(DnsBackend::Auto).await?;
        let name = backend.backend().to_owned();
        standing(&mut self.network)?.dns = Some(backend);
        match self.replace_dns(dns).await {
            Ok(mut outcome) => {
                let upstreams = standing(&mut self.network)?.upstreams();
                self.tell_upstreams(upstreams).await?;
                outcome.notes.extend(undone);
                outcome.dns_backend = Some(name);
                Ok(outcome)
            }
            Err(error) => {
                let network = standing(&mut self.network)?;
                if let Some(backend) = &mut network.dns {
                    // If this fails, it is tried again in the end.
                    let reverted = backend.revert().await;
                    reverted.with_context(|| format!("{error:#}"))?;
                }
                network.dns = None;
                Err(error)
            }
        }
    }

    async fn tell_upstreams(&mut self, upstreams: Vec<SocketAddr>) -> Result<()> {
        let news = News {
            upstreams,
            ..News::default()
        };
        self.answer(0, Answer::News(news), None).await
    }

    async fn replace_dns(&mut self, mut dns: DnsConfig) -> Result<Outcome> {
        let network = standing(&mut self.network)?;
        dns.servers
            .retain(|server| network.has_family(IpNetwork::from(*server)));
        let (dns, refused) =
            validate::dns(dns, &network.addresses, &network.routes, &self.exceptions)?;
        let Some(backend) = &mut network.dns else {
            bail!("this session was configured without DNS");
        };
        network.patience = Patience::default();
        let journal = &mut network.journal;
        let before = backend.upstreams();
        let notes = backend
            .set(&dns, Record(&mut |undo| journal.record_dns(undo)))
            .await?;
        let upstreams = network.upstreams();
        if upstreams != before {
            self.tell_upstreams(upstreams).await?;
        }
        Ok(Outcome {
            refused,
            notes,
            dns_backend: None,
        })
    }

    async fn open_dns(&mut self, choice: DnsBackend) -> Result<Box<dyn Dns>> {
        let network = standing(&mut self.network)?;
        let session = network.journal.session();
        match &self.place {
            Place::Machine(state) => {
                platform::open_dns(choice, network.link, state, &session).await
            }
            Place::Own(unshared) => Ok(unshared.dns()),
        }
    }
}
