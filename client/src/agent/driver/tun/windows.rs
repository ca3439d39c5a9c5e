//! The TUN: wintun's rings. A thread waits for packets, since their event is not one that tokio can watch, and hands them over
//! where they lie, without copying.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::JoinHandle;

use kvpn_io::tun::TunOffload;
use kvpn_wire::offload::Segmentation;
use tokio::sync::mpsc;
use wintun_bindings::{Packet, Session};

use crate::os::platform::TunHandle;

/// Packets that wait between the thread and the driver; further ones wait in wintun's ring.
const QUEUE: usize = 256;

/// An open TUN.
pub(super) struct TunDevice {
    session: Arc<Session>,
    /// thread --packets of programs--> driver
    packet_rx: mpsc::Receiver<Packet>,
    thread: Option<JoinHandle<()>>,
}

impl TunDevice {
    /// Takes a session over; `None` (and a log line) when there is no thread for it.
    pub(super) fn new(TunHandle(session): TunHandle, _offload: TunOffload) -> Option<Self> {
        let (packet_tx, packet_rx) = mpsc::channel(QUEUE);
        let rings = Arc::clone(&session);
        let named = std::thread::Builder::new().name("wintun".to_owned());
        match named.spawn(move || receive(&rings, &packet_tx)) {
            Ok(thread) => Some(Self {
                session,
                packet_rx,
                thread: Some(thread),
            }),
            Err(error) => {
                tracing::error!(%error, "the TUN cannot be watched");
                None
            }
        }
    }

    /// What the kernel does for us.
    pub(super) fn offload(&self) -> TunOffload {
        TunOffload::Plain
    }

    /// Reads one packet if there is one; how many bytes that were.
    pub(super) fn receive(
        &mut self,
        cx: &mut Context<'_>,
        mut take: impl FnMut(&mut [u8], Segmentation),
    ) -> Option<usize> {
        let Poll::Ready(Some(mut packet)) = self.packet_rx.poll_recv(cx) else {
            return None;
        };
        let bytes = packet.bytes_mut();
        take(bytes, Segmentation::Whole);
        Some(bytes.len())
    }

    /// Writes a packet; one that the ring has no room for is lost, as on any link.
    pub(super) fn send(&mut self, packet: &mut [u8], _segmentation: Segmentation) {
        let allocated = u16::try_from(packet.len()).map(|length| {
            let allocated = self.session.allocate_send_packet(length);
            allocated.map_err(|error| tracing::trace!(%error, "the TUN did not take a packet"))
        });
        if let Ok(Ok(mut place)) = allocated {
            place.bytes_mut().copy_from_slice(packet);
            self.session.send_packet(place);
        }
    }
}

impl Drop for TunDevice {
    /// The interface goes with the session, and the session with whoever has it last.
    fn drop(&mut self) {
        self.packet_rx.close();
        while self.packet_rx.try_recv().is_ok() {}
        if let Err(error) = self.session.shutdown() {
            tracing::warn!(%error, "the thread that reads the TUN cannot be told to end");
            return;
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Hands packets over until the session or the driver ends.
fn receive(session: &Arc<Session>, packet_tx: &mpsc::Sender<Packet>) {
    loop {
        match session.receive_blocking() {
            Ok(packet) => {
                if packet_tx.blocking_send(packet).is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "the TUN is not read any more");
                return;
            }
        }
    }
}
