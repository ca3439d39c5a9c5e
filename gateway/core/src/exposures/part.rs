//! One session's part of a Service's exposure: heard, silent, on its way out.

use std::collections::VecDeque;
use std::time::Instant;

use kvpn_wire::control::Expose;

use super::{ExposureAction, RESTORE_AFTER, RESTORE_AGAIN, SILENT_AFTER, ServiceKey};

/// One session's part.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) session: String,
    pub(super) expose: Expose,
    pub(super) since: Instant,
    /// The session takes traffic now.
    pub(super) present: bool,
    heard: Instant,
    /// The session no longer wants it, or is over: signs of life do not bring it back.
    ending: bool,
    /// When to ask for its end again; set once it has been asked for.
    restore_at: Option<Instant>,
}

impl Part {
    pub(super) fn new(session: &str, expose: &Expose, since: Instant, now: Instant) -> Self {
        Self {
            session: session.to_owned(),
            expose: expose.clone(),
            since,
            present: true,
            heard: now,
            ending: false,
            restore_at: None,
        }
    }

    /// A sign of life. Whether the session takes traffic again.
    pub(super) fn hear(&mut self, now: Instant) -> bool {
        if self.ending {
            return false;
        }
        self.heard = now;
        self.restore_at = None;
        !std::mem::replace(&mut self.present, true)
    }

    /// It is no longer wanted, and its end has been asked for. Whether the session took traffic until now.
    pub(super) fn end(&mut self, now: Instant) -> bool {
        self.ending = true;
        self.restore_at = Some(now + RESTORE_AGAIN);
        std::mem::replace(&mut self.present, false)
    }

    /// When something is due, and what.
    pub(super) fn due(&self) -> (Instant, &'static str) {
        match self.restore_at {
            Some(at) => (at, "exposure restored again"),
            None if self.present => (self.heard + SILENT_AFTER, "exposure's session silent"),
            None => (self.heard + RESTORE_AFTER, "exposure restored"),
        }
    }

    /// Acts on what is due at `now`.
    pub(super) fn handle_timeout(
        &mut self,
        key: &ServiceKey,
        actions: &mut VecDeque<ExposureAction>,
        now: Instant,
    ) {
        let silent = now.saturating_duration_since(self.heard);
        if self.present && silent >= SILENT_AFTER {
            self.present = false;
            actions.push_back(ExposureAction::Choose(key.clone()));
        }
        let is_due = match self.restore_at {
            Some(at) => at <= now,
            None => !self.present && silent >= RESTORE_AFTER,
        };
        if is_due {
            self.restore_at = Some(now + RESTORE_AGAIN);
            let restore = ExposureAction::Restore(key.clone(), self.session.clone());
            actions.push_back(restore);
        }
    }
}
