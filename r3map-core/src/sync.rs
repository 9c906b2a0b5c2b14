//! What page states, region and waits stand on: the primitives of the system, or under the feature `shuttle` those
//! of a scheduler that runs one thread at a time in an order that a seed gives, to test every order there is.

#[cfg(not(feature = "shuttle"))]
pub use crate::mapping::Words;
#[cfg(not(feature = "shuttle"))]
pub use std::sync::{Condvar, Mutex, MutexGuard, RwLock, atomic};

#[cfg(feature = "shuttle")]
pub use shuttle::sync::{Condvar, Mutex, MutexGuard, RwLock, atomic};

/// A table of words as [`Words`](crate::mapping::Words) are, of the scheduler's atomics.
#[cfg(feature = "shuttle")]
pub struct Words(Box<[atomic::AtomicU64]>);

#[cfg(feature = "shuttle")]
impl Words {
    /// A table of that many words, all zero.
    pub fn zeroed(length: usize) -> crate::Result<Words> {
        Ok(Words((0..length).map(|_| atomic::AtomicU64::new(0)).collect()))
    }
}

#[cfg(feature = "shuttle")]
impl std::ops::Deref for Words {
    type Target = [atomic::AtomicU64];

    fn deref(&self) -> &[atomic::AtomicU64] {
        &self.0
    }
}

/// Where another thread may come between though no primitive is touched: at the file that keeps the pages.
#[inline]
pub fn point() {
    #[cfg(feature = "shuttle")]
    shuttle::thread::sleep(std::time::Duration::ZERO);
}

/// Passes the time of the `looks`-th look at something that another thread is about to finish.
#[inline]
pub fn pause(looks: u32) {
    #[cfg(feature = "shuttle")]
    {
        let _ = looks;
        shuttle::thread::yield_now();
    }
    #[cfg(not(feature = "shuttle"))]
    match looks {
        0..100 => std::hint::spin_loop(),
        100..200 => std::thread::yield_now(),
        _ => std::thread::sleep(std::time::Duration::from_micros(50)),
    }
}
