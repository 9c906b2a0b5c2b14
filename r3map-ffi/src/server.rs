//! Server
//!
//! Backends offered to others by name, over r3map's own protocol, NBD or gRPC. Any number of exports, addresses and clients.

use std::ffi::{CString, c_char, c_int};
use std::sync::{Arc, Mutex};

use r3map_core::{ExportOptions, Server, ServerOptions};

use crate::backend::{backend_of, close_given, own_descriptor, r3map_backend};
use crate::cancel::{cancel_of, r3map_cancel};
use crate::error::{c_string, r3map_error};
use crate::handle::{Handle, call, cancellable, free, get, give, invalid, place, put, text};
use crate::options::{Kept, Options, milliseconds, options_of, set, set_named};

/// Options of a server. Setters return nothing; r3map_server_new checks them.
pub struct r3map_server_options {
    kept: Kept<ServerOptions>,
}

impl Handle for r3map_server_options {
    const NAME: &'static str = "r3map_server_options";
    const WORD: u64 = u64::from_ne_bytes(*b"r3msvopt");
    const STAYS_WITH_PROCESS: bool = false;
}

impl Options for r3map_server_options {
    type Core = ServerOptions;
    fn kept(&self) -> &Kept<ServerOptions> {
        &self.kept
    }
}

/// Options of one export.
pub struct r3map_export_options {
    kept: Kept<ExportOptions>,
}

impl Handle for r3map_export_options {
    const NAME: &'static str = "r3map_export_options";
    const WORD: u64 = u64::from_ne_bytes(*b"r3mexopt");
    const STAYS_WITH_PROCESS: bool = false;
}

impl Options for r3map_export_options {
    type Core = ExportOptions;
    fn kept(&self) -> &Kept<ExportOptions> {
        &self.kept
    }
}

/// A server. It serves from threads of its own until it is closed or freed.
pub struct r3map_server {
    server: Arc<Server>,
    /// The URLs and lines that were handed out.
    urls: Mutex<Vec<CString>>,
}

impl Handle for r3map_server {
    const NAME: &'static str = "r3map_server";
    const WORD: u64 = u64::from_ne_bytes(*b"r3mservr");
    const STAYS_WITH_PROCESS: bool = true;
}

impl r3map_server {
    /// The core's server.
    pub(crate) fn core(&self) -> &Server {
        &self.server
    }
}

/// Options that are all at their defaults.
#[unsafe(no_mangle)]
pub extern "C" fn r3map_server_options_new() -> *mut r3map_server_options {
    give(r3map_server_options { kept: Kept::default() })
}

/// Allows plain TCP on an address that is not loopback. False by default.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_server_options_set_insecure(options: *mut r3map_server_options, insecure: bool) {
    // SAFETY: the caller's promise: options, or NULL.
    unsafe { set(options, "insecure", Ok(insecure), |core, value| core.insecure = value) }
}

/// Milliseconds that each operation, and a client's silence inside a message, may take; 0 is for ever. 30000 by
/// default.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_server_options_set_deadline(options: *mut r3map_server_options, deadline: u64) {
    // SAFETY: the caller's promise: options, or NULL.
    unsafe { set(options, "deadline", Ok(milliseconds(deadline)), |core, value| core.deadline = value) }
}

/// How many connections there may be at once; more are refused R3MAP_BUSY. 1024 by default.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_server_options_set_max_connections(options: *mut r3map_server_options, most: u32) {
    let most = if most == 0 { Err(invalid("0 connections would serve nobody")) } else { Ok(most as usize) };
    // SAFETY: the caller's promise: options, or NULL.
    unsafe { set(options, "max_connections", most, |core, value| core.max_connections = value) }
}

/// Sets by name how the server proves who it is and knows its clients by TLS: "tls_cert" and "tls_key", its certificate
/// and private key, and "tls_ca", authorities that vouch for clients: paths of PEM files, read anew when they change;
/// "token", a secret by which a client is known as "client"; "token_file", a path of lines NAME:TOKEN. With any of them
/// all TCP connections are TLS. With none, a server that listens beyond this host makes a certificate and a token, which it
/// keeps in the directory "state".
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_server_options_set(
    options: *mut r3map_server_options,
    name: *const c_char,
    value: *const c_char,
) {
    // SAFETY: the caller's promise: options and C strings, or NULL.
    unsafe { set_named(options, name, value, |core, name, value| core.credentials.set(name, value)) }
}

/// What the server speaks with its clients: "r3map" (the default), "nbd" for NBD clients of all kinds, or "grpc" as the
/// Go library r3map does, which names no exports: such a server has one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_server_options_set_protocol(options: *mut r3map_server_options, name: *const c_char) {
    // SAFETY: the caller's promise: options and a C string, or NULL.
    unsafe { set(options, "protocol", text(name, "name").and_then(str::parse), |core, value| core.protocol = value) }
}

/// Whether what is read and written travels packed, as of a backend: "auto" (the default), "off", "lz4" or "zstd". A client
/// that wants more of it is given more, unless it is off here.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_server_options_set_compression(options: *mut r3map_server_options, name: *const c_char) {
    // SAFETY: the caller's promise: options and a C string, or NULL.
    unsafe {
        set(options, "compression", text(name, "name").and_then(str::parse), |core, value| core.compression = value)
    }
}

/// Frees options; servers made with them are not touched.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_server_options_free(options: *mut r3map_server_options) {
    // SAFETY: the caller's promise: options that no other call uses, or NULL.
    unsafe { free(options) }
}

/// Options that are all at their defaults.
#[unsafe(no_mangle)]
pub extern "C" fn r3map_export_options_new() -> *mut r3map_export_options {
    give(r3map_export_options { kept: Kept::default() })
}

/// Whether writes of clients are refused. False by default.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_export_options_set_read_only(options: *mut r3map_export_options, read_only: bool) {
    // SAFETY: the caller's promise: options, or NULL.
    unsafe { set(options, "read_only", Ok(read_only), |core, value| core.read_only = value) }
}

/// Lets clients of this name use the export, the name being that of a token or a DNS name in a certificate, and nobody
/// who is not named so. May be called again. Everybody whom the server lets in by default.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_export_options_add_allow(options: *mut r3map_export_options, name: *const c_char) {
    // SAFETY: the caller's promise: options and a C string, or NULL.
    unsafe { set(options, "allow", text(name, "name"), |core, value| core.allow.push(value.to_owned())) }
}

/// Frees options; exports made with them are not touched.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_export_options_free(options: *mut r3map_export_options) {
    // SAFETY: the caller's promise: options that no other call uses, or NULL.
    unsafe { free(options) }
}

/// A server that offers nothing yet and listens nowhere. Options may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_server_new(
    options: *const r3map_server_options,
    server: *mut *mut r3map_server,
) -> *mut r3map_error {
    call("r3map_server_new", || {
        // SAFETY: the caller's promise: options, or NULL.
        let options = unsafe { options_of(options) }?;
        let place = place(server, "server")?;
        let server = Arc::new(Server::new(options)?);
        // SAFETY: the caller's promise: not NULL, so valid for a write.
        unsafe { put(place, r3map_server { server, urls: Mutex::default() }) };
        Ok(())
    })
}

/// Listens at `host:port` (port 0: one is chosen) or `unix:/path`, and gives the address as a client writes it in a
/// URL, but for the export's name: `r3map://host:port` or `r3map+unix:///path`, over NBD `nbd://host:port` or
/// `nbd+unix:///?socket=/path`, over gRPC `grpc://host:port` or `grpc+unix:///path`; `r3maps`, `nbds` and `nbds+unix` by
/// TLS. The string lives until the server is freed; `url` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_server_listen(
    server: *mut r3map_server,
    address: *const c_char,
    cancel: *mut r3map_cancel,
    url: *mut *const c_char,
) -> *mut r3map_error {
    call("r3map_server_listen", || {
        // SAFETY: the caller's promise: handles and a C string, or NULL.
        let (handle, address, cancel) =
            unsafe { (get(server.cast_const())?, text(address, "address")?, cancel_of(cancel)?) };
        let (server, address) = (handle.server.clone(), address.to_owned());
        let found = cancellable(cancel.as_ref(), "listen", move || server.listen(&address))?;
        let mut urls = handle.urls.lock().unwrap_or_else(|e| e.into_inner());
        let found = c_string(&found);
        if !url.is_null() {
            // SAFETY: not NULL, so valid for a write. What it points at stays where it is when the vector grows.
            unsafe { url.write(found.as_ptr()) };
        }
        urls.push(found);
        Ok(())
    })
}

/// The command by which a client shows the export at a URL, where the server made a certificate and a token by itself; ""
/// where it did not. It holds the token, a secret. The string lives until the server is freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_server_client_line(
    server: *mut r3map_server,
    url: *const c_char,
    line: *mut *const c_char,
) -> *mut r3map_error {
    call("r3map_server_client_line", || {
        // SAFETY: the caller's promise: a server and a C string, or NULL.
        let (handle, url) = unsafe { (get(server.cast_const())?, text(url, "URL")?) };
        let place = place(line, "line")?;
        let found = c_string(&handle.server.client_line(url).unwrap_or_default());
        // SAFETY: not NULL, so valid for a write. What it points at stays where it is when the vector grows.
        unsafe { place.write(found.as_ptr()) };
        handle.urls.lock().unwrap_or_else(|e| e.into_inner()).push(found);
        Ok(())
    })
}

/// Offers a backend under a name: 1 to 255 bytes of UTF-8, a key and never a path. Options may be NULL. The server
/// keeps a reference of its own to the backend.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_server_export(
    server: *mut r3map_server,
    name: *const c_char,
    backend: *mut r3map_backend,
    options: *const r3map_export_options,
) -> *mut r3map_error {
    call("r3map_server_export", || {
        // SAFETY: the caller's promise: handles and a C string, or NULL.
        let (server, name) = unsafe { (get(server.cast_const())?, text(name, "name")?) };
        // SAFETY: as above.
        let (backend, options) = unsafe { (backend_of(backend)?, options_of(options)?) };
        server.server.export(name, backend.clone(), &options)
    })
}

/// Serves one connected stream socket, TCP or UNIX. The descriptor is the library's from success on, and stays the
/// caller's on failure.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_server_handle(server: *mut r3map_server, descriptor: c_int) -> *mut r3map_error {
    call("r3map_server_handle", || {
        // SAFETY: the caller's promise: a server, or NULL.
        let server = unsafe { get(server.cast_const()) }?;
        server.server.handle(own_descriptor(descriptor)?)?;
        // SAFETY: success, so the descriptor is ours.
        unsafe { close_given(descriptor) };
        Ok(())
    })
}

/// Takes no more requests, answers those under way, syncs what was acknowledged, and ends every connection. Later
/// calls fail R3MAP_CLOSED. A close that was cancelled goes on by itself. The handle remains to be freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_server_close(server: *mut r3map_server, cancel: *mut r3map_cancel) -> *mut r3map_error {
    call("r3map_server_close", || {
        // SAFETY: the caller's promise: handles, or NULL.
        let (handle, cancel) = unsafe { (get(server.cast_const())?, cancel_of(cancel)?) };
        let server = handle.server.clone();
        cancellable(cancel.as_ref(), "close a server", move || server.close())
    })
}

/// Frees the handle; a server that was not closed stops at once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_server_free(server: *mut r3map_server) {
    // SAFETY: the caller's promise: a server that no other call uses, or NULL.
    unsafe { free(server) }
}
