//! Waiting for a share of a region, with word of how far it is.

use std::time::{Duration, Instant};

use pyo3::prelude::*;
use r3map_core::cancel::deadline_in;
use r3map_core::{Code, Error, Result};

use crate::argument::Timeout;
use crate::options::raised;

/// How long to wait between two calls of `progress`.
const EVERY: Duration = Duration::from_millis(200);

/// Checks a share of a region.
pub fn check_share(py: Python<'_>, share: f64) -> PyResult<()> {
    let inside = (0.0..=1.0).contains(&share);
    let refused = || Error::new(Code::InvalidArgument, format!("a share of {share}: it lies between 0 and 1"));
    raised(py, if inside { Ok(()) } else { Err(refused()) })
}

/// Waits in steps by `wait`, which makes of the core's answer that a step was too short `false` by [`reached`], and calls
/// `progress` with what `local` says, the bytes that are here and the size.
pub fn wait_in_steps(
    timeout: Timeout,
    progress: &Bound<'_, PyAny>,
    wait: impl Fn(Duration, bool) -> PyResult<bool>,
    local: impl Fn() -> PyResult<(u64, u64)>,
) -> PyResult<()> {
    let until = deadline_in(timeout.0);
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let step = left.map_or(EVERY, |left| left.clamp(Duration::from_nanos(1), EVERY));
        let waited = wait(step, left.is_some_and(|left| left <= step));
        progress.call1(local()?)?;
        if waited? {
            return Ok(());
        }
    }
}

/// Whether a wait reached its end: not where only its step was over.
pub fn reached(outcome: Result<()>, is_last: bool) -> Result<bool> {
    match outcome {
        Err(error) if error.code() == Code::Timeout && !is_last => Ok(false),
        outcome => outcome.map(|()| true),
    }
}
