//! Arguments as Python gives them: numbers of any size, and times.

use std::time::Duration;

use pyo3::exceptions::{PyOverflowError, PyTypeError};
use pyo3::prelude::*;
use r3map_core::{Code, Error};

use crate::error;

/// An offset or a length in bytes. One that is negative, or more than any region has, is `out_of_range` and not an
/// `OverflowError`.
#[derive(Clone, Copy)]
pub struct Bytes(pub u64);

impl<'py> FromPyObject<'_, 'py> for Bytes {
    type Error = PyErr;
    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Bytes> {
        let py = object.py();
        match object.extract::<u64>() {
            Ok(value) => Ok(Bytes(value)),
            Err(raised) if raised.is_instance_of::<PyOverflowError>(py) => {
                let message = format!("{}: offsets and lengths lie between 0 and 2^63", object.str()?);
                Err(error::raise(py, Error::new(Code::OutOfRange, message)))
            }
            Err(raised) => Err(raised),
        }
    }
}

/// How long to wait: seconds, or `None` for ever, which the core writes as zero.
#[derive(Clone, Copy)]
pub struct Timeout(pub Duration);

impl Timeout {
    /// Waits for ever.
    pub const NEVER: Timeout = Timeout(Duration::ZERO);
}

impl<'py> FromPyObject<'_, 'py> for Timeout {
    type Error = PyErr;
    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Timeout> {
        if object.is_none() {
            return Ok(Timeout(Duration::ZERO));
        }
        Ok(Timeout(time(&object)?.max(Duration::from_nanos(1))))
    }
}

/// A time in seconds, or a `datetime.timedelta`.
pub fn time(object: &Bound<'_, PyAny>) -> PyResult<Duration> {
    if let Ok(time) = object.extract::<Duration>() {
        return Ok(time);
    }
    let seconds: f64 = match object.extract() {
        Ok(seconds) => seconds,
        Err(_) => return Err(PyTypeError::new_err(format!("a time is a number of seconds, not {}", type_of(object)?))),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| {
        error::raise(object.py(), Error::new(Code::InvalidArgument, format!("{seconds} is no number of seconds")))
    })
}

/// The name of an object's type, for messages.
pub fn type_of(object: &Bound<'_, PyAny>) -> PyResult<String> {
    Ok(object.get_type().qualname()?.to_string())
}
