//! Leases by which the gateways of a namespace know of each other: each renews its own, the others see when it stops.
//!
//! Clocks of two nodes are never compared: a lease is lost when its renewals have not changed for seven seconds of the
//! observer's time, all of which it was able to look. A holder that dies right after a renewal is lost after 10 s: the renewal is
//! seen 2 s late, and the fourth look after that is the first one that finds it too old.

use crate::{Cluster, Error, FIELD_MANAGER, cluster::call::Call, manifest::GATEWAY_SELECTOR};
use k8s_openapi::{api::coordination::v1::Lease, jiff::Timestamp};
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use std::time::{Duration, Instant, SystemTime};

/// How often a lease is renewed, and looked at.
pub const LEASE_RENEWAL: Duration = Duration::from_secs(2);

/// For how long a lease holds that is not renewed.
pub const LEASE_DURATION: Duration = Duration::from_secs(7);

/// The longest time between two looks in which nothing was missed: one look may fail. With a renewal less than the lease's
/// duration, so that an API server that neither of both could reach for so long costs nobody the lease.
const BLINK: Duration = Duration::from_millis(4_500);

/// A lease as it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRecord {
    /// Whose it is: the gateway pod's name, which is the lease's too.
    pub holder: String,
    /// When it was renewed, by the holder's clock. Compared, never reckoned with.
    pub renewed: String,
}

/// Watches one holder.
#[derive(Debug, Default)]
pub struct LeaseObserver {
    last: Option<Look>,
}

#[derive(Debug)]
struct Look {
    at: Instant,
    renewed: Option<String>,
    since: Instant,
}

impl LeaseObserver {
    /// Takes note of what was seen at `now` (`None`: the lease is not there). Whether its holder is lost.
    ///
    /// A time without looks counts as the observer's own loss: the seven seconds begin anew.
    pub fn observe(&mut self, renewed: Option<&str>, now: Instant) -> bool {
        let steady = self.last.take().filter(|last| {
            last.renewed.as_deref() == renewed && now.saturating_duration_since(last.at) <= BLINK
        });
        let since = steady.map_or(now, |last| last.since);
        self.last = Some(Look {
            at: now,
            renewed: renewed.map(str::to_owned),
            since,
        });
        now.saturating_duration_since(since) >= LEASE_DURATION
    }
}

impl Cluster {
    /// Renews the lease of the gateway pod `holder`, or makes it; it ends with the pod. `now` is for people who read it.
    ///
    /// # Errors
    /// [`Error::Forbidden`], [`Error::Unreachable`].
    pub async fn renew_lease(
        &self,
        namespace: &str,
        holder: &str,
        holder_uid: &str,
        now: SystemTime,
    ) -> Result<(), Error> {
        let api = self.api::<Lease>(namespace).await?;
        let call = Call::namespaced("patch", LEASES, namespace)
            .named(holder)
            .within(LEASE_RENEWAL);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let lease = lease(namespace, holder, holder_uid, now);
        self.run(&call, api.patch(holder, &params, &Patch::Apply(&lease)))
            .await
            .map(drop)
    }

    /// The leases of the namespace's gateways.
    ///
    /// # Errors
    /// [`Error::Forbidden`], [`Error::Unreachable`].
    pub async fn leases(&self, namespace: &str) -> Result<Vec<LeaseRecord>, Error> {
        let api = self.api::<Lease>(namespace).await?;
        let call = Call::namespaced("list", LEASES, namespace).within(LEASE_RENEWAL);
        let params = ListParams::default().labels(GATEWAY_SELECTOR);
        let leases = self.run(&call, api.list(&params)).await?;
        Ok(leases.items.iter().filter_map(record).collect())
    }
}

/// Leases in RBAC's words.
const LEASES: &str = "leases.coordination.k8s.io";

fn lease(namespace: &str, holder: &str, holder_uid: &str, now: SystemTime) -> Value {
    // A clock outside the years that a timestamp has still shows a change.
    let now = Timestamp::try_from(now).unwrap_or(Timestamp::UNIX_EPOCH);
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": holder,
            "namespace": namespace,
            "labels": { "app.kubernetes.io/name": crate::GATEWAY_NAME, "app.kubernetes.io/managed-by": "kvpn" },
            "ownerReferences": [{ "apiVersion": "v1", "kind": "Pod", "name": holder, "uid": holder_uid }],
        },
        "spec": {
            "holderIdentity": holder,
            "leaseDurationSeconds": LEASE_DURATION.as_secs(),
            "renewTime": format!("{now:.6}"),
        },
    })
}

fn record(lease: &Lease) -> Option<LeaseRecord> {
    let spec = lease.spec.as_ref()?;
    Some(LeaseRecord {
        holder: spec.holder_identity.clone()?,
        renewed: spec.renew_time.as_ref()?.0.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Answer, FakeApi, list};

    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs some instant to start from"
    )]
    fn start() -> Instant {
        Instant::now()
    }

    /// What the observer says at each look: seconds, and which renewal it saw.
    fn verdicts(looks: &[(f64, &str)]) -> Vec<bool> {
        let start = start();
        let mut observer = LeaseObserver::default();
        let mut at = |&(seconds, renewed): &(f64, &str)| {
            observer.observe(Some(renewed), start + Duration::from_secs_f64(seconds))
        };
        looks.iter().map(&mut at).collect()
    }

    #[test]
    fn a_lease_is_lost_seven_seconds_after_its_last_change() {
        let looks = [
            (0., "a"),
            (2., "b"),
            (4., "b"),
            (6., "b"),
            (8.9, "b"),
            (9., "b"),
        ];
        assert_eq!(verdicts(&looks), [false, false, false, false, false, true]);
    }

    #[test]
    fn a_renewal_saves_it() {
        assert_eq!(
            verdicts(&[(0., "a"), (4., "a"), (6.9, "b"), (10., "b")]),
            [false; 4]
        );
    }

    #[test]
    fn time_without_looks_does_not_count() {
        let looks = [(0., "a"), (60., "a"), (64., "a"), (67., "a")];
        assert_eq!(verdicts(&looks), [false, false, false, true]);
    }

    #[test]
    fn an_api_server_that_was_away_for_a_blink_costs_nobody_the_lease() {
        assert!(BLINK + LEASE_RENEWAL < LEASE_DURATION);
    }

    #[test]
    fn a_lease_that_is_not_there_is_lost_too() {
        let start = start();
        let mut observer = LeaseObserver::default();
        let lost =
            [0, 4, 8].map(|seconds| observer.observe(None, start + Duration::from_secs(seconds)));
        assert_eq!(lost, [false, false, true]);
    }

    #[tokio::test]
    async fn a_lease_is_written_in_one_call_and_read_back() {
        let api = FakeApi::start(|asked| match asked.method.as_str() {
            "PATCH" => Answer::Json(200, asked.body.clone()),
            _ => list(json!([lease(
                "demo",
                "kvpn-gateway-0",
                "u1",
                SystemTime::UNIX_EPOCH
            )])),
        })
        .await;
        let cluster = api.cluster();
        cluster
            .renew_lease("demo", "kvpn-gateway-0", "u1", SystemTime::UNIX_EPOCH)
            .await
            .unwrap();
        let asked = api.asked().remove(0);
        assert_eq!(
            asked.line(),
            "PATCH /apis/coordination.k8s.io/v1/namespaces/demo/leases/kvpn-gateway-0"
        );
        assert_eq!(
            asked.body["spec"]["renewTime"], "1970-01-01T00:00:00.000000Z",
            "microseconds, as MicroTime has them"
        );
        let [record] = <[_; 1]>::try_from(cluster.leases("demo").await.unwrap()).unwrap();
        assert_eq!(record.holder, "kvpn-gateway-0");
        assert!(
            record.renewed.starts_with("1970-01-01T00:00:00"),
            "{record:?}"
        );
    }
}
