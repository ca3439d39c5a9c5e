//! A wintun interface: single IP packets through two rings of memory.
//!
//! The driver's library, wintun.dll, is WireGuard's and lies beside the program; only one with their signature is used. The interface
//! goes with the last user of its session, or with the process. Must not set addresses or bring the interface up.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use kvpn_io::tun::TunOffload;
use wintun_bindings::{Adapter, Error, Session, load_from_path};

use crate::cli::failure::{FAILED, Failure};
use crate::os::{Tun, TunError};

const LIBRARY: &str = "wintun.dll";
/// What the system calls the kind of interface.
const KIND: &str = "kvpn";
/// Bytes of each ring: 30 ms at 1 Gbit/s, rounded to a power of two, as wintun wants it.
const RING: u32 = 4 << 20;
/// The GUID of the first interface; further ones count up from it. Always the same, so that Windows takes it for one network.
const GUID: u128 = 0x2b6f_0c9e_51d4_4c37_9e1a_7f60_8d3a_0000;

/// What a TUN is to who moves its packets.
pub(crate) struct TunHandle(pub(crate) Arc<Session>);

impl fmt::Debug for TunHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TunHandle")
    }
}

/// A wintun interface of this process.
pub(crate) struct Wintun {
    session: Arc<Session>,
    name: String,
}

/// Where the driver's library is.
///
/// # Errors
/// It is not where it has to be.
pub(crate) fn find_driver() -> Result<PathBuf, Failure> {
    let program = std::env::current_exe().unwrap_or_default();
    let path = program.with_file_name(LIBRARY);
    if path.is_file() {
        return Ok(path);
    }
    let message = format!("{} is not there", path.display());
    Err(Failure::new(FAILED, message).hint(
        "sessions need the driver wintun: take wintun.dll for this processor from https://www.wintun.net and put it beside kvpn.exe",
    ))
}

impl Tun for Wintun {
    fn create(name: &str, _offload: bool) -> Result<Self, TunError> {
        let system = |what: &str, error: Error| TunError::System {
            what: format!("the interface {name} cannot be made: {what}"),
            source: std::io::Error::other(error),
        };
        let path = find_driver().map_err(|failure| TunError::System {
            what: failure.message,
            source: std::io::ErrorKind::NotFound.into(),
        })?;
        let library = load(&path).map_err(|error| system("wintun.dll cannot be loaded", error))?;
        let number: Option<u32> = name.strip_prefix(KIND).and_then(|it| it.parse().ok());
        let guid = number.map(|number| GUID + u128::from(number));
        let adapter = Adapter::create(&library, name, KIND, guid)
            .map_err(|error| system("it needs the rights of an administrator", error))?;
        let session = adapter.start_session(RING);
        Ok(Self {
            session: session.map_err(|error| system("its rings cannot be opened", error))?,
            name: name.to_owned(),
        })
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn index(&self) -> Result<u32> {
        let index = self.session.get_adapter().get_adapter_index();
        index.with_context(|| format!("the interface {} vanished", self.name))
    }

    fn offload(&self) -> TunOffload {
        TunOffload::Plain
    }

    fn into_handle(self) -> TunHandle {
        TunHandle(self.session)
    }
}

#[expect(
    unsafe_code,
    reason = "whatever a library does when it is loaded, it does here"
)]
fn load(path: &std::path::Path) -> Result<wintun_bindings::Wintun, Error> {
    // SAFETY: the path is absolute, so nothing else is found in its place; it is as trusted as the program beside it. wintun-bindings
    // uses it only if WireGuard signed it.
    unsafe { load_from_path(path) }
}
