//! Answers the kernel's requests from the region: in place where the bytes are at hand, else parked until a
//! completion on some other thread brings them.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::channel::{Answer, BACKGROUND, Channel, data_room};
use super::parked::{Parked, Table, What};
use super::wire::{self, Attributes, HEAD, Head};
use crate::backend::{self, Backend, Completion, Operation, Priority, Reply, Request};
use crate::buffer::Buffer;
use crate::error::{Code, Error, Result};
use crate::thread;

/// Handle of the descriptor by which the library itself reads and writes; all others have 0.
const OWN: u64 = 1;

/// `linux/prctl.h`
const PR_SET_IO_FLUSHER: i32 = 57;
/// `linux/falloc.h`
const KEEP_SIZE: u32 = 1;
const PUNCH_HOLE: u32 = 2;
const ZERO_RANGE: u32 = 16;

/// What the threads of one mount share.
pub struct Session {
    region: Arc<dyn Backend>,
    name: String,
    path: PathBuf,
    attributes: Attributes,
    /// The longest request in bytes.
    longest: usize,
    waiting: Table,
    /// The first loss that no later sync may forget: a write without an answer, or a sync that failed.
    lost: OnceLock<Error>,
    /// The thread whose next open is the library's own.
    own_opener: AtomicU32,
    /// Everything is refused: the device was detached.
    ended: AtomicBool,
    /// The file is being cut back to its size.
    mending: AtomicBool,
    /// Failures since the last one that was logged as a warning.
    unsaid: AtomicU64,
    said: AtomicU64,
}

impl Session {
    pub fn new(
        region: Arc<dyn Backend>,
        name: String,
        path: PathBuf,
        attributes: Attributes,
        longest: usize,
        deadline: Duration,
    ) -> Session {
        Session {
            region,
            name,
            path,
            attributes,
            longest,
            waiting: Table::new(deadline),
            lost: OnceLock::new(),
            own_opener: AtomicU32::new(0),
            ended: AtomicBool::new(false),
            mending: AtomicBool::new(false),
            unsaid: AtomicU64::new(0),
            said: AtomicU64::new(0),
        }
    }

    /// Runs `open` so that the file it opens on this thread counts as the library's own, whose fsync brings
    /// the kernel's pages to the region and leaves the rest to the caller.
    pub fn open_own<T>(&self, open: impl FnOnce() -> T) -> T {
        // SAFETY: gettid has no preconditions.
        self.own_opener.store(unsafe { libc::gettid() } as u32, Ordering::SeqCst);
        let opened = open();
        self.own_opener.store(0, Ordering::SeqCst);
        opened
    }

    /// The loss that no sync may forget, as an error.
    pub fn check_lost(&self) -> Result<()> {
        match self.lost.get() {
            None => Ok(()),
            Some(error) => Err(error.clone().context("an earlier write or sync failed").with_retryable(false)),
        }
    }

    /// Refuses what waits and what is still to come, and ends the watch. Where the connection was ended this
    /// reaches nobody; where it could not be, it lives on until the last descriptor is closed.
    pub fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        for (unique, parked) in self.waiting.end() {
            parked.channel.reply(unique, Err(libc::ENOTCONN));
        }
    }

    /// Gives up requests that the region does not answer in time, until the session ends.
    pub fn watch(&self) {
        self.waiting.watch(|unique, parked| {
            let message = format!("{}: no answer within the deadline", self.name);
            self.finish(unique, parked, Err(Error::new(Code::Timeout, message)));
        });
    }

    /// Serves one channel until the connection ends.
    pub fn serve(self: &Arc<Self>, channel: &Arc<Channel>) {
        // Memory pressure writes dirty pages back through this thread: its own allocations must not wait for
        // that. Refused without CAP_SYS_RESOURCE, where the risk stays.
        // SAFETY: a plain prctl about this thread.
        unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) };
        let mut head = [0; HEAD];
        let mut data = Buffer::new(data_room(self.longest));
        loop {
            match channel.receive(&mut head, &mut data) {
                Ok(length) if length == Head(&head).length() as usize && length >= 40 => {
                    self.handle(channel, &Head(&head), &mut data);
                }
                Ok(length) => tracing::error!(length, "fuse: a request of a wrong length"),
                Err(error) => match error.raw_os_error() {
                    // Given up before it was read, or nothing to read after all.
                    Some(libc::ENOENT | libc::EINTR | libc::EAGAIN) => (),
                    Some(libc::ENODEV | libc::ECONNABORTED) => return,
                    _ => {
                        tracing::error!(%error, "fuse: cannot read requests any more");
                        return;
                    }
                },
            }
        }
    }

    fn handle(self: &Arc<Self>, channel: &Arc<Channel>, head: &Head<'_>, data: &mut Buffer) {
        let answer = match head.opcode() {
            wire::READ | wire::WRITE | wire::OPEN | wire::FSYNC | wire::FALLOCATE
                if self.ended.load(Ordering::SeqCst) =>
            {
                Err(libc::ENOTCONN)
            }
            wire::READ => return self.read(channel, head, data),
            wire::WRITE => return self.write(channel, head, data),
            wire::FSYNC => return self.fsync(channel, head),
            wire::FALLOCATE => return self.allocate(channel, head),
            wire::FORGET | wire::BATCH_FORGET => return,
            wire::GETATTR => Ok((&self.attributes).into()),
            wire::SETATTR => self.set_attributes(head),
            wire::OPEN => self.open(head),
            wire::RELEASE | wire::DESTROY => Ok(Answer::Nothing),
            wire::STATFS => Ok(Answer::Fields(self.attributes.filesystem())),
            // FLUSH among them: a close has brought the dirty pages here before it asks, and promises no
            // more. LSEEK: the kernel then treats the file as one without holes. INTERRUPT: a regular file
            // is not interrupted; the deadline ends the wait.
            _ => Err(libc::ENOSYS),
        };
        channel.reply(head.unique(), answer);
    }

    /// Times are the kernel's own to keep; size, permissions and owner never change.
    fn set_attributes(&self, head: &Head<'_>) -> Result<Answer<'static>, i32> {
        let (what, size) = (head.word(0), head.long(16));
        let resized = what & wire::SET_SIZE != 0 && size != self.attributes.size;
        if resized || what & (wire::SET_MODE | wire::SET_UID | wire::SET_GID) != 0 {
            return Err(libc::EPERM);
        }
        Ok((&self.attributes).into())
    }

    fn open(&self, head: &Head<'_>) -> Result<Answer<'static>, i32> {
        let flags = head.word(0) as i32;
        // Every append would reach past the end, and few programs look at what close then says.
        if flags & libc::O_APPEND != 0 && flags & libc::O_ACCMODE != libc::O_RDONLY {
            return Err(libc::EPERM);
        }
        let own = head.pid() != 0 && head.pid() == self.own_opener.load(Ordering::SeqCst);
        let handle = if own { OWN } else { 0 };
        Ok(Answer::Fields(wire::Body::default().u64(handle).u32(wire::FOPEN_KEEP_CACHE).u32(0)))
    }

    fn read(self: &Arc<Self>, channel: &Arc<Channel>, head: &Head<'_>, data: &mut Buffer) {
        let (unique, offset) = (head.unique(), head.offset());
        let length = self.inside(offset, head.size().min(self.longest));
        if length == 0 {
            return channel.reply(unique, Ok(Answer::Nothing));
        }
        match self.region.try_read_at(&mut data[..length], offset) {
            Some(Ok(())) => channel.reply(unique, Ok(Answer::Bytes(&data[..length]))),
            Some(Err(error)) => {
                let what = What { verb: "read", offset, length: length as u64, changes: false };
                channel.reply(unique, Err(self.refusal(what, &error)));
            }
            None => self.park(channel, unique, Operation::Read { offset, buffer: Buffer::new(length) }),
        }
    }

    fn write(self: &Arc<Self>, channel: &Arc<Channel>, head: &Head<'_>, data: &mut Buffer) {
        let (unique, offset, size) = (head.unique(), head.offset(), head.size().min(data.len()));
        let length = self.inside(offset, size);
        if length < size {
            return self.write_past_the_end(channel, unique, offset, &data[..length]);
        }
        match self.region.try_write_at(&data[..size], offset) {
            Some(Ok(())) => channel.reply(unique, Ok(written(size))),
            Some(Err(error)) => {
                let what = What { verb: "write", offset, length: size as u64, changes: true };
                channel.reply(unique, Err(self.refusal(what, &error)));
            }
            None => {
                // A long write travels in the buffer it came in; a short one would hold too much of it.
                let data = if size * 4 >= data.len() {
                    let mut taken = std::mem::replace(data, Buffer::new(data.len()));
                    taken.truncate(size);
                    taken
                } else {
                    Buffer::copy_of(&data[..size])
                };
                self.park(channel, unique, Operation::Write { offset, data });
            }
        }
    }

    /// The kernel takes a write past the end into its cache and tells only now. What lies inside is stored,
    /// the writer's fsync or close fails, and the file is cut back to its size.
    fn write_past_the_end(self: &Arc<Self>, channel: &Arc<Channel>, unique: u64, offset: u64, inside: &[u8]) {
        tracing::warn!(region = self.name, offset, "fuse: a write reaches past the end of the region");
        if !self.mending.swap(true, Ordering::SeqCst) {
            let session = self.clone();
            if thread::spawn("r3map-fuse-mend", move || session.mend()).is_err() {
                self.mending.store(false, Ordering::SeqCst);
            }
        }
        if inside.is_empty() {
            return channel.reply(unique, Err(libc::ENOSPC));
        }
        let (answering, data) = (channel.clone(), Buffer::copy_of(inside));
        self.submit(
            Operation::Write { offset, data },
            crate::cancel::deadline_in(self.waiting.deadline()),
            Completion::new(move |_| answering.reply(unique, Err(libc::ENOSPC))),
        );
    }

    fn mend(&self) {
        self.mending.store(false, Ordering::SeqCst);
        if let Err(error) = self.set_size() {
            tracing::warn!(region = self.name, %error, "fuse: cannot cut the file back to its size");
        }
    }

    /// Makes the kernel take the region's size for the file's: a cache that is written back trusts its own,
    /// which begins as zero. Not for a thread that serves.
    pub fn set_size(&self) -> io::Result<()> {
        // By path: closing a descriptor of the file would drop the locks this process holds on it.
        Ok(nix::unistd::truncate(&self.path, self.attributes.size as i64)?)
    }

    fn fsync(self: &Arc<Self>, channel: &Arc<Channel>, head: &Head<'_>) {
        let unique = head.unique();
        if let Err(error) = self.check_lost() {
            let what = What { verb: "sync", offset: 0, length: 0, changes: false };
            return channel.reply(unique, Err(self.refusal(what, &error)));
        }
        if head.handle() == OWN {
            return channel.reply(unique, Ok(Answer::Nothing));
        }
        self.park(channel, unique, Operation::Sync);
    }

    fn allocate(self: &Arc<Self>, channel: &Arc<Channel>, head: &Head<'_>) {
        let (unique, offset, length, mode) = (head.unique(), head.offset(), head.long(16), head.word(24));
        let end = offset.saturating_add(length);
        let answer = match mode & !KEEP_SIZE {
            _ if end > self.attributes.size && mode & KEEP_SIZE == 0 => Err(libc::ENOSPC),
            // All of the region is there already.
            0 => Ok(Answer::Nothing),
            PUNCH_HOLE | ZERO_RANGE => {
                let length = end.min(self.attributes.size).saturating_sub(offset);
                return self.park(channel, unique, Operation::Zero { offset, length });
            }
            _ => Err(libc::EOPNOTSUPP),
        };
        channel.reply(unique, answer);
    }

    /// How many of the bytes lie inside the region.
    fn inside(&self, offset: u64, length: usize) -> usize {
        self.attributes.size.saturating_sub(offset).min(length as u64) as usize
    }

    /// Parks a request and hands it to the region.
    fn park(self: &Arc<Self>, channel: &Arc<Channel>, unique: u64, operation: Operation) {
        let what = match &operation {
            Operation::Read { offset, buffer } => {
                What { verb: "read", offset: *offset, length: buffer.len() as u64, changes: false }
            }
            Operation::Write { offset, data } => {
                What { verb: "write", offset: *offset, length: data.len() as u64, changes: true }
            }
            Operation::Zero { offset, length } => {
                What { verb: "zero", offset: *offset, length: *length, changes: true }
            }
            Operation::Sync => What { verb: "sync", offset: 0, length: 0, changes: true },
        };
        let deadline = self.waiting.park(unique, channel, what);
        // The end may have come between the look at `ended` and the parking: one of the two sees the other.
        if self.ended.load(Ordering::SeqCst) && self.waiting.claim(unique).is_some() {
            return channel.reply(unique, Err(libc::ENOTCONN));
        }
        let session = self.clone();
        let completion = Completion::new(move |outcome| {
            if let Some(parked) = session.waiting.claim(unique) {
                session.finish(unique, parked, outcome);
            }
        });
        self.submit(operation, deadline, completion);
    }

    fn submit(&self, operation: Operation, deadline: Option<std::time::Instant>, completion: Completion) {
        let slow = matches!(operation, Operation::Sync | Operation::Zero { .. });
        let request = Request { operation, priority: Priority::Demand, deadline, completion };
        if slow && self.region.info().local {
            // In place it would keep this thread from answering others while a disk syncs.
            return backend::perform_on_pool(self.region.clone(), request);
        }
        self.region.clone().submit(request);
    }

    /// Answers a request that was parked.
    fn finish(&self, unique: u64, parked: Parked, outcome: Result<Reply>) {
        let Parked { channel, what, .. } = parked;
        let answer = match &outcome {
            Ok(Reply::Data(data)) if what.verb == "read" && data.len() as u64 == what.length => Ok(Answer::Bytes(data)),
            Ok(Reply::Zeroes) if what.verb == "read" => Ok(Answer::Zeros(what.length as usize)),
            Ok(Reply::Done) if what.verb == "write" => Ok(written(what.length as usize)),
            Ok(Reply::Done) if what.verb != "read" => Ok(Answer::Nothing),
            Ok(_) => Err(self.refusal(what, &backend::short_reply(self.region.info()))),
            Err(error) => {
                // What a sync that may be tried again did not bring to the store is kept below.
                let is_lost = if what.verb == "sync" { !error.is_retryable() } else { error.code() == Code::Timeout };
                if what.changes && is_lost {
                    let _ = self.lost.set(error.clone());
                }
                Err(self.refusal(what, error))
            }
        };
        channel.reply(unique, answer);
    }

    /// The errno for a request that failed, with its cause in the log: at most a line a second, for a region
    /// that is away fails thousands of times.
    fn refusal(&self, what: What, error: &Error) -> i32 {
        // SAFETY: time accepts a null pointer.
        let now = unsafe { libc::time(std::ptr::null_mut()) } as u64;
        if self.said.swap(now, Ordering::Relaxed) == now {
            self.unsaid.fetch_add(1, Ordering::Relaxed);
        } else {
            let more = self.unsaid.swap(0, Ordering::Relaxed);
            let What { verb, offset, length, .. } = what;
            tracing::warn!(region = self.name, verb, offset, length, %error, more, "fuse: a request failed");
        }
        match error.code() {
            // Programs know EIO of a file, and take ENOTCONN for the end of the filesystem.
            Code::Timeout | Code::Disconnected => libc::EIO,
            _ => error.errno(),
        }
    }
}

fn written(length: usize) -> Answer<'static> {
    Answer::Fields(wire::Body::default().u32(length as u32).u32(0))
}

/// Fills what buffers of misses are taken from, of every size: before kernel 6.6 a store into the mapped file
/// that waits for write-back holds the address space's lock, so a thread of this process that then maps memory
/// waits for the store, and the store for the answers of that thread. Later kernels need less of it, and a
/// local region, which is answered in place, none.
fn stock(session: &Session, threads: usize) {
    if session.region.info().local {
        return;
    }
    let count = threads + if stores_hold_the_lock() { usize::from(BACKGROUND) } else { 8 };
    let longest = data_room(session.longest);
    for size in (0..).map(|power| 4096 << power).take_while(|size| *size < 2 * longest) {
        drop((0..count).map(|_| Buffer::zeroed(size)).collect::<Vec<_>>());
    }
}

/// Whether the kernel is older than 6.6, or does not say how old it is.
fn stores_hold_the_lock() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit()).map(|part| part.parse::<u32>());
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < (6, 6),
        _ => true,
    }
}

/// Starts the threads that serve and watch; they end when the connection and the session do.
pub fn start(session: &Arc<Session>, first: Channel, threads: usize) -> io::Result<Vec<std::thread::JoinHandle<()>>> {
    stock(session, threads);
    let first = Arc::new(first);
    let mut started = Vec::new();
    for index in 0..threads {
        // Without another queue threads share the first.
        let channel = match first.duplicate() {
            Ok(channel) if index > 0 => Arc::new(channel),
            _ => first.clone(),
        };
        let session = session.clone();
        started.push(thread::spawn("r3map-fuse", move || session.serve(&channel))?);
    }
    let session = session.clone();
    started.push(thread::spawn("r3map-fuse-wait", move || session.watch())?);
    Ok(started)
}
