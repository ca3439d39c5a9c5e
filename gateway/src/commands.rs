//! What the HTTP side asks of the drivers: for each a bounded channel and a waker; an answer each. Who asks need not know which driver
//! has a session.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use futures::future::try_join_all;
use kvpn_gateway_core::{Refused, SessionIndex, Shard, Snapshot};
use kvpn_wire::control::{CreateSession, SessionGrant, SessionStatus};
use kvpn_wire::wireguard::PublicKey;
use mio::Waker;
use tokio::sync::{Mutex, oneshot};

use crate::dialled::{self, DialledDatagrams, DialledStream, LaptopDatagrams, LaptopStream};
use crate::directory::Directory;
use crate::neighbours::HandedOver;

/// Requests that may wait for a driver.
const WAITING: usize = 1024;
/// A driver answers in microseconds; if it does not answer at all, it is dead.
const PATIENCE: Duration = Duration::from_secs(1);

/// One request.
#[derive(Debug)]
pub(crate) enum Command {
    /// Create or renew a session.
    Create(
        Box<CreateSession>,
        oneshot::Sender<Result<SessionGrant, Refused>>,
    ),
    /// Tell how a session does.
    Status(SessionIndex, oneshot::Sender<Option<SessionStatus>>),
    /// End a session; whether there was one.
    End(SessionIndex, oneshot::Sender<bool>),
    /// Open a flow to a port of a session's laptop, and join it with this end.
    Dial(SessionIndex, u16, DialledEnd),
    /// Reset the flows that were opened to a session's laptop, unless it is heard again.
    GiveUp(SessionIndex),
    /// Tell how long ago each of these sessions was heard; `None` for those that have ended.
    Heard(Vec<SessionIndex>, oneshot::Sender<Vec<Option<Duration>>>),
    /// Tell whose session it is; `None` when it has ended.
    Key(SessionIndex, oneshot::Sender<Option<PublicKey>>),
    /// Count.
    Report(oneshot::Sender<Report>),
    /// Stop the driver.
    Stop,
}

/// A flow's end at the driver.
#[derive(Debug)]
pub(crate) enum DialledEnd {
    /// Of a connection.
    Tcp(DialledStream),
    /// Of a UDP flow.
    Udp(DialledDatagrams),
}

/// What one driver counted.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) snapshot: Snapshot,
    /// What the kernel does for the data path, in words.
    pub(crate) offload: String,
    pub(crate) handed_over: HandedOver,
}

/// HTTP's end: commands --> drivers.
#[derive(Debug, Clone)]
pub(crate) struct Commands {
    drivers: Arc<[Door]>,
    directory: Arc<Directory>,
    /// One session is created at a time, so that its driver knows what the others have.
    creating: Arc<Mutex<()>>,
}

#[derive(Debug)]
struct Door {
    sender: SyncSender<Command>,
    waker: Arc<Waker>,
}

/// The driver did not answer.
#[derive(Debug, thiserror::Error)]
#[error("the gateway's driver does not answer")]
pub(crate) struct Unanswered;

impl Commands {
    /// All ends; the wakers wake the drivers' polls, in the order of their parts.
    pub(crate) fn new(
        wakers: &[Arc<Waker>],
        directory: Arc<Directory>,
    ) -> (Self, Vec<Receiver<Command>>) {
        let (drivers, receivers): (Vec<_>, _) = wakers
            .iter()
            .map(|waker| {
                let (sender, receiver) = sync_channel(WAITING);
                let waker = Arc::clone(waker);
                (Door { sender, waker }, receiver)
            })
            .unzip();
        let commands = Self {
            drivers: drivers.into(),
            directory,
            creating: Arc::default(),
        };
        (commands, receivers)
    }

    /// Creates or renews a session where it belongs. A part without addresses that suit the client sends it on to the next.
    pub(crate) async fn create(
        &self,
        request: CreateSession,
    ) -> Result<Result<SessionGrant, Refused>, Unanswered> {
        let _alone = self.creating.lock().await;
        let mut answer = Err(Refused::NoAddresses);
        for part in self.directory.candidates(&request) {
            let request = Box::new(request.clone());
            answer = self.drivers[usize::from(part)]
                .ask(|answer| Command::Create(request, answer))
                .await?;
            if answer != Err(Refused::NoAddresses) {
                break;
            }
        }
        Ok(answer)
    }

    /// How a session does; `None` when there is none.
    pub(crate) async fn status(
        &self,
        session: SessionIndex,
    ) -> Result<Option<SessionStatus>, Unanswered> {
        let driver = self.driver_of(session);
        driver.ask(|answer| Command::Status(session, answer)).await
    }

    /// Ends a session; whether there was one.
    pub(crate) async fn end(&self, session: SessionIndex) -> Result<bool, Unanswered> {
        let driver = self.driver_of(session);
        driver.ask(|answer| Command::End(session, answer)).await
    }

    /// A connection to a port of the session's laptop, once the program there has accepted it. Waits as long as the caller does.
    ///
    /// # Errors
    /// `ConnectionRefused` when no program listens there, or the session has ended.
    pub(crate) async fn dial(&self, session: SessionIndex, port: u16) -> io::Result<LaptopStream> {
        let (end, stream, opened) = dialled::stream()?;
        let command = Command::Dial(session, port, DialledEnd::Tcp(end));
        let driver = self.driver_of(session);
        driver.send(command).map_err(io::Error::other)?;
        match opened.await {
            Ok(answer) => answer.map(|()| stream),
            Err(_) => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }

    /// A way for datagrams to a port of the session's laptop.
    ///
    /// # Errors
    /// When there is no file left, or the driver does not answer.
    pub(crate) fn dial_udp(&self, session: SessionIndex, port: u16) -> io::Result<LaptopDatagrams> {
        let (end, datagrams) = dialled::datagrams()?;
        let command = Command::Dial(session, port, DialledEnd::Udp(end));
        let driver = self.driver_of(session);
        driver.send(command).map_err(io::Error::other)?;
        Ok(datagrams)
    }

    /// Ends the flows to the laptop of a session that is silent. A driver that is dead has none.
    pub(crate) fn give_up(&self, session: SessionIndex) {
        drop(self.driver_of(session).send(Command::GiveUp(session)));
    }

    /// How long ago each session was heard, in their order; `None` for those that have ended.
    pub(crate) async fn heard(
        &self,
        sessions: &[SessionIndex],
    ) -> Result<Vec<Option<Duration>>, Unanswered> {
        let asked = self.drivers.iter().map(|driver| {
            let sessions = sessions.to_vec();
            driver.ask(|answer| Command::Heard(sessions, answer))
        });
        let answers = try_join_all(asked).await?;
        // Each driver knows its own sessions only.
        let heard = |index| answers.iter().find_map(|answer| *answer.get(index)?);
        Ok((0..sessions.len()).map(heard).collect())
    }

    /// Whose session it is; `None` when it has ended.
    pub(crate) async fn key(&self, session: SessionIndex) -> Result<Option<PublicKey>, Unanswered> {
        let driver = self.driver_of(session);
        driver.ask(|answer| Command::Key(session, answer)).await
    }

    /// What each driver counted; all have to answer.
    pub(crate) async fn reports(&self) -> Result<Vec<Report>, Unanswered> {
        try_join_all(
            self.drivers
                .iter()
                .map(|driver| driver.ask(Command::Report)),
        )
        .await
    }

    /// Stops the drivers. There is nobody to tell where one is gone already.
    pub(crate) fn stop(&self) {
        for driver in self.drivers.iter() {
            drop(driver.send(Command::Stop));
        }
    }

    fn driver_of(&self, session: SessionIndex) -> &Door {
        let shard = Shard::all(self.drivers.len()).next().unwrap_or_default();
        &self.drivers[usize::from(shard.of_index(session))]
    }
}

impl Door {
    /// Sends what `command` makes of an answering end, and waits for the answer.
    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Unanswered> {
        let (sender, receiver) = oneshot::channel();
        self.send(command(sender))?;
        match tokio::time::timeout(PATIENCE, receiver).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) | Err(_) => Err(Unanswered),
        }
    }

    fn send(&self, command: Command) -> Result<(), Unanswered> {
        self.sender.try_send(command).map_err(|_| Unanswered)?;
        self.waker.wake().map_err(|_| Unanswered)
    }
}
