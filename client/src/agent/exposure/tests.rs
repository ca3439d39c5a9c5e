//! The steps of an exposure between an API server that keeps Services and a gateway that answers as it is told: their order, and
//! what is undone.

mod played;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::exposing::Exposing;
use super::*;
use crate::cli::failure::CONFLICT;
use played::Played;

async fn exposing(played: &Played) -> Exposing {
    played.exposing("8080:80", Traffic::All).await
}

#[tokio::test]
async fn the_gateway_listens_before_the_service_leads_there_and_longer_than_it_does() {
    let played = Played::start().await;
    let before = played.service("web").unwrap();
    let mut exposing = exposing(&played).await;
    exposing.take_effect().await.unwrap();
    assert_eq!(
        played.written(),
        [
            "driver exposes 8080",
            "PATCH web annotation",
            "gateway PUT web",
            "PATCH web-kvpn-origin",
            "PATCH web annotation spec",
        ]
    );
    let led = played.service("web").unwrap();
    assert_eq!(led["spec"]["ports"][0]["targetPort"], 20_000);
    assert_eq!(
        exposing.end(&CancellationToken::new()).await,
        Vec::<String>::new()
    );
    assert_eq!(
        played.written(),
        [
            "PATCH web annotation spec",
            "gateway DELETE web",
            "driver exposes nothing",
            "gateway DELETE session",
        ]
    );
    let mut after = played.service("web").unwrap();
    after["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"].clone();
    assert_eq!(after, before);
}

#[tokio::test]
async fn a_gateway_that_refuses_leaves_nothing_behind() {
    let played = Played::start().await;
    played.gateway_answers(409, json!({ "error": "taken", "owner": "bo@desk" }));
    let mut exposing = exposing(&played).await;
    let error = exposing.take_effect().await.unwrap_err();
    assert_eq!(Failure::of(&error).code, CONFLICT);
    exposing.end(&CancellationToken::new()).await;
    let service = played.service("web").unwrap();
    assert_eq!(service["metadata"]["annotations"], json!({}));
    assert_eq!(played.service("web-kvpn-origin"), None);
}

/// The API server is away: what could not be done is said, with the remedy, and the gateway is told all the same.
#[tokio::test]
async fn what_could_not_be_put_back_is_said() {
    let played = Played::start().await;
    let mut exposing = exposing(&played).await;
    exposing.take_effect().await.unwrap();
    played.api_is_away();
    played.written();
    let notes = exposing.end(&CancellationToken::new()).await;
    assert!(
        notes.len() == 1 && notes[0].contains("kvpn -n demo restore web"),
        "{notes:?}"
    );
    assert_eq!(played.written()[0], "gateway DELETE web");
}

/// The next gateway gets the ports to which the Service leads, and those that a colleague added.
#[tokio::test]
async fn the_steps_are_done_again_for_the_service_as_it_is_now() {
    let played = Played::start().await;
    let mut exposing = exposing(&played).await;
    exposing.take_effect().await.unwrap();
    played.edit("web", |service| {
        let more = json!({ "name": "more", "port": 7000, "protocol": "TCP", "targetPort": 9 });
        service["spec"]["ports"].as_array_mut().unwrap().push(more);
    });
    played.written();
    exposing.take_effect_again().await.unwrap();
    assert_eq!(
        played.written(),
        [
            "driver exposes 8080",
            "PATCH web annotation",
            "gateway PUT web 20000",
            "PATCH web-kvpn-origin",
            "PATCH web annotation spec",
        ]
    );
    let led = played.service("web").unwrap();
    assert_eq!(led["spec"]["ports"][1]["targetPort"], 20_001);
    exposing.end(&CancellationToken::new()).await;
    let after = played.service("web").unwrap();
    assert_eq!(after["spec"]["ports"][1]["targetPort"], 9);
}

#[tokio::test]
async fn a_service_that_is_gone_is_not_made_again() {
    let played = Played::start().await;
    let mut exposing = exposing(&played).await;
    exposing.take_effect().await.unwrap();
    played.remove("web");
    let error = exposing.take_effect_again().await.unwrap_err();
    assert!(!exposing::may_pass(&error), "{error:#}");
    assert_eq!(played.service("web"), None);
}

#[tokio::test]
async fn a_new_service_goes_with_its_exposure() {
    let played = Played::start().await;
    played.remove("web");
    let mut exposing = exposing(&played).await;
    exposing.take_effect().await.unwrap();
    let made = played.service("web").unwrap();
    assert_eq!(made["spec"]["ports"][0]["targetPort"], 20_000);
    exposing.end(&CancellationToken::new()).await;
    assert_eq!(played.service("web"), None);
}

#[tokio::test]
async fn who_has_the_traffic_is_named_before_anything_is_touched() {
    let played = Played::start().await;
    let mut other = played.exposing("8080:80", Traffic::All).await;
    other.take_effect().await.unwrap();
    let inspection = played.inspect("8080:80", Traffic::All).await;
    let rival = rival(&inspection, None).unwrap();
    assert!(rival.contains("ana@laptop"), "{rival}");
    // Unless it is a dead process's own.
    assert_eq!(super::rival(&inspection, Some(other.session())), None);
}
