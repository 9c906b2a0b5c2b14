//! A region as a regular file of its exact size, by FUSE: path and file, for this and other programs.
//!
//! The kernel protocol is spoken here and not by the `fuser` crate: the mount is a single file whose requests
//! are answered from any thread, over several queues, without an allocation on the way of a byte that is at
//! hand, and a guard process must be able to end it; little of a filesystem library would be left in use.
//!
//! What a program may rely on: all descriptors and mappings of the file, here and in other programs, see the
//! same bytes, those of the kernel's page cache. A write is in that cache when `write` returns, at the region
//! when the descriptor is closed, and durable when `fsync` returns. The file keeps its size: `truncate` and
//! appending are refused, and a write past the end fails with ENOSPC, when it is written back at the latest,
//! that is in `fsync` or `close`. Once a sync failed, all later ones do.
//!
//! A serving thread takes a request (`session`), asks the region in place or parks the request
//! (`parked`), and the reply goes out by the `channel` it came from.

use std::fs::{File, Metadata};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::backend::Backend;
use crate::cancel::{Limit, Waiter};
use crate::device::{Attach, Device, Kind};
use crate::error::{Code, Error, Result};
use crate::thread::{self, Process};

mod channel;
mod guard;
mod mounting;
mod parked;
mod place;
mod session;
mod wire;

use channel::Channel;
use guard::Guard;
use mounting::Mounted;
use place::Place;
use session::Session;
use wire::Attributes;

/// Threads that serve a mount. Misses of a remote region wait on no thread; with two, one reader of a local one was
/// a third slower, since they hand the queue to and fro. What one costs: a local file is read from disk one request
/// at a time.
const THREADS: usize = 1;
/// Read-ahead where none was asked for.
const READ_AHEAD: u64 = 1 << 20;
/// The unit in which `read_at` and `write_at` look at their deadline.
const STEP: usize = 32 << 20;
/// How long serving threads may take to be done once their connection has ended.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether this process could attach one now.
pub fn probe() -> Result<()> {
    mounting::probe()
}

/// Shows a region as a file: in a directory of its own, or at `how.path`.
pub fn attach(region: Arc<dyn Backend>, how: &Attach) -> Result<Arc<dyn Device>> {
    let info = region.info().clone();
    if info.alignment > 4096 || info.max_request < 4096 || i64::try_from(info.size).is_err() {
        let message = format!(
            "fuse: {} takes requests of at most {} bytes that are multiples of {}, and the kernel asks for pages \
             of 4096",
            how.name, info.max_request, info.alignment
        );
        return Err(Error::new(Code::Unsupported, message));
    }
    let place = match &how.path {
        None => Place::fresh()?,
        Some(path) => Place::at(path)?,
    };
    let read_only = how.read_only || info.read_only;
    let attributes = attributes(&place.metadata()?, info.size, read_only);
    let guard = Guard::start(&place)?;
    let (mounted, device) = Mounted::over(place.path(), attributes.mode, &how.name, read_only)?;
    let channel = Channel::new(device);
    let longest = channel.shake_hands(info.max_request as usize, how.read_ahead.unwrap_or(READ_AHEAD), !read_only)?;
    let path = place.path().to_owned();
    let session = Session::new(region, how.name.clone(), path.clone(), attributes, longest, how.deadline);
    let session = Arc::new(session);
    let threads =
        session::start(&session, channel, THREADS).map_err(|error| Error::io("fuse: start threads", error))?;
    let attached = Attached { session: session.clone(), mounted, threads, guard, place };
    if !read_only {
        session.set_size().map_err(|error| Error::io("fuse: tell the kernel the size", error))?;
    }
    set_read_ahead(&path, how.read_ahead.unwrap_or(READ_AHEAD));
    let opened = session.open_own(|| File::options().read(true).write(!read_only).open(&path));
    let file = opened.map_err(|error| Error::io(format!("fuse: open {}", path.display()), error))?;
    tracing::debug!(region = how.name, path = %path.display(), longest, "fuse: attached");
    Ok(Arc::new(Fuse {
        process: Process::current(),
        name: how.name.clone(),
        path,
        read_only,
        session,
        file: RwLock::new(Some(Arc::new(file))),
        attached: Mutex::new(Some(attached)),
    }))
}

/// Permissions and owner are those of the file it lies over.
fn attributes(covered: &Metadata, size: u64, read_only: bool) -> Attributes {
    let permissions = covered.mode() & if read_only { 0o444 } else { 0o666 };
    Attributes {
        size,
        mode: libc::S_IFREG | permissions,
        uid: covered.uid(),
        gid: covered.gid(),
        time: covered.mtime().max(0) as u64,
    }
}

/// Raises the kernel's read-ahead for the mount, which takes effect on descriptors opened afterwards. Without
/// privilege it stays at what the greeting could get, 128 KiB at most.
fn set_read_ahead(path: &Path, bytes: u64) {
    let set = std::fs::metadata(path).and_then(|metadata| {
        let device = metadata.dev();
        let (major, minor) = (libc::major(device), libc::minor(device));
        std::fs::write(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"), (bytes >> 10).to_string())
    });
    if let Err(error) = set {
        tracing::debug!(%error, bytes, "fuse: the kernel keeps its own read-ahead");
    }
}

/// Drops the pages that the kernel still has of a file whose connection ended, so that descriptors left open
/// elsewhere fail instead of reading what may be old. Pages that somebody maps stay.
fn forget_pages(file: &File) {
    // Fails at once, and leaves no page dirty.
    let _ = file.sync_all();
    // SAFETY: a plain call on a descriptor that is open.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
}

struct Fuse {
    process: Process,
    name: String,
    path: PathBuf,
    read_only: bool,
    session: Arc<Session>,
    /// The descriptor of the handle, closed last: closing any descriptor of a file drops all locks that this
    /// process holds on it.
    file: RwLock<Option<Arc<File>>>,
    attached: Mutex<Option<Attached>>,
}

/// What is to be undone, in this order.
struct Attached {
    session: Arc<Session>,
    mounted: Mounted,
    threads: Vec<JoinHandle<()>>,
    guard: Guard,
    place: Place,
}

impl Fuse {
    fn own_file(&self) -> Result<Arc<File>> {
        let file = self.file.read().unwrap_or_else(|e| e.into_inner()).clone();
        file.ok_or_else(|| Error::new(Code::Closed, format!("{}: the fuse device is detached", self.name)))
    }

    /// Runs a call that only the kernel can end, on a thread of its own where the caller may end the wait
    /// sooner.
    fn within<T: Send + 'static>(
        &self,
        limit: &Limit,
        what: &'static str,
        job: impl FnOnce(&File) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let file = self.own_file()?;
        let (waiter, notifier) = Waiter::new();
        let started = thread::spawn("r3map-fuse-call", move || {
            let outcome = job(&file);
            // Given back before the caller knows, who may detach then.
            drop(file);
            notifier.notify(outcome);
        });
        started.map_err(|error| Error::io(format!("fuse: {what}"), error))?;
        waiter.wait(limit, what)?
    }
}

impl Device for Fuse {
    fn kind(&self) -> Kind {
        Kind::Fuse
    }

    fn path(&self) -> Result<&Path> {
        Ok(&self.path)
    }

    fn file(&self) -> Result<File> {
        self.own_file()?;
        let opened = File::options().read(true).write(!self.read_only).open(&self.path);
        opened.map_err(|error| Error::io(format!("fuse: open {}", self.path.display()), error))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64, limit: &Limit) -> Result<()> {
        let failed = |error| Error::io("fuse: read (the log has the cause)", error);
        if limit.cancel.is_none() {
            let file = self.own_file()?;
            for (index, piece) in buffer.chunks_mut(STEP).enumerate() {
                limit.check("read")?;
                file.read_exact_at(piece, offset + (index * STEP) as u64).map_err(failed)?;
            }
            return Ok(());
        }
        for (index, piece) in buffer.chunks_mut(STEP).enumerate() {
            let (offset, mut data) = (offset + (index * STEP) as u64, crate::buffer::Buffer::new(piece.len()));
            let data = self.within(limit, "read", move |file| {
                file.read_exact_at(&mut data, offset).map_err(failed)?;
                Ok(data)
            })?;
            piece.copy_from_slice(&data);
        }
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64, limit: &Limit) -> Result<()> {
        let failed = |error| Error::io("fuse: write (the log has the cause)", error);
        for (index, piece) in data.chunks(STEP).enumerate() {
            limit.check("write")?;
            let offset = offset + (index * STEP) as u64;
            if limit.cancel.is_none() {
                self.own_file()?.write_all_at(piece, offset).map_err(failed)?;
            } else {
                let data = crate::buffer::Buffer::copy_of(piece);
                self.within(limit, "write", move |file| file.write_all_at(&data, offset).map_err(failed))?;
            }
        }
        Ok(())
    }

    fn flush(&self, limit: &Limit) -> Result<()> {
        self.session.check_lost()?;
        if self.read_only {
            return Ok(());
        }
        self.within(limit, "flush", |file| {
            // ENOSPC is a write past the end, which its writer is told of and which concerns no byte of the
            // region. It is told once to each descriptor, but cuts the sync short.
            let past_the_end = |error: &std::io::Error| error.raw_os_error() == Some(libc::ENOSPC);
            let mut synced = file.sync_all();
            for _ in 0..3 {
                if synced.as_ref().is_err_and(past_the_end) {
                    synced = file.sync_all();
                }
            }
            synced.map_err(|error| Error::io("fuse: flush", error))
        })
    }

    fn detach(&self) -> Result<()> {
        let mut attached = self.attached.lock().unwrap_or_else(|e| e.into_inner());
        let Some(Attached { mounted, .. }) = attached.as_mut() else { return Ok(()) };
        mounted.unmount()?;
        self.session.end();
        let ending = attached.take();
        // Nobody waits in the kernel any more, so the descriptor closes at once.
        if let Some(file) = self.file.write().unwrap_or_else(|e| e.into_inner()).take() {
            forget_pages(&file);
        }
        drop(ending);
        Ok(())
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        if !self.process.is_current() {
            // The mount, its threads and its guard are the parent's.
            std::mem::forget(self.attached.lock().unwrap_or_else(|e| e.into_inner()).take());
            return;
        }
        if let Err(error) = self.detach() {
            tracing::warn!(%error, "fuse: a device did not detach");
        }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if let Err(error) = self.mounted.unmount() {
            tracing::warn!(%error, "fuse: a mount stays");
        }
        self.session.end();
        let until = Instant::now() + PATIENCE;
        for thread in self.threads.drain(..) {
            while !thread.is_finished() && Instant::now() < until {
                std::thread::sleep(Duration::from_micros(200));
            }
            if !thread.is_finished() {
                // It ends when the backend lets go of it.
                tracing::warn!("fuse: a backend call does not return; its thread is left behind");
                continue;
            }
            let _ = thread.join();
        }
        // Guard and place follow in the order of their fields.
        let _ = (&self.guard, &self.place);
    }
}
