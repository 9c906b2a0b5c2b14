//! The one asynchronous runtime of this process, for stores whose clients want one. It starts when the first of them is
//! opened and stays; nothing on the native path comes by it.

use std::io;

use once_cell::sync::OnceCell;
use tokio::runtime::{Builder, Handle, Runtime};

#[cfg(feature = "chunks")]
use crate::cancel::{Limit, Waiter};
use crate::error::{Code, Error, Result};
use crate::thread::{self, Process};

/// Threads that wait for the network and do little else.
const WORKERS: usize = 2;

struct Shared {
    runtime: Runtime,
    process: Process,
}

static SHARED: OnceCell<Shared> = OnceCell::new();

/// The runtime. A forked child has none of its threads, so there it is an error.
pub(crate) fn handle() -> Result<Handle> {
    let shared =
        SHARED.get_or_try_init(start).map_err(|error| Error::io("start the runtime of network stores", error))?;
    if !shared.process.is_current() {
        let message = "the runtime of network stores belongs to the process that was forked: exec a new one";
        return Err(Error::new(Code::Closed, message));
    }
    Ok(shared.runtime.handle().clone())
}

/// Runs `work` there and waits for its outcome within the bound; what goes on past that is dropped.
#[cfg(feature = "chunks")]
pub(crate) fn wait<T: Send + 'static>(
    limit: &Limit,
    what: &str,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let (waiter, notifier) = Waiter::new();
    let task = handle()?.spawn(async move { notifier.notify(work.await) });
    let outcome = waiter.wait(limit, what);
    task.abort();
    outcome?
}

fn start() -> io::Result<Shared> {
    let process = Process::current();
    // Its threads take their signal mask from the one that starts them; those for blocking calls are started by workers.
    let started = thread::spawn("r3map-runtime", || {
        Builder::new_multi_thread().worker_threads(WORKERS).thread_name("r3map-network").enable_all().build()
    })?;
    let runtime = started.join().map_err(|_| io::Error::other("the thread that starts it died"))??;
    Ok(Shared { runtime, process })
}
