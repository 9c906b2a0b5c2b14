//! Seed options
//!
//! They have the same names and meanings in every language and on the command line.

use std::ffi::c_char;

use r3map_core::SeedOptions;

use crate::handle::{Handle, free, give, text};
use crate::options::{Kept, Options, milliseconds, set, set_named};

/// Options with which a region is seeded. Setters return nothing: the first value that cannot be taken is kept, and
/// what seeds reports it. Options may be used for any number of seeders, and freed after.
pub struct r3map_seed_options {
    kept: Kept<SeedOptions>,
}

impl Handle for r3map_seed_options {
    const NAME: &'static str = "r3map_seed_options";
    const WORD: u64 = u64::from_ne_bytes(*b"r3msdopt");
    const STAYS_WITH_PROCESS: bool = false;
}

impl Options for r3map_seed_options {
    type Core = SeedOptions;
    fn kept(&self) -> &Kept<SeedOptions> {
        &self.kept
    }
}

/// Options that are all at their defaults.
#[unsafe(no_mangle)]
pub extern "C" fn r3map_seed_options_new() -> *mut r3map_seed_options {
    give(r3map_seed_options { kept: Kept::default() })
}

/// The name in the URL of a seeder that listens by itself: 1 to 255 bytes. "region" by default. Under a server the name
/// is given there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_seed_options_set_name(options: *mut r3map_seed_options, name: *const c_char) {
    // SAFETY: the caller's promise: options and a C string, or NULL.
    unsafe { set(options, "name", text(name, "name"), |core, value| core.name = value.to_owned()) }
}

/// Milliseconds that the app may take to stop writing when it is asked to, before the leecher is refused; 0 is for
/// ever. 30000 by default.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_seed_options_set_suspend_deadline(options: *mut r3map_seed_options, deadline: u64) {
    // SAFETY: the caller's promise: options, or NULL.
    unsafe { set(options, "suspend_deadline", Ok(milliseconds(deadline)), |core, value| core.suspend_deadline = value) }
}

/// Whether the record of who has the region is kept in this process where it cannot be written beside the region.
/// False by default.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_seed_options_set_cache_trust(options: *mut r3map_seed_options, trust: bool) {
    // SAFETY: the caller's promise: options, or NULL.
    unsafe { set(options, "cache_trust", Ok(trust), |core, value| core.cache_trust = value) }
}

/// Gives the region also to leechers of the Go library r3map, over gRPC at the same address: their protocol knows neither
/// sessions nor votes nor fencing, as docs/interop.md says. False by default.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_seed_options_set_allow_legacy(options: *mut r3map_seed_options, allow: bool) {
    // SAFETY: the caller's promise: options, or NULL.
    unsafe { set(options, "allow_legacy", Ok(allow), |core, value| core.allow_legacy = value) }
}

/// Allows plain TCP on an address that is not loopback. False by default.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_seed_options_set_insecure(options: *mut r3map_seed_options, insecure: bool) {
    // SAFETY: the caller's promise: options, or NULL.
    unsafe { set(options, "insecure", Ok(insecure), |core, value| core.insecure = value) }
}

/// Sets by name how a seeder that listens by itself proves who it is and knows its leechers by TLS, as
/// r3map_server_options_set does.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_seed_options_set(
    options: *mut r3map_seed_options,
    name: *const c_char,
    value: *const c_char,
) {
    // SAFETY: the caller's promise: options and C strings, or NULL.
    unsafe { set_named(options, name, value, |core, name, value| core.credentials.set(name, value)) }
}

/// Lets leechers of this name take the region, and nobody who is not named so; as r3map_export_options_add_allow.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_seed_options_add_allow(options: *mut r3map_seed_options, name: *const c_char) {
    // SAFETY: the caller's promise: options and a C string, or NULL.
    unsafe { set(options, "allow", text(name, "name"), |core, value| core.allow.push(value.to_owned())) }
}

/// Milliseconds that each operation, and a leecher's absence before the commit, may take; 0 is for ever. 30000 by
/// default.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_seed_options_set_deadline(options: *mut r3map_seed_options, deadline: u64) {
    // SAFETY: the caller's promise: options, or NULL.
    unsafe { set(options, "deadline", Ok(milliseconds(deadline)), |core, value| core.deadline = value) }
}

/// Frees options; seeders made with them are not touched.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_seed_options_free(options: *mut r3map_seed_options) {
    // SAFETY: the caller's promise: options that no other call uses, or NULL.
    unsafe { free(options) }
}
