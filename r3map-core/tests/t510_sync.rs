//! 510: what a sync promises: every write acknowledged before it is durable at the backend, whatever the order, and
//! where a push failed it says so until that is repaired.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use r3map_core::backend::{self, Operation};
use r3map_core::cancel::Limit;
use r3map_core::device::Kind;
use r3map_core::{Backend, Code, DeviceChoice, Error, Info, Mode, Mount, MountOptions, Result, event};

#[path = "../../tests/skip.rs"]
mod skip;

const SIZE: u64 = (1 << 20) + 500;

/// A backend with a cache that a power loss would empty: what was written is durable once synced, no sooner. It
/// answers in any order and may refuse to write a page.
struct Volatile {
    info: Info,
    now: Mutex<Vec<u8>>,
    durable: Mutex<(u64, Vec<u8>)>,
    begun: AtomicU64,
    /// A place that cannot be written; `u64::MAX` is none.
    bad: AtomicU64,
}

impl Volatile {
    fn new() -> Arc<Volatile> {
        let zeros = vec![0; SIZE as usize];
        Arc::new(Volatile {
            info: Info { local: false, concurrency: 8, ..Info::local("volatile", SIZE) },
            now: Mutex::new(zeros.clone()),
            durable: Mutex::new((0, zeros)),
            begun: AtomicU64::new(0),
            bad: AtomicU64::new(u64::MAX),
        })
    }

    /// A different time for each request.
    fn delay(&self) -> u64 {
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        std::thread::sleep(Duration::from_micros(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56));
        number
    }

    fn durable(&self, offset: u64, length: usize) -> Vec<u8> {
        self.durable.lock().unwrap().1[offset as usize..][..length].to_vec()
    }

    fn refuse(&self, place: u64) {
        self.bad.store(place, Ordering::SeqCst);
    }

    fn repair(&self) {
        self.bad.store(u64::MAX, Ordering::SeqCst);
    }
}

impl Backend for Volatile {
    fn info(&self) -> &Info {
        &self.info
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.delay();
        buffer.copy_from_slice(&self.now.lock().unwrap()[offset as usize..][..buffer.len()]);
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.delay();
        if (offset..offset + data.len() as u64).contains(&self.bad.load(Ordering::SeqCst)) {
            return Err(Error::new(Code::Io, "a place that cannot be written"));
        }
        self.now.lock().unwrap()[offset as usize..][..data.len()].copy_from_slice(data);
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        // No write that comes later is part of it.
        let (number, now) = {
            let now = self.now.lock().unwrap();
            (self.begun.fetch_add(1, Ordering::SeqCst) + 1, now.clone())
        };
        self.delay();
        let mut durable = self.durable.lock().unwrap();
        if durable.0 < number {
            *durable = (number, now);
        }
        Ok(())
    }
}

/// A number at each of these places is written by one thread, and only grows.
const PLACES: usize = 240;
const WRITERS: usize = 2;
const FLUSHERS: usize = 2;

/// 4,365 bytes apart: some lie across the edge of a page, the last at the region's end.
fn place(index: usize) -> u64 {
    index as u64 * ((SIZE - 8) / (PLACES as u64 - 1))
}

/// How an app writes, and how it flushes.
#[derive(Clone)]
enum App {
    Handle(Mount),
    Slice(Mount, usize),
    File(Arc<File>),
    /// Every write is durable by itself.
    Durable(Arc<File>),
}

impl App {
    fn write(&self, value: u64, offset: u64) {
        let bytes = value.to_le_bytes();
        match self {
            App::Handle(mount) => mount.write_at(&bytes, offset).unwrap(),
            App::File(file) | App::Durable(file) => file.write_all_at(&bytes, offset).unwrap(),
            App::Slice(_, start) => {
                let start = NonNull::new(*start as *mut u8).unwrap();
                // SAFETY: inside the slice of a mount that is open; no other thread writes this place.
                unsafe { start.add(offset as usize).copy_from(NonNull::from(&bytes).cast(), 8) }
            }
        }
    }

    fn flush(&self, turn: usize) {
        match self {
            App::Handle(mount) | App::Slice(mount, _) if turn % 2 == 0 => mount.sync().unwrap(),
            App::Handle(mount) | App::Slice(mount, _) => {
                let mount: Arc<dyn Backend> = Arc::new(mount.clone());
                backend::call(&mount, Operation::Sync, &Limit::within(Duration::from_secs(20)), "sync").unwrap();
            }
            App::File(file) if turn % 2 == 0 => file.sync_data().unwrap(),
            App::File(file) => file.sync_all().unwrap(),
            App::Durable(_) => {}
        }
    }
}

/// Writes and flushes from several threads for a while.
fn flushes_cover_writes(backend: &Volatile, app: App) {
    let acknowledged: Vec<AtomicU64> = (0..PLACES).map(|_| AtomicU64::new(0)).collect();
    let expect = |index: usize, value: u64| {
        let durable = u64::from_le_bytes(backend.durable(place(index), 8).try_into().unwrap());
        assert!(durable >= value, "place {index}: {durable} is durable after a flush, {value} was acknowledged before");
    };
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (app, acknowledged, done, expect) = (app.clone(), &acknowledged, &done, &expect);
            scope.spawn(move || {
                let mut value = 0u64;
                while !done.load(Ordering::SeqCst) {
                    value += 1;
                    let turn = value.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
                    let index = (turn as usize % (PLACES / WRITERS)) * WRITERS + writer;
                    app.write(value, place(index));
                    acknowledged[index].store(value, Ordering::SeqCst);
                    if matches!(app, App::Durable(_)) {
                        expect(index, value);
                    }
                }
            });
        }
        let flushers: Vec<_> = (0..FLUSHERS)
            .map(|_| {
                let (app, acknowledged, expect) = (app.clone(), &acknowledged, &expect);
                scope.spawn(move || {
                    let until = Instant::now() + Duration::from_millis(700);
                    let mut turn = 0;
                    while Instant::now() < until || turn < 3 {
                        let before: Vec<u64> = acknowledged.iter().map(|a| a.load(Ordering::SeqCst)).collect();
                        app.flush(turn);
                        turn += 1;
                        if let App::Durable(_) = app {
                            std::thread::sleep(Duration::from_millis(5));
                            continue;
                        }
                        before.iter().enumerate().for_each(|(index, value)| expect(index, *value));
                    }
                })
            })
            .collect();
        let outcomes: Vec<_> = flushers.into_iter().map(|flusher| flusher.join()).collect();
        done.store(true, Ordering::SeqCst);
        outcomes.into_iter().for_each(|outcome| outcome.unwrap());
    });
}

const MODES: [Mode; 2] = [Mode::Direct, Mode::Managed];

fn options(mode: Mode) -> MountOptions {
    // Pushes in the background all the time, to be in the way of the syncs.
    MountOptions { push_interval: Duration::from_millis(1), ..Mount::options().mode(mode) }
        .deadline(Duration::from_secs(20))
}

#[test]
fn a_sync_of_the_handle_covers_every_write_acknowledged_before() {
    for mode in MODES {
        let backend = Volatile::new();
        let mount = options(mode).open(backend.clone()).unwrap();
        flushes_cover_writes(&backend, App::Handle(mount.clone()));
        mount.close().unwrap();
    }
}

#[test]
fn a_sync_covers_every_store_to_a_slice_of_userfaultfd_made_before() {
    if let Err(error) = Kind::Userfaultfd.probe() {
        return skip::skip(error);
    }
    for mode in MODES {
        let backend = Volatile::new();
        let mount = options(mode).device(DeviceChoice::Userfaultfd).open(backend.clone()).unwrap();
        let slice = mount.slice().unwrap();
        flushes_cover_writes(&backend, App::Slice(mount.clone(), slice.as_ptr() as usize));
        mount.close().unwrap();
    }
}

fn file_of(kind: DeviceChoice) {
    for mode in MODES {
        let backend = Volatile::new();
        let mount = options(mode).device(kind.clone()).open(backend.clone()).unwrap();
        let path = mount.path().unwrap();
        let file = Arc::new(OpenOptions::new().read(true).write(true).open(&path).unwrap());
        flushes_cover_writes(&backend, App::File(file));
        let mut durable = OpenOptions::new();
        let durable = durable.read(true).write(true).custom_flags(libc::O_DSYNC).open(&path).unwrap();
        // Numbers begin anew: what is there is not from these writes.
        durable.write_all_at(&vec![0; SIZE as usize], 0).unwrap();
        flushes_cover_writes(&backend, App::Durable(Arc::new(durable)));
        mount.close().unwrap();
    }
}

#[test]
fn fsync_and_o_dsync_of_a_fuse_file_cover_every_write_acknowledged_before() {
    match Kind::Fuse.probe() {
        Ok(()) => file_of(DeviceChoice::Fuse),
        Err(error) => skip::skip(error),
    }
}

#[test]
fn flush_and_fua_of_an_nbd_device_cover_every_write_acknowledged_before() {
    match Kind::Nbd.probe() {
        Ok(()) => file_of(DeviceChoice::Nbd(None)),
        Err(error) => skip::leave_to_guest(error),
    }
}

#[test]
fn every_sync_fails_while_one_page_cannot_be_pushed_though_all_others_can() {
    let backend = Volatile::new();
    let mount = options(Mode::Managed).open(backend.clone()).unwrap();
    backend.refuse(5 * 4096 + 100);
    mount.write_at(b"refused", 5 * 4096).unwrap();
    for round in 1..=20u64 {
        // Its pushes succeed, before and after the one that fails.
        for page in [0u64, 3, 9, 200] {
            mount.write_at(&round.to_le_bytes(), page * 4096).unwrap();
        }
        let error = mount.sync().unwrap_err();
        assert!(error.message().contains("a place that cannot be written"), "{error}");
    }
    let mut seen = [0; 7];
    mount.read_at(&mut seen, 5 * 4096).unwrap();
    assert_eq!(&seen, b"refused", "what could not be pushed is still here");
    let told = (1..).map_while(|after| mount.next(after - 1, Duration::from_secs(5)).ok());
    assert!(told.into_iter().any(|event| event.kind == event::Kind::PushFailed));
    let error = mount.close().unwrap_err();
    assert!(error.message().contains("the mount stays open"), "{error}");

    backend.repair();
    mount.sync().unwrap();
    assert_eq!(backend.durable(5 * 4096, 7), b"refused");
    for page in [0u64, 3, 9, 200] {
        assert_eq!(backend.durable(page * 4096, 8), 20u64.to_le_bytes());
    }
    mount.close().unwrap();
}

#[test]
fn a_push_that_failed_in_the_background_fails_the_next_sync_and_is_not_forgotten() {
    let backend = Volatile::new();
    let mount = options(Mode::Managed).open(backend.clone()).unwrap();
    backend.refuse(70_000);
    mount.write_at(&[7; 100], 69_950).unwrap();
    // Until the background has tried and failed.
    let failed = |after| mount.next(after, Duration::from_secs(20)).unwrap();
    let mut event = failed(0);
    while event.kind != event::Kind::PushFailed {
        event = failed(event.sequence);
    }
    for _ in 0..3 {
        assert_eq!(mount.sync().unwrap_err().code(), Code::Io);
    }
    backend.repair();
    mount.sync().unwrap();
    assert_eq!(backend.durable(69_950, 100), [7; 100]);
    mount.close().unwrap();
}

#[test]
fn a_write_that_a_direct_mount_lost_fails_every_later_sync() {
    let backend = Volatile::new();
    let mount = options(Mode::Direct).open(backend.clone()).unwrap();
    backend.refuse(100);
    assert_eq!(mount.write_at(b"lost", 98).unwrap_err().code(), Code::Io);
    backend.repair();
    mount.write_at(b"kept", 5000).unwrap();
    for _ in 0..3 {
        let error = mount.sync().unwrap_err();
        assert!(error.message().contains("an earlier write did not reach the backend"), "{error}");
        assert!(!error.is_retryable());
    }
    mount.discard().unwrap();
}
