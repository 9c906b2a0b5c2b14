//! A small pool of threads for backends that have only blocking calls.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, OnceLock};
use std::time::Duration;

use crate::thread::{self, Process};

/// More would only queue inside the backend.
const MOST_THREADS: usize = 16;
/// A thread that finds nothing to do for so long ends.
const IDLE: Duration = Duration::from_secs(5);

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Crew {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

/// The pool of one process. A child that was forked has a pool of its own: the threads of its parent's are not there,
/// and its lock may have been held in that moment.
struct Pool {
    process: Process,
    crew: Mutex<Crew>,
    work: Condvar,
    childs: OnceLock<Box<Pool>>,
}

static POOL: OnceLock<Pool> = OnceLock::new();

impl Pool {
    fn new() -> Pool {
        Pool { process: Process::current(), crew: Mutex::default(), work: Condvar::new(), childs: OnceLock::new() }
    }

    fn current() -> &'static Pool {
        let mut pool = POOL.get_or_init(Pool::new);
        while !pool.process.is_current() {
            pool = pool.childs.get_or_init(|| Box::new(Pool::new()));
        }
        pool
    }
}

/// Runs `job` on a thread of the pool; in place if no thread can be had at all.
pub fn run(job: impl FnOnce() + Send + 'static) {
    let current = Pool::current();
    let mut pool = current.crew.lock().unwrap_or_else(|e| e.into_inner());
    pool.jobs.push_back(Box::new(job));
    if pool.jobs.len() <= pool.idle || pool.threads == MOST_THREADS {
        current.work.notify_one();
        return;
    }
    pool.threads += 1;
    if thread::spawn("r3map-pool", || work(current)).is_err() {
        pool.threads -= 1;
        let stranded = if pool.threads == 0 { pool.jobs.pop_back() } else { None };
        drop(pool);
        if let Some(job) = stranded {
            job();
        }
    }
}

fn work(current: &Pool) {
    let mut pool = current.crew.lock().unwrap_or_else(|e| e.into_inner());
    loop {
        if let Some(job) = pool.jobs.pop_front() {
            drop(pool);
            job();
            pool = current.crew.lock().unwrap_or_else(|e| e.into_inner());
            continue;
        }
        pool.idle += 1;
        let (guard, wait) = current.work.wait_timeout(pool, IDLE).unwrap_or_else(|e| e.into_inner());
        pool = guard;
        pool.idle -= 1;
        if wait.timed_out() && pool.jobs.is_empty() {
            pool.threads -= 1;
            return;
        }
    }
}
