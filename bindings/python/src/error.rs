//! Errors of the core as exceptions of Python, and back.

use std::io;

use pyo3::exceptions::{PyMemoryError, PyOSError, PyTimeoutError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use r3map_core::{Code, Error};

/// `r3map.errors.of`, which makes the exception of a code.
static OF: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// `r3map.Error`.
static BASE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

fn imported<'py>(py: Python<'py>, place: &'static PyOnceLock<Py<PyAny>>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    let found = place.get_or_try_init(py, || Ok::<_, PyErr>(py.import("r3map.errors")?.getattr(name)?.unbind()))?;
    Ok(found.bind(py).clone())
}

/// The exception object of an error; the exception of a backend written in Python that caused it is its cause.
pub fn exception<'py>(py: Python<'py>, error: &Error) -> PyResult<Bound<'py, PyAny>> {
    let arguments = (error.code().name(), error.message(), error.is_retryable());
    let made = imported(py, &OF, "of")?.call1(arguments)?;
    if let Some(cause) = cause(error) {
        // With its traceback, which `value` would leave behind.
        made.setattr("__cause__", cause.clone_ref(py).into_value(py))?;
    }
    Ok(made)
}

/// An error of the core, to be raised.
pub fn raise(py: Python<'_>, error: Error) -> PyErr {
    exception(py, &error).map_or_else(|failure| failure, PyErr::from_value)
}

/// The exception that a backend written in Python raised.
fn cause(error: &Error) -> Option<&PyErr> {
    let mut source = std::error::Error::source(error);
    while let Some(found) = source {
        if let Some(raised) = found.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            return raised.downcast_ref::<PyErr>();
        }
        source = found.source();
    }
    None
}

/// What Python code raised, as an error of the core: an `r3map.Error` keeps its code, an `OSError` gets the code of its
/// errno, anything else is `io`.
pub fn caught(py: Python<'_>, what: &str, raised: PyErr) -> Error {
    if let Some(error) = ours(py, &raised) {
        return error.context(what);
    }
    if raised.is_instance_of::<PyTimeoutError>(py) {
        return Error::new(Code::Timeout, format!("{what}: {raised}"));
    }
    let number: Option<i32> = match raised.is_instance_of::<PyOSError>(py) {
        true => raised.value(py).getattr("errno").and_then(|number| number.extract()).ok(),
        false => None,
    };
    match number {
        Some(number) => Error::io(what, io::Error::from_raw_os_error(number)),
        None if raised.is_instance_of::<PyMemoryError>(py) => Error::new(Code::Io, format!("{what}: out of memory")),
        None => Error::io(what, io::Error::other(raised)),
    }
}

fn ours(py: Python<'_>, raised: &PyErr) -> Option<Error> {
    let value = raised.value(py);
    if !value.is_instance(&imported(py, &BASE, "Error").ok()?).ok()? {
        return None;
    }
    let name: String = value.getattr("code").ok()?.extract().ok()?;
    let code = Code::ALL.into_iter().find(|code| code.name() == name)?;
    let retryable = value.getattr("retryable").and_then(|word| word.extract()).unwrap_or(false);
    let message: String = value.getattr("message").ok()?.extract().ok()?;
    Some(Error::new(code, message).with_retryable(retryable))
}

/// Whether an exception is that of a code.
pub fn is(py: Python<'_>, raised: &PyErr, code: Code) -> bool {
    ours(py, raised).is_some_and(|error| error.code() == code)
}

/// Every code by name, with its errno and whether it is retryable: what `r3map.errors` makes its classes of.
#[pyfunction]
pub fn codes() -> Vec<(&'static str, i32, bool)> {
    let of = |code: Code| (code.name(), code.errno(), Error::new(code, "").is_retryable());
    Code::ALL.into_iter().map(of).collect()
}

/// A failure of `__exit__` with what it interrupted as its context, as Python itself would set it.
pub fn while_handling(py: Python<'_>, failure: PyErr, raised: &Bound<'_, PyAny>) -> PyErr {
    // Without one there is no context to set.
    let _ = raised.get_item(1).and_then(|before| failure.value(py).setattr("__context__", before));
    failure
}
