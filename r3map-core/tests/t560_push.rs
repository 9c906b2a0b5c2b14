//! 550: what is written leaves in the background: much of it long before the interval is over, and no page twice in
//! one.
#![allow(clippy::undocumented_unsafe_blocks)] // They touch the slice of the test's own mount, where nobody else does.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use r3map_core::backend::memory::Memory;
use r3map_core::device::Kind;
use r3map_core::{Backend, DeviceChoice, Info, Mode, Mount, MountOptions, Result};

#[path = "../../tests/skip.rs"]
mod skip;

const SIZE: u64 = 16 << 20;
const PAGE: u64 = 4096;
/// A part that is worth a look.
const PART: u64 = 4 << 20;
/// What may stay behind until the interval is over, since a look came in the middle of it: short runs.
const SLACK: u64 = 256 << 10;

/// A backend that counts how often each page was written.
struct Counting {
    info: Info,
    bytes: Memory,
    writes: Mutex<Vec<u32>>,
    written: AtomicU64,
}

impl Counting {
    fn new() -> Arc<Counting> {
        Arc::new(Counting {
            info: Info { local: false, ..Info::local("counting", SIZE) },
            bytes: Memory::new(SIZE).unwrap(),
            writes: Mutex::new(vec![0; (SIZE / PAGE) as usize]),
            written: 0.into(),
        })
    }

    /// Waits until that many bytes have arrived.
    fn wait(&self, bytes: u64) {
        let patience = Instant::now() + Duration::from_secs(60);
        while self.written.load(Ordering::SeqCst) < bytes {
            assert!(Instant::now() < patience, "{} of {bytes} bytes came", self.written.load(Ordering::SeqCst));
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn most_writes(&self) -> u32 {
        *self.writes.lock().unwrap().iter().max().unwrap()
    }
}

impl Backend for Counting {
    fn info(&self) -> &Info {
        &self.info
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.bytes.read_at(buffer, offset)
    }
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.bytes.write_at(data, offset)?;
        let pages = offset / PAGE..(offset + data.len() as u64).div_ceil(PAGE);
        self.writes.lock().unwrap()[pages.start as usize..pages.end as usize].iter_mut().for_each(|page| *page += 1);
        self.written.fetch_add(data.len() as u64, Ordering::SeqCst);
        Ok(())
    }
    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

/// A mount of which all is here, and a way to write to it.
fn opened(interval: Duration, slice: bool) -> (Arc<Counting>, Mount, impl Fn(u8, u64, u64)) {
    let backend = Counting::new();
    let options = MountOptions { push_interval: interval, ..Mount::options().mode(Mode::Managed) };
    let options = if slice { options.device(DeviceChoice::Userfaultfd) } else { options };
    let mount = options.open(backend.clone()).unwrap();
    mount.pull(0, SIZE).unwrap();
    let address = slice.then(|| mount.slice().unwrap().as_ptr() as usize);
    let handle = mount.clone();
    let write = move |value: u8, offset: u64, length: u64| match address {
        Some(address) => unsafe {
            std::ptr::write_bytes((address + offset as usize) as *mut u8, value, length as usize);
        },
        None => handle.write_at(&vec![value; length as usize], offset).unwrap(),
    };
    (backend, mount, write)
}

const FOREVER: Duration = Duration::from_secs(86400);

fn leaves_before_the_interval_and_once(slice: bool) {
    let (backend, mount, write) = opened(FOREVER, slice);
    write(1, 0, PART);
    backend.wait(PART - SLACK);
    // The first part becomes hot: it is dirty for longer than the parts that arrive now.
    for part in 1..4u8 {
        write(10 + part, 0, PART);
        write(part, u64::from(part) * PART, PART);
        backend.wait(PART * (u64::from(part) + 1) - SLACK);
    }
    assert_eq!(backend.most_writes(), 1, "a page was pushed twice in an interval");
    mount.sync().unwrap();
    let written = backend.written.load(Ordering::SeqCst);
    assert!(written <= SIZE + PART + SLACK, "{written} bytes were pushed");
    let mut bytes = vec![0; SIZE as usize];
    backend.bytes.read_at(&mut bytes, 0).unwrap();
    assert!(bytes.chunks(PART as usize).zip([13, 1, 2, 3]).all(|(part, value)| part.iter().all(|byte| *byte == value)));
    mount.close().unwrap();
}

#[test]
fn what_the_handle_wrote_leaves_before_the_interval_is_over_and_no_page_twice() {
    leaves_before_the_interval_and_once(false);
}

#[test]
fn what_was_stored_to_a_slice_leaves_before_the_interval_is_over_and_no_page_twice() {
    match Kind::Userfaultfd.probe() {
        Ok(()) => leaves_before_the_interval_and_once(true),
        Err(error) => skip::skip(error),
    }
}

#[test]
fn hot_pages_go_out_each_interval() {
    let (backend, mount, write) = opened(Duration::from_millis(200), false);
    for value in 1..=3 {
        let before = backend.written.load(Ordering::SeqCst);
        write(value, 0, PART);
        backend.wait(before + PART);
    }
    mount.close().unwrap();
}

#[test]
fn without_an_interval_nothing_leaves_before_the_sync() {
    let (backend, mount, write) = opened(Duration::ZERO, false);
    write(1, 0, SIZE);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(backend.most_writes(), 0);
    mount.sync().unwrap();
    assert_eq!((backend.most_writes(), backend.written.load(Ordering::SeqCst)), (1, SIZE));
    mount.close().unwrap();
}
