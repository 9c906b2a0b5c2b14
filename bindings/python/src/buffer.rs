//! Memory that Python objects lend by the buffer protocol: bytes, bytearray, memoryview, array, numpy.

use std::ffi::c_int;

use pyo3::ffi;
use pyo3::prelude::*;

/// The contiguous memory of an object, lent until this is dropped.
pub struct Lent {
    view: Box<ffi::Py_buffer>,
}

// SAFETY: the memory stays where it is until it is given back. Other threads of Python may write to it meanwhile, as
// with any call of Python that reads or fills a buffer without the interpreter's lock.
unsafe impl Send for Lent {}
// SAFETY: as above.
unsafe impl Sync for Lent {}

impl Lent {
    /// Memory to be read.
    pub fn to_read(object: &Bound<'_, PyAny>) -> PyResult<Lent> {
        Lent::new(object, ffi::PyBUF_SIMPLE)
    }

    /// Memory to be written; read-only memory is a `BufferError`.
    pub fn to_fill(object: &Bound<'_, PyAny>) -> PyResult<Lent> {
        Lent::new(object, ffi::PyBUF_WRITABLE)
    }

    fn new(object: &Bound<'_, PyAny>, flags: c_int) -> PyResult<Lent> {
        let mut view = Box::new(ffi::Py_buffer::new());
        // SAFETY: the lock is held, and the view has an address of its own until it is released.
        if unsafe { ffi::PyObject_GetBuffer(object.as_ptr(), &mut *view, flags) } == -1 {
            return Err(PyErr::fetch(object.py()));
        }
        Ok(Lent { view })
    }

    /// How many bytes.
    pub fn len(&self) -> usize {
        self.view.len as usize
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        if self.view.len == 0 {
            return &[];
        }
        // SAFETY: the exporter lends that many contiguous bytes until the view is released.
        unsafe { std::slice::from_raw_parts(self.view.buf.cast(), self.len()) }
    }

    /// The bytes to be filled; only of memory that was lent to be filled.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        if self.view.len == 0 || self.view.readonly != 0 {
            return &mut [];
        }
        // SAFETY: as above, and the exporter said that they may be written.
        unsafe { std::slice::from_raw_parts_mut(self.view.buf.cast(), self.len()) }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // SAFETY: the view came from PyObject_GetBuffer; with the lock held, which an ended interpreter does not give.
        Python::try_attach(|_| unsafe { ffi::PyBuffer_Release(&mut *self.view) });
    }
}
