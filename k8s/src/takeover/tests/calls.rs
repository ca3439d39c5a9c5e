//! The order of the calls, what a lost race does, and that a kill between any two of them leaves nothing behind.

use super::{store::Store, *};
use crate::{
    Cluster, Error, ExposureWish, Restored, ServiceChange, Whose,
    takeover::annotation::ANNOTATION,
    testing::{Answer, forbidden},
};
use futures::StreamExt as _;

/// A whole takeover.
async fn take_over(cluster: &Cluster, session: &str, traffic: &str) -> Result<(), Error> {
    cluster.claim_service(&claim(session, traffic)).await?;
    cluster.shadow_service("demo", "web").await?;
    cluster
        .swap_service("demo", "web", session, &exposed())
        .await
}

/// A whole way back.
async fn give_back(cluster: &Cluster, session: &str) -> Result<Restored, Error> {
    let restored = cluster
        .restore_service("demo", "web", &Whose::Session(session.into()))
        .await?;
    if restored != Restored::Shared {
        cluster.remove_shadow("demo", "web").await?;
    }
    Ok(restored)
}

fn content() -> Value {
    Store::with(&[web()]).content("web").unwrap()
}

#[tokio::test]
async fn the_annotation_comes_first_and_the_swap_last() {
    let store = Store::with(&[web()]);
    let api = store.serve().await;
    take_over(&api.cluster(), "ana", "all").await.unwrap();
    let writes: Vec<_> = api
        .asked()
        .into_iter()
        .filter(|asked| asked.method != "GET")
        .collect();
    let [annotation, shadow, swap] = writes.as_slice() else {
        panic!("{writes:?}")
    };
    assert!(annotation.body.get("spec").is_none() && annotation.path.ends_with("/web"));
    assert!(shadow.path.ends_with("/web-kvpn-origin"));
    assert!(swap.body["spec"].get("selector").is_some() && swap.path.ends_with("/web"));
    let lines: Vec<_> = api
        .asked()
        .iter()
        .map(crate::testing::Asked::line)
        .collect();
    let position = |text: &str| lines.iter().rposition(|line| line.contains(text)).unwrap();
    assert!(
        position("PATCH /api/v1/namespaces/demo/services/web-kvpn-origin")
            < position("endpointslices")
    );
    assert!(
        position("endpointslices") < lines.len() - 1,
        "endpoints are awaited before the swap"
    );
    assert_eq!(
        give_back(&api.cluster(), "ana").await.unwrap(),
        Restored::Service
    );
    assert_eq!(store.content("web").unwrap(), content());
    assert_eq!(store.get("web-kvpn-origin"), None);
    assert_eq!(
        give_back(&api.cluster(), "ana").await.unwrap(),
        Restored::Nothing,
        "again"
    );
}

/// As a kill before the n-th request: what came before it was done, and nothing after. (A refusal ends the client at once.)
#[tokio::test]
async fn a_kill_at_any_step_is_undone_or_resumed() {
    let whole = {
        let store = Store::with(&[web()]);
        let api = store.serve().await;
        take_over(&api.cluster(), "ana", "all").await.unwrap();
        (api.asked().len(), store.content("web").unwrap())
    };
    for killed_at in 1..=whole.0 {
        let store = Store::with(&[web()]);
        let dying = store
            .serve_with(move |number, _, _| (number >= killed_at).then(forbidden))
            .await;
        take_over(&dying.cluster(), "ana", "all").await.unwrap_err();
        let resumed = Store::with(&[store.get("web").unwrap()]);
        let api = resumed.serve().await;
        take_over(&api.cluster(), "ana", "all").await.unwrap();
        assert_eq!(
            resumed.content("web").unwrap(),
            whole.1,
            "resumed after {killed_at}"
        );
        let api = store.serve().await;
        let restored = api
            .cluster()
            .restore_service("demo", "web", &Whose::Everybody)
            .await
            .unwrap();
        let swept = api.cluster().sweep_shadows("demo").await.unwrap();
        assert_eq!(
            store.content("web").unwrap(),
            content(),
            "undone after {killed_at}: {restored:?}"
        );
        assert_eq!(store.get("web-kvpn-origin"), None, "{swept:?}");
    }
}

#[tokio::test]
async fn a_kill_in_the_way_back_leaves_nothing_after_the_next() {
    for killed_at in 1..=4 {
        let store = Store::with(&[web()]);
        take_over(&store.serve().await.cluster(), "ana", "all")
            .await
            .unwrap();
        let count = std::sync::atomic::AtomicUsize::new(0);
        let dying = store
            .serve_with(move |_, _, _| {
                let number = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
                (number >= killed_at).then(forbidden)
            })
            .await;
        give_back(&dying.cluster(), "ana").await.unwrap_err();
        let api = store.serve().await;
        give_back(&api.cluster(), "ana").await.unwrap();
        assert_eq!(
            (store.content("web").unwrap(), store.get("web-kvpn-origin")),
            (content(), None),
            "{killed_at}"
        );
    }
}

#[tokio::test]
async fn a_write_that_lost_a_race_is_planned_anew() {
    let store = Store::with(&[web()]);
    let racing = store
        .serve_with(|number, asked, store| {
            if asked.method == "PATCH" && number < 8 {
                store.edit("web", |service| {
                    service["metadata"]["labels"]["edit"] = number.to_string().into()
                });
            }
            None
        })
        .await;
    take_over(&racing.cluster(), "ana", "all").await.unwrap();
    give_back(&racing.cluster(), "ana").await.unwrap();
    let mut service = store.content("web").unwrap();
    assert!(
        service["metadata"]["labels"]
            .as_object_mut()
            .unwrap()
            .remove("edit")
            .is_some(),
        "the other's edit stays"
    );
    assert_eq!(service, content());
}

#[tokio::test]
async fn a_race_that_never_ends_is_given_up() {
    let store = Store::with(&[web()]);
    let api = store
        .serve_with(|_, asked, store| {
            if asked.method == "PATCH" {
                store.edit("web", |_| {});
            }
            None
        })
        .await;
    let error = api
        .cluster()
        .claim_service(&claim("ana", "all"))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Conflict { .. }), "{error}");
    assert_eq!(
        api.asked()
            .iter()
            .filter(|asked| asked.method == "PATCH")
            .count(),
        6
    );
}

#[tokio::test]
async fn a_missing_right_is_named() {
    let store = Store::with(&[web()]);
    let api = store
        .serve_with(|_, asked, _| (asked.method == "PATCH").then(forbidden))
        .await;
    let error = take_over(&api.cluster(), "ana", "all").await.unwrap_err();
    assert_eq!(
        (error.exit_code(), error.to_string().as_str()),
        (4, "not permitted: patch services in namespace demo")
    );
    let api = store.serve_with(|_, _, _| Some(forbidden())).await;
    let error = api
        .cluster()
        .restore_service("demo", "web", &Whose::Everybody)
        .await
        .unwrap_err();
    assert_eq!(
        (error.exit_code(), error.to_string().as_str()),
        (4, "not permitted: get services in namespace demo")
    );
}

#[tokio::test]
async fn a_service_that_is_not_there_is_made_and_removed() {
    let store = Store::default();
    let api = store.serve().await;
    let cluster = api.cluster();
    let mut claim = claim("ana", "all");
    let error = cluster.claim_service(&claim).await.unwrap_err();
    assert!(
        matches!(error, Error::NotFound { .. }),
        "it was there when it was looked at: {error}"
    );
    claim.expose.origin = None;
    cluster.claim_service(&claim).await.unwrap();
    assert_eq!(cluster.shadow_service("demo", "web").await.unwrap(), None);
    cluster
        .swap_service("demo", "web", "ana", &exposed())
        .await
        .unwrap();
    let made = store.get("web").unwrap();
    assert_eq!(made["spec"]["ports"][0]["targetPort"], 20_000);
    assert_eq!(
        made["spec"]["selector"]["statefulset.kubernetes.io/pod-name"],
        GATEWAY
    );
    assert_eq!(give_back(&cluster, "ana").await.unwrap(), Restored::Removed);
    assert_eq!(store.get("web"), None);
    let foreign = Store::with(&[web()]);
    let error = foreign
        .serve()
        .await
        .cluster()
        .claim_service(&claim)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("somebody made it meanwhile"),
        "{error}"
    );
}

#[tokio::test]
async fn a_service_that_has_the_shadows_name_is_left_alone() {
    let mut other = web();
    other["metadata"]["name"] = "web-kvpn-origin".into();
    let store = Store::with(&[web(), other]);
    let api = store.serve().await;
    let error = take_over(&api.cluster(), "ana", "all").await.unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("Service demo/web-kvpn-origin has the name"),
        "{error}"
    );
    give_back(&api.cluster(), "ana").await.unwrap();
    assert!(store.get("web-kvpn-origin").is_some());
    assert_eq!(store.content("web").unwrap(), content());
}

#[tokio::test]
async fn two_sessions_share_and_the_shadow_stays_for_the_second() {
    let store = Store::with(&[web()]);
    let cluster = store.serve().await.cluster();
    take_over(&cluster, "ana", "x-dev: ana").await.unwrap();
    take_over(&cluster, "bob", "x-dev: bob").await.unwrap();
    assert_eq!(give_back(&cluster, "ana").await.unwrap(), Restored::Shared);
    assert_eq!(cluster.sweep_shadows("demo").await.unwrap(), [""; 0]);
    assert!(store.get("web-kvpn-origin").is_some());
    assert_eq!(give_back(&cluster, "bob").await.unwrap(), Restored::Service);
    assert_eq!(store.content("web").unwrap(), content());
}

#[tokio::test]
async fn an_inspection_says_what_it_could_not_see() {
    let store = Store::with(&[web()]);
    let api = store
        .serve_with(|_, asked, _| (!asked.path.contains("/services/")).then(forbidden))
        .await;
    let wish = ExposureWish {
        namespace: "demo".into(),
        service: "web".into(),
        ports: vec!["8080:80".parse().unwrap()],
        traffic: Traffic::All,
        fallback: true,
        proxy_protocol: false,
        owner: "ana@laptop".into(),
        gateway: GATEWAY.into(),
    };
    let inspection = api.cluster().inspect_service(&wish).await.unwrap();
    assert!(inspection.refusal(false).is_none() && inspection.takeover);
    assert_eq!(inspection.unread.len(), 5, "{:?}", inspection.unread);
    assert!(
        inspection.unread[4].ends_with("(you may not list networkpolicies.networking.k8s.io)"),
        "{:?}",
        inspection.unread
    );
    assert!(
        api.asked().iter().all(|asked| asked.method == "GET"),
        "looking changes nothing"
    );
}

#[tokio::test]
async fn exposed_services_are_told_as_they_come_and_go() {
    let store = Store::with(&[web()]);
    let ours = store.serve().await;
    take_over(&ours.cluster(), "ana", "all").await.unwrap();
    let taken = store.get("web").unwrap();
    let mut plain = taken.clone();
    plain["metadata"]["annotations"]
        .as_object_mut()
        .unwrap()
        .remove(ANNOTATION);
    let mut other = web();
    other["metadata"]["name"] = "other".into();
    let events: Vec<Value> = [
        ("ADDED", &other),
        ("MODIFIED", &plain),
        ("MODIFIED", &taken),
        ("DELETED", &taken),
    ]
    .map(|(kind, object)| json!({ "type": kind, "object": object }))
    .to_vec();
    let api = store
        .serve_with(move |_, asked, _| asked.is_watch().then(|| Answer::Events(events.clone())))
        .await;
    let changes: Vec<_> = api
        .cluster()
        .watch_exposures("demo")
        .take(4)
        .map(Result::unwrap)
        .collect()
        .await;
    let [
        ServiceChange::All(all),
        ServiceChange::Gone(plain),
        ServiceChange::Set(again),
        ServiceChange::Gone(gone),
    ] = changes.as_slice()
    else {
        panic!("{changes:?}")
    };
    let now = ours.cluster().exposed_service("demo", "web").await.unwrap();
    assert_eq!(now.as_ref(), Some(&all[0]));
    let listed = ours.cluster().exposed_services("demo").await.unwrap();
    assert_eq!(&listed, all);
    assert!(all[0].complete);
    store.edit("web", |service| {
        let more = json!({ "name": "more", "port": 7000, "protocol": "TCP", "targetPort": 8080 });
        service["spec"]["ports"].as_array_mut().unwrap().push(more);
    });
    let edited = ours.cluster().exposed_service("demo", "web").await.unwrap();
    let edited = edited.unwrap();
    assert!(edited.swapped && !edited.complete, "a port leads nowhere");
    assert_eq!(
        (all.len(), all[0].name.as_str(), all[0].swapped),
        (1, "web", true)
    );
    assert_eq!(all[0].annotation.owners[0].session, "ana");
    assert_eq!(
        (plain.as_str(), gone.as_str(), &**again),
        ("web", "web", &all[0])
    );
}
