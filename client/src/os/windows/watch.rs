//! Word that the machine's network changes (IP Helper), and how long it slept.
//!
//! Says only that something changed; what, the one who is told looks up. Must not judge.

use std::ffi::c_void;
use std::io;
use std::ptr::null_mut;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::sync::Notify;
use windows_sys::Win32::Foundation::{ERROR_SUCCESS, HANDLE};
use windows_sys::Win32::NetworkManagement::IpHelper::{
    CancelMibChangeNotify2, MIB_IPFORWARD_ROW2, MIB_NOTIFICATION_TYPE, MIB_UNICASTIPADDRESS_ROW,
    NotifyRouteChange2, NotifyUnicastIpAddressChange,
};
use windows_sys::Win32::Networking::WinSock::AF_UNSPEC;
use windows_sys::Win32::System::SystemInformation::GetTickCount64;
use windows_sys::Win32::System::WindowsProgramming::QueryUnbiasedInterruptTime;

/// Changes of addresses and routes. Several may be told as one.
pub(crate) struct Changes {
    notify: Arc<Notify>,
    /// Who tells; dropped before what is told.
    _subscriptions: [Subscription; 2],
}

impl Changes {
    /// # Errors
    /// The system does not tell.
    pub(crate) fn open() -> Result<Self> {
        let notify = Arc::new(Notify::new());
        let subscriptions = Subscription::both(&notify);
        Ok(Self {
            _subscriptions: subscriptions
                .context("changes of the network cannot be listened to")?,
            notify,
        })
    }

    /// Waits for the next change. May be cancelled.
    pub(crate) async fn next(&mut self) -> Option<()> {
        self.notify.notified().await;
        Some(())
    }
}

/// A callback that the system has. It keeps what is called.
struct Subscription {
    /// The handle, as a number: it is no memory of ours.
    handle: usize,
    _notify: Arc<Notify>,
}

impl Subscription {
    #[expect(unsafe_code, reason = "no crate here wraps the IP Helper API")]
    fn both(notify: &Arc<Notify>) -> io::Result<[Self; 2]> {
        let context = Arc::as_ptr(notify).cast::<c_void>();
        let taken = |code: u32, handle: HANDLE| {
            if code != ERROR_SUCCESS {
                return Err(io::Error::from_raw_os_error(code.cast_signed()));
            }
            Ok(Self {
                handle: handle.expose_provenance(),
                _notify: Arc::clone(notify),
            })
        };
        let (mut addresses, mut routes) = (null_mut(), null_mut());
        // SAFETY: the context lives as long as the subscription, which has a share of it; the callbacks do with it what is said there.
        let addresses = unsafe {
            let callback = Some(address_changed as _);
            let handle = &raw mut addresses;
            let code = NotifyUnicastIpAddressChange(AF_UNSPEC, callback, context, false, handle);
            taken(code, addresses)?
        };
        // SAFETY: as above.
        let routes = unsafe {
            let callback = Some(route_changed as _);
            let handle = &raw mut routes;
            let code = NotifyRouteChange2(AF_UNSPEC, callback, context, false, handle);
            taken(code, routes)?
        };
        Ok([addresses, routes])
    }
}

impl Drop for Subscription {
    #[expect(unsafe_code, reason = "no crate here wraps the IP Helper API")]
    fn drop(&mut self) {
        // SAFETY: the handle is that of a subscription, and nobody uses it again. Callbacks that run have ended when this returns.
        unsafe { CancelMibChangeNotify2(std::ptr::with_exposed_provenance_mut(self.handle)) };
    }
}

#[expect(unsafe_code, reason = "the system calls it")]
unsafe extern "system" fn address_changed(
    context: *const c_void,
    _: *const MIB_UNICASTIPADDRESS_ROW,
    _: MIB_NOTIFICATION_TYPE,
) {
    // SAFETY: the context is that of a subscription which lives.
    unsafe { tell(context) }
}

#[expect(unsafe_code, reason = "the system calls it")]
unsafe extern "system" fn route_changed(
    context: *const c_void,
    _: *const MIB_IPFORWARD_ROW2,
    _: MIB_NOTIFICATION_TYPE,
) {
    // SAFETY: the context is that of a subscription which lives.
    unsafe { tell(context) }
}

/// # Safety
/// The context must be a subscription's, which lives.
#[expect(unsafe_code, reason = "the system knows it as a pointer")]
unsafe fn tell(context: *const c_void) {
    // SAFETY: it leads to a `Notify` that several threads may use at once.
    unsafe { &*context.cast::<Notify>() }.notify_one();
}

/// How long the machine has slept since this was first asked: one of the system's clocks goes on meanwhile, the other stands.
pub(crate) fn time_asleep() -> Duration {
    static FIRST: OnceLock<Duration> = OnceLock::new();
    let asleep = asleep();
    asleep.saturating_sub(*FIRST.get_or_init(|| asleep))
}

/// Since the machine was switched on.
#[expect(unsafe_code, reason = "the standard library has neither clock")]
fn asleep() -> Duration {
    let mut awake = 0;
    // SAFETY: the first takes nothing; the number lives until the second returns.
    let all = unsafe {
        let all = Duration::from_millis(GetTickCount64());
        QueryUnbiasedInterruptTime(&raw mut awake);
        all
    };
    // In units of 100 ns.
    all.saturating_sub(Duration::from_micros(awake / 10))
}
