//! JSON bodies of the control API.

use std::fmt::Debug;

use kvpn_wire::control::{
    ConnectionEvent, CreateSession, ErrorBody, Expose, Exposed, ExposureConflict, ExposureList,
    LostEvents, RequestEvent, SessionGrant, SessionStatus, StateEvent,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Any bytes as every message; what is understood survives being written and read again.
pub(super) fn messages(data: &[u8]) {
    survives::<CreateSession>(data);
    survives::<SessionGrant>(data);
    survives::<SessionStatus>(data);
    survives::<ErrorBody>(data);
    survives::<Exposed>(data);
    survives::<ExposureConflict>(data);
    survives::<ExposureList>(data);
    survives::<StateEvent>(data);
    survives::<LostEvents>(data);
    if let Some(expose) = survives::<Expose>(data) {
        drop(expose.check());
    }
    // Their milliseconds may change in the last digit when they are read.
    drop(serde_json::from_slice::<RequestEvent>(data));
    drop(serde_json::from_slice::<ConnectionEvent>(data));
}

fn survives<T: Serialize + DeserializeOwned + PartialEq + Debug>(data: &[u8]) -> Option<T> {
    let message = serde_json::from_slice::<T>(data).ok()?;
    let text = serde_json::to_vec(&message).expect("messages can be written");
    let again = serde_json::from_slice::<T>(&text).expect("it was written");
    assert_eq!(again, message);
    Some(message)
}
