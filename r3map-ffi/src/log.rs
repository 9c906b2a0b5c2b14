//! Log
//!
//! The library says nothing by itself. Given a descriptor it writes lines to it,
//! `LEVEL target: message key=value`, each in one write of at most 4096 bytes.

use std::ffi::c_int;
use std::os::fd::BorrowedFd;

use r3map_core::log::{self, Level};

use crate::error::r3map_error;
use crate::handle::{call, invalid};

/// What a log holds: lines of this level and of all before it. What takes a level has the type `uint32_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum r3map_log_level {
    /// Nothing.
    R3MAP_LOG_OFF = 0,
    /// What was lost, or will not work again by itself.
    R3MAP_LOG_ERROR = 1,
    /// What went wrong and was or may be repaired.
    R3MAP_LOG_WARN = 2,
    /// What was opened, attached, connected and closed.
    R3MAP_LOG_INFO = 3,
    /// How that was decided.
    R3MAP_LOG_DEBUG = 4,
    /// Every step.
    R3MAP_LOG_TRACE = 5,
}

/// Writes the log of the whole process to a descriptor from now on, instead of where it went before: a file,
/// pipe, socket or terminal, such as 2. The descriptor stays the caller's, who may close it. R3MAP_LOG_OFF ends
/// the log, and `descriptor` is not looked at.
///
/// A line never waits for its reader: a pipe or socket that is full loses lines, and a later line counts them. A
/// pipe without a reader raises no SIGPIPE.
#[unsafe(no_mangle)]
pub extern "C" fn r3map_log_to(descriptor: c_int, level: u32) -> *mut r3map_error {
    call("r3map_log_to", || {
        let level = Level::from_number(level).ok_or_else(|| invalid(format!("{level} is no level of a log")))?;
        if level == Level::Off {
            log::off();
            return Ok(());
        }
        // SAFETY: fcntl takes any number.
        if unsafe { libc::fcntl(descriptor, libc::F_GETFD) } == -1 {
            return Err(invalid(format!("log to descriptor {descriptor}: it is not open")));
        }
        // SAFETY: it is open, and the caller leaves it so during this call.
        log::to(unsafe { BorrowedFd::borrow_raw(descriptor) }, level)
    })
}

#[cfg(test)]
mod tests {
    use super::r3map_log_level::*;
    use super::*;

    #[test]
    fn the_levels_are_those_of_the_core() {
        let ours = [R3MAP_LOG_OFF, R3MAP_LOG_ERROR, R3MAP_LOG_WARN, R3MAP_LOG_INFO, R3MAP_LOG_DEBUG, R3MAP_LOG_TRACE];
        assert!(ours.iter().zip(Level::ALL).all(|(ours, core)| *ours as u32 == core as u32));
    }
}
