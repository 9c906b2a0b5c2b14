//! Sends what was written to the backend while the app goes on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::cancel::{Limit, Signal, deadline_in};
use crate::error::{Error, Result};
use crate::event::{Events, Kind};
use crate::options::MountOptions;
use crate::region::Region;
use crate::thread;

/// Bytes of pushes under way at once.
const WINDOW: u64 = 16 << 20;

/// The pusher of a region.
pub struct Pusher {
    region: Arc<Region>,
    events: Arc<Events>,
    interval: Duration,
    window: u64,
    deadline: Duration,
    stop: AtomicBool,
    /// Whether nothing may be sent; locked by whoever is about to begin a push.
    held: Mutex<bool>,
    wake: Signal,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Pusher {
    /// A pusher that does nothing in the background until it is started.
    pub fn new(region: Arc<Region>, events: Arc<Events>, options: &MountOptions) -> Pusher {
        Pusher {
            region,
            events,
            interval: options.push_interval,
            window: options.max_in_flight.unwrap_or(WINDOW),
            deadline: options.deadline,
            stop: AtomicBool::new(false),
            held: Mutex::new(false),
            wake: Signal::default(),
            thread: Mutex::default(),
        }
    }

    /// Starts pushing in the background, unless the interval is zero.
    pub fn start(self: &Arc<Self>) -> Result<()> {
        if self.interval.is_zero() {
            return Ok(());
        }
        let pusher = self.clone();
        let started = thread::spawn("r3map-push", move || pusher.run());
        let started = started.map_err(|error| Error::io("start the pusher", error))?;
        *self.thread.lock().unwrap_or_else(|e| e.into_inner()) = Some(started);
        Ok(())
    }

    /// Stops pushing in the background; what is under way is still resolved.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.wake.signal();
        let thread = self.thread.lock().unwrap_or_else(|e| e.into_inner()).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }

    /// Begins no more pushes in the background until [`go_on`](Pusher::go_on), and waits until those under way are
    /// resolved.
    pub fn hold(&self, limit: &Limit) -> Result<()> {
        *self.held() = true;
        self.region.wait_pushing_below(1, limit)
    }

    /// Pushes again.
    pub fn go_on(&self) {
        *self.held() = false;
    }

    fn held(&self) -> MutexGuard<'_, bool> {
        self.held.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Pushes everything that is dirty now and waits until the backend has it.
    pub fn push_all(&self, limit: &Limit) -> Result<()> {
        let pushed = self.region.push_all(self.window, limit);
        if let Err(error) = &pushed {
            self.events.tell(Kind::PushFailed, Some(error.clone()));
        }
        pushed
    }

    fn run(&self) {
        thread::as_batch();
        let stopped = || self.stop.load(Ordering::SeqCst).then_some(());
        let mut failed = false;
        while self.wake.wait(&Limit::within(self.interval), "push", stopped).is_err() {
            let limit = Limit { deadline: deadline_in(self.deadline), cancel: None };
            let round = self.round(&limit);
            match (&round, failed) {
                (Err(error), false) => self.events.tell(Kind::PushFailed, Some(error.clone())),
                (Ok(()), true) => self.events.tell(Kind::Recovered, None),
                _ => {}
            }
            failed = round.is_err();
        }
    }

    fn push_next(&self, from: u64, limit: &Limit) -> Option<u64> {
        let held = self.held();
        if *held { None } else { self.region.push_next(from, limit.deadline) }
    }

    /// One look at what is dirty.
    fn round(&self, limit: &Limit) -> Result<()> {
        if *self.held() {
            return Ok(());
        }
        self.region.collect()?;
        let mut from = 0;
        while let Some(next) = self.push_next(from, limit) {
            from = next;
            self.region.wait_pushing_below(self.window, limit)?;
            if self.stop.load(Ordering::SeqCst) {
                break;
            }
        }
        match self.region.push_failure() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}
