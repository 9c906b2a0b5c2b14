//! Calls that may wait: without the interpreter's lock, and ended by Ctrl-C.

use std::sync::Mutex;

use pyo3::prelude::*;
use r3map_core::cancel::{Limit, Waiter};
use r3map_core::{Cancel, Code, Error, Result, thread};

use crate::ending::{detached, is_main_thread};
use crate::error;

/// What a signal handler raised while the main thread waited.
static RAISED: Mutex<Option<PyErr>> = Mutex::new(None);

/// A switch that a signal handler triggers by raising, and `other` by being triggered.
fn interruptible(other: Option<Cancel>) -> Cancel {
    Cancel::asking(move || {
        if !is_main_thread() {
            return false;
        }
        let raised = Python::try_attach(|py| py.check_signals().err()).flatten();
        let stop = raised.is_some() || other.as_ref().is_some_and(Cancel::is_triggered);
        if raised.is_some() {
            *RAISED.lock().unwrap_or_else(|e| e.into_inner()) = raised;
        }
        stop
    })
}

/// Runs a call of the core that ends when its cancel is triggered.
pub fn wait<T: Send>(
    py: Python<'_>,
    cancel: Option<&Cancel>,
    body: impl FnOnce(Option<Cancel>) -> Result<T> + Send,
) -> PyResult<T> {
    if cancel.is_some_and(Cancel::is_triggered) {
        return Err(error::raise(py, Error::new(Code::Cancelled, "cancelled before it began")));
    }
    let first = is_main_thread();
    let cancel = if first { Some(interruptible(cancel.cloned())) } else { cancel.cloned() };
    let outcome = detached(py, || body(cancel));
    outcome.map_err(|failure| {
        let raised = if first && failure.code() == Code::Cancelled { take_raised() } else { None };
        raised.unwrap_or_else(|| error::raise(py, failure))
    })
}

/// Runs a call of the core that has no cancel of its own. Where a signal ends the wait, the call goes on by itself and
/// its result is thrown away.
pub fn wait_apart<T: Send + 'static>(
    py: Python<'_>,
    what: &'static str,
    body: impl FnOnce() -> Result<T> + Send + 'static,
) -> PyResult<T> {
    wait(py, None, move |cancel| {
        let Some(cancel) = cancel else { return body() };
        let (waiter, notifier) = Waiter::new();
        thread::spawn("r3map-call", move || notifier.notify(body()))
            .map_err(|error| Error::io(format!("{what}: start a thread"), error))?;
        waiter.wait(&Limit::none().with_cancel(Some(cancel)), what)?
    })
}

fn take_raised() -> Option<PyErr> {
    RAISED.lock().unwrap_or_else(|e| e.into_inner()).take()
}
