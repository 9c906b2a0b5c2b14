//! The side that a region moves to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use r3map_core::{Leecher as Core, Result};

use crate::argument::Timeout;
use crate::backend::{descriptor, give_away};
use crate::cancel::Cancel;
use crate::error::while_handling;
use crate::mount::Mount;
use crate::options::{Options, raised, word};
use crate::owned::Owned;
use crate::progress::{check_share, reached, wait_in_steps};
use crate::stats;
use crate::wait::{wait, wait_apart};

/// A region, or several that move as one, on the way here. It stays its source's until `finalize`. Leaving a `with` ends
/// the attempt; mounts that were handed out go on.
#[pyclass(frozen, module = "r3map")]
pub struct Leecher {
    leecher: Arc<Shared>,
    cancel: Option<r3map_core::Cancel>,
}

struct Shared {
    leecher: Owned<Core>,
    closed: AtomicBool,
}

/// leech(source, local, /, *, name=None, **options)
/// --
///
/// Begins to move the region that a seeder has to `local`: `memory:`, or a `file:` that is created at its size or goes on
/// where an earlier attempt left it. `source` is the seeder's URL, or a connected `socket.socket` or descriptor, which is
/// the library's once this has returned; with one, `name` says which region. Regions that move as one go each to its own of
/// a list of places. The options are those of `r3map.LeechOptions`.
#[pyfunction]
#[pyo3(signature = (source, local, /, *, name=None, **options))]
pub fn leech(
    py: Python<'_>,
    source: &Bound<'_, PyAny>,
    local: &Bound<'_, PyAny>,
    name: Option<&Bound<'_, PyAny>>,
    options: Option<&Bound<'_, PyDict>>,
) -> PyResult<Leecher> {
    let Options { mount, backend, .. } = Options::of(py, options)?;
    let leecher = match (source.is_instance_of::<PyString>(), local.is_instance_of::<PyString>()) {
        (true, one) => {
            let url = word(source, "a URL")?;
            let places: Vec<String> = if one { vec![local.extract()?] } else { local.extract()? };
            wait_apart(py, "leech", move || match one {
                true => Core::open(&url, &places[0], mount, &backend),
                false => Core::open_group(&url, &places, mount, &backend),
            })?
        }
        (false, _) => {
            let name = name.map_or_else(|| Ok("region".to_owned()), |name| word(name, "a name"))?;
            let (place, own) = (word(local, "a place")?, descriptor(py, source)?);
            let connected = wait_apart(py, "leech", move || Core::connect(own, &name, &place, mount, &backend))?;
            give_away(source)?;
            connected
        }
    };
    let shared = Shared { leecher: Owned::new(leecher), closed: AtomicBool::new(false) };
    Ok(Leecher { leecher: Arc::new(shared), cancel: None })
}

impl Leecher {
    fn wait<T: Send>(&self, py: Python<'_>, body: impl FnOnce(&Core) -> Result<T> + Send) -> PyResult<T> {
        let leecher = raised(py, self.leecher.leecher.get("leecher"))?;
        wait(py, self.cancel.as_ref(), |cancel| match cancel {
            Some(cancel) => body(&leecher.with_cancel(cancel)),
            None => body(leecher),
        })
    }
}

#[pymethods]
impl Leecher {
    /// Where it stands: `connecting`, `pulling`, `outpaced` (written there as fast as it comes here), `finalizing`,
    /// `owner` (the region is here, bytes of it still there), `complete`, `ended`, `fenced`.
    #[getter]
    fn state(&self, py: Python<'_>) -> PyResult<&'static str> {
        Ok(self.wait(py, Core::state)?.name())
    }

    /// Figures by name: `size`, `local_bytes`, `missing_bytes`, `dirty_bytes`, `dirty_rate` and `pull_rate` in bytes a
    /// second, `expected_pause_us`, `rounds`, `pulled_bytes`, `matched_bytes`, `epoch`.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        stats::dictionary(py, &self.wait(py, Core::stats)?)
    }

    /// Waits until that share of all bytes, 0 to 1, is here as it is at the source, for at most `timeout` seconds.
    /// `progress` is called with the bytes that are here and the size, now and then and at the end; what it raises ends
    /// the wait.
    #[pyo3(signature = (share=1.0, timeout=Timeout::NEVER, progress=None),
           text_signature = "($self, share=1.0, timeout=None, progress=None)")]
    fn wait_local(
        &self,
        py: Python<'_>,
        share: f64,
        timeout: Timeout,
        progress: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        check_share(py, share)?;
        let Some(progress) = progress else { return self.wait(py, |leecher| leecher.wait_local(share, timeout.0)) };
        let step = |time, is_last| self.wait(py, |leecher| reached(leecher.wait_local(share, time), is_last));
        let local = || {
            let stats = self.wait(py, Core::stats)?;
            Ok((stats.get("local_bytes").unwrap_or(0), stats.get("size").unwrap_or(0)))
        };
        wait_in_steps(timeout, progress, step, local)
    }

    /// Has the app at the source stop, takes the region over and hands it out: this is the pause. Bounded by the option
    /// `deadline`, after which it may be called again; `state` says who has the region. Of several regions that move as
    /// one it is the first.
    fn finalize(&self, py: Python<'_>) -> PyResult<Mount> {
        self.wait(py, Core::finalize).map(Mount::new)
    }

    /// The same of regions that move as one, in their order.
    fn finalize_group(&self, py: Python<'_>) -> PyResult<Vec<Mount>> {
        Ok(self.wait(py, Core::finalize_group)?.into_iter().map(Mount::new).collect())
    }

    /// Waits for at most `timeout` seconds until a share is here (`"95%"`) or until what is missing would come within a
    /// time (`"pause<20ms"`), then finalizes.
    #[pyo3(signature = (when, timeout=Timeout::NEVER), text_signature = "($self, when, timeout=None)")]
    fn finalize_when(&self, py: Python<'_>, when: &Bound<'_, PyAny>, timeout: Timeout) -> PyResult<Mount> {
        let when = word(when, "when")?;
        self.wait(py, |leecher| leecher.finalize_when(&when, timeout.0)).map(Mount::new)
    }

    /// The same leecher, whose calls through this object end with `r3map.Cancelled` once `cancel` is triggered.
    fn with_cancel(&self, cancel: &Cancel) -> Leecher {
        Leecher { leecher: self.leecher.clone(), cancel: Some(cancel.0.clone()) }
    }

    /// Ends the attempt; what is here of the region stays in a `file:`, for the next one. What was handed out goes on.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.wait(py, Core::close)?;
        self.leecher.closed.store(true, Ordering::Release);
        Ok(())
    }

    fn __enter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    #[pyo3(signature = (*raised))]
    fn __exit__(&self, py: Python<'_>, raised: &Bound<'_, PyAny>) -> PyResult<()> {
        match self.leecher.closed.load(Ordering::Acquire) {
            true => Ok(()),
            false => self.close(py).map_err(|failure| while_handling(py, failure, raised)),
        }
    }

    fn __repr__(&self) -> String {
        match self.leecher.leecher.get("leecher").and_then(Core::state) {
            Ok(state) => format!("<r3map.Leecher, {}>", state.name()),
            Err(_) => "<r3map.Leecher, closed>".to_owned(),
        }
    }
}
