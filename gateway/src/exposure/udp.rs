//! UDP: each client has a way of its own to the laptop or the origin, for as long as it is used. Datagrams that find no
//! room are dropped.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::choice::{Claim, Route};
use super::dial::{Datagrams, Target, within};
use super::events::{ConnectionRecord, Counters, Protocol, Record, Share, count};
use super::shared::Shared;

/// Receives for all clients; each has a task that does the rest.
pub(super) async fn serve(shared: Arc<Shared>, socket: UdpSocket) {
    let socket = Arc::new(socket);
    // socket --datagrams--> the client's task
    let mut clients: BTreeMap<SocketAddr, mpsc::Sender<Bytes>> = BTreeMap::new();
    let mut buffer = vec![0; LARGEST];
    loop {
        let received = tokio::select! {
            () = shared.close.cancelled() => return,
            received = socket.recv_from(&mut buffer) => received,
        };
        // An ICMP error about an answer that its client no longer wanted.
        let Ok((length, client)) = received else {
            continue;
        };
        let datagram = Bytes::copy_from_slice(&buffer[..length]);
        let Some(datagram) = pass(&clients, client, datagram) else {
            continue;
        };
        clients.retain(|_, datagram_tx| !datagram_tx.is_closed());
        let Some(counted) = shared.enter(shared.settings.limits.udp_clients) else {
            continue;
        };
        let (datagram_tx, datagram_rx) = mpsc::channel(WAITING);
        // The channel is new and has room.
        drop(datagram_tx.try_send(datagram));
        clients.insert(client, datagram_tx);
        let association = Association {
            shared: Arc::clone(&shared),
            socket: Arc::clone(&socket),
            client,
            sent: 0,
            received: 0,
        };
        shared.spawn(async move {
            association.run(datagram_rx).await;
            drop(counted);
        });
    }
}

/// Hands the datagram to its client's task; gives it back when there is none.
fn pass(
    clients: &BTreeMap<SocketAddr, mpsc::Sender<Bytes>>,
    client: SocketAddr,
    datagram: Bytes,
) -> Option<Bytes> {
    let Some(datagram_tx) = clients.get(&client) else {
        return Some(datagram);
    };
    match datagram_tx.try_send(datagram) {
        Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => None,
        Err(mpsc::error::TrySendError::Closed(datagram)) => Some(datagram),
    }
}

/// One client.
struct Association {
    shared: Arc<Shared>,
    socket: Arc<UdpSocket>,
    client: SocketAddr,
    sent: u64,
    received: u64,
}

/// Why a way is left.
enum End {
    Idle,
    Closed,
    /// Nobody listens there: what was sent and never answered.
    Refused(Vec<Bytes>),
}

impl Association {
    async fn run(mut self, mut datagram_rx: mpsc::Receiver<Bytes>) {
        let began = Instant::now();
        let route = self.shared.choice().route_connection(|| self.shared.dice());
        let (to, end) = match route {
            Route::Laptop(claim) => self.by_laptop(&claim, &mut datagram_rx).await,
            Route::Origin { .. } => (
                Share::Origin,
                self.by_origin(Vec::new(), &mut datagram_rx).await,
            ),
        };
        self.shared.record(Record::Connection(ConnectionRecord {
            protocol: Protocol::Udp,
            client: self.client,
            duration: began.elapsed(),
            to: Some(to),
            sent: self.sent,
            received: self.received,
            complete: !matches!(end, End::Refused(_)),
        }));
    }

    async fn by_laptop(
        &mut self,
        claim: &Claim,
        datagram_rx: &mut mpsc::Receiver<Bytes>,
    ) -> (Share, End) {
        let target = Target::Laptop(claim.owner.clone());
        let limit = self.shared.settings.limits.laptop_dial;
        let end = self
            .exchange(&target, limit, &claim.counters, Vec::new(), datagram_rx)
            .await;
        match end {
            End::Refused(unanswered) if claim.fallback => {
                count(&claim.counters.fallbacks);
                let end = self.by_origin(unanswered, datagram_rx).await;
                (Share::Fallback(claim.owner.clone()), end)
            }
            end => (Share::Laptop(claim.owner.clone()), end),
        }
    }

    async fn by_origin(
        &mut self,
        first: Vec<Bytes>,
        datagram_rx: &mut mpsc::Receiver<Bytes>,
    ) -> End {
        let limit = self.shared.settings.limits.origin_dial;
        let counters = Arc::clone(&self.shared.origin);
        self.exchange(&Target::Origin, limit, &counters, first, datagram_rx)
            .await
    }

    /// Opens a way to `target` and passes datagrams both ways until it is idle or refused.
    async fn exchange(
        &mut self,
        target: &Target,
        limit: Duration,
        counters: &Counters,
        first: Vec<Bytes>,
        datagram_rx: &mut mpsc::Receiver<Bytes>,
    ) -> End {
        let dialled = self.shared.settings.dial.dial_udp(target, self.client);
        let Ok(way) = within(limit, dialled).await else {
            count(&counters.errors);
            return End::Refused(first);
        };
        count(&counters.connections);
        match self
            .pass_both_ways(&*way, counters, first, datagram_rx)
            .await
        {
            Ok(end) => end,
            Err((error, unanswered)) => {
                tracing::debug!(%error, "nobody takes an exposure's datagrams");
                count(&counters.errors);
                End::Refused(unanswered)
            }
        }
    }

    async fn pass_both_ways(
        &mut self,
        way: &dyn Datagrams,
        counters: &Counters,
        first: Vec<Bytes>,
        datagram_rx: &mut mpsc::Receiver<Bytes>,
    ) -> Result<End, (io::Error, Vec<Bytes>)> {
        // What might have to be sent again, elsewhere; given up with the first answer.
        let mut unanswered = Some(Vec::new());
        for datagram in first {
            self.send(way, counters, &datagram, &mut unanswered).await?;
        }
        let mut buffer = vec![0; LARGEST];
        loop {
            let mut answer = ReadBuf::new(&mut buffer);
            tokio::select! {
                datagram = datagram_rx.recv() => match datagram {
                    Some(datagram) => self.send(way, counters, &datagram, &mut unanswered).await?,
                    None => return Ok(End::Closed),
                },
                received = poll_fn(|cx| way.poll_recv(cx, &mut answer)) => match received {
                    Ok(()) => {
                        unanswered = None;
                        let answer = answer.filled();
                        self.received += answer.len() as u64;
                        counters.received.fetch_add(answer.len() as u64, Ordering::Relaxed);
                        // A client that has gone is told by nobody, and UDP promises nothing.
                        drop(self.socket.send_to(answer, self.client).await);
                    }
                    Err(error) => {
                        let is_over = error.kind() == io::ErrorKind::BrokenPipe;
                        ok_after_answer(error, &mut unanswered)?;
                        if is_over {
                            return Ok(End::Closed);
                        }
                    }
                },
                () = tokio::time::sleep(self.shared.settings.limits.udp_idle) => return Ok(End::Idle),
            }
        }
    }

    async fn send(
        &mut self,
        way: &dyn Datagrams,
        counters: &Counters,
        datagram: &Bytes,
        unanswered: &mut Option<Vec<Bytes>>,
    ) -> Result<(), (io::Error, Vec<Bytes>)> {
        if let Some(unanswered) = unanswered
            && unanswered.len() < WAITING
        {
            unanswered.push(datagram.clone());
        }
        self.sent += datagram.len() as u64;
        counters
            .sent
            .fetch_add(datagram.len() as u64, Ordering::Relaxed);
        match poll_fn(|cx| way.poll_send(cx, datagram)).await {
            Ok(_) => Ok(()),
            Err(error) => ok_after_answer(error, unanswered),
        }
    }
}

/// A program that has answered and then refuses is being restarted: its client goes on sending to it.
fn ok_after_answer(
    error: io::Error,
    unanswered: &mut Option<Vec<Bytes>>,
) -> Result<(), (io::Error, Vec<Bytes>)> {
    match unanswered.take() {
        Some(unanswered) => Err((error, unanswered)),
        None => Ok(()),
    }
}

/// Bytes of the largest datagram.
const LARGEST: usize = 64 << 10;

/// Datagrams of one client that wait for it to be their turn, and that are kept until the first answer.
const WAITING: usize = 32;
