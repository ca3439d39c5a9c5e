//! How other tasks reach the driver.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kvpn_client_core::{QueryType, Resolution, Status};
use kvpn_io::tun::TunOffload;
use kvpn_io::udp::UdpOffload;
use kvpn_wire::packet::Protocol;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot};

use crate::agent::driver::Command;
use crate::agent::report::{CarrierReport, OffloadReport, SessionReport, TrafficReport};
use crate::agent::transport::Pipe;

/// How the driver does.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    /// What the core says.
    pub(crate) status: Status,
    /// What the kernel does for us at the TUN, once there is one.
    pub(crate) tun: Option<TunOffload>,
    /// What it does at the UDP sockets, if there are any.
    pub(crate) udp: Option<UdpOffload>,
    /// Flows that the gateway opened to programs on the laptop.
    pub(crate) laptop_flows: usize,
}

/// Commands a driver. Cheap to clone; the driver ends with [`Command::Stop`] or the last one.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    /// any task --commands--> driver
    command_tx: mpsc::Sender<Command>,
}

impl Handle {
    /// Commands whoever holds the other end.
    pub(crate) fn new(command_tx: mpsc::Sender<Command>) -> Self {
        Self { command_tx }
    }

    /// Tells the driver something; lost when the driver is gone.
    pub(crate) async fn tell(&self, command: Command) {
        let _ = self.command_tx.send(command).await;
    }

    /// Opens a connection from the session's own tunnel address into the tunnel, and waits until the other end has accepted it.
    /// A reset by that end looks like its end here.
    ///
    /// # Errors
    /// `ConnectionRefused`, or `TimedOut` when nothing was heard for 10 s; `AddrNotAvailable` when the session has no address of that
    /// family; `QuotaExceeded` when there are too many flows; `NotConnected` when the driver is gone.
    pub(crate) async fn dial(&self, to: SocketAddr) -> io::Result<Pipe> {
        let (dialled_tx, dialled_rx) = oneshot::channel();
        self.tell(Command::Dial(to, dialled_tx)).await;
        let dialled = dialled_rx.await;
        dialled.unwrap_or_else(|_| Err(io::ErrorKind::NotConnected.into()))
    }

    /// Opens a flow of datagrams from the session's own tunnel address into the tunnel; the socket is connected with it. It ends when
    /// it was idle for 120 s, or nobody listens at this end any more: the socket says `ConnectionRefused` then.
    ///
    /// # Errors
    /// As [`Self::dial`], at once.
    pub(crate) async fn dial_udp(&self, to: SocketAddr) -> io::Result<UdpSocket> {
        let (dialled_tx, dialled_rx) = oneshot::channel();
        self.tell(Command::DialUdp(to, dialled_tx)).await;
        let dialled = dialled_rx.await;
        dialled.unwrap_or_else(|_| Err(io::ErrorKind::NotConnected.into()))
    }

    /// Asks the cluster for a name, in any form that programs may use (`web`, `web.orders`, ...).
    pub(crate) async fn resolve(&self, name: &str, query_type: QueryType) -> Resolution {
        let (resolved_tx, resolved_rx) = oneshot::channel();
        let question = Command::Resolve(name.to_owned(), query_type, resolved_tx);
        self.tell(question).await;
        resolved_rx.await.unwrap_or(Resolution::Failed)
    }

    /// Lets the gateway, and nobody else, open flows to these TCP and UDP ports of the laptop's programs: at 127.0.0.1, or at ::1 if
    /// nobody listens there. Where nobody does, flows are refused at once. Flows that are open go on when their port is gone.
    pub(crate) async fn expose(&self, ports: BTreeSet<(Protocol, u16)>) {
        self.tell(Command::Expose(ports)).await;
    }

    /// How it is going; `None` when the driver is gone.
    pub(crate) async fn status(&self) -> Option<Reading> {
        let (answer_tx, answer_rx) = oneshot::channel();
        self.tell(Command::Status(answer_tx)).await;
        answer_rx.await.ok()
    }
}

/// Where the figures for reports come from: a driver, once there is one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Figures {
    handle: Arc<Mutex<Option<Handle>>>,
}

impl Figures {
    /// The driver is there.
    pub(crate) fn set(&self, handle: Handle) {
        *self.handle.lock().unwrap_or_else(PoisonError::into_inner) = Some(handle);
    }

    /// The driver's figures, if there is a driver.
    pub(crate) async fn ask(&self) -> Option<Reading> {
        let handle = self
            .handle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        handle?.status().await
    }

    /// Ends the driver, if there is one.
    pub(crate) async fn stop_driver(&self) {
        let handle = self
            .handle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(handle) = handle {
            handle.tell(Command::Stop).await;
        }
    }
}

/// Puts the driver's figures into a report.
pub(crate) fn fill(report: &mut SessionReport, reading: &Reading) {
    let Reading {
        status, tun, udp, ..
    } = reading;
    let millis = |rtt: Duration| (rtt.as_secs_f64() * 1e6).round() / 1e3;
    report.offload = tun.map(|tun| OffloadReport {
        tun: tun.to_string(),
        udp: udp.map(|udp| udp.to_string()),
    });
    report.carrier = status.path.map(|path| path.to_string());
    report.carriers = (status.paths.iter())
        .map(|path| CarrierReport {
            carrier: path.path.to_string(),
            state: path.state.as_str().to_owned(),
            rtt_millis: path.rtt.map(millis),
        })
        .collect();
    report.traffic = TrafficReport {
        sent_bytes: status.sent_bytes,
        received_bytes: status.received_bytes,
        flows: status.flows,
        rtt_millis: status.rtt.map(millis),
        mtu: Some(status.mtu),
        handshake_seconds: status.handshake_age.map(|age| age.as_secs()),
        dropped: status
            .drops
            .iter()
            .map(|(reason, count)| ((*reason).to_owned(), *count))
            .collect(),
    };
}
