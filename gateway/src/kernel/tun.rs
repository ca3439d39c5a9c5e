//! Opening the TUN. The library makes it; what it lacks, the kernel's offload, is asked for on its descriptor.

use std::os::fd::{FromRawFd as _, IntoRawFd as _, OwnedFd};

use anyhow::Context as _;
use kvpn_io::tun::TunOffload;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use crate::cli::Offload;

/// Opens a TUN of this name, non-blocking.
///
/// # Errors
/// What the kernel refused: EPERM without NET_ADMIN.
pub(crate) fn open(name: &str, offload: Offload) -> anyhow::Result<(OwnedFd, TunOffload)> {
    let opened = kvpn_io::tun::open(offload.is_on(), |headers| create(name, headers));
    let (tun, offload) = opened.context("opening /dev/net/tun")?;
    let flags = fcntl_getfl(&tun).context("opening /dev/net/tun")?;
    fcntl_setfl(&tun, flags | OFlags::NONBLOCK).context("opening /dev/net/tun")?;
    Ok((tun, offload))
}

fn create(name: &str, headers: bool) -> Result<OwnedFd, tun::Error> {
    let mut configuration = tun::Configuration::default();
    configuration.tun_name(name).platform_config(|linux| {
        linux.ensure_root_privileges(false).vnet_hdr(headers);
    });
    let descriptor = tun::create(&configuration)?.into_raw_fd();
    #[expect(
        unsafe_code,
        reason = "the library hands its descriptor over as a number only"
    )]
    // SAFETY: `into_raw_fd` gave up the open descriptor, so that nobody else closes it.
    let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
    Ok(descriptor)
}
