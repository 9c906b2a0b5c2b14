//! A backend as a region of this host: read and written at once, seen as a path, file or slice when asked.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use once_cell::sync::OnceCell;

use crate::backend::{self, Backend, Completion, Extent, Info, Operation, Request};
use crate::cancel::{Cancel, Limit};
use crate::device::{Device, Kind, View};
use crate::error::{Code, Error, Result};
use crate::event::{Event, Events};
use crate::gate::Gate;
use crate::migration::home::Home;
use crate::mount::cache::Cache;
use crate::mount::direct::Direct;
use crate::mount::leeched::Leeched;
use crate::mount::managed::Managed;
use crate::mount::opening::Opened;
use crate::mount::seeding::Seeding;
use crate::options::MountOptions;
use crate::stats::{Counters, Stats};
use crate::thread::Process;

mod attaching;
mod backlog;
pub(crate) mod cache;
pub mod direct;
mod leeched;
mod looks;
pub mod managed;
mod opening;
pub(crate) mod puller;
mod pusher;
pub(crate) mod seeding;
mod settled;
mod slice;
#[cfg(test)]
mod tests;

pub(crate) use leeched::WeakMount;
pub use slice::Slice;

/// A mounted region. Clones are the same mount; every method may be called from any thread.
#[derive(Clone)]
pub struct Mount {
    inner: Arc<Inner>,
    cancel: Option<Cancel>,
}

struct Inner {
    process: Process,
    info: Info,
    options: MountOptions,
    gate: Gate,
    counters: Counters,
    events: Arc<Events>,
    backend: Arc<dyn Backend>,
    /// Whether the backend was opened for this mount alone.
    owns_backend: bool,
    /// What devices and handle read and write.
    region: Arc<dyn Backend>,
    /// The same, where every access goes to the backend.
    direct: Option<Arc<Direct>>,
    /// The same, where pages are kept here.
    managed: Option<Arc<Managed>>,
    /// What a slice's own pages are kept over: a push that failed stays there and is no lost write.
    below: Arc<dyn Backend>,
    /// The pages of a slice that keeps its own: of a direct mount, or over a cache in a file.
    sliced: OnceCell<Arc<Managed>>,
    device: OnceCell<Arc<dyn Device>>,
    /// What the device showed, once it was taken away with the region.
    fenced: OnceCell<Arc<dyn Backend>>,
    seeding: Seeding,
    /// Of a region that was moved here, or is to be.
    leeched: Option<Leeched>,
}

impl Mount {
    /// The options of a mount, to be changed and opened: `Mount::options().read_only(true).open(backend)`.
    pub fn options() -> MountOptions {
        MountOptions::default()
    }

    /// Mounts a backend, which stays open when the mount is closed. No device exists until one is asked for.
    pub fn open(backend: Arc<dyn Backend>, options: MountOptions) -> Result<Mount> {
        Mount::over(backend, options, Opened::default())
    }

    /// The same mount, each of whose calls through this handle ends with `cancelled` once `cancel` is
    /// triggered.
    pub fn with_cancel(&self, cancel: Cancel) -> Mount {
        Mount { inner: self.inner.clone(), cancel: Some(cancel) }
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.inner.info.size
    }

    /// Whether writes are refused.
    pub fn is_read_only(&self) -> bool {
        self.inner.info.read_only
    }

    /// The kind of the device that is attached, if one is.
    pub fn device(&self) -> Option<Kind> {
        self.inner.device().map(|device| device.kind())
    }

    /// Fills `buffer` with the bytes at `offset`: all of them, or an error.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let inner = self.enter()?;
        let _inside = inner.gate.enter()?;
        inner.info.check(offset, buffer.len() as u64)?;
        inner.counters.read(buffer.len());
        match inner.device() {
            Some(device) => device.read_at(buffer, offset, &self.limit()),
            None => match inner.front().try_read_at(buffer, offset) {
                Some(outcome) => outcome,
                None => backend::read(inner.front(), buffer, offset, &self.limit()),
            },
        }
    }

    /// Writes all of `data` at `offset`, or fails. Durable after [`sync`](Mount::sync) only.
    pub fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        let inner = self.enter()?;
        let _inside = inner.gate.enter()?;
        inner.info.check(offset, data.len() as u64)?;
        inner.check_write()?;
        inner.counters.write(data.len());
        match inner.device() {
            Some(device) => device.write_at(data, offset, &self.limit()),
            None => match inner.front().try_write_at(data, offset) {
                Some(outcome) => outcome,
                None => backend::write(inner.front(), data, offset, &self.limit()),
            },
        }
    }

    /// Makes everything written before this call, through any view, durable at the backend.
    pub fn sync(&self) -> Result<()> {
        let inner = self.enter()?;
        let _inside = inner.gate.enter()?;
        self.sync_inside(&self.limit())
    }

    fn sync_inside(&self, limit: &Limit) -> Result<()> {
        if let Some(device) = self.inner.device() {
            device.flush(limit)?;
        }
        backend::call(self.inner.front(), Operation::Sync, limit, "sync").map(drop)
    }

    /// Makes a range resident, or fails with what prevents it.
    pub fn pull(&self, offset: u64, length: u64) -> Result<()> {
        let inner = self.enter()?;
        let _inside = inner.gate.enter()?;
        inner.info.check(offset, length)?;
        match inner.kept() {
            Some(kept) => kept.pull(offset, length, &self.limit()),
            None => inner.check_resident("pull"),
        }
    }

    /// Asks for a range and returns at once.
    pub fn prefetch(&self, offset: u64, length: u64) -> Result<()> {
        let inner = self.enter()?;
        let _inside = inner.gate.enter()?;
        inner.info.check(offset, length)?;
        match inner.kept() {
            Some(kept) => {
                kept.prefetch(offset, length);
                Ok(())
            }
            None => inner.check_resident("prefetch"),
        }
    }

    /// The parts of a range that are not here, in bytes and order. A direct mount of a remote backend keeps
    /// nothing, so that all of it is missing; of a local one nothing ever is.
    pub fn missing(&self, offset: u64, length: u64) -> Result<Vec<Range<u64>>> {
        let inner = self.enter()?;
        let _inside = inner.gate.enter()?;
        inner.info.check(offset, length)?;
        Ok(match inner.coming() {
            Some(kept) => kept.missing(offset, length),
            None if inner.info.local || length == 0 => Vec::new(),
            None => std::iter::once(offset..offset + length).collect(),
        })
    }

    /// Waits until that share of the region, 0 to 1, is here, for at most `timeout` (zero: for ever). Asks for
    /// nothing by itself: with `pull=demand` it may never come.
    pub fn wait_local(&self, share: f64, timeout: Duration) -> Result<()> {
        let inner = self.enter()?;
        // Not kept inside: this may take for ever, and the mount may be closed meanwhile.
        drop(inner.gate.enter()?);
        let limit = Limit::within(timeout).with_cancel(self.cancel.clone());
        match inner.coming() {
            Some(kept) => kept.wait_local(share, &limit),
            None => inner.check_resident("wait_local"),
        }
    }

    /// The first event whose sequence number is more than `after` (0 for the first of all), waiting for it at
    /// most `timeout` (zero: for ever).
    pub fn next(&self, after: u64, timeout: Duration) -> Result<Event> {
        let inner = self.enter()?;
        drop(inner.gate.enter()?);
        inner.events.next(after, &Limit::within(timeout).with_cancel(self.cancel.clone()))
    }

    /// A path of the region for other programs: a block device with nbd, a regular file with fuse.
    pub fn path(&self) -> Result<PathBuf> {
        Ok(self.attached(View::Path)?.path()?.to_owned())
    }

    /// A new descriptor of the region; closing it is the caller's.
    pub fn file(&self) -> Result<File> {
        self.attached(View::File)?.file()
    }

    /// The region as memory of this process.
    pub fn slice(&self) -> Result<Slice> {
        let device = self.attached(View::Slice)?;
        let (start, length) = device.slice()?;
        Ok(Slice::new(start, length, self.is_read_only(), device.clone()))
    }

    /// Keeps the addresses of a slice that was handed out from being used for anything else, also after this mount is gone:
    /// a touch of them stays a SIGSEGV. For those who give the memory to what may outlive the mount.
    pub fn reserve(&self) -> Result<()> {
        if let Some(device) = self.enter()?.device.get() {
            device.reserve();
        }
        Ok(())
    }

    /// Figures of this mount.
    pub fn stats(&self) -> Result<Stats> {
        let inner = self.enter()?;
        let _inside = inner.gate.enter()?;
        let mut stats = Stats::default();
        stats.put("size", inner.info.size);
        inner.counters.put_into(&mut stats);
        if let Some(kept) = inner.kept() {
            kept.put_into(&mut stats);
        }
        if let Some(leeched) = &inner.leeched {
            leeched.tie.put_into(&mut stats);
        }
        if let Some((sent, received)) = inner.backend.traffic() {
            stats.put("sent_bytes", sent);
            stats.put("received_bytes", received);
        }
        Ok(stats)
    }

    /// Keeps the order in which pages were accessed for the first time in a file, which is replaced whole: a later mount
    /// of the region, or of another of the same size, pulls in that order if it is its option `trace`. What is read through
    /// the handle, a path or a file counts at its first access; of a slice by userfaultfd what was not here when it was
    /// touched, for the kernel tells of nothing else. A page that is written whole does not count: nobody needs to pull it.
    pub fn trace_save(&self, path: impl AsRef<Path>) -> Result<()> {
        let inner = self.enter()?;
        let _inside = inner.gate.enter()?;
        match inner.kept() {
            Some(kept) => kept.save_trace(path.as_ref()),
            None => Err(Error::new(
                Code::Unsupported,
                "trace_save: a direct mount does not see what is accessed: use mode=managed",
            )),
        }
    }

    /// Syncs, detaches the device and closes. If that fails the mount stays open, to be closed again or
    /// [`discard`](Mount::discard)ed. Closing a closed mount fails `closed`.
    pub fn close(&self) -> Result<()> {
        let inner = self.enter()?;
        let limit = self.limit();
        inner.check_unseeded("close")?;
        let is_fenced = inner.gate.refuses(Code::Fenced);
        inner.check_leave(&limit)?;
        inner.gate.shut(Code::Closed, &limit, "close")?;
        // What another host owns now is not to be written any more.
        let synced = if inner.info.read_only || is_fenced { Ok(()) } else { self.sync_inside(&limit) };
        let synced = synced.or_else(|error| inner.leave_unpushed(error));
        if let Err(error) = synced.and_then(|()| inner.detach()) {
            if is_fenced {
                inner.gate.turn(Code::Closed, Code::Fenced);
            } else {
                inner.gate.open();
            }
            return Err(error.context("the mount stays open"));
        }
        // What the region is elsewhere by now nobody here learns.
        if let Some(cache) = inner.cache().filter(|_| is_fenced) {
            cache.remove();
        }
        inner.end()
    }

    /// Detaches and closes without syncing: what was not synced may be lost.
    pub fn discard(&self) -> Result<()> {
        let inner = self.enter()?;
        inner.check_unseeded("discard")?;
        inner.gate.shut(Code::Closed, &self.limit(), "discard")?;
        inner.detach()?;
        inner.stop();
        inner.cache().into_iter().for_each(|cache| cache.remove());
        inner.end()
    }

    fn enter(&self) -> Result<&Inner> {
        if !self.inner.process.is_current() {
            let message = "this mount belongs to the process that was forked: open one in the child";
            return Err(Error::new(Code::Closed, message));
        }
        Ok(&self.inner)
    }

    fn limit(&self) -> Limit {
        Limit::within(self.inner.options.deadline).with_cancel(self.cancel.clone())
    }

    /// The device, attached now if none is.
    fn attached(&self, view: View) -> Result<&Arc<dyn Device>> {
        let inner = self.enter()?;
        {
            let _inside = inner.gate.enter()?;
            if inner.fenced.get().is_some() {
                let message =
                    "the device went with the region, which came back since: close this mount and open another";
                return Err(Error::new(Code::Unsupported, message));
            }
            if let Some(device) = inner.device.get() {
                return Ok(device);
            }
        }
        inner.gate.hold(&self.limit(), "attach", || {
            let device = inner.device.get_or_try_init(|| inner.attach(view))?;
            inner.kept().into_iter().for_each(|kept| kept.attached());
            Ok(device)
        })
    }
}

impl Inner {
    /// The device that is attached, if one is.
    #[inline]
    fn device(&self) -> Option<&Arc<dyn Device>> {
        self.device.get().filter(|_| self.fenced.get().is_none())
    }

    /// What handles read and write while no device is attached.
    #[inline]
    fn front(&self) -> &Arc<dyn Backend> {
        self.fenced.get().unwrap_or(&self.region)
    }

    /// Stops what runs in the background and lets go of the backend.
    fn end(&self) -> Result<()> {
        self.stop();
        if let Some(leeched) = &self.leeched {
            leeched.tie.leave();
        }
        self.backend.release();
        let closed = if self.owns_backend { self.backend.close() } else { Ok(()) };
        if let Some(managed) = &self.managed {
            managed.leave_cache(&Limit::within(self.options.deadline));
        }
        closed
    }

    /// What a mount that is offline could not push is kept for the next one, which goes on.
    fn leave_unpushed(&self, error: Error) -> Result<()> {
        let is_away = matches!(error.code(), Code::Disconnected | Code::Timeout);
        match self.cache().filter(|_| self.options.offline && is_away) {
            Some(cache) => {
                tracing::warn!(%error, "closed with the remote away: what was not pushed stays in the cache");
                cache.settle()
            }
            None => Err(error),
        }
    }

    fn stop(&self) {
        self.managed.iter().chain(self.sliced.get()).for_each(|kept| kept.stop());
    }

    /// The cache in a file, if there is one.
    fn cache(&self) -> Option<&Arc<Cache>> {
        self.managed.as_ref().and_then(|managed| managed.cache())
    }

    fn check_write(&self) -> Result<()> {
        if self.info.read_only {
            return Err(Error::new(Code::ReadOnly, format!("{} is mounted read-only", self.info.name)));
        }
        Ok(())
    }

    /// The pages kept here that the app sees, if any are. Those made for a slice that could not be attached are not.
    fn kept(&self) -> Option<&Arc<Managed>> {
        let is_sliced = self.device.get().is_some_and(|device| device.kind() == Kind::Userfaultfd);
        self.sliced.get().filter(|_| is_sliced).or(self.managed.as_ref())
    }

    /// The pages that come here from elsewhere: of a region that moves here its own, whatever a slice of it keeps.
    fn coming(&self) -> Option<&Arc<Managed>> {
        self.managed.as_ref().filter(|_| self.leeched.is_some()).or_else(|| self.kept())
    }

    fn check_resident(&self, what: &str) -> Result<()> {
        if self.info.local {
            return Ok(());
        }
        Err(Error::new(
            Code::Unsupported,
            format!("{what}: a direct mount of {} keeps nothing here: use mode=managed", self.info.name),
        ))
    }

    fn detach(&self) -> Result<()> {
        match self.device.get() {
            Some(device) => device.detach(),
            None => Ok(()),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // In a forked child the device, its threads and its mappings are the parent's.
        if !self.process.is_current() {
            return;
        }
        if let Err(error) = self.detach() {
            tracing::warn!(%error, "a mount was dropped and its device did not detach cleanly");
        }
        if let Some(leeched) = &self.leeched {
            leeched.tie.leave();
        }
        self.backend.release();
    }
}

/// A mount stands wherever a backend may.
impl Backend for Mount {
    fn info(&self) -> &Info {
        &self.inner.info
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        Mount::read_at(self, buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        Mount::write_at(self, data, offset)
    }

    fn sync(&self) -> Result<()> {
        Mount::sync(self)
    }

    fn extents(&self, offset: u64, length: u64, most: usize) -> Result<Vec<Extent>> {
        let inner = self.enter()?;
        let _inside = inner.gate.enter()?;
        // What was written through a device may be in the kernel still.
        match inner.device() {
            None => inner.region.extents(offset, length, most),
            Some(_) => Ok(vec![Extent { length, zero: false }]),
        }
    }

    fn prefetch(&self, offset: u64, length: u64) {
        // Whoever reads then is told what is wrong.
        let _ = Mount::prefetch(self, offset, length);
    }

    fn submit(self: Arc<Self>, request: Request) {
        // With a device attached all accesses go through it and may wait for the kernel.
        if self.inner.device().is_some() || matches!(request.operation, Operation::Sync) {
            return backend::perform_on_pool(self, request);
        }
        match self.enter().and_then(|inner| inner.gate.enter()) {
            Ok(guard) => {
                // Inside until it is done: a region is handed over only without anything under way.
                let (inside, mount, completion) = (Gate::stay(guard), self.clone(), request.completion);
                let completion = Completion::new(move |outcome| {
                    mount.inner.gate.left(inside);
                    completion.complete(outcome);
                });
                self.inner.front().clone().submit(Request { completion, ..request });
            }
            Err(error) => request.completion.complete(Err(error)),
        }
    }

    fn home(&self) -> Option<Arc<Home>> {
        self.inner.backend.home()
    }

    fn close(&self) -> Result<()> {
        Mount::close(self)
    }
}
