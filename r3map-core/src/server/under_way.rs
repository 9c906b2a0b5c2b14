//! What the backend has not answered yet of one connection: no more than so much at once.

use std::sync::{Condvar, Mutex, MutexGuard};

/// How much of one connection may be under way before no more is taken in.
const MOST_REQUESTS: usize = 1024;
const MOST_BYTES: u64 = 64 << 20;

/// The requests of a connection that are at the backend.
#[derive(Default)]
pub struct UnderWay {
    count: Mutex<Count>,
    /// Told when nothing is under way any more.
    ended: Condvar,
}

#[derive(Default)]
struct Count {
    requests: usize,
    bytes: u64,
}

impl Count {
    fn is_full(&self) -> bool {
        self.requests >= MOST_REQUESTS || self.bytes >= MOST_BYTES
    }
}

impl UnderWay {
    fn count(&self) -> MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Whether no more is to be taken in.
    pub fn is_full(&self) -> bool {
        self.count().is_full()
    }

    /// A request with so many bytes goes to the backend.
    pub fn enter(&self, bytes: u64) {
        let mut count = self.count();
        count.requests += 1;
        count.bytes += bytes;
    }

    /// A request is answered. Says whether there is room again where there was none.
    pub fn leave(&self, bytes: u64) -> bool {
        let mut count = self.count();
        let was_full = count.is_full();
        count.requests -= 1;
        count.bytes -= bytes;
        if count.requests == 0 {
            self.ended.notify_all();
        }
        was_full && !count.is_full()
    }

    /// Waits until nothing is under way.
    pub fn wait(&self) {
        let mut count = self.count();
        while count.requests > 0 {
            count = self.ended.wait(count).unwrap_or_else(|e| e.into_inner());
        }
    }
}
