//! Backend
//!
//! Where bytes live: a URL, a connected socket, or functions of your own. Offsets, lengths and sizes are in bytes;
//! a size need be no multiple of anything. Reads and writes are whole or an error, may be called from many
//! threads at once, and end with R3MAP_TIMEOUT after the backend's deadline (30 seconds).
//!
//! URLs: `memory:?size=1GiB`, `file:///path[?size=1GiB]` (a size creates what is missing),
//! `dir:///path?chunk=64KiB&size=1GiB` (a file a chunk), `tape:///path`, `r3map://host:7070/name`,
//! `r3map+unix:///path/of/socket?name=name`. Sizes take KiB MiB GiB TiB.

use std::ffi::{c_char, c_int, c_void};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use r3map_core::backend::remote::Remote;
use r3map_core::backend::{self, Backend, Operation};
use r3map_core::cancel::Limit;
use r3map_core::{BackendOptions, Code, Error, Result};

use crate::cancel::{cancel_of, r3map_cancel};
use crate::error::r3map_error;
use crate::handle::{Handle, bytes, bytes_mut, call, cancellable, free, get, give, invalid, place, put, text};
use crate::options::{Kept, Options, options_of, set};

pub mod functions;

/// How long a call on a backend may take: as a mount's by default.
const DEADLINE: Duration = Duration::from_secs(30);

/// Options with which a backend is opened. Setters return nothing; opening checks them. Options may be used for
/// any number of backends, and freed after.
pub struct r3map_backend_options {
    kept: Kept<BackendOptions>,
}

impl Handle for r3map_backend_options {
    const NAME: &'static str = "r3map_backend_options";
    const WORD: u64 = u64::from_ne_bytes(*b"r3mbcopt");
    const STAYS_WITH_PROCESS: bool = false;
}

impl Options for r3map_backend_options {
    type Core = BackendOptions;
    fn kept(&self) -> &Kept<BackendOptions> {
        &self.kept
    }
}

/// Where bytes live. A mount or export keeps a reference of its own, so the handle may be freed once it is opened.
pub struct r3map_backend {
    backend: Arc<dyn Backend>,
    closed: AtomicBool,
}

impl Handle for r3map_backend {
    const NAME: &'static str = "r3map_backend";
    const WORD: u64 = u64::from_ne_bytes(*b"r3mbcknd");
    const STAYS_WITH_PROCESS: bool = true;
}

impl r3map_backend {
    pub(crate) fn new(backend: Arc<dyn Backend>) -> r3map_backend {
        r3map_backend { backend, closed: AtomicBool::new(false) }
    }

    /// The core's backend, unless this handle was closed.
    pub(crate) fn open(&self) -> Result<&Arc<dyn Backend>> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::new(Code::Closed, format!("{}: the backend is closed", self.backend.info().name)));
        }
        Ok(&self.backend)
    }
}

/// The core's backend of a handle.
///
/// # Safety
/// As for [`get`].
pub(crate) unsafe fn backend_of<'a>(backend: *const r3map_backend) -> Result<&'a Arc<dyn Backend>> {
    // SAFETY: the caller's promise.
    unsafe { get(backend) }?.open()
}

/// The bounds of one call.
///
/// # Safety
/// As for [`get`].
unsafe fn limit_of(cancel: *const r3map_cancel) -> Result<Limit> {
    // SAFETY: the caller's promise.
    Ok(Limit::within(DEADLINE).with_cancel(unsafe { cancel_of(cancel) }?))
}

/// A descriptor of our own for what the caller's refers to, so that the caller's stays as it is on failure.
pub(crate) fn own_descriptor(descriptor: c_int) -> Result<OwnedFd> {
    // SAFETY: fcntl takes any number.
    if unsafe { libc::fcntl(descriptor, libc::F_GETFD) } == -1 {
        return Err(invalid(format!("descriptor {descriptor} is not open")));
    }
    // SAFETY: it is open, and the caller leaves it so during this call.
    let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
    borrowed.try_clone_to_owned().map_err(|error| Error::io(format!("take descriptor {descriptor}"), error))
}

/// Closes the caller's descriptor, of which we have a copy: its ownership passed to us.
///
/// # Safety
/// The caller gave the descriptor away.
pub(crate) unsafe fn close_given(descriptor: c_int) {
    // SAFETY: the caller's promise; it is ours now, and nobody uses it after.
    drop(unsafe { OwnedFd::from_raw_fd(descriptor) });
}

/// Options that are all at their defaults.
#[unsafe(no_mangle)]
pub extern "C" fn r3map_backend_options_new() -> *mut r3map_backend_options {
    give(r3map_backend_options { kept: Kept::default() })
}

/// Path of this client's certificate, a PEM file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_backend_options_set_tls_cert(options: *mut r3map_backend_options, path: *const c_char) {
    // SAFETY: the caller's promise: options and a C string, or NULL.
    unsafe { set(options, "tls_cert", text(path, "path"), |core, value| core.tls_cert = Some(PathBuf::from(value))) }
}

/// Path of this client's private key, a PEM file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_backend_options_set_tls_key(options: *mut r3map_backend_options, path: *const c_char) {
    // SAFETY: the caller's promise: options and a C string, or NULL.
    unsafe { set(options, "tls_key", text(path, "path"), |core, value| core.tls_key = Some(PathBuf::from(value))) }
}

/// Path of the authorities that may vouch for the server, a PEM file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_backend_options_set_tls_ca(options: *mut r3map_backend_options, path: *const c_char) {
    // SAFETY: the caller's promise: options and a C string, or NULL.
    unsafe { set(options, "tls_ca", text(path, "path"), |core, value| core.tls_ca = Some(PathBuf::from(value))) }
}

/// SHA-256 of the server's public key, in hexadecimal.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_backend_options_set_tls_pin(options: *mut r3map_backend_options, pin: *const c_char) {
    // SAFETY: the caller's promise: options and a C string, or NULL.
    unsafe { set(options, "tls_pin", text(pin, "pin"), |core, value| core.tls_pin = Some(value.to_owned())) }
}

/// The secret by which the server knows this client. It stands in no error, log or figure.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_backend_options_set_token(options: *mut r3map_backend_options, token: *const c_char) {
    // SAFETY: the caller's promise: options and a C string, or NULL.
    unsafe { set(options, "token", text(token, "token"), |core, value| core.token = Some(value.into())) }
}

/// Allows plain TCP to a host that is not this one. False by default.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_backend_options_set_insecure(options: *mut r3map_backend_options, insecure: bool) {
    // SAFETY: the caller's promise: options, or NULL.
    unsafe { set(options, "insecure", Ok(insecure), |core, value| core.insecure = value) }
}

/// Whether what is read and written travels packed, over r3map's own protocol: "auto" (the default), where both sides can,
/// the peer is on another host, and the network is slower than packing; "off"; or "lz4" or "zstd", however fast the network
/// is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_backend_options_set_compression(
    options: *mut r3map_backend_options,
    name: *const c_char,
) {
    // SAFETY: the caller's promise: options and a C string, or NULL.
    unsafe {
        set(options, "compression", text(name, "name").and_then(str::parse), |core, value| core.compression = value)
    }
}

/// Frees options; what was opened with them is not touched.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_backend_options_free(options: *mut r3map_backend_options) {
    // SAFETY: the caller's promise: options that no other call uses, or NULL.
    unsafe { free(options) }
}

/// Opens the backend that a URL names. Options may be NULL. Creates nothing but the region of `memory:` and, where
/// the URL gives a size, a file or directory that is missing. An unknown scheme, parameter or option is an error that names
/// the nearest known one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_backend_open(
    url: *const c_char,
    options: *const r3map_backend_options,
    cancel: *mut r3map_cancel,
    backend: *mut *mut r3map_backend,
) -> *mut r3map_error {
    call("r3map_backend_open", || {
        // SAFETY: the caller's promise: a C string and handles, or NULL.
        let (url, options, cancel) = unsafe { (text(url, "URL")?, options_of(options)?, cancel_of(cancel)?) };
        let place = place(backend, "backend")?;
        let url = url.to_owned();
        let opened = cancellable(cancel.as_ref(), "open a backend", move || backend::open(&url, &options))?;
        // SAFETY: the caller's promise: not NULL, so valid for a write.
        unsafe { put(place, r3map_backend::new(opened)) };
        Ok(())
    })
}

/// Opens the export of that name at the other end of a connected stream socket, TCP or UNIX, that nobody else
/// reads or writes. The descriptor is the library's from success on, and stays the caller's on failure,
/// who then has no use for it but to close it. Such a backend cannot connect again: once the connection is lost its
/// calls fail R3MAP_DISCONNECTED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_backend_connect(
    descriptor: c_int,
    name: *const c_char,
    options: *const r3map_backend_options,
    cancel: *mut r3map_cancel,
    backend: *mut *mut r3map_backend,
) -> *mut r3map_error {
    call("r3map_backend_connect", || {
        // SAFETY: the caller's promise: a C string and handles, or NULL.
        let (name, options, cancel) = unsafe { (text(name, "name")?, options_of(options)?, cancel_of(cancel)?) };
        let place = place(backend, "backend")?;
        let (name, own) = (name.to_owned(), own_descriptor(descriptor)?);
        let opened = cancellable(cancel.as_ref(), "connect a backend", move || Remote::connect(own, &name, &options))?;
        // SAFETY: success, so the descriptor is ours; the place is not NULL, so valid for a write.
        unsafe {
            close_given(descriptor);
            put(place, r3map_backend::new(Arc::new(opened)));
        }
        Ok(())
    })
}

/// The size in bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_backend_size(backend: *const r3map_backend, size: *mut u64) -> *mut r3map_error {
    call("r3map_backend_size", || {
        // SAFETY: the caller's promise: a backend, or NULL.
        let backend = unsafe { backend_of(backend) }?;
        // SAFETY: the caller's promise: not NULL, so valid for a write.
        unsafe { place(size, "size")?.write(backend.info().size) };
        Ok(())
    })
}

/// Whether the backend refuses writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_backend_read_only(
    backend: *const r3map_backend,
    read_only: *mut bool,
) -> *mut r3map_error {
    call("r3map_backend_read_only", || {
        // SAFETY: the caller's promise: a backend, or NULL.
        let backend = unsafe { backend_of(backend) }?;
        // SAFETY: the caller's promise: not NULL, so valid for a write.
        unsafe { place(read_only, "answer")?.write(backend.info().read_only) };
        Ok(())
    })
}

/// Fills `buffer` with the `length` bytes at `offset`: all of them, or an error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_backend_read_at(
    backend: *mut r3map_backend,
    buffer: *mut c_void,
    length: usize,
    offset: u64,
    cancel: *mut r3map_cancel,
) -> *mut r3map_error {
    call("r3map_backend_read_at", || {
        // SAFETY: the caller's promise: handles or NULL, and a buffer of that length.
        let (backend, buffer, limit) = unsafe { (backend_of(backend)?, bytes_mut(buffer, length)?, limit_of(cancel)?) };
        limit.check("read")?;
        backend.info().check(offset, length as u64)?;
        backend::read(backend, buffer, offset, &limit)
    })
}

/// Stores the `length` bytes of `data` at `offset`: all of them, or an error, after which some may be stored. Later
/// reads see them; r3map_backend_sync makes them durable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_backend_write_at(
    backend: *mut r3map_backend,
    data: *const c_void,
    length: usize,
    offset: u64,
    cancel: *mut r3map_cancel,
) -> *mut r3map_error {
    call("r3map_backend_write_at", || {
        // SAFETY: the caller's promise: handles or NULL, and data of that length.
        let (backend, data, limit) = unsafe { (backend_of(backend)?, bytes(data, length)?, limit_of(cancel)?) };
        limit.check("write")?;
        let info = backend.info();
        info.check(offset, length as u64)?;
        if info.read_only {
            return Err(Error::new(Code::ReadOnly, format!("{} is open read-only", info.name)));
        }
        backend::write(backend, data, offset, &limit)
    })
}

/// Makes every write acknowledged before this call durable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_backend_sync(
    backend: *mut r3map_backend,
    cancel: *mut r3map_cancel,
) -> *mut r3map_error {
    call("r3map_backend_sync", || {
        // SAFETY: the caller's promise: handles, or NULL.
        let (backend, limit) = unsafe { (backend_of(backend)?, limit_of(cancel)?) };
        limit.check("sync")?;
        backend::call(backend, Operation::Sync, &limit, "sync").map(drop)
    })
}

/// Closes the backend, without a sync: later calls with this handle fail R3MAP_CLOSED. A connection ends, and mounts
/// that still use it fail too. The handle remains to be freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_backend_close(
    backend: *mut r3map_backend,
    cancel: *mut r3map_cancel,
) -> *mut r3map_error {
    call("r3map_backend_close", || {
        // SAFETY: the caller's promise: handles, or NULL.
        let (handle, cancel) = unsafe { (get(backend.cast_const())?, cancel_of(cancel)?) };
        let inner = handle.open()?.clone();
        cancellable(cancel.as_ref(), "close a backend", move || inner.close())?;
        handle.closed.store(true, Ordering::Release);
        Ok(())
    })
}

/// Frees the handle. The backend itself goes when no mount and no export uses it either.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_backend_free(backend: *mut r3map_backend) {
    // SAFETY: the caller's promise: a backend that no other call uses, or NULL.
    unsafe { free(backend) }
}
