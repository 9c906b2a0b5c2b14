//! A backend as a region of this host.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use pyo3::exceptions::PyBufferError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyMemoryView};
use r3map_core::backend::{Backend as _, transfer_size};
use r3map_core::{Mount as Core, Result};

use crate::argument::{Bytes, Timeout};
use crate::backend::Source;
use crate::buffer::Lent;
use crate::cancel::Cancel;
use crate::error::while_handling;
use crate::event::Event;
use crate::options::{self, Options, asked_ranges, check_none_for_backend, raised, word};
use crate::progress::{check_share, reached, wait_in_steps};
use crate::seeder::Seeder;
use crate::slice::{Lender, Region};
use crate::stats;
use crate::wait::{wait, wait_apart};

/// A mounted region, made by `r3map.mount` or a leecher. Every method may be called from any thread. Writes are durable
/// after `sync` or `close`. Leaving a `with` closes it, or, while views of its slice live, syncs and leaves the closing
/// to the last of them.
#[pyclass(frozen, module = "r3map")]
pub struct Mount {
    region: Arc<Region>,
    cancel: Option<r3map_core::Cancel>,
}

impl Mount {
    pub fn new(mount: Core) -> Mount {
        Mount { region: Arc::new(Region::new(mount)), cancel: None }
    }

    /// The core's mount, unless its `with` was left or this is a forked child.
    pub fn core(&self) -> Result<&Core> {
        self.region.open()
    }

    /// Runs a call on the core's mount that may wait.
    fn wait<T: Send>(&self, py: Python<'_>, body: impl FnOnce(&Core) -> Result<T> + Send) -> PyResult<T> {
        let mount = raised(py, self.core())?;
        wait(py, self.cancel.as_ref(), |cancel| match cancel {
            Some(cancel) => body(&mount.with_cancel(cancel)),
            None => body(mount),
        })
    }

    fn check(&self, py: Python<'_>, offset: u64, length: u64) -> PyResult<()> {
        raised(py, self.core().and_then(|mount| mount.info().check(offset, length)))
    }

    /// The rest of the region where no length is given.
    fn length(&self, offset: u64, length: Option<Bytes>) -> u64 {
        length.map_or_else(|| self.region.mount().size().saturating_sub(offset), |length| length.0)
    }
}

/// mount(backend, /, **options)
/// --
///
/// Mounts a backend: a URL, a `Backend`, another `Mount`, or an object of your own. No device exists until a path, file
/// or slice is asked for. The options are those of `r3map.MountOptions`.
#[pyfunction]
#[pyo3(signature = (backend, /, **options))]
pub fn mount(py: Python<'_>, backend: &Bound<'_, PyAny>, options: Option<&Bound<'_, PyDict>>) -> PyResult<Mount> {
    let source = Source::of(py, backend)?;
    let Options { mut mount, backend, for_backend, priority } = Options::of(py, options)?;
    if matches!(source, Source::Open(_)) {
        check_none_for_backend(py, for_backend)?;
    }
    let opened = match (source, priority) {
        (Source::Url(url), None) => wait_apart(py, "mount", move || mount.open_url(&url, &backend))?,
        (source, priority) => {
            let opened = wait_apart(py, "open a backend", move || source.open(&backend))?;
            if let Some(priority) = priority {
                let chunk = mount.chunk_size.unwrap_or(transfer_size(opened.info()) as u32).max(4096);
                mount.pull_ranges = asked_ranges(priority.bind(py), opened.info().size, chunk.into())?;
            }
            wait_apart(py, "mount", move || Core::open(opened, mount))?
        }
    };
    Ok(Mount::new(opened))
}

#[pymethods]
impl Mount {
    /// Size in bytes; of a closed mount too.
    #[getter]
    fn size(&self) -> u64 {
        self.region.mount().size()
    }

    /// Whether writes are refused.
    #[getter]
    fn read_only(&self) -> bool {
        self.region.mount().is_read_only()
    }

    /// Whether it was closed, or its `with` was left.
    #[getter]
    fn closed(&self) -> bool {
        self.region.is_closed()
    }

    /// The kind of the device that is attached, `nbd`, `userfaultfd` or `fuse`; `None` while none is.
    #[getter]
    fn device(&self) -> Option<&'static str> {
        self.region.mount().device().map(r3map_core::device::Kind::name)
    }

    /// The bytes at an offset: all of them, or an error.
    fn read_at<'py>(&self, py: Python<'py>, length: Bytes, offset: Bytes) -> PyResult<Bound<'py, PyBytes>> {
        // Before so much memory is asked for.
        self.check(py, offset.0, length.0)?;
        PyBytes::new_with(py, length.0 as usize, |buffer| self.wait(py, |mount| mount.read_at(buffer, offset.0)))
    }

    /// Fills a writable buffer with the bytes at an offset: all of it, or an error.
    fn read_into(&self, py: Python<'_>, buffer: &Bound<'_, PyAny>, offset: Bytes) -> PyResult<()> {
        let mut lent = Lent::to_fill(buffer)?;
        self.wait(py, |mount| mount.read_at(lent.bytes_mut(), offset.0))
    }

    /// Writes the bytes of a buffer at an offset: all of them, or an error, after which some may be written.
    fn write_at(&self, py: Python<'_>, data: &Bound<'_, PyAny>, offset: Bytes) -> PyResult<()> {
        let lent = Lent::to_read(data)?;
        self.wait(py, |mount| mount.write_at(lent.bytes(), offset.0))
    }

    /// Makes everything written before this call, through any view, durable at the backend. Once a write was lost,
    /// every sync fails.
    fn sync(&self, py: Python<'_>) -> PyResult<()> {
        self.wait(py, Core::sync)
    }

    /// Makes a range resident, or fails with what prevents it.
    #[pyo3(signature = (offset=Bytes(0), length=None), text_signature = "($self, offset=0, length=None)")]
    fn pull(&self, py: Python<'_>, offset: Bytes, length: Option<Bytes>) -> PyResult<()> {
        let length = self.length(offset.0, length);
        self.wait(py, |mount| mount.pull(offset.0, length))
    }

    /// Asks for a range and returns at once.
    #[pyo3(signature = (offset=Bytes(0), length=None), text_signature = "($self, offset=0, length=None)")]
    fn prefetch(&self, py: Python<'_>, offset: Bytes, length: Option<Bytes>) -> PyResult<()> {
        let length = self.length(offset.0, length);
        self.wait(py, |mount| mount.prefetch(offset.0, length))
    }

    /// Keeps the order of first accesses in a file, for the option `trace` of a later mount.
    fn trace_save(&self, py: Python<'_>, path: std::path::PathBuf) -> PyResult<()> {
        self.wait(py, |mount| mount.trace_save(&path))
    }

    /// The parts of a range that are not here, in order, each as offset and length.
    #[pyo3(signature = (offset=Bytes(0), length=None), text_signature = "($self, offset=0, length=None)")]
    fn missing(&self, py: Python<'_>, offset: Bytes, length: Option<Bytes>) -> PyResult<Vec<(u64, u64)>> {
        let length = self.length(offset.0, length);
        let found = self.wait(py, |mount| mount.missing(offset.0, length))?;
        Ok(found.into_iter().map(|range| (range.start, range.end - range.start)).collect())
    }

    /// Waits until that share of the region, 0 to 1, is here, for at most `timeout` seconds. Asks for nothing by itself:
    /// with `pull="demand"` it may never come. `progress` is called with the bytes that are here and the size, now and
    /// then and at the end; what it raises ends the wait.
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
        let Some(progress) = progress else { return self.wait(py, |mount| mount.wait_local(share, timeout.0)) };
        let step = |time, is_last| self.wait(py, |mount| reached(mount.wait_local(share, time), is_last));
        wait_in_steps(timeout, progress, step, || Ok((self.local(py)?, self.size())))
    }

    /// The first event of this mount whose sequence number is more than `after`, by default the first that was not taken
    /// so, waiting for it at most `timeout` seconds. A close elsewhere does not end the wait.
    #[pyo3(signature = (after=None, timeout=Timeout::NEVER), text_signature = "($self, after=None, timeout=None)")]
    fn next(&self, py: Python<'_>, after: Option<u64>, timeout: Timeout) -> PyResult<Event> {
        let taken = &self.region.taken;
        let from = after.unwrap_or_else(|| taken.load(Ordering::Acquire));
        let event = self.wait(py, |mount| mount.next(from, timeout.0))?;
        if after.is_none() {
            taken.fetch_max(event.sequence, Ordering::AcqRel);
        }
        Event::new(py, event)
    }

    /// What the app at the source of a leeched mount gave along; empty for any other.
    #[getter]
    fn payload<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.region.mount().payload())
    }

    /// Makes this mount a region that a leecher may take, listening at `host:port` (port 0: one is chosen) or
    /// `unix:/path`. It stays in use meanwhile. The options are those of `r3map.SeedOptions`; with `on_suspend` or
    /// `on_resume` a thread answers events by calling them, without them take the events by iterating.
    #[pyo3(signature = (listen, /, **options))]
    fn seed<'py>(
        &self,
        py: Python<'py>,
        listen: &Bound<'py, PyAny>,
        options: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, Seeder>> {
        let (mount, listen) = (raised(py, self.core())?.clone(), word(listen, "an address")?);
        let (options, callbacks) = options::seed(py, options)?;
        Seeder::start(py, callbacks, move || mount.seed(&listen, &options))
    }

    /// A path of the region for other programs: a block device with nbd, of the size rounded up to 4096, or a regular
    /// file of the exact size with fuse.
    fn path(&self, py: Python<'_>) -> PyResult<std::ffi::OsString> {
        Ok(self.wait(py, Core::path)?.into_os_string())
    }

    /// The region as a file object, unbuffered: an `io.RawIOBase` over a new descriptor of the device.
    fn file<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        use std::os::fd::IntoRawFd;
        let file = self.wait(py, Core::file)?;
        py.import("r3map.file")?.getattr("File")?.call1((file.into_raw_fd(), self.size(), self.read_only()))
    }

    /// The region as memory: a memoryview of its bytes, read-only where the mount is. It keeps the region alive, and
    /// `close` refuses while it or anything made of it lives.
    ///
    /// The first touch of a page that is not here waits for it, and holds the interpreter's lock meanwhile: `pull` it
    /// first where other threads shall run. A page that cannot be had is a SIGBUS; `pull` raises instead. In a forked
    /// child the memory is not mapped.
    fn slice<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyMemoryView>> {
        let slice = self.wait(py, Core::slice)?;
        let lender = Bound::new(py, Lender::new(self.region.clone(), slice))?;
        PyMemoryView::from(lender.as_any())
    }

    /// Figures of this mount by name.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        stats::dictionary(py, &self.wait(py, Core::stats)?)
    }

    /// The same mount, whose calls through this object end with `r3map.Cancelled` once `cancel` is triggered.
    fn with_cancel(&self, cancel: &Cancel) -> Mount {
        Mount { region: self.region.clone(), cancel: Some(cancel.0.clone()) }
    }

    /// Syncs, detaches and closes. If that fails the mount stays open, to be closed again or discarded. While views of
    /// its slice live it only syncs and raises `BufferError`.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        match self.region.end(|| self.wait(py, Core::close))? {
            None => Ok(()),
            Some(views) => {
                if !self.read_only() {
                    self.sync(py)?;
                }
                Err(live(views, "close"))
            }
        }
    }

    /// Detaches and closes without a sync: what was not synced may be lost.
    fn discard(&self, py: Python<'_>) -> PyResult<()> {
        match self.region.end(|| self.wait(py, Core::discard))? {
            None => Ok(()),
            Some(views) => Err(live(views, "discard")),
        }
    }

    fn __enter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    #[pyo3(signature = (*raised))]
    fn __exit__(&self, py: Python<'_>, raised: &Bound<'_, PyAny>) -> PyResult<()> {
        if self.region.is_closed() {
            return Ok(());
        }
        let closed = match self.close(py) {
            // Synced; the last view closes it. If that went meanwhile, it is closed now.
            Err(refused) if refused.is_instance_of::<PyBufferError>(py) => match self.region.leave() {
                true => Ok(()),
                false => self.close(py),
            },
            outcome => outcome,
        };
        closed.map_err(|failure| while_handling(py, failure, raised))
    }

    fn __repr__(&self) -> String {
        let mount = self.region.mount();
        let device = mount.device().map(|kind| format!(", {kind}")).unwrap_or_default();
        let closed = if self.region.is_closed() { ", closed" } else { "" };
        format!("<r3map.Mount {}, {} bytes{device}{closed}>", mount.info().name, mount.size())
    }
}

impl Mount {
    /// How many bytes are here.
    fn local(&self, py: Python<'_>) -> PyResult<u64> {
        self.wait(py, |mount| {
            let missing = mount.missing(0, mount.size())?;
            Ok(mount.size() - missing.iter().map(|range| range.end - range.start).sum::<u64>())
        })
    }
}

fn live(views: usize, what: &str) -> PyErr {
    let views = if views == 1 { "a view".to_owned() } else { format!("{views} views") };
    PyBufferError::new_err(format!(
        "{what}: {views} of the slice still live: release them (memoryview.release(), del array) and {what} again"
    ))
}
