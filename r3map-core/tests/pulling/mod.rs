//! What the tests of the puller share: a store that keeps the background waiting and tells what it was asked for.

#![allow(dead_code)] // No test file uses all of it.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use r3map_core::backend::memory::Memory;
use r3map_core::backend::{Operation, Priority, Request, RoundTrip, perform};
use r3map_core::{Backend, Info, Result};

pub const PAGE: u64 = 4096;
pub const LONG: Duration = Duration::from_secs(60);

/// A store whose answers to the background wait until the test takes them; the app's come at once.
pub struct Told {
    info: Info,
    /// How far away it says it is.
    trip: Option<Duration>,
    bytes: Memory,
    waiting: Mutex<VecDeque<Request>>,
    demanded: Mutex<Vec<(u64, u64)>>,
    changed: Condvar,
}

impl Told {
    pub fn new(size: u64, chunk_size: u32) -> Arc<Told> {
        Told::at(None, size, chunk_size)
    }

    /// One that says how far away it is.
    pub fn at(trip: Option<Duration>, size: u64, chunk_size: u32) -> Arc<Told> {
        let bytes = Memory::new(size).unwrap();
        for page in 0..size.div_ceil(PAGE) {
            let length = PAGE.min(size - page * PAGE);
            bytes.write_at(&vec![page as u8 | 1; length as usize], page * PAGE).unwrap();
        }
        Arc::new(Told {
            info: Info { local: false, chunk_size, ..Info::local("told", size) },
            trip,
            bytes,
            waiting: Mutex::default(),
            demanded: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// Answers the next request of the background and says what it was for: offset and length.
    pub fn answer(&self) -> (u64, u64) {
        let until = Instant::now() + LONG;
        let mut waiting = self.waiting.lock().unwrap();
        loop {
            if let Some(request) = waiting.pop_front() {
                drop(waiting);
                let asked = asked(&request);
                perform(&self.bytes, request);
                return asked;
            }
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the background asks for nothing");
            waiting = self.changed.wait_timeout(waiting, left).unwrap().0;
        }
    }

    /// Waits until the background has asked for something, and does not answer.
    pub fn wait_asked(&self) {
        let waiting = self.waiting.lock().unwrap();
        let (waiting, _) = self.changed.wait_timeout_while(waiting, LONG, |waiting| waiting.is_empty()).unwrap();
        assert!(!waiting.is_empty(), "the background asks for nothing");
    }

    /// What the app's accesses made be asked for: offset and length.
    pub fn demanded(&self) -> Vec<(u64, u64)> {
        self.demanded.lock().unwrap().clone()
    }
}

fn asked(request: &Request) -> (u64, u64) {
    match &request.operation {
        Operation::Read { offset, buffer } => (*offset, buffer.len() as u64),
        _ => (0, 0),
    }
}

impl Backend for Told {
    fn info(&self) -> &Info {
        &self.info
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.bytes.read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.bytes.write_at(data, offset)
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn round_trip(&self) -> Option<RoundTrip> {
        self.trip.map(|trip| RoundTrip { least: trip, latest: trip })
    }

    fn submit(self: Arc<Self>, request: Request) {
        if request.priority == Priority::Bulk {
            self.waiting.lock().unwrap().push_back(request);
            return self.changed.notify_all();
        }
        self.demanded.lock().unwrap().push(asked(&request));
        perform(&self.bytes, request);
    }
}
