//! What happens to a mount in the background.

use pyo3::prelude::*;

use crate::error;

/// One event of a mount.
#[pyclass(frozen, get_all, module = "r3map")]
pub struct Event {
    /// Its number; the first is 1. What `next` takes.
    sequence: u64,
    /// What happened: `local`, `disconnected`, `recovered`, `push_failed`, `cache_full`, and of a mount that was
    /// leeched `drained`, `fenced`, `abandoned`.
    kind: &'static str,
    /// Why, where there is a why: an `r3map.Error`.
    cause: Option<Py<PyAny>>,
}

impl Event {
    pub fn new(py: Python<'_>, event: r3map_core::event::Event) -> PyResult<Event> {
        let cause = event.cause.as_ref().map(|cause| error::exception(py, cause)).transpose()?;
        Ok(Event { sequence: event.sequence, kind: event.kind.name(), cause: cause.map(Bound::unbind) })
    }
}

#[pymethods]
impl Event {
    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let cause = match &self.cause {
            Some(cause) => format!(": {}", cause.bind(py).str()?),
            None => String::new(),
        };
        Ok(format!("<r3map.Event {} {}{cause}>", self.sequence, self.kind))
    }
}
