//! A TUN through `/dev/net/tun`: one IP packet a read or write, joined of several if the kernel does that.
//!
//! Never persistent: the kernel removes the interface, and with it addresses, routes and per-link DNS, when the last
//! descriptor is closed, however its holders died. Must not set addresses or bring the interface up.

use std::io;
use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use kvpn_io::tun::{self, TunOffload};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::ioctl::{Updater, ioctl, opcode};
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketType, socket};

use crate::os::{Tun, TunError};

const DEVICE: &str = "/dev/net/tun";
/// `linux/if_tun.h`: a layer 3 interface, without the four bytes of packet information, and never one that exists.
const IFF_TUN: u16 = 0x0001;
const IFF_NO_PI: u16 = 0x1000;
const IFF_TUN_EXCL: u16 = 0x8000;
/// With a virtio-net header before each packet.
const IFF_VNET_HDR: u16 = 0x4000;
const TUNSETIFF: rustix::ioctl::Opcode = opcode::write::<i32>(b'T', 202);

/// `struct ifreq` as TUNSETIFF reads it, and writes the name back.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// A TUN of this process.
pub(crate) struct LinuxTun {
    descriptor: OwnedFd,
    offload: TunOffload,
    name: String,
}

impl Tun for LinuxTun {
    fn create(name: &str, offload: bool) -> Result<Self, TunError> {
        let (descriptor, offload) = tun::open(offload, |headers| create(name, headers))?;
        Ok(Self {
            descriptor,
            offload,
            name: name.to_owned(),
        })
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn index(&self) -> Result<u32> {
        let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)
            .context("no socket can be opened")?;
        name_to_index(socket, &self.name)
            .with_context(|| format!("the interface {} vanished", self.name))
    }

    fn offload(&self) -> TunOffload {
        self.offload
    }

    fn into_handle(self) -> OwnedFd {
        self.descriptor
    }
}

fn create(name: &str, headers: bool) -> Result<OwnedFd, TunError> {
    let descriptor = open_device()?;
    match attach(&descriptor, name, headers) {
        Ok(()) => Ok(descriptor),
        // The name is a TUN's (EBUSY) or another kind of interface's (EINVAL: the flags were right).
        Err(Errno::BUSY | Errno::INVAL | Errno::EXIST) => Err(TunError::Occupied(name.to_owned())),
        Err(error) => Err(TunError::System {
            what: format!("the TUN {name} cannot be made (it needs CAP_NET_ADMIN)"),
            source: error.into(),
        }),
    }
}

fn open_device() -> Result<OwnedFd, TunError> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    open(DEVICE, flags, Mode::empty()).map_err(|error| TunError::System {
        what: format!("{DEVICE} cannot be opened; check that the kernel module `tun` is loaded (`modprobe tun`)"),
        source: io::Error::from(error),
    })
}

fn attach(descriptor: &OwnedFd, name: &str, headers: bool) -> Result<(), Errno> {
    let headers = if headers { IFF_VNET_HDR } else { 0 };
    let mut request = InterfaceRequest {
        name: [0; 16],
        flags: IFF_TUN | IFF_NO_PI | IFF_TUN_EXCL | headers,
        rest: [0; 22],
    };
    // The last byte stays zero: the kernel reads a C string.
    let end = name.len().min(request.name.len() - 1);
    request.name[..end].copy_from_slice(&name.as_bytes()[..end]);
    set_interface(descriptor, &mut request)
}

#[expect(
    unsafe_code,
    reason = "no crate wraps TUNSETIFF without owning the descriptor and configuring the interface"
)]
fn set_interface(descriptor: &OwnedFd, request: &mut InterfaceRequest) -> Result<(), Errno> {
    // SAFETY: TUNSETIFF reads one `struct ifreq` (40 bytes on every 64-bit Linux, 32 on 32-bit ones) and writes the
    // chosen name back into the same struct; `InterfaceRequest` is 40 bytes and lives until the call returns.
    unsafe {
        ioctl(
            descriptor,
            Updater::<TUNSETIFF, InterfaceRequest>::new(request),
        )
    }
}
