//! Cancel
//!
//! A switch that ends blocking calls from another thread. Every call that may block takes one, after its inputs
//! and before its outputs; NULL is none. A call that was cancelled, like one that timed out, may or may not have
//! taken effect.

use r3map_core::Cancel;

use crate::handle::{Handle, call_or, free, get, get_or_none, give};

/// A switch that another thread triggers. One may be given to any number of calls.
pub struct r3map_cancel {
    cancel: Cancel,
}

impl Handle for r3map_cancel {
    const NAME: &'static str = "r3map_cancel";
    const WORD: u64 = u64::from_ne_bytes(*b"r3mcancl");
    const STAYS_WITH_PROCESS: bool = false;
}

/// The core's cancel of a handle that may be NULL.
///
/// # Safety
/// As for [`get`].
pub(crate) unsafe fn cancel_of(cancel: *const r3map_cancel) -> r3map_core::Result<Option<Cancel>> {
    // SAFETY: the caller's promise.
    Ok(unsafe { get_or_none(cancel) }?.map(|cancel| cancel.cancel.clone()))
}

/// A switch not yet triggered.
#[unsafe(no_mangle)]
pub extern "C" fn r3map_cancel_new() -> *mut r3map_cancel {
    give(r3map_cancel { cancel: Cancel::new() })
}

/// Ends every call that was given this switch with R3MAP_CANCELLED, now and from now on. May be called from any
/// thread, but not from a signal handler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_cancel_trigger(cancel: *mut r3map_cancel) {
    call_or((), || {
        // SAFETY: the caller's promise: a cancel or NULL.
        if let Ok(cancel) = unsafe { get(cancel.cast_const()) } {
            cancel.cancel.trigger();
        }
    })
}

/// Frees a switch. Calls that were given it must have returned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_cancel_free(cancel: *mut r3map_cancel) {
    // SAFETY: the caller's promise: a cancel that no other call uses, or NULL.
    unsafe { free(cancel) }
}
