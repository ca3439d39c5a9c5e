//! The agent's end of the connection to the helper. Its lease: when it is dropped, or the agent dies, the helper
//! undoes everything; when the helper dies, [`HelperConnection::news`] says so and the agent has to end (the TUN
//! is open in the agent too, and would outlive the helper).
//!
//! Must not decide what to configure, nor retry.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use ipnetwork::IpNetwork;
use kvpn_io::tun::TunOffload;
use tokio::time::timeout;

use super::channel::Channel;
use super::process::{Lease, agents_end};
use super::protocol::{Answer, DnsConfig, Hello, NetworkConfig, News, Numbered, Request, VERSION};
use crate::os::Taken;
use crate::os::platform::TunHandle;

/// The helper must greet within this time; what an earlier one left may have to be undone first.
const GREETING_LIMIT: Duration = Duration::from_secs(10);
/// The helper must answer within this time: a dozen D-Bus calls of at most one second, and netlink.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// A connection to a helper that serves this process alone.
pub(crate) struct HelperConnection {
    channel: Channel,
    last_id: u64,
    hello: Option<Hello>,
    /// What was told while an answer was waited for.
    news: VecDeque<News>,
}

/// A network that stands: what the agent needs to serve it.
pub(crate) struct Configured {
    /// The TUN.
    pub(crate) tun: TunHandle,
    /// How packets stand in its reads and writes.
    pub(crate) offload: TunOffload,
    /// The interface's name.
    pub(crate) name: String,
    /// `systemd-resolved`, `openresolv`, `resolv.conf` or `none`.
    pub(crate) dns_backend: String,
    /// The machine's own resolvers, saved before the change: for names that are not the cluster's.
    pub(crate) upstreams: Vec<SocketAddr>,
    /// Whether only the cluster's names reach the stub; if not, the agent forwards all others to `upstreams`.
    pub(crate) split: bool,
    /// Routes and domains that were refused, and why, one text each.
    pub(crate) refused: Vec<String>,
    /// What the user should know (overlaps), one text each.
    pub(crate) notes: Vec<String>,
}

/// What a change of a standing network led to.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    /// What was refused, and why, one text each; the rest was done.
    pub(crate) refused: Vec<String>,
    /// What the user should know, one text each.
    pub(crate) notes: Vec<String>,
}

impl HelperConnection {
    /// Takes a lease over: what [`fn@super::spawn`] gave, where the helper is another process. Needs a tokio runtime.
    pub(crate) fn open(lease: Lease) -> anyhow::Result<Self> {
        let channel = agents_end(lease).context("the helper cannot be spoken to")?;
        Ok(Self {
            channel,
            last_id: 0,
            hello: None,
            news: VecDeque::new(),
        })
    }

    /// Waits until the helper serves. Its greeting tells what it found left over and undid.
    ///
    /// # Errors
    /// The helper ended, did not greet within 10 s, or is of another version.
    pub(crate) async fn ready(&mut self) -> anyhow::Result<&Hello> {
        if self.hello.is_none() {
            let Answer::Hello(hello) = timeout(GREETING_LIMIT, self.answer_to(0))
                .await
                .context("the helper did not greet within 10 s")??
            else {
                bail!("the helper said something else before its greeting");
            };
            ensure!(
                hello.version == VERSION,
                "the helper speaks version {} and this program version {VERSION}: install both from one release",
                hello.version
            );
            self.hello = Some(hello);
        }
        self.hello.as_ref().context("the helper did not greet")
    }

    /// Opens the TUN and sets addresses, routes and DNS. On failure nothing of it stays.
    ///
    /// # Errors
    /// What the helper says ([`Taken`], an occupied interface name, a value it does not accept), or that it ended.
    pub(crate) async fn configure(&mut self, config: NetworkConfig) -> anyhow::Result<Configured> {
        let Answer::Configured(settled) = self.request(Request::Configure(config)).await? else {
            bail!("the helper gave an answer to another question than `configure`");
        };
        let tun = self
            .channel
            .take_descriptor()
            .context("the helper did not pass the TUN's descriptor")?;
        Ok(Configured {
            tun,
            offload: settled.offload,
            name: settled.name,
            dns_backend: settled.dns_backend,
            upstreams: settled.upstreams,
            split: settled.split,
            refused: settled.refused,
            notes: settled.notes,
        })
    }

    /// Sends further ranges into the tunnel; they stand when this returns.
    pub(crate) async fn add_routes(&mut self, routes: Vec<IpNetwork>) -> anyhow::Result<Changed> {
        self.change(Request::AddRoutes { routes }).await
    }

    /// Takes ranges out of the tunnel.
    pub(crate) async fn remove_routes(
        &mut self,
        routes: Vec<IpNetwork>,
    ) -> anyhow::Result<Changed> {
        self.change(Request::RemoveRoutes { routes }).await
    }

    /// Replaces the client's tunnel addresses.
    pub(crate) async fn set_addresses(
        &mut self,
        addresses: Vec<IpNetwork>,
    ) -> anyhow::Result<Changed> {
        self.change(Request::SetAddresses { addresses }).await
    }

    /// Replaces servers, search and routing domains.
    pub(crate) async fn set_dns(&mut self, dns: DnsConfig) -> anyhow::Result<Changed> {
        self.change(Request::SetDns(dns)).await
    }

    /// Has everything undone and the helper end. What it tells (`notes`) is for the user: for example that someone
    /// else changed resolv.conf meanwhile and it was left as it is.
    pub(crate) async fn release(mut self) -> anyhow::Result<Changed> {
        self.change(Request::Release).await
    }

    /// What became of the machine's names meanwhile; `None` when the helper is gone. May be cancelled.
    pub(crate) async fn news(&mut self) -> Option<News> {
        loop {
            if let Some(news) = self.news.pop_front() {
                return Some(news);
            }
            let line = self.channel.receive().await.ok()??;
            match serde_json::from_slice(&line) {
                Ok(Numbered {
                    body: Answer::News(news),
                    ..
                }) => return Some(news),
                // It answers a request whose caller went away.
                Ok(_) | Err(_) => drop(self.channel.take_descriptor()),
            }
        }
    }

    async fn change(&mut self, request: Request) -> anyhow::Result<Changed> {
        match self.request(request).await? {
            Answer::Done { refused, notes } => Ok(Changed { refused, notes }),
            Answer::Hello(_) | Answer::Configured(_) | Answer::News(_) | Answer::Failed { .. } => {
                bail!("the helper gave an answer to another question")
            }
        }
    }

    async fn request(&mut self, request: Request) -> anyhow::Result<Answer> {
        self.ready().await?;
        self.last_id += 1;
        let id = self.last_id;
        let line = serde_json::to_vec(&Numbered { id, body: request })
            .context("a request cannot be written as JSON")?;
        let answer = timeout(ANSWER_LIMIT, async {
            self.channel
                .send(&line, None)
                .await
                .context("the helper ended")?;
            self.answer_to(id).await
        });
        match answer
            .await
            .context("the helper did not answer within 20 s")??
        {
            Answer::Failed { error, taken: true } => bail!(Taken(error)),
            Answer::Failed { error, .. } => bail!(error),
            answer @ (Answer::Hello(_)
            | Answer::Configured(_)
            | Answer::News(_)
            | Answer::Done { .. }) => Ok(answer),
        }
    }

    async fn answer_to(&mut self, id: u64) -> anyhow::Result<Answer> {
        loop {
            let line = self
                .channel
                .receive()
                .await
                .context("the helper's socket failed")?;
            let line =
                line.context("the helper ended (see its message above, or the system's journal)")?;
            let answer: Numbered<Answer> = serde_json::from_slice(&line)
                .context("the helper said something that is not in the protocol")?;
            match answer {
                Numbered {
                    body: Answer::News(news),
                    ..
                } => self.news.push_back(news),
                answer if answer.id == id => return Ok(answer.body),
                // Answers a request whose caller went away.
                _ => drop(self.channel.take_descriptor()),
            }
        }
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::net::UnixStream;

    use super::{DnsConfig, HelperConnection, VERSION};

    #[tokio::test]
    async fn news_that_comes_before_an_answer_is_kept() {
        let (agent, mut helper) = UnixStream::pair().unwrap();
        let mut connection = HelperConnection::open(agent.into()).unwrap();
        let news =
            r#"{"id":0,"answer":"news","upstreams":["192.0.2.53:53"],"again":true,"notes":["n"]}"#;
        let hello =
            format!(r#"{{"id":0,"answer":"hello","version":{VERSION},"pid":1,"undone":[]}}"#);
        let done = r#"{"id":1,"answer":"done","refused":["r"],"notes":[]}"#;
        write!(helper, "{hello}\n{news}\n{done}\n{news}\n").unwrap();
        let changed = connection.set_dns(DnsConfig::default()).await.unwrap();
        assert_eq!(changed.refused, ["r"]);
        for _ in 0..2 {
            let told = connection.news().await.unwrap();
            assert_eq!(told.upstreams, ["192.0.2.53:53".parse().unwrap()]);
            assert!(told.again && told.notes == ["n"]);
        }
        drop(helper);
        assert!(connection.news().await.is_none());
    }
}
