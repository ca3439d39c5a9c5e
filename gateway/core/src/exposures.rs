//! Which Services this gateway serves for which sessions: ports, owners, silence, the way back. Says what to listen at and what
//! to restore; whoever drives it does both. What becomes of one request is decided elsewhere, by [`Exposures::claims`].
//!
//! A session that is silent for [`SILENT_AFTER`] loses its traffic to the origin, and gets it back with the next sign of life. After
//! [`RESTORE_AFTER`] its part ends: [`ExposureAction::Restore`] comes again until [`Exposures::ended`] says that it is done. When a
//! Service's last part has ended, the gateway goes on listening for [`GRACE`], all for the origin, because callers' routes to it
//! and open connections outlive the Service's change.

mod part;
mod ports;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use kvpn_wire::control::{Expose, ExposedPort, ListeningPort, UnusableExposure};
use kvpn_wire::exposure::Protocol;

use part::Part;
use ports::Ports;

/// A client with exposures gives a sign of life every second or two.
pub const SILENT_AFTER: Duration = Duration::from_secs(5);

/// Leaves the API server three of the fifteen seconds after which a Service has to be what it was.
pub const RESTORE_AFTER: Duration = Duration::from_secs(12);

/// How often a restore is asked for that has not been done.
pub const RESTORE_AGAIN: Duration = Duration::from_secs(2);

/// How long the gateway listens after a Service's last part ended.
pub const GRACE: Duration = Duration::from_secs(30);

/// Services that one gateway serves.
const MAX_SERVICES: usize = 4096;

/// Sessions that may share one Service.
const MAX_OWNERS: usize = 32;

/// A Service's namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub service: String,
}

/// What the shell is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExposureAction {
    /// Listen for the Service's port.
    Listen(ServiceKey, ListeningPort),
    /// Ask [`Exposures::claims`] anew for the Service's ports.
    Choose(ServiceKey),
    /// End the session's (its fingerprint's) part in the Service object, and say [`Exposures::ended`] when that is done.
    Restore(ServiceKey, String),
    /// Stop listening: the connections that are left have had their time.
    Close(ServiceKey, ListeningPort),
}

/// Why an exposure is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExposureRefused {
    /// It makes no sense by itself.
    #[error(transparent)]
    Unusable(#[from] UnusableExposure),
    /// Another session has the traffic, or part of it.
    #[error("{owner} exposes it already ({traffic})")]
    Taken {
        /// Whose it is.
        owner: String,
        /// Which traffic, in words.
        traffic: String,
    },
    /// The wanted port of the gateway serves another Service, or the gateway itself.
    #[error("port {0} of the gateway is in use")]
    PortInUse(u16),
    /// No port of the gateway is free.
    #[error("the gateway has no port left")]
    NoPortLeft,
    /// Too many Services, or too many sessions on one.
    #[error("the gateway serves as many exposures as it can")]
    Full,
}

/// One session's part of a Service's exposure, as others see it.
#[derive(Clone, Copy, Debug)]
pub struct ExposurePart<'a> {
    /// The Service.
    pub key: &'a ServiceKey,
    /// The session's fingerprint.
    pub session: &'a str,
    /// What it exposes.
    pub expose: &'a Expose,
    /// When the gateway took it.
    pub since: Instant,
    /// Whether the session takes its traffic now; else the origin does.
    pub present: bool,
}

/// One Service.
#[derive(Debug, Default)]
struct Served {
    parts: Vec<Part>,
    ports: Vec<ListeningPort>,
    /// When to stop listening; set while there is no part.
    close_at: Option<Instant>,
}

/// All exposures of a gateway.
#[derive(Debug)]
pub struct Exposures {
    services: BTreeMap<ServiceKey, Served>,
    ports: Ports,
    actions: VecDeque<ExposureAction>,
}

impl Default for Exposures {
    fn default() -> Self {
        Self {
            services: BTreeMap::new(),
            ports: Ports::new(kvpn_wire::EXPOSURE_PORTS),
            actions: VecDeque::new(),
        }
    }
}

impl Exposures {
    /// A session's wish, or a change of it. The caller has made sure that the Service's annotation names the session (by its
    /// fingerprint). One listening port for each port of the wish, in its order; those that are new come as
    /// [`ExposureAction::Listen`].
    ///
    /// # Errors
    /// See [`ExposureRefused`]; then nothing has changed.
    pub fn expose(
        &mut self,
        key: &ServiceKey,
        session: &str,
        expose: &Expose,
        now: Instant,
    ) -> Result<Vec<ListeningPort>, ExposureRefused> {
        expose.check()?;
        self.refuse_rival(key, session, expose)?;
        let listening = self.listen(key, expose)?;
        let served = self.services.entry(key.clone()).or_default();
        served.close_at = None;
        let since = served.take(session).map_or(now, |part: Part| part.since);
        served.parts.push(Part::new(session, expose, since, now));
        self.actions.push_back(ExposureAction::Choose(key.clone()));
        Ok(listening)
    }

    fn refuse_rival(
        &self,
        key: &ServiceKey,
        session: &str,
        expose: &Expose,
    ) -> Result<(), ExposureRefused> {
        let Some(served) = self.services.get(key) else {
            return (self.services.len() < MAX_SERVICES)
                .then_some(())
                .ok_or(ExposureRefused::Full);
        };
        let mut others = served.parts.iter().filter(|part| part.session != session);
        if others.clone().count() >= MAX_OWNERS {
            return Err(ExposureRefused::Full);
        }
        match others.find(|part| !part.expose.is_disjoint(expose)) {
            Some(rival) => Err(ExposureRefused::Taken {
                owner: rival.expose.owner.clone(),
                traffic: rival.expose.traffic.to_string(),
            }),
            None => Ok(()),
        }
    }

    /// Finds a port of the gateway for each of the wish's, all or none.
    fn listen(
        &mut self,
        key: &ServiceKey,
        expose: &Expose,
    ) -> Result<Vec<ListeningPort>, ExposureRefused> {
        let mut listening = Vec::with_capacity(expose.ports.len());
        let mut new = Vec::new();
        for port in &expose.ports {
            let held = self.services.get(key).and_then(|served| served.port(port));
            let found = match held {
                Some(held) => Ok(held),
                None => self
                    .ports
                    .take(port.protocol, port.gateway_port)
                    .inspect(|taken| new.push((port.protocol, *taken))),
            };
            match found {
                Ok(gateway_port) => listening.push(ListeningPort {
                    port: port.port,
                    protocol: port.protocol,
                    gateway_port,
                }),
                Err(refused) => {
                    for (protocol, port) in new {
                        self.ports.give_back(protocol, port);
                    }
                    return Err(refused);
                }
            }
        }
        let added = listening
            .iter()
            .filter(|port| new.contains(&(port.protocol, port.gateway_port)));
        let served = self.services.entry(key.clone()).or_default();
        for port in added {
            served.ports.push(*port);
            self.actions
                .push_back(ExposureAction::Listen(key.clone(), *port));
        }
        Ok(listening)
    }

    /// A part that the gateway found in a Service's annotation when it started: served by the origin until the session is heard,
    /// and restored if that does not happen in time.
    ///
    /// # Errors
    /// As [`Self::expose`].
    pub fn resume(
        &mut self,
        key: &ServiceKey,
        session: &str,
        expose: &Expose,
        now: Instant,
    ) -> Result<(), ExposureRefused> {
        let is_known = self
            .services
            .get(key)
            .is_some_and(|served| served.part(session).is_some());
        if is_known {
            return Ok(());
        }
        self.expose(key, session, expose, now)?;
        if let Some(part) = self.part(key, session) {
            part.present = false;
        }
        Ok(())
    }

    /// A sign of life of a session. One that was silent has its traffic again, but for what it no longer wants.
    pub fn heard(&mut self, session: &str, now: Instant) {
        for (key, served) in &mut self.services {
            for part in served
                .parts
                .iter_mut()
                .filter(|part| part.session == session)
            {
                if part.hear(now) {
                    self.actions.push_back(ExposureAction::Choose(key.clone()));
                }
            }
        }
    }

    /// The session is over: its parts go to the origin at once, and are restored.
    pub fn session_ended(&mut self, session: &str, now: Instant) {
        let keys: Vec<ServiceKey> = self.services.keys().cloned().collect();
        for key in keys {
            self.unexpose(&key, session, now);
        }
    }

    /// The session no longer wants the Service. The restore is asked for in any case: it does nothing if the client did it.
    /// Whether there was such a part.
    pub fn unexpose(&mut self, key: &ServiceKey, session: &str, now: Instant) -> bool {
        let Some(part) = self.part(key, session) else {
            return false;
        };
        if part.end(now) {
            self.actions.push_back(ExposureAction::Choose(key.clone()));
        }
        let restore = ExposureAction::Restore(key.clone(), session.to_owned());
        self.actions.push_back(restore);
        true
    }

    /// The Service's annotation no longer names the session, whoever did it. With the last part the grace begins.
    pub fn ended(&mut self, key: &ServiceKey, session: &str, now: Instant) {
        let Some(served) = self.services.get_mut(key) else {
            return;
        };
        if served.take(session).is_none() {
            return;
        }
        if served.parts.is_empty() {
            served.close_at = Some(now + GRACE);
        }
        self.actions.push_back(ExposureAction::Choose(key.clone()));
    }

    /// The Service's annotation, as just read from the API server, names these sessions and no others: parts of others have
    /// [ended](Self::ended). A watch's event may be older than the part: read again before believing it.
    pub fn named(&mut self, key: &ServiceKey, sessions: &[&str], now: Instant) {
        let parts = self
            .services
            .get(key)
            .into_iter()
            .flat_map(|served| &served.parts);
        let gone = parts.filter(|part| !sessions.contains(&part.session.as_str()));
        let gone: Vec<String> = gone.map(|part| part.session.clone()).collect();
        for session in gone {
            self.ended(key, &session, now);
        }
    }

    /// A port cannot be listened at: something else in the pod has it. The caller asks for the exposure anew.
    pub fn port_unusable(&mut self, key: &ServiceKey, port: ListeningPort) {
        self.ports.exclude(port.protocol, port.gateway_port);
        if let Some(served) = self.services.get_mut(key) {
            served.ports.retain(|held| *held != port);
        }
    }

    /// Who takes a Service's port now, the eldest first. Empty: everything goes to the origin.
    pub fn claims(
        &self,
        key: &ServiceKey,
        port: u16,
        protocol: Protocol,
    ) -> impl Iterator<Item = (&str, &Expose)> {
        let served = self.services.get(key);
        let parts = served
            .map(|served| served.parts.as_slice())
            .unwrap_or_default();
        let takes = move |part: &&Part| {
            part.present
                && part.expose.ports.iter().any(|own| {
                    own.laptop_port.is_some() && (own.port, own.protocol) == (port, protocol)
                })
        };
        parts
            .iter()
            .filter(takes)
            .map(|part| (part.session.as_str(), &part.expose))
    }

    /// All parts, sorted by Service.
    pub fn parts(&self) -> impl Iterator<Item = ExposurePart<'_>> {
        self.services.iter().flat_map(|(key, served)| {
            served.parts.iter().map(move |part| ExposurePart {
                key,
                session: &part.session,
                expose: &part.expose,
                since: part.since,
                present: part.present,
            })
        })
    }

    /// What to do next.
    pub fn poll_action(&mut self) -> Option<ExposureAction> {
        self.actions.pop_front()
    }

    /// When [`Self::handle_timeout`] is due, and what for.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let due = self.services.values().flat_map(|served| {
            let parts = served.parts.iter().map(Part::due);
            parts.chain(served.close_at.map(|at| (at, "exposure closes")))
        });
        due.min()
    }

    /// Acts on what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        for (key, served) in &mut self.services {
            for part in &mut served.parts {
                part.handle_timeout(key, &mut self.actions, now);
            }
            if served.close_at.is_some_and(|at| at <= now) {
                for port in served.ports.drain(..) {
                    self.ports.give_back(port.protocol, port.gateway_port);
                    self.actions
                        .push_back(ExposureAction::Close(key.clone(), port));
                }
            }
        }
        self.services
            .retain(|_, served| served.close_at.is_none_or(|at| at > now));
    }

    fn part(&mut self, key: &ServiceKey, session: &str) -> Option<&mut Part> {
        let parts = &mut self.services.get_mut(key)?.parts;
        parts.iter_mut().find(|part| part.session == session)
    }
}

impl Served {
    fn part(&self, session: &str) -> Option<&Part> {
        self.parts.iter().find(|part| part.session == session)
    }

    fn take(&mut self, session: &str) -> Option<Part> {
        let index = self.parts.iter().position(|part| part.session == session)?;
        Some(self.parts.remove(index))
    }

    /// The gateway's port that is held for a port of the Service, if it is the one that is wanted.
    fn port(&self, wish: &ExposedPort) -> Option<u16> {
        let found = self.ports.iter().find(|held| {
            (held.port, held.protocol) == (wish.port, wish.protocol)
                && wish
                    .gateway_port
                    .is_none_or(|wanted| wanted == held.gateway_port)
        });
        found.map(|held| held.gateway_port)
    }
}

#[cfg(test)]
mod tests;
