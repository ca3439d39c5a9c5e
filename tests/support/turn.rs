//! Who may use the cluster at once: most tests side by side, those that take a node or the API server away, alone.
//!
//! A turn is the thread's: whoever has one gets it again, so that a test with two laptops does not wait for itself.

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

static TURNS: RwLock<()> = RwLock::new(());

thread_local! {
    static HELD: RefCell<Option<Held>> = const { RefCell::new(None) };
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

enum Held {
    Shared {
        _guard: RwLockReadGuard<'static, ()>,
    },
    Alone {
        _guard: RwLockWriteGuard<'static, ()>,
    },
}

/// The right to use the cluster; it stays with the thread.
#[derive(Debug)]
pub struct Turn(PhantomData<*const ()>);

impl Turn {
    /// Beside others.
    pub fn shared() -> Self {
        Self::take(|| Held::Shared {
            _guard: TURNS.read().unwrap_or_else(PoisonError::into_inner),
        })
    }

    /// Without others.
    ///
    /// # Panics
    ///
    /// When the thread uses the cluster beside others already: it would wait for itself.
    pub fn alone() -> Self {
        assert_eq!(DEPTH.get(), 0, "the test uses the cluster already");
        Self::take(|| Held::Alone {
            _guard: TURNS.write().unwrap_or_else(PoisonError::into_inner),
        })
    }

    fn take(wait: impl FnOnce() -> Held) -> Self {
        if DEPTH.get() == 0 {
            let held = wait();
            HELD.with_borrow_mut(|turn| *turn = Some(held));
        }
        DEPTH.set(DEPTH.get() + 1);
        Self(PhantomData)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
        if DEPTH.get() == 0 {
            HELD.with_borrow_mut(|turn| *turn = None);
        }
    }
}
