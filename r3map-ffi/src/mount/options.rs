//! Mount options
//!
//! They have the same names and meanings in every language and on the command line.

use std::ffi::c_char;
use std::path::PathBuf;

use r3map_core::device::View;
use r3map_core::options::PullRange;
use r3map_core::{Mode, MountOptions, Pull};

use crate::handle::{Handle, call_or, free, get, give, invalid, text};
use crate::options::{Kept, Options, milliseconds, set};

/// Options with which a mount is opened. Setters return nothing: the first value that cannot be taken is kept, and
/// r3map_mount_open reports it. Options may be used for any number of mounts, and freed after.
pub struct r3map_mount_options {
    kept: Kept<MountOptions>,
}

impl Handle for r3map_mount_options {
    const NAME: &'static str = "r3map_mount_options";
    const WORD: u64 = u64::from_ne_bytes(*b"r3mmtopt");
    const STAYS_WITH_PROCESS: bool = false;
}

impl Options for r3map_mount_options {
    type Core = MountOptions;
    fn kept(&self) -> &Kept<MountOptions> {
        &self.kept
    }
}

/// Where accesses go. What takes a mode has the type `uint32_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum r3map_mode {
    /// By the backend: `memory`, `file` and your own direct, the others managed. The default.
    R3MAP_MODE_AUTO = 0,
    /// Every access goes to the backend.
    R3MAP_MODE_DIRECT = 1,
    /// Pages are kept here, pulled and pushed in the background.
    R3MAP_MODE_MANAGED = 2,
}

/// When pages of a managed mount are pulled. What takes one has the type `uint32_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum r3map_pull {
    /// All of them, in the background. The default.
    R3MAP_PULL_BACKGROUND = 0,
    /// Only those that are asked for.
    R3MAP_PULL_DEMAND = 1,
}

/// A way to see a region. What takes a view has the type `uint32_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum r3map_view {
    /// None: the default of r3map_mount_options_set_prepare.
    R3MAP_VIEW_NONE = 0,
    /// A path for other programs.
    R3MAP_VIEW_PATH = 1,
    /// A descriptor.
    R3MAP_VIEW_FILE = 2,
    /// Memory of this process.
    R3MAP_VIEW_SLICE = 3,
}

/// What r3map_mount_options_set_read_ahead takes for the device's own choice.
pub const R3MAP_READ_AHEAD_AUTO: u64 = 0xffff_ffff_ffff_ffff;

/// Options that are all at their defaults.
#[unsafe(no_mangle)]
pub extern "C" fn r3map_mount_options_new() -> *mut r3map_mount_options {
    give(r3map_mount_options { kept: Kept::default() })
}

/// Sets the option of that name from text, as the command does: ("chunk_size", "64KiB"), ("deadline", "1.5"),
/// ("pull_range", "1MiB,4KiB,3"). An unknown name is reported with the nearest known one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_options_set(
    options: *mut r3map_mount_options,
    name: *const c_char,
    value: *const c_char,
) {
    call_or((), || {
        // SAFETY: the caller's promise: options, or NULL.
        let Ok(options) = (unsafe { get(options.cast_const()) }) else { return };
        // SAFETY: the caller's promise: C strings, or NULL.
        options.kept.change(|core| unsafe { core.set(text(name, "name of an option")?, text(value, "value")?) });
    })
}

/// Where accesses go, one of r3map_mode.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_options_set_mode(options: *mut r3map_mount_options, mode: u32) {
    let mode = match mode {
        0 => Ok(Mode::Auto),
        1 => Ok(Mode::Direct),
        2 => Ok(Mode::Managed),
        _ => Err(invalid(format!("{mode} is no mode"))),
    };
    // SAFETY: the caller's promise: options, or NULL.
    unsafe { set(options, "mode", mode, |core, value| core.mode = value) }
}

/// How the kernel shows the region: "auto" (the default), "nbd", "nbd:/dev/nbd3" (that one), "userfaultfd",
/// "userfaultfd:user-mode" (any user may have it, but read(2) into the slice fails with EFAULT) or "fuse".
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_options_set_device(options: *mut r3map_mount_options, device: *const c_char) {
    // SAFETY: the caller's promise: options and a C string, or NULL.
    unsafe { set(options, "device", text(device, "device").and_then(str::parse), |core, value| core.device = value) }
}

/// Where a fuse path appears: mounted over this file, which is created if it is missing. By default in a place of the
/// library's own. Other devices do not look at it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_options_set_at(options: *mut r3map_mount_options, path: *const c_char) {
    // SAFETY: the caller's promise: options and a C string, or NULL.
    unsafe { set(options, "at", text(path, "path"), |core, value| core.at = Some(PathBuf::from(value))) }
}

/// Whether writes are refused; a store to a slice is a SIGSEGV then. False by default.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_options_set_read_only(options: *mut r3map_mount_options, read_only: bool) {
    // SAFETY: the caller's promise: options, or NULL.
    unsafe { set(options, "read_only", Ok(read_only), |core, value| core.read_only = value) }
}

/// URL of a local store that keeps pulled pages. By default they are kept in memory. A file keeps what was written through
/// a kill, and the next mount of the same region goes on with it; only discard takes it away.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_options_set_cache(options: *mut r3map_mount_options, url: *const c_char) {
    // SAFETY: the caller's promise: options and a C string, or NULL.
    unsafe { set(options, "cache", text(url, "URL"), |core, value| core.cache = Some(value.to_owned())) }
}

/// Whether a cache is resumed though its backend has no identity to compare. False by default.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_options_set_cache_trust(options: *mut r3map_mount_options, trust: bool) {
    // SAFETY: the caller's promise: options, or NULL.
    unsafe { set(options, "cache_trust", Ok(trust), |core, value| core.cache_trust = value) }
}

/// Of a leecher: the view that is attached before the region is here, one of r3map_view, so that attaching is no part of
/// the pause.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_options_set_prepare(options: *mut r3map_mount_options, view: u32) {
    let view = match view {
        0 => Ok(None),
        1 => Ok(Some(View::Path)),
        2 => Ok(Some(View::File)),
        3 => Ok(Some(View::Slice)),
        _ => Err(invalid(format!("{view} is no view"))),
    };
    // SAFETY: the caller's promise: options, or NULL.
    unsafe { set(options, "prepare", view, |core, value| core.prepare = value) }
}

/// Of a leecher: whether a local file is taken though something else is in it, which is lost then. False by default.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_options_set_overwrite(options: *mut r3map_mount_options, overwrite: bool) {
    // SAFETY: the caller's promise: options, or NULL.
    unsafe { set(options, "overwrite", Ok(overwrite), |core, value| core.overwrite = value) }
}

/// Of a leecher: whether the region is taken also from a seeder of the Go library r3map, by a grpc:// URL, whose protocol
/// knows neither sessions nor votes nor fencing, as docs/interop.md says. False by default.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_options_set_allow_legacy(options: *mut r3map_mount_options, allow: bool) {
    // SAFETY: the caller's promise: options, or NULL.
    unsafe { set(options, "allow_legacy", Ok(allow), |core, value| core.allow_legacy = value) }
}

/// Unit of transfer in bytes: a power of two, 4 KiB to 32 MiB. The backend's by default.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_options_set_chunk_size(options: *mut r3map_mount_options, bytes: u64) {
    let size = u32::try_from(bytes).map_err(|_| invalid(format!("{bytes} is more than 32 MiB")));
    // SAFETY: the caller's promise: options, or NULL.
    unsafe { set(options, "chunk_size", size, |core, value| core.chunk_size = Some(value)) }
}

/// When pages of a managed mount are pulled, one of r3map_pull.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_options_set_pull(options: *mut r3map_mount_options, pull: u32) {
    let pull = match pull {
        0 => Ok(Pull::Background),
        1 => Ok(Pull::Demand),
        _ => Err(invalid(format!("{pull} is no way to pull"))),
    };
    // SAFETY: the caller's promise: options, or NULL.
    unsafe { set(options, "pull", pull, |core, value| core.pull = value) }
}

/// A file that r3map_mount_trace_save wrote: what it names is pulled in its order, after the ranges to pull first and before
/// all else; where `pull` is demand nothing else is pulled by itself.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_options_set_trace(options: *mut r3map_mount_options, path: *const c_char) {
    // SAFETY: the caller's promise: options and a C string, or NULL.
    unsafe { set(options, "trace", text(path, "path"), |core, value| core.trace = Some(value.into())) }
}

/// Adds a range to pull first: of several, that of the highest priority.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_options_add_pull_range(
    options: *mut r3map_mount_options,
    offset: u64,
    length: u64,
    priority: i32,
) {
    let range = PullRange { offset, length, priority };
    // SAFETY: the caller's promise: options, or NULL.
    unsafe { set(options, "pull_range", Ok(range), |core, value| core.pull_ranges.push(value)) }
}

/// Milliseconds between pushes in the background; 0 pushes only at sync and close. 1000 by default.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_options_set_push_interval(options: *mut r3map_mount_options, interval: u64) {
    // SAFETY: the caller's promise: options, or NULL.
    unsafe { set(options, "push_interval", Ok(milliseconds(interval)), |core, value| core.push_interval = value) }
}

/// Whether the mount opens from its cache though the remote is away. False by default.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_options_set_offline(options: *mut r3map_mount_options, offline: bool) {
    // SAFETY: the caller's promise: options, or NULL.
    unsafe { set(options, "offline", Ok(offline), |core, value| core.offline = value) }
}

/// How many bytes the kernel reads ahead on a block device or fuse; R3MAP_READ_AHEAD_AUTO, the default, leaves it to
/// the device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_options_set_read_ahead(options: *mut r3map_mount_options, bytes: u64) {
    let value = (bytes != R3MAP_READ_AHEAD_AUTO).then_some(bytes);
    // SAFETY: the caller's promise: options, or NULL.
    unsafe { set(options, "read_ahead", Ok(value), |core, value| core.read_ahead = value) }
}

/// How many bytes may be under way at once, instead of a window that adapts itself; for studies.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_options_set_max_in_flight(options: *mut r3map_mount_options, bytes: u64) {
    // SAFETY: the caller's promise: options, or NULL.
    unsafe { set(options, "max_in_flight", Ok(Some(bytes)), |core, value| core.max_in_flight = value) }
}

/// Milliseconds that each blocking call may take; 0 waits for ever. 30000 by default.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_options_set_deadline(options: *mut r3map_mount_options, deadline: u64) {
    // SAFETY: the caller's promise: options, or NULL.
    unsafe { set(options, "deadline", Ok(milliseconds(deadline)), |core, value| core.deadline = value) }
}

/// Frees options; mounts that were opened with them are not touched.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_mount_options_free(options: *mut r3map_mount_options) {
    // SAFETY: the caller's promise: options that no other call uses, or NULL.
    unsafe { free(options) }
}
