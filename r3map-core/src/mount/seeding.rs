//! What a seeder does with the mount it moves: reads its truth, tracks its writes, stops it and fences it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use once_cell::sync::OnceCell;

use crate::backend::{Backend, Request};
use crate::cancel::Limit;
use crate::device::Kind;
use crate::error::{Code, Error, Result};
use crate::migration::home::Home;
use crate::migration::tracker::Tracker;
use crate::mount::managed::Managed;
use crate::mount::{Inner, Mount};
use crate::page::{PAGE, Set};
use crate::region::Paged;

/// What a mount remembers of its seeders.
#[derive(Default)]
pub struct Seeding {
    /// Whether one has it now.
    taken: AtomicBool,
    /// Who is told of every write, once it was seeded for the first time.
    tracker: Mutex<Option<Arc<Tracker>>>,
    /// Where its record is kept if not with the backend.
    home: Mutex<Option<Arc<Home>>>,
    /// Of a region that came here from another host.
    arriving: OnceCell<Arc<dyn Arriving>>,
}

/// What brings a region here from another host.
pub(crate) trait Arriving: Send + Sync {
    /// Whether all of it is here, its record says so, and nothing writes that any more but a seeder.
    fn has_arrived(&self) -> bool;
}

impl Seeding {
    /// Runs `body` while nobody begins or ends to track.
    pub fn tracked<T>(&self, body: impl FnOnce(Option<&Arc<Tracker>>) -> T) -> T {
        body(self.tracker.lock().unwrap_or_else(|e| e.into_inner()).as_ref())
    }
}

impl Mount {
    /// Says what brings this region here; once.
    pub(crate) fn arrives_by(&self, arriving: Arc<dyn Arriving>) {
        let _ = self.inner.seeding.arriving.set(arriving);
    }

    /// Nothing of this process reads or writes the region any more, by any view, but for whom it is served to.
    pub(crate) fn fence(&self, limit: &Limit) -> Result<()> {
        let inner = &self.inner;
        inner.seals(Some(Code::Fenced));
        if !inner.gate.turn(Code::Suspended, Code::Fenced) {
            inner.gate.shut(Code::Fenced, limit, "fence")?;
        }
        if inner.device.get().is_none() || inner.fenced.get().is_some() {
            return Ok(());
        }
        let front: Arc<dyn Backend> = match inner.kept() {
            Some(kept) => kept.clone(),
            None => inner.region.clone(),
        };
        let detached = inner.detach();
        let _ = inner.fenced.set(front);
        detached
    }
}

impl Inner {
    pub(super) fn check_unseeded(&self, what: &str) -> Result<()> {
        if self.seeding.taken.load(Ordering::SeqCst) {
            let message = format!("{what}: {} is being seeded: close its seeder first", self.info.name);
            return Err(Error::new(Code::Busy, message));
        }
        Ok(())
    }

    fn seals(&self, code: Option<Code>) {
        self.direct.iter().for_each(|direct| direct.seal().set(code));
        self.managed.iter().chain(self.sliced.get()).for_each(|kept| kept.seal().set(code));
    }
}

/// A mount in the hands of its one seeder.
pub(crate) struct Seeded {
    mount: Mount,
    tracker: Arc<Tracker>,
    released: AtomicBool,
}

impl Seeded {
    /// Takes a mount; one that is taken already, or closed, is refused.
    pub fn take(mount: &Mount) -> Result<Seeded> {
        let inner = mount.enter()?;
        if inner.gate.refuses(Code::Closed) {
            return Err(Error::new(Code::Closed, "seed: the mount is closed"));
        }
        if inner.seeding.taken.swap(true, Ordering::SeqCst) {
            return Err(Error::new(Code::Busy, format!("seed: {} is being seeded already", inner.info.name)));
        }
        let mount = Mount { inner: mount.inner.clone(), cancel: None };
        let tracker = mount.inner.track().inspect_err(|_| mount.inner.seeding.taken.store(false, Ordering::SeqCst))?;
        Ok(Seeded { mount, tracker, released: AtomicBool::new(false) })
    }

    /// Lets the mount go: another may seed it, or close it.
    pub fn release(&self) {
        if !self.released.swap(true, Ordering::SeqCst) {
            self.tracker.disarm();
            self.inner().seeding.taken.store(false, Ordering::SeqCst);
        }
    }

    fn inner(&self) -> &Inner {
        &self.mount.inner
    }

    /// Where its record is kept; with `trust` in this process, where there is no better place.
    pub fn home(&self, trust: bool) -> Result<Arc<Home>> {
        let inner = self.inner();
        if let Some(home) = self.mount.home() {
            return Ok(home);
        }
        if !trust {
            let message = format!(
                "{}: there is no place beside it to write down who has it, so that a restart could give it two \
                 owners: seed a file or a directory, or say cache_trust to keep that in this process",
                inner.info.name
            );
            return Err(Error::new(Code::Unsupported, message));
        }
        Ok(self.home_in_memory())
    }

    /// A place in this process, the same for as long as the mount lives.
    pub fn home_in_memory(&self) -> Arc<Home> {
        let mut home = self.inner().seeding.home.lock().unwrap_or_else(|e| e.into_inner());
        home.get_or_insert_with(Home::memory).clone()
    }

    /// The mount itself.
    pub fn mount(&self) -> &Mount {
        &self.mount
    }

    /// The pages written since they were asked for.
    pub fn tracker(&self) -> &Tracker {
        &self.tracker
    }

    /// Reads what the app would, in place if it is at hand.
    #[inline]
    pub fn try_read(&self, buffer: &mut [u8], offset: u64) -> Option<Result<()>> {
        let inner = self.inner();
        match (inner.kept(), inner.sliced.get()) {
            (Some(kept), Some(sliced)) if Arc::ptr_eq(kept, sliced) => read_either(kept, &*inner.below, buffer, offset),
            (Some(kept), _) => kept.try_read_at(buffer, offset),
            (None, _) => inner.region.try_read_at(buffer, offset),
        }
    }

    /// Reads what the app would.
    pub fn submit(&self, request: Request) {
        let inner = self.inner();
        match inner.kept() {
            Some(kept) => kept.clone().submit(request),
            None => inner.region.clone().submit(request),
        }
    }

    /// Brings every write that is done to the tracker.
    pub fn collect(&self, limit: &Limit) -> Result<u64> {
        let inner = self.inner();
        // The kernel keeps writes to a file or block device back until it is asked for them; those to a slice are
        // in the pages already.
        if let Some(device) = inner.device().filter(|device| device.kind() != Kind::Userfaultfd) {
            device.flush(limit)?;
        }
        inner.managed.iter().chain(inner.sliced.get()).try_fold(0, |found, kept| Ok(found + kept.pages().collect()?))
    }

    /// Begins to track anew.
    pub fn arm(&self) -> Result<()> {
        // The first scan after a page has come finds it written, whoever wrote it.
        let inner = self.inner();
        inner.managed.iter().chain(inner.sliced.get()).try_for_each(|kept| kept.pages().collect().map(drop))?;
        self.tracker.arm();
        Ok(())
    }

    /// Calls of the app fail `suspended` from now on.
    pub fn suspend(&self) {
        self.inner().gate.refuse(Code::Suspended);
    }

    /// Makes durable what was written so far.
    pub fn flush(&self, limit: &Limit) -> Result<()> {
        if self.mount.is_read_only() { Ok(()) } else { self.mount.sync_inside(limit) }
    }

    /// Waits out whoever is inside and brings their writes to the tracker; where the record outlives this process, the
    /// bytes have to as well.
    pub fn settle(&self, lasting: bool, limit: &Limit) -> Result<()> {
        let inner = self.inner();
        inner.gate.shut(Code::Suspended, limit, "suspend")?;
        if lasting {
            self.flush(limit)?;
        }
        // A device may push when it is flushed.
        self.collect(limit)?;
        for kept in inner.managed.iter().chain(inner.sliced.get()) {
            kept.pusher().hold(limit)?;
        }
        Ok(())
    }

    /// Makes sure that nothing was written since, and refuses what comes from here on.
    pub fn verify(&self, limit: &Limit) -> Result<()> {
        let inner = self.inner();
        let before = self.tracker.marked();
        if self.collect(limit)? > 0 || self.tracker.marked() > before {
            let message = format!("{}: something was written after the app had said that it stopped", inner.info.name);
            return Err(Error::new(Code::Busy, message));
        }
        inner.seals(Some(Code::Suspended));
        Ok(())
    }

    /// The app goes on, after a quiesce, or after the region came back.
    pub fn reopen(&self) {
        let inner = self.inner();
        inner.seals(None);
        for kept in inner.managed.iter().chain(inner.sliced.get()) {
            kept.pusher().go_on();
        }
        inner.gate.reopen(Code::Suspended);
        inner.gate.reopen(Code::Fenced);
    }

    /// Nothing of this process reads or writes the region any more but for whom it is served to.
    pub fn fence(&self, limit: &Limit) -> Result<()> {
        self.mount.fence(limit)
    }

    /// Whether all of it is here, and its record the seeder's to write.
    pub fn has_arrived(&self) -> bool {
        self.inner().seeding.arriving.get().is_none_or(|arriving| arriving.has_arrived())
    }
}

impl Drop for Seeded {
    fn drop(&mut self) {
        self.release();
    }
}

impl Inner {
    /// The tracker that every way to write here tells.
    fn track(&self) -> Result<Arc<Tracker>> {
        let mut kept = self.seeding.tracker.lock().unwrap_or_else(|e| e.into_inner());
        let tracker = match &*kept {
            Some(tracker) => tracker.clone(),
            None => Arc::new(Tracker::new(self.info.size.div_ceil(PAGE))?),
        };
        self.direct.iter().for_each(|direct| direct.marks().join(&tracker));
        self.managed.iter().chain(self.sliced.get()).for_each(|kept| kept.pages().marks().join(&tracker));
        *kept = Some(tracker.clone());
        Ok(tracker)
    }
}

/// Reads what a slice's own pages have, and the rest from below: a page that is read for somebody else needs no
/// second place in memory.
fn read_either(kept: &Managed, below: &dyn Backend, buffer: &mut [u8], offset: u64) -> Option<Result<()>> {
    if let Some(outcome) = kept.try_read_at(buffer, offset) {
        return Some(outcome);
    }
    // Below first: a page that comes to be kept meanwhile is newer.
    if let Err(error) = below.try_read_at(buffer, offset)? {
        return Some(Err(error));
    }
    let end = offset + buffer.len() as u64;
    let pages = kept.pages().pages_of(offset, buffer.len() as u64);
    let mut at = pages.start;
    while let Some(run) = kept.pages().states().next_run(at..pages.end, Set::MISSING.complement()) {
        let (start, until) = ((run.start * PAGE).max(offset), (run.end * PAGE).min(end));
        if let Err(error) =
            kept.try_read_at(&mut buffer[(start - offset) as usize..(until - offset) as usize], start)?
        {
            return Some(Err(error));
        }
        at = run.end;
    }
    Some(Ok(()))
}
