//! Where a managed mount keeps its pages: a file in memory, or one the app named, which the next mount goes on with.
//!
//! Beside the file `<file>.r3map-cache` is its journal: which region it is of, in which version, which pages it has and
//! which of those are newer than at the backend. Whoever has the cache open holds a lock on that.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::backend::memory::memory_file;
use crate::backend::{Backend, Info};
use crate::boot::BOOT;
use crate::cancel::Limit;
use crate::error::{Code, Error, Result};
use crate::event::{Events, Kind};
use crate::migration::Runs;
use crate::page::{PAGE, PageStates};
use crate::region::{Ledger, Writing};
use crate::url::Location;
use crate::version::Lineage;
use crate::{thread, wire};

mod header;
pub(crate) mod journal;
mod table;

pub(crate) use header::Header;
use journal::Journal;

/// How long a mount that was just dropped may take to let go.
const NOTICE: Duration = Duration::from_millis(300);
/// How long reads go past a store that failed, before it is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// A cache in a file.
pub struct Cache {
    url: String,
    paths: Paths,
    /// Whether nothing was in it before.
    is_new: bool,
    pages: File,
    journal: Journal,
    header: Mutex<Header>,
    /// The first sync that failed; locked while one is under way.
    lost: Mutex<Option<Error>>,
    events: Arc<Events>,
    /// When the file last did not take or give bytes, and how many, until it takes as many again.
    failed: Mutex<Option<(Instant, u64)>>,
    lock: Mutex<Option<Flock<File>>>,
}

/// The two files of a cache.
struct Paths {
    pages: PathBuf,
    journal: PathBuf,
}

/// What a cache is opened for.
pub struct Wanted<'a> {
    /// The region.
    pub info: &'a Info,
    /// Its version.
    pub lineage: Option<Lineage>,
    /// Whether it is believed to be the right one where nobody says so.
    pub trust: bool,
    /// Who is told when the disk is full.
    pub events: Arc<Events>,
}

/// The file in memory that keeps the pages of a region of `size` bytes: all holes, whole pages.
pub fn in_memory(size: u64) -> Result<File> {
    memory_file(c"r3map-pages", size.next_multiple_of(PAGE))
}

/// The path of the file that a cache's URL names; `None` for one in memory.
fn path_of(url: Option<&str>) -> Result<Option<PathBuf>> {
    let Some(url) = url else { return Ok(None) };
    let path = || {
        let location = Location::parse(url)?;
        match location.scheme() {
            "memory" => location.parameters(&[]).map(|_| None),
            "file" => {
                location.parameters(&[])?;
                location.file_path().map(Some)
            }
            other => Err(Error::new(
                Code::InvalidArgument,
                format!("{other} is no local store that keeps pages: use memory: or file:"),
            )),
        }
    };
    path().map_err(|error: Error| error.context("cache"))
}

/// Whether a URL names a cache in a file.
pub fn is_in_a_file(url: Option<&str>) -> Result<bool> {
    Ok(path_of(url)?.is_some())
}

/// What the cache that a URL names knows of its region.
pub fn known(url: Option<&str>) -> Result<Header> {
    let missing = || {
        let message = "offline: needs a cache in a file, from a mount that was there before: say cache=file:///…";
        Error::new(Code::InvalidArgument, message)
    };
    let paths = Paths::of(path_of(url)?.ok_or_else(missing)?);
    match File::open(&paths.journal) {
        Ok(file) => Header::read(&file)?.ok_or_else(missing),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(missing()),
        Err(error) => Err(Error::io(format!("open {}", paths.journal.display()), error)),
    }
}

impl Paths {
    fn of(pages: PathBuf) -> Paths {
        let mut journal = pages.as_os_str().to_owned();
        journal.push(".r3map-cache");
        Paths { pages, journal: journal.into() }
    }

    /// Opens the journal and locks it; says whether it was made now.
    fn lock(&self) -> Result<(Flock<File>, bool)> {
        let failed = |what, error| Error::io(format!("{what} {}", self.journal.display()), error);
        let begun = Instant::now();
        loop {
            let open = |new| OpenOptions::new().read(true).write(true).create_new(new).mode(0o600).open(&self.journal);
            let (file, is_new) = match open(false) {
                Err(error) if error.kind() == ErrorKind::NotFound => match open(true) {
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                    file => (file.map_err(|error| failed("create", error))?, true),
                },
                file => (file.map_err(|error| failed("open", error))?, false),
            };
            let locked = Flock::lock(file, FlockArg::LockExclusiveNonblock);
            let lock = match locked {
                Ok(lock) => lock,
                Err((_, Errno::EWOULDBLOCK)) if begun.elapsed() < NOTICE => {
                    std::thread::sleep(NOTICE / 30);
                    continue;
                }
                Err((file, Errno::EWOULDBLOCK)) => {
                    let holder = Header::holder(&file);
                    let message = format!("{holder} has this cache open: one mount may, so name another file");
                    return Err(Error::new(Code::Busy, message));
                }
                Err((_, errno)) => return Err(failed("lock", errno.into())),
            };
            // Whoever had it may have taken it away.
            let place = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
            let named = std::fs::symlink_metadata(&self.journal).map(place);
            if named.is_ok_and(|named| lock.metadata().is_ok_and(|metadata| place(metadata) == named)) {
                return Ok((lock, is_new));
            }
        }
    }

    fn remove(&self, pages: &File) {
        // The pages first: a file without a journal is anybody's, and would be refused.
        let same = |there: std::fs::Metadata| {
            pages.metadata().is_ok_and(|ours| (there.dev(), there.ino()) == (ours.dev(), ours.ino()))
        };
        if std::fs::symlink_metadata(&self.pages).is_ok_and(same) {
            remove(&self.pages);
        }
        remove(&self.journal);
    }
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::warn!(path = %path.display(), %error, "a cache that is of no more use stays");
    }
}

/// What this boot is called; each opening its own, where the kernel does not say.
fn boot() -> Result<wire::Identity> {
    BOOT.map_or_else(wire::socket::random, Ok)
}

impl Cache {
    /// Opens the cache that a URL names, new or from an earlier mount of the same region; `None` for one in memory.
    pub fn open(url: Option<&str>, wanted: &Wanted<'_>) -> Result<Option<Arc<Cache>>> {
        let (Some(url), Some(path)) = (url, path_of(url)?) else { return Ok(None) };
        let opened = Cache::open_file(url, Paths::of(path), wanted);
        opened.map(|cache| Some(Arc::new(cache))).map_err(|error| error.context(format!("cache: {url}")))
    }

    fn open_file(url: &str, paths: Paths, wanted: &Wanted<'_>) -> Result<Cache> {
        let (lock, made) = paths.lock()?;
        let opened = Cache::open_locked(&paths, &lock, wanted);
        let (header, pages, journal, is_new) = opened.inspect_err(|_| {
            if made {
                remove(&paths.journal);
            }
        })?;
        Header::write_holder(&lock, &thread::display());
        Ok(Cache {
            url: url.to_owned(),
            paths,
            is_new,
            pages,
            journal,
            header: Mutex::new(header),
            lost: Mutex::default(),
            events: wanted.events.clone(),
            failed: Mutex::default(),
            lock: Mutex::new(Some(lock)),
        })
    }

    fn open_locked(paths: &Paths, lock: &File, wanted: &Wanted<'_>) -> Result<(Header, File, Journal, bool)> {
        let size = wanted.info.size;
        let length = size.next_multiple_of(PAGE);
        let found = Header::read(lock)?;
        let is_new = found.is_none();
        let failed = |what, error| Error::io(format!("{what} {}", paths.pages.display()), error);
        let open = |new| OpenOptions::new().read(true).write(true).create_new(new).mode(0o600).open(&paths.pages);
        let (pages, are_there) = match open(false) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                (open(true).map_err(|error| failed("create", error))?, false)
            }
            pages => (pages.map_err(|error| failed("open", error))?, true),
        };
        let metadata = pages.metadata().map_err(|error| failed("look at", error))?;
        if is_new && are_there && (metadata.len() > 0 || !metadata.is_file()) {
            let message = "something is there that is no cache: name another file";
            return Err(Error::new(Code::Busy, message).with_retryable(false));
        }
        if let Some(found) = &found {
            check_region(found, wanted)?;
        }
        let is_whole = !is_new && metadata.len() == length && Journal::fits(lock, size);
        let journal = || lock.try_clone().map_err(|error| failed("open", error));
        let old = match is_whole {
            true => Some(Journal::open(journal()?, size)?),
            false if !is_new && are_there => {
                return Err(Error::new(Code::Corrupt, format!("its files were cut: {}", start_anew(paths))));
            }
            false => None,
        };
        let mut header = found.clone().unwrap_or(Header::new(wanted.info, boot()?));
        if let (Some(found), Some(journal)) = (&found, &old) {
            if found.boot != boot()? {
                journal.in_another_boot()?;
                header.boot = boot()?;
            }
            let is_same = check_version(found, wanted)?;
            let dirty = journal.dirty_bytes();
            if !is_same && dirty > 0 {
                let message = format!(
                    "somebody else wrote to the region since, and {dirty} bytes here were never pushed, which would go \
                     over theirs: mount it offline to read them, then {}",
                    start_anew(paths)
                );
                return Err(Error::new(Code::Corrupt, message));
            }
            if is_same {
                header.take(wanted.lineage);
                header.write(lock)?;
                return Ok((header, pages, Journal::open(self::reopen(lock)?, size)?, false));
            }
            tracing::info!(cache = %paths.pages.display(), "the region changed since: what is kept of it is dropped");
        }
        drop(old);
        // The head last: until then the old one says that nothing here can be used.
        let emptied = pages.set_len(0).and_then(|()| pages.set_len(length));
        emptied.map_err(|error| failed("give room to", error))?;
        Journal::make(lock, size)?;
        let journal = Journal::open(reopen(lock)?, size)?;
        journal.flush()?;
        header.pushing = false;
        header.take(wanted.lineage);
        header.write(lock)?;
        Ok((header, pages, journal, is_new))
    }

    fn header(&self) -> MutexGuard<'_, Header> {
        self.header.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn failed(&self) -> MutexGuard<'_, Option<(Instant, u64)>> {
        self.failed.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The file that keeps the pages.
    pub fn store(&self) -> Result<File> {
        self.pages.try_clone().map_err(|error| Error::io(format!("open {} again", self.url), error))
    }

    /// The pages that are here as the backend has them, and those that are newer.
    pub fn found(&self) -> (Runs, Runs) {
        self.journal.pages()
    }

    /// Syncs once: the kernel says once that it lost a write, and next time that all is well.
    fn settling(&self, settle: impl FnOnce(&dyn Fn() -> Result<()>) -> Result<()>) -> Result<()> {
        let mut lost = self.lost.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(error) = &*lost {
            return Err(error.clone().context("an earlier sync failed"));
        }
        let sync = || self.pages.sync_data().map_err(|error| Error::io("sync the pages", error));
        settle(&sync).map_err(|error| {
            let error = error.context(self.name());
            *lost = Some(error.clone());
            Ledger::failed(self, u64::MAX, &error);
            error
        })
    }

    /// The file took these pages. On a disk that is nearly full a few may still fit.
    fn worked(&self, pages: Range<u64>) {
        let length = (pages.end - pages.start) * PAGE;
        let recovered = self.failed().take_if(|(_, failed)| length >= *failed).is_some();
        if recovered {
            self.events.tell(Kind::Recovered, None);
        }
    }

    /// Makes what is here durable here.
    pub fn settle(&self) -> Result<()> {
        self.settling(|sync| self.journal.settle(sync))
    }

    /// Runs `sync`, which makes durable at the backend what it acknowledged, and takes down what that makes clean.
    pub fn synced(
        &self,
        states: &PageStates,
        backend: &dyn Backend,
        limit: &Limit,
        sync: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let pushed = self.journal.take_pushed();
        let synced = sync().and_then(|()| {
            let last = || self.pushed_all(backend, limit);
            self.settling(|sync| self.journal.synced(&pushed, states, sync, last))
        });
        if synced.is_err() {
            self.journal.put_back(&pushed);
            // Here at least it is durable; what went wrong is said already.
            let _ = self.settle();
        }
        synced
    }

    /// Where own writes cannot be told from others', the version after them is the one that is kept.
    fn pushed_all(&self, backend: &dyn Backend, limit: &Limit) -> Result<()> {
        let mut header = self.header();
        if !header.pushing || header.own.is_some() {
            return Ok(());
        }
        let lineage = backend.lineage(limit)?;
        let clean = Header { pushing: false, version: lineage.map(|lineage| lineage.version), ..header.clone() };
        clean.write(self.journal.file())?;
        *header = clean;
        Ok(())
    }

    /// Lets the next mount have it.
    pub fn unlock(&self) {
        drop(self.lock.lock().unwrap_or_else(|e| e.into_inner()).take());
    }

    /// Takes a cache away in which nothing was before this mount.
    pub fn undo(&self) {
        if self.is_new {
            self.remove();
        }
    }

    /// Takes it away, unless another took its place under the name.
    pub fn remove(&self) {
        self.paths.remove(&self.pages);
    }
}

fn reopen(lock: &File) -> Result<File> {
    lock.try_clone().map_err(|error| Error::io("open the journal of a cache", error))
}

fn start_anew(paths: &Paths) -> String {
    format!("remove {} and {} to start anew", paths.pages.display(), paths.journal.display())
}

/// An error unless a cache is of this region.
fn check_region(found: &Header, wanted: &Wanted<'_>) -> Result<()> {
    let other = |what: &str| {
        let message = format!("it is of another region, {what}: name another file");
        Err(Error::new(Code::Corrupt, message))
    };
    if found.size != wanted.info.size {
        return other(&format!("of {} bytes instead of {}", found.size, wanted.info.size));
    }
    match (found.identity, wanted.info.identity) {
        (Some(then), Some(now)) if then == now => Ok(()),
        (None, None) if wanted.trust => Ok(()),
        (None, None) => Err(nobody_knows("whether this cache is of this region")),
        _ => other("by its identity"),
    }
}

/// Whether the region is as it was, but for what the mount that had the cache wrote.
fn check_version(found: &Header, wanted: &Wanted<'_>) -> Result<bool> {
    match (found.version, wanted.lineage) {
        (Some(then), Some(now)) => {
            Ok(then == now.version || found.own == Some(now.version.writer) || found.pushing && now.own.is_none())
        }
        _ if wanted.trust => Ok(true),
        _ => Err(nobody_knows("whether the region was changed since")),
    }
}

fn nobody_knows(what: &str) -> Error {
    let message = format!("the backend does not say {what}: say cache_trust if you know, or name another file");
    Error::new(Code::Unsupported, message)
}

impl Header {
    /// The pages are of this version from here on.
    fn take(&mut self, lineage: Option<Lineage>) {
        self.version = lineage.map(|lineage| lineage.version);
        self.own = lineage.and_then(|lineage| lineage.own);
    }
}

impl Ledger for Cache {
    fn name(&self) -> String {
        format!("the cache {}", self.url)
    }

    fn here(&self, pages: Range<u64>) {
        self.journal.kept(pages, None);
    }

    fn gone(&self, _pages: Range<u64>) {}

    fn kept(&self, pages: Range<u64>, bytes: Option<&[u8]>) {
        self.journal.kept(pages.clone(), bytes);
        self.worked(pages);
    }

    fn written(&self, pages: Range<u64>) {
        self.journal.written(pages.clone());
        self.worked(pages);
    }

    fn writing(&self, pages: Range<u64>) -> Writing<'_> {
        self.journal.writing(pages)
    }

    fn pushing(&self, pages: Range<u64>) -> Result<()> {
        let note = || {
            let mut header = self.header();
            if header.own.is_none() && !header.pushing {
                header.pushing = true;
                header.write(self.journal.file())?;
            }
            Ok(())
        };
        self.journal.intend(pages, note).map_err(|error| error.context(self.name()))
    }

    fn checks(&self, pages: &Range<u64>, bytes: Option<&[u8]>) -> Vec<u32> {
        self.journal.checks(pages, bytes)
    }

    fn pushed(&self, pages: Range<u64>, checks: &[u32]) {
        self.journal.pushed(pages, checks);
    }

    fn recall(&self, pages: Range<u64>) -> bool {
        self.journal.recall(pages, &self.pages)
    }

    fn failed(&self, length: u64, error: &Error) {
        let before = self.failed().replace((Instant::now(), length));
        if before.is_none() {
            tracing::error!(%error, "a cache takes or gives no bytes: reads go past it");
            self.events.tell(Kind::CacheFull, Some(error.clone()));
        }
    }

    fn is_failing(&self) -> bool {
        self.failed().is_some_and(|(then, _)| then.elapsed() < PAUSE)
    }
}
