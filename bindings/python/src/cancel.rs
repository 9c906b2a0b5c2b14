//! The switch that ends calls from another thread.

use pyo3::prelude::*;

/// A switch that another thread triggers to end the calls it was given to by `with_cancel`. Once triggered it stays so.
#[pyclass(frozen, module = "r3map")]
pub struct Cancel(pub r3map_core::Cancel);

#[pymethods]
impl Cancel {
    #[new]
    fn new() -> Cancel {
        Cancel(r3map_core::Cancel::new())
    }

    /// Ends every call that waits with this switch, now and from now on, with `r3map.Cancelled`.
    fn trigger(&self) {
        self.0.trigger();
    }

    /// Whether it was triggered.
    #[getter]
    fn triggered(&self) -> bool {
        self.0.is_triggered()
    }

    fn __repr__(&self) -> &'static str {
        if self.0.is_triggered() { "<r3map.Cancel, triggered>" } else { "<r3map.Cancel>" }
    }
}
