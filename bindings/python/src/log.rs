//! The library's log, to a descriptor. `r3map.log` leads it to Python's `logging`.

use std::os::fd::BorrowedFd;

use pyo3::prelude::*;
use r3map_core::log::{self, Level};
use r3map_core::{Code, Error};

use crate::ending::detached;
use crate::options::raised;

/// Writes the log of the whole process to a descriptor from now on: lines `LEVEL target: message key=value` of that level
/// and all above it. The descriptor stays the caller's, who may close it.
#[pyfunction]
pub fn log_to(py: Python<'_>, descriptor: i32, level: &str) -> PyResult<()> {
    let level: Level = raised(py, level.parse())?;
    // SAFETY: fcntl takes any number.
    if unsafe { libc::fcntl(descriptor, libc::F_GETFD) } == -1 {
        let message = format!("log to descriptor {descriptor}: it is not open");
        return raised(py, Err(Error::new(Code::InvalidArgument, message)));
    }
    // SAFETY: it is open, and the caller leaves it so during this call.
    raised(py, log::to(unsafe { BorrowedFd::borrow_raw(descriptor) }, level))
}

/// Ends the log and lets go of its descriptor.
#[pyfunction]
pub fn log_off(py: Python<'_>) {
    detached(py, log::off);
}
