//! What the commands around an exposure show and do: list, restore, the live view, a program for the time of the exposure.

use kvpn::cluster::PATIENCE;
use kvpn::developer::Developer;
use kvpn::exposures::RESTORED;
use kvpn::outcome::eventually;
use serde_json::Value;

use super::CONFLICT;
use super::failures::{in_a_scene, kill_gateway};

#[test]
fn list_says_whose_what_and_how_much() {
    in_a_scene("kvpn-test-list", |scene| {
        scene.take_over();
        let url = scene.origin.url("web");
        scene
            .origin
            .asks(&["-to", &url, "-n", "100"])
            .is(&[("ana", 100)]);
        let listed = || scene.ana.kvpn("list -o json").ok().json();
        let counted = eventually(PATIENCE, || {
            find(&listed(), "web").is_some_and(|web| figure(&web, "toLaptop") >= 100)
        });
        let list = listed();
        assert!(counted, "{list:#}");
        let web = find(&list, "web").unwrap();
        assert_eq!(
            web["owner"],
            format!("dev@{}", scene.ana.laptop.name()),
            "{list:#}"
        );
        let table = scene.ana.kvpn("list").ok().stdout;
        assert!(table.contains("web") && table.contains("dev@"), "{table}");
    });
}

fn find(list: &Value, service: &str) -> Option<Value> {
    let lists = [list, &list["exposures"]];
    let entries = lists.into_iter().filter_map(Value::as_array).flatten();
    entries
        .into_iter()
        .find(|entry| entry["service"] == service)
        .cloned()
}

fn figure(entry: &Value, field: &str) -> u64 {
    entry["figures"][field].as_u64().unwrap_or_default()
}

/// Anybody may put back what a dead client left, and nobody takes a live one's away by mistake.
#[test]
fn restore_all_puts_back_what_others_left() {
    in_a_scene("kvpn-test-restore", |scene| {
        let bob = Developer::start("bob", scene.origin.namespace);
        scene.take_over();
        bob.kvpn("restore web")
            .fails_with(CONFLICT)
            .says(&["dev@", "--force"]);
        bob.kvpn("restore nosuch")
            .fails_with(1)
            .says(&["there is no Service kvpn-test-restore/nosuch"]);
        scene.is_anas();
        scene.ana.signal("KILL");
        kill_gateway(scene);
        bob.kvpn("restore --all").ok();
        scene.origin.is_again("web", &scene.before, RESTORED);
        scene.is_the_origins();
    });
}

/// One JSON document a line, for each request; queries, which may hold secrets, are not shown.
#[test]
fn the_live_view_shows_requests_as_they_come() {
    in_a_scene("kvpn-test-view", |scene| {
        let mut expose = scene
            .ana
            .exposes_in_front("8080:80 as web --takeover -o json");
        scene.is_anas();
        let url = format!("{}/items?page=2", scene.origin.url("web"));
        scene
            .origin
            .asks(&["-to", &url, "-n", "5", "-method", "POST"])
            .is(&[("ana", 5)]);
        let lines = || -> Vec<Value> {
            let text = scene.ana.said().stdout;
            text.lines()
                .map(|line| {
                    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
                })
                .collect()
        };
        let is_ours = |line: &&Value| line["path"] == "/items" && line["method"] == "POST";
        assert!(
            eventually(PATIENCE, || lines().iter().filter(is_ours).count() == 5),
            "{:#?}",
            lines()
        );
        for line in lines().iter().filter(is_ours) {
            assert_eq!(
                (&line["status"], &line["to"]),
                (&Value::from(200), &Value::from("laptop")),
                "{line}"
            );
        }
        scene.ana.signal("INT");
        assert_eq!(
            expose.wait().unwrap().code(),
            Some(0),
            "{}",
            scene.ana.said()
        );
    });
}

/// The command runs while the Service is exposed; its exit code is kvpn's.
#[test]
fn a_program_for_the_time_of_the_exposure() {
    in_a_scene("kvpn-test-command", |scene| {
        let ended = scene.ana.kvpn("expose 8080:80 as web --takeover -- sh -c 'echo $KVPN_NAMESPACE/$KVPN_SERVICE; exit 7'");
        let said = ended.fails_with(7).stdout;
        assert!(said.contains("kvpn-test-command/web"), "{said}");
        scene.origin.is_again("web", &scene.before, PATIENCE);
    });
}

#[test]
fn unexpose_all_ends_all() {
    in_a_scene("kvpn-test-all", |scene| {
        scene.origin.service("api", &serde_json::json!({}));
        let before = scene.origin.object("api");
        scene.ana.exposes("8080:80 as web --takeover");
        scene.ana.exposes("8080:80 as api --takeover");
        scene.ana.kvpn("unexpose --all").ok();
        scene.origin.is_again("web", &scene.before, PATIENCE);
        scene.origin.is_again("api", &before, PATIENCE);
        let again = scene.ana.kvpn("unexpose web");
        assert_ne!(again.code, 0, "there is nothing to end: {again}");
    });
}
