//! Watching, and the cluster's namespaces as they come and go.

use crate::{Cluster, Error, cluster::call::Call};
use futures::{
    Stream, TryStreamExt as _,
    stream::{self, BoxStream, StreamExt as _},
};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, ResourceExt as _,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use std::collections::BTreeSet;

impl Cluster {
    /// The names of all namespaces, sorted: the whole list at first and again after each change. Heals itself after lost
    /// connections; ends after an error that waiting does not cure ([`Error::Forbidden`] for most users).
    pub fn watch_namespaces(&self) -> BoxStream<'static, Result<Vec<String>, Error>> {
        let cluster = self.clone();
        let lists = async move {
            let api: Api<PartialObjectMeta<Namespace>> = Api::all(cluster.client().await?);
            let events = watcher(api, watcher::Config::default()).default_backoff();
            let events = until_refused(events, cluster, Call::cluster("watch", "namespaces"));
            let mut names = Names::default();
            Ok(events.try_filter_map(move |event| futures::future::ready(Ok(names.after(event)))))
        };
        stream::once(lists).try_flatten().boxed()
    }
}

/// The names collected so far.
#[derive(Debug, Default)]
struct Names {
    names: BTreeSet<String>,
    /// While a list is read: what of it was read.
    listed: Option<BTreeSet<String>>,
}

impl Names {
    /// The list after an event, if it changed and is whole.
    fn after<K: kube::Resource>(&mut self, event: Event<K>) -> Option<Vec<String>> {
        let changed = match event {
            Event::Init => {
                self.listed = Some(BTreeSet::new());
                false
            }
            Event::InitApply(object) => {
                self.listed
                    .get_or_insert_default()
                    .insert(object.name_any());
                false
            }
            Event::InitDone => {
                let listed = self.listed.take().unwrap_or_default();
                std::mem::replace(&mut self.names, listed) != self.names || self.names.is_empty()
            }
            Event::Apply(object) => self.names.insert(object.name_any()),
            Event::Delete(object) => self.names.remove(&object.name_any()),
        };
        changed.then(|| self.names.iter().cloned().collect())
    }
}

/// A watch's events, with its passing troubles left out (kube tries again) and ended by the first that does not pass:
/// a missing right, refused credentials, an unknown resource.
pub(crate) fn until_refused<T: Send + 'static>(
    events: impl Stream<Item = Result<T, watcher::Error>> + Send + 'static,
    cluster: Cluster,
    call: Call,
) -> BoxStream<'static, Result<T, Error>> {
    let named = events.then(move |event| {
        let (cluster, call) = (cluster.clone(), call.clone());
        async move {
            match event {
                Ok(event) => Some(Ok(event)),
                Err(error) => cluster.watch_error(error, &call).await.map(Err),
            }
        }
    });
    let passing = named.filter_map(futures::future::ready);
    let ended = passing.scan(false, |refused, event| {
        let go_on = !*refused;
        *refused = event.is_err();
        futures::future::ready(go_on.then_some(event))
    });
    ended.boxed()
}

impl Cluster {
    /// A watch's error in our words, if it does not pass by itself.
    async fn watch_error(&self, error: watcher::Error, call: &Call) -> Option<Error> {
        let error = match error {
            watcher::Error::InitialListFailed(error)
            | watcher::Error::WatchStartFailed(error)
            | watcher::Error::WatchFailed(error) => error,
            watcher::Error::WatchError(status) => kube::Error::Api(status),
            watcher::Error::NoResourceVersion => return None,
        };
        match self.named(error, call).await {
            error @ (Error::Forbidden { .. }
            | Error::Unauthorized { .. }
            | Error::NotFound { .. }) => Some(error),
            error => {
                tracing::debug!(%error, "watch interrupted");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Answer, FakeApi, forbidden, list};
    use serde_json::{Value, json};

    fn namespace(name: &str) -> Namespace {
        Namespace {
            metadata: kube::core::ObjectMeta {
                name: Some(name.into()),
                ..Default::default()
            },
            ..Default::default()
        }
    }

    fn feed(names: &mut Names, events: Vec<Event<Namespace>>) -> Vec<Vec<String>> {
        events
            .into_iter()
            .filter_map(|event| names.after(event))
            .collect()
    }

    fn named(event: &str, name: &str) -> Value {
        json!({ "type": event, "object": { "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": { "name": name, "resourceVersion": "9" } } })
    }

    #[tokio::test]
    async fn the_list_comes_first_and_then_its_changes() {
        let api = FakeApi::start(|asked| {
            if asked.is_watch() {
                Answer::Events(vec![named("ADDED", "c"), named("DELETED", "a")])
            } else {
                list(json!([named("", "b")["object"], named("", "a")["object"]]))
            }
        })
        .await;
        let lists: Vec<_> = api
            .cluster()
            .watch_namespaces()
            .take(3)
            .map(Result::unwrap)
            .collect()
            .await;
        assert_eq!(lists, [vec!["a", "b"], vec!["a", "b", "c"], vec!["b", "c"]]);
    }

    #[tokio::test]
    async fn a_refusal_is_told_once_and_ends_the_stream() {
        let api = FakeApi::start(|_| forbidden()).await;
        let told: Vec<_> = api.cluster().watch_namespaces().collect().await;
        let [Err(error)] = told.as_slice() else {
            panic!("{told:?}")
        };
        assert_eq!(
            error.to_string(),
            "not permitted: watch namespaces in the whole cluster"
        );
    }

    #[test]
    fn a_list_is_told_when_it_is_whole_and_after_each_change() {
        let mut names = Names::default();
        let init = vec![
            Event::Init,
            Event::InitApply(namespace("b")),
            Event::InitApply(namespace("a")),
            Event::InitDone,
        ];
        assert_eq!(feed(&mut names, init.clone()), [["a", "b"]]);
        assert!(
            feed(&mut names, vec![Event::Apply(namespace("a"))]).is_empty(),
            "a changed label is no change"
        );
        assert_eq!(
            feed(&mut names, vec![Event::Delete(namespace("a"))]),
            [["b"]]
        );
        assert_eq!(
            feed(&mut names, init),
            [["a", "b"]],
            "a new list replaces the old one"
        );
    }
}
