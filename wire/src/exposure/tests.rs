//! What rules match, which pairs are disjoint, and what is said about text that is none of them.

use std::borrow::Cow;

use proptest::prelude::*;

use super::*;

struct Request(
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
);

impl Head for Request {
    fn method(&self) -> &str {
        self.0
    }

    fn path(&self) -> &str {
        self.1
    }

    fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        let found = self.2.iter().find(|(other, _)| *other == name);
        found.map(|(_, value)| Cow::Borrowed(*value))
    }
}

fn rules(headers: &[&str], paths: &[&str], methods: &[&str]) -> Rules {
    Rules {
        headers: headers.iter().map(|text| text.parse().unwrap()).collect(),
        paths: paths.iter().map(|text| text.parse().unwrap()).collect(),
        methods: methods.iter().map(|text| text.parse().unwrap()).collect(),
    }
}

const ANA: Request = Request("GET", "/api/users", &[("x-dev", "ana"), ("accept", "*/*")]);

#[test]
fn every_kind_of_rule_has_to_hold() {
    assert!(Rules::default().matches(&ANA));
    assert!(
        rules(
            &["X-Dev: ana", "accept=~^\\*"],
            &["/web", "/api"],
            &["post", "get"]
        )
        .matches(&ANA)
    );
    assert!(!rules(&["x-dev: ana", "x-other: 1"], &[], &[]).matches(&ANA));
    assert!(!rules(&["x-dev: ana"], &["/web"], &[]).matches(&ANA));
    assert!(!rules(&["x-dev: ana"], &[], &["POST"]).matches(&ANA));
    assert!(
        !rules(&["x-dev: Ana"], &[], &[]).matches(&ANA),
        "values are case-sensitive"
    );
    assert!(!rules(&["x-dev=~^na"], &[], &[]).matches(&ANA));
}

#[test]
fn a_prefix_ends_where_a_segment_ends() {
    let holds = |prefix: &str, path| rules(&[], &[prefix], &[]).matches(&Request("GET", path, &[]));
    assert!(holds("/api", "/api") && holds("/api", "/api/") && holds("/api/", "/api/x"));
    assert!(holds("/", "/") && holds("/", "/anything"));
    assert!(holds("/api/", "/api"), "a slash at the end changes nothing");
    assert!(!holds("/api", "/apiary") && !holds("/api", "/") && !holds("/api", "*"));
}

#[test]
fn disjoint_is_what_is_provably_so() {
    let disjoint = |one: &Rules, two: &Rules| {
        assert_eq!(one.is_disjoint(two), two.is_disjoint(one));
        one.is_disjoint(two)
    };
    let (ana, bob) = (
        rules(&["x-dev: ana"], &[], &[]),
        rules(&["x-dev: bob"], &[], &[]),
    );
    assert!(disjoint(&ana, &bob));
    assert!(!disjoint(&ana, &ana));
    assert!(
        !disjoint(&ana, &rules(&["x-team: b"], &[], &[])),
        "a request may have both"
    );
    assert!(
        disjoint(&ana, &rules(&["x-dev=~^b"], &[], &[])),
        "the value is known not to match"
    );
    assert!(!disjoint(&ana, &rules(&["x-dev=~^a"], &[], &[])));
    assert!(!disjoint(
        &rules(&["x-dev=~^a"], &[], &[]),
        &rules(&["x-dev=~^b"], &[], &[])
    ));
    let path = |prefix| rules(&[], &[prefix], &[]);
    assert!(disjoint(&path("/api"), &path("/web")) && disjoint(&path("/api"), &path("/apiary")));
    assert!(!disjoint(&path("/api"), &path("/api/v1")) && !disjoint(&path("/"), &path("/web")));
    let method = |names: &[&str]| rules(&[], &[], names);
    assert!(disjoint(&method(&["GET", "HEAD"]), &method(&["POST"])));
    assert!(!disjoint(
        &method(&["GET", "HEAD"]),
        &method(&["POST", "HEAD"])
    ));
    assert!(!disjoint(&method(&["GET"]), &ana));
    assert!(!disjoint(&Rules::default(), &ana));
}

#[test]
fn only_matches_can_share_a_service() {
    let of = |text: &str| Traffic::Match(rules(&[text], &[], &[]));
    assert!(of("x-dev: ana").is_disjoint(&of("x-dev: bob")));
    let share = Traffic::Weight("10%".parse().unwrap());
    for traffic in [Traffic::All, Traffic::Mirror, share] {
        assert!(!traffic.is_disjoint(&of("x-dev: ana")) && !of("x-dev: ana").is_disjoint(&traffic));
        assert!(!traffic.is_disjoint(&traffic));
    }
}

#[test]
fn options_exclude_each_other() {
    let headers = || vec!["x-dev: ana".parse().unwrap()];
    let ten = Some("10".parse().unwrap());
    let of = |headers, weight, mirror| {
        Traffic::of_options(headers, Vec::new(), Vec::new(), weight, mirror)
    };
    assert_eq!(of(Vec::new(), None, false), Ok(Traffic::All));
    assert_eq!(of(Vec::new(), None, true), Ok(Traffic::Mirror));
    assert_eq!(
        of(headers(), None, false).unwrap().to_string(),
        "x-dev: ana"
    );
    for (headers, weight, mirror) in [
        (headers(), ten, false),
        (headers(), None, true),
        (Vec::new(), ten, true),
    ] {
        let error = of(headers, weight, mirror).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("cannot be used together: choose one"),
            "{error}"
        );
    }
}

#[test]
fn what_is_no_rule_is_told_why() {
    let why = |text: &str| text.parse::<HeaderRule>().unwrap_err().to_string();
    assert!(why("x-dev").starts_with("`x-dev` is no header rule: write `NAME: VALUE`"));
    assert!(
        why("x-dev=ana").contains("NAME=~REGEX"),
        "one `=` is a typing error"
    );
    assert_eq!(why("x dev: ana"), "`x dev` is no header name");
    assert_eq!(why(": ana"), "`` is no header name");
    assert!(why("x-dev:").starts_with("a header's value"));
    assert_eq!(
        why("x-dev=~(a"),
        "`(a` is no regular expression: unclosed group"
    );
    assert!(why("x-dev=~(a{1000}){1000}").contains("size limit"));
    assert!("api".parse::<PathPrefix>().is_err() && "/a?b".parse::<PathPrefix>().is_err());
    assert!("GET /".parse::<Method>().is_err() && "".parse::<Method>().is_err());
}

#[test]
fn a_share_is_exact() {
    for text in ["0", "0%", "101%", "ten", "", "-1", "1.5%"] {
        assert!(text.parse::<Percent>().is_err(), "{text}");
    }
    let ten: Percent = "10%".parse().unwrap();
    let taken = (0..1000u32)
        .filter(|i| ten.takes(i * (u32::MAX / 1000)))
        .count();
    assert!((99..=101).contains(&taken), "{taken}");
    assert!(Percent::try_from(100).unwrap().takes(u32::MAX));
    assert!(Percent::try_from(1).unwrap().takes(0));
}

#[test]
fn ports_are_written_as_in_the_manual() {
    let port = |text: &str| text.parse::<PortMapping>();
    let both = port("9090:53/udp").unwrap();
    assert_eq!(
        (both.laptop, both.service, both.protocol),
        (9090, Some(ServicePort::Number(53)), Some(Protocol::Udp))
    );
    assert_eq!(
        port("8080:http").unwrap().service,
        Some(ServicePort::Name("http".into()))
    );
    assert_eq!(
        port("8080").unwrap(),
        PortMapping {
            laptop: 8080,
            service: None,
            protocol: None
        }
    );
    for text in ["8080", "8080:80", "8080:http", "9090:9090/udp", "53/tcp"] {
        let mapping = port(text).unwrap();
        assert_eq!(mapping.to_string(), text);
        let json = serde_json::to_string(&mapping).unwrap();
        assert_eq!(json, format!("{text:?}"));
        assert_eq!(serde_json::from_str::<PortMapping>(&json).unwrap(), mapping);
    }
    for text in [
        "", "0", "65536", "+80", "8080:", ":80", "8080:0", "80/sctp", "80:80:80", "80:HTTP", "a:80",
    ] {
        let error = port(text).unwrap_err().to_string();
        assert!(error.contains("8080:80"), "{text}: {error}");
    }
}

#[test]
fn traffic_has_one_form_in_json() {
    let text = r#"{"match":{"headers":[{"name":"x-dev","value":{"exact":"ana"}},{"name":"v","value":{"regex":"^2"}}],"paths":["/api"],"methods":["GET"]}}"#;
    let traffic: Traffic = serde_json::from_str(text).unwrap();
    assert_eq!(
        traffic,
        Traffic::Match(rules(&["x-dev: ana", "v=~^2"], &["/api"], &["GET"]))
    );
    assert_eq!(serde_json::to_string(&traffic).unwrap(), text);
    assert_eq!(traffic.to_string(), "x-dev: ana and v=~^2 and /api and GET");
    assert_eq!(
        serde_json::to_string(&Traffic::Weight("10%".parse().unwrap())).unwrap(),
        r#"{"weight":10}"#
    );
    assert_eq!(
        serde_json::from_str::<Traffic>(r#""all""#).unwrap(),
        Traffic::All
    );
    for bad in [
        r#"{"weight":0}"#,
        r#"{"match":{"headers":[{"name":"v","value":{"regex":"("}}]}}"#,
        r#"{"match":{"paths":["x"]}}"#,
    ] {
        assert!(serde_json::from_str::<Traffic>(bad).is_err(), "{bad}");
    }
}

proptest! {
    /// What is called disjoint never meets.
    #[test]
    fn no_request_matches_two_disjoint_sets(
        one in any_rules(), two in any_rules(),
        method in "GET|POST", path in "(/[ab]){0,3}/?", dev in "[ab]",
    ) {
        let headers: &'static [(&'static str, &'static str)] = if dev == "a" { &[("x", "a")] } else { &[("x", "b")] };
        let request = Request(if method == "GET" { "GET" } else { "POST" }, path.leak(), headers);
        prop_assert!(!(one.is_disjoint(&two) && one.matches(&request) && two.matches(&request)));
    }

    #[test]
    fn no_text_panics(text in ".{0,60}") {
        drop(text.parse::<HeaderRule>());
        drop(text.parse::<PathPrefix>());
        drop(text.parse::<PortMapping>());
        drop(text.parse::<Percent>());
    }
}

fn any_rules() -> impl Strategy<Value = Rules> {
    let header = prop::sample::select(vec!["x: a", "x: b", "x=~a", "y: a"]);
    let path = prop::sample::select(vec!["/", "/a", "/a/b", "/b/"]);
    let method = prop::sample::select(vec!["GET", "POST"]);
    (
        prop::collection::vec(header, 0..3),
        prop::collection::vec(path, 0..3),
        prop::collection::vec(method, 0..2),
    )
        .prop_map(|(headers, paths, methods)| rules(&headers, &paths, &methods))
}
