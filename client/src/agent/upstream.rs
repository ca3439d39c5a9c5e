//! Forwards names that are not the cluster's to the machine's former resolvers, where the system cannot split; those of another session
//! to that one.
//!
//! Passes messages on unread but for their id: what programs ask of the internet is none of kvpn's business.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{Semaphore, mpsc};

use crate::agent::driver::{Command, Handle, Question};
use crate::agent::guests::Guests;

/// How long one resolver may take; programs give up after 5 s as a rule, and there may be a second resolver.
const SERVER_LIMIT: Duration = Duration::from_millis(2400);
/// Questions on the way at a time; further ones fail at once.
const MAX_QUESTIONS: usize = 256;
/// The longest answer over UDP: EDNS(0) lets programs ask for up to 64 KiB, nobody sends more than this.
const MAX_DATAGRAM: usize = 8192;

/// The machine's former resolvers, and guests. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Upstream {
    servers: Arc<[SocketAddr]>,
    guests: Guests,
    /// For one resolver.
    limit: Duration,
    places: Arc<Semaphore>,
}

impl Upstream {
    /// Resolvers in the order in which the machine asked them.
    pub(crate) fn new(servers: &[SocketAddr], guests: Guests) -> Self {
        Self {
            servers: servers.into(),
            guests,
            limit: SERVER_LIMIT,
            places: Arc::new(Semaphore::new(MAX_QUESTIONS)),
        }
    }

    /// Answers the driver's questions until there is no driver.
    pub(crate) async fn serve(self, mut question_rx: mpsc::Receiver<Question>, driver: Handle) {
        while let Some(Question { id, query, tcp }) = question_rx.recv().await {
            let (upstream, driver) = (self.clone(), driver.clone());
            tokio::spawn(async move {
                let answer = upstream.ask(&query, tcp).await;
                driver.tell(Command::Answered { id, answer }).await;
            });
        }
    }

    /// Asks the resolvers one after the other; `None` when none answered.
    pub(crate) async fn ask(&self, query: &[u8], tcp: bool) -> Option<Vec<u8>> {
        let _place = self.places.try_acquire().ok()?;
        let guests = self.guests.servers(query);
        for server in guests.as_deref().unwrap_or(&self.servers) {
            let answer = async {
                if tcp {
                    over_tcp(*server, query).await
                } else {
                    over_udp(*server, query).await
                }
            };
            match tokio::time::timeout(self.limit, answer).await {
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => {
                    tracing::debug!(%server, error = format!("{error:#}"), "a former resolver failed")
                }
                Err(_) => tracing::debug!(%server, "a former resolver did not answer in time"),
            }
        }
        None
    }
}

async fn over_udp(server: SocketAddr, query: &[u8]) -> anyhow::Result<Vec<u8>> {
    let any = if server.is_ipv4() {
        IpAddr::from(Ipv4Addr::UNSPECIFIED)
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    // A port of its own for every question: as hard to forge an answer to as a program's own.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if answers(query, &buffer[..length]) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

/// RFC 1035, section 4.2.2: a length of two bytes before the message.
async fn over_tcp(server: SocketAddr, query: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.len()).context("the question is too long")?;
    stream
        .write_all(&[&length.to_be_bytes(), query].concat())
        .await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    ensure!(answers(query, &answer), "the answer is to another question");
    Ok(answer)
}

/// Whether a message is the answer to a question, as far as its header tells: same id, and a response.
fn answers(query: &[u8], answer: &[u8]) -> bool {
    answer.len() >= 12 && query.get(..2) == answer.get(..2) && answer[2] & 0x80 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: &[u8] = &[7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1];

    async fn resolver(answers: bool) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                if !answers {
                    continue;
                }
                let forged = [8, 7, 0x81, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                socket.send_to(&forged, from).await.unwrap();
                buffer[2] |= 0x80;
                socket.send_to(&buffer[..length], from).await.unwrap();
            }
        });
        address
    }

    #[tokio::test]
    async fn the_answer_with_the_right_id_is_taken() {
        let upstream = Upstream::new(&[resolver(true).await], Guests::default());
        let answer = upstream.ask(QUERY, false).await.unwrap();
        assert_eq!(answer[..3], [7, 7, 0x81]);
    }

    #[tokio::test]
    async fn a_silent_resolver_is_passed_over() {
        let servers = [resolver(false).await, resolver(true).await];
        let upstream = Upstream {
            limit: Duration::from_millis(100),
            ..Upstream::new(&servers, Guests::default())
        };
        assert!(upstream.ask(QUERY, false).await.is_some());
        let upstream = Upstream {
            limit: Duration::from_millis(10),
            ..Upstream::new(&servers[..1], Guests::default())
        };
        assert_eq!(upstream.ask(QUERY, false).await, None);
    }
}
