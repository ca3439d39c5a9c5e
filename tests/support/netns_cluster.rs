//! A session behind a real TUN whose gateway and cluster are simulated: the box's programs speak to the echo server of
//! [`crate::sim`] through both cores. The simulated clock goes on with each packet, whatever the real one says.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use crate::sim::Sim;

/// More than the way to the cluster and back takes.
const TURN: Duration = Duration::from_millis(50);

/// A cluster in a thread of its own; it holds the TUN until [`PlayedCluster::end`].
pub(crate) struct PlayedCluster {
    stop: UnixStream,
    thread: JoinHandle<usize>,
}

impl PlayedCluster {
    /// Serves what the box's programs send into the TUN.
    pub(crate) fn start(tun: OwnedFd, mut sim: Sim) -> Self {
        let (stop, stopped) = UnixStream::pair().unwrap();
        let thread = std::thread::spawn(move || {
            sim.programs.tapped = Some(Vec::new());
            sim.run(TURN);
            while wait(&tun, &stopped) {
                let mut packet = [0; 2048];
                if let Ok(len) = rustix::io::read(&tun, &mut packet) {
                    sim.send(&mut packet[..len]);
                }
                sim.run(TURN);
                for packet in sim
                    .programs
                    .tapped
                    .iter_mut()
                    .flat_map(|tapped| tapped.drain(..))
                {
                    rustix::io::write(&tun, &packet).unwrap();
                }
            }
            sim.cluster.opened
        });
        Self { stop, thread }
    }

    /// Ends it and closes its TUN; how many flows reached its servers.
    pub(crate) fn end(self) -> usize {
        drop(self.stop);
        self.thread.join().unwrap()
    }
}

/// Waits for a packet; false when it is time to end.
fn wait(tun: &OwnedFd, stopped: &UnixStream) -> bool {
    let mut ready = [
        PollFd::from_borrowed_fd(tun.as_fd(), PollFlags::IN),
        PollFd::new(stopped, PollFlags::IN),
    ];
    poll(&mut ready, None).unwrap();
    ready[1].revents().is_empty()
}
