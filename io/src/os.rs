//! What no library wraps, one file a system.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub(crate) use linux::set_tun_offload;
