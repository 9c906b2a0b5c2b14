//! Where bytes live: the one trait that every store implements, and the requests that travel to it.
//!
//! A mount is a backend too, and so is what stands between a device and a store. A byte therefore walks
//! from device to store through one kind of door: [`Backend::try_read_at`] where it is at hand, else
//! [`Backend::submit`].

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::buffer::Buffer;
use crate::cancel::{Limit, Waiter};
use crate::error::{Code, Error, Result};
use crate::migration::home::Home;
use crate::options::{Compression, Secret};
use crate::url::Location;
use crate::version::{Lineage, Version};

mod blocking;
#[cfg(feature = "cassandra")]
mod cassandra;
// No store alone uses all of what they have in common.
#[cfg(feature = "chunks")]
#[cfg_attr(not(all(feature = "redis", feature = "s3", feature = "http")), allow(dead_code))]
mod chunked;
pub mod dir;
pub mod file;
#[cfg(feature = "http")]
pub(crate) mod http;
#[cfg(feature = "chunks")]
#[cfg_attr(not(all(feature = "redis", feature = "s3", feature = "http")), allow(dead_code, unused_imports))]
pub(crate) mod lease;
mod link;
pub mod memory;
pub mod nbd;
mod parts;
mod pool;
#[cfg(feature = "redis")]
mod redis;
pub mod remote;
#[cfg(any(feature = "grpc", feature = "frpc", feature = "panrpc"))]
pub mod rpc;
#[cfg(feature = "s3")]
pub(crate) mod s3;
pub mod tape;

/// How many bytes of one blocking call are under way at once: a chunk always may be.
const FLIGHT: usize = 128 << 20;

/// What a backend says of itself when it is opened. Nothing here changes while it is open.
#[derive(Clone, Debug)]
pub struct Info {
    /// Where the bytes are, for messages: a URL without secrets.
    pub name: String,
    /// Size of the region in bytes; of any value, no multiple of anything.
    pub size: u64,
    /// Whether calls are answered at once from memory or a local file, so that they may be made in place.
    pub local: bool,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Default unit of transfer in bytes: a power of two, 4 KiB to 32 MiB.
    pub chunk_size: u32,
    /// Offsets and lengths of requests must be multiples of this (but for the region's end); a power of two.
    pub alignment: u32,
    /// The longest request in bytes.
    pub max_request: u32,
    /// How many requests at once are of use.
    pub concurrency: u32,
    /// Whether a mount keeps pages here unless told otherwise: backends over a network, and tapes.
    pub managed_by_default: bool,
    /// Whether calls run code of a language with a collector or an interpreter lock, so that a page fault
    /// that waited for them could wait for ever: such a backend gives no slice.
    pub managed_runtime: bool,
    /// What makes these bytes the same region at the next opening, where the store knows: two openings
    /// with different identities never show one region.
    pub identity: Option<[u8; 16]>,
}

impl Info {
    /// What most local stores say: read-write, 64 KiB chunks, any alignment, requests up to 32 MiB.
    pub fn local(name: impl Into<String>, size: u64) -> Info {
        Info {
            name: name.into(),
            size,
            local: true,
            read_only: false,
            chunk_size: 64 << 10,
            alignment: 1,
            max_request: 32 << 20,
            concurrency: 16,
            managed_by_default: false,
            managed_runtime: false,
            identity: None,
        }
    }

    /// An error unless `length` bytes at `offset` lie inside the region.
    pub fn check(&self, offset: u64, length: u64) -> Result<()> {
        match offset.checked_add(length) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(Error::new(
                Code::OutOfRange,
                format!("{}: {length} bytes at {offset} are outside its {} bytes", self.name, self.size),
            )),
        }
    }
}

/// How long a store takes to answer something small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundTrip {
    /// The least that was seen.
    pub least: Duration,
    /// What was seen last.
    pub latest: Duration,
}

/// A stretch of a region, and what is known of its bytes without reading them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// How many bytes.
    pub length: u64,
    /// Whether they are known to be zeros; otherwise they may be anything.
    pub zero: bool,
}

/// Who waits for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// The app, at this moment: never behind bulk traffic.
    Demand,
    /// The background.
    Bulk,
}

/// What a request asks for.
pub enum Operation {
    /// Fill the buffer with the bytes at `offset`.
    Read {
        /// Where to begin, in bytes.
        offset: u64,
        /// Its length is how much to read; comes back in [`Reply::Data`].
        buffer: Buffer,
    },
    /// Store the bytes at `offset`.
    Write {
        /// Where to begin, in bytes.
        offset: u64,
        /// The bytes.
        data: Buffer,
    },
    /// Make `length` bytes at `offset` zero, by whatever is cheapest.
    Zero {
        /// Where to begin, in bytes.
        offset: u64,
        /// How many bytes.
        length: u64,
    },
    /// Make every write and zero acknowledged before this request durable.
    Sync,
}

/// What a request brings back.
pub enum Reply {
    /// The bytes read; the whole length asked for.
    Data(Buffer),
    /// All the bytes asked for are zero, and none were moved.
    Zeroes,
    /// A write, zero or sync is done.
    Done,
}

/// A request on its way. Whoever takes it completes it once, from any thread.
pub struct Request {
    /// What to do.
    pub operation: Operation,
    /// Who waits.
    pub priority: Priority,
    /// When to give up and complete with `timeout` or the cause of the delay; `None` is never.
    pub deadline: Option<Instant>,
    /// Whom to tell.
    pub completion: Completion,
}

/// Whom to tell that a request is done. One that is dropped tells `internal`, so that nobody waits for ever.
pub struct Completion(Option<Box<dyn FnOnce(Result<Reply>) + Send>>);

impl Completion {
    /// A completion that calls `tell` once. It may be called on any thread, also inside `submit`.
    pub fn new(tell: impl FnOnce(Result<Reply>) + Send + 'static) -> Completion {
        Completion(Some(Box::new(tell)))
    }

    /// Tells the outcome.
    pub fn complete(mut self, outcome: Result<Reply>) {
        if let Some(tell) = self.0.take() {
            tell(outcome);
        }
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        if let Some(tell) = self.0.take() {
            tell(Err(Error::new(Code::Internal, "a request was dropped before it was answered")));
        }
    }
}

/// Where bytes live. Every method may be called from many threads at once; calls on ranges that overlap
/// at the same time leave each byte as one of them wrote it.
///
/// A store of one's own implements `info`, `read_at`, `write_at` and `sync`, blocking, and nothing else.
pub trait Backend: Send + Sync + 'static {
    /// What it is; the same at every call.
    fn info(&self) -> &Info;

    /// Fills `buffer` with the bytes at `offset`: all of them, or an error. Never reads as zeros what is
    /// there but cannot be had.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()>;

    /// Stores all of `data` at `offset`, or fails. Later reads see it; only `sync` makes it durable.
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()>;

    /// Makes every write acknowledged before this call durable.
    fn sync(&self) -> Result<()>;

    /// Makes `length` bytes at `offset` zero. By default it writes them.
    fn zero_at(&self, offset: u64, length: u64) -> Result<()> {
        write_zeros(self, offset, length)
    }

    /// Says which bytes from `offset` on are known to be zeros: extents in order, at least one and at most `most`,
    /// that together have at most `length` bytes, which lie inside the region and are not none. It may ask a server,
    /// but reads no bytes. By default nothing is known.
    fn extents(&self, _offset: u64, length: u64, _most: usize) -> Result<Vec<Extent>> {
        Ok(vec![Extent { length, zero: false }])
    }

    /// The file that has every byte at its offset, if all of them are in one: they are then sent without a copy.
    fn file(&self) -> Option<Arc<std::fs::File>> {
        None
    }

    /// How long the store takes to answer something small: the least and the latest, where that is measured.
    fn round_trip(&self) -> Option<RoundTrip> {
        None
    }

    /// How many bytes it sent over a network and received, where it counts them.
    fn traffic(&self) -> Option<(u64, u64)> {
        None
    }

    /// Says that these bytes will be read soon, and returns at once. By default that changes nothing.
    fn prefetch(&self, _offset: u64, _length: u64) {}

    /// Reads in place if that needs no waiting: `None` says to [`submit`](Backend::submit) instead.
    fn try_read_at(&self, _buffer: &mut [u8], _offset: u64) -> Option<Result<()>> {
        None
    }

    /// Writes in place if that needs no waiting: `None` says to submit instead.
    fn try_write_at(&self, _data: &[u8], _offset: u64) -> Option<Result<()>> {
        None
    }

    /// Takes a request and returns soon; its completion tells the outcome. By default the blocking methods
    /// run in place for a local backend and on a small pool of threads otherwise.
    fn submit(self: Arc<Self>, request: Request) {
        if self.info().local {
            perform(&*self, request);
        } else {
            perform_on_pool(self, request);
        }
    }

    /// Says that writes are to come, for a backend that has one writer at a time: it takes the place or fails
    /// `busy` with the name of who has it. A first write without this does the same.
    fn claim(&self, _limit: &Limit) -> Result<()> {
        Ok(())
    }

    /// Says that no more writes are to come: another may have the writer's place. A later write takes it again.
    fn release(&self) {}

    /// Where it is written who has this region, for those that can be moved to or from another host.
    fn home(&self) -> Option<Arc<Home>> {
        None
    }

    /// Which version of its region is there at this moment, so that whoever kept bytes of it knows whether they are
    /// right; `None` where nobody knows. It may ask a server.
    fn lineage(&self, _limit: &Limit) -> Result<Option<Lineage>> {
        Ok(None)
    }

    /// Fails with `corrupt` from here on where a server that was away shows a version that is neither this one nor
    /// comes of one's own writes. By default there is no server.
    fn hold(&self, _version: Version) {}

    /// Lets go of what it holds; every later call fails `closed`. Does not sync.
    fn close(&self) -> Result<()> {
        Ok(())
    }
}

/// Makes bytes zero by writing zeros, so that the store has room for whatever is written there later.
pub fn write_zeros<B: Backend + ?Sized>(backend: &B, offset: u64, length: u64) -> Result<()> {
    let most = u64::from(backend.info().max_request).min(1 << 20);
    let block = Buffer::zeroed(length.min(most) as usize);
    let mut done = 0;
    while done < length {
        let step = (length - done).min(block.len() as u64);
        backend.write_at(&block[..step as usize], offset + done)?;
        done += step;
    }
    Ok(())
}

/// Answers a request in place by the blocking methods of `backend`.
pub fn perform<B: Backend + ?Sized>(backend: &B, request: Request) {
    let outcome = match request.operation {
        Operation::Read { offset, mut buffer } => backend.read_at(&mut buffer, offset).map(|()| Reply::Data(buffer)),
        Operation::Write { offset, data } => backend.write_at(&data, offset).map(|()| Reply::Done),
        Operation::Zero { offset, length } => backend.zero_at(offset, length).map(|()| Reply::Done),
        Operation::Sync => backend.sync().map(|()| Reply::Done),
    };
    request.completion.complete(outcome);
}

/// Answers a request by the blocking methods of `backend` on a thread of the pool, trying again with a
/// growing pause while the error is retryable and the deadline has not passed.
pub fn perform_on_pool<B: Backend + ?Sized>(backend: Arc<B>, request: Request) {
    let Request { mut operation, deadline, completion, .. } = request;
    pool::run(move || {
        let mut pause = Duration::from_millis(10);
        let outcome = loop {
            let outcome = match &mut operation {
                Operation::Read { offset, buffer } => backend.read_at(buffer, *offset),
                Operation::Write { offset, data } => backend.write_at(data, *offset),
                Operation::Zero { offset, length } => backend.zero_at(*offset, *length),
                Operation::Sync => backend.sync(),
            };
            match outcome {
                Err(error) if error.is_retryable() && later(deadline, pause) => std::thread::sleep(pause),
                outcome => break outcome,
            }
            pause = (pause * 2).min(Duration::from_secs(1));
        };
        // Whoever is told may let go of the backend, and then no thread shall hold it any more.
        drop(backend);
        completion.complete(outcome.map(|()| match operation {
            Operation::Read { buffer, .. } => Reply::Data(buffer),
            _ => Reply::Done,
        }));
    });
}

/// Runs a job that may wait on a thread of the pool.
pub(crate) fn run_on_pool(job: impl FnOnce() + Send + 'static) {
    pool::run(job);
}

fn later(deadline: Option<Instant>, pause: Duration) -> bool {
    deadline.is_none_or(|deadline| Instant::now() + pause < deadline)
}

/// Submits one operation and waits for its reply within `limit`. When the limit is reached first, the
/// operation may still take effect; where it was reached before, nothing is submitted.
pub fn call(backend: &Arc<dyn Backend>, operation: Operation, limit: &Limit, what: &str) -> Result<Reply> {
    limit.check(what)?;
    let (waiter, notifier) = Waiter::new();
    backend.clone().submit(Request {
        operation,
        priority: Priority::Demand,
        deadline: limit.deadline,
        completion: Completion::new(move |outcome| notifier.notify(outcome)),
    });
    wait(waiter, backend, limit, what)
}

/// Waits for the outcome of a request, which keeps the deadline by itself.
fn wait(waiter: Waiter<Result<Reply>>, backend: &Arc<dyn Backend>, limit: &Limit, what: &str) -> Result<Reply> {
    let waited = waiter.wait(&limit.and_a_moment(), what);
    waited.map_err(|error| error.context(&backend.info().name))?
}

/// Reads from any backend and waits: in place where it can, else as requests of at most a chunk, with as
/// many under way as the backend has use for.
pub fn read(backend: &Arc<dyn Backend>, buffer: &mut [u8], offset: u64, limit: &Limit) -> Result<()> {
    if let Some(outcome) = backend.try_read_at(buffer, offset) {
        return outcome;
    }
    let info = backend.info();
    let step = transfer_size(info);
    let asked = |(index, piece): &(usize, &mut [u8])| Operation::Read {
        offset: offset + (index * step) as u64,
        buffer: Buffer::new(piece.len()),
    };
    pipeline(backend, buffer.chunks_mut(step).enumerate(), asked, limit, "read", |(_, piece), reply| {
        match reply {
            Reply::Data(data) if data.len() == piece.len() => piece.copy_from_slice(&data),
            Reply::Zeroes => piece.fill(0),
            Reply::Data(_) | Reply::Done => return Err(short_reply(info)),
        }
        Ok(())
    })
}

/// Writes to any backend and waits, as [`read`] reads. On an error some of the bytes may be stored.
pub fn write(backend: &Arc<dyn Backend>, data: &[u8], offset: u64, limit: &Limit) -> Result<()> {
    if let Some(outcome) = backend.try_write_at(data, offset) {
        return outcome;
    }
    let step = transfer_size(backend.info());
    let asked = |(index, piece): &(usize, &[u8])| Operation::Write {
        offset: offset + (index * step) as u64,
        data: Buffer::copy_of(piece),
    };
    pipeline(backend, data.chunks(step).enumerate(), asked, limit, "write", |_, _| Ok(()))
}

/// Submits an operation for each piece, with as many under way as the backend has use for and [`FLIGHT`] allows, and
/// takes the replies in order.
fn pipeline<P>(
    backend: &Arc<dyn Backend>,
    mut pieces: impl Iterator<Item = P>,
    operation: impl Fn(&P) -> Operation,
    limit: &Limit,
    what: &str,
    mut take: impl FnMut(P, Reply) -> Result<()>,
) -> Result<()> {
    limit.check(what)?;
    let info = backend.info();
    let most = (info.concurrency as usize).min(FLIGHT / transfer_size(info)).max(1);
    let mut flight = std::collections::VecDeque::new();
    loop {
        while flight.len() < most {
            let Some(piece) = pieces.next() else { break };
            let (waiter, notifier) = Waiter::new();
            backend.clone().submit(Request {
                operation: operation(&piece),
                priority: Priority::Demand,
                deadline: limit.deadline,
                completion: Completion::new(move |outcome| notifier.notify(outcome)),
            });
            flight.push_back((waiter, piece));
        }
        let Some((waiter, piece)) = flight.pop_front() else { return Ok(()) };
        take(piece, wait(waiter, backend, limit, what)?)?;
    }
}

/// An error unless the region is here: it may have been given to another host.
pub fn check_home(backend: &dyn Backend) -> Result<()> {
    match backend.home() {
        Some(home) => home.check().map_err(|error| error.context(&backend.info().name)),
        None => Ok(()),
    }
}

/// The error of a backend whose reply does not fit the request.
pub fn short_reply(info: &Info) -> Error {
    Error::new(Code::Internal, format!("{}: a read was answered with another number of bytes", info.name))
}

/// The unit in which long transfers are cut for a backend: a chunk, unless it takes less at once.
pub fn transfer_size(info: &Info) -> usize {
    info.chunk_size.min(info.max_request).max(1) as usize
}

/// Options of a backend, the same for every scheme; those a scheme has no use for are refused when set.
#[derive(Clone, Debug, Default)]
pub struct BackendOptions {
    /// Certificate of this client, a PEM file.
    pub tls_cert: Option<PathBuf>,
    /// Its private key, a PEM file.
    pub tls_key: Option<PathBuf>,
    /// Authorities that may vouch for the server, a PEM file.
    pub tls_ca: Option<PathBuf>,
    /// SHA-256 of the server's public key, in hexadecimal.
    pub tls_pin: Option<String>,
    /// The secret by which the server knows this client.
    pub token: Option<Secret>,
    /// Allows plain TCP to a host that is not this one.
    pub insecure: bool,
    /// Whether what is read and written travels packed, over r3map's own protocol; what asks for it of another is refused.
    pub compression: Compression,
}

/// Opens the backend that a URL names. Creates nothing but the region of `memory:` and, where the URL gives
/// a size, a file or directory that is missing.
pub fn open(url: &str, options: &BackendOptions) -> Result<Arc<dyn Backend>> {
    let location = Location::parse(url)?;
    let is_packed = matches!(options.compression, Compression::Lz4 | Compression::Zstd);
    if is_packed && !(matches!(location.scheme(), "memory" | "file" | "dir") || remote::is_spoken(location.scheme())) {
        let message = format!("{url}: compression is for r3map's own protocol: leave it out");
        return Err(Error::new(Code::InvalidArgument, message));
    }
    match location.scheme() {
        "memory" => Ok(Arc::new(memory::Memory::open(&location)?)),
        "file" => Ok(Arc::new(file::File::open(&location)?)),
        "dir" => Ok(Arc::new(dir::Directory::open(&location)?)),
        "tape" => Ok(Arc::new(tape::Tape::open(&location)?)),
        own if remote::is_spoken(own) => Ok(Arc::new(remote::Remote::open(&location, options)?)),
        "nbd" | "nbds" | "nbd+unix" | "nbds+unix" => Ok(Arc::new(nbd::Nbd::open(&location, options)?)),
        #[cfg(feature = "grpc")]
        "grpc" | "grpc+unix" | "grpcs" => Ok(Arc::new(rpc::Rpc::open(&location, options)?)),
        #[cfg(feature = "frpc")]
        "frpc" | "frpc+unix" => Ok(Arc::new(rpc::Rpc::open(&location, options)?)),
        #[cfg(feature = "panrpc")]
        "panrpc" | "panrpc+unix" => Ok(Arc::new(rpc::Rpc::open(&location, options)?)),
        #[cfg(feature = "redis")]
        "redis" | "rediss" | "redis+cluster" => Ok(Arc::new(redis::Redis::open(&location, options)?)),
        #[cfg(feature = "cassandra")]
        "cassandra" => Ok(Arc::new(cassandra::Cassandra::open(&location, options)?)),
        #[cfg(feature = "http")]
        "http" | "https" => Ok(Arc::new(http::Http::open(&location, options)?)),
        #[cfg(feature = "s3")]
        "s3" => s3::open(&location, options),
        other => Err(crate::url::unknown_scheme(other)),
    }
}
