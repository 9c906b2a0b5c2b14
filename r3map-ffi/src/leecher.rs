//! Leecher
//!
//! The side that a region moves to. It pulls while the app at the other side still writes; r3map_leecher_finalize then
//! makes the region this side's, after a pause of about one round trip, and gives a mount, which may be seeded again.
//! Bytes that are still there are pulled behind it, those that are touched first.
//!
//! The place for the region is `memory:` or `file:///path`, created at the seeder's size. Options are those of a mount,
//! with r3map_mount_options_set_prepare, r3map_mount_options_set_overwrite and r3map_mount_options_set_allow_legacy besides.

use std::ffi::{c_char, c_int};

use r3map_core::{Code, Error, Leecher, Result};

use crate::backend::{close_given, own_descriptor, r3map_backend_options};
use crate::cancel::{cancel_of, r3map_cancel};
use crate::error::r3map_error;
use crate::handle::{Handle, call, cancellable, free, get, invalid, place, put, text};
use crate::mount::options::r3map_mount_options;
use crate::mount::r3map_mount;
use crate::options::{milliseconds, options_of};
use crate::stats::r3map_stats;

/// A region, or a group of them, on its way here. Freed without a close it stops pulling; what it has of a file stays
/// for the next attempt.
pub struct r3map_leecher {
    leecher: Leecher,
    /// How many regions it takes.
    parts: usize,
}

impl Handle for r3map_leecher {
    const NAME: &'static str = "r3map_leecher";
    const WORD: u64 = u64::from_ne_bytes(*b"r3mleech");
    const STAYS_WITH_PROCESS: bool = true;
}

/// How far a leecher is. What gives a state has the type `uint32_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum r3map_leech_state {
    /// No answer from the seeder yet, or none any more.
    R3MAP_LEECH_CONNECTING = 1,
    /// It pulls.
    R3MAP_LEECH_PULLING = 2,
    /// The app at the other side writes faster than this side pulls: wait, finalize all the same, or close.
    R3MAP_LEECH_OUTPACED = 3,
    /// The region is asked for; the other side's word decides.
    R3MAP_LEECH_FINALIZING = 4,
    /// The region is this side's; some of its bytes are still there.
    R3MAP_LEECH_OWNER = 5,
    /// Every byte is here: the other side is not needed any more.
    R3MAP_LEECH_COMPLETE = 6,
    /// It was closed, or the seeder ended, before the region moved.
    R3MAP_LEECH_ENDED = 7,
    /// The other side took the region back by force.
    R3MAP_LEECH_FENCED = 8,
}

/// Of r3map_leecher_open_group: the most regions that a group has.
const MAX_PARTS: usize = 256;

/// The core's leecher of a handle, whose calls end when `cancel` is triggered.
///
/// # Safety
/// As for [`get`].
unsafe fn leecher_of(leecher: *const r3map_leecher, cancel: *const r3map_cancel) -> Result<Leecher> {
    // SAFETY: the caller's promise.
    let (handle, cancel) = unsafe { (get(leecher)?, cancel_of(cancel)?) };
    Ok(cancel.map_or_else(|| handle.leecher.clone(), |cancel| handle.leecher.with_cancel(cancel)))
}

/// Begins to pull the region that a seeder's URL names into `local`. A `local` that exists and is no earlier state of
/// this region is R3MAP_BUSY without the option `overwrite`. Options may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_leecher_open(
    url: *const c_char,
    local: *const c_char,
    options: *const r3map_mount_options,
    backend_options: *const r3map_backend_options,
    cancel: *mut r3map_cancel,
    leecher: *mut *mut r3map_leecher,
) -> *mut r3map_error {
    call("r3map_leecher_open", || {
        // SAFETY: the caller's promise: C strings, or NULL.
        let (url, local) = unsafe { (text(url, "URL")?.to_owned(), text(local, "place for the region")?.to_owned()) };
        // SAFETY: the caller's promise: handles, or NULL.
        let (options, how, cancel) =
            unsafe { (options_of(options)?, options_of(backend_options)?, cancel_of(cancel)?) };
        let place = place(leecher, "leecher")?;
        let opened = move || Leecher::open(&url, &local, options, &how);
        let leecher = cancellable(cancel.as_ref(), "open a leecher", opened)?;
        // SAFETY: the caller's promise: not NULL, so valid for a write.
        unsafe { put(place, r3map_leecher { leecher, parts: 1 }) };
        Ok(())
    })
}

/// The same from the seeder of that name at the other end of a connected stream socket, TCP or UNIX, that nobody else
/// reads or writes. The descriptor is the library's from success on, and stays the caller's on failure. Such a leecher
/// cannot connect again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_leecher_connect(
    descriptor: c_int,
    name: *const c_char,
    local: *const c_char,
    options: *const r3map_mount_options,
    backend_options: *const r3map_backend_options,
    cancel: *mut r3map_cancel,
    leecher: *mut *mut r3map_leecher,
) -> *mut r3map_error {
    call("r3map_leecher_connect", || {
        // SAFETY: the caller's promise: C strings, or NULL.
        let (name, local) =
            unsafe { (text(name, "name")?.to_owned(), text(local, "place for the region")?.to_owned()) };
        // SAFETY: the caller's promise: handles, or NULL.
        let (options, how, cancel) =
            unsafe { (options_of(options)?, options_of(backend_options)?, cancel_of(cancel)?) };
        let (place, own) = (place(leecher, "leecher")?, own_descriptor(descriptor)?);
        let opened = move || Leecher::connect(own, &name, &local, options, &how);
        let leecher = cancellable(cancel.as_ref(), "connect a leecher", opened)?;
        // SAFETY: success, so the descriptor is ours; the place is not NULL, so valid for a write.
        unsafe {
            close_given(descriptor);
            put(place, r3map_leecher { leecher, parts: 1 });
        }
        Ok(())
    })
}

/// Begins to pull a group of regions, the first into the first of `locals`, and so on; `count` of them, as many as the
/// group has. r3map_leecher_finalize_group makes them this side's, all at once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_leecher_open_group(
    url: *const c_char,
    locals: *const *const c_char,
    count: usize,
    options: *const r3map_mount_options,
    backend_options: *const r3map_backend_options,
    cancel: *mut r3map_cancel,
    leecher: *mut *mut r3map_leecher,
) -> *mut r3map_error {
    call("r3map_leecher_open_group", || {
        if locals.is_null() || count == 0 || count > MAX_PARTS {
            return Err(invalid(format!("the places for a group are an array of 1 to {MAX_PARTS}; given: {count}")));
        }
        // SAFETY: the caller's promise: a C string, or NULL.
        let url = unsafe { text(url, "URL") }?.to_owned();
        // SAFETY: the caller's promise: an array of that many, each a C string or NULL.
        let locals =
            (0..count).map(|at| unsafe { text(locals.add(at).read(), "place for a region") }.map(str::to_owned));
        let locals = locals.collect::<Result<Vec<_>>>()?;
        // SAFETY: the caller's promise: handles, or NULL.
        let (options, how, cancel) =
            unsafe { (options_of(options)?, options_of(backend_options)?, cancel_of(cancel)?) };
        let place = place(leecher, "leecher")?;
        let opened = move || Leecher::open_group(&url, &locals, options, &how);
        let leecher = cancellable(cancel.as_ref(), "open a leecher of a group", opened)?;
        // SAFETY: the caller's promise: not NULL, so valid for a write.
        unsafe { put(place, r3map_leecher { leecher, parts: count }) };
        Ok(())
    })
}

/// Waits until a share of the region, from 0 to 1, is here, for at most `timeout` milliseconds; 0 waits for ever. What
/// the app at the other side writes meanwhile is not here again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_leecher_wait_local(
    leecher: *mut r3map_leecher,
    share: f64,
    timeout: u64,
    cancel: *mut r3map_cancel,
) -> *mut r3map_error {
    call("r3map_leecher_wait_local", || {
        if !(0.0..=1.0).contains(&share) {
            return Err(invalid(format!("a share of {share}: it lies between 0 and 1")));
        }
        // SAFETY: the caller's promise: handles, or NULL.
        unsafe { leecher_of(leecher, cancel) }?.wait_local(share, milliseconds(timeout))
    })
}

/// Asks for the region and gives its mount once it is this side's. It may be called again after a timeout or a cancel:
/// r3map_leecher_state says what came of it. A refusal of the app at the other side is R3MAP_BUSY with its reason, and
/// the pull goes on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_leecher_finalize(
    leecher: *mut r3map_leecher,
    cancel: *mut r3map_cancel,
    mount: *mut *mut r3map_mount,
) -> *mut r3map_error {
    call("r3map_leecher_finalize", || {
        // SAFETY: the caller's promise: handles, or NULL.
        let leecher = unsafe { leecher_of(leecher, cancel) }?;
        let place = place(mount, "mount")?;
        let mount = leecher.finalize()?;
        // SAFETY: the caller's promise: not NULL, so valid for a write.
        unsafe { put(place, r3map_mount::from(mount)) };
        Ok(())
    })
}

/// Waits for a share of the region to be here ("95%"), or for the pause to be expected short enough ("pause<20ms"), for
/// at most `timeout` milliseconds (0: for ever), then finalizes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_leecher_finalize_when(
    leecher: *mut r3map_leecher,
    when: *const c_char,
    timeout: u64,
    cancel: *mut r3map_cancel,
    mount: *mut *mut r3map_mount,
) -> *mut r3map_error {
    call("r3map_leecher_finalize_when", || {
        // SAFETY: the caller's promise: handles and a C string, or NULL.
        let (leecher, when) = unsafe { (leecher_of(leecher, cancel)?, text(when, "condition")?) };
        let place = place(mount, "mount")?;
        let mount = leecher.finalize_when(when, milliseconds(timeout))?;
        // SAFETY: the caller's promise: not NULL, so valid for a write.
        unsafe { put(place, r3map_mount::from(mount)) };
        Ok(())
    })
}

/// Finalizes a group. `mounts` has room for `count` of them, which is as many as places were named when it was opened,
/// in the same order.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_leecher_finalize_group(
    leecher: *mut r3map_leecher,
    count: usize,
    cancel: *mut r3map_cancel,
    mounts: *mut *mut r3map_mount,
) -> *mut r3map_error {
    call("r3map_leecher_finalize_group", || {
        // SAFETY: the caller's promise: handles, or NULL.
        let (handle, leecher) = unsafe { (get(leecher.cast_const())?, leecher_of(leecher, cancel)?) };
        let place = place(mounts, "mounts")?;
        if count != handle.parts {
            return Err(invalid(format!("room for {count} mounts, where the group has {}", handle.parts)));
        }
        let found = leecher.finalize_group()?;
        if found.len() != count {
            return Err(Error::new(Code::Internal, format!("a group of {count} gave {} mounts", found.len())));
        }
        for (at, mount) in found.into_iter().enumerate() {
            // SAFETY: the caller's promise: room for that many.
            unsafe { put(place.add(at), r3map_mount::from(mount)) };
        }
        Ok(())
    })
}

/// How far it is, one of r3map_leech_state.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_leecher_state(leecher: *const r3map_leecher, state: *mut u32) -> *mut r3map_error {
    call("r3map_leecher_state", || {
        // SAFETY: the caller's promise: a leecher, or NULL.
        let leecher = unsafe { get(leecher) }?;
        let place = place(state, "state")?;
        let state = leecher.leecher.state()?;
        // SAFETY: the caller's promise: not NULL, so valid for a write.
        unsafe { place.write(state as u32) };
        Ok(())
    })
}

/// Figures of this leecher at this moment, to be freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_leecher_stats(
    leecher: *mut r3map_leecher,
    stats: *mut *mut r3map_stats,
) -> *mut r3map_error {
    call("r3map_leecher_stats", || {
        // SAFETY: the caller's promise: a leecher, or NULL.
        let leecher = unsafe { get(leecher.cast_const()) }?;
        let place = place(stats, "stats")?;
        let stats = leecher.leecher.stats()?;
        // SAFETY: the caller's promise: not NULL, so valid for a write.
        unsafe { put(place, r3map_stats::from(stats)) };
        Ok(())
    })
}

/// Ends the pull of a region that did not move; what a file has of it stays for the next attempt. After finalize it does
/// nothing to the mount. The handle remains to be freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_leecher_close(
    leecher: *mut r3map_leecher,
    cancel: *mut r3map_cancel,
) -> *mut r3map_error {
    call("r3map_leecher_close", || {
        // SAFETY: the caller's promise: handles, or NULL.
        unsafe { leecher_of(leecher, cancel) }?.close()
    })
}

/// Frees the handle. Mounts that it gave are not touched.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_leecher_free(leecher: *mut r3map_leecher) {
    // SAFETY: the caller's promise: a leecher that no other call uses, or NULL.
    unsafe { free(leecher) }
}

#[cfg(test)]
mod tests {
    use super::r3map_leech_state::*;
    use r3map_core::LeechState;

    #[test]
    fn the_states_are_those_of_the_core() {
        let pairs = [
            (R3MAP_LEECH_CONNECTING, LeechState::Connecting),
            (R3MAP_LEECH_PULLING, LeechState::Pulling),
            (R3MAP_LEECH_OUTPACED, LeechState::Outpaced),
            (R3MAP_LEECH_FINALIZING, LeechState::Finalizing),
            (R3MAP_LEECH_OWNER, LeechState::Owner),
            (R3MAP_LEECH_COMPLETE, LeechState::Complete),
            (R3MAP_LEECH_ENDED, LeechState::Ended),
            (R3MAP_LEECH_FENCED, LeechState::Fenced),
        ];
        assert!(pairs.iter().all(|(ours, core)| *ours as u32 == *core as u32));
    }
}
