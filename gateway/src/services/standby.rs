//! Gateways of one namespace look after each other: each renews its lease while it has exposures, and restores those of another one
//! whose lease stops. What a lease means is decided by [`LeaseObserver`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use kvpn_gateway_core::ServiceKey;
use kvpn_k8s::{LEASE_RENEWAL, LeaseObserver, LeaseRecord, Whose};
use tokio::task::JoinSet;

use super::kubernetes::Kubernetes;
use super::{LISTEN, now};

/// What other gateways have.
pub(super) struct Standby {
    kubernetes: Kubernetes,
    /// Who has which Service.
    others: BTreeMap<ServiceKey, String>,
    observers: Arc<Mutex<BTreeMap<String, LeaseObserver>>>,
    renewed: Option<Instant>,
}

impl Standby {
    pub(super) fn new(kubernetes: Kubernetes) -> Self {
        Self {
            kubernetes,
            others: BTreeMap::new(),
            observers: Arc::default(),
            renewed: None,
        }
    }

    /// Another gateway has this Service.
    pub(super) fn note(&mut self, key: ServiceKey, gateway: &str) {
        self.others.insert(key, gateway.to_owned());
    }

    /// No other gateway has this Service.
    pub(super) fn forget(&mut self, key: &ServiceKey) {
        self.others.remove(key);
    }

    /// What others have is about to be told anew.
    pub(super) fn forget_all(&mut self) {
        self.others.clear();
    }

    /// Renews the own lease, if this gateway `has_exposures`, and looks at the others', each in its time. Called each
    /// [`LISTEN`], which may be a little early.
    pub(super) fn tick(&mut self, has_exposures: bool, beside: &mut JoinSet<()>) {
        let now = now();
        if self
            .renewed
            .is_some_and(|at| now.saturating_duration_since(at) + LISTEN / 2 < LEASE_RENEWAL)
        {
            return;
        }
        if !has_exposures && self.others.is_empty() {
            self.renewed = None;
            return;
        }
        self.renewed = Some(now);
        let watch = Watch {
            kubernetes: self.kubernetes.clone(),
            others: self.others.clone(),
            observers: Arc::clone(&self.observers),
        };
        beside.spawn(async move {
            if has_exposures {
                watch.kubernetes.renew_lease().await;
            }
            watch.look().await;
        });
    }
}

/// One look at the others.
struct Watch {
    kubernetes: Kubernetes,
    others: BTreeMap<ServiceKey, String>,
    observers: Arc<Mutex<BTreeMap<String, LeaseObserver>>>,
}

impl Watch {
    async fn look(self) {
        if self.others.is_empty() {
            return;
        }
        let Some(leases) = self.kubernetes.leases().await else {
            return;
        };
        for holder in self.lost(&leases) {
            tracing::warn!("another gateway is lost: its Services are restored");
            let theirs = self
                .others
                .iter()
                .filter(|(_, gateway)| **gateway == holder);
            for (key, _) in theirs {
                self.kubernetes.restore(key, &Whose::Everybody).await;
            }
        }
    }

    /// Whose lease has ended.
    fn lost(&self, leases: &[LeaseRecord]) -> Vec<String> {
        let mut observers = self
            .observers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        observers.retain(|holder, _| self.others.values().any(|gateway| gateway == holder));
        let mut holders: Vec<&String> = self.others.values().collect();
        holders.sort_unstable();
        holders.dedup();
        let is_lost = |holder: &&String| {
            let lease = leases.iter().find(|lease| lease.holder == **holder);
            let renewed = lease.map(|lease| lease.renewed.as_str());
            let observer = observers.entry((*holder).clone()).or_default();
            observer.observe(renewed, now())
        };
        holders.into_iter().filter(is_lost).cloned().collect()
    }
}
