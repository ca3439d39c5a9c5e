//! JSON bodies of the control API.

use kvpn_wire::control::{CreateSession, ErrorBody, SessionGrant, SessionStatus};

/// Any bytes as every message; what is understood survives being written and read again.
pub(super) fn messages(data: &[u8]) {
    if let Ok(message) = serde_json::from_slice::<CreateSession>(data) {
        let text = serde_json::to_vec(&message).expect("messages can be written");
        assert_eq!(
            serde_json::from_slice::<CreateSession>(&text).expect("it was written"),
            message
        );
    }
    if let Ok(message) = serde_json::from_slice::<SessionGrant>(data) {
        let text = serde_json::to_vec(&message).expect("messages can be written");
        assert_eq!(
            serde_json::from_slice::<SessionGrant>(&text).expect("it was written"),
            message
        );
    }
    if let Ok(message) = serde_json::from_slice::<SessionStatus>(data) {
        let text = serde_json::to_vec(&message).expect("messages can be written");
        assert_eq!(
            serde_json::from_slice::<SessionStatus>(&text).expect("it was written"),
            message
        );
    }
    if let Ok(message) = serde_json::from_slice::<ErrorBody>(data) {
        let text = serde_json::to_vec(&message).expect("messages can be written");
        assert_eq!(
            serde_json::from_slice::<ErrorBody>(&text).expect("it was written"),
            message
        );
    }
}
