//! What the tests of leechers share: an app at a source that stops when it is asked to, and one that never stops writing.

#![allow(dead_code)] // No test file uses all of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use r3map_core::{BackendOptions, Code, Leecher, Mount, MountOptions, Result, SeedEvent, SeedState, Seeder};

use crate::seeding::SOON;

/// Whole pages and a part of one.
pub const SIZE: u64 = (6 << 20) + 1234;

pub fn options() -> MountOptions {
    Mount::options().deadline(SOON)
}

pub fn leech(seeder: &Seeder, local: &str) -> Leecher {
    leech_with(seeder, local, options()).unwrap()
}

pub fn leech_with(seeder: &Seeder, local: &str, options: MountOptions) -> Result<Leecher> {
    Leecher::open(seeder.url().unwrap(), local, options, &BackendOptions::default())
}

/// How an app gets at the bytes of a region.
pub trait Bytes: Send + 'static {
    fn write(&self, bytes: &[u8], offset: u64) -> Result<()>;
    fn read(&self, bytes: &mut [u8], offset: u64);
}

impl Bytes for Mount {
    fn write(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.write_at(bytes, offset)
    }
    fn read(&self, bytes: &mut [u8], offset: u64) {
        self.read_at(bytes, offset).unwrap();
    }
}

/// An app that writes all the time, and what it should find.
pub struct Writer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<u8>>,
    seed: u64,
}

impl Writer {
    /// Goes on with a region that holds `bytes`.
    pub fn start(region: impl Bytes, mut bytes: Vec<u8>, seed: u64) -> Writer {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stop = stop.clone();
            move || {
                let mut random = seed | 1;
                let mut below = move |limit: u64| {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    random % limit
                };
                while !stop.load(Ordering::SeqCst) {
                    let length = 1 + below(9000).min(bytes.len() as u64 - 1) as usize;
                    // Half of it goes to one place, so that some pages are written again and again.
                    let limit = bytes.len() as u64 - length as u64;
                    let at = if below(2) == 0 { below(limit.min(200_000)) } else { below(limit) } as usize;
                    let value = below(256) as u8;
                    let part = &mut bytes[at..at + length];
                    part.iter_mut().enumerate().for_each(|(index, byte)| *byte = value.wrapping_add(index as u8));
                    region.write(&bytes[at..at + length], at as u64).unwrap();
                    if below(16) == 0 {
                        let mut found = vec![0; length];
                        region.read(&mut found, at as u64);
                        assert!(found == bytes[at..at + length], "what was written at {at} is not there");
                    }
                    std::thread::sleep(Duration::from_micros(below(300)));
                }
                bytes
            }
        });
        Writer { stop, thread, seed }
    }

    /// What the region holds now that it has stopped.
    pub fn stop(self) -> Vec<u8> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("the writer failed")
    }
}

/// The app at a source: it takes the seeder's events, and stops its writer when asked to.
pub struct App {
    thread: JoinHandle<()>,
    left: Arc<Mutex<Option<Vec<u8>>>>,
}

impl App {
    /// Hands over with this payload.
    pub fn start(seeder: &Seeder, writer: Writer, payload: &[u8]) -> App {
        let left = Arc::new(Mutex::new(None));
        let thread = std::thread::spawn({
            let (seeder, left, payload) = (seeder.clone(), left.clone(), payload.to_vec());
            move || {
                let (mut after, mut writer) = (0, Some(writer));
                while let Ok(event) = seeder.next(after, Duration::ZERO) {
                    after = event.sequence;
                    match event.state {
                        SeedState::Suspending => {
                            if let Some(writer) = writer.take() {
                                *left.lock().unwrap() = Some(writer.stop());
                            }
                            let _ = seeder.suspended(event.sequence, &payload);
                        }
                        SeedState::Drained => return,
                        _ => {}
                    }
                }
            }
        });
        App { thread, left }
    }

    /// What the app had written when it stopped.
    pub fn bytes(&self) -> Vec<u8> {
        self.left.lock().unwrap().clone().expect("the app was never asked to stop")
    }

    /// Waits until the seeder is drained or closed.
    pub fn join(self) {
        self.thread.join().unwrap();
    }
}

/// Waits for an event of a seeder, past others.
pub fn wait_for(seeder: &Seeder, after: &mut u64, state: SeedState) -> SeedEvent {
    loop {
        let event = seeder.next(*after, SOON).unwrap();
        *after = event.sequence;
        if event.state == state {
            return event;
        }
    }
}

/// Takes the region of a seeder whose app has nothing to do: `bytes` of payload.
pub fn hand_over(seeder: &Seeder, payload: &[u8]) {
    let event = wait_for(seeder, &mut 0, SeedState::Suspending);
    seeder.suspended(event.sequence, payload).unwrap();
}

/// All bytes of a region as its handle reads them.
pub fn read_all(mount: &Mount) -> Vec<u8> {
    let mut bytes = vec![0; mount.size() as usize];
    mount.read_at(&mut bytes, 0).unwrap();
    bytes
}

pub fn same(found: &[u8], expected: &[u8]) {
    assert_eq!(found.len(), expected.len());
    if let Some(at) = found.iter().zip(expected).position(|(one, other)| one != other) {
        let wrong = found.iter().zip(expected).filter(|(one, other)| one != other).count();
        panic!("byte {at} (page {}) is {} and not {}; {wrong} bytes are wrong", at / 4096, found[at], expected[at]);
    }
}

pub fn code<T: std::fmt::Debug>(outcome: Result<T>) -> Code {
    outcome.unwrap_err().code()
}
