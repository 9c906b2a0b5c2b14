//! Group
//!
//! Several mounts that move as one: all of them, or none. At the other side r3map_leecher_open_group names a place for
//! each, in the order in which they were added.

use std::ffi::c_char;
use std::ptr;
use std::sync::Arc;

use r3map_core::Group;

use crate::cancel::{cancel_of, r3map_cancel};
use crate::error::r3map_error;
use crate::handle::{Handle, call, cancellable, free, get, give, place, put, text};
use crate::mount::{mount_of, r3map_mount};
use crate::options::options_of;
use crate::seeder::options::r3map_seed_options;
use crate::seeder::r3map_seeder;
use crate::server::r3map_server;

/// Mounts that move as one.
pub struct r3map_group {
    group: Arc<Group>,
}

impl Handle for r3map_group {
    const NAME: &'static str = "r3map_group";
    const WORD: u64 = u64::from_ne_bytes(*b"r3mgroup");
    const STAYS_WITH_PROCESS: bool = true;
}

/// A group without mounts.
#[unsafe(no_mangle)]
pub extern "C" fn r3map_group_new() -> *mut r3map_group {
    give(r3map_group { group: Arc::new(Group::new()) })
}

/// Adds a mount, at most 256. The group keeps a reference of its own to it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_group_add(group: *mut r3map_group, mount: *mut r3map_mount) -> *mut r3map_error {
    call("r3map_group_add", || {
        // SAFETY: the caller's promise: handles, or NULL.
        let (group, mount) = unsafe { (get(group.cast_const())?, mount_of(mount, ptr::null())?) };
        group.group.add(&mount)
    })
}

/// Seeds the group as r3map_mount_seed seeds one mount.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_group_seed(
    group: *mut r3map_group,
    listen: *const c_char,
    options: *const r3map_seed_options,
    cancel: *mut r3map_cancel,
    seeder: *mut *mut r3map_seeder,
) -> *mut r3map_error {
    call("r3map_group_seed", || {
        // SAFETY: the caller's promise: handles and a C string, or NULL.
        let (group, listen) = unsafe { (get(group.cast_const())?, text(listen, "address")?.to_owned()) };
        // SAFETY: as above.
        let (options, cancel) = unsafe { (options_of(options)?, cancel_of(cancel)?) };
        let (place, group) = (place(seeder, "seeder")?, group.group.clone());
        let seeder = cancellable(cancel.as_ref(), "seed a group", move || group.seed(&listen, &options))?;
        // SAFETY: the caller's promise: not NULL, so valid for a write.
        unsafe { put(place, r3map_seeder::from(seeder)) };
        Ok(())
    })
}

/// Seeds the group as r3map_server_seed seeds one mount.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_server_seed_group(
    server: *mut r3map_server,
    name: *const c_char,
    group: *mut r3map_group,
    options: *const r3map_seed_options,
    seeder: *mut *mut r3map_seeder,
) -> *mut r3map_error {
    call("r3map_server_seed_group", || {
        // SAFETY: the caller's promise: handles and a C string, or NULL.
        let (server, name) = unsafe { (get(server.cast_const())?, text(name, "name")?) };
        // SAFETY: as above.
        let (group, options) = unsafe { (get(group.cast_const())?, options_of(options)?) };
        let place = place(seeder, "seeder")?;
        let seeder = server.core().seed_group(name, &group.group, &options)?;
        // SAFETY: the caller's promise: not NULL, so valid for a write.
        unsafe { put(place, r3map_seeder::from(seeder)) };
        Ok(())
    })
}

/// Frees the handle; what is seeded is not touched.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_group_free(group: *mut r3map_group) {
    // SAFETY: the caller's promise: a group that no other call uses, or NULL.
    unsafe { free(group) }
}
