//! The steps of an exposure and of its end: read, plan, write, and again when the object changed in between.

use super::{
    SERVICES,
    annotation::ANNOTATION,
    inspect::whole,
    object::Object,
    plan::{self, Claim},
    restore::{Restored, Step, Whose, restore, selector_before},
    service_text, shadow,
};
use crate::{Cluster, Error, FIELD_MANAGER, cluster::call::Call, namespaces::until_refused};
use futures::TryStreamExt as _;
use k8s_openapi::api::{core::v1::Pod, discovery::v1::EndpointSlice};
use kube::{
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
    runtime::{
        WatchStreamExt as _,
        watcher::{self, watcher},
    },
};
use kvpn_wire::control::Exposed;
use serde_json::Value;
use std::{collections::BTreeMap, time::Duration};
use tokio::time::{sleep, timeout};

/// How often a write is tried that finds the object changed.
const ATTEMPTS: u32 = 6;

/// The pause before the next attempt, times the attempt's number.
const PAUSE: Duration = Duration::from_millis(20);

/// How long the endpoints of a shadow may take, where the origin has pods that are ready.
const SHADOW_LIMIT: Duration = Duration::from_secs(10);

impl Cluster {
    /// Writes a session's claim on a Service into its annotation, or makes the Service. Callers notice nothing. May be done again.
    ///
    /// # Errors
    /// [`Error::Taken`] when another session has the traffic; [`Error::Forbidden`]; [`Error::Refused`] when the annotation cannot be
    /// read; [`Error::Conflict`] when others write the Service all the time.
    pub async fn claim_service(&self, claim: &Claim) -> Result<(), Error> {
        again(|| self.try_claim(claim)).await
    }

    async fn try_claim(&self, claim: &Claim) -> Result<(), Error> {
        let Some(service) = self.service(&claim.namespace, &claim.service).await? else {
            return self.make_service(claim).await;
        };
        match plan::claim(&service, claim)? {
            Some(patch) => self.patch_service(&service, &patch).await,
            None => Ok(()),
        }
    }

    async fn make_service(&self, claim: &Claim) -> Result<(), Error> {
        if claim.expose.origin.is_some() {
            return Err(Error::NotFound {
                what: service_text(&claim.namespace, &claim.service),
            });
        }
        let api = self.services(&claim.namespace).await?;
        let object =
            serde_json::from_value(plan::new_service(claim)).expect("it has a name and a kind");
        let call = Call::namespaced("create", SERVICES, &claim.namespace).named(&claim.service);
        let params = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        self.run(&call, api.create(&params, &object))
            .await
            .map(drop)
    }

    /// Makes the Service that leads to the origin of a claimed one, or brings it up to date, and waits until it has endpoints if the
    /// origin has any pod that is ready. The shadow's name; `None` when there is no origin. May be done again.
    ///
    /// # Errors
    /// [`Error::Refused`] when a Service of that name is not kvpn's, or gets no endpoints within 10 s; [`Error::Forbidden`].
    pub async fn shadow_service(
        &self,
        namespace: &str,
        service: &str,
    ) -> Result<Option<String>, Error> {
        let found = self.existing_service(namespace, service).await?;
        let Some(shadow) = shadow::shadow(&found)? else {
            return Ok(None);
        };
        let name = shadow::name(service);
        self.refuse_foreign_shadow(namespace, &name, service)
            .await?;
        let api = self.services(namespace).await?;
        let call = Call::namespaced("patch", SERVICES, namespace).named(&name);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        self.run(&call, api.patch(&name, &params, &Patch::Apply(&shadow)))
            .await?;
        if self.is_origin_ready(&found).await? {
            self.wait_for_endpoints(namespace, &name).await?;
        }
        Ok(Some(name))
    }

    async fn refuse_foreign_shadow(
        &self,
        namespace: &str,
        name: &str,
        service: &str,
    ) -> Result<(), Error> {
        match self.service(namespace, name).await? {
            Some(other) if !shadow::is_shadow_of(&other, service) => Err(Error::Refused {
                object: other.text(),
                why: format!("has the name that the way to the origin of {service} needs"),
                remedy: "rename or remove it".to_owned(),
            }),
            Some(_) | None => Ok(()),
        }
    }

    async fn is_origin_ready(&self, service: &Object) -> Result<bool, Error> {
        let before = match plan::read(service)? {
            Some(annotation) => selector_before(&service.selector(), &annotation),
            None => service.selector(),
        };
        let params = ListParams::default().labels(&label_text(&before));
        let pods = self
            .read_all::<Pod>("pods", service.namespace(), &params)
            .await?;
        Ok(pods.iter().any(crate::gateway::is_ready))
    }

    async fn wait_for_endpoints(&self, namespace: &str, service: &str) -> Result<(), Error> {
        let api = self.api::<EndpointSlice>(namespace).await?;
        let ours =
            watcher::Config::default().labels(&format!("kubernetes.io/service-name={service}"));
        let slices = watcher(api, ours).default_backoff().applied_objects();
        let call = Call::namespaced("watch", "endpointslices.discovery.k8s.io", namespace);
        let mut slices = until_refused(slices, self.clone(), call);
        let ready = async {
            while let Some(slice) = slices.try_next().await? {
                if shadow::any_ready([&slice]) {
                    break;
                }
            }
            Ok(())
        };
        timeout(SHADOW_LIMIT, ready)
            .await
            .unwrap_or_else(|_elapsed| {
                Err(Error::Refused {
                    object: service_text(namespace, service),
                    why: format!(
                        "got no endpoints within {} s, though the pods it selects are ready",
                        SHADOW_LIMIT.as_secs()
                    ),
                    remedy: "check kube-controller-manager, which writes EndpointSlices".to_owned(),
                })
            })
    }

    /// Leads a claimed Service to the gateway, in one patch. May be done again.
    ///
    /// # Errors
    /// [`Error::Taken`] when the claim is gone, or the Service got a port that the gateway does not know; [`Error::Forbidden`];
    /// [`Error::Conflict`] when others write the Service all the time.
    pub async fn swap_service(
        &self,
        namespace: &str,
        service: &str,
        session: &str,
        exposed: &Exposed,
    ) -> Result<(), Error> {
        again(|| self.try_swap(namespace, service, session, exposed)).await
    }

    async fn existing_service(&self, namespace: &str, service: &str) -> Result<Object, Error> {
        let found = self.service(namespace, service).await?;
        found.ok_or_else(|| Error::NotFound {
            what: service_text(namespace, service),
        })
    }

    async fn try_swap(
        &self,
        namespace: &str,
        service: &str,
        session: &str,
        exposed: &Exposed,
    ) -> Result<(), Error> {
        let found = self.existing_service(namespace, service).await?;
        match plan::swap(&found, session, exposed)? {
            Some(patch) => self.patch_service(&found, &patch).await,
            None => Ok(()),
        }
    }

    /// Ends `whose` part of a Service's exposure; the last part's end makes the Service what it was. May be done again, by
    /// anybody with the right to patch it; a Service without a valid annotation is not touched.
    ///
    /// The shadow stays, for connections that the gateway still has: see [`Cluster::remove_shadow`].
    ///
    /// # Errors
    /// [`Error::Forbidden`]; [`Error::Refused`] when the annotation cannot be read; [`Error::Conflict`] when others write the Service
    /// all the time; [`Error::Unreachable`].
    pub async fn restore_service(
        &self,
        namespace: &str,
        service: &str,
        whose: &Whose,
    ) -> Result<Restored, Error> {
        again(|| self.try_restore(namespace, service, whose)).await
    }

    async fn try_restore(
        &self,
        namespace: &str,
        service: &str,
        whose: &Whose,
    ) -> Result<Restored, Error> {
        let Some(found) = self.service(namespace, service).await? else {
            return Ok(Restored::Absent);
        };
        match restore(&found, whose)? {
            Step::Nothing => Ok(Restored::Nothing),
            Step::Patch(patch, restored) => match self.patch_service(&found, &patch).await {
                Err(Error::NotFound { .. }) => Ok(Restored::Absent),
                done => done.map(|()| restored),
            },
            Step::Delete => self
                .delete_service(&found)
                .await
                .map(|()| Restored::Removed),
        }
    }

    /// Removes the shadow of a Service, if there is one and it is kvpn's.
    ///
    /// # Errors
    /// [`Error::Forbidden`], [`Error::Unreachable`].
    pub async fn remove_shadow(&self, namespace: &str, service: &str) -> Result<(), Error> {
        match self.service(namespace, &shadow::name(service)).await? {
            Some(found) if shadow::is_shadow_of(&found, service) => {
                self.delete_service(&found).await
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Removes the shadows of a namespace whose Services are no longer exposed, left by whoever was killed. Their names.
    ///
    /// A shadow that a gateway still proxies to, just after a restore, is among them.
    ///
    /// # Errors
    /// [`Error::Forbidden`], [`Error::Unreachable`].
    pub async fn sweep_shadows(&self, namespace: &str) -> Result<Vec<String>, Error> {
        let services = self.all_services(namespace).await?;
        let mut removed = Vec::new();
        for found in &services {
            let Some(origin_of) = found.0["metadata"]["labels"][shadow::ORIGIN_OF].as_str() else {
                continue;
            };
            let mut exposed = services
                .iter()
                .filter(|service| service.name() == origin_of);
            let is_needed =
                exposed.any(|service| service.0["metadata"]["annotations"][ANNOTATION].is_string());
            if !is_needed && shadow::is_shadow_of(found, origin_of) {
                self.delete_service(found).await?;
                removed.push(found.name().to_owned());
            }
        }
        Ok(removed)
    }

    pub(super) async fn all_services(&self, namespace: &str) -> Result<Vec<Object>, Error> {
        let api = self.services(namespace).await?;
        let call = Call::namespaced("list", SERVICES, namespace);
        let list = self.run(&call, api.list(&ListParams::default())).await?;
        Ok(list.items.iter().map(whole).collect())
    }

    async fn patch_service(&self, service: &Object, patch: &Value) -> Result<(), Error> {
        let api = self.services(service.namespace()).await?;
        let call = Call::namespaced("patch", SERVICES, service.namespace()).named(service.name());
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        self.run(
            &call,
            api.patch(service.name(), &params, &Patch::Merge(patch)),
        )
        .await
        .map(drop)
    }

    /// Deletes this very object as it was read; gone is gone.
    async fn delete_service(&self, service: &Object) -> Result<(), Error> {
        let api = self.services(service.namespace()).await?;
        let call = Call::namespaced("delete", SERVICES, service.namespace()).named(service.name());
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(service.uid().to_owned()),
                resource_version: Some(service.resource_version().to_owned()),
            }),
            ..DeleteParams::default()
        };
        match self.run(&call, api.delete(service.name(), &params)).await {
            Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Labels as a selector's text.
pub(super) fn label_text(labels: &BTreeMap<String, String>) -> String {
    let pairs = labels.iter().map(|(key, value)| format!("{key}={value}"));
    pairs.collect::<Vec<_>>().join(",")
}

/// Tries until the object did not change between reading and writing, a few times.
async fn again<T, F>(attempt: impl Fn() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    for number in 1..ATTEMPTS {
        match attempt().await {
            Err(Error::Conflict { .. }) => sleep(PAUSE * number).await,
            done => return done,
        }
    }
    attempt().await
}
