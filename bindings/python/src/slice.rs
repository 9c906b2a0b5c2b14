//! A region as memory of Python: what lends it, and what happens while it is lent.
//!
//! `Mount.slice()` is a memoryview over a [`Lender`]. As long as any view lives (numpy arrays made of it too) the
//! device stays attached: `close` syncs and refuses, and a mount whose `with` was left ends when the last view dies.

use std::ffi::c_int;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard};

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use r3map_core::{Code, Error, Mount, Result, Slice};

use crate::ending::detached;
use crate::error;
use crate::owned::Owned;

/// A mount and its views; shared by all objects of Python that lead to it.
pub struct Region {
    mount: Owned<Mount>,
    views: Mutex<Views>,
    /// The last event that was taken without a number.
    pub taken: AtomicU64,
}

/// The views that live, and what that means for the mount.
#[derive(Default)]
struct Views {
    count: usize,
    stage: Stage,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Open,
    /// Its `with` was left: it ends with its last view.
    Left,
    /// Being closed, or closed: nothing is lent any more.
    Closed,
}

impl Region {
    pub fn new(mount: Mount) -> Region {
        Region { mount: Owned::new(mount), views: Mutex::default(), taken: AtomicU64::new(0) }
    }

    fn views(&self) -> MutexGuard<'_, Views> {
        self.views.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The core's mount, for calls of the user.
    pub fn open(&self) -> Result<&Mount> {
        let mount = self.mount.get("mount")?;
        match self.views().stage {
            Stage::Left => Err(Error::new(Code::Closed, "the mount's `with` was left; only views of its slice live")),
            _ => Ok(mount),
        }
    }

    /// The core's mount, whatever became of it.
    pub fn mount(&self) -> &Mount {
        &self.mount
    }

    pub fn is_closed(&self) -> bool {
        self.views().stage != Stage::Open
    }

    /// Ends the mount by `end`, unless views live, which are counted then.
    pub fn end(&self, end: impl FnOnce() -> PyResult<()>) -> PyResult<Option<usize>> {
        let first = {
            let mut views = self.views();
            if views.count > 0 {
                return Ok(Some(views.count));
            }
            // From here on nothing is lent.
            std::mem::replace(&mut views.stage, Stage::Closed) != Stage::Closed
        };
        // Of several at once only the first can find it open again.
        end()
            .inspect_err(|_| {
                if first {
                    self.views().stage = Stage::Open
                }
            })
            .map(|()| None)
    }

    /// Leaves the end of the mount to its last view. False if none lives any more.
    pub fn leave(&self) -> bool {
        let mut views = self.views();
        if views.count > 0 {
            views.stage = Stage::Left;
        }
        views.count > 0
    }

    fn lend(&self) -> PyResult<()> {
        let mut views = self.views();
        if views.stage == Stage::Closed {
            return Err(PyBufferError::new_err("the slice of a closed mount"));
        }
        views.count += 1;
        Ok(())
    }

    /// Whether that was the last view of a mount whose `with` was left.
    fn take_back(&self) -> bool {
        let mut views = self.views();
        views.count -= 1;
        let last = views.count == 0 && views.stage == Stage::Left;
        if last {
            views.stage = Stage::Closed;
        }
        last
    }
}

/// What a memoryview of a slice is made of.
#[pyclass(frozen, module = "r3map")]
pub struct Lender {
    region: Arc<Region>,
    slice: Slice,
}

impl Lender {
    pub fn new(region: Arc<Region>, slice: Slice) -> Lender {
        Lender { region, slice }
    }
}

#[pymethods]
impl Lender {
    /// # Safety
    /// As the buffer protocol says: `view` may be written.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let lender = slf.get();
        lender.region.open().map_err(|failure| error::raise(slf.py(), failure))?;
        lender.region.lend()?;
        let (start, length) = (lender.slice.as_ptr().cast(), lender.slice.len() as ffi::Py_ssize_t);
        let read_only = lender.slice.is_read_only().into();
        // SAFETY: the view may be written; the memory is mapped until every view of it is given back.
        if unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start, length, read_only, flags) } == -1 {
            lender.region.take_back();
            return Err(PyErr::fetch(slf.py()));
        }
        Ok(())
    }

    /// # Safety
    /// As the buffer protocol says: `view` came from `__getbuffer__`.
    unsafe fn __releasebuffer__(&self, py: Python<'_>, _view: *mut ffi::Py_buffer) {
        if !self.region.take_back() {
            return;
        }
        let mount = self.region.mount();
        if let Err(failure) = detached(py, || mount.close()) {
            if failure.code() != Code::Closed {
                // There is nobody to raise it to; the mount may be closed again.
                self.region.views().stage = Stage::Open;
                error::raise(py, failure).write_unraisable(py, None);
            }
        }
    }
}
