//! The side that a region moves away from.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use pyo3::prelude::*;
use pyo3::types::PyDict;
use r3map_core::{Code, Result, Seeder as Core};

use crate::argument::Timeout;
use crate::buffer::Lent;
use crate::cancel::Cancel;
use crate::error::{self, while_handling};
use crate::mount::Mount;
use crate::options::{self, Callbacks, raised, word};
use crate::owned::Owned;
use crate::stats;
use crate::wait::{wait, wait_apart};

/// What a mount, or several as one, are moved away by. Iterating gives its events, each once and none left out, until it is
/// closed. Leaving a `with` closes it.
#[pyclass(frozen, module = "r3map")]
pub struct Seeder {
    seeder: Arc<Shared>,
    cancel: Option<r3map_core::Cancel>,
}

struct Shared {
    seeder: Owned<Core>,
    /// The last event that was taken without a number.
    taken: AtomicU64,
    closed: AtomicBool,
}

/// One event of a seeder.
#[pyclass(frozen, get_all, module = "r3map")]
pub struct SeedEvent {
    /// Its number; the first is 1, and none is left out.
    sequence: u64,
    /// What happened: `waiting`, `tracking`, `suspending`, `resumed`, `committed`, `drained`, `trouble`.
    state: &'static str,
    /// Why, where there is a why: an `r3map.Error`.
    cause: Option<Py<PyAny>>,
}

#[pymethods]
impl SeedEvent {
    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let cause = match &self.cause {
            Some(cause) => format!(": {}", cause.bind(py).str()?),
            None => String::new(),
        };
        Ok(format!("<r3map.SeedEvent {} {}{cause}>", self.sequence, self.state))
    }
}

/// The event that an answer is to: the event itself, or its number.
fn sequence_of(event: &Bound<'_, PyAny>) -> PyResult<u64> {
    match event.cast::<SeedEvent>() {
        Ok(event) => Ok(event.get().sequence),
        Err(_) => event.extract(),
    }
}

impl Seeder {
    /// Begins to seed by `begin`, and to answer events by the callbacks, if any were given.
    pub fn start(
        py: Python<'_>,
        callbacks: Callbacks,
        begin: impl FnOnce() -> Result<Core> + Send + 'static,
    ) -> PyResult<Bound<'_, Seeder>> {
        let core = wait_apart(py, "seed", begin)?;
        let shared = Shared { seeder: Owned::new(core), taken: AtomicU64::new(0), closed: AtomicBool::new(false) };
        let seeder = Bound::new(py, Seeder { seeder: Arc::new(shared), cancel: None })?;
        if callbacks.on_suspend.is_some() || callbacks.on_resume.is_some() {
            let follow = py.import("r3map.seeding")?.getattr("follow")?;
            follow.call1((&seeder, callbacks.on_suspend, callbacks.on_resume))?;
        }
        Ok(seeder)
    }

    fn wait<T: Send>(&self, py: Python<'_>, body: impl FnOnce(&Core) -> Result<T> + Send) -> PyResult<T> {
        let seeder = raised(py, self.seeder.seeder.get("seeder"))?;
        wait(py, self.cancel.as_ref(), |cancel| match cancel {
            Some(cancel) => body(&seeder.with_cancel(cancel)),
            None => body(seeder),
        })
    }
}

#[pymethods]
impl Seeder {
    /// Where a leecher finds it, as it stands in a URL; `None` under a server, which has several addresses.
    #[getter]
    fn url(&self) -> Option<&str> {
        self.seeder.seeder.url()
    }

    /// The command by which a leecher takes the region, where the seeder made a certificate and a token by itself. It holds
    /// the token, a secret.
    fn client_line(&self) -> Option<String> {
        self.seeder.seeder.client_line()
    }

    /// The event after number `after`, by default after the last one taken so, waiting for it at most `timeout` seconds.
    /// After the last event of a closed seeder: `r3map.Closed`.
    #[pyo3(signature = (after=None, timeout=Timeout::NEVER), text_signature = "($self, after=None, timeout=None)")]
    fn next(&self, py: Python<'_>, after: Option<u64>, timeout: Timeout) -> PyResult<SeedEvent> {
        let taken = &self.seeder.taken;
        let from = after.unwrap_or_else(|| taken.load(Ordering::Acquire));
        let event = self.wait(py, |seeder| seeder.next(from, timeout.0))?;
        if after.is_none() {
            taken.fetch_max(event.sequence, Ordering::AcqRel);
        }
        let cause = event.cause.as_ref().map(|cause| error::exception(py, cause)).transpose()?;
        Ok(SeedEvent { sequence: event.sequence, state: event.state.name(), cause: cause.map(Bound::unbind) })
    }

    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<SeedEvent>> {
        match self.next(py, None, Timeout::NEVER) {
            Err(raised) if self.seeder.closed.load(Ordering::Acquire) && error::is(py, &raised, Code::Closed) => {
                Ok(None)
            }
            outcome => outcome.map(Some),
        }
    }

    /// The app has stopped writing, as that event asked; `payload` (at most 16 MiB) goes with the region. Calls on the
    /// mount fail `r3map.Suspended` from now on, and what comes of it is told by an event. An answer to an older event is
    /// `r3map.StaleEpoch`.
    #[pyo3(signature = (event, payload=None), text_signature = "($self, event, payload=b'')")]
    fn suspended(&self, py: Python<'_>, event: &Bound<'_, PyAny>, payload: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let (sequence, lent) = (sequence_of(event)?, payload.map(Lent::to_read).transpose()?);
        self.wait(py, |seeder| seeder.suspended(sequence, lent.as_ref().map_or(&[], Lent::bytes)))
    }

    /// The app does not stop now, though that event asked; the leecher hears `reason` and goes on pulling.
    fn refuse(&self, py: Python<'_>, event: &Bound<'_, PyAny>, reason: &Bound<'_, PyAny>) -> PyResult<()> {
        let (sequence, reason) = (sequence_of(event)?, word(reason, "a reason")?);
        self.wait(py, |seeder| seeder.refuse(sequence, &reason))
    }

    /// Waits until the leecher has every byte, for at most `timeout` seconds.
    #[pyo3(signature = (timeout=Timeout::NEVER), text_signature = "($self, timeout=None)")]
    fn wait_drained(&self, py: Python<'_>, timeout: Timeout) -> PyResult<()> {
        self.wait(py, |seeder| seeder.wait_drained(timeout.0))
    }

    /// Gives up what the leecher still lacks: those bytes are lost. For a region that was given away.
    fn abandon(&self, py: Python<'_>) -> PyResult<()> {
        self.wait(py, Core::abandon)
    }

    /// Takes the region back by force from a leecher that is lost for good: what was written there is lost.
    fn reclaim(&self, py: Python<'_>) -> PyResult<()> {
        self.wait(py, Core::reclaim)
    }

    /// Figures of this seeder by name.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        stats::dictionary(py, &self.wait(py, Core::stats)?)
    }

    /// The same seeder, whose calls through this object end with `r3map.Cancelled` once `cancel` is triggered.
    fn with_cancel(&self, cancel: &Cancel) -> Seeder {
        Seeder { seeder: self.seeder.clone(), cancel: Some(cancel.0.clone()) }
    }

    /// Ends it; a leecher that pulls hears so. `r3map.Busy` between `committed` and `drained`, when the leecher still lacks
    /// bytes: wait for it, or give them up by `abandon`. The mount stays open.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.wait(py, Core::close)?;
        self.seeder.closed.store(true, Ordering::Release);
        Ok(())
    }

    fn __enter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    #[pyo3(signature = (*raised))]
    fn __exit__(&self, py: Python<'_>, raised: &Bound<'_, PyAny>) -> PyResult<()> {
        match self.seeder.closed.load(Ordering::Acquire) {
            true => Ok(()),
            false => self.close(py).map_err(|failure| while_handling(py, failure, raised)),
        }
    }

    fn __repr__(&self) -> String {
        let closed = if self.seeder.closed.load(Ordering::Acquire) { ", closed" } else { "" };
        format!("<r3map.Seeder {}{closed}>", self.seeder.seeder.url().unwrap_or("under a server"))
    }
}

/// Mounts that move as one, in the order in which they were added.
#[pyclass(frozen, module = "r3map")]
pub struct Group(Owned<Arc<r3map_core::Group>>);

impl Group {
    /// The core's group, unless this is a forked child.
    pub fn core(&self) -> Result<Arc<r3map_core::Group>> {
        self.0.get("group").cloned()
    }
}

#[pymethods]
impl Group {
    #[new]
    fn new() -> Group {
        Group(Owned::new(Arc::new(r3map_core::Group::new())))
    }

    /// Adds a mount, at most 256.
    fn add(&self, py: Python<'_>, mount: &Mount) -> PyResult<()> {
        raised(py, self.core().and_then(|group| group.add(mount.core()?)))
    }

    /// Seeds them as one, listening at `host:port` or `unix:/path`. The options are those of `r3map.SeedOptions`.
    #[pyo3(signature = (listen, /, **options))]
    fn seed<'py>(
        &self,
        py: Python<'py>,
        listen: &Bound<'py, PyAny>,
        options: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, Seeder>> {
        let (group, listen) = (raised(py, self.core())?, word(listen, "an address")?);
        let (options, callbacks) = options::seed(py, options)?;
        Seeder::start(py, callbacks, move || group.seed(&listen, &options))
    }
}
