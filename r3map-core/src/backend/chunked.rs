//! What stores that keep a region as chunks by key have in common: which chunks a request touches, one writer of a
//! chunk at a time, trying again, deadlines.
//!
//! The layout is the Go library's: a chunk is named by its byte offset in decimal, and one that is confirmed not to
//! be there is zero. The last may be shorter; any other that ends early has lost bytes, and reading it is `corrupt`.
//!
//! Every request is a task on the one runtime, so that thousands may be under way without a thread for each. A write
//! of a part of a chunk reads the rest and writes the whole. Whoever writes to a chunk holds its lock, also past the
//! deadline, until the store's answer is known: what was given up never overtakes a later write.

use std::future::Future;
use std::ops::Range;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinSet;

use super::lease::{Lease, Records, Terms, UnderWay};
use super::parts::{CHUNKS, Part, parts, transfer_unit};
use super::{Backend, Info, Operation, Priority, Reply, Request, blocking};
use crate::buffer::Buffer;
use crate::cancel::{Limit, Waiter};
use crate::error::{Code, Error, Result};
use crate::runtime;
use crate::url::Parameters;

/// The pause after the first attempt that failed; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How many chunks of one request are under way at once.
const MOST_PARTS: usize = 64;
/// Chunks that are this many apart share a lock.
const LOCKS: usize = 1024;

/// Where chunks are kept by key. An error that [is retryable](Error::is_retryable) is tried again within the deadline.
pub(super) trait Store: Send + Sync + 'static {
    /// The chunk at that byte offset of the region; `None` only where the store says that there is none.
    fn get(&self, chunk: u64, priority: Priority) -> impl Future<Output = Result<Option<Bytes>>> + Send;

    /// These bytes of a chunk, or `None` where it may have fewer: then the whole is asked for.
    fn get_part(
        &self,
        _chunk: u64,
        _within: Range<u64>,
        _priority: Priority,
    ) -> impl Future<Output = Result<Option<Bytes>>> + Send {
        async { Ok(None) }
    }

    /// Stores the whole chunk. The store's answer is final: nothing of it takes effect later.
    fn put(&self, chunk: u64, data: Bytes, priority: Priority) -> impl Future<Output = Result<()>> + Send;

    /// Makes sure that there is no such chunk.
    fn delete(&self, chunk: u64, priority: Priority) -> impl Future<Output = Result<()>> + Send;

    /// Makes what was put and deleted durable, as far as the store knows how.
    fn sync(&self) -> impl Future<Output = Result<()>> + Send {
        async { Ok(()) }
    }
}

/// Size of a region and of its chunks, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub size: u64,
    pub chunk: u64,
}

impl Shape {
    /// What the parameters `size` and `chunk` say. The chunks themselves do not tell, so the size must be given.
    pub fn asked(name: &str, parameters: &Parameters, default_chunk: u64) -> Result<Shape> {
        let invalid = |message| Error::new(Code::InvalidArgument, message);
        let size = parameters.size("size")?;
        let size = size.ok_or_else(|| invalid(format!("{name}: the store does not say its size: add size=…")))?;
        let chunk = parameters.size("chunk")?.unwrap_or(default_chunk);
        if !CHUNKS.contains(&chunk) {
            return Err(invalid(format!("{name}: a chunk is 512 bytes to 1 GiB long, not {chunk} bytes")));
        }
        Ok(Shape { size, chunk })
    }

    /// How many bytes of the region lie in that chunk.
    fn length(self, chunk: u64) -> u64 {
        self.chunk.min(self.size - chunk)
    }

    fn is_whole(self, part: &Part) -> bool {
        part.within == 0 && part.length == self.length(part.chunk)
    }

    /// What a managed network store of that shape says of itself, but for what only it knows.
    pub fn info(self, name: &str, concurrency: u32) -> Info {
        let chunk_size = transfer_unit(self.chunk);
        let far = Info { local: false, managed_by_default: true, ..Info::local(name, self.size) };
        Info { chunk_size, concurrency, ..far }
    }
}

/// A region in a store of chunks. Handles to it share the store.
pub(super) struct Chunked<S>(Arc<Inner<S>>);

struct Inner<S> {
    info: Info,
    shape: Shape,
    /// None once it is closed.
    open: RwLock<Option<Open<S>>>,
    locks: Box<[tokio::sync::Mutex<()>]>,
}

/// What a handle has while it is open.
struct Open<S> {
    store: Arc<S>,
    /// Without one, writes ask nobody.
    lease: Option<Arc<Lease>>,
}

impl<S> Clone for Open<S> {
    fn clone(&self) -> Open<S> {
        Open { store: self.store.clone(), lease: self.lease.clone() }
    }
}

impl<S: Store> Chunked<S> {
    /// A region without a lease: it is read-only, or whoever writes there, writes.
    #[cfg(any(feature = "http", feature = "s3"))]
    pub fn new(info: Info, shape: Shape, store: S) -> Chunked<S> {
        Chunked::over(info, shape, Open { store: Arc::new(store), lease: None })
    }

    /// A region with one writer, on these terms.
    pub fn leased(info: Info, shape: Shape, store: S, terms: Option<Terms>) -> Chunked<S>
    where
        S: Records,
    {
        let store = Arc::new(store);
        let lease = terms.map(|terms| Arc::new(Lease::new(store.clone(), terms)));
        Chunked::over(info, shape, Open { store, lease })
    }

    fn over(info: Info, shape: Shape, open: Open<S>) -> Chunked<S> {
        let locks = (0..LOCKS).map(|_| tokio::sync::Mutex::new(())).collect();
        Chunked(Arc::new(Inner { info, shape, open: RwLock::new(Some(open)), locks }))
    }

    /// This backend as one that is shared, for the ways of waiting that all backends have in common.
    fn shared(&self) -> Arc<dyn Backend> {
        Arc::new(Chunked(self.0.clone()))
    }
}

impl<S: Store> Inner<S> {
    fn open(&self) -> Result<Open<S>> {
        let open = self.open.read().unwrap_or_else(|e| e.into_inner());
        open.clone().ok_or_else(|| Error::new(Code::Closed, format!("{}: the backend was closed", self.info.name)))
    }

    fn check(&self, operation: &Operation) -> Result<()> {
        let (writes, offset, length) = match operation {
            Operation::Read { offset, buffer } => (false, *offset, buffer.len() as u64),
            Operation::Write { offset, data } => (true, *offset, data.len() as u64),
            Operation::Zero { offset, length } => (true, *offset, *length),
            Operation::Sync => return Ok(()),
        };
        if writes && self.info.read_only {
            return Err(Error::new(Code::ReadOnly, format!("{}: it is read-only", self.info.name)));
        }
        self.info.check(offset, length)
    }
}

impl<S: Store> Backend for Chunked<S> {
    fn info(&self) -> &Info {
        &self.0.info
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.0.info.check(offset, buffer.len() as u64)?;
        blocking::read_at(self.shared(), buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.0.info.check(offset, data.len() as u64)?;
        blocking::write_at(self.shared(), data, offset)
    }

    fn zero_at(&self, offset: u64, length: u64) -> Result<()> {
        blocking::zero_at(self.shared(), offset, length)
    }

    fn sync(&self) -> Result<()> {
        blocking::sync(self.shared())
    }

    fn submit(self: Arc<Self>, request: Request) {
        let Request { operation, priority, deadline, completion } = request;
        let ready = self.0.check(&operation).and_then(|()| Ok((self.0.open()?, runtime::handle()?)));
        let (open, runtime) = match ready {
            Ok(ready) => ready,
            Err(error) => return completion.complete(Err(error)),
        };
        let Open { store, lease } = open;
        let work = Work { inner: self.0.clone(), store, lease, tenure: 0, priority, deadline, trouble: Arc::default() };
        runtime.spawn(async move { completion.complete(work.perform(operation).await) });
    }

    fn claim(&self, limit: &Limit) -> Result<()> {
        let Some(lease) = self.0.open()?.lease else { return Ok(()) };
        let (waiter, notifier) = Waiter::new();
        let (claims, within) = (lease.clone(), limit.clone());
        runtime::handle()?.spawn(async move { notifier.notify(claims.claim(&within).await) });
        let waited = waiter.wait(&limit.and_a_moment(), "ask for the writer's lease");
        // It may come yet, when nobody waits for it.
        let claimed = waited.inspect_err(|_| lease.release()).and_then(|claimed| claimed);
        claimed.map_err(|error| error.context(&self.0.info.name))
    }

    fn release(&self) {
        if let Ok(Open { lease: Some(lease), .. }) = self.0.open() {
            lease.release();
        }
    }

    fn close(&self) -> Result<()> {
        let open = self.0.open.write().unwrap_or_else(|e| e.into_inner()).take();
        if let Some(Open { lease: Some(lease), .. }) = open {
            lease.release();
        }
        Ok(())
    }
}

/// One request on its way.
struct Work<S> {
    inner: Arc<Inner<S>>,
    store: Arc<S>,
    lease: Option<Arc<Lease>>,
    /// That of the lease in which it began, where it writes.
    tenure: u64,
    priority: Priority,
    deadline: Option<Instant>,
    /// Why the last attempt of any of its chunks failed.
    trouble: Arc<Mutex<Option<Error>>>,
}

impl<S> Clone for Work<S> {
    fn clone(&self) -> Work<S> {
        let Work { inner, store, lease, trouble, tenure, priority, deadline } = self;
        let (inner, store, lease, trouble) = (inner.clone(), store.clone(), lease.clone(), trouble.clone());
        Work { inner, store, lease, trouble, tenure: *tenure, priority: *priority, deadline: *deadline }
    }
}

impl<S: Store> Work<S> {
    async fn perform(self, operation: Operation) -> Result<Reply> {
        let (what, change) = match operation {
            Operation::Read { offset, buffer } => return self.bounded("read", self.read(offset, buffer)).await,
            Operation::Sync => {
                let sync = self.insist(|| self.store.sync());
                return self.bounded("sync", sync).await.map(|()| Reply::Done);
            }
            Operation::Write { offset, data } => ("write", tokio::spawn(self.clone().write(offset, data))),
            Operation::Zero { offset, length } => ("zero", tokio::spawn(self.clone().zero(offset, length))),
        };
        // A task of its own, since what changes the store goes on past the deadline.
        self.bounded(what, async { change.await.unwrap_or_else(|_| Err(panicked())) }).await.map(|()| Reply::Done)
    }

    /// Waits for `work` until the deadline; then the error is what held it up.
    async fn bounded<T>(&self, what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        let outcome = match self.deadline {
            None => work.await,
            Some(deadline) => match tokio::time::timeout_at(deadline.into(), work).await {
                Ok(outcome) => outcome,
                Err(_) => Err(self.late()),
            },
        };
        outcome.map_err(|error| error.context(format!("{}: {what}", self.inner.info.name)))
    }

    fn late(&self) -> Error {
        match self.trouble.lock().unwrap_or_else(|e| e.into_inner()).take() {
            Some(trouble) => trouble.context("the deadline passed while trying again"),
            None => Error::new(Code::Timeout, "the deadline passed before the store answered"),
        }
    }

    /// Tries until it works, fails for good, or the next attempt would come after the deadline.
    async fn insist<T, F: Future<Output = Result<T>>>(&self, attempt: impl Fn() -> F) -> Result<T> {
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match attempt().await {
                Err(error) if error.is_retryable() => error,
                outcome => return outcome,
            };
            let rest = jittered(pause);
            if self.deadline.is_some_and(|deadline| Instant::now() + rest >= deadline) {
                return Err(error);
            }
            tracing::debug!("{}: trying again in {rest:?}: {error}", self.inner.info.name);
            *self.trouble.lock().unwrap_or_else(|e| e.into_inner()) = Some(error);
            tokio::time::sleep(rest).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn read(&self, offset: u64, mut buffer: Buffer) -> Result<Reply> {
        let (length, mut holes) = (buffer.len() as u64, Vec::new());
        let mut found_any = false;
        let range = |part: &Part| {
            let begin = (part.chunk + part.within - offset) as usize;
            begin..begin + part.length as usize
        };
        let take = |part: Part, found: Option<Bytes>| match found {
            None => holes.push(part),
            Some(bytes) => {
                let (there, rest) = buffer[range(&part)].split_at_mut(bytes.len());
                there.copy_from_slice(&bytes);
                rest.fill(0);
                found_any = true;
            }
        };
        self.each(offset, length, |work, part| async move { work.read_part(part).await }, take).await?;
        if !found_any && length > 0 {
            return Ok(Reply::Zeroes);
        }
        for hole in holes {
            buffer[range(&hole)].fill(0);
        }
        Ok(Reply::Data(buffer))
    }

    /// The bytes of a part, fewer where the last chunk ends early; `None` if there is no such chunk.
    async fn read_part(&self, part: Part) -> Result<Option<Bytes>> {
        let within = part.within..part.within + part.length;
        if !self.inner.shape.is_whole(&part) {
            let get = || self.store.get_part(part.chunk, within.clone(), self.priority);
            if let Some(bytes) = self.insist(get).await?.filter(|bytes| bytes.len() as u64 == part.length) {
                return Ok(Some(bytes));
            }
        }
        let chunk = self.chunk(part.chunk).await?;
        let share = |chunk: Bytes| {
            let at = |offset: u64| chunk.len().min(offset as usize);
            chunk.slice(at(within.start)..at(within.end))
        };
        Ok(chunk.map(share))
    }

    /// A whole chunk as it lies in the store, if it is there.
    async fn chunk(&self, chunk: u64) -> Result<Option<Bytes>> {
        let (shape, found) = (self.inner.shape, self.insist(|| self.store.get(chunk, self.priority)).await?);
        let Some(bytes) = found.filter(|bytes| !bytes.is_empty()) else { return Ok(None) };
        let (found, wanted) = (bytes.len() as u64, shape.length(chunk));
        if found > shape.chunk {
            let message = format!("the chunk at {chunk} is longer than a chunk: was it written with another chunk=…?");
            return Err(Error::new(Code::Corrupt, message));
        }
        if found < wanted && chunk + shape.chunk < shape.size {
            let message = format!("the chunk at {chunk} ends after {found} of {wanted} bytes: restore it");
            return Err(Error::new(Code::Corrupt, message));
        }
        Ok(Some(bytes))
    }

    /// Begins to write: as the region's writer.
    async fn begin(&mut self) -> Result<()> {
        if let Some(lease) = &self.lease {
            self.tenure = lease.enter(&Limit { deadline: self.deadline, cancel: None }).await?;
        }
        Ok(())
    }

    /// Lets one attempt at a write go to the store, until what is given back is dropped.
    async fn admit(&self) -> Result<Option<UnderWay>> {
        match &self.lease {
            Some(lease) => lease.admit(self.tenure).await.map(Some),
            None => Ok(None),
        }
    }

    async fn put(&self, chunk: u64, data: Bytes) -> Result<()> {
        let put = || async {
            let _under_way = self.admit().await?;
            self.store.put(chunk, data.clone(), self.priority).await
        };
        self.insist(put).await
    }

    async fn delete(&self, chunk: u64) -> Result<()> {
        let delete = || async {
            let _under_way = self.admit().await?;
            self.store.delete(chunk, self.priority).await
        };
        self.insist(delete).await
    }

    async fn write(mut self, offset: u64, data: Buffer) -> Result<()> {
        self.begin().await?;
        let length = data.len() as u64;
        let data = Bytes::from_owner(Shared(data));
        let write = |work: Work<S>, part: Part| {
            let begin = (part.chunk + part.within - offset) as usize;
            let data = data.slice(begin..begin + part.length as usize);
            async move { work.write_part(part, data).await }
        };
        self.each(offset, length, write, |_, ()| {}).await
    }

    async fn write_part(&self, part: Part, data: Bytes) -> Result<()> {
        let _held = self.lock(part.chunk).await?;
        if self.inner.shape.is_whole(&part) {
            return self.put(part.chunk, data).await;
        }
        let found = self.chunk(part.chunk).await?.unwrap_or_default();
        self.put_over(part, &found, |share| share.copy_from_slice(&data)).await
    }

    async fn zero(mut self, offset: u64, length: u64) -> Result<()> {
        self.begin().await?;
        self.each(offset, length, |work, part| async move { work.zero_part(part).await }, |_, ()| {}).await
    }

    async fn zero_part(&self, part: Part) -> Result<()> {
        let _held = self.lock(part.chunk).await?;
        if self.inner.shape.is_whole(&part) {
            return self.delete(part.chunk).await;
        }
        match self.chunk(part.chunk).await? {
            None => Ok(()),
            Some(found) => self.put_over(part, &found, |share| share.fill(0)).await,
        }
    }

    /// Stores a chunk with a share of it changed.
    async fn put_over(&self, part: Part, found: &Bytes, change: impl FnOnce(&mut [u8])) -> Result<()> {
        let mut chunk = vec![0; self.inner.shape.length(part.chunk) as usize];
        // The last may be longer than what the region has of it.
        let known = found.len().min(chunk.len());
        chunk[..known].copy_from_slice(&found[..known]);
        change(&mut chunk[part.within as usize..(part.within + part.length) as usize]);
        self.put(part.chunk, chunk.into()).await
    }

    /// The right to change a chunk; an error if by then nobody waits for the change any more.
    async fn lock(&self, chunk: u64) -> Result<tokio::sync::MutexGuard<'_, ()>> {
        let held = self.inner.locks[(chunk / self.inner.shape.chunk) as usize % LOCKS].lock().await;
        match self.deadline.filter(|deadline| Instant::now() >= *deadline) {
            None => Ok(held),
            Some(_) => Err(self.late()),
        }
    }

    /// Does `start` for every part of a range, many at once, and `take`s what each brings; the first failure ends it,
    /// once all that was started is over.
    async fn each<T, F>(
        &self,
        offset: u64,
        length: u64,
        start: impl Fn(Work<S>, Part) -> F,
        mut take: impl FnMut(Part, T),
    ) -> Result<()>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let chunk = self.inner.shape.chunk;
        let mut parts = parts(chunk, offset, length);
        if offset % chunk + length <= chunk {
            // Most requests are for one chunk.
            let Some(part) = parts.next() else { return Ok(()) };
            return start(self.clone(), part).await.map(|found| take(part, found));
        }
        let mut under_way = JoinSet::new();
        let mut outcome = Ok(());
        loop {
            while under_way.len() < MOST_PARTS && outcome.is_ok() {
                let Some(part) = parts.next() else { break };
                let work = start(self.clone(), part);
                under_way.spawn(async move { (part, work.await) });
            }
            match under_way.join_next().await {
                None => return outcome,
                Some(Ok((part, Ok(found)))) => take(part, found),
                Some(Ok((_, Err(error)))) => outcome = outcome.and(Err(error)),
                Some(Err(_)) => outcome = outcome.and(Err(panicked())),
            }
        }
    }
}

/// A buffer whose bytes several chunks share while they are on their way.
struct Shared(Buffer);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn panicked() -> Error {
    Error::new(Code::Internal, "the task of a request panicked")
}

/// Half of a pause to all of it, so that those who failed together do not come again together.
fn jittered(pause: Duration) -> Duration {
    use std::hash::BuildHasher;
    let random = std::collections::hash_map::RandomState::new().hash_one(0) as u8;
    pause / 2 + pause / 2 * u32::from(random) / 255
}
