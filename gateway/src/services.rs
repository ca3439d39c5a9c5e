//! The Services that this gateway serves. One task owns the table of `kvpn-gateway-core` and does what it says: listens, chooses,
//! restores, closes. HTTP asks it over [`ServicesHandle`]; what takes time (the API server) runs beside it and comes back as [`News`].

mod dial;
mod handle;
mod kubernetes;
mod port;
mod standby;
mod view;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvpn_gateway_core::{
    ExposureAction, ExposureRefused, Exposures, SILENT_AFTER, ServiceKey, SessionIndex,
};
use kvpn_k8s::{ExposedService, ServiceChange, Whose};
use kvpn_wire::control::{Exposed, ExposureList, ListeningPort};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::commands::Commands;
use crate::exposure::{Counters, Record, Room};
use dial::{Laptop, Origin};
use handle::Request;
pub(crate) use handle::{ServicesHandle, Wish};
pub(crate) use kubernetes::Kubernetes;
use port::{Port, Ways};
use standby::Standby;
use view::Views;

/// News that wait.
const QUEUE: usize = 1024;
/// Open connections and UDP clients of all exposures: each holds up to 64 KiB of the pod's 512 MiB.
const CONNECTIONS: usize = 4096;
/// How often the drivers are asked which sessions they heard, while there are exposures.
const LISTEN: Duration = Duration::from_secs(1);
/// How often a port is looked for that nothing else in the pod has.
const ATTEMPTS: usize = 8;
/// How long restoring all Services may take when the gateway ends.
const LEAVING: Duration = Duration::from_secs(2);

/// What happened beside the task.
#[derive(Debug)]
enum News {
    /// A part's end was asked for; whether that is done.
    Restored(ServiceKey, String, bool),
    /// The watch saw something.
    Changed(ServiceChange),
    /// A Service as it was just read; `None`: not exposed.
    Read(ServiceKey, Option<Box<ExposedService>>),
    /// What a port served.
    Served(ServiceKey, u16, Record),
    /// How long ago these sessions were heard.
    Heard(Vec<(String, Option<Duration>)>),
}

/// The task's possessions.
pub(crate) struct Services {
    table: Exposures,
    ways: Ways,
    kubernetes: Kubernetes,
    ports: BTreeMap<(ServiceKey, ListeningPort), Port>,
    origins: BTreeMap<ServiceKey, Arc<Origin>>,
    /// Where the sessions are that may take traffic.
    sessions: BTreeMap<String, SessionIndex>,
    counters: BTreeMap<(ServiceKey, String), Arc<Counters>>,
    views: Views,
    standby: Standby,
    requests: mpsc::Receiver<Request>,
    news: mpsc::Receiver<News>,
}

impl Services {
    /// The task, to be [run](Self::run), and the way to it.
    pub(crate) fn new(commands: Commands, kubernetes: Kubernetes) -> (Self, ServicesHandle) {
        let (handle, requests) = ServicesHandle::new();
        let (news_tx, news) = mpsc::channel(QUEUE);
        let services = Self {
            table: Exposures::default(),
            ways: Ways {
                commands,
                news: news_tx,
                room: Room::new(CONNECTIONS),
            },
            standby: Standby::new(kubernetes.clone()),
            kubernetes,
            ports: BTreeMap::new(),
            origins: BTreeMap::new(),
            sessions: BTreeMap::new(),
            counters: BTreeMap::new(),
            views: Views::default(),
            requests,
            news,
        };
        (services, handle)
    }

    /// Runs until nobody can ask any more.
    pub(crate) async fn run(mut self) {
        let mut beside = JoinSet::new();
        beside.spawn(self.kubernetes.clone().watch(self.ways.news.clone()));
        let mut listen = tokio::time::interval(LISTEN);
        listen.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let due = self.table.poll_timeout().map(|(at, _)| at);
            tokio::select! {
                request = self.requests.recv() => match request {
                    Some(request) => self.handle(request, &mut beside).await,
                    None => return,
                },
                Some(news) = self.news.recv() => self.hear(news, &mut beside),
                _ = listen.tick() => self.tick(&mut beside),
                () = until(due) => self.table.handle_timeout(now()),
                Some(_) = beside.join_next() => {}
            }
            self.act(&mut beside).await;
        }
    }

    async fn handle(&mut self, request: Request, beside: &mut JoinSet<()>) {
        match request {
            Request::Expose(wish, answer) => {
                let exposed = self.expose(*wish, beside).await;
                let _ = answer.send(exposed);
            }
            Request::Unexpose(key, fingerprint, answer) => {
                let existed = self.table.unexpose(&key, &fingerprint, now());
                let _ = answer.send(existed);
            }
            Request::List(fingerprint, answer) => {
                let _ = answer.send(self.list(fingerprint.as_deref()));
            }
            Request::Watch(fingerprint, views) => self.views.add(fingerprint, views),
            Request::Leave(answer) => self.leave(answer, beside),
        }
    }

    async fn expose(
        &mut self,
        wish: Wish,
        beside: &mut JoinSet<()>,
    ) -> Result<Exposed, ExposureRefused> {
        self.believe(&wish)?;
        let Wish {
            key,
            session,
            fingerprint,
            expose,
            ..
        } = wish;
        self.sessions.insert(fingerprint.clone(), session);
        for _ in 0..ATTEMPTS {
            let ports = self.table.expose(&key, &fingerprint, &expose, now())?;
            self.act(beside).await;
            let is_open = |port: &ListeningPort| self.ports.contains_key(&(key.clone(), *port));
            if ports.iter().all(is_open) {
                return Ok(Exposed {
                    pod_name: self.kubernetes.pod().to_owned(),
                    addresses: self.kubernetes.addresses().to_vec(),
                    ports,
                });
            }
        }
        self.table.ended(&key, &fingerprint, now());
        Err(ExposureRefused::NoPortLeft)
    }

    /// Takes note of what the annotation says. Where it cannot be read, nobody shares: who came first is the only right there is.
    fn believe(&mut self, wish: &Wish) -> Result<(), ExposureRefused> {
        if let Some(named) = &wish.named {
            let named: Vec<&str> = named.iter().map(String::as_str).collect();
            self.table.named(&wish.key, &named, now());
            return Ok(());
        }
        let mut parts = self.table.parts();
        match parts.find(|part| *part.key == wish.key && part.session != wish.fingerprint) {
            Some(rival) => Err(ExposureRefused::Taken {
                owner: rival.expose.owner.clone(),
                traffic: "the gateway may not read whether you share it".to_owned(),
            }),
            None => Ok(()),
        }
    }

    /// A port that something else in the pod has is not in [`Self::ports`] afterwards.
    async fn open(&mut self, key: &ServiceKey, port: ListeningPort) {
        let origin = self.origin(key);
        match Port::open(key, port, origin, &self.ways).await {
            Ok(opened) => {
                self.ports.insert((key.clone(), port), opened);
            }
            Err(error) => {
                tracing::warn!(port = port.gateway_port, %error, "cannot listen for an exposure");
                self.table.port_unusable(key, port);
            }
        }
    }

    fn origin(&mut self, key: &ServiceKey) -> Arc<Origin> {
        let kubernetes = &self.kubernetes;
        let origin = self
            .origins
            .entry(key.clone())
            .or_insert_with(|| Arc::new(Origin::new(kubernetes.clone(), key.namespace.clone())));
        Arc::clone(origin)
    }

    async fn act(&mut self, beside: &mut JoinSet<()>) {
        while let Some(action) = self.table.poll_action() {
            match action {
                ExposureAction::Listen(key, port) => self.open(&key, port).await,
                ExposureAction::Choose(key) => self.choose(&key),
                ExposureAction::Restore(key, session) => {
                    let (kubernetes, news) = (self.kubernetes.clone(), self.ways.news.clone());
                    beside.spawn(async move {
                        let whose = Whose::Session(session.clone());
                        let done = kubernetes.restore(&key, &whose).await;
                        drop(news.send(News::Restored(key, session, done)).await);
                    });
                }
                ExposureAction::Close(key, port) => self.close(key, port, beside),
            }
        }
    }

    /// Says to a Service's ports who takes what now.
    fn choose(&mut self, key: &ServiceKey) {
        let origin = self.origin(key);
        let parts = || self.table.parts().filter(|part| part.key == key);
        if let Some(shadow) = parts().find_map(|part| part.expose.origin.clone()) {
            origin.set(&shadow);
        }
        let is_over = parts().next().is_none();
        let of_key = self.ports.iter().filter(|((of, _), _)| of == key);
        for ((_, listening), port) in of_key {
            let claims = self.table.claims(key, listening.port, listening.protocol);
            let laptops = claims.filter_map(|(session, expose)| {
                let index = *self.sessions.get(session)?;
                let counters = self
                    .counters
                    .entry((key.clone(), session.to_owned()))
                    .or_default();
                Laptop::of(session, index, expose, *listening, counters)
            });
            port.choose(laptops.collect(), is_over);
        }
        self.views.tell_states(key, self.table.parts());
    }

    fn close(&mut self, key: ServiceKey, port: ListeningPort, beside: &mut JoinSet<()>) {
        if let Some(port) = self.ports.remove(&(key.clone(), port)) {
            beside.spawn(port.close());
        }
        if self.ports.keys().any(|(of, _)| *of == key) {
            return;
        }
        self.origins.remove(&key);
        self.counters.retain(|(of, _), _| *of != key);
        let table = &self.table;
        self.sessions
            .retain(|session, _| table.parts().any(|part| part.session == session));
        let kubernetes = self.kubernetes.clone();
        beside.spawn(async move { kubernetes.remove_shadow(&key).await });
    }

    fn hear(&mut self, news: News, beside: &mut JoinSet<()>) {
        match news {
            News::Restored(key, session, true) => {
                self.table.ended(&key, &session, now());
                // One that ends in good order goes on with what it has begun.
                if let Some(index) = self.sessions.get(&session) {
                    self.ways.commands.give_up(*index);
                }
            }
            News::Restored(_, _, false) => {}
            News::Changed(change) => self.changed(change, beside),
            News::Read(key, exposed) => self.read(&key, exposed.as_deref()),
            News::Served(key, port, record) => {
                self.views.tell(&key, port, &record, self.table.parts());
            }
            News::Heard(heard) => self.heard(&heard),
        }
    }

    /// A watch's event may be older than what the table knows: what is gone by it is read again.
    fn changed(&mut self, change: ServiceChange, beside: &mut JoinSet<()>) {
        let (named, gone): (Vec<ExposedService>, Vec<ServiceKey>) = match change {
            ServiceChange::All(all) => {
                let known = self.table.parts().map(|part| part.key.clone());
                let listed = |key: &ServiceKey| all.iter().any(|one| one.name == key.service);
                let gone = known.filter(|key| !listed(key)).collect();
                self.standby.forget_all();
                (all, gone)
            }
            ServiceChange::Set(one) => (vec![*one], Vec::new()),
            ServiceChange::Gone(name) => (Vec::new(), vec![self.kubernetes.key(&name)]),
        };
        for exposed in named {
            self.found(&exposed, beside);
        }
        for key in gone {
            self.standby.forget(&key);
            self.read_again(key, beside);
        }
    }

    fn found(&mut self, exposed: &ExposedService, beside: &mut JoinSet<()>) {
        let key = self.kubernetes.key(&exposed.name);
        if exposed.annotation.gateway != self.kubernetes.pod() {
            return self.standby.note(key, &exposed.annotation.gateway);
        }
        self.standby.forget(&key);
        let is_served = self.table.parts().any(|part| *part.key == key);
        if is_served {
            return self.read_again(key, beside);
        }
        for owner in &exposed.annotation.owners {
            let expose = exposed.resumed(owner);
            match self.table.resume(&key, &owner.session, &expose, now()) {
                // A claim whose session has not swapped the Service yet is nobody's news.
                Ok(()) if !exposed.swapped => {}
                Ok(()) => {
                    tracing::info!(
                        "an exposure is taken up again; its origin serves until its laptop is back"
                    );
                }
                Err(error) => tracing::warn!(%error, "an exposure cannot be taken up again"),
            }
        }
    }

    fn read_again(&self, key: ServiceKey, beside: &mut JoinSet<()>) {
        let (kubernetes, news) = (self.kubernetes.clone(), self.ways.news.clone());
        beside.spawn(async move {
            if let Ok(exposed) = kubernetes.exposure(&key).await {
                let exposed = exposed.map(Box::new);
                drop(news.send(News::Read(key, exposed)).await);
            }
        });
    }

    fn read(&mut self, key: &ServiceKey, exposed: Option<&ExposedService>) {
        let own = exposed.filter(|exposed| exposed.annotation.gateway == self.kubernetes.pod());
        let named: Vec<&str> = own
            .into_iter()
            .flat_map(|exposed| &exposed.annotation.owners)
            .map(|owner| owner.session.as_str())
            .collect();
        self.table.named(key, &named, now());
    }

    fn tick(&mut self, beside: &mut JoinSet<()>) {
        self.standby
            .tick(self.table.parts().next().is_some(), beside);
        for origin in self.origins.values().filter(|origin| origin.is_unknown()) {
            let origin = Arc::clone(origin);
            beside.spawn(async move { drop(origin.address().await) });
        }
        let asked: BTreeMap<String, SessionIndex> = self
            .table
            .parts()
            .filter_map(|part| {
                let session = self.sessions.get(part.session)?;
                Some((part.session.to_owned(), *session))
            })
            .collect();
        if asked.is_empty() {
            return;
        }
        let (commands, news) = (self.ways.commands.clone(), self.ways.news.clone());
        beside.spawn(async move {
            let (names, indices): (Vec<String>, Vec<SessionIndex>) = asked.into_iter().unzip();
            if let Ok(heard) = commands.heard(&indices).await {
                let heard = names.into_iter().zip(heard).collect();
                drop(news.send(News::Heard(heard)).await);
            }
        });
    }

    fn heard(&mut self, heard: &[(String, Option<Duration>)]) {
        for (session, ago) in heard {
            match ago {
                Some(ago) if *ago < SILENT_AFTER => self.table.heard(session, now() - *ago),
                Some(_) => {}
                None => {
                    self.sessions.remove(session);
                    self.table.session_ended(session, now());
                }
            }
        }
    }

    fn list(&self, fingerprint: Option<&str>) -> ExposureList {
        let exposures = self.table.parts().map(|part| {
            let counters = self
                .counters
                .get(&(part.key.clone(), part.session.to_owned()));
            let of_key = self.ports.iter().filter(|((key, _), _)| key == part.key);
            let ports = of_key.map(|(_, port)| port);
            view::status(part, fingerprint, counters, ports, now())
        });
        ExposureList {
            exposures: exposures.collect(),
        }
    }

    /// Restores everything, as far as there is time, and answers.
    fn leave(&self, answer: oneshot::Sender<()>, beside: &mut JoinSet<()>) {
        let mut keys: Vec<ServiceKey> = self.table.parts().map(|part| part.key.clone()).collect();
        keys.dedup();
        let kubernetes = self.kubernetes.clone();
        beside.spawn(async move {
            let restored = keys
                .iter()
                .map(|key| kubernetes.restore(key, &Whose::Everybody));
            let restored = futures::future::join_all(restored);
            if tokio::time::timeout(LEAVING, restored).await.is_err() {
                tracing::warn!("not all exposed Services are restored: the API server is slow");
            }
            // Callers' nodes hear of the change a moment later.
            if !keys.is_empty() && kubernetes.is_there() {
                tokio::time::sleep(LEAVING).await;
            }
            let _ = answer.send(());
        });
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the shell's clock, handed to the core as an argument"
)]
fn now() -> Instant {
    Instant::now()
}
