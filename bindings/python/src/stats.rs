//! Figures by name.

use pyo3::prelude::*;
use pyo3::types::PyDict;
use r3map_core::Stats;

/// Figures as a dictionary.
pub fn dictionary<'py>(py: Python<'py>, stats: &Stats) -> PyResult<Bound<'py, PyDict>> {
    let found = PyDict::new(py);
    for (name, value) in stats.iter() {
        found.set_item(name, value)?;
    }
    Ok(found)
}
