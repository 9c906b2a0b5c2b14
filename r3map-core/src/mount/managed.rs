//! The managed way: pages are kept here, pulled and pushed by policy. A slice of userfaultfd is always one of
//! these, in a direct mount without anything in the background.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use once_cell::sync::OnceCell;

use crate::backend::{self, Backend, Completion, Info, Operation, Reply, Request};
use crate::buffer::Buffer;
use crate::cancel::{Limit, Waiter};
use crate::error::{Code, Error, Result};
use crate::event::Events;
use crate::migration::leecher::place::Place;
use crate::mount::cache::Cache;
use crate::mount::direct::Seal;
use crate::mount::puller::Puller;
use crate::mount::pusher::Pusher;
use crate::options::MountOptions;
use crate::page::{PAGE, Set};
use crate::region::{Ahead, Paged, Region, Wait, Waiting, Want};
use crate::stats::Stats;

/// How much a blocking pull asks for at once.
const PIECE: u64 = (4 << 20) / PAGE;

/// A region kept here over its backend.
pub struct Managed {
    info: Info,
    region: Arc<Region>,
    puller: Arc<Puller>,
    pusher: Arc<Pusher>,
    ahead: Ahead,
    seal: Seal,
    own: Option<Own>,
    /// What keeps the pages for the next mount.
    cache: Option<Arc<Cache>>,
    /// How many bytes were pulled when a device was attached.
    before_device: OnceCell<u64>,
}

/// What a region has whose place is its own.
struct Own {
    place: Arc<Place>,
    door: Seal,
}

impl Managed {
    /// Keeps the pages of `backend` in `store`, a file of holes as long as its pages. Nothing is pulled or
    /// pushed in the background until [`start`](Managed::start).
    pub(crate) fn new(
        backend: Arc<dyn Backend>,
        store: File,
        events: Arc<Events>,
        options: &MountOptions,
    ) -> Result<Managed> {
        Managed::over(Region::new(backend, store, options.chunk_size)?, None, None, events, options)
    }

    /// Keeps the pages of `backend` in a cache, and goes on with those that it has.
    pub(crate) fn caching(
        backend: Arc<dyn Backend>,
        cache: Arc<Cache>,
        events: Arc<Events>,
        options: &MountOptions,
    ) -> Result<Managed> {
        let region = Region::caching(backend, cache.store()?, options.chunk_size, cache.clone())?;
        let (clean, dirty) = cache.found();
        clean.iter().for_each(|run| region.found(run.clone()));
        dirty.iter().for_each(|run| region.found_dirty(run.clone()));
        Managed::over(region, None, Some(cache), events, options)
    }

    /// Keeps the pages of a region in its own place, once it is open here: nothing is pushed.
    pub(crate) fn owning(
        region: Region,
        place: Arc<Place>,
        events: Arc<Events>,
        options: &MountOptions,
    ) -> Result<Managed> {
        let own = Own { place, door: Seal::default() };
        own.door.set(Some(Code::Suspended));
        Managed::over(region, Some(own), None, events, options)
    }

    fn over(
        region: Region,
        own: Option<Own>,
        cache: Option<Arc<Cache>>,
        events: Arc<Events>,
        options: &MountOptions,
    ) -> Result<Managed> {
        let info = region.info().clone();
        let read_only = options.read_only || info.read_only;
        let region = Arc::new(region);
        let puller = Arc::new(Puller::new(region.clone(), events.clone(), options)?);
        let pusher = Arc::new(Pusher::new(region.clone(), events, options));
        let ahead: Ahead = {
            let puller = puller.clone();
            Arc::new(move |pages| puller.missed(pages))
        };
        // What was acknowledged here may be here alone, whoever keeps the bytes below.
        let info = Info { read_only, local: false, ..info };
        let before_device = OnceCell::new();
        Ok(Managed { info, region, puller, pusher, ahead, seal: Seal::default(), own, cache, before_device })
    }

    /// What lets the app in, where this is a region in a place of its own: shut until it is here.
    pub(crate) fn door(&self) -> Option<&Seal> {
        self.own.as_ref().map(|own| &own.door)
    }

    /// Whether a slice may map the pages where they are kept, which is in memory.
    pub(crate) fn can_be_mapped(&self) -> bool {
        self.cache.is_none() && self.own.as_ref().is_none_or(|own| !own.place.is_on_disk())
    }

    /// The next run to pull in the background, if something is left.
    pub(crate) fn next_absent(&self) -> Option<Range<u64>> {
        self.puller.next()
    }

    /// What can be read without waiting. What a cache does not give is had elsewhere.
    fn read_here(&self, buffer: &mut [u8], offset: u64) -> Option<Result<()>> {
        self.region.try_read(buffer, offset).filter(|read| read.is_ok() || self.cache.is_none())
    }

    fn check_door(&self) -> Result<()> {
        self.own.as_ref().map_or(Ok(()), |own| own.door.check())
    }

    /// Starts what runs in the background.
    pub fn start(&self) -> Result<()> {
        self.puller.start()?;
        if self.info.read_only { Ok(()) } else { self.pusher.start() }
    }

    /// Ends what runs in the background.
    pub fn stop(&self) {
        self.puller.stop();
        self.pusher.stop();
    }

    fn deadline(&self) -> Option<Instant> {
        self.puller.deadline()
    }

    /// Makes a range resident.
    pub fn pull(self: &Arc<Self>, offset: u64, length: u64, limit: &Limit) -> Result<()> {
        let pages = self.region.pages_of(offset, length);
        let mut ahead = pages.start;
        let mut at = pages.start;
        while let Some(missing) = self.region.states().next_run(at..pages.end, Set::LOCAL.complement()) {
            at = missing.start;
            limit.check("pull")?;
            // Some pieces ahead of the one waited for are under way.
            while ahead < pages.end && ahead < at + 4 * PIECE {
                self.region.fetch(ahead..(ahead + PIECE).min(pages.end), limit.deadline);
                ahead += PIECE;
            }
            let (waiter, notifier) = Waiter::new();
            self.region.demand(
                at,
                Want::only(at..at + 1),
                limit.deadline,
                Box::new(move |landed| notifier.notify(landed)),
            );
            waiter.wait(&limit.and_a_moment(), "pull").map_err(|error| error.context(&self.info.name))??;
            self.region.settled(at);
        }
        Ok(())
    }

    /// Asks for a range and returns.
    pub fn prefetch(&self, offset: u64, length: u64) {
        self.region.fetch(self.region.pages_of(offset, length), self.deadline());
    }

    /// The parts of a range that are not here.
    pub fn missing(&self, offset: u64, length: u64) -> Vec<Range<u64>> {
        let pages = self.region.pages_of(offset, length);
        let mut missing = Vec::new();
        let mut at = pages.start;
        while let Some(run) = self.region.states().next_run(at..pages.end, Set::MISSING) {
            at = run.end;
            missing.push((run.start * PAGE).max(offset)..(run.end * PAGE).min(offset + length));
        }
        missing
    }

    /// Waits until that share of the region (0 to 1) is here; asks for nothing by itself.
    pub fn wait_local(&self, share: f64, limit: &Limit) -> Result<()> {
        let wanted = (share.clamp(0.0, 1.0) * self.info.size as f64).ceil() as u64;
        let enough = || (self.region.local_bytes() >= wanted).then_some(());
        self.region.figures.landed.wait(limit, "wait for the region to be local", enough)
    }

    /// Adds the figures of the kept pages.
    pub fn put_into(&self, stats: &mut Stats) {
        stats.put("local_bytes", self.region.local_bytes());
        let unpushed = if self.own.is_some() { 0 } else { self.region.dirty_bytes() };
        stats.put("dirty_bytes", unpushed);
        stats.put("pulled_bytes", self.region.figures.pulled.get());
        stats.put("pushed_bytes", self.region.figures.pushed.get());
        stats.put("faults", self.region.figures.faults.get());
        let pulled = self.region.figures.pulled.get();
        stats.put("read_ahead_bytes", self.region.figures.ahead.get());
        stats.put("pulled_before_device_bytes", self.before_device.get().copied().unwrap_or(pulled));
        self.puller.put_into(stats);
    }

    /// A device shows it from now on.
    pub(super) fn attached(&self) {
        let _ = self.before_device.set(self.region.figures.pulled.get());
    }

    /// Keeps the order of first accesses in a file.
    pub(super) fn save_trace(&self, path: &Path) -> Result<()> {
        self.puller.save_trace(path)
    }

    fn check_write(&self) -> Result<()> {
        if self.info.read_only {
            return Err(Error::new(Code::ReadOnly, format!("{} is open read-only", self.info.name)));
        }
        self.check_door()?;
        self.seal.check()
    }

    /// What refuses writes when the region goes.
    pub fn seal(&self) -> &Seal {
        &self.seal
    }

    /// What sends pages to the backend.
    pub(super) fn pusher(&self) -> &Pusher {
        &self.pusher
    }

    fn waiter(&self) -> (Waiter<Result<Reply>>, Wait) {
        let (waiter, notifier) = Waiter::new();
        let completion = Completion::new(move |outcome| notifier.notify(outcome));
        (waiter, Wait { completion, deadline: self.deadline() })
    }

    fn limit(&self) -> Limit {
        Limit { deadline: self.deadline(), cancel: None }
    }

    fn sync_within(&self, limit: &Limit) -> Result<()> {
        if self.info.read_only {
            return Ok(());
        }
        let pushed = self.push_all(limit);
        if let (Some(cache), Err(_)) = (&self.cache, &pushed) {
            // What the backend cannot have yet is durable here at least; that it could not is what is said.
            let _ = cache.settle();
        }
        // What failed stays dirty: the next sync may bring it there.
        pushed.map_err(|error| error.with_retryable(true))?;
        if let Some(own) = &self.own {
            self.check_door()?;
            return own.place.sync();
        }
        let sync = || backend::call(self.region.backend(), Operation::Sync, limit, "sync").map(drop);
        match &self.cache {
            Some(cache) => cache.synced(self.region.states(), &**self.region.backend(), limit, sync),
            None => sync(),
        }
    }

    /// Leaves the cache to the next mount, once nothing is under way that could still change it; it stays locked
    /// until this is gone where that takes too long.
    pub(crate) fn leave_cache(&self, limit: &Limit) {
        let Some(cache) = &self.cache else { return };
        let idle = || self.region.is_idle().then_some(());
        let left = self.region.figures.landed.wait(limit, "close the cache", idle).and_then(|()| {
            self.region.wait_pushing_below(1, limit)?;
            cache.settle()
        });
        match left {
            Ok(()) => cache.unlock(),
            Err(error) => tracing::warn!(%error, "a cache was not closed as it should be"),
        }
    }

    /// The cache in a file, if there is one.
    pub(crate) fn cache(&self) -> Option<&Arc<Cache>> {
        self.cache.as_ref()
    }
}

impl Paged for Managed {
    fn pages(&self) -> &Arc<Region> {
        &self.region
    }

    fn demand(&self, page: u64, landed: Waiting) {
        let want = self.puller.missed(page..page + 1);
        self.region.demand(page, want, self.deadline(), landed);
    }

    fn filled(&self, page: u64) {
        self.puller.accessed(page * PAGE, PAGE as usize);
        self.puller.fetch_ahead(page..page + 1);
    }

    fn push_all(&self, limit: &Limit) -> Result<()> {
        match self.own {
            _ if self.info.read_only => Ok(()),
            // Nothing is newer here than where it belongs.
            Some(_) => self.region.collect().map(drop),
            None => self.pusher.push_all(limit),
        }
    }
}

impl Backend for Managed {
    fn info(&self) -> &Info {
        &self.info
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.check_door()?;
        self.puller.accessed(offset, buffer.len());
        if let Some(outcome) = self.read_here(buffer, offset) {
            return outcome;
        }
        let (waiter, wait) = self.waiter();
        self.region.read(Buffer::new(buffer.len()), offset, wait, self.ahead.clone());
        match waiter.wait(&self.limit().and_a_moment(), "read")?? {
            Reply::Data(data) => buffer.copy_from_slice(&data),
            _ => return Err(backend::short_reply(&self.info)),
        }
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.check_write()?;
        let backlog = self.pusher.backlog();
        if backlog.is_full() {
            let (waiter, notifier) = Waiter::new();
            backlog.park(self.deadline(), move |room| notifier.notify(room));
            waiter.wait(&self.limit().and_a_moment(), "write")??;
            self.check_write()?;
        }
        if let Some(outcome) = self.region.try_write(data, offset) {
            return outcome;
        }
        let (waiter, wait) = self.waiter();
        self.region.write(Buffer::copy_of(data), offset, wait, self.ahead.clone());
        waiter.wait(&self.limit().and_a_moment(), "write")?.map(drop)
    }

    fn sync(&self) -> Result<()> {
        self.sync_within(&self.limit())
    }

    fn try_read_at(&self, buffer: &mut [u8], offset: u64) -> Option<Result<()>> {
        match self.check_door() {
            Ok(()) => {
                let outcome = self.read_here(buffer, offset)?;
                self.puller.accessed(offset, buffer.len());
                Some(outcome)
            }
            Err(error) => Some(Err(error)),
        }
    }

    fn try_write_at(&self, data: &[u8], offset: u64) -> Option<Result<()>> {
        match self.check_write() {
            Ok(()) if self.pusher.backlog().is_full() => None,
            Ok(()) => self.region.try_write(data, offset),
            Err(error) => Some(Err(error)),
        }
    }

    fn submit(self: Arc<Self>, request: Request) {
        let Request { operation, deadline, completion, .. } = request;
        let checked = match operation {
            Operation::Write { .. } | Operation::Zero { .. } => self.check_write(),
            _ => self.check_door(),
        };
        if let Err(error) = checked {
            return completion.complete(Err(error));
        }
        let ahead = self.ahead.clone();
        let wait = Wait { completion, deadline };
        match operation {
            Operation::Read { offset, buffer } => {
                self.puller.accessed(offset, buffer.len());
                self.region.read(buffer, offset, wait, ahead)
            }
            Operation::Write { offset, data } if self.pusher.backlog().is_full() => {
                let managed = self.clone();
                self.pusher.backlog().park(wait.deadline, move |room| {
                    // It may have gone meanwhile.
                    match room.and_then(|()| managed.check_write()) {
                        Ok(()) => managed.region.write(data, offset, wait, ahead),
                        Err(error) => wait.completion.complete(Err(error)),
                    }
                });
            }
            Operation::Write { offset, data } => self.region.write(data, offset, wait, ahead),
            Operation::Zero { offset, length } => self.region.zero(offset, length, wait, ahead),
            Operation::Sync => {
                // Pushing waits, and whoever submits must not.
                backend::run_on_pool(move || {
                    let limit = Limit { deadline: wait.deadline, cancel: None };
                    wait.completion.complete(self.sync_within(&limit).map(|()| Reply::Done));
                });
            }
        }
    }

    fn close(&self) -> Result<()> {
        self.stop();
        Ok(())
    }
}

impl Drop for Managed {
    fn drop(&mut self) {
        self.stop();
    }
}
