//! Where bytes live: a URL, a connected socket, or an object of Python.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyInt, PyString};
use r3map_core::backend::remote::Remote;
use r3map_core::backend::{self as core, Operation};
use r3map_core::cancel::Limit;
use r3map_core::{BackendOptions, Code, Error, Result};

use crate::argument::Bytes;
use crate::buffer::Lent;
use crate::cancel::Cancel;
use crate::error::while_handling;
use crate::mount::Mount;
use crate::options::{self, raised, word};
use crate::own::Own;
use crate::owned::Owned;
use crate::wait::{wait, wait_apart};

/// How long a call on a backend may take: as a mount's by default.
const DEADLINE: Duration = Duration::from_secs(30);

/// Where bytes live. Offsets, lengths and sizes are in bytes; reads and writes are whole or an error, may be made from
/// many threads at once, and end with `r3map.Timeout` after 30 seconds. Leaving a `with` closes it.
#[pyclass(frozen, module = "r3map")]
pub struct Backend {
    backend: Arc<Open>,
    cancel: Option<r3map_core::Cancel>,
}

struct Open {
    backend: Owned<Arc<dyn core::Backend>>,
    closed: AtomicBool,
}

impl Backend {
    fn new(backend: Arc<dyn core::Backend>) -> Backend {
        Backend {
            backend: Arc::new(Open { backend: Owned::new(backend), closed: AtomicBool::new(false) }),
            cancel: None,
        }
    }

    /// The core's backend, unless it was closed or this is a forked child.
    fn open(&self) -> Result<&Arc<dyn core::Backend>> {
        let backend = self.backend.backend.get("backend")?;
        if self.backend.closed.load(Ordering::Acquire) {
            return Err(Error::new(Code::Closed, format!("{}: the backend is closed", backend.info().name)));
        }
        Ok(backend)
    }

    fn checked(&self, offset: u64, length: u64) -> Result<&Arc<dyn core::Backend>> {
        let backend = self.open()?;
        backend.info().check(offset, length)?;
        Ok(backend)
    }

    fn wait<T: Send>(&self, py: Python<'_>, body: impl FnOnce(&Limit) -> Result<T> + Send) -> PyResult<T> {
        wait(py, self.cancel.as_ref(), |cancel| body(&Limit::within(DEADLINE).with_cancel(cancel)))
    }
}

/// What a caller named as a backend.
pub enum Source {
    Url(String),
    Open(Arc<dyn core::Backend>),
}

impl Source {
    pub fn of(py: Python<'_>, object: &Bound<'_, PyAny>) -> PyResult<Source> {
        if object.is_instance_of::<PyString>() {
            return Ok(Source::Url(object.extract()?));
        }
        if let Ok(backend) = object.cast::<Backend>() {
            return Ok(Source::Open(raised(py, backend.get().open())?.clone()));
        }
        if let Ok(mount) = object.cast::<Mount>() {
            return Ok(Source::Open(Arc::new(raised(py, mount.get().core())?.clone())));
        }
        Ok(Source::Open(Arc::new(Own::new(object)?)))
    }

    pub fn open(self, options: &BackendOptions) -> Result<Arc<dyn core::Backend>> {
        match self {
            Source::Url(url) => core::open(&url, options),
            Source::Open(backend) => Ok(backend),
        }
    }
}

/// open_backend(backend, /, **options)
/// --
///
/// Opens the backend that a URL names, or takes an object with `size`, `read_at(length, offset)`, and, unless it is
/// read-only, `write_at(data, offset)` and `sync()`. Its methods are called from threads of the library, several at
/// once unless its attribute `concurrency` says how many.
#[pyfunction]
#[pyo3(signature = (backend, /, **options))]
pub fn open_backend(
    py: Python<'_>,
    backend: &Bound<'_, PyAny>,
    options: Option<&Bound<'_, PyDict>>,
) -> PyResult<Backend> {
    let source = Source::of(py, backend)?;
    let found = options::backend(py, options)?;
    if matches!(source, Source::Open(_)) {
        options::check_none_for_backend(py, options.is_some_and(|options| !options.is_empty()))?;
    }
    Ok(Backend::new(wait_apart(py, "open a backend", move || source.open(&found))?))
}

/// connect(connection, name, /, **options)
/// --
///
/// Opens the export of that name at the other end of a connected stream socket: a `socket.socket` or a descriptor,
/// which is the library's, and closed here, once this has returned. Such a backend cannot connect again.
#[pyfunction]
#[pyo3(signature = (connection, name, /, **options))]
pub fn connect(
    py: Python<'_>,
    connection: &Bound<'_, PyAny>,
    name: &Bound<'_, PyAny>,
    options: Option<&Bound<'_, PyDict>>,
) -> PyResult<Backend> {
    let (name, found) = (word(name, "a name")?, options::backend(py, options)?);
    let own = descriptor(py, connection)?;
    let backend = wait_apart(py, "connect a backend", move || Remote::connect(own, &name, &found))?;
    give_away(connection)?;
    Ok(Backend::new(Arc::new(backend)))
}

/// A descriptor of our own for what the caller's refers to, so that the caller's stays as it is on failure.
pub fn descriptor(py: Python<'_>, object: &Bound<'_, PyAny>) -> PyResult<OwnedFd> {
    let number: i32 = match object.is_instance_of::<PyInt>() {
        true => object.extract()?,
        false => object.call_method0("fileno")?.extract()?,
    };
    // SAFETY: fcntl takes any number.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } == -1 {
        let message = format!("descriptor {number} is not open");
        return raised(py, Err(Error::new(Code::InvalidArgument, message)));
    }
    // SAFETY: it is open, and the caller leaves it so during this call.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    let own = borrowed.try_clone_to_owned();
    raised(py, own.map_err(|error| Error::io(format!("take descriptor {}", borrowed.as_raw_fd()), error)))
}

/// Closes the caller's end of what passed to the library.
pub fn give_away(object: &Bound<'_, PyAny>) -> PyResult<()> {
    if object.is_instance_of::<PyInt>() {
        // SAFETY: the caller gave the descriptor away and uses it no more.
        drop(unsafe { OwnedFd::from_raw_fd(object.extract()?) });
        return Ok(());
    }
    object.call_method0("close").map(drop)
}

#[pymethods]
impl Backend {
    /// Size in bytes.
    #[getter]
    fn size(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(raised(py, self.open())?.info().size)
    }

    /// Whether writes are refused.
    #[getter]
    fn read_only(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(raised(py, self.open())?.info().read_only)
    }

    /// The bytes at an offset: all of them, or an error.
    fn read_at<'py>(&self, py: Python<'py>, length: Bytes, offset: Bytes) -> PyResult<Bound<'py, PyBytes>> {
        let backend = raised(py, self.checked(offset.0, length.0))?;
        PyBytes::new_with(py, length.0 as usize, |buffer| {
            self.wait(py, |limit| core::read(backend, buffer, offset.0, limit))
        })
    }

    /// Fills a writable buffer with the bytes at an offset: all of it, or an error.
    fn read_into(&self, py: Python<'_>, buffer: &Bound<'_, PyAny>, offset: Bytes) -> PyResult<()> {
        let mut lent = Lent::to_fill(buffer)?;
        let backend = raised(py, self.checked(offset.0, lent.len() as u64))?;
        self.wait(py, |limit| core::read(backend, lent.bytes_mut(), offset.0, limit))
    }

    /// Stores the bytes of a buffer at an offset: all of them, or an error, after which some may be stored.
    fn write_at(&self, py: Python<'_>, data: &Bound<'_, PyAny>, offset: Bytes) -> PyResult<()> {
        let lent = Lent::to_read(data)?;
        let backend = raised(py, self.checked(offset.0, lent.len() as u64))?;
        if backend.info().read_only {
            let message = format!("{} is open read-only", backend.info().name);
            return raised(py, Err(Error::new(Code::ReadOnly, message)));
        }
        self.wait(py, |limit| core::write(backend, lent.bytes(), offset.0, limit))
    }

    /// Makes every write acknowledged before this call durable.
    fn sync(&self, py: Python<'_>) -> PyResult<()> {
        let backend = raised(py, self.open())?;
        self.wait(py, |limit| core::call(backend, Operation::Sync, limit, "sync").map(drop))
    }

    /// The same backend, whose calls through this object end with `r3map.Cancelled` once `cancel` is triggered.
    fn with_cancel(&self, cancel: &Cancel) -> Backend {
        Backend { backend: self.backend.clone(), cancel: Some(cancel.0.clone()) }
    }

    /// Closes it, without a sync. A connection ends, and mounts that still use it fail too.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let backend = raised(py, self.open())?.clone();
        wait_apart(py, "close a backend", move || backend.close())?;
        self.backend.closed.store(true, Ordering::Release);
        Ok(())
    }

    fn __enter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    #[pyo3(signature = (*raised))]
    fn __exit__(&self, py: Python<'_>, raised: &Bound<'_, PyAny>) -> PyResult<()> {
        match self.backend.closed.load(Ordering::Acquire) {
            true => Ok(()),
            false => self.close(py).map_err(|failure| while_handling(py, failure, raised)),
        }
    }

    fn __repr__(&self) -> String {
        let closed = if self.backend.closed.load(Ordering::Acquire) { ", closed" } else { "" };
        format!("<r3map.Backend {}{closed}>", self.backend.backend.info().name)
    }
}
