//! 560: what is written leaves in the background: much of it long before the interval is over, and no page twice in
//! one; nor is anything read that is overwritten in whole.
#![allow(clippy::undocumented_unsafe_blocks)] // They touch the slice of the test's own mount, where nobody else does.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use r3map_core::backend::memory::Memory;
use r3map_core::backend::{self, Operation, Request};
use r3map_core::device::Kind;
use r3map_core::{Backend, Code, DeviceChoice, Error, Info, Mode, Mount, MountOptions, Pull, Result};

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

/// A remote that counts the bytes read of it.
struct Reads {
    info: Info,
    bytes: Memory,
    read: AtomicU64,
}

impl Backend for Reads {
    fn info(&self) -> &Info {
        &self.info
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.read.fetch_add(buffer.len() as u64, Ordering::SeqCst);
        self.bytes.read_at(buffer, offset)
    }
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.bytes.write_at(data, offset)
    }
    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

/// What is written in whole is never read of the remote, and what is written in part is once.
fn is_not_read(device: DeviceChoice, attach: impl FnOnce(&Mount)) {
    let bytes = Memory::new(SIZE).unwrap();
    bytes.write_at(&vec![9; SIZE as usize], 0).unwrap();
    let info = Info { local: false, chunk_size: 256 << 10, ..Info::local("reads", SIZE) };
    let remote = Arc::new(Reads { info, bytes, read: 0.into() });
    let options = MountOptions { pull: Pull::Demand, ..Mount::options().mode(Mode::Managed).device(device) };
    let mount = options.open(remote.clone()).unwrap();
    attach(&mount);
    // A block device may be read by the kernel when it appears.
    let before = remote.read.load(Ordering::SeqCst);
    let data: Vec<u8> = (0..2 * PART).map(|at| (at / 1000) as u8).collect();
    for (offset, length) in [(PART, PART), (2 * PART, PART / 2), (PART + PART / 2, 64 << 10), (3 * PART, PAGE)] {
        mount.write_at(&data[..length as usize], offset).unwrap();
    }
    mount.sync().unwrap();
    assert_eq!(remote.read.load(Ordering::SeqCst) - before, 0, "whole pages were read before they were overwritten");
    mount.write_at(&[5; 10], PAGE / 2).unwrap();
    mount.sync().unwrap();
    let read = remote.read.load(Ordering::SeqCst) - before;
    assert!((PAGE..=256 << 10).contains(&read), "{read} bytes were read for a page written in part");
    let mut page = [0; PAGE as usize];
    remote.bytes.read_at(&mut page, 0).unwrap();
    let half = PAGE as usize / 2;
    assert!(page[..half].iter().all(|byte| *byte == 9) && page[half..half + 10] == [5; 10]);
    mount.close().unwrap();
}

#[test]
fn what_the_handle_overwrites_in_whole_is_not_read_before() {
    is_not_read(DeviceChoice::Auto, |_| {});
}

#[test]
fn what_the_handle_overwrites_in_whole_is_not_read_before_beside_a_slice_either() {
    match Kind::Userfaultfd.probe() {
        Ok(()) => is_not_read(DeviceChoice::Userfaultfd, |mount| drop(mount.slice().unwrap())),
        Err(error) => skip::skip(error),
    }
}

#[test]
fn what_a_fuse_file_overwrites_in_whole_is_not_read_before() {
    match Kind::Fuse.probe() {
        Ok(()) => is_not_read(DeviceChoice::Fuse, |mount| drop(mount.path().unwrap())),
        Err(error) => skip::skip(error),
    }
}

#[test]
fn what_a_block_device_overwrites_in_whole_is_not_read_before() {
    match Kind::Nbd.probe() {
        Ok(()) => is_not_read(DeviceChoice::Nbd(None), |mount| drop(mount.path().unwrap())),
        Err(error) => skip::leave_to_guest(error),
    }
}

/// A remote that is busy for its first writes, and says so at once.
struct Busy {
    info: Info,
    bytes: Memory,
    refusals: AtomicU64,
}

impl Backend for Busy {
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
    fn submit(self: Arc<Self>, request: Request) {
        let is_write = matches!(request.operation, Operation::Write { .. });
        let refuse = |left: u64| left.checked_sub(1);
        if is_write && self.refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, refuse).is_ok() {
            return request.completion.complete(Err(Error::new(Code::Busy, "in a moment").with_retryable(true)));
        }
        backend::perform(&*self, request);
    }
}

#[test]
fn a_sync_tries_again_what_fails_for_a_moment_and_only_within_its_deadline() {
    let info = Info { local: false, ..Info::local("busy", SIZE) };
    let remote = Arc::new(Busy { info, bytes: Memory::new(SIZE).unwrap(), refusals: 6.into() });
    let options = Mount::options().mode(Mode::Managed).deadline(Duration::from_secs(2));
    let options = MountOptions { push_interval: Duration::ZERO, pull: Pull::Demand, ..options };
    let mount = options.open(remote.clone()).unwrap();
    mount.write_at(&[7; PAGE as usize], PAGE).unwrap();
    mount.sync().unwrap();
    assert_eq!(remote.refusals.load(Ordering::SeqCst), 0);
    remote.refusals.store(u64::MAX, Ordering::SeqCst);
    mount.write_at(&[8; PAGE as usize], PAGE).unwrap();
    let error = mount.sync().unwrap_err();
    assert!(error.code() == Code::Busy && error.message().ends_with("in a moment"), "{error:?}");
    remote.refusals.store(0, Ordering::SeqCst);
    mount.close().unwrap();
    let mut page = [0; PAGE as usize];
    remote.bytes.read_at(&mut page, PAGE).unwrap();
    assert_eq!(page, [8; PAGE as usize]);
}
