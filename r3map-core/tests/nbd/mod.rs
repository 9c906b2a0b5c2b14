//! What the tests of the kernel NBD device share.
#![allow(dead_code)]

#[path = "../../../tests/skip.rs"]
mod skip;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use r3map_core::backend::memory::Memory;
use r3map_core::backend::{Backend, Info, Operation, Reply, Request};
use r3map_core::device::Kind;
use r3map_core::{Code, DeviceChoice, Error, Mount, MountOptions, Result};

/// Devices belong to the whole machine: tests that count them or name one must not run beside others.
static MACHINE: Mutex<()> = Mutex::new(());

/// Whether NBD can be tested here, and the machine for this test alone. Where it cannot, the test is left to the
/// guest.
pub fn machine() -> Option<MutexGuard<'static, ()>> {
    if let Err(error) = Kind::Nbd.probe() {
        skip::leave_to_guest(error);
        return None;
    }
    Some(MACHINE.lock().unwrap_or_else(|e| e.into_inner()))
}

/// A mount on any free device.
pub fn mount(backend: Arc<dyn Backend>) -> Mount {
    options().open(backend).unwrap()
}

pub fn options() -> MountOptions {
    Mount::options().device(DeviceChoice::Nbd(None)).deadline(Duration::from_secs(20))
}

pub fn memory(size: u64) -> Arc<dyn Backend> {
    Arc::new(Memory::new(size).unwrap())
}

/// Bytes that differ from page to page and from seed to seed.
pub fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Waits until `done`, or fails after a minute.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(60), "a minute was not enough for: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The devices that are attached now.
pub fn attached() -> Vec<String> {
    let entries = std::fs::read_dir("/sys/block").unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| std::fs::exists(format!("/sys/block/{name}/pid")).unwrap()).collect();
    names.sort();
    names
}

/// A request to a block device by its number and the range it takes.
pub fn range_ioctl(file: &File, number: u32, offset: u64, length: u64) -> std::io::Result<()> {
    let range = [offset, length];
    // SAFETY: BLKDISCARD and BLKZEROOUT read two u64, which is what they are given.
    match unsafe { libc::ioctl(file.as_raw_fd(), libc::_IO(0x12, number), range.as_ptr()) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

pub const BLKDISCARD: u32 = 119;
pub const BLKZEROOUT: u32 = 127;

/// What a [`Probe`] was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Read { offset: u64, length: usize },
    Write { offset: u64, length: usize },
    Zero { offset: u64, length: u64 },
    Sync,
}

/// A store in memory that tells what it was asked for, and fails or waits when told to.
pub struct Probe {
    inner: Arc<Memory>,
    info: Info,
    /// Answers from here on what it can, instead of having it submitted.
    pub in_place: bool,
    pub fail_reads: AtomicBool,
    pub fail_writes: AtomicBool,
    /// Reads of this offset wait.
    stuck: Mutex<Option<u64>>,
    released: Condvar,
    pub waiting: AtomicUsize,
    seen: Mutex<Vec<Seen>>,
}

impl Probe {
    pub fn new(size: u64, in_place: bool) -> Arc<Probe> {
        let inner = Arc::new(Memory::new(size).unwrap());
        let info = Info { name: "probe:".into(), local: in_place, ..inner.info().clone() };
        Arc::new(Probe {
            inner,
            info,
            in_place,
            fail_reads: AtomicBool::new(false),
            fail_writes: AtomicBool::new(false),
            stuck: Mutex::new(None),
            released: Condvar::new(),
            waiting: AtomicUsize::new(0),
            seen: Mutex::default(),
        })
    }

    /// What it was asked for since the last time.
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }

    pub fn block(&self, offset: Option<u64>) {
        *self.stuck.lock().unwrap() = offset;
        self.released.notify_all();
    }

    fn saw(&self, seen: Seen) {
        self.seen.lock().unwrap().push(seen);
    }

    fn checked(&self, fail: &AtomicBool) -> Result<()> {
        match fail.load(Ordering::SeqCst) {
            true => Err(Error::new(Code::Corrupt, "the probe was told to fail")),
            false => Ok(()),
        }
    }
}

impl Backend for Probe {
    fn info(&self) -> &Info {
        &self.info
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.saw(Seen::Read { offset, length: buffer.len() });
        let mut stuck = self.stuck.lock().unwrap();
        if *stuck == Some(offset) {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            while *stuck == Some(offset) {
                stuck = self.released.wait(stuck).unwrap();
            }
            self.waiting.fetch_sub(1, Ordering::SeqCst);
        }
        drop(stuck);
        self.checked(&self.fail_reads)?;
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.checked(&self.fail_writes)?;
        self.inner.write_at(data, offset)?;
        self.saw(Seen::Write { offset, length: data.len() });
        Ok(())
    }

    fn zero_at(&self, offset: u64, length: u64) -> Result<()> {
        self.checked(&self.fail_writes)?;
        self.inner.zero_at(offset, length)?;
        self.saw(Seen::Zero { offset, length });
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.saw(Seen::Sync);
        Ok(())
    }

    fn try_read_at(&self, buffer: &mut [u8], offset: u64) -> Option<Result<()>> {
        self.in_place.then(|| self.read_at(buffer, offset))
    }

    fn try_write_at(&self, data: &[u8], offset: u64) -> Option<Result<()>> {
        self.in_place.then(|| self.write_at(data, offset))
    }
}

/// A store that never answers a read, as a peer that went away.
pub struct Silent {
    info: Info,
    kept: Mutex<Vec<Request>>,
}

impl Silent {
    pub fn new(size: u64) -> Arc<Silent> {
        Arc::new(Silent { info: Info { local: false, ..Info::local("silent:", size) }, kept: Mutex::default() })
    }

    pub fn asked(&self) -> usize {
        self.kept.lock().unwrap().len()
    }

    /// Answers everything, late.
    pub fn answer_all(&self) {
        for request in std::mem::take(&mut *self.kept.lock().unwrap()) {
            let reply = match request.operation {
                Operation::Read { .. } => Reply::Zeroes,
                _ => Reply::Done,
            };
            request.completion.complete(Ok(reply));
        }
    }
}

impl Backend for Silent {
    fn info(&self) -> &Info {
        &self.info
    }
    fn read_at(&self, _: &mut [u8], _: u64) -> Result<()> {
        unreachable!("only submitted to")
    }
    fn write_at(&self, _: &[u8], _: u64) -> Result<()> {
        unreachable!("only submitted to")
    }
    fn sync(&self) -> Result<()> {
        Ok(())
    }
    fn submit(self: Arc<Self>, request: Request) {
        match request.operation {
            Operation::Sync => request.completion.complete(Ok(Reply::Done)),
            _ => self.kept.lock().unwrap().push(request),
        }
    }
}
