//! TUNSETOFFLOAD: which work the kernel leaves to the owner of a TUN.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::ioctl::{IntegerSetter, Opcode, ioctl, opcode};

/// `linux/if_tun.h`. The value is passed itself, not by a pointer, whatever the opcode's type says.
const TUNSETOFFLOAD: Opcode = opcode::write::<u32>(b'T', 208);

/// Tells the kernel which of the `TUN_F_` features the owner of `tun` takes.
///
/// # Errors
/// EINVAL: the kernel does not know one of them.
#[expect(unsafe_code, reason = "no crate wraps TUNSETOFFLOAD")]
pub(crate) fn set_tun_offload(tun: BorrowedFd<'_>, features: u32) -> Result<(), Errno> {
    // SAFETY: TUNSETOFFLOAD takes an integer by value and touches no memory of ours; every value is valid, the kernel
    // refuses bits it does not know.
    unsafe {
        ioctl(
            tun,
            IntegerSetter::<TUNSETOFFLOAD>::new_usize(features as usize),
        )
    }
}
