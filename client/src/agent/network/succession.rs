//! Who has the machine's names, as a session without systemd-resolved sees it: itself, or the session whose guest it is. When that one ends,
//! its guests take its place one after the other: the first has the file then, and the others become guests of the first.
//!
//! Sets nothing itself: the helper does, and says whether the file is free.

use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{Instant, sleep_until, timeout};

use super::Network;
use crate::agent::guests::Host;
use crate::agent::others;
use crate::agent::places::SessionName;
use crate::helper::DnsConfig;
use crate::os::Taken;
use crate::os::platform::likely_dns_backend;

/// When it is tried again to take the place, at first; the helper of the session that ended undoes within milliseconds.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause between attempts, which do not end: the names are of no use without.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Another session that is just being set up decides first.
const TURN_LIMIT: Duration = Duration::from_secs(2);
/// So many attempts fail before the user hears of it.
const PATIENCE: u32 = 8;

/// How the session's names come to programs.
#[derive(Debug)]
pub(crate) enum Place {
    /// By the helper, which has set them.
    Own,
    /// By another session, which passes them on.
    Guest(Host),
    /// Not at all: that session has ended.
    Vacant(Vacancy),
}

/// A place that nobody has taken yet, as far as is known here.
#[derive(Debug)]
pub(crate) struct Vacancy {
    /// The session that had it.
    former: SessionName,
    next: Instant,
    pause: Duration,
    failed: u32,
}

impl Place {
    /// Resolves when it is time to look for another place. May be cancelled.
    pub(super) async fn over(&mut self) {
        match self {
            Self::Own => std::future::pending().await,
            Self::Guest(host) => host.gone().await,
            Self::Vacant(vacancy) => sleep_until(vacancy.next).await,
        }
    }
}

impl Vacancy {
    fn after(former: SessionName) -> Self {
        Self {
            former,
            next: Instant::now(),
            pause: FIRST_PAUSE,
            failed: 0,
        }
    }

    fn failed(self) -> Self {
        Self {
            next: Instant::now() + self.pause,
            pause: (self.pause * 2).min(LONGEST_PAUSE),
            failed: self.failed + 1,
            ..self
        }
    }

    fn note(&self, why: &str) -> String {
        format!(
            "the session {}, which passed this one's names on, has ended, and they do not resolve: {why}; kvpn keeps trying",
            self.former
        )
    }
}

impl Network {
    /// Looks for another place.
    pub(super) async fn succeed(&mut self) {
        let vacancy = match std::mem::replace(&mut self.place, Place::Own) {
            Place::Own => return,
            Place::Guest(host) => {
                tracing::info!(host = %host.session, "the session that passed names on has ended");
                self.withdraw_note();
                Vacancy::after(host.session)
            }
            Place::Vacant(vacancy) => vacancy,
        };
        self.place = match self.take_place(self.standing.dns.clone()).await {
            Ok((place, dns_backend)) => {
                self.settle(&place, dns_backend);
                place
            }
            Err(error) => {
                let error = format!("{error:#}");
                tracing::debug!(error, "no place yet");
                if vacancy.failed == PATIENCE {
                    self.note(vacancy.note(&error));
                }
                Place::Vacant(vacancy.failed())
            }
        };
    }

    /// Takes the file, or becomes a guest of the session that was quicker.
    async fn take_place(&mut self, dns: DnsConfig) -> anyhow::Result<(Place, String)> {
        let turn = timeout(TURN_LIMIT, others::turn(&self.places));
        let _turn = turn.await.context("another session is being set up")??;
        match self.helper.set_dns(dns.clone()).await {
            Ok(changed) => {
                for text in changed.refused.iter().chain(&changed.notes) {
                    tracing::info!(text, "about names");
                }
                // It says nothing if it had set them in an attempt that seemed to fail.
                let backend = changed.dns_backend;
                let backend = backend.unwrap_or_else(|| likely_dns_backend().to_owned());
                Ok((Place::Own, backend))
            }
            Err(error) if error.is::<Taken>() => {
                let host = Host::of_machine(&self.places, &self.name, &dns).await?;
                let host = host.ok_or(error)?;
                let backend = host.backend();
                Ok((Place::Guest(host), backend))
            }
            Err(error) => Err(error),
        }
    }

    fn settle(&mut self, place: &Place, dns_backend: String) {
        self.withdraw_note();
        match place {
            Place::Guest(host) => self.note(host.note(&self.domain, self.own_domain.as_deref())),
            Place::Own | Place::Vacant(_) => {}
        }
        tracing::info!(by = dns_backend, "names resolve again");
        self.board.update(|report| {
            if let Some(network) = &mut report.network {
                network.dns_backend = dns_backend;
            }
        });
    }

    /// Says how names are, in place of what was said before.
    fn note(&mut self, text: String) {
        self.withdraw_note();
        self.board.note(&text);
        self.names_note = Some(text);
    }

    fn withdraw_note(&mut self) {
        if let Some(note) = self.names_note.take() {
            self.board.withdraw(&note);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_looked_for_at_once_and_then_ever_more_seldom() {
        let begun = Instant::now();
        let mut vacancy = Vacancy::after("a".parse().unwrap());
        let mut pauses = Vec::new();
        while vacancy.failed <= PATIENCE {
            pauses.push(vacancy.pause.as_millis());
            vacancy = vacancy.failed();
        }
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 2000, 2000, 2000]);
        assert!(vacancy.next >= begun + LONGEST_PAUSE);
    }
}
