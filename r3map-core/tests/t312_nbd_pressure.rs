//! A slice of an NBD device served by its own process, larger than memory, under everything that could make
//! the kernel wait for the process while the process waits for the kernel. It decides whether `auto` may take
//! nbd for a slice.
//!
//! `R3MAP_PRESSURE_SECONDS` (20) says how long.
//! In the guest: --memory 256M

mod nbd;

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::ops::DerefMut;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use memmap2::MmapMut;
use nbd::machine;
use r3map_core::backend::{Backend, Info, Operation, Reply, Request};
use r3map_core::{DeviceChoice, Error, Mount, Result};

const PAGE: usize = 4096;
const WORDS: u64 = (PAGE / 8) as u64;
const MIB: u64 = 1 << 20;
/// No thread may stand still for so long; closing may take twice that.
const HANG: Duration = Duration::from_secs(60);

fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (value ^ (value >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ (value >> 32)
}

/// Which word of a page is the one that changes. The others follow from the page's number.
fn live(page: u64) -> u64 {
    mix(page) % WORDS
}

fn fixed(page: u64, word: u64) -> u64 {
    mix(page).wrapping_add(word.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// A remote-like store of any size in little memory: it keeps the one word of each page that changes, makes
/// up the others, and checks them in what is written. Its answers come later, from threads of its own.
struct Words {
    info: Info,
    values: Vec<AtomicU64>,
    requests: Mutex<VecDeque<Request>>,
    arrived: Condvar,
    corrupt: AtomicU64,
    /// Takes memory for each request from the kernel, as an allocator does for long ones.
    maps: bool,
}

impl Words {
    fn new(pages: u64, maps: bool) -> Arc<Words> {
        let words = Arc::new(Words {
            info: Info { local: false, ..Info::local("words:", pages * PAGE as u64) },
            values: (0..pages).map(|_| AtomicU64::new(0)).collect(),
            requests: Mutex::default(),
            arrived: Condvar::new(),
            corrupt: AtomicU64::new(0),
            maps,
        });
        for _ in 0..3 {
            let words = words.clone();
            thread::spawn(move || words.work());
        }
        words
    }

    fn memory(&self, length: usize) -> Box<dyn DerefMut<Target = [u8]>> {
        if self.maps {
            Box::new(MmapMut::map_anon(length).unwrap())
        } else {
            Box::new(vec![0; length].into_boxed_slice())
        }
    }

    fn work(&self) {
        let mut turn = 0u64;
        loop {
            let mut requests = self.requests.lock().unwrap();
            let request = loop {
                match requests.pop_front() {
                    Some(request) => break request,
                    None => requests = self.arrived.wait(requests).unwrap(),
                }
            };
            drop(requests);
            turn += 1;
            if turn % 4 == 0 {
                // A network that dawdles.
                thread::sleep(Duration::from_millis(1));
            }
            let outcome = match request.operation {
                Operation::Read { offset, mut buffer } => {
                    // As a network client would: its own memory comes and goes.
                    let mut received = self.memory(buffer.len());
                    let read = self.read_at(&mut received, offset);
                    buffer.copy_from_slice(&received);
                    read.map(|()| Reply::Data(buffer))
                }
                Operation::Write { offset, data } => {
                    let mut sent = self.memory(data.len());
                    sent.copy_from_slice(&data);
                    self.write_at(&sent, offset).map(|()| Reply::Done)
                }
                Operation::Zero { .. } => unreachable!("nothing here zeroes"),
                Operation::Sync => Ok(Reply::Done),
            };
            request.completion.complete(outcome);
        }
    }
}

impl Backend for Words {
    fn info(&self) -> &Info {
        &self.info
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        for (page, bytes) in (offset / PAGE as u64..).zip(buffer.chunks_exact_mut(PAGE)) {
            for (word, bytes) in (0..).zip(bytes.chunks_exact_mut(8)) {
                bytes.copy_from_slice(&fixed(page, word).to_ne_bytes());
            }
            let value = self.values[page as usize].load(Ordering::SeqCst);
            bytes[live(page) as usize * 8..][..8].copy_from_slice(&value.to_ne_bytes());
        }
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        for (page, bytes) in (offset / PAGE as u64..).zip(data.chunks_exact(PAGE)) {
            for (word, bytes) in (0..).zip(bytes.chunks_exact(8)) {
                let value = u64::from_ne_bytes(bytes.try_into().unwrap());
                if word == live(page) {
                    self.values[page as usize].store(value, Ordering::SeqCst);
                } else if value != fixed(page, word) {
                    self.corrupt.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn submit(self: Arc<Self>, request: Request) {
        self.requests.lock().unwrap().push_back(request);
        self.arrived.notify_one();
    }
}

/// What the threads of the test share.
struct Play {
    mount: Mount,
    pages: u64,
    /// What each page's word must be; a page has one writer.
    expected: Vec<AtomicU64>,
    stop: AtomicBool,
    /// How often each thread came round.
    rounds: Vec<AtomicU64>,
}

const PLAYERS: u64 = 6;
const CHURNERS: u64 = 3;
const SYNCER: u64 = PLAYERS + CHURNERS;

impl Play {
    fn rounds(&self, thread: u64, mut body: impl FnMut(u64)) {
        let mut state = mix(thread + 1);
        while !self.stop.load(Ordering::Relaxed) {
            state = mix(state.wrapping_add(thread + 1));
            body(state);
            self.rounds[thread as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    fn told(&self) -> String {
        let rounds = self.rounds.iter().map(|rounds| rounds.load(Ordering::Relaxed).to_string());
        rounds.collect::<Vec<_>>().join(" ")
    }

    /// Reads any page, and reads and writes its own ones: through the slice, or through the handle.
    fn player(&self, thread: u64) {
        let slice = self.mount.slice().unwrap();
        let word = |page: u64, word: u64| {
            assert!(page < self.pages && word < WORDS);
            // SAFETY: inside the slice and aligned.
            unsafe { slice.as_ptr().cast::<u64>().add((page * WORDS + word) as usize) }
        };
        self.rounds(thread, |random| {
            let (page, other) = (random % self.pages, (random >> 20) % WORDS);
            if other != live(page) {
                // SAFETY: mapped while the mount is open; others at most write what is there.
                assert_eq!(unsafe { ptr::read_volatile(word(page, other)) }, fixed(page, other));
            }
            let own = page / PLAYERS * PLAYERS + thread;
            if own >= self.pages {
                return;
            }
            let expected = &self.expected[own as usize];
            let (before, place) = (expected.load(Ordering::Relaxed), live(own));
            if random >> 60 == 0 {
                let offset = (own * WORDS + place) * 8;
                let mut bytes = [0; 8];
                self.mount.read_at(&mut bytes, offset).unwrap();
                assert_eq!(u64::from_ne_bytes(bytes), before, "page {own}");
                self.mount.write_at(&(before + 1).to_ne_bytes(), offset).unwrap();
            } else {
                // SAFETY: as above, and this thread is the only one to write this word.
                unsafe {
                    assert_eq!(ptr::read_volatile(word(own, place)), before, "page {own}");
                    ptr::write_volatile(word(own, place), before + 1);
                }
            }
            expected.store(before + 1, Ordering::Relaxed);
        });
    }

    /// Drops the page cache of the device as often as it can: the same pressure, without the memory.
    fn dropper(&self, thread: u64) {
        let file = self.mount.file().unwrap();
        self.rounds(thread, |_| {
            // SAFETY: takes numbers only.
            unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
            thread::yield_now();
        });
    }

    /// Maps, touches, unmaps and allocates, so that the address space changes and memory is short.
    fn churner(&self, thread: u64) {
        let mut kept: VecDeque<MmapMut> = VecDeque::new();
        self.rounds(thread, |random| {
            let mut map = MmapMut::map_anon((64 << 10) << (random % 7)).unwrap();
            for page in map.chunks_mut(PAGE) {
                page[0] = 1;
            }
            let heap: Vec<Vec<u8>> = (0..4).map(|step| vec![1; 50_000 << step]).collect();
            assert_eq!(heap.iter().map(|part| part[part.len() - 1] as usize).sum::<usize>(), heap.len());
            kept.push_back(map);
            // The players shall have most of the time.
            thread::sleep(Duration::from_millis(random >> 32 & 3));
            while kept.len() > 12 || random % 64 == 0 && !kept.is_empty() {
                kept.pop_front();
            }
        });
    }
}

fn seconds() -> u64 {
    std::env::var("R3MAP_PRESSURE_SECONDS").map_or(20, |text| text.parse().unwrap())
}

/// The play itself, in a process of its own, so that whoever watches it cannot hang with it.
fn play(backend: Arc<dyn Backend>, drops: bool) {
    let pages = backend.info().size / PAGE as u64;
    let mut options = Mount::options().device(DeviceChoice::Nbd(None));
    // Little, so that most accesses fault and memory turns over.
    options.read_ahead = Some(16 << 10);
    // No deadline: what hangs shall hang, not be ended by an error.
    let mount = options.deadline(Duration::ZERO).open(backend.clone()).unwrap();
    let play = Arc::new(Play {
        mount,
        pages,
        expected: (0..pages).map(|_| AtomicU64::new(0)).collect(),
        stop: AtomicBool::new(false),
        rounds: (0..=SYNCER).map(|_| AtomicU64::new(0)).collect(),
    });
    thread::scope(|scope| {
        let begun = Instant::now();
        for thread in 0..PLAYERS {
            let play = &play;
            scope.spawn(move || play.player(thread));
        }
        for thread in PLAYERS..PLAYERS + CHURNERS {
            let play = &play;
            scope.spawn(move || match drops && thread == PLAYERS {
                true => play.dropper(thread),
                false => play.churner(thread),
            });
        }
        scope.spawn(|| {
            play.rounds(SYNCER, |_| {
                play.mount.sync().unwrap();
                thread::sleep(Duration::from_millis(500));
            });
        });
        while begun.elapsed() < Duration::from_secs(seconds()) {
            println!("=> {}", play.told());
            thread::sleep(Duration::from_millis(500));
        }
        play.stop.store(true, Ordering::Relaxed);
    });
    play.mount.sync().unwrap();
    play.mount.close().unwrap();
    let mut page = vec![0; PAGE];
    for number in 0..pages {
        backend.read_at(&mut page, number * PAGE as u64).unwrap();
        let place = live(number) as usize * 8;
        let stored = u64::from_ne_bytes(page[place..place + 8].try_into().unwrap());
        assert_eq!(stored, play.expected[number as usize].load(Ordering::Relaxed), "page {number}");
    }
    println!("=> {}", play.told());
}

/// Runs this test again as the play and watches it from outside: every thread has to come round, and the last sync and the close to
/// end.
fn watch(test: &str) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--include-ignored"])
        .env("R3MAP_TEST_ROLE", "play")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (say, lines) = mpsc::channel();
    let output = BufReader::new(child.stdout.take().unwrap());
    let listener = thread::spawn(move || {
        for line in output.lines() {
            let _ = say.send(line.unwrap());
        }
    });
    let mut rounds: Vec<(String, Instant)> = Vec::new();
    let mut quiet_since = Instant::now();
    loop {
        match lines.recv_timeout(Duration::from_secs(1)) {
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
            Ok(line) => {
                quiet_since = Instant::now();
                let Some(told) = line.strip_prefix("=> ") else { continue };
                for (thread, count) in told.split(' ').enumerate() {
                    match rounds.get_mut(thread) {
                        None => rounds.push((count.to_owned(), Instant::now())),
                        Some(known) if known.0 != count => *known = (count.to_owned(), Instant::now()),
                        Some(_) => {}
                    }
                }
            }
        }
        // An fsync may take its time while others go on writing: it only has to end with them.
        let mut rushed = rounds.iter().take(SYNCER as usize);
        let still = rushed.position(|(_, since)| quiet_since.duration_since(*since) > HANG);
        if still.is_some() || quiet_since.elapsed() > 2 * HANG {
            let report = threads_of(child.id());
            child.kill().unwrap();
            panic!("the play hangs (thread {still:?} of {rounds:?}):\n{report}");
        }
    }
    listener.join().unwrap();
    let status = child.wait().unwrap();
    let rounds: Vec<_> = rounds.into_iter().map(|(count, _)| count).collect();
    println!("rounds by thread: {}", rounds.join(" "));
    assert!(status.success(), "{status}");
}

/// Where each thread of a process stands in the kernel.
fn threads_of(process: u32) -> String {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap().flatten();
    let read = |path: &std::path::Path, name| std::fs::read_to_string(path.join(name)).unwrap_or_default();
    let tell = |path: &std::path::Path| {
        format!("{} [{}]\n{}", read(path, "comm").trim(), read(path, "wchan"), read(path, "stack"))
    };
    tasks.map(|task| tell(&task.path())).collect()
}

fn in_play() -> bool {
    std::env::var_os("R3MAP_TEST_ROLE").is_some()
}

#[test]
fn a_slice_larger_than_memory_over_a_remote_store_never_hangs_its_own_process() {
    if in_play() {
        let words = Words::new(512 * MIB / PAGE as u64, false);
        play(words.clone(), false);
        assert_eq!(words.corrupt.load(Ordering::SeqCst), 0);
        return;
    }
    let Some(_machine) = machine() else { return };
    watch("a_slice_larger_than_memory_over_a_remote_store_never_hangs_its_own_process");
}

/// The limit of a slice that is served by its own process, and why `auto` takes userfaultfd for one. A fault
/// whose page the kernel drops before it can be mapped is tried again, and that second time waits for the
/// backend while it holds the lock of the address space. If another thread then waits to change the address
/// space, a thread of the backend that touches fresh memory waits behind it: nobody moves, until the deadline.
#[test]
#[ignore = "hangs within seconds: kernels hold the address space's lock over the second try of a fault"]
fn a_slice_over_a_store_that_maps_memory_survives_that_its_page_cache_is_dropped() {
    if in_play() {
        return play(Words::new(64 * MIB / PAGE as u64, true), true);
    }
    let Some(_machine) = machine() else { return };
    watch("a_slice_over_a_store_that_maps_memory_survives_that_its_page_cache_is_dropped");
}

/// A file that begins as `Words` would: for a local store, served in place.
fn file_of_words(path: &std::path::Path, size: u64) -> Result<Arc<dyn Backend>> {
    let url = format!("file://{}?size={size}", path.display());
    let file = r3map_core::backend::open(&url, &Default::default())?;
    let words = Words::new(size / PAGE as u64, false);
    let mut chunk = vec![0; MIB as usize];
    for offset in (0..size).step_by(MIB as usize) {
        words.read_at(&mut chunk, offset)?;
        file.write_at(&chunk, offset)?;
    }
    file.sync()?;
    Ok(file)
}

#[test]
fn a_slice_larger_than_memory_over_a_local_file_never_hangs_its_own_process() {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("t312_nbd_pressure.bin");
    if in_play() {
        play(file_of_words(&path, 384 * MIB).unwrap(), false);
        return;
    }
    let Some(_machine) = machine() else { return };
    let removed = || std::fs::remove_file(&path).map_err(|error| Error::io("remove", error));
    let _ = removed();
    watch("a_slice_larger_than_memory_over_a_local_file_never_hangs_its_own_process");
    removed().unwrap();
}
