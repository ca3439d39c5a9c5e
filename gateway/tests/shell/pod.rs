//! A gateway of the tests: the whole shell on free ports of loopback, in a thread of its own.

use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clap::Parser as _;
use kvpn_gateway::cli::Options;
use kvpn_gateway::{Gateway, Settings};
use tokio::sync::oneshot;

use crate::laptop::{Laptop, now};

/// A running gateway.
pub(crate) struct Pod {
    pub(crate) control: SocketAddr,
    pub(crate) carrier: SocketAddr,
    pub(crate) health: SocketAddr,
    pub(crate) udp: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Pod {
    /// A gateway that may reach loopback.
    pub(crate) fn start(nameservers: &[SocketAddr]) -> Self {
        Self::with(
            &["--datapath", "userspace", "--allow", "127.0.0.0/8,::1/128"],
            nameservers,
        )
    }

    /// A gateway with these flags, whose ports are free ones but for the control API's, if they name it.
    pub(crate) fn with(flags: &[&str], nameservers: &[SocketAddr]) -> Self {
        let ports = [
            "kvpn-gateway",
            "--udp-port=0",
            "--carrier-port=0",
            "--health-port=0",
        ];
        let mut options = Options::parse_from(ports.iter().chain(flags));
        if !flags.contains(&"--control-port") {
            options.listen.control_port = 0;
        }
        let mut settings = Settings::new(&options).unwrap();
        settings.nameservers = nameservers.to_vec();
        let (stop, stopped) = oneshot::channel();
        let (started_tx, started) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let gateway = Gateway::start(settings).await?;
                started_tx.send((
                    gateway.control,
                    gateway.carrier,
                    gateway.health,
                    gateway.udp,
                ))?;
                gateway.serve(async { drop(stopped.await) }).await
            })
        });
        let Ok((control, carrier, health, udp)) = started.recv() else {
            panic!("the gateway did not start: {:?}", thread.join());
        };
        Self {
            control,
            carrier,
            health,
            udp,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// A laptop with a session of its own.
    pub(crate) fn laptop(&self, seed: u8) -> Laptop {
        Laptop::attach(self.control, self.carrier, seed)
    }

    /// Stops it; how long that took.
    pub(crate) fn stop(&mut self) -> Duration {
        let start: Instant = now();
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
        }
        start.elapsed()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.stop();
        }
    }
}
