//! A small pool of threads for backends that have only blocking calls.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use crate::thread;

/// More would only queue inside the backend.
const MOST_THREADS: usize = 16;
/// A thread that finds nothing to do for so long ends.
const IDLE: Duration = Duration::from_secs(5);

type Job = Box<dyn FnOnce() + Send>;

struct Pool {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { jobs: VecDeque::new(), threads: 0, idle: 0 });
static WORK: Condvar = Condvar::new();

/// Runs `job` on a thread of the pool; in place if no thread can be had at all.
pub fn run(job: impl FnOnce() + Send + 'static) {
    let mut pool = POOL.lock().unwrap_or_else(|e| e.into_inner());
    pool.jobs.push_back(Box::new(job));
    if pool.jobs.len() <= pool.idle || pool.threads == MOST_THREADS {
        WORK.notify_one();
        return;
    }
    pool.threads += 1;
    if thread::spawn("r3map-pool", work).is_err() {
        pool.threads -= 1;
        let stranded = if pool.threads == 0 { pool.jobs.pop_back() } else { None };
        drop(pool);
        if let Some(job) = stranded {
            job();
        }
    }
}

fn work() {
    let mut pool = POOL.lock().unwrap_or_else(|e| e.into_inner());
    loop {
        if let Some(job) = pool.jobs.pop_front() {
            drop(pool);
            job();
            pool = POOL.lock().unwrap_or_else(|e| e.into_inner());
            continue;
        }
        pool.idle += 1;
        let (guard, wait) = WORK.wait_timeout(pool, IDLE).unwrap_or_else(|e| e.into_inner());
        pool = guard;
        pool.idle -= 1;
        if wait.timed_out() && pool.jobs.is_empty() {
            pool.threads -= 1;
            return;
        }
    }
}
