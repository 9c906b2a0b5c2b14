//! Seeder
//!
//! The side that a region moves away from while it is in use. The app takes its events with r3map_seeder_next:
//!
//!     R3MAP_SEED_WAITING      nobody leeches
//!     R3MAP_SEED_TRACKING     a leecher pulls; the app goes on writing
//!     R3MAP_SEED_SUSPENDING   stop writing, then r3map_seeder_suspended, or r3map_seeder_refuse: the pause begins
//!     R3MAP_SEED_RESUMED      nothing came of it: go on writing
//!     R3MAP_SEED_COMMITTED    the other side has the region; here every access fails R3MAP_FENCED from now on
//!     R3MAP_SEED_DRAINED      every byte is there: close
//!
//! Events are numbered and none is lost. The mount stays open beside its seeder, and is closed after it.

use std::ffi::{CString, c_char, c_void};
use std::ptr;

use r3map_core::{Result, Seeder};

use crate::cancel::{cancel_of, r3map_cancel};
use crate::error::{c_string, r3map_error};
use crate::handle::{Handle, bytes, call, cancellable, free, get, place, put, text};
use crate::mount::{mount_of, r3map_mount};
use crate::options::{milliseconds, options_of};
use crate::server::r3map_server;
use crate::stats::r3map_stats;
use options::r3map_seed_options;

pub mod options;

/// A region that can be leeched. Freed without a close it ends at once: a leecher that still lacks bytes loses them.
pub struct r3map_seeder {
    seeder: Seeder,
    /// The URL as C reads it; empty under a server that others use too.
    url: CString,
    /// The command by which a leecher takes the region, or nothing.
    line: CString,
}

impl Handle for r3map_seeder {
    const NAME: &'static str = "r3map_seeder";
    const WORD: u64 = u64::from_ne_bytes(*b"r3mseedr");
    const STAYS_WITH_PROCESS: bool = true;
}

impl From<Seeder> for r3map_seeder {
    fn from(seeder: Seeder) -> r3map_seeder {
        let url = c_string(seeder.url().unwrap_or_default());
        let line = c_string(&seeder.client_line().unwrap_or_default());
        r3map_seeder { seeder, url, line }
    }
}

/// What a seeder's events say. What gives a state has the type `uint32_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum r3map_seed_state {
    /// No leecher is here.
    R3MAP_SEED_WAITING = 1,
    /// A leecher pulls, and writes are tracked.
    R3MAP_SEED_TRACKING = 2,
    /// The leecher asks for the region: stop writing and say so, or refuse.
    R3MAP_SEED_SUSPENDING = 3,
    /// The hand-over was refused or cut before the commit: go on writing.
    R3MAP_SEED_RESUMED = 4,
    /// The leecher has the region; this side is fenced, and still serves what the leecher lacks.
    R3MAP_SEED_COMMITTED = 5,
    /// The leecher has every byte.
    R3MAP_SEED_DRAINED = 6,
    /// Something failed that the seeder goes on from; the cause says what.
    R3MAP_SEED_TROUBLE = 7,
}

/// The core's seeder of a handle, whose calls end when `cancel` is triggered.
///
/// # Safety
/// As for [`get`].
unsafe fn seeder_of(seeder: *const r3map_seeder, cancel: *const r3map_cancel) -> Result<Seeder> {
    // SAFETY: the caller's promise.
    let (handle, cancel) = unsafe { (get(seeder)?, cancel_of(cancel)?) };
    Ok(cancel.map_or_else(|| handle.seeder.clone(), |cancel| handle.seeder.with_cancel(cancel)))
}

/// Seeds a mount, listening at `host:port` (port 0: one is chosen) or `unix:/path`. The mount stays in use. Options may
/// be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_seed(
    mount: *mut r3map_mount,
    listen: *const c_char,
    options: *const r3map_seed_options,
    cancel: *mut r3map_cancel,
    seeder: *mut *mut r3map_seeder,
) -> *mut r3map_error {
    call("r3map_mount_seed", || {
        // SAFETY: the caller's promise: handles and a C string, or NULL.
        let (mount, listen) = unsafe { (mount_of(mount, ptr::null())?, text(listen, "address")?.to_owned()) };
        // SAFETY: as above.
        let (options, cancel) = unsafe { (options_of(options)?, cancel_of(cancel)?) };
        let place = place(seeder, "seeder")?;
        let seeder = cancellable(cancel.as_ref(), "seed a mount", move || mount.seed(&listen, &options))?;
        // SAFETY: the caller's promise: not NULL, so valid for a write.
        unsafe { put(place, r3map_seeder::from(seeder)) };
        Ok(())
    })
}

/// Seeds a mount as one name of a server, wherever that listens and whatever sockets it is given. Options may be NULL;
/// their name is not looked at.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_server_seed(
    server: *mut r3map_server,
    name: *const c_char,
    mount: *mut r3map_mount,
    options: *const r3map_seed_options,
    seeder: *mut *mut r3map_seeder,
) -> *mut r3map_error {
    call("r3map_server_seed", || {
        // SAFETY: the caller's promise: handles and a C string, or NULL.
        let (server, name) = unsafe { (get(server.cast_const())?, text(name, "name")?) };
        // SAFETY: as above.
        let (mount, options) = unsafe { (mount_of(mount, ptr::null())?, options_of(options)?) };
        let place = place(seeder, "seeder")?;
        let seeder = server.core().seed(name, &mount, &options)?;
        // SAFETY: the caller's promise: not NULL, so valid for a write.
        unsafe { put(place, r3map_seeder::from(seeder)) };
        Ok(())
    })
}

/// The URL by which a leecher finds it, `r3map://host:port/name`; "" of one under a server, whose address and name make
/// it. The string lives as long as the seeder.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_seeder_url(seeder: *const r3map_seeder, url: *mut *const c_char) -> *mut r3map_error {
    call("r3map_seeder_url", || {
        // SAFETY: the caller's promise: a seeder, or NULL.
        let seeder = unsafe { get(seeder) }?;
        // SAFETY: the caller's promise: not NULL, so valid for a write.
        unsafe { place(url, "URL")?.write(seeder.url.as_ptr()) };
        Ok(())
    })
}

/// The command by which a leecher takes the region, where a seeder that listens by itself made a certificate and a token;
/// "" where it did not. It holds the token, a secret. The string lives as long as the seeder.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_seeder_client_line(
    seeder: *const r3map_seeder,
    line: *mut *const c_char,
) -> *mut r3map_error {
    call("r3map_seeder_client_line", || {
        // SAFETY: the caller's promise: a seeder, or NULL.
        let seeder = unsafe { get(seeder) }?;
        // SAFETY: the caller's promise: not NULL, so valid for a write.
        unsafe { place(line, "line")?.write(seeder.line.as_ptr()) };
        Ok(())
    })
}

/// The first event after the one whose sequence number is `after`, 0 for the first of all, waiting for it at most
/// `timeout` milliseconds; 0 waits for ever. `state` is one of r3map_seed_state. `cause` is an error that is yours to
/// free, or NULL where nothing caused it. After the last event of a closed seeder: R3MAP_CLOSED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_seeder_next(
    seeder: *mut r3map_seeder,
    after: u64,
    timeout: u64,
    cancel: *mut r3map_cancel,
    sequence: *mut u64,
    state: *mut u32,
    cause: *mut *mut r3map_error,
) -> *mut r3map_error {
    call("r3map_seeder_next", || {
        // SAFETY: the caller's promise: handles, or NULL.
        let seeder = unsafe { seeder_of(seeder, cancel) }?;
        let (sequence, state) = (place(sequence, "sequence number")?, place(state, "state")?);
        let cause = place(cause, "cause")?;
        let next = seeder.next(after, milliseconds(timeout))?;
        // SAFETY: the caller's promise: not NULL, so valid for a write.
        unsafe {
            sequence.write(next.sequence);
            state.write(next.state as u32);
            match next.cause {
                Some(error) => put(cause, error.into()),
                None => cause.write(ptr::null_mut()),
            }
        }
        Ok(())
    })
}

/// The app has stopped writing, as the event of that sequence number asked. The `length` bytes of `payload`, at most
/// 16 MiB and NULL where there are none, go with the region. From now on calls on the mount fail R3MAP_SUSPENDED; what
/// comes of it is told by an event. An answer to an older event is R3MAP_STALE_EPOCH.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_seeder_suspended(
    seeder: *mut r3map_seeder,
    sequence: u64,
    payload: *const c_void,
    length: usize,
) -> *mut r3map_error {
    call("r3map_seeder_suspended", || {
        // SAFETY: the caller's promise: a seeder or NULL, and a payload of that length.
        let (seeder, payload) = unsafe { (get(seeder.cast_const())?, bytes(payload, length)?) };
        seeder.seeder.suspended(sequence, payload)
    })
}

/// The app does not stop now, though the event of that sequence number asked it to. The leecher is told `reason` and
/// goes on pulling. An answer to an older event is R3MAP_STALE_EPOCH.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_seeder_refuse(
    seeder: *mut r3map_seeder,
    sequence: u64,
    reason: *const c_char,
) -> *mut r3map_error {
    call("r3map_seeder_refuse", || {
        // SAFETY: the caller's promise: a seeder and a C string, or NULL.
        let (seeder, reason) = unsafe { (get(seeder.cast_const())?, text(reason, "reason")?) };
        seeder.seeder.refuse(sequence, reason)
    })
}

/// Waits until the leecher has every byte, for at most `timeout` milliseconds; 0 waits for ever.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_seeder_wait_drained(
    seeder: *mut r3map_seeder,
    timeout: u64,
    cancel: *mut r3map_cancel,
) -> *mut r3map_error {
    call("r3map_seeder_wait_drained", || {
        // SAFETY: the caller's promise: handles, or NULL.
        unsafe { seeder_of(seeder, cancel) }?.wait_drained(milliseconds(timeout))
    })
}

/// Gives up what the leecher still lacks after the commit: those bytes are lost.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_seeder_abandon(seeder: *mut r3map_seeder) -> *mut r3map_error {
    call("r3map_seeder_abandon", || {
        // SAFETY: the caller's promise: a seeder, or NULL.
        unsafe { get(seeder.cast_const()) }?.seeder.abandon()
    })
}

/// Takes the region back by force from a leecher that is lost for good: what was written there is lost, and should it
/// come back it is fenced.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_seeder_reclaim(seeder: *mut r3map_seeder) -> *mut r3map_error {
    call("r3map_seeder_reclaim", || {
        // SAFETY: the caller's promise: a seeder, or NULL.
        unsafe { get(seeder.cast_const()) }?.seeder.reclaim()
    })
}

/// Figures of this seeder at this moment, to be freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_seeder_stats(
    seeder: *mut r3map_seeder,
    stats: *mut *mut r3map_stats,
) -> *mut r3map_error {
    call("r3map_seeder_stats", || {
        // SAFETY: the caller's promise: a seeder, or NULL.
        let seeder = unsafe { get(seeder.cast_const()) }?;
        let place = place(stats, "stats")?;
        let stats = seeder.seeder.stats()?;
        // SAFETY: the caller's promise: not NULL, so valid for a write.
        unsafe { put(place, r3map_stats::from(stats)) };
        Ok(())
    })
}

/// Ends it; a leecher that pulls hears so. R3MAP_BUSY between the commit and R3MAP_SEED_DRAINED, when the leecher still
/// lacks bytes: wait, or give them up by r3map_seeder_abandon. The mount stays open, and the handle remains to be freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_seeder_close(seeder: *mut r3map_seeder, cancel: *mut r3map_cancel) -> *mut r3map_error {
    call("r3map_seeder_close", || {
        // SAFETY: the caller's promise: handles, or NULL.
        let (handle, cancel) = unsafe { (get(seeder.cast_const())?, cancel_of(cancel)?) };
        let seeder = handle.seeder.clone();
        cancellable(cancel.as_ref(), "close a seeder", move || seeder.close())
    })
}

/// Frees the handle. One that was not closed ends at once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_seeder_free(seeder: *mut r3map_seeder) {
    // SAFETY: the caller's promise: a seeder that no other call uses, or NULL.
    unsafe { free(seeder) }
}

#[cfg(test)]
mod tests {
    use super::r3map_seed_state::*;
    use r3map_core::SeedState;

    #[test]
    fn the_states_are_those_of_the_core() {
        let pairs = [
            (R3MAP_SEED_WAITING, SeedState::Waiting),
            (R3MAP_SEED_TRACKING, SeedState::Tracking),
            (R3MAP_SEED_SUSPENDING, SeedState::Suspending),
            (R3MAP_SEED_RESUMED, SeedState::Resumed),
            (R3MAP_SEED_COMMITTED, SeedState::Committed),
            (R3MAP_SEED_DRAINED, SeedState::Drained),
            (R3MAP_SEED_TROUBLE, SeedState::Trouble),
        ];
        assert!(pairs.iter().all(|(ours, core)| *ours as u32 == *core as u32));
    }
}
