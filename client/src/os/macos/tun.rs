//! A utun: one IP packet a read or write, four bytes with its address family before it.
//!
//! The kernel removes the interface, with its addresses and routes, when the last descriptor is closed. Must not set addresses
//! or bring the interface up.

use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use kvpn_io::tun::TunOffload;
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SysControlAddr, connect, socket,
};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{FdFlags, fcntl_setfd};

use super::INTERFACE;
use crate::os::{Tun, TunError};

/// `net/if_utun.h`: UTUN_CONTROL_NAME.
const CONTROL: &str = "com.apple.net.utun_control";

/// A utun of this process.
pub(crate) struct Utun {
    descriptor: OwnedFd,
    name: String,
}

impl Tun for Utun {
    fn create(name: &str, _offload: bool) -> Result<Self, TunError> {
        let number = name
            .strip_prefix(INTERFACE)
            .and_then(|number| number.parse::<u32>().ok());
        let opened = match number {
            Some(number) => open(number),
            None => Err(Errno::EINVAL),
        };
        match opened {
            Ok(descriptor) => Ok(Self {
                descriptor,
                name: name.to_owned(),
            }),
            Err(Errno::EBUSY) => Err(TunError::Occupied(name.to_owned())),
            Err(error) => Err(TunError::System {
                what: format!(
                    "the interface {name} cannot be made (it needs root, and a name like {INTERFACE}7)"
                ),
                source: error.into(),
            }),
        }
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn index(&self) -> Result<u32> {
        if_nametoindex(self.name.as_str())
            .with_context(|| format!("the interface {} vanished", self.name))
    }

    fn offload(&self) -> TunOffload {
        TunOffload::Plain
    }

    fn into_handle(self) -> OwnedFd {
        self.descriptor
    }
}

fn open(number: u32) -> Result<OwnedFd, Errno> {
    let protocol = SockProtocol::KextControl;
    let descriptor = socket(
        AddressFamily::System,
        SockType::Datagram,
        SockFlag::empty(),
        protocol,
    )?;
    let raw = descriptor.as_raw_fd();
    // Unit 0 is whichever is free; utun0 has unit 1.
    let address = SysControlAddr::from_name(raw, CONTROL, number.saturating_add(1))?;
    connect(raw, &address)?;
    fcntl_setfd(&descriptor, FdFlags::CLOEXEC).map_err(plain)?;
    let flags = fcntl_getfl(&descriptor).map_err(plain)?;
    fcntl_setfl(&descriptor, flags | OFlags::NONBLOCK).map_err(plain)?;
    Ok(descriptor)
}

fn plain(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}
