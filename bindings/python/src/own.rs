//! A backend written in Python: any object with `size`, `read_at(length, offset)`, `write_at(data, offset)` and
//! `sync()`. Its methods run on threads of the library, which take the interpreter's lock for them.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use r3map_core::backend::{Backend, Info};
use r3map_core::{Code, Error, Result};

use crate::argument::type_of;
use crate::buffer::Lent;
use crate::ending::Inside;
use crate::error::caught;

/// The longest request, as of the library's own stores.
const MOST: usize = 32 << 20;

pub struct Own {
    info: Info,
    object: Py<PyAny>,
    /// A semaphore of Python's, where the object allows only so many calls at once.
    turns: Option<Py<PyAny>>,
}

impl Own {
    pub fn new(object: &Bound<'_, PyAny>) -> PyResult<Own> {
        let optional = |name: &str| object.getattr_opt(name);
        for (name, needed) in [("read_at", true), ("write_at", false), ("sync", false)] {
            match optional(name)? {
                Some(method) if method.is_callable() => {}
                None if !needed => {}
                _ => {
                    let kind = type_of(object)?;
                    return Err(PyTypeError::new_err(format!(
                        "a backend is a URL, a Backend, a Mount or an object with size and read_at; {kind} has no {name}()"
                    )));
                }
            }
        }
        let size = object.getattr("size")?;
        let size = if size.is_callable() { size.call0()? } else { size };
        let size: i64 = size.extract()?;
        let size = u64::try_from(size).map_err(|_| PyValueError::new_err(format!("size is {size}")))?;
        let kind = type_of(object)?;
        let name = optional("name")?.and_then(|name| name.extract().ok()).unwrap_or_else(|| format!("backend {kind}"));
        let chunk_size = optional("chunk_size")?.map_or(Ok(64 << 10), |value| value.extract())?;
        if !u32::is_power_of_two(chunk_size) || !(4096..=MOST as u32).contains(&chunk_size) {
            let message = format!("chunk_size: {chunk_size} is not a power of two from 4 KiB to 32 MiB");
            return Err(PyValueError::new_err(message));
        }
        let most: Option<u32> = optional("concurrency")?.map(|value| value.extract()).transpose()?;
        let turns = match most {
            Some(0) => return Err(PyValueError::new_err("concurrency: 0 calls at once would never do anything")),
            Some(most) => Some(object.py().import("threading")?.getattr("Semaphore")?.call1((most,))?.unbind()),
            None => None,
        };
        let says_so = optional("read_only")?.map_or(Ok(false), |word| word.is_truthy())?;
        let info = Info {
            local: false,
            read_only: says_so || optional("write_at")?.is_none(),
            chunk_size,
            concurrency: most.unwrap_or(16),
            managed_runtime: true,
            ..Info::local(name, size)
        };
        Ok(Own { info, object: object.clone().unbind(), turns })
    }

    /// Calls a method of the object with the interpreter's lock.
    fn call<T>(&self, what: &str, body: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<T>) -> Result<T> {
        let _inside = Inside::enter()?;
        Python::attach(|py| {
            let in_turn = || {
                let Some(turns) = &self.turns else { return body(self.object.bind(py)) };
                turns.call_method0(py, "acquire")?;
                let outcome = body(self.object.bind(py));
                turns.call_method0(py, "release")?;
                outcome
            };
            in_turn().map_err(|raised| caught(py, &format!("{}: {what}", self.info.name), raised))
        })
    }
}

impl Backend for Own {
    fn info(&self) -> &Info {
        &self.info
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.info.check(offset, buffer.len() as u64)?;
        for (index, piece) in buffer.chunks_mut(MOST).enumerate() {
            let at = offset + (index * MOST) as u64;
            self.call("read", |object| {
                let answer = object.call_method1("read_at", (piece.len(), at))?;
                let found = Lent::to_read(&answer)?;
                if found.len() != piece.len() {
                    let message = format!("read_at({}, {at}) returned {} bytes", piece.len(), found.len());
                    return Err(PyValueError::new_err(message));
                }
                piece.copy_from_slice(found.bytes());
                Ok(())
            })?;
        }
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.info.check(offset, data.len() as u64)?;
        if self.info.read_only {
            return Err(Error::new(Code::ReadOnly, format!("{}: it is read-only", self.info.name)));
        }
        for (index, piece) in data.chunks(MOST).enumerate() {
            let at = offset + (index * MOST) as u64;
            self.call("write", |object| {
                object.call_method1("write_at", (PyBytes::new(object.py(), piece), at)).map(drop)
            })?;
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.call("sync", |object| match object.getattr_opt("sync")? {
            Some(sync) => sync.call0().map(drop),
            None => Ok(()),
        })
    }
}
