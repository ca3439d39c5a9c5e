//! What the messages look like, and which make no sense.

use super::*;

const REQUEST: &str = r#"{
  "owner": "ana@laptop", "origin": "web-kvpn-origin", "next": 1,
  "ports": [{"port": 80, "name": "http", "laptopPort": 8080}, {"port": 53, "protocol": "udp", "laptopPort": 5353}]
}"#;

fn request() -> Expose {
    serde_json::from_str(REQUEST).unwrap()
}

#[test]
fn what_a_request_leaves_out_means_everything_with_fallback() {
    let expose = request();
    assert!(expose.fallback && !expose.proxy_protocol && expose.traffic == Traffic::All);
    assert_eq!(expose.ports[0].protocol, Protocol::Tcp);
    assert_eq!(expose.ports[1].protocol, Protocol::Udp);
    assert_eq!(expose.check(), Ok(()));
    let text = serde_json::to_string(&expose).unwrap();
    assert_eq!(serde_json::from_str::<Expose>(&text).unwrap(), expose);
    assert!(!text.contains("gatewayPort"), "{text}");
}

#[test]
fn requests_that_make_no_sense_are_refused_with_the_reason() {
    let why = |change: fn(&mut Expose)| {
        let mut expose = request();
        change(&mut expose);
        expose.check().unwrap_err().to_string()
    };
    assert_eq!(why(|expose| expose.ports.clear()), "no port is exposed");
    assert_eq!(
        why(|expose| expose.ports[0].laptop_port = Some(0)),
        "port 0 cannot be exposed"
    );
    assert_eq!(
        why(|expose| expose.ports[0] = expose.ports[1].clone()),
        "port 53/udp is exposed twice"
    );
    assert!(why(|expose| expose.proxy_protocol = true).contains("port 53/udp"));
    assert!(
        why(|expose| expose.traffic = Traffic::Match(
            "x: y"
                .parse()
                .map(|rule| crate::exposure::Rules {
                    headers: vec![rule],
                    ..Default::default()
                })
                .unwrap()
        ))
        .contains("UDP has no requests")
    );
    let alone = |expose: &mut Expose| (expose.origin, expose.traffic) = (None, Traffic::Mirror);
    assert!(why(alone).contains("there is no origin for the rest"));
    assert_eq!(
        why(|expose| expose
            .ports
            .iter_mut()
            .for_each(|port| port.laptop_port = None)),
        "no port is exposed"
    );
    let many = |expose: &mut Expose| expose.ports = vec![expose.ports[0].clone(); 65];
    assert!(why(many).starts_with("65 ports"));
}

#[test]
fn sessions_share_a_service_by_port_or_by_rule() {
    let (mut one, mut two) = (request(), request());
    assert!(!one.is_disjoint(&two));
    one.ports[0].laptop_port = None;
    two.ports[1].laptop_port = None;
    assert!(one.is_disjoint(&two) && two.is_disjoint(&one));
    let (mut one, mut two) = (request(), request());
    one.traffic = serde_json::from_str(r#"{"match":{"methods":["GET"]}}"#).unwrap();
    assert!(!one.is_disjoint(&two));
    two.traffic = serde_json::from_str(r#"{"match":{"methods":["PUT"]}}"#).unwrap();
    assert!(one.is_disjoint(&two));
}

#[test]
fn a_conflict_is_an_error_body_with_its_owner() {
    let conflict = ExposureConflict {
        error: "Service demo/web is exposed by bob@desk".into(),
        hint: None,
        owner: "bob@desk".into(),
    };
    let text = serde_json::to_string(&conflict).unwrap();
    let body: super::super::ErrorBody = serde_json::from_str(&text).unwrap();
    assert_eq!(body.error, conflict.error);
}

#[test]
fn events_leave_out_what_did_not_happen() {
    let event = RequestEvent {
        namespace: "demo".into(),
        service: "web".into(),
        port: 80,
        method: "GET".into(),
        path: "/api?x=1".into(),
        status: Some(200),
        millis: 1.5,
        to: Destination::Laptop,
        fallback: false,
        mirrored: false,
        error: None,
    };
    let text = serde_json::to_string(&event).unwrap();
    assert!(
        text.contains(r#""status":200,"millis":1.5,"to":"laptop""#) && !text.contains("error"),
        "{text}"
    );
    assert_eq!(serde_json::from_str::<RequestEvent>(&text).unwrap(), event);
}

#[test]
fn a_path_names_one_service() {
    assert_eq!(
        exposure_path("demo", "web"),
        "/v1/session/exposures/demo/web"
    );
}
