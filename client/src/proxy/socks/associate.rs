//! UDP ASSOCIATE (RFC 1928 section 7): a socket for a program's datagrams, and a flow for each target, for as long as the program keeps
//! its connection.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::Context as _;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::super::Proxy;
use super::super::target::Target;
use super::message::{self, Reply};
use super::{NOWHERE, answer};

/// Targets of one program at once; datagrams to more are lost.
const MAX_TARGETS: usize = 256;
/// Datagrams that wait while a target's name is looked up.
const QUEUE: usize = 16;
/// The longest datagram in bytes.
const MAX_DATAGRAM: usize = 65_535;

/// Serves until the program closes its connection.
pub(super) async fn serve(proxy: Arc<Proxy>, mut program: TcpStream) -> anyhow::Result<()> {
    let here = program.local_addr()?.ip();
    let relay = match UdpSocket::bind((here, 0)).await {
        Ok(relay) => relay,
        Err(error) => {
            answer(&mut program, Reply::Failed, NOWHERE).await?;
            return Err(error).context("no socket for a program's datagrams");
        }
    };
    answer(&mut program, Reply::Succeeded, relay.local_addr()?).await?;
    let mut association = Association {
        proxy,
        relay: Arc::new(relay),
        program: program.peer_addr()?.ip(),
        port: None,
        targets: BTreeMap::new(),
        tasks: JoinSet::new(),
    };
    tokio::select! {
        served = association.relay() => Ok(served?),
        _ = until_end(&mut program) => Ok(()),
    }
}

/// Whatever else is said on the connection means nothing.
async fn until_end(program: &mut TcpStream) -> io::Result<()> {
    let mut ignored = [0; 64];
    while program.read(&mut ignored).await? > 0 {}
    Ok(())
}

/// One program's datagrams.
struct Association {
    proxy: Arc<Proxy>,
    relay: Arc<UdpSocket>,
    /// Who may send: the address of the connection, and the port of the first datagram.
    program: IpAddr,
    port: Option<u16>,
    /// association --datagrams--> a target's task
    targets: BTreeMap<Target, mpsc::Sender<Vec<u8>>>,
    tasks: JoinSet<()>,
}

impl Association {
    async fn relay(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; MAX_DATAGRAM];
        loop {
            let (length, from) = self.relay.recv_from(&mut buffer).await?;
            let is_program = from.ip() == self.program
                && *self.port.get_or_insert_with(|| from.port()) == from.port();
            if is_program && let Some((target, payload)) = message::datagram(&buffer[..length]) {
                self.send(target, payload, from);
            }
            while self.tasks.try_join_next().is_some() {}
        }
    }

    fn send(&mut self, target: Target, payload: &[u8], program: SocketAddr) {
        self.targets.retain(|_, target_tx| !target_tx.is_closed());
        if !self.targets.contains_key(&target) && self.targets.len() >= MAX_TARGETS {
            return tracing::debug!("a program has too many targets for datagrams");
        }
        let target_tx = self.targets.entry(target).or_insert_with_key(|target| {
            let (target_tx, target_rx) = mpsc::channel(QUEUE);
            let exchange = exchange(
                Arc::clone(&self.proxy),
                target.clone(),
                target_rx,
                Arc::clone(&self.relay),
                program,
            );
            self.tasks.spawn(exchange);
            target_tx
        });
        // What finds no room is lost, as datagrams are.
        let _ = target_tx.try_send(payload.to_vec());
    }
}

/// Datagrams of one target, until the flow ends.
async fn exchange(
    proxy: Arc<Proxy>,
    target: Target,
    target_rx: mpsc::Receiver<Vec<u8>>,
    relay: Arc<UdpSocket>,
    program: SocketAddr,
) {
    if let Err(error) = carry(&proxy, &target, target_rx, &relay, program).await {
        tracing::debug!(%target, error = format!("{error:#}"), "datagrams end");
    }
}

async fn carry(
    proxy: &Proxy,
    target: &Target,
    mut target_rx: mpsc::Receiver<Vec<u8>>,
    relay: &UdpSocket,
    program: SocketAddr,
) -> anyhow::Result<()> {
    let (flow, from) = proxy.ways.open(target).await?;
    let mut answer = message::datagram_header(from);
    let header = answer.len();
    answer.resize(header + MAX_DATAGRAM, 0);
    loop {
        tokio::select! {
            payload = target_rx.recv() => match payload {
                Some(payload) => drop(flow.send(&payload).await?),
                None => return Ok(()),
            },
            length = flow.recv(&mut answer[header..]) => {
                relay.send_to(&answer[..header + length?], program).await?;
            }
        }
    }
}
