//! Figures that a mount keeps of itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::cancel::Signal;
use crate::error::Error;

/// Named figures at one moment. Names are stable; new ones may appear.
#[derive(Clone, Debug, Default)]
pub struct Stats(Vec<(&'static str, u64)>);

impl Stats {
    /// Adds a figure.
    pub fn put(&mut self, name: &'static str, value: u64) {
        self.0.push((name, value));
    }

    /// The figure of that name.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }

    /// All figures in a fixed order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.0.iter().copied()
    }
}

/// What the handle counts on its way.
#[derive(Default)]
pub(crate) struct Counters {
    reads: AtomicU64,
    bytes_read: AtomicU64,
    writes: AtomicU64,
    bytes_written: AtomicU64,
}

impl Counters {
    #[inline]
    pub fn read(&self, length: usize) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.bytes_read.fetch_add(length as u64, Ordering::Relaxed);
    }

    #[inline]
    pub fn write(&self, length: usize) {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.bytes_written.fetch_add(length as u64, Ordering::Relaxed);
    }

    pub fn put_into(&self, stats: &mut Stats) {
        stats.put("reads", self.reads.load(Ordering::Relaxed));
        stats.put("bytes_read", self.bytes_read.load(Ordering::Relaxed));
        stats.put("writes", self.writes.load(Ordering::Relaxed));
        stats.put("bytes_written", self.bytes_written.load(Ordering::Relaxed));
    }
}

/// A figure that only grows.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub fn add(&self, value: u64) {
        self.0.fetch_add(value, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What went over a network, in bytes of the protocol: as frames, before any encryption.
#[derive(Default)]
pub(crate) struct Traffic {
    /// To the peer.
    pub sent: Counter,
    /// From the peer.
    pub received: Counter,
}

/// What a region that keeps pages counts.
#[derive(Default)]
pub(crate) struct Figures {
    /// Bytes that came from the backend; zeroes that came as a bit are not counted.
    pub pulled: Counter,
    /// Bytes that were asked for beyond what somebody waited for.
    pub ahead: Counter,
    /// Bytes that the backend acknowledged.
    pub pushed: Counter,
    /// Page faults served.
    pub faults: Counter,
    failures: Mutex<(u64, Option<Error>)>,
    /// Signalled whenever a fetch has landed or pages have become local by other means.
    pub landed: Arc<Signal>,
}

impl Figures {
    /// Notes a fetch that failed.
    pub fn fetch_failed(&self, error: &Error) {
        let mut failures = self.failures.lock().unwrap_or_else(|e| e.into_inner());
        *failures = (failures.0 + 1, Some(error.clone()));
    }

    /// How many fetches failed, and why the last did.
    pub fn fetch_failures(&self) -> (u64, Option<Error>) {
        self.failures.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }
}
