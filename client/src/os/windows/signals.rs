//! What wants a process to end: events of its console. The names are those of Unix, so that nobody has to tell systems apart.
//!
//! Must not decide what is done about them.

use std::io;
use std::process::ExitStatus;

use tokio::signal::windows::{
    CtrlBreak, CtrlC, CtrlClose, CtrlLogoff, CtrlShutdown, ctrl_break, ctrl_c, ctrl_close,
    ctrl_logoff, ctrl_shutdown,
};

/// Kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SignalKind {
    Interrupt,
    Terminate,
    Hangup,
}

impl SignalKind {
    /// Ctrl-C, Ctrl-Break.
    pub(crate) fn interrupt() -> Self {
        Self::Interrupt
    }

    /// Comes with [`Self::interrupt`].
    pub(crate) fn quit() -> Self {
        Self::Interrupt
    }

    /// The user logs off, the machine shuts down.
    pub(crate) fn terminate() -> Self {
        Self::Terminate
    }

    /// The console's window was closed.
    pub(crate) fn hangup() -> Self {
        Self::Hangup
    }
}

/// Events of one kind, from now on.
#[derive(Debug)]
pub(crate) enum Signal {
    Interrupt(CtrlC, CtrlBreak),
    Terminate(CtrlLogoff, CtrlShutdown),
    Hangup(CtrlClose),
}

/// From now on events of this kind do not end the process.
///
/// # Errors
/// The system does not tell of them.
pub(crate) fn signal(kind: SignalKind) -> io::Result<Signal> {
    Ok(match kind {
        SignalKind::Interrupt => Signal::Interrupt(ctrl_c()?, ctrl_break()?),
        SignalKind::Terminate => Signal::Terminate(ctrl_logoff()?, ctrl_shutdown()?),
        SignalKind::Hangup => Signal::Hangup(ctrl_close()?),
    })
}

impl Signal {
    /// Waits for the next one. May be cancelled.
    pub(crate) async fn recv(&mut self) -> Option<()> {
        match self {
            Self::Interrupt(c, brk) => tokio::select! {
                told = c.recv() => told,
                told = brk.recv() => told,
            },
            Self::Terminate(logoff, shutdown) => tokio::select! {
                told = logoff.recv() => told,
                told = shutdown.recv() => told,
            },
            Self::Hangup(close) => close.recv().await,
        }
    }
}

/// A child shares the console and hears of its events itself; there is no other way to ask one to end.
pub(crate) fn pass_on(_child: u32, _kind: SignalKind) {}

/// No signal ends a process here.
pub(crate) fn exit_code(_status: ExitStatus) -> Option<i32> {
    None
}
