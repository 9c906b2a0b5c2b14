//! What a Python object holds of the core, let go of in the right way whenever the object happens to be collected.

use std::mem::ManuallyDrop;
use std::ops::Deref;

use pyo3::prelude::*;
use r3map_core::thread::Process;
use r3map_core::{Code, Error, Result};

use crate::ending::detached;

/// A value of the core. Its end may wait for threads that want the interpreter's lock, which is let go of meanwhile; in
/// a forked child it belongs to the parent, and nothing is ended.
pub struct Owned<T: Send> {
    process: Process,
    value: ManuallyDrop<T>,
}

impl<T: Send> Owned<T> {
    pub fn new(value: T) -> Owned<T> {
        Owned { process: Process::current(), value: ManuallyDrop::new(value) }
    }

    /// The value, unless this is a forked child.
    pub fn get(&self, noun: &str) -> Result<&T> {
        if self.process.is_current() {
            return Ok(&self.value);
        }
        let message = format!("this {noun} belongs to the process that was forked: open one in the child");
        Err(Error::new(Code::Closed, message))
    }
}

impl<T: Send> Deref for Owned<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Send> Drop for Owned<T> {
    fn drop(&mut self) {
        if !self.process.is_current() {
            return;
        }
        // SAFETY: nothing uses the value after this.
        let value = unsafe { ManuallyDrop::take(&mut self.value) };
        let mut value = Some(value);
        // Where the interpreter has ended there is no lock to let go of.
        Python::try_attach(|py| {
            let value = value.take();
            detached(py, move || drop(value));
        });
    }
}
