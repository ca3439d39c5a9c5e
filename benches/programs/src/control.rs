//! Opens sessions at a gateway's control API, which listens on loopback of the gateway's own namespace.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};
use kvpn_wire::control::{CreateSession, SESSIONS_PATH, SessionGrant, VERSION};
use kvpn_wire::wireguard::{PrivateKey, PublicKey};
use rand::TryRng as _;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where a gateway's control API is.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Control {
    /// The gateway's network namespace, as a file: /run/netns/NAME
    #[arg(long)]
    pub(crate) netns: PathBuf,
    /// Its control API in there
    #[arg(long, default_value = "127.0.0.1:6180")]
    pub(crate) control: SocketAddr,
}

impl Control {
    /// Opens a session for this key, or renews it; `super_packets`: whether its carrier takes them whole.
    ///
    /// # Errors
    /// The gateway does not answer, or refuses.
    pub(crate) fn create(
        &self,
        key: PublicKey,
        name: &str,
        super_packets: bool,
    ) -> anyhow::Result<SessionGrant> {
        let name = name.to_owned();
        self.with(move |door| door.create(key, &name, super_packets))?
    }

    /// Runs `act` in a thread inside the gateway's namespace.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub(crate) fn with<T: Send + 'static>(
        &self,
        act: impl FnOnce(Door) -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        let file = File::open(&self.netns).with_context(|| self.netns.display().to_string())?;
        let door = Door {
            address: self.control,
        };
        let thread = std::thread::spawn(move || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(act(door))
        });
        match thread.join() {
            Ok(done) => done,
            Err(_) => bail!("a thread panicked"),
        }
    }
}

/// The control API, as seen from inside the gateway's namespace.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Door {
    address: SocketAddr,
}

impl Door {
    /// As [`Control::create`].
    pub(crate) fn create(
        self,
        key: PublicKey,
        name: &str,
        super_packets: bool,
    ) -> anyhow::Result<SessionGrant> {
        let request = CreateSession {
            version: VERSION,
            client_version: env!("CARGO_PKG_VERSION").to_owned(),
            public_key: key,
            avoid: Vec::new(),
            prefer: Vec::new(),
            session_name: name.to_owned(),
            super_packets,
        };
        let stream = TcpStream::connect(self.address)
            .with_context(|| format!("the control API at {}", self.address))?;
        let answer = exchange(stream, &serde_json::to_string(&request)?)?;
        serde_json::from_str(&answer).context("the gateway's grant")
    }
}

fn exchange(mut stream: TcpStream, body: &str) -> anyhow::Result<String> {
    let length = body.len();
    write!(
        stream,
        "POST {SESSIONS_PATH} HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    ensure!(
        status.starts_with('2'),
        "the gateway answered {status}: {body}"
    );
    Ok(body.to_owned())
}

/// A fresh key.
///
/// # Errors
/// The system has no randomness.
pub(crate) fn new_key() -> anyhow::Result<PrivateKey> {
    let mut seed = [0; 32];
    rand::rngs::SysRng.try_fill_bytes(&mut seed)?;
    Ok(PrivateKey::from_seed(seed))
}
