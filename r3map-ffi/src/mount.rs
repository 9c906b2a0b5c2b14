//! Mount
//!
//! A backend as a region of this host. It is read and written with r3map_mount_read_at and r3map_mount_write_at at
//! once, which needs no privilege and no kernel module. Asked for a path, a file or a slice it attaches a device
//! and keeps it; from then on all ways to the region agree, and a view which that device cannot give fails
//! R3MAP_UNSUPPORTED with the name of one that could.
//!
//! Writes are durable after r3map_mount_sync or r3map_mount_close returned NULL. Each call ends with
//! R3MAP_TIMEOUT after the option `deadline`. On a closed mount every call but r3map_mount_size fails
//! R3MAP_CLOSED.

use std::ffi::{CString, c_char, c_int, c_void};
use std::os::fd::IntoRawFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, OnceLock};

use r3map_core::{Code, Error, Mount, Result};

use crate::backend::{backend_of, r3map_backend, r3map_backend_options};
use crate::cancel::{cancel_of, r3map_cancel};
use crate::error::r3map_error;
use crate::handle::{Handle, bytes, bytes_mut, call, cancellable, free, get, invalid, place, put, text};
use crate::options::{milliseconds, options_of};
use crate::stats::r3map_stats;
use options::r3map_mount_options;

pub mod options;

/// A mounted region.
pub struct r3map_mount {
    mount: Mount,
    /// The path as C reads it: asked for once, valid as long as the handle.
    path: OnceLock<CString>,
}

impl Handle for r3map_mount {
    const NAME: &'static str = "r3map_mount";
    const WORD: u64 = u64::from_ne_bytes(*b"r3mmount");
    const STAYS_WITH_PROCESS: bool = true;
}

/// A part of a region, in bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct r3map_range {
    /// The first byte.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
}

/// What happened to a mount in the background. What gives an event has the type `uint32_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum r3map_mount_event {
    /// Every byte is here.
    R3MAP_MOUNT_LOCAL = 1,
    /// The remote is away.
    R3MAP_MOUNT_DISCONNECTED = 2,
    /// The remote is back, or pushes get through again.
    R3MAP_MOUNT_RECOVERED = 3,
    /// A push failed; what it carried is kept and pushed again.
    R3MAP_MOUNT_PUSH_FAILED = 4,
    /// The local cache has no room.
    R3MAP_MOUNT_CACHE_FULL = 5,
    /// Of a mount that was leeched: its source knows that every byte is here.
    R3MAP_MOUNT_DRAINED = 6,
    /// Of a mount that was leeched: its source took the region back by force.
    R3MAP_MOUNT_FENCED = 7,
    /// Of a mount that was leeched: its source gave up what is not here yet.
    R3MAP_MOUNT_ABANDONED = 8,
}

impl From<Mount> for r3map_mount {
    fn from(mount: Mount) -> r3map_mount {
        r3map_mount { mount, path: OnceLock::new() }
    }
}

/// The core's mount of a handle, whose calls end when `cancel` is triggered.
///
/// # Safety
/// As for [`get`].
pub(crate) unsafe fn mount_of(mount: *const r3map_mount, cancel: *const r3map_cancel) -> Result<Mount> {
    // SAFETY: the caller's promise.
    let (handle, cancel) = unsafe { (get(mount)?, cancel_of(cancel)?) };
    match cancel {
        None => Ok(handle.mount.clone()),
        Some(cancel) if cancel.is_triggered() => Err(Error::new(Code::Cancelled, "cancelled before it began")),
        Some(cancel) => Ok(handle.mount.with_cancel(cancel)),
    }
}

/// Mounts a backend. Options may be NULL. The mount keeps a reference of its own to the backend. No device exists
/// until a path, file or slice is asked for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_open(
    backend: *mut r3map_backend,
    options: *const r3map_mount_options,
    cancel: *mut r3map_cancel,
    mount: *mut *mut r3map_mount,
) -> *mut r3map_error {
    call("r3map_mount_open", || {
        // SAFETY: the caller's promise: handles, or NULL.
        let (backend, options, cancel) = unsafe { (backend_of(backend)?, options_of(options)?, cancel_of(cancel)?) };
        let place = place(mount, "mount")?;
        let backend = backend.clone();
        let mount = cancellable(cancel.as_ref(), "open a mount", move || Mount::open(backend, options))?;
        // SAFETY: the caller's promise: not NULL, so valid for a write.
        unsafe { put(place, r3map_mount::from(mount)) };
        Ok(())
    })
}

/// Opens the backend that a URL names and mounts it: closing the mount closes the backend. Either options may be NULL. With
/// the mount's option `offline` the remote may be away.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_open_url(
    url: *const c_char,
    backend_options: *const r3map_backend_options,
    options: *const r3map_mount_options,
    cancel: *mut r3map_cancel,
    mount: *mut *mut r3map_mount,
) -> *mut r3map_error {
    call("r3map_mount_open_url", || {
        // SAFETY: the caller's promise: a C string and handles, or NULL.
        let (url, options, cancel) = unsafe { (text(url, "URL")?, options_of(options)?, cancel_of(cancel)?) };
        // SAFETY: as above.
        let of_backend = unsafe { options_of(backend_options)? };
        let (place, url) = (place(mount, "mount")?, url.to_owned());
        let open = move || options.open_url(&url, &of_backend);
        let mount = cancellable(cancel.as_ref(), "open a mount", open)?;
        // SAFETY: the caller's promise: not NULL, so valid for a write.
        unsafe { put(place, r3map_mount::from(mount)) };
        Ok(())
    })
}

/// The size in bytes; of a closed mount too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_size(mount: *const r3map_mount, size: *mut u64) -> *mut r3map_error {
    call("r3map_mount_size", || {
        // SAFETY: the caller's promise: a mount, or NULL.
        let mount = unsafe { get(mount) }?;
        // SAFETY: the caller's promise: not NULL, so valid for a write.
        unsafe { place(size, "size")?.write(mount.mount.size()) };
        Ok(())
    })
}

/// Whether the mount refuses writes, because it was told to or its backend does.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_read_only(mount: *const r3map_mount, read_only: *mut bool) -> *mut r3map_error {
    call("r3map_mount_read_only", || {
        // SAFETY: the caller's promise: a mount, or NULL.
        let mount = unsafe { get(mount) }?;
        let place = place(read_only, "answer")?;
        mount.mount.stats()?;
        // SAFETY: the caller's promise: not NULL, so valid for a write.
        unsafe { place.write(mount.mount.is_read_only()) };
        Ok(())
    })
}

/// The kind of the device that is attached, "nbd", "userfaultfd" or "fuse", and "" while none is. The name is never
/// freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_device(mount: *const r3map_mount, name: *mut *const c_char) -> *mut r3map_error {
    use r3map_core::device::Kind;
    call("r3map_mount_device", || {
        // SAFETY: the caller's promise: a mount, or NULL.
        let mount = unsafe { get(mount) }?;
        let place = place(name, "name")?;
        mount.mount.stats()?;
        let name = match mount.mount.device() {
            None => c"",
            Some(Kind::Nbd) => c"nbd",
            Some(Kind::Userfaultfd) => c"userfaultfd",
            Some(Kind::Fuse) => c"fuse",
        };
        // SAFETY: the caller's promise: not NULL, so valid for a write.
        unsafe { place.write(name.as_ptr()) };
        Ok(())
    })
}

/// Fills `buffer` with the `length` bytes at `offset`: all of them, or an error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_read_at(
    mount: *mut r3map_mount,
    buffer: *mut c_void,
    length: usize,
    offset: u64,
    cancel: *mut r3map_cancel,
) -> *mut r3map_error {
    call("r3map_mount_read_at", || {
        // SAFETY: the caller's promise: handles or NULL, and a buffer of that length.
        let (mount, buffer) = unsafe { (mount_of(mount, cancel)?, bytes_mut(buffer, length)?) };
        mount.read_at(buffer, offset)
    })
}

/// Writes the `length` bytes of `data` at `offset`: all of them, or an error, after which some may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_write_at(
    mount: *mut r3map_mount,
    data: *const c_void,
    length: usize,
    offset: u64,
    cancel: *mut r3map_cancel,
) -> *mut r3map_error {
    call("r3map_mount_write_at", || {
        // SAFETY: the caller's promise: handles or NULL, and data of that length.
        let (mount, data) = unsafe { (mount_of(mount, cancel)?, bytes(data, length)?) };
        mount.write_at(data, offset)
    })
}

/// A path of the region for other programs: a block device with nbd, of the size rounded up to 4096, or a regular
/// file of the exact size with fuse. The string lives until the mount is freed; the path, until it is closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_path(
    mount: *mut r3map_mount,
    cancel: *mut r3map_cancel,
    path: *mut *const c_char,
) -> *mut r3map_error {
    call("r3map_mount_path", || {
        // SAFETY: the caller's promise: handles, or NULL.
        let (handle, inner) = unsafe { (get(mount.cast_const())?, mount_of(mount, cancel)?) };
        let place = place(path, "path")?;
        let found = inner.path()?;
        let text = CString::new(found.as_os_str().as_bytes())
            .map_err(|_| Error::new(Code::Internal, "the path of the device holds a NUL byte"))?;
        let text = handle.path.get_or_init(|| text);
        // SAFETY: the caller's promise: not NULL, so valid for a write.
        unsafe { place.write(text.as_ptr()) };
        Ok(())
    })
}

/// A new descriptor of the region, close-on-exec and yours to close.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_file(
    mount: *mut r3map_mount,
    cancel: *mut r3map_cancel,
    descriptor: *mut c_int,
) -> *mut r3map_error {
    call("r3map_mount_file", || {
        // SAFETY: the caller's promise: handles, or NULL.
        let mount = unsafe { mount_of(mount, cancel) }?;
        let place = place(descriptor, "descriptor")?;
        let file = mount.file()?;
        // SAFETY: the caller's promise: not NULL, so valid for a write.
        unsafe { place.write(file.into_raw_fd()) };
        Ok(())
    })
}

/// The region as memory of this process: where it begins, and its size. Valid until the mount is closed or freed;
/// every call gives the same memory.
///
/// The first touch of a page that is not here waits for it. A page that cannot be had is a SIGBUS, after a line in
/// the log that says why; r3map_mount_pull gives an error instead. A store to a read-only slice, and any touch
/// after r3map_mount_close, is a SIGSEGV. msync does not make a slice durable: r3map_mount_sync does.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_slice(
    mount: *mut r3map_mount,
    cancel: *mut r3map_cancel,
    bytes: *mut *mut c_void,
    size: *mut u64,
) -> *mut r3map_error {
    call("r3map_mount_slice", || {
        // SAFETY: the caller's promise: handles, or NULL.
        let mount = unsafe { mount_of(mount, cancel) }?;
        let (bytes, size) = (place(bytes, "slice")?, place(size, "size")?);
        let slice = mount.slice()?;
        // SAFETY: the caller's promise: not NULL, so valid for a write.
        unsafe {
            bytes.write(slice.as_ptr().cast());
            size.write(slice.len() as u64);
        }
        Ok(())
    })
}

/// Keeps the addresses of a slice that was handed out from being used for anything else, for as long as the process lives:
/// also after r3map_mount_free a touch of them is a SIGSEGV. For languages in which memory may outlive its mount.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_reserve(mount: *mut r3map_mount) -> *mut r3map_error {
    call("r3map_mount_reserve", || {
        // SAFETY: the caller's promise: a mount, or NULL.
        unsafe { get(mount.cast_const()) }?.mount.reserve()
    })
}

/// Makes a range resident, or fails with what prevents it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_pull(
    mount: *mut r3map_mount,
    offset: u64,
    length: u64,
    cancel: *mut r3map_cancel,
) -> *mut r3map_error {
    call("r3map_mount_pull", || {
        // SAFETY: the caller's promise: handles, or NULL.
        unsafe { mount_of(mount, cancel) }?.pull(offset, length)
    })
}

/// Asks for a range and returns at once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_prefetch(mount: *mut r3map_mount, offset: u64, length: u64) -> *mut r3map_error {
    call("r3map_mount_prefetch", || {
        // SAFETY: the caller's promise: a mount, or NULL.
        unsafe { get(mount.cast_const()) }?.mount.prefetch(offset, length)
    })
}

/// Keeps the order in which pages were accessed for the first time in a file, which is replaced whole, for
/// r3map_mount_options_set_trace of a later mount. Of a slice by userfaultfd only what was not here when it was touched counts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_trace_save(
    mount: *mut r3map_mount,
    path: *const c_char,
    cancel: *mut r3map_cancel,
) -> *mut r3map_error {
    call("r3map_mount_trace_save", || {
        // SAFETY: the caller's promise: handles and a C string, or NULL.
        unsafe { mount_of(mount, cancel)?.trace_save(text(path, "path")?) }
    })
}

/// The parts of a range that are not here, in order. `count` is how many there are; as many as `capacity` allows are
/// written to `ranges`, which may be NULL where `capacity` is 0. With more than that, ask again with a larger array,
/// or from the end of the last one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_missing(
    mount: *mut r3map_mount,
    offset: u64,
    length: u64,
    capacity: usize,
    ranges: *mut r3map_range,
    count: *mut usize,
) -> *mut r3map_error {
    call("r3map_mount_missing", || {
        // SAFETY: the caller's promise: a mount, or NULL.
        let mount = unsafe { get(mount.cast_const()) }?;
        if capacity > 0 {
            place(ranges, "ranges")?;
        }
        let count = place(count, "count")?;
        let missing = mount.mount.missing(offset, length)?;
        for (index, range) in missing.iter().take(capacity).enumerate() {
            let range = r3map_range { offset: range.start, length: range.end - range.start };
            // SAFETY: the caller's promise: `ranges` has room for `capacity` of them.
            unsafe { ranges.add(index).write(range) };
        }
        // SAFETY: the caller's promise: not NULL, so valid for a write.
        unsafe { count.write(missing.len()) };
        Ok(())
    })
}

/// Waits until a share of the region, from 0 to 1, is here, for at most `timeout` milliseconds; 0 waits for ever. Asks
/// for nothing by itself: with the option `pull` at R3MAP_PULL_DEMAND it may never come.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_wait_local(
    mount: *mut r3map_mount,
    share: f64,
    timeout: u64,
    cancel: *mut r3map_cancel,
) -> *mut r3map_error {
    call("r3map_mount_wait_local", || {
        if !(0.0..=1.0).contains(&share) {
            return Err(invalid(format!("a share of {share}: it lies between 0 and 1")));
        }
        // SAFETY: the caller's promise: handles, or NULL.
        unsafe { mount_of(mount, cancel) }?.wait_local(share, milliseconds(timeout))
    })
}

/// The first event after the one whose sequence number is `after`, 0 for the first of all, waiting for it at most
/// `timeout` milliseconds; 0 waits for ever. `event` is one of r3map_mount_event. `cause` is an error that is yours
/// to free, or NULL where nothing caused it. A close elsewhere does not end the wait: trigger a cancel.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_next(
    mount: *mut r3map_mount,
    after: u64,
    timeout: u64,
    cancel: *mut r3map_cancel,
    sequence: *mut u64,
    event: *mut u32,
    cause: *mut *mut r3map_error,
) -> *mut r3map_error {
    call("r3map_mount_next", || {
        // SAFETY: the caller's promise: handles, or NULL.
        let mount = unsafe { mount_of(mount, cancel) }?;
        let (sequence, event) = (place(sequence, "sequence number")?, place(event, "event")?);
        let cause = place(cause, "cause")?;
        let next = mount.next(after, milliseconds(timeout))?;
        // SAFETY: the caller's promise: not NULL, so valid for a write.
        unsafe {
            sequence.write(next.sequence);
            event.write(next.kind as u32);
            match next.cause {
                Some(error) => put(cause, error.into()),
                None => cause.write(std::ptr::null_mut()),
            }
        }
        Ok(())
    })
}

/// Makes everything written before this call, through any view, durable at the backend. Once a write was lost,
/// every sync fails.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_sync(mount: *mut r3map_mount, cancel: *mut r3map_cancel) -> *mut r3map_error {
    call("r3map_mount_sync", || {
        // SAFETY: the caller's promise: handles, or NULL.
        unsafe { mount_of(mount, cancel) }?.sync()
    })
}

/// Figures of this mount at this moment, to be freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_stats(mount: *mut r3map_mount, stats: *mut *mut r3map_stats) -> *mut r3map_error {
    call("r3map_mount_stats", || {
        // SAFETY: the caller's promise: a mount, or NULL.
        let mount = unsafe { get(mount.cast_const()) }?;
        let place = place(stats, "stats")?;
        let stats = mount.mount.stats()?;
        // SAFETY: the caller's promise: not NULL, so valid for a write.
        unsafe { put(place, r3map_stats::from(stats)) };
        Ok(())
    })
}

/// What the app at the other side handed over with the region: of a mount that a leecher gave, else of no length. It
/// lives until the mount is freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_payload(
    mount: *const r3map_mount,
    payload: *mut *const c_void,
    length: *mut usize,
) -> *mut r3map_error {
    call("r3map_mount_payload", || {
        // SAFETY: the caller's promise: a mount, or NULL.
        let mount = unsafe { get(mount) }?;
        let (payload, length) = (place(payload, "payload")?, place(length, "length")?);
        let found = mount.mount.payload();
        // SAFETY: the caller's promise: not NULL, so valid for a write.
        unsafe {
            payload.write(found.as_ptr().cast());
            length.write(found.len());
        }
        Ok(())
    })
}

/// The mount as a backend, to be exported by a server or mounted once more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_backend(
    mount: *mut r3map_mount,
    backend: *mut *mut r3map_backend,
) -> *mut r3map_error {
    call("r3map_mount_backend", || {
        // SAFETY: the caller's promise: a mount, or NULL.
        let mount = unsafe { get(mount.cast_const()) }?;
        let place = place(backend, "backend")?;
        mount.mount.stats()?;
        // SAFETY: the caller's promise: not NULL, so valid for a write.
        unsafe { put(place, r3map_backend::new(Arc::new(mount.mount.clone()))) };
        Ok(())
    })
}

/// Syncs, detaches the device and closes. If that fails the mount stays open, to be closed again or discarded. The
/// handle remains to be freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_close(mount: *mut r3map_mount, cancel: *mut r3map_cancel) -> *mut r3map_error {
    call("r3map_mount_close", || {
        // SAFETY: the caller's promise: handles, or NULL.
        unsafe { mount_of(mount, cancel) }?.close()
    })
}

/// Detaches and closes without a sync: what was not synced may be lost.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_discard(mount: *mut r3map_mount, cancel: *mut r3map_cancel) -> *mut r3map_error {
    call("r3map_mount_discard", || {
        // SAFETY: the caller's promise: handles, or NULL.
        unsafe { mount_of(mount, cancel) }?.discard()
    })
}

/// Frees the handle. A mount that was not closed is detached without a sync, unless an export still uses it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_free(mount: *mut r3map_mount) {
    // SAFETY: the caller's promise: a mount that no other call uses, or NULL.
    unsafe { free(mount) }
}

#[cfg(test)]
mod tests {
    use super::r3map_mount_event::*;
    use r3map_core::event::Kind;

    #[test]
    fn the_events_are_those_of_the_core() {
        let pairs = [
            (R3MAP_MOUNT_LOCAL, Kind::Local),
            (R3MAP_MOUNT_DISCONNECTED, Kind::Disconnected),
            (R3MAP_MOUNT_RECOVERED, Kind::Recovered),
            (R3MAP_MOUNT_PUSH_FAILED, Kind::PushFailed),
            (R3MAP_MOUNT_CACHE_FULL, Kind::CacheFull),
            (R3MAP_MOUNT_DRAINED, Kind::Drained),
            (R3MAP_MOUNT_FENCED, Kind::Fenced),
            (R3MAP_MOUNT_ABANDONED, Kind::Abandoned),
        ];
        assert!(pairs.iter().all(|(ours, core)| *ours as u32 == *core as u32));
    }
}
