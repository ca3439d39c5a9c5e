//! The live view of an exposure: reads the gateway's events, again and again as gateways come and go.

use std::time::Duration;

use http_body_util::BodyExt as _;
use kvpn_wire::control::{CONNECTION_EVENT, LOST_EVENT, LiveEvent, REQUEST_EVENT, STATE_EVENT};
use tokio::sync::{mpsc, watch};

use crate::agent::driver::Handle;
use crate::agent::exposure::control::Control;
use crate::agent::exposure::sse::{Event, Parser};
use crate::agent::session::Peer;

/// The pause before a view that broke is opened again.
const PAUSE: Duration = Duration::from_millis(500);

/// What the gateway said; `None` for what this build does not know.
fn live_event(event: &Event) -> Option<LiveEvent> {
    let data = &event.data;
    let read = match event.name.as_str() {
        REQUEST_EVENT => serde_json::from_str(data).map(LiveEvent::Request),
        CONNECTION_EVENT => serde_json::from_str(data).map(LiveEvent::Connection),
        STATE_EVENT => serde_json::from_str(data).map(LiveEvent::State),
        LOST_EVENT => serde_json::from_str(data).map(LiveEvent::Lost),
        _ => return None,
    };
    read.inspect_err(|error| tracing::debug!(%error, "an event cannot be read"))
        .ok()
}

/// Tells what happens until nobody looks on any more.
pub(super) async fn follow(
    driver: Handle,
    mut peer_rx: watch::Receiver<Peer>,
    live_tx: mpsc::Sender<LiveEvent>,
) {
    while !live_tx.is_closed() {
        let peer = peer_rx.borrow_and_update().clone();
        let control = Control {
            driver: driver.clone(),
            peer,
        };
        let ended = tokio::select! {
            ended = read(&control, &live_tx) => ended,
            changed = peer_rx.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            () = live_tx.closed() => return,
        };
        if let Err(error) = ended {
            tracing::debug!(error = format!("{error:#}"), "the live view broke");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn read(control: &Control, live_tx: &mpsc::Sender<LiveEvent>) -> anyhow::Result<()> {
    let mut answer = control.events().await?;
    let mut parser = Parser::default();
    while let Some(frame) = answer.body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        for event in parser.feed(&data)? {
            if let Some(event) = live_event(&event) {
                // Who reads slowly slows the gateway's stream down, and the gateway counts what it leaves out.
                live_tx.send(event).await?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_of_json_with_its_name() {
        let data = r#"{"namespace":"shop","service":"web","port":80,"method":"GET","path":"/","status":200,"millis":1.5,"to":"laptop"}"#;
        let event = |name: &str| Event {
            name: name.to_owned(),
            data: data.to_owned(),
        };
        let request = live_event(&event(REQUEST_EVENT)).unwrap();
        let line = serde_json::to_string(&request).unwrap();
        assert!(
            line.starts_with(r#"{"event":"request","namespace":"shop""#),
            "{line}"
        );
        assert_eq!(live_event(&event("ofNextYear")), None);
        assert_eq!(live_event(&event(LOST_EVENT)), None);
    }
}
