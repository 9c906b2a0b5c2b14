//! A region as a regular file by FUSE, on the kernel's real `/dev/fuse`.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use r3map_core::backend::memory::Memory;
use r3map_core::backend::{Operation, Reply, Request};
use r3map_core::device::{Attach, Device, Kind, fuse};
use r3map_core::{Backend, Cancel, Code, DeviceChoice, Error, Info, Mount, Result};

/// Leaves the test, saying why, where this machine has no FUSE.
macro_rules! need_fuse {
    () => {
        if let Err(error) = fuse::probe() {
            eprintln!("SKIPPED: {error}");
            return;
        }
    };
}

const LONG: Duration = Duration::from_secs(20);

fn memory(size: u64) -> Arc<Memory> {
    Arc::new(Memory::new(size).unwrap())
}

fn mount(backend: Arc<dyn Backend>) -> Mount {
    Mount::options().device(DeviceChoice::Fuse).open(backend).unwrap()
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

/// Different bytes everywhere, so that one in the wrong place is seen.
fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let word = |index: u64| (index.wrapping_add(seed)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    (0..length as u64).map(|at| word(at / 8).to_le_bytes()[at as usize % 8]).collect()
}

/// Waits for what another process or thread brings about; fails after a time no healthy machine takes.
fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < until, "{what}: not within {LONG:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn is_mounted(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    mounts.lines().any(|line| line.split(' ').nth(1) == path.to_str())
}

/// A memory region that can be told to fail, to wait, and what it was asked.
struct Troubled {
    info: Info,
    memory: Arc<Memory>,
    failing: Mutex<Option<Error>>,
    syncs: AtomicU64,
    writes: AtomicU64,
    /// Requests wait here while it is set.
    held: AtomicBool,
    queue: Mutex<Vec<Request>>,
    arrived: Condvar,
}

impl Troubled {
    fn new(size: u64) -> Arc<Troubled> {
        let info = Info { local: false, ..Info::local("test:troubled", size) };
        Arc::new(Troubled {
            info,
            memory: memory(size),
            failing: Mutex::default(),
            syncs: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            held: AtomicBool::new(false),
            queue: Mutex::default(),
            arrived: Condvar::new(),
        })
    }

    fn fail(&self, error: Option<Error>) {
        *self.failing.lock().unwrap() = error;
    }

    fn check(&self) -> Result<()> {
        self.failing.lock().unwrap().clone().map_or(Ok(()), Err)
    }

    fn answer(&self, request: Request) {
        let outcome = self.check().and_then(|()| match request.operation {
            Operation::Read { offset, mut buffer } => {
                self.memory.read_at(&mut buffer, offset).map(|()| Reply::Data(buffer))
            }
            Operation::Write { offset, data } => {
                self.writes.fetch_add(1, Ordering::SeqCst);
                self.memory.write_at(&data, offset).map(|()| Reply::Done)
            }
            Operation::Zero { offset, length } => self.memory.zero_at(offset, length).map(|()| Reply::Done),
            Operation::Sync => {
                self.syncs.fetch_add(1, Ordering::SeqCst);
                Ok(Reply::Done)
            }
        });
        request.completion.complete(outcome);
    }

    /// Waits until so many requests wait, and takes them.
    fn take(&self, count: usize) -> Vec<Request> {
        let queue = self.queue.lock().unwrap();
        let (mut queue, wait) = self.arrived.wait_timeout_while(queue, LONG, |queue| queue.len() < count).unwrap();
        assert!(!wait.timed_out(), "only {} of {count} requests came", queue.len());
        std::mem::take(&mut queue)
    }

    fn release(&self) {
        self.held.store(false, Ordering::SeqCst);
        for request in std::mem::take(&mut *self.queue.lock().unwrap()) {
            self.answer(request);
        }
    }
}

impl Backend for Troubled {
    fn info(&self) -> &Info {
        &self.info
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.check()?;
        self.memory.read_at(buffer, offset)
    }
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.check()?;
        self.memory.write_at(data, offset)
    }
    fn sync(&self) -> Result<()> {
        self.check()
    }
    fn submit(self: Arc<Self>, request: Request) {
        if self.held.load(Ordering::SeqCst) {
            self.queue.lock().unwrap().push(request);
            self.arrived.notify_all();
        } else {
            self.answer(request);
        }
    }
}

#[test]
fn the_path_is_a_regular_file_of_the_exact_size_whatever_that_is() {
    need_fuse!();
    for size in [0, 1, 511, 4095, 4096, 4097, 1_000_003] {
        let mount = mount(memory(size));
        let path = mount.path().unwrap();
        let metadata = fs::metadata(&path).unwrap();
        assert!(metadata.is_file());
        assert_eq!(metadata.len(), size);
        let bytes = pattern(size as usize, size);
        open(&path).write_all(&bytes).unwrap();
        assert_eq!(fs::read(&path).unwrap(), bytes);
        assert_eq!(fs::metadata(&path).unwrap().len(), size);
        mount.close().unwrap();
    }
}

#[test]
fn the_path_lies_in_a_directory_of_this_user_alone_that_goes_with_the_mount() {
    need_fuse!();
    let mount = mount(memory(8192));
    let path = mount.path().unwrap();
    let directory = path.parent().unwrap().to_owned();
    assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts.lines().find(|line| line.contains(path.to_str().unwrap())).unwrap();
    assert_eq!(line.split(' ').nth(2), Some("fuse.r3map"), "{line}");
    mount.close().unwrap();
    assert!(!is_mounted(&path));
    assert!(!directory.exists());
}

#[test]
fn what_one_view_writes_the_others_read() {
    need_fuse!();
    let backend = memory(1 << 20);
    backend.write_at(b"before", 100).unwrap();
    let mount = mount(backend.clone());
    let path = open(&mount.path().unwrap());
    let file = mount.file().unwrap();
    let mut map = {
        // SAFETY: the mount outlives the mapping, and the test's other accesses do not overlap in time.
        unsafe { memmap2::MmapMut::map_mut(&file).unwrap() }
    };
    let views = |at: usize, length: usize, map: &[u8]| {
        let mut bytes = vec![vec![0; length]; 3];
        path.read_exact_at(&mut bytes[0], at as u64).unwrap();
        file.read_exact_at(&mut bytes[1], at as u64).unwrap();
        mount.read_at(&mut bytes[2], at as u64).unwrap();
        bytes.push(map[at..at + length].to_vec());
        bytes
    };
    assert!(views(100, 6, &map).iter().all(|bytes| bytes == b"before"));
    mount.write_at(b"handle", 5000).unwrap();
    path.write_all_at(b"path", 5006).unwrap();
    file.write_all_at(b"file", 5010).unwrap();
    map[5014..5017].copy_from_slice(b"map");
    assert!(views(5000, 17, &map).iter().all(|bytes| bytes == b"handlepathfilemap"));
    mount.sync().unwrap();
    let mut stored = [0; 17];
    backend.read_at(&mut stored, 5000).unwrap();
    assert_eq!(&stored, b"handlepathfilemap");
    drop(map);
    drop((path, file));
    mount.close().unwrap();
}

#[test]
fn another_process_maps_the_file_and_both_see_each_others_stores() {
    need_fuse!();
    let backend = memory(1 << 20);
    let mount = mount(backend.clone());
    let script = "import mmap, sys
f = open(sys.argv[1], 'r+b'); m = mmap.mmap(f.fileno(), 0)
sys.stdin.readline(); assert m[70000:70005] == b'hello', m[70000:70005]
m[70005:70010] = b'world'; m.flush(); print('stored', flush=True); sys.stdin.readline()";
    let mut other = Command::new("python3")
        .args(["-c", script])
        .arg(mount.path().unwrap())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut ask, mut said) = (other.stdin.take().unwrap(), BufReader::new(other.stdout.take().unwrap()));
    mount.write_at(b"hello", 70000).unwrap();
    ask.write_all(b"\n").unwrap();
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "stored\n");
    let mut bytes = [0; 10];
    mount.read_at(&mut bytes, 70000).unwrap();
    assert_eq!(&bytes, b"helloworld");
    mount.sync().unwrap();
    backend.read_at(&mut bytes, 70000).unwrap();
    assert_eq!(&bytes, b"helloworld");
    ask.write_all(b"\n").unwrap();
    assert!(other.wait().unwrap().success());
    mount.close().unwrap();
}

fn sqlite(path: &Path, statements: &str) -> String {
    let output = Command::new("sqlite3").arg("-bail").arg(path).arg(statements).output().unwrap();
    assert!(output.status.success(), "{statements}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The bytes of a database of about 8 MiB, with room for more.
fn database() -> Vec<u8> {
    let path = std::env::temp_dir().join(format!("r3map-t320-{}.db", std::process::id()));
    let _ = fs::remove_file(&path);
    sqlite(
        &path,
        "CREATE TABLE t(id INTEGER PRIMARY KEY, text BLOB);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 2000)
         INSERT INTO t SELECT i, randomblob(4000) FROM n;",
    );
    let bytes = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    bytes
}

#[test]
fn stock_sqlite_queries_changes_and_rolls_back_a_database_on_the_path() {
    need_fuse!();
    if Command::new("sqlite3").arg("--version").output().is_err() {
        eprintln!("SKIPPED: no sqlite3 on this machine (Debian package sqlite3)");
        return;
    }
    let bytes = database();
    // Larger than the database, so that it may grow.
    let backend = memory(bytes.len() as u64 + (1 << 20));
    backend.write_at(&bytes, 0).unwrap();
    let mount = mount(backend.clone());
    let path = mount.path().unwrap();
    assert_eq!(sqlite(&path, "SELECT count(*) FROM t"), "2000");
    sqlite(&path, "UPDATE t SET text = randomblob(4000) WHERE id % 3 = 0; DELETE FROM t WHERE id > 1990;");
    sqlite(&path, "INSERT INTO t SELECT NULL, randomblob(4000) FROM t LIMIT 100;");
    sqlite(&path, "BEGIN; DELETE FROM t WHERE id < 1500; SELECT count(*) FROM t; ROLLBACK;");
    assert_eq!(sqlite(&path, "SELECT count(*) FROM t; PRAGMA integrity_check;"), "2090\nok");
    assert!(!path.with_file_name("region-journal").exists());
    mount.close().unwrap();
    // What reached the backend is a whole database too.
    let mut stored = vec![0; backend.info().size as usize];
    backend.read_at(&mut stored, 0).unwrap();
    let copy = std::env::temp_dir().join(format!("r3map-t320-copy-{}.db", std::process::id()));
    fs::write(&copy, stored).unwrap();
    assert_eq!(sqlite(&copy, "SELECT count(*) FROM t; PRAGMA integrity_check;"), "2090\nok");
    fs::remove_file(&copy).unwrap();
}

#[test]
fn a_database_that_outgrows_the_region_fails_and_stays_whole() {
    need_fuse!();
    if Command::new("sqlite3").arg("--version").output().is_err() {
        eprintln!("SKIPPED: no sqlite3 on this machine (Debian package sqlite3)");
        return;
    }
    let bytes = database();
    let backend = memory(bytes.len() as u64);
    backend.write_at(&bytes, 0).unwrap();
    let mount = mount(backend);
    let path = mount.path().unwrap();
    let grow = "INSERT INTO t SELECT NULL, randomblob(4000) FROM t;";
    let output = Command::new("sqlite3").arg("-bail").arg(&path).arg(grow).output().unwrap();
    assert!(!output.status.success());
    eventually("the file has its size again", || fs::metadata(&path).unwrap().len() == bytes.len() as u64);
    assert_eq!(sqlite(&path, "SELECT count(*) FROM t; PRAGMA integrity_check;"), "2000\nok");
    mount.close().unwrap();
}

#[test]
fn the_file_keeps_its_size() {
    need_fuse!();
    let mount = mount(memory(5000));
    let path = mount.path().unwrap();
    let file = open(&path);
    let errno = |result: std::io::Result<()>| result.unwrap_err().raw_os_error();
    assert_eq!(errno(file.set_len(4999)), Some(libc::EPERM));
    assert_eq!(errno(file.set_len(1 << 40)), Some(libc::EPERM));
    file.set_len(5000).unwrap();
    assert_eq!(errno(fs::write(&path, b"truncates first")), Some(libc::EPERM));
    assert_eq!(errno(OpenOptions::new().append(true).open(&path).map(drop)), Some(libc::EPERM));
    assert_eq!(errno(fs::set_permissions(&path, fs::Permissions::from_mode(0o777))), Some(libc::EPERM));
    file.write_all_at(b"last", 4996).unwrap();
    // Past the end: what lies inside is stored, and the sync says that not all is.
    file.write_all_at(&[7; 3000], 4500).unwrap();
    assert_eq!(errno(file.sync_all()), Some(libc::ENOSPC));
    eventually("the file has its size again", || fs::metadata(&path).unwrap().len() == 5000);
    let mut bytes = [0; 500];
    file.read_exact_at(&mut bytes, 4500).unwrap();
    assert_eq!(bytes, [7; 500]);
    assert_eq!(file.read_at(&mut bytes, 5000).unwrap(), 0);
    mount.sync().unwrap();
    drop(file);
    mount.close().unwrap();
}

#[test]
fn holes_are_punched_at_the_backend() {
    need_fuse!();
    let backend = memory(1 << 20);
    backend.write_at(&pattern(1 << 20, 1), 0).unwrap();
    let mount = mount(backend.clone());
    let file = mount.file().unwrap();
    let mut bytes = vec![1; 1 << 20];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let allocate = |mode, offset, length| {
        // SAFETY: a plain call on a descriptor that is open.
        if unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, length) } == 0 {
            0
        } else {
            std::io::Error::last_os_error().raw_os_error().unwrap()
        }
    };
    assert_eq!(allocate(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 5000, 100_000), 0);
    assert_eq!(allocate(libc::FALLOC_FL_ZERO_RANGE, 300_000, 1), 0);
    assert_eq!(allocate(0, 0, 1 << 20), 0);
    assert_eq!(allocate(0, 0, (1 << 20) + 1), libc::ENOSPC);
    bytes[5000..105_000].fill(0);
    bytes[300_000] = 0;
    let mut seen = vec![1; 1 << 20];
    file.read_exact_at(&mut seen, 0).unwrap();
    assert!(seen == bytes);
    mount.sync().unwrap();
    backend.read_at(&mut seen, 0).unwrap();
    assert!(seen == bytes);
    drop(file);
    mount.close().unwrap();
}

#[test]
fn an_fsync_by_anybody_syncs_the_backend_once_and_a_close_brings_writes_there() {
    need_fuse!();
    let backend = Troubled::new(1 << 20);
    let mount = mount(backend.clone());
    let file = mount.file().unwrap();
    file.write_all_at(&[1; 10_000], 0).unwrap();
    file.sync_all().unwrap();
    assert_eq!(backend.syncs.load(Ordering::SeqCst), 1);
    assert!(backend.writes.load(Ordering::SeqCst) > 0);
    file.write_all_at(b"closed", 500_000).unwrap();
    drop(file);
    let mut bytes = [0; 6];
    backend.memory.read_at(&mut bytes, 500_000).unwrap();
    assert_eq!(&bytes, b"closed");
    assert_eq!(backend.syncs.load(Ordering::SeqCst), 1);
    mount.write_at(b"synced", 600_000).unwrap();
    mount.sync().unwrap();
    backend.memory.read_at(&mut bytes, 600_000).unwrap();
    assert_eq!(&bytes, b"synced");
    // The device's own part of a sync leaves the backend to the mount.
    assert_eq!(backend.syncs.load(Ordering::SeqCst), 2);
    mount.close().unwrap();
}

#[test]
fn a_read_error_is_the_readers_and_the_page_reads_again_once_the_backend_recovers() {
    need_fuse!();
    let backend = Troubled::new(1 << 20);
    backend.memory.write_at(b"there", 0).unwrap();
    let mount = mount(backend.clone());
    let mut file = mount.file().unwrap();
    backend.fail(Some(Error::new(Code::Io, "the disk said no")));
    let mut bytes = [0; 5];
    assert_eq!(file.read_exact(&mut bytes).unwrap_err().raw_os_error(), Some(libc::EIO));
    assert_eq!(mount.read_at(&mut bytes, 0).unwrap_err().code(), Code::Io);
    backend.fail(None);
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"there");
    mount.sync().unwrap();
    drop(file);
    mount.close().unwrap();
}

#[test]
fn a_write_that_was_lost_fails_every_later_sync() {
    need_fuse!();
    let backend = Troubled::new(1 << 20);
    let mount = mount(backend.clone());
    let file = mount.file().unwrap();
    file.write_all_at(b"lost", 0).unwrap();
    backend.fail(Some(Error::new(Code::Io, "the disk said no")));
    assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(libc::EIO));
    backend.fail(None);
    for _ in 0..3 {
        assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(libc::EIO));
        assert_eq!(mount.sync().unwrap_err().code(), Code::Io);
    }
    drop(file);
    assert!(mount.close().is_err());
    mount.discard().unwrap();
}

#[test]
fn a_region_that_does_not_answer_is_an_error_at_the_deadline_and_no_obstacle_to_the_end() {
    need_fuse!();
    let backend = Troubled::new(1 << 20);
    let options = Mount::options().device(DeviceChoice::Fuse).deadline(Duration::from_millis(100));
    let mount = options.open(backend.clone()).unwrap();
    let path = mount.path().unwrap();
    backend.held.store(true, Ordering::SeqCst);
    let error = open(&path).read_at(&mut [0; 10], 0).unwrap_err();
    assert!(matches!(error.raw_os_error(), Some(libc::ETIMEDOUT | libc::EIO)), "{error}");
    let file = mount.file();
    backend.release();
    let file = file.unwrap();
    backend.held.store(true, Ordering::SeqCst);
    file.write_all_at(&[1; 4096], 8192).unwrap();
    assert!(file.sync_all().is_err());
    // Answers that come too late change nothing.
    backend.release();
    let mut bytes = [1; 10];
    open(&path).read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, [0; 10]);
    assert!(mount.sync().is_err(), "the write may be lost");
    backend.held.store(true, Ordering::SeqCst);
    let stuck = std::thread::spawn(move || open(&path).read_at(&mut [0; 10], 500_000));
    backend.take(1);
    mount.discard().unwrap();
    assert!(stuck.join().unwrap().is_err());
}

#[test]
fn a_cancel_ends_a_read_that_waits_for_the_region() {
    need_fuse!();
    let backend = Troubled::new(1 << 20);
    let mount = mount(backend.clone());
    mount.path().unwrap();
    backend.held.store(true, Ordering::SeqCst);
    let cancel = Cancel::new();
    let reader = std::thread::spawn({
        let mount = mount.with_cancel(cancel.clone());
        move || mount.read_at(&mut [0; 10], 0)
    });
    let requests = backend.take(1);
    cancel.trigger();
    assert_eq!(reader.join().unwrap().unwrap_err().code(), Code::Cancelled);
    requests.into_iter().for_each(|request| backend.answer(request));
    backend.release();
    mount.close().unwrap();
}

#[test]
fn misses_that_are_answered_out_of_order_bring_each_reader_its_own_bytes() {
    need_fuse!();
    const READERS: usize = 24;
    let backend = Troubled::new(READERS as u64 * (4 << 20));
    for index in 0..READERS {
        backend.memory.write_at(&pattern(8192, index as u64), index as u64 * (4 << 20)).unwrap();
    }
    let mut options = Mount::options().device(DeviceChoice::Fuse);
    options.read_ahead = Some(0);
    let mount = options.open(backend.clone()).unwrap();
    let path = mount.path().unwrap();
    backend.held.store(true, Ordering::SeqCst);
    let readers: Vec<_> = (0..READERS)
        .map(|index| {
            let path = path.clone();
            std::thread::spawn(move || {
                let mut bytes = vec![0; 4096];
                open(&path).read_exact_at(&mut bytes, index as u64 * (4 << 20)).unwrap();
                assert!(bytes == pattern(8192, index as u64)[..4096]);
            })
        })
        .collect();
    // All of them are under way at once, though only two threads serve.
    let requests = backend.take(READERS);
    backend.held.store(false, Ordering::SeqCst);
    for (turn, request) in requests.into_iter().rev().enumerate() {
        match &request.operation {
            // A region may say "all zeros" without bytes; nobody here is told so wrongly.
            Operation::Read { .. } if turn % 2 == 0 => {
                std::thread::spawn({
                    let backend = backend.clone();
                    move || backend.answer(request)
                });
            }
            _ => backend.answer(request),
        }
    }
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    mount.close().unwrap();
}

#[test]
fn a_read_only_region_refuses_writers() {
    need_fuse!();
    let backend = memory(10_000);
    backend.write_at(b"fixed", 0).unwrap();
    let mount = Mount::options().device(DeviceChoice::Fuse).read_only(true).open(backend).unwrap();
    let path = mount.path().unwrap();
    let refused = OpenOptions::new().write(true).open(&path).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    assert_eq!(&fs::read(&path).unwrap()[..5], b"fixed");
    assert!(mount.file().unwrap().write_all_at(b"x", 0).is_err());
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o400);
    mount.close().unwrap();
}

fn attach_at(path: PathBuf, backend: Arc<dyn Backend>) -> Result<Arc<dyn Device>> {
    let name = backend.info().name.clone();
    let how = Attach { name, read_only: false, path: Some(path), read_ahead: None, deadline: LONG };
    fuse::attach(backend, &how)
}

#[test]
fn a_region_lies_over_the_file_the_user_names_which_comes_back_unchanged() {
    need_fuse!();
    let directory = std::env::temp_dir().join(format!("r3map-t320-at-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let (there, missing) = (directory.join("there"), directory.join("missing, with \\ and 'signs'"));
    fs::write(&there, b"the user's own").unwrap();
    for path in [&there, &missing] {
        let device = attach_at(path.clone(), memory(4097)).unwrap();
        assert_eq!(device.path().unwrap(), path);
        assert_eq!(fs::metadata(path).unwrap().len(), 4097);
        device.detach().unwrap();
        device.detach().unwrap();
        assert_eq!(device.file().unwrap_err().code(), Code::Closed);
    }
    assert_eq!(fs::read(&there).unwrap(), b"the user's own");
    assert!(!missing.exists());
    let error = attach_at(directory.clone(), memory(1)).err().unwrap();
    assert_eq!(error.code(), Code::InvalidArgument);
    let error = attach_at(directory.join("no/such"), memory(1)).err().unwrap();
    assert_eq!(error.code(), Code::NotFound);
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn descriptors_and_mappings_left_open_see_the_end_of_the_mount() {
    need_fuse!();
    let mount = mount(memory(1 << 20));
    let path = mount.path().unwrap();
    let file = open(&path);
    mount.close().unwrap();
    let error = file.read_at(&mut [0; 10], 0).unwrap_err();
    assert!(matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::EIO | libc::ECONNABORTED)), "{error}");
    assert_eq!(File::open(&path).unwrap_err().raw_os_error(), Some(libc::ENOENT));
}

#[test]
fn a_child_that_the_app_forks_neither_hinders_the_end_nor_ends_the_mount() {
    need_fuse!();
    let mount = mount(memory(1 << 20));
    let path = mount.path().unwrap();
    // SAFETY: the child only sleeps and leaves by _exit.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: async-signal-safe calls only.
        unsafe {
            libc::sleep(60);
            libc::_exit(0);
        }
    }
    fs::read(&path).unwrap();
    let file = open(&path);
    // The child holds copies of all descriptors, those of the connection among them.
    mount.close().unwrap();
    assert!(file.read_at(&mut [0; 10], 0).is_err());
    assert!(!is_mounted(&path));
    // SAFETY: plain calls on a child of this process.
    unsafe {
        libc::kill(child, libc::SIGKILL);
        libc::waitpid(child, std::ptr::null_mut(), 0);
    }
}

/// Runs in a process of its own: serves a region, maps and dirties it itself, and waits to be killed.
#[test]
#[ignore = "started by another test"]
fn serve_in_a_process_of_its_own() {
    let ballast = pattern(64 << 20, 1);
    let mount = mount(Troubled::new(64 << 20));
    let path = mount.path().unwrap();
    let file = open(&path);
    // SAFETY: this process ends before the mapping does.
    let mut map = unsafe { memmap2::MmapMut::map_mut(&file).unwrap() };
    map[..ballast.len()].copy_from_slice(&ballast);
    println!("\npath={}", path.display());
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

fn serve() -> (Child, PathBuf) {
    let mut server = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "serve_in_a_process_of_its_own", "--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let path = lines.map_while(|line| line.ok()).find_map(|line| Some(line.strip_prefix("path=")?.to_owned()));
    (server, PathBuf::from(path.expect("the server said its path")))
}

/// The processes of that name, with the bytes each has in memory.
fn processes(name: &str) -> HashMap<i32, u64> {
    let mut found = HashMap::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(id) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let Ok(status) = fs::read_to_string(entry.path().join("status")) else { continue };
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        if field("Name:") == Some(name) {
            let kilobytes = field("VmRSS:").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
            found.insert(id, kilobytes.unwrap_or(0) << 10);
        }
    }
    found
}

#[test]
fn a_server_killed_while_it_and_another_have_dirty_pages_is_gone_with_its_mount_and_guard() {
    need_fuse!();
    for signal in [libc::SIGKILL, libc::SIGTERM] {
        let before = processes("r3map-guard");
        let (mut server, path) = serve();
        let guards = processes("r3map-guard");
        // Other tests run at the same time in this process, so there may be more than the server's.
        let ours: Vec<_> = guards.iter().filter(|(id, _)| !before.contains_key(id)).collect();
        assert!(!ours.is_empty());
        assert!(ours.iter().all(|(_, bytes)| **bytes < 32 << 20), "a guard keeps its parent's memory: {ours:?}");
        let script = "import mmap, sys
f = open(sys.argv[1], 'r+b'); m = mmap.mmap(f.fileno(), 0)
for at in range(0, len(m), 4096): m[at] = 7
print('dirty', flush=True); sys.stdin.read()";
        let mut other = Command::new("python3")
            .args(["-c", script])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(other.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "dirty\n");
        // SAFETY: a plain call on a child of this process.
        unsafe { libc::kill(server.id() as i32, signal) };
        eventually("the server is gone", || server.try_wait().unwrap().is_some());
        eventually("the mount is gone", || !is_mounted(&path));
        eventually("the directory is gone", || !path.parent().unwrap().exists());
        drop(other.stdin.take());
        eventually("the other is gone", || other.try_wait().unwrap().is_some());
    }
}

#[test]
fn a_store_that_waits_for_write_back_does_not_keep_its_own_process_from_serving_that() {
    need_fuse!();
    // In a process of its own, so that nobody has asked for buffers before.
    let mut server = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "serve_while_a_store_waits", "--ignored", "--nocapture"])
        .spawn()
        .unwrap();
    let until = Instant::now() + 2 * LONG;
    while server.try_wait().unwrap().is_none() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    // Does nothing to one that has ended.
    server.kill().unwrap();
    assert!(server.wait().unwrap().success());
}

/// Runs in a process of its own.
#[test]
#[ignore = "started by another test"]
fn serve_while_a_store_waits() {
    const MIB: usize = 1 << 20;
    let backend = Troubled::new(16 * MIB as u64);
    let mount = mount(backend.clone());
    let file = open(&mount.path().unwrap());
    let bytes = pattern(MIB, 1);
    // SAFETY: the mapping goes before the mount does, and no other access overlaps.
    let mut map = unsafe { memmap2::MmapMut::map_mut(&file).unwrap() };
    let (tell, told) = std::sync::mpsc::channel();
    let (start, started) = std::sync::mpsc::channel();
    map[0] = 1;
    let storing = std::thread::spawn(move || {
        // SAFETY: gettid has no preconditions.
        tell.send(unsafe { libc::gettid() }).unwrap();
        started.recv().unwrap();
        map[0] = 2;
    });
    let state = File::open(format!("/proc/self/task/{}/stat", told.recv().unwrap())).unwrap();
    let write_back = |offset: usize, size: usize| {
        // SAFETY: a plain call on a descriptor that is open.
        let started =
            unsafe { libc::sync_file_range(file.as_raw_fd(), offset as i64, size as i64, libc::SYNC_FILE_RANGE_WRITE) };
        assert_eq!(started, 0);
    };
    backend.held.store(true, Ordering::SeqCst);
    write_back(0, 4096);
    let first = backend.take(1);
    backend.held.store(false, Ordering::SeqCst);
    start.send(()).unwrap();
    // From here on kernels before 6.6 let nobody in this process map memory, so this thread does not allocate.
    eventually("the store waits", || {
        let mut line = [0; 64];
        state.read_at(&mut line, 0).unwrap();
        line.windows(4).any(|part| part == b") D ")
    });
    for (index, size) in (0..=8).map(|power| 4096 << power).enumerate() {
        let (offset, before) = ((1 + index) * MIB, backend.writes.load(Ordering::SeqCst));
        file.write_all_at(&bytes[..size], offset as u64).unwrap();
        write_back(offset, size);
        eventually("it is written back", || backend.writes.load(Ordering::SeqCst) > before);
    }
    first.into_iter().for_each(|request| backend.answer(request));
    storing.join().unwrap();
    mount.close().unwrap();
}

#[test]
fn three_hundred_mounts_in_a_row_leave_nothing_behind() {
    need_fuse!();
    // In a process of its own, so that tests running at the same time do not count.
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "attach_and_detach_in_a_loop", "--ignored", "--nocapture"])
        .status()
        .unwrap();
    assert!(status.success());
}

/// Runs in a process of its own.
#[test]
#[ignore = "started by another test"]
fn attach_and_detach_in_a_loop() {
    let entries = |folder: &str| fs::read_dir(folder).unwrap().count();
    let once = || {
        let mount = mount(memory(10_000));
        let path = mount.path().unwrap();
        open(&path).write_all_at(b"x", 9_999).unwrap();
        mount.close().unwrap();
        path
    };
    once();
    // The buffer pool's threads come and go.
    eventually("idle", || entries("/proc/self/task") <= 3);
    let (files, threads) = (entries("/proc/self/fd"), entries("/proc/self/task"));
    for _ in 0..300 {
        let path = once();
        assert!(!is_mounted(&path));
        assert!(!path.parent().unwrap().exists());
    }
    assert_eq!(entries("/proc/self/fd"), files);
    eventually("the threads are gone", || entries("/proc/self/task") <= threads);
    let mut waited = 0;
    // SAFETY: asks only for children of any kind, of which there are none.
    assert_eq!(unsafe { libc::waitpid(-1, &mut waited, libc::WNOHANG | libc::__WALL) }, -1);
}

#[test]
fn a_mount_attaches_once_and_says_what_it_is() {
    need_fuse!();
    let mount = mount(memory(4096));
    assert_eq!(mount.device(), None);
    assert_eq!(mount.path().unwrap(), mount.path().unwrap());
    assert_eq!(mount.device(), Some(Kind::Fuse));
    assert_eq!(mount.slice().err().unwrap().code(), Code::Unsupported);
    mount.close().unwrap();
}
