//! The end of the interpreter. A thread that asks for its lock while it ends is ended by it, in the middle of whatever
//! frames it has, which frames of Rust do not survive. So threads ask inside of [`Inside`], and the end waits for those.

use std::sync::{Condvar, Mutex, OnceLock};
use std::time::Duration;

use pyo3::prelude::*;
use r3map_core::thread::Process;
use r3map_core::{Code, Error, Result};

/// How long the end waits for Python code under way.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Threads {
    ended: bool,
    inside: usize,
}

static THREADS: Mutex<Threads> = Mutex::new(Threads { ended: false, inside: 0 });
static LEFT: Condvar = Condvar::new();
/// The process that loaded the module: a forked child has none of its threads.
static LOADED: OnceLock<Process> = OnceLock::new();

/// A thread that takes the interpreter's lock, or has it.
pub struct Inside(());

impl Inside {
    /// Fails once the interpreter ends.
    pub fn enter() -> Result<Inside> {
        LOADED.get_or_init(Process::current);
        let mut threads = THREADS.lock().unwrap_or_else(|e| e.into_inner());
        if threads.ended {
            return Err(Error::new(Code::Closed, "a backend written in Python is called while Python ends"));
        }
        threads.inside += 1;
        Ok(Inside(()))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        THREADS.lock().unwrap_or_else(|e| e.into_inner()).inside -= 1;
        LEFT.notify_all();
    }
}

/// Whether this is the process's first thread, on which Python runs signal handlers, and its own end.
pub fn is_main_thread() -> bool {
    // SAFETY: plain calls without arguments.
    unsafe { libc::getpid() == libc::gettid() }
}

/// Runs something without the interpreter's lock. Where the interpreter ends meanwhile, a thread other than the main one
/// stands still here until the process ends, as threads of Python's own do from 3.14.
pub fn detached<T: Send>(py: Python<'_>, body: impl FnOnce() -> T + Send) -> T {
    if is_main_thread() {
        return py.detach(body);
    }
    let (outcome, _inside) = py.detach(|| {
        let outcome = body();
        loop {
            match Inside::enter() {
                Ok(inside) => break (outcome, inside),
                Err(_) => std::thread::park(),
            }
        }
    });
    outcome
}

/// Lets no thread take the interpreter's lock through this module any more, and waits for those that are at it. For
/// `atexit`.
#[pyfunction]
pub fn end(py: Python<'_>) {
    if LOADED.get().is_some_and(|process| !process.is_current()) {
        return;
    }
    py.detach(|| {
        let mut threads = THREADS.lock().unwrap_or_else(|e| e.into_inner());
        threads.ended = true;
        drop(LEFT.wait_timeout_while(threads, PATIENCE, |threads| threads.inside > 0));
    });
}
