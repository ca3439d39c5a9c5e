//! What HTTP asks of a driver.

use std::time::Instant;

use kvpn_gateway_core::{Refused, SILENT_AFTER, SessionIndex};
use kvpn_wire::control::{CreateSession, SessionGrant, SessionStatus};
use tokio::sync::oneshot;

use super::{Driver, parts};
use crate::commands::{Command, DialledEnd, Report};

/// Whether the loop goes on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Run {
    On,
    Stop,
}

impl Driver {
    /// Does what was asked for, and answers.
    pub(super) fn obey(&mut self, now: Instant) -> Run {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Create(request, answer) => reply(answer, self.create(&request, now)),
                Command::Status(session, answer) => {
                    let status = self.state.session_status(session, now);
                    let status = status.map(|status| SessionStatus {
                        offload: Some(self.offload()),
                        ..status
                    });
                    reply(answer, status);
                }
                Command::End(session, answer) => {
                    reply(answer, self.state.end_session(session, now));
                }
                Command::Dial(session, port, end) => self.dial(session, port, end, now),
                Command::GiveUp(session) => {
                    let heard = self.state.heard_ago(session, now);
                    if heard.is_none_or(|ago| ago >= SILENT_AFTER) {
                        self.flows.give_up(session, &mut self.state, now);
                    }
                }
                Command::Heard(sessions, answer) => {
                    let heard = |session| self.state.heard_ago(session, now);
                    reply(answer, sessions.into_iter().map(heard).collect());
                }
                Command::Key(session, answer) => reply(answer, self.state.session_key(session)),
                Command::Report(answer) => reply(
                    answer,
                    Report {
                        snapshot: self.state.snapshot(),
                        offload: self.offload(),
                        handed_over: self.neighbours.handed_over,
                    },
                ),
                Command::Stop => return Run::Stop,
            }
        }
        Run::On
    }

    fn create(&mut self, request: &CreateSession, now: Instant) -> Result<SessionGrant, Refused> {
        self.look_elsewhere();
        let granted = self.state.create_session(request, now);
        self.note_session(&request.public_key);
        granted.map(|grant| SessionGrant {
            offload: Some(self.offload()),
            ..grant
        })
    }

    fn dial(&mut self, session: SessionIndex, port: u16, end: DialledEnd, now: Instant) {
        let Self {
            poll, state, flows, ..
        } = self;
        let registry = poll.registry();
        match end {
            DialledEnd::Tcp(end) => flows.dial_tcp(session, port, end, registry, state, now),
            DialledEnd::Udp(end) => flows.dial_udp(session, port, end, registry, state, now),
        }
    }

    fn offload(&self) -> String {
        parts::offload(self.tun.as_ref(), &self.udp, self.steering)
    }
}

/// Whoever asked may have given up waiting; then nobody misses the answer.
fn reply<T>(answer: oneshot::Sender<T>, value: T) {
    let _ = answer.send(value);
}
