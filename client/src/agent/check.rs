//! The proof before "connected": the cluster's names resolve on each way that programs take, and a public name
//! still does.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use std::{fmt, io};

use anyhow::{Context as _, bail, ensure};
use tokio::net::UdpSocket;

/// A name that every cluster has: `kubernetes.default.svc.DOMAIN`.
const WITNESS: &str = "kubernetes.default.svc";
/// How long the stub may take to answer, the way to the gateway and back and the cluster's DNS included.
const STUB_LIMIT: Duration = Duration::from_secs(6);
/// When a question that may have been lost is asked again.
const AGAIN: Duration = Duration::from_millis(900);
/// How long the system's resolver may take.
const SYSTEM_LIMIT: Duration = Duration::from_secs(6);
/// How long a public name may take before kvpn changes anything: it is the connecting user who waits.
const BEFORE_LIMIT: Duration = Duration::from_secs(2);
/// A name of the internet for machines whose API server has none. Reserved by RFC 2606: nobody learns anything
/// from the question.
const PUBLIC_NAME: &str = "example.com";
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;

/// A public name that resolved before kvpn changed anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PublicName(String);

impl fmt::Display for PublicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl PublicName {
    /// Picks a name (the API server's own, if it has one) and looks whether it resolves now. `None` when it does
    /// not: then nothing can be said afterwards either.
    pub(crate) async fn before(server: &str) -> Option<Self> {
        let name = host_name(server).unwrap_or(PUBLIC_NAME).to_owned();
        match resolve(&name, BEFORE_LIMIT).await {
            Ok(()) => Some(Self(name)),
            Err(error) => {
                tracing::debug!(name, %error, "a public name does not resolve before connecting");
                None
            }
        }
    }

    /// Whether it still resolves.
    ///
    /// # Errors
    ///
    /// It does not.
    pub(crate) async fn after(&self) -> anyhow::Result<()> {
        let Self(name) = self;
        let again = resolve(name, SYSTEM_LIMIT).await;
        again.with_context(|| format!("the public name {name} resolved before, and no longer does"))
    }
}

/// The host of a URL, if it is a name.
fn host_name(url: &str) -> Option<&str> {
    let rest = url.split_once("://")?.1;
    let authority = rest.split(['/', '?']).next()?;
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    if host.starts_with('[') {
        return None;
    }
    let host = host.split(':').next()?;
    let is_name = host.parse::<IpAddr>().is_err()
        && host.contains('.')
        && host.contains(|c: char| c.is_ascii_alphabetic());
    is_name.then_some(host)
}

/// Asks the agent's stub over the TUN, as programs do.
///
/// # Errors
///
/// It does not answer, or not with success.
pub(crate) async fn stub(server: IpAddr, domain: &str) -> anyhow::Result<()> {
    let name = format!("{WITNESS}.{domain}");
    let asked = tokio::time::timeout(STUB_LIMIT, ask_stub(SocketAddr::new(server, 53), &name));
    let asked = asked
        .await
        .unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {STUB_LIMIT:?}")));
    asked.with_context(|| {
        format!(
            "the tunnel is up, but the name {name} does not resolve through it (asked at {server})"
        )
    })
}

/// Whether a resolver answers at all, be it that it knows nothing.
///
/// # Errors
///
/// It is silent, or nobody listens.
pub(crate) async fn answers(resolver: SocketAddr) -> anyhow::Result<()> {
    let socket = towards(resolver).await?;
    let query = query(TYPE_A, PUBLIC_NAME)?;
    let asked = tokio::time::timeout(BEFORE_LIMIT, ask_until_answered(&socket, &query));
    let asked = asked.await;
    asked.map_err(|_| anyhow::anyhow!("no answer within {BEFORE_LIMIT:?}"))??;
    Ok(())
}

async fn towards(server: SocketAddr) -> io::Result<UdpSocket> {
    let any = if server.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    Ok(socket)
}

async fn ask_stub(server: SocketAddr, name: &str) -> anyhow::Result<()> {
    let socket = towards(server).await?;
    // One of the two types exists; the other is a success without data.
    for kind in [TYPE_A, TYPE_AAAA] {
        let query = query(kind, name)?;
        let answer = ask_until_answered(&socket, &query).await?;
        ensure!(
            answer.code == 0,
            "the cluster's DNS answered with code {}",
            answer.code
        );
        if answer.records > 0 {
            return Ok(());
        }
    }
    bail!("the cluster's DNS knows the name, but no address of it")
}

async fn ask_until_answered(socket: &UdpSocket, query: &[u8]) -> anyhow::Result<Answer> {
    loop {
        socket.send(query).await?;
        let mut buffer = [0; 1500];
        match tokio::time::timeout(AGAIN, socket.recv(&mut buffer)).await {
            Ok(length) => {
                if let Some(answer) = Answer::of(query, &buffer[..length?]) {
                    return Ok(answer);
                }
            }
            Err(_) => tracing::debug!("the stub is asked again"),
        }
    }
}

/// A question in the form of RFC 1035, section 4. The id is the type's: nobody else can answer on the TUN.
fn query(kind: u16, name: &str) -> anyhow::Result<Vec<u8>> {
    let mut message = Vec::from(kind.to_be_bytes());
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        let length = u8::try_from(label.len())
            .ok()
            .filter(|length| (1..=63).contains(length));
        message.push(length.with_context(|| format!("{name} is no domain name"))?);
        message.extend(label.as_bytes());
    }
    message.extend([0]);
    message.extend(kind.to_be_bytes());
    message.extend([0, 1]);
    Ok(message)
}

/// What an answer's header says.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    code: u8,
    records: u16,
}

impl Answer {
    fn of(query: &[u8], message: &[u8]) -> Option<Self> {
        let header = message.first_chunk::<12>()?;
        let is_answer = header[..2] == query[..2] && header[2] & 0x80 != 0;
        is_answer.then_some(Self {
            code: header[3] & 15,
            records: u16::from_be_bytes([header[6], header[7]]),
        })
    }
}

/// Asks the system's resolver, as programs do.
///
/// # Errors
///
/// It does not know the name, or does not answer.
pub(crate) async fn system(domain: &str) -> anyhow::Result<()> {
    // With a dot at the end no search list is tried.
    let name = format!("{WITNESS}.{domain}.");
    let asked = resolve(&name, SYSTEM_LIMIT).await;
    asked.with_context(|| {
        format!("the stub answers, but the system's resolver does not find {name}")
    })
}

async fn resolve(name: &str, limit: Duration) -> io::Result<()> {
    let addresses = tokio::time::timeout(limit, tokio::net::lookup_host((name, 443))).await;
    let mut addresses =
        addresses.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer in time"))??;
    addresses
        .next()
        .map(drop)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_name_can_be_looked_up() {
        assert_eq!(
            host_name("https://api.shop.example:6443/x"),
            Some("api.shop.example")
        );
        assert_eq!(
            host_name("https://user@api.shop.example"),
            Some("api.shop.example")
        );
        for none in [
            "https://127.0.0.1:6443",
            "https://[::1]:6443",
            "https://localhost",
            "nonsense",
        ] {
            assert_eq!(host_name(none), None, "{none}");
        }
    }

    #[test]
    fn a_question_has_the_form_of_rfc_1035() {
        let message = query(TYPE_A, "a.bc").unwrap();
        assert_eq!(
            message,
            b"\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x02bc\x00\x00\x01\x00\x01"
        );
        assert!(query(TYPE_A, "a..b").is_err());
    }

    #[test]
    fn an_answer_is_told_from_an_echo() {
        let question = query(TYPE_A, "a").unwrap();
        assert_eq!(Answer::of(&question, &question), None);
        let mut message = question.clone();
        message[2] |= 0x80;
        message[7] = 2;
        assert_eq!(
            Answer::of(&question, &message),
            Some(Answer {
                code: 0,
                records: 2
            })
        );
    }
}
