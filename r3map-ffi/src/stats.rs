//! Stats
//!
//! Named figures of a mount at one moment. Names are stable, new ones may appear; those of bytes begin with
//! `bytes_`.

use std::ffi::{CString, c_char};

use r3map_core::{Code, Error, Stats};

use crate::error::{c_string, r3map_error};
use crate::handle::{Handle, call, free, get, invalid, place, text};

/// Figures as they stood when they were taken; they do not change.
pub struct r3map_stats {
    figures: Vec<(CString, u64)>,
}

impl Handle for r3map_stats {
    const NAME: &'static str = "r3map_stats";
    const WORD: u64 = u64::from_ne_bytes(*b"r3mstats");
    const STAYS_WITH_PROCESS: bool = false;
}

impl From<Stats> for r3map_stats {
    fn from(stats: Stats) -> r3map_stats {
        r3map_stats { figures: stats.iter().map(|(name, value)| (c_string(name), value)).collect() }
    }
}

/// The figure of that name; R3MAP_NOT_FOUND if there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_stats_get(
    stats: *const r3map_stats,
    name: *const c_char,
    value: *mut u64,
) -> *mut r3map_error {
    call("r3map_stats_get", || {
        // SAFETY: the caller's promise: figures and a C string, or NULL.
        let (stats, name) = unsafe { (get(stats)?, text(name, "name")?) };
        let value = place(value, "value")?;
        let found = stats.figures.iter().find(|(known, _)| known.to_bytes() == name.as_bytes());
        let (_, figure) = found.ok_or_else(|| Error::new(Code::NotFound, format!("there is no figure {name:?}")))?;
        // SAFETY: the caller's promise: not NULL, so valid for a write.
        unsafe { value.write(*figure) };
        Ok(())
    })
}

/// How many figures there are.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_stats_count(stats: *const r3map_stats, count: *mut usize) -> *mut r3map_error {
    call("r3map_stats_count", || {
        // SAFETY: the caller's promise: figures, or NULL.
        let stats = unsafe { get(stats) }?;
        // SAFETY: the caller's promise: not NULL, so valid for a write.
        unsafe { place(count, "count")?.write(stats.figures.len()) };
        Ok(())
    })
}

/// The figure of that index, from 0 to the count less one, with its name, which lives as long as the stats.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_stats_at(
    stats: *const r3map_stats,
    index: usize,
    name: *mut *const c_char,
    value: *mut u64,
) -> *mut r3map_error {
    call("r3map_stats_at", || {
        // SAFETY: the caller's promise: figures, or NULL.
        let stats = unsafe { get(stats) }?;
        let (name, value) = (place(name, "name")?, place(value, "value")?);
        let count = stats.figures.len();
        let figure = stats.figures.get(index);
        let (known, figure) = figure.ok_or_else(|| invalid(format!("figure {index} of {count}: there is none")))?;
        // SAFETY: the caller's promise: not NULL, so valid for a write.
        unsafe {
            name.write(known.as_ptr());
            value.write(*figure);
        }
        Ok(())
    })
}

/// Frees the figures and their names.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_stats_free(stats: *mut r3map_stats) {
    // SAFETY: the caller's promise: figures that no other call uses, or NULL.
    unsafe { free(stats) }
}
