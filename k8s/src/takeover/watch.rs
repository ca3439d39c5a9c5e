//! The exposed Services of a namespace, as they come, change and go.

use super::{
    SERVICES,
    annotation::{Annotation, Owner, TargetPort},
    inspect::whole,
    object::{self, Object},
};
use crate::{Cluster, Error, cluster::call::Call, namespaces::until_refused};
use futures::{
    StreamExt as _, TryStreamExt as _, future,
    stream::{self, BoxStream},
};
use kube::{
    api::DynamicObject,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use kvpn_wire::control::{Expose, ListeningPort};
use serde_json::Value;
use std::{collections::BTreeSet, net::IpAddr};

/// A Service with an annotation of ours.
#[derive(Debug, Clone, PartialEq)]
pub struct ExposedService {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// For whom, and what it was.
    pub annotation: Annotation,
    /// Whether it leads to the gateway pod that the annotation names; before the swap it does not.
    pub swapped: bool,
    /// Where it leads, port by port; empty before the swap.
    pub ports: Vec<ListeningPort>,
    /// Whether it leads there with all its ports: others may have added some, which lead nowhere until the next swap.
    pub complete: bool,
}

impl ExposedService {
    /// The Service's exposure; `None` without an annotation that can be read.
    fn of(service: &Object) -> Option<Self> {
        let annotation = service.annotation().unwrap_or_else(|error| {
            tracing::debug!(service = service.text(), %error, "annotation not read");
            None
        })?;
        let swapped = service.selector() == annotation.gateway_selector();
        let ports = service.ports().iter().filter(|_| swapped);
        let is_led = |port: &Value| {
            let original = object::protocol(port)
                .and_then(|protocol| annotation.original_target(protocol, &object::target(port)));
            original.is_some()
        };
        Some(Self {
            complete: swapped && service.ports().iter().all(is_led),
            namespace: service.namespace().to_owned(),
            name: service.name().to_owned(),
            swapped,
            ports: ports.filter_map(listening).collect(),
            annotation,
        })
    }

    /// What the owner exposes, at the gateway's ports to which the Service leads already.
    pub fn resumed(&self, owner: &Owner) -> Expose {
        let mut expose = owner.expose.clone();
        for port in &mut expose.ports {
            let mut ports = self.ports.iter();
            let led = ports.find(|led| (led.port, led.protocol) == (port.port, port.protocol));
            port.gateway_port = led.map(|led| led.gateway_port);
        }
        expose
    }
}

fn listening(port: &Value) -> Option<ListeningPort> {
    let TargetPort::Number(gateway_port) = object::target(port) else {
        return None;
    };
    Some(ListeningPort {
        port: port["port"].as_u64()?.try_into().ok()?,
        protocol: object::protocol(port)?,
        gateway_port,
    })
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum ServiceChange {
    /// These are all: at first, and whenever the watch had to begin anew.
    All(Vec<ExposedService>),
    /// This one is new or has changed.
    Set(Box<ExposedService>),
    /// This one is gone, or no longer exposed.
    Gone(String),
}

impl Cluster {
    /// One Service's exposure, as it is now; `None` without a Service, or an annotation that can be read.
    ///
    /// # Errors
    /// [`Error::Forbidden`], [`Error::Unreachable`].
    pub async fn exposed_service(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<ExposedService>, Error> {
        let found = self.service(namespace, name).await?;
        Ok(found.as_ref().and_then(ExposedService::of))
    }

    /// The virtual addresses of a Service; empty when there is none, or it is headless.
    ///
    /// # Errors
    /// [`Error::Forbidden`], [`Error::Unreachable`].
    pub async fn service_addresses(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Vec<IpAddr>, Error> {
        let found = self.service(namespace, name).await?;
        let spec = found.map(|service| service.0["spec"]["clusterIPs"].clone());
        let addresses = spec
            .as_ref()
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        Ok(addresses
            .filter_map(|address| address.as_str()?.parse().ok())
            .collect())
    }

    /// The exposed Services of a namespace, as they are now, by name.
    ///
    /// # Errors
    /// [`Error::Forbidden`], [`Error::Unreachable`].
    pub async fn exposed_services(&self, namespace: &str) -> Result<Vec<ExposedService>, Error> {
        let services = self.all_services(namespace).await?;
        Ok(services.iter().filter_map(ExposedService::of).collect())
    }

    /// The exposed Services of a namespace: all at first, then each change. Heals itself after lost connections; ends after an
    /// error that waiting does not cure ([`Error::Forbidden`] without the right to watch Services).
    pub fn watch_exposures(
        &self,
        namespace: &str,
    ) -> BoxStream<'static, Result<ServiceChange, Error>> {
        let (cluster, namespace) = (self.clone(), namespace.to_owned());
        let changes = async move {
            let api = cluster.services(&namespace).await?;
            let events = watcher(api, watcher::Config::default()).default_backoff();
            let call = Call::namespaced("watch", SERVICES, &namespace);
            let events = until_refused(events, cluster, call);
            let mut known = Known::default();
            Ok(events.try_filter_map(move |event| future::ready(Ok(known.after(event)))))
        };
        stream::once(changes).try_flatten().boxed()
    }
}

/// Which Services are exposed, so that the end of another's life is no news.
#[derive(Debug, Default)]
struct Known {
    names: BTreeSet<String>,
    /// While a list is read: what of it was read.
    listed: Vec<ExposedService>,
}

impl Known {
    fn after(&mut self, event: Event<DynamicObject>) -> Option<ServiceChange> {
        match event {
            Event::Init => {
                self.listed.clear();
                None
            }
            Event::InitApply(object) => {
                self.listed.extend(ExposedService::of(&whole(&object)));
                None
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.listed);
                self.names = listed.iter().map(|service| service.name.clone()).collect();
                Some(ServiceChange::All(listed))
            }
            Event::Apply(object) => {
                let service = whole(&object);
                let Some(exposed) = ExposedService::of(&service) else {
                    return self.gone(service.name());
                };
                self.names.insert(exposed.name.clone());
                Some(ServiceChange::Set(Box::new(exposed)))
            }
            Event::Delete(object) => self.gone(whole(&object).name()),
        }
    }

    fn gone(&mut self, name: &str) -> Option<ServiceChange> {
        self.names
            .remove(name)
            .then(|| ServiceChange::Gone(name.to_owned()))
    }
}
