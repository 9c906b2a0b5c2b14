//! Threads of the library: named, deaf to signals, and known to be gone in a forked child.

use std::io;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{Builder, JoinHandle};

/// Starts a thread of the library. It blocks every signal, because the languages on top own them, and a
/// panic in it ends the process: a thread that serves a region must never just be gone.
pub fn spawn<T: Send + 'static>(name: &str, body: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>> {
    crate::buffer::prepare();
    // A new thread takes its mask from the one that starts it: block first, so that there is no gap.
    let mask = SignalMask::block_all();
    let started = Builder::new().name(name.to_owned()).spawn(move || {
        set_io_flusher();
        let abort = AbortOnUnwind;
        let value = body();
        std::mem::forget(abort);
        value
    });
    drop(mask);
    started
}

/// Marks this thread as one that writes memory back, as any of ours may: when it asks for memory, the kernel
/// does not wait for pages that only such a thread can write. Needs a capability; without it things are as
/// before.
fn set_io_flusher() {
    // SAFETY: takes numbers only and changes nothing but a flag of this thread.
    unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) };
}

// Not in `libc` for this target.
const PR_SET_IO_FLUSHER: libc::c_int = 57;

struct AbortOnUnwind;

impl Drop for AbortOnUnwind {
    fn drop(&mut self) {
        std::process::abort();
    }
}

struct SignalMask(libc::sigset_t);

impl SignalMask {
    fn block_all() -> SignalMask {
        // SAFETY: plain calls on sets that live here; sigset_t is a C structure of integers.
        unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
            SignalMask(before)
        }
    }
}

impl Drop for SignalMask {
    fn drop(&mut self) {
        // SAFETY: the set was filled by the same call.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, std::ptr::null_mut()) };
    }
}

static FORKS: AtomicU64 = AtomicU64::new(0);
static WATCH: Once = Once::new();

extern "C" fn forked() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// Makes this thread yield to threads that serve the app: for bulk work.
pub fn as_batch() {
    // SAFETY: a plain call on this thread with a parameter that lives here. Without it all works, but slower.
    unsafe {
        let parameter: libc::sched_param = std::mem::zeroed();
        libc::sched_setscheduler(0, libc::SCHED_BATCH, &parameter);
    }
}

/// Marks the process in which a handle was made. A child made by `fork` without `exec` has none of the
/// library's threads, so nothing there may wait for them.
#[derive(Clone, Copy)]
pub struct Process(u64);

impl Process {
    /// This process.
    pub fn current() -> Process {
        // SAFETY: the handler only adds to an atomic, which is safe after fork.
        WATCH.call_once(|| unsafe {
            libc::pthread_atfork(None, None, Some(forked));
        });
        Process(FORKS.load(Ordering::Relaxed))
    }

    /// Whether this is still the process in which the mark was made.
    #[inline]
    pub fn is_current(self) -> bool {
        self.0 == FORKS.load(Ordering::Relaxed)
    }
}

/// Who this is, for people elsewhere: program, process and host.
pub fn display() -> String {
    let program = std::env::current_exe().ok();
    let program = program.as_deref().and_then(|path| path.file_name()).unwrap_or_default().to_string_lossy();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let display = format!("{program}[{}]@{}", std::process::id(), host.trim());
    display.chars().filter(|letter| letter.is_ascii_graphic()).take(crate::wire::MAX_NAME).collect()
}
