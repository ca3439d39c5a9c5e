//! Waiting for the gateway pod, and telling at once what is definitely wrong.

mod diagnosis;
mod rollout;

use crate::{
    Cluster, Error, GATEWAY_NAME, GatewayPod, cluster::call::Call, manifest::GATEWAY_SELECTOR,
};
use futures::{
    StreamExt as _, future,
    stream::{BoxStream, SelectAll, select_all},
};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Event as Notice, Pod},
};
use kube::{
    Resource,
    api::LogParams,
    runtime::{WatchStreamExt as _, watcher},
};
use rollout::{Rollout, Seen, Verdict};
use serde::de::DeserializeOwned;
use std::{fmt, pin::pin, time::Duration};
use tokio::time::{Instant, sleep_until, timeout};

/// How long a refusal that was noted before we looked is doubted: the controller tries again at once after an apply.
const DOUBT: Duration = Duration::from_secs(3);
/// How much of a crashed gateway's log goes into the error.
const LOG_LINES: i64 = 5;

/// A step on the way to a ready pod, for a spinner. Each is reported once when it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// No pod yet.
    Creating,
    /// The pod has no node yet; the scheduler's words when it said why.
    Scheduling(Option<String>),
    /// The node gets the image.
    Pulling(String),
    /// The container runs, its readiness probe does not pass yet.
    Starting,
    /// A pod of an older revision is being replaced.
    Replacing,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Creating => f.write_str("creating the gateway pod"),
            Self::Scheduling(None) => f.write_str("waiting for a node"),
            Self::Scheduling(Some(why)) => write!(f, "waiting for a node: {why}"),
            Self::Pulling(image) => write!(f, "getting the image {image}"),
            Self::Starting => f.write_str("starting the gateway"),
            Self::Replacing => f.write_str("replacing the gateway pod"),
        }
    }
}

impl Cluster {
    /// Waits until a gateway pod of the newest revision is ready.
    ///
    /// # Errors
    /// [`Error::NotReady`] with the remedy: at once when waiting cannot help (image name, image missing, policy, quota), else
    /// after `limit` with the last thing seen. [`Error::Forbidden`] when pods may not be watched, [`Error::NotFound`] when
    /// nothing is installed.
    pub async fn wait_ready(
        &self,
        namespace: &str,
        limit: Duration,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<GatewayPod, Error> {
        self.wait(namespace, limit, true, progress).await
    }

    /// As [`Cluster::wait_ready`], for a gateway that was ready before: what looks hopeless (it was killed again and
    /// again) may still pass within `limit`.
    ///
    /// # Errors
    /// As [`Cluster::wait_ready`], [`Error::NotReady`] after `limit` only.
    pub async fn wait_ready_again(
        &self,
        namespace: &str,
        limit: Duration,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<GatewayPod, Error> {
        self.wait(namespace, limit, false, progress).await
    }

    /// Waits; that it is broken is believed only if `hopeless` is a result.
    async fn wait(
        &self,
        namespace: &str,
        limit: Duration,
        hopeless: bool,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<GatewayPod, Error> {
        let mut rollout = Rollout::new(namespace);
        match timeout(limit, self.follow(&mut rollout, hopeless, progress)).await {
            Ok(Ok(Verdict::Ready(gateway))) => Ok(*gateway),
            Ok(Ok(Verdict::Broken(problem))) if hopeless => {
                let log = if problem.has_log {
                    self.last_words(&rollout).await
                } else {
                    None
                };
                Err(rollout.error(problem, log))
            }
            Ok(Ok(Verdict::Broken(_) | Verdict::Step(_))) | Err(_) => Err(rollout.overdue(limit)),
            Ok(Err(error)) => Err(error),
        }
    }

    /// Follows the StatefulSet, its pods and what is noted about them, until it is clear what becomes of them; that they
    /// are broken is believed only if `hopeless` is a result.
    async fn follow(
        &self,
        rollout: &mut Rollout,
        hopeless: bool,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Verdict, Error> {
        let mut seen = pin!(self.seen(&rollout.namespace).await?);
        let doubted = sleep_until(Instant::now() + DOUBT);
        let mut doubted = pin!(doubted);
        let mut shown = None;
        loop {
            tokio::select! {
                next = seen.next() => match next {
                    Some(seen) => rollout.handle(seen?)?,
                    None => return Ok(rollout.verdict()),
                },
                () = &mut doubted, if !rollout.is_doubt_over() => rollout.end_doubt(),
            }
            match rollout.verdict() {
                Verdict::Step(step) => {
                    if shown.as_ref() != Some(&step) {
                        progress(step.clone());
                        shown = Some(step);
                    }
                }
                Verdict::Broken(_) if !hopeless => {}
                verdict @ (Verdict::Ready(_) | Verdict::Broken(_)) => return Ok(verdict),
            }
        }
    }

    /// Everything to follow, in one stream. What the user may not watch, pods excepted, is done without.
    async fn seen(
        &self,
        namespace: &str,
    ) -> Result<SelectAll<BoxStream<'static, Result<Seen, Error>>>, Error> {
        let labelled = watcher::Config::default().labels(GATEWAY_SELECTOR);
        let by_name = watcher::Config::default().fields(&format!("metadata.name={GATEWAY_NAME}"));
        let pods = self.watched::<Pod>(namespace, "pods", labelled).await?;
        let sets = self
            .watched::<StatefulSet>(namespace, "statefulsets.apps", by_name)
            .await?;
        Ok(select_all([
            pods.map(|pod| pod.map(Seen::Pod)).boxed(),
            sets.map(|set| Ok(set.map_or(Seen::SetHidden, Seen::Set)))
                .boxed(),
            self.notices(namespace, GATEWAY_NAME).await?,
            self.notices(namespace, &format!("{GATEWAY_NAME}-0"))
                .await?,
        ]))
    }

    /// What the cluster notes about one object; nothing when the user may not watch that.
    async fn notices(
        &self,
        namespace: &str,
        about: &str,
    ) -> Result<BoxStream<'static, Result<Seen, Error>>, Error> {
        let about = watcher::Config::default().fields(&format!("involvedObject.name={about}"));
        let notices = self.watched::<Notice>(namespace, "events", about).await?;
        let visible = notices.filter_map(|notice| future::ready(notice.ok()));
        Ok(visible.map(|notice| Ok(Seen::Notice(notice))).boxed())
    }

    /// A kind of objects, watched. Ends after the first error that waiting does not cure.
    async fn watched<K>(
        &self,
        namespace: &str,
        resource: &'static str,
        config: watcher::Config,
    ) -> Result<BoxStream<'static, Result<watcher::Event<K>, Error>>, Error>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + fmt::Debug
            + DeserializeOwned
            + Send
            + 'static,
        K::DynamicType: Default,
    {
        let api = self.api::<K>(namespace).await?;
        let cluster = self.clone();
        let call = Call::namespaced("watch", resource, namespace);
        Ok(crate::namespaces::until_refused(
            watcher(api, config).default_backoff(),
            cluster,
            call,
        ))
    }

    /// The end of a crashed gateway's log.
    async fn last_words(&self, rollout: &Rollout) -> Option<String> {
        let pod = rollout.newest_pod()?;
        let api = self.api::<Pod>(&rollout.namespace).await.ok()?;
        let call = Call::namespaced("get", "pods/log", &rollout.namespace).named(&pod);
        let params = LogParams {
            tail_lines: Some(LOG_LINES),
            previous: true,
            ..LogParams::default()
        };
        let log = self.run(&call, api.logs(&pod, &params)).await.ok()?;
        Some(log.trim().to_owned()).filter(|log| !log.is_empty())
    }
}

#[cfg(test)]
mod tests;
