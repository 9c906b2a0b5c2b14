//! All the bytes of one backend into another, with many requests under way at once.
//!
//! A piece is read by `submit`; the thread that completes the read stores it where the target takes it in
//! place, else submits the write. So a local file costs no thread and a far store waits for no round trip.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::backend::{self, Backend, BackendOptions, Completion, Info, Operation, Priority, Reply, Request};
use crate::buffer::{self, Buffer};
use crate::cancel::{Cancel, Limit, deadline_in};
use crate::error::{Code, Error, Result};
use crate::url::Location;

/// Bytes under way unless another window is set.
const WINDOW: u64 = 32 << 20;
/// The piece that moves at once, if the backends take so much: below it the cost of a request shows.
const PIECE: u32 = 1 << 20;
/// How many bytes, and extents of them, the source is asked about at once.
const ASKED: u64 = 1 << 30;
const MOST_EXTENTS: usize = 1024;
/// How often a wait looks at its cancel.
const GLANCE: Duration = Duration::from_millis(50);

/// A copy of one backend to another of the same size.
pub struct Copy {
    source: Arc<dyn Backend>,
    target: Arc<dyn Backend>,
    /// Nobody wrote to the target yet: zeros need not be stored.
    target_is_zero: bool,
    window: u64,
    deadline: Duration,
    flight: Arc<Flight>,
}

impl Copy {
    /// A copy between two open backends, which must have the same size.
    pub fn between(source: Arc<dyn Backend>, target: Arc<dyn Backend>) -> Result<Copy> {
        backend::check_home(&*source)?;
        backend::check_home(&*target)?;
        let (from, to) = (source.info(), target.info());
        if from.size != to.size {
            return Err(other_size(from, &to.name, to.size));
        }
        if to.read_only {
            return Err(Error::new(
                Code::ReadOnly,
                format!("{} is open read-only: nothing can be copied to it", to.name),
            ));
        }
        Ok(Copy {
            source,
            target,
            target_is_zero: false,
            window: WINDOW,
            deadline: Duration::from_secs(30),
            flight: Arc::default(),
        })
    }

    /// A copy between two URLs. A target that is missing is created at the source's size, where its scheme
    /// can create one (`file:`, `dir:` and `memory:`); an existing one of another size is refused.
    pub fn open(from: &str, to: &str, options: &BackendOptions) -> Result<Copy> {
        let target = Location::parse(to)?;
        let source = backend::open(from, options)?;
        let (target, fresh) = open_target(to, &target, source.info(), options)?;
        Ok(Copy { target_is_zero: fresh, ..Copy::between(source, target)? })
    }

    /// How many bytes may be under way at once; 32 MiB by default. One piece always may.
    pub fn max_in_flight(mut self, bytes: u64) -> Copy {
        self.window = bytes;
        self
    }

    /// Bound of each request; zero waits for ever. 30 seconds by default.
    pub fn deadline(mut self, deadline: Duration) -> Copy {
        self.deadline = deadline;
        self
    }

    /// How many bytes there are to copy.
    pub fn size(&self) -> u64 {
        self.source.info().size
    }

    /// How many bytes have arrived so far. May be asked from any thread while the copy runs.
    pub fn done(&self) -> u64 {
        self.flight.done.load(Ordering::Relaxed)
    }

    /// Copies, syncs the target and returns. After a failure what is under way is waited for and the first
    /// error returned; the target then holds some of the bytes. A cancelled copy returns at once, and what
    /// was under way may still arrive.
    pub fn run(&self, cancel: Option<&Cancel>) -> Result<()> {
        let (size, piece) = (self.size(), piece(self.source.info(), self.target.info()));
        let mut zeros = Zeros::default();
        let mut offset = 0;
        while offset < size {
            let length = piece.min(size - offset);
            let zero = zeros.cover(&*self.source, offset..offset + length);
            self.flight.admit(length, self.window, self.deadline, cancel)?;
            self.start(offset, length, zero);
            offset += length;
        }
        self.flight.drain(self.deadline, cancel)?;
        let limit = Limit::within(self.deadline).with_cancel(cancel.cloned());
        let what = format!("copy: sync {}", self.target.info().name);
        backend::call(&self.target, Operation::Sync, &limit, &what).map(drop)
    }

    /// Reads a piece, unless it is known to be zero; its completion stores it.
    fn start(&self, offset: u64, length: u64, zero: bool) {
        let deadline = deadline_in(self.deadline);
        let (source, target) = (self.source.clone(), self.target.clone());
        let (flight, target_is_zero) = (self.flight.clone(), self.target_is_zero);
        let store = move |outcome: Result<Reply>| {
            let operation = match outcome {
                Err(error) => return flight.land(length, Err(error)),
                Ok(Reply::Data(data)) if data.len() as u64 == length => {
                    if buffer::is_zero(&data) {
                        Operation::Zero { offset, length }
                    } else if let Some(outcome) = target.try_write_at(&data, offset) {
                        return flight.land(length, outcome);
                    } else {
                        Operation::Write { offset, data }
                    }
                }
                Ok(Reply::Zeroes) => Operation::Zero { offset, length },
                Ok(Reply::Data(_) | Reply::Done) => {
                    return flight.land(length, Err(backend::short_reply(source.info())));
                }
            };
            if target_is_zero && matches!(operation, Operation::Zero { .. }) {
                return flight.land(length, Ok(()));
            }
            let completion = Completion::new(move |outcome| flight.land(length, outcome.map(drop)));
            target.submit(Request { operation, priority: Priority::Bulk, deadline, completion });
        };
        if zero {
            return store(Ok(Reply::Zeroes));
        }
        self.source.clone().submit(Request {
            operation: Operation::Read { offset, buffer: Buffer::new(length as usize) },
            priority: Priority::Bulk,
            deadline,
            completion: Completion::new(store),
        });
    }
}

/// What the source knows to be zeros, asked for a long stretch at a time.
#[derive(Default)]
struct Zeros {
    ranges: VecDeque<Range<u64>>,
    /// How far was asked.
    end: u64,
}

impl Zeros {
    /// Whether all of a range is zeros. Ranges come in order.
    fn cover(&mut self, source: &dyn Backend, range: Range<u64>) -> bool {
        while self.end < range.end {
            let mut at = self.end;
            let length = ASKED.min(source.info().size - at);
            // A source that cannot tell is read, and says then what is wrong.
            let extents = source.extents(at, length, MOST_EXTENTS).unwrap_or_default();
            for extent in extents {
                let end = at + extent.length;
                match self.ranges.back_mut() {
                    Some(last) if extent.zero && last.end == at => last.end = end,
                    _ if extent.zero => self.ranges.push_back(at..end),
                    _ => {}
                }
                at = end;
            }
            self.end = if at > self.end { at } else { self.end + length };
        }
        while self.ranges.front().is_some_and(|zeros| zeros.end <= range.start) {
            self.ranges.pop_front();
        }
        self.ranges.front().is_some_and(|zeros| zeros.start <= range.start && range.end <= zeros.end)
    }
}

/// What is under way.
#[derive(Default)]
struct Flight {
    state: Mutex<State>,
    changed: Condvar,
    /// Bytes that arrived.
    done: AtomicU64,
}

#[derive(Default)]
struct State {
    /// Bytes under way.
    bytes: u64,
    /// The first failure.
    failure: Option<Error>,
    /// When a piece last landed.
    landed: Option<Instant>,
}

impl Flight {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Waits until there is room in the window and takes it; after a failure until nothing is under way.
    fn admit(&self, length: u64, window: u64, deadline: Duration, cancel: Option<&Cancel>) -> Result<()> {
        let mut state = self.state();
        while state.failure.is_some() || (state.bytes > 0 && state.bytes + length > window) {
            if let Some(failure) = state.failure.as_ref().filter(|_| state.bytes == 0) {
                return Err(failure.clone());
            }
            state = self.wait(state, deadline, cancel)?;
        }
        check(cancel)?;
        state.bytes += length;
        Ok(())
    }

    /// Waits until nothing is under way.
    fn drain(&self, deadline: Duration, cancel: Option<&Cancel>) -> Result<()> {
        let mut state = self.state();
        while state.bytes > 0 {
            state = self.wait(state, deadline, cancel)?;
        }
        state.failure.take().map_or(Ok(()), Err)
    }

    fn wait<'a>(
        &self,
        state: MutexGuard<'a, State>,
        deadline: Duration,
        cancel: Option<&Cancel>,
    ) -> Result<MutexGuard<'a, State>> {
        check(cancel)?;
        // Every request ends by its own deadline; a backend that breaks this promise must not hang us.
        let quiet = state.landed.map_or(Duration::ZERO, |landed| landed.elapsed());
        if !deadline.is_zero() && quiet > deadline * 2 + Duration::from_secs(1) {
            let message = format!("copy: nothing arrived for {} s, the deadline being {deadline:?}", quiet.as_secs());
            return Err(Error::new(Code::Timeout, message));
        }
        let mut state = self.changed.wait_timeout(state, GLANCE).unwrap_or_else(|e| e.into_inner()).0;
        state.landed.get_or_insert_with(Instant::now);
        Ok(state)
    }

    /// A piece is done, or failed.
    fn land(&self, length: u64, outcome: Result<()>) {
        let mut state = self.state();
        state.bytes -= length;
        state.landed = Some(Instant::now());
        match outcome {
            Ok(()) => drop(self.done.fetch_add(length, Ordering::Relaxed)),
            Err(error) => drop(state.failure.get_or_insert(error)),
        }
        drop(state);
        self.changed.notify_one();
    }
}

fn check(cancel: Option<&Cancel>) -> Result<()> {
    Limit::none().with_cancel(cancel.cloned()).check("copy")
}

/// The length of a piece: at least a chunk, no more than either side takes, aligned for both.
fn piece(from: &Info, to: &Info) -> u64 {
    let most = from.max_request.min(to.max_request);
    let wanted = PIECE.max(from.chunk_size).max(to.chunk_size).min(most).max(1);
    let alignment = from.alignment.max(to.alignment).max(1);
    u64::from((wanted / alignment).max(1)) * u64::from(alignment)
}

/// Opens the target at the source's size, creating it if it is missing; says whether it is known to be zero.
fn open_target(
    to: &str,
    location: &Location,
    from: &Info,
    options: &BackendOptions,
) -> Result<(Arc<dyn Backend>, bool)> {
    // What is there already is asked for its size once it is open.
    let (create, is_zero) = match location.scheme() {
        "memory" => (true, true),
        // Zeros cost a directory nothing: it need not be known to have none but those.
        "dir" => (!location.file_path()?.exists(), false),
        // They do not say their size, so the URL has to.
        "redis" | "rediss" | "redis+cluster" | "cassandra" | "s3" => (true, false),
        "file" => {
            let path = location.file_path()?;
            location.parameters(&["size"])?;
            gives_size(location, from)?;
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => {
                    file.set_len(from.size)
                        .map_err(|error| Error::io(format!("give {} {} bytes", location.as_str(), from.size), error))?;
                    (true, true)
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => (false, false),
                Err(error) => return Err(Error::io(format!("create {}", location.as_str()), error)),
            }
        }
        _ => (false, false),
    };
    if !create || gives_size(location, from)? {
        return Ok((backend::open(to, options)?, is_zero));
    }
    let separator = if to.contains('?') { '&' } else { '?' };
    Ok((backend::open(&format!("{to}{separator}size={}", from.size), options)?, is_zero))
}

/// Whether the target's URL gives a size; an error if that is not the source's.
fn gives_size(location: &Location, from: &Info) -> Result<bool> {
    match location.any_parameters()?.size("size")? {
        Some(size) if size != from.size => Err(other_size(from, location.as_str(), size)),
        size => Ok(size.is_some()),
    }
}

fn other_size(from: &Info, to: &str, size: u64) -> Error {
    Error::new(
        Code::InvalidArgument,
        format!("{} has {} bytes but {to} has {size}: a copy needs a target of the same size", from.name, from.size),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::memory::Memory;
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    /// A store whose requests end on other threads, in an order of their own, and one of which may fail.
    struct Far {
        info: Info,
        memory: Arc<Memory>,
        requests: AtomicUsize,
        under_way: Arc<AtomicUsize>,
        most: AtomicUsize,
        zeroed: AtomicU64,
        fail_at: Option<u64>,
    }

    impl Far {
        fn new(size: u64) -> Far {
            Far {
                info: Info { local: false, ..Info::local("far", size) },
                memory: Arc::new(Memory::new(size).unwrap()),
                requests: AtomicUsize::new(0),
                under_way: Arc::default(),
                most: AtomicUsize::new(0),
                zeroed: AtomicU64::new(0),
                fail_at: None,
            }
        }
    }

    impl Backend for Far {
        fn info(&self) -> &Info {
            &self.info
        }
        fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
            self.memory.read_at(buffer, offset)
        }
        fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
            self.memory.write_at(data, offset)
        }
        fn sync(&self) -> Result<()> {
            Ok(())
        }
        fn submit(self: Arc<Self>, request: Request) {
            let number = self.requests.fetch_add(1, Ordering::SeqCst);
            self.most.fetch_max(self.under_way.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(if number % 2 == 0 { 20 } else { 2 }));
                if let Operation::Zero { length, .. } = request.operation {
                    self.zeroed.fetch_add(length, Ordering::SeqCst);
                }
                self.under_way.fetch_sub(1, Ordering::SeqCst);
                match (&request.operation, self.fail_at) {
                    (Operation::Read { offset, .. } | Operation::Write { offset, .. }, Some(at)) if *offset == at => {
                        request.completion.complete(Err(Error::new(Code::Io, "the disk is gone")))
                    }
                    _ => backend::perform(&*self.memory, request),
                }
            });
        }
    }

    const SIZE: u64 = (5 << 20) + 123;

    /// Bytes of every value, but for a hole in the second MiB.
    fn content() -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..SIZE).map(|at| (at % 251) as u8).collect();
        bytes[1 << 20..2 << 20].fill(0);
        bytes
    }

    fn bytes_of(backend: &dyn Backend) -> Vec<u8> {
        let mut bytes = vec![0; SIZE as usize];
        backend.read_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn every_byte_arrives_whatever_the_order_and_several_are_under_way() {
        let (source, target) = (Arc::new(Far::new(SIZE)), Arc::new(Far::new(SIZE)));
        source.memory.write_at(&content(), 0).unwrap();
        target.memory.write_at(&vec![7; SIZE as usize], 0).unwrap();
        let copy = Copy::between(source.clone(), target.clone()).unwrap();
        copy.run(None).unwrap();
        assert!(bytes_of(&*target.memory) == content());
        assert_eq!(copy.done(), SIZE);
        assert_eq!(target.zeroed.load(Ordering::SeqCst), 1 << 20, "zeros travel as zeros");
        assert!(source.most.load(Ordering::SeqCst) > 1, "the pieces went one by one");
    }

    #[test]
    fn the_window_bounds_what_is_under_way() {
        let source = Arc::new(Far::new(SIZE));
        source.memory.write_at(&content(), 0).unwrap();
        let target: Arc<dyn Backend> = Arc::new(Memory::new(SIZE).unwrap());
        Copy::between(source.clone(), target.clone()).unwrap().max_in_flight(2 << 20).run(None).unwrap();
        assert!(bytes_of(&*target) == content());
        assert!(source.most.load(Ordering::SeqCst) <= 2);
    }

    #[test]
    fn the_first_failure_ends_a_copy_when_nothing_is_under_way_any_more() {
        for reading in [true, false] {
            let (mut source, mut target) = (Far::new(SIZE), Far::new(SIZE));
            source.memory.write_at(&content(), 0).unwrap();
            (if reading { &mut source } else { &mut target }).fail_at = Some(3 << 20);
            let (source, target) = (Arc::new(source), Arc::new(target));
            let error = Copy::between(source.clone(), target.clone()).unwrap().run(None).unwrap_err();
            assert_eq!(error.message(), "the disk is gone");
            assert_eq!(source.under_way.load(Ordering::SeqCst) + target.under_way.load(Ordering::SeqCst), 0);
        }
    }

    #[test]
    fn a_cancel_ends_a_copy() {
        let (source, target) = (Arc::new(Far::new(SIZE)), Arc::new(Far::new(SIZE)));
        let cancel = Cancel::new();
        cancel.trigger();
        let error = Copy::between(source, target).unwrap().run(Some(&cancel)).unwrap_err();
        assert_eq!(error.message(), "copy: cancelled by the caller");
    }

    #[test]
    fn a_missing_file_is_created_with_its_holes_and_one_of_another_size_is_refused() {
        let directory = std::env::temp_dir().join(format!("r3map-copy-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let url = |name: &str| format!("file://{}/{name}", directory.display());
        std::fs::write(directory.join("source"), content()).unwrap();
        std::fs::write(directory.join("short"), b"short").unwrap();
        let options = BackendOptions::default();
        Copy::open(&url("source"), &url("copy"), &options).unwrap().run(None).unwrap();
        assert!(std::fs::read(directory.join("copy")).unwrap() == content());
        let blocks = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(directory.join("copy")).unwrap());
        assert!(blocks * 512 < SIZE - (1 << 19), "the hole was filled: {blocks} blocks");

        let error = Copy::open(&url("source"), &url("short"), &options).err().unwrap();
        assert_eq!(error.code(), Code::InvalidArgument);
        assert!(error.message().contains("has 5: a copy needs a target of the same size"), "{error}");
        assert_eq!(std::fs::read(directory.join("short")).unwrap(), b"short");
        let error = Copy::open(&url("source"), &url("new?size=7"), &options).err().unwrap();
        assert!(error.message().contains("has 7: a copy needs a target of the same size"), "{error}");
        assert!(!directory.join("new").exists());
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn pieces_keep_to_what_both_sides_take() {
        let near = Info::local("near", 1);
        assert_eq!(piece(&near, &near), 1 << 20);
        assert_eq!(piece(&near, &Info { max_request: 300_000, alignment: 4096, ..near.clone() }), 299_008);
        assert_eq!(piece(&Info { chunk_size: 4 << 20, ..near.clone() }, &near), 4 << 20);
        assert_eq!(piece(&Info { max_request: 5, ..near.clone() }, &near), 5);
    }
}
