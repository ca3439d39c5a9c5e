//! One port of a Service while it is served here.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use kvpn_gateway_core::ServiceKey;
use kvpn_wire::control::ListeningPort;
use kvpn_wire::exposure::Protocol;
use tokio::sync::mpsc;

use super::News;
use super::dial::{Laptop, Origin, PortDial};
use crate::commands::Commands;
use crate::exposure::{Choice, Counts, Exposure, Gauges, Limits, Room, Settings};
use crate::listening;

/// How long connections that are left may take to end, after the grace that they had.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What all ports work with.
#[derive(Clone)]
pub(super) struct Ways {
    pub(super) commands: Commands,
    pub(super) news: mpsc::Sender<News>,
    pub(super) room: Room,
}

/// One port.
pub(super) struct Port {
    exposure: Exposure,
    dial: Arc<PortDial>,
}

impl Port {
    /// Listens. Until somebody [chooses](Self::choose), everything goes to the origin.
    ///
    /// # Errors
    /// When something else in the pod has the port.
    pub(super) async fn open(
        key: &ServiceKey,
        port: ListeningPort,
        origin: Arc<Origin>,
        ways: &Ways,
    ) -> io::Result<Self> {
        let dial = Arc::new(PortDial::new(ways.commands.clone(), origin, port.port));
        let (served, news) = (key.clone(), ways.news.clone());
        let settings = Settings {
            name: format!("{}/{}:{}", key.namespace, key.service, port.port).into(),
            limits: Limits::default(),
            room: ways.room.clone(),
            dial: Arc::clone(&dial) as Arc<_>,
            dice: Arc::new(rand::random::<u32>),
            records: Arc::new(move |record| {
                let news_of = News::Served(served.clone(), port.port, record);
                news.try_send(news_of).is_ok()
            }),
        };
        let exposure = match port.protocol {
            Protocol::Tcp => Exposure::tcp(
                listening::tcp(port.gateway_port).await?,
                settings,
                Choice::default(),
            ),
            Protocol::Udp => Exposure::udp(
                listening::udp(port.gateway_port).await?,
                settings,
                Choice::default(),
            ),
        };
        Ok(Self { exposure, dial })
    }

    /// These laptops take traffic from now on, the first that wants it first. Once the exposure `is_over`, callers' connections are
    /// ended where they can be, so that they come back to wherever the Service leads.
    pub(super) fn choose(&self, laptops: Vec<Laptop>, is_over: bool) {
        self.dial.set_laptops(&laptops);
        let claims = laptops.into_iter().map(|laptop| laptop.claim);
        self.exposure.choose(Choice::new(claims));
        if is_over {
            self.exposure.drain();
        } else {
            self.exposure.resume();
        }
    }

    /// What went to the origin.
    pub(super) fn origin(&self) -> Counts {
        self.exposure.origin()
    }

    /// What is open.
    pub(super) fn gauges(&self) -> Gauges {
        self.exposure.gauges()
    }

    /// Stops listening.
    pub(super) async fn close(self) {
        let reset = self.exposure.stop(LAST_WORDS).await;
        if reset > 0 {
            tracing::info!(reset, "connections to a former exposure were reset");
        }
    }
}
