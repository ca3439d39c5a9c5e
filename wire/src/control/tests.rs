//! The wire form of the control messages, held against literal JSON.

use proptest::prelude::*;

use super::*;

const GRANT: &str = r#"{
  "version": 1, "sessionId": "s-1",
  "gatewayPublicKey": "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=",
  "presharedKey": "CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=",
  "addresses": [{"gateway": "198.19.0.1", "client": "198.19.0.2", "dnsStub": "198.19.0.3"}],
  "mtu": 1360, "datapath": "userspace", "udpPort": 51820,
  "aFieldOfNextYear": {"x": 1}
}"#;

#[test]
fn a_minimal_grant_is_understood_and_unknown_fields_are_ignored() {
    let grant: SessionGrant = serde_json::from_str(GRANT).unwrap();
    assert_eq!(grant.datapath, Datapath::Userspace);
    assert_eq!(grant.limits.lease_seconds, 900);
    assert_eq!(grant.gateway_public_key, PublicKey::from_bytes([7; 32]));
    assert!(grant.udp_endpoints.is_empty());
}

#[test]
fn a_grant_survives_the_round_trip() {
    let grant: SessionGrant = serde_json::from_str(GRANT).unwrap();
    let text = serde_json::to_string(&grant).unwrap();
    assert!(text.contains(r#""dnsStub":"198.19.0.3""#), "{text}");
    assert_eq!(serde_json::from_str::<SessionGrant>(&text).unwrap(), grant);
}

#[test]
fn a_request_without_optional_fields_is_understood() {
    let text = r#"{"version":1,"publicKey":"BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="}"#;
    let request: CreateSession = serde_json::from_str(text).unwrap();
    assert!(request.avoid.is_empty() && request.prefer.is_empty());
    assert!(SUPPORTED.contains(&request.version) && SUPPORTED.contains(&VERSION));
}

#[test]
fn debug_output_holds_no_secret() {
    let grant: SessionGrant = serde_json::from_str(GRANT).unwrap();
    let text = format!("{grant:?}");
    assert!(
        !text.contains("CQkJ") && !text.contains("9, 9, 9"),
        "{text}"
    );
}

#[test]
fn an_error_without_hint_has_no_hint_field() {
    let body = ErrorBody {
        error: "full".to_owned(),
        hint: None,
    };
    assert_eq!(serde_json::to_string(&body).unwrap(), r#"{"error":"full"}"#);
}

proptest! {
    #[test]
    fn no_text_panics(text in ".{0,200}") {
        drop(serde_json::from_str::<SessionGrant>(&text));
        drop(serde_json::from_str::<CreateSession>(&text));
    }
}
