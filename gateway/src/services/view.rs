//! What is told of exposures: their figures, and each request as it comes, to the sessions that they belong to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvpn_gateway_core::{ExposurePart, ServiceKey};
use kvpn_wire::control::{
    ACTIVE_STATE, ConnectionEvent, Destination, Expose, ExposureStatus, LiveEvent, LostEvents,
    RequestEvent, StateEvent,
};
use kvpn_wire::exposure::Protocol;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::port::Port;
use crate::exposure::{
    ConnectionRecord, Counters, Owner, Protocol as Spoken, Record, RequestRecord, Share,
};

/// Digits of a session's fingerprint that tell apart two sessions of one developer.
const DIGITS: usize = 8;
/// Bytes of a path that are shown.
const PATH: usize = 1024;
/// The state in which the laptop does not get its traffic.
const SILENT: &str = "origin: the laptop is silent";

/// The name by which a session's laptop goes.
pub(super) fn owner(session: &str, expose: &Expose) -> Owner {
    let digits = session.get(..DIGITS).unwrap_or(session);
    Owner::new(&format!("{} ({digits})", expose.owner_name()))
}

/// Who looks on.
#[derive(Default)]
pub(super) struct Views {
    watchers: Vec<Watcher>,
    states: BTreeMap<(ServiceKey, String), &'static str>,
}

struct Watcher {
    session: String,
    views: mpsc::Sender<LiveEvent>,
    lost: u64,
}

impl Watcher {
    /// Whether it still looks on.
    fn tell(&mut self, view: LiveEvent) -> bool {
        if self.lost > 0 {
            let lost = LiveEvent::Lost(LostEvents { events: self.lost });
            match self.views.try_send(lost) {
                Ok(()) => self.lost = 0,
                Err(TrySendError::Full(_)) => {}
                Err(TrySendError::Closed(_)) => return false,
            }
        }
        match self.views.try_send(view) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.lost += 1;
                true
            }
            Err(TrySendError::Closed(_)) => false,
        }
    }
}

impl Views {
    /// A session looks on from now on. Those that went without anything to tell them of are forgotten.
    pub(super) fn add(&mut self, session: String, views: mpsc::Sender<LiveEvent>) {
        self.watchers.retain(|watcher| !watcher.views.is_closed());
        self.watchers.push(Watcher {
            session,
            views,
            lost: 0,
        });
    }

    /// Tells those whose traffic it is; what goes to the origin is everybody's who shares the Service.
    pub(super) fn tell<'a>(
        &mut self,
        key: &ServiceKey,
        port: u16,
        record: &Record,
        parts: impl Iterator<Item = ExposurePart<'a>>,
    ) {
        if self.watchers.is_empty() {
            return;
        }
        let concerned: Vec<&str> = parts
            .filter(|part| part.key == key && concerns(record, &owner(part.session, part.expose)))
            .map(|part| part.session)
            .collect();
        let view = view(key, port, record);
        self.watchers.retain_mut(|watcher| {
            !concerned.contains(&watcher.session.as_str()) || watcher.tell(view.clone())
        });
    }

    /// Tells of states that are not what they were.
    pub(super) fn tell_states<'a>(
        &mut self,
        key: &ServiceKey,
        parts: impl Iterator<Item = ExposurePart<'a>>,
    ) {
        let former = std::mem::take(&mut self.states);
        let (of_key, others): (Vec<_>, Vec<_>) =
            former.into_iter().partition(|((of, _), _)| of == key);
        self.states.extend(others);
        let former: BTreeMap<_, _> = of_key.into_iter().collect();
        for part in parts.filter(|part| part.key == key) {
            let named = (key.clone(), part.session.to_owned());
            let state = state(&part);
            if former.get(&named) != Some(&state) {
                let view = LiveEvent::State(StateEvent {
                    namespace: key.namespace.clone(),
                    service: key.service.clone(),
                    state: state.to_owned(),
                });
                self.watchers.retain_mut(|watcher| {
                    watcher.session != part.session || watcher.tell(view.clone())
                });
            }
            self.states.insert(named, state);
        }
    }
}

fn state(part: &ExposurePart<'_>) -> &'static str {
    if part.present { ACTIVE_STATE } else { SILENT }
}

fn share(record: &Record) -> Option<&Share> {
    match record {
        Record::Request(request) => Some(&request.to),
        Record::Connection(connection) => connection.to.as_ref(),
    }
}

fn concerns(record: &Record, owner: &Owner) -> bool {
    match share(record) {
        Some(Share::Laptop(of) | Share::Fallback(of) | Share::Copy(of)) => of == owner,
        Some(Share::Origin) | None => true,
    }
}

fn destination(to: &Share) -> (Destination, bool) {
    match to {
        Share::Laptop(_) | Share::Copy(_) => (Destination::Laptop, false),
        Share::Origin => (Destination::Origin, false),
        Share::Fallback(_) => (Destination::Origin, true),
    }
}

fn view(key: &ServiceKey, port: u16, record: &Record) -> LiveEvent {
    match record {
        Record::Request(request) => LiveEvent::Request(request_event(key, port, request)),
        Record::Connection(connection) => {
            LiveEvent::Connection(connection_event(key, port, connection))
        }
    }
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

fn request_event(key: &ServiceKey, port: u16, request: &RequestRecord) -> RequestEvent {
    let (to, fallback) = destination(&request.to);
    let error = match (request.status, request.complete) {
        (None, _) => Some("no answer"),
        (Some(_), false) => Some("cut off"),
        (Some(_), true) => None,
    };
    RequestEvent {
        namespace: key.namespace.clone(),
        service: key.service.clone(),
        port,
        method: request.method.to_string(),
        path: request.path.chars().take(PATH).collect(),
        status: request.status.map(|status| status.as_u16()),
        millis: millis(request.duration),
        to,
        fallback,
        mirrored: matches!(request.to, Share::Copy(_)),
        error: error.map(str::to_owned),
    }
}

fn connection_event(key: &ServiceKey, port: u16, connection: &ConnectionRecord) -> ConnectionEvent {
    let (to, fallback) = connection
        .to
        .as_ref()
        .map_or((Destination::Origin, false), destination);
    let note = match (connection.protocol, connection.to.is_some()) {
        (_, false) => Some("nobody answered"),
        (Spoken::Tls, true) => Some("TLS"),
        (Spoken::Unknown, true) => Some("no HTTP"),
        (Spoken::Upgraded, true) => Some("upgraded"),
        (Spoken::Udp, true) => None,
    };
    ConnectionEvent {
        namespace: key.namespace.clone(),
        service: key.service.clone(),
        port,
        protocol: match connection.protocol {
            Spoken::Udp => Protocol::Udp,
            Spoken::Tls | Spoken::Unknown | Spoken::Upgraded => Protocol::Tcp,
        },
        caller: Some(connection.client.ip().to_canonical()),
        received_bytes: connection.sent,
        sent_bytes: connection.received,
        millis: millis(connection.duration),
        to,
        fallback,
        note: note.map(str::to_owned),
    }
}

/// How a part does, as the session `caller` sees it.
pub(super) fn status<'a>(
    part: ExposurePart<'_>,
    caller: Option<&str>,
    counters: Option<&Arc<Counters>>,
    ports: impl Iterator<Item = &'a Port>,
    now: Instant,
) -> ExposureStatus {
    let laptop = counters
        .map(|counters| counters.counts())
        .unwrap_or_default();
    let mut status = ExposureStatus {
        namespace: part.key.namespace.clone(),
        service: part.key.service.clone(),
        owner: part.expose.owner.clone(),
        mine: caller == Some(part.session),
        traffic: part.expose.traffic.clone(),
        ports: part.expose.ports.clone(),
        state: state(&part).to_owned(),
        age_seconds: now.saturating_duration_since(part.since).as_secs(),
        connections: 0,
        to_laptop: laptop.requests + laptop.connections,
        to_origin: 0,
        fallbacks: laptop.fallbacks,
        errors: laptop.errors,
        received_bytes: laptop.sent,
        sent_bytes: laptop.received,
    };
    for port in ports {
        let (origin, gauges) = (port.origin(), port.gauges());
        status.connections += u32::try_from(gauges.connections).unwrap_or(u32::MAX);
        status.to_origin += origin.requests + origin.connections;
        status.errors += origin.errors;
        status.received_bytes += origin.sent;
        status.sent_bytes += origin.received;
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_went_without_a_word_is_forgotten_when_the_next_one_comes() {
        let mut views = Views::default();
        for _ in 0..3 {
            let (views_tx, _) = mpsc::channel(1);
            views.add("ana".to_owned(), views_tx);
        }
        assert_eq!(views.watchers.len(), 1, "the last one");
    }
}
