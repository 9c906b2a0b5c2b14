//! What of a region a cache has, and what of that is newer than at the backend: through the death of this process, and
//! that of its host.
//!
//! Behind its head the journal has four tables with a bit a page, mapped, and a checksum a page:
//! - *here*: the bytes are in the cache. Set after them.
//! - *dirty*: they may be newer than the backend's. Set before a page that is here is changed, and on disk before it is
//!   pushed; cleared when the backend has synced it.
//! - *safe*: dirty, and on disk with its bytes.
//! - *doubt*: here in an earlier boot, and not looked at since.
//!
//! The tables lie in the kernel's memory as the bytes do: after a kill both are there. After another boot what is safe is
//! dirty; a page that was only dirty may be older than what the backend was sent, and is dropped; what was only here
//! counts if its bytes have their checksum. No checksum of a page that was dropped stays.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, RwLock};

use nix::fcntl::{FallocateFlags, fallocate};

use super::table::Table;
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::migration::Runs;
use crate::page::{PAGE, PageStates, Set, State};
use crate::region::Writing;

/// How many pages are looked at while nobody may write.
const AT_ONCE: u64 = 4096;
/// What the backend has as it is here.
const SAME: Set = Set::of(&[State::Clean, State::Zero]);
static ZEROS: [u8; PAGE as usize] = [0; PAGE as usize];

/// The journal of an open cache.
pub struct Journal {
    file: File,
    /// Size of the region in bytes.
    size: u64,
    here: Table,
    dirty: Table,
    safe: Table,
    doubt: Table,
    /// Dirty pages that the journal on disk calls so.
    intended: Table,
    /// Pages that the backend acknowledged since its last sync.
    pushed: Table,
    /// Whether there is something to make durable.
    changed: AtomicBool,
    /// Held by whoever makes a page dirty, from the bit to the state; and by whoever clears bits.
    changing: RwLock<()>,
    intending: Mutex<()>,
}

impl Journal {
    /// Gives a file room for the tables of a region of `size` bytes, all empty, and drops what it had behind its head.
    pub fn make(file: &File, size: u64) -> Result<()> {
        let failed = |error| Error::io("make the journal of a cache", error);
        let pages = size.div_ceil(PAGE);
        let checks = PAGE + 4 * Table::length(pages);
        file.set_len(PAGE).map_err(failed)?;
        // All of it now: a disk that is full later must not be a fault in a mapping.
        let made = fallocate(file, FallocateFlags::empty(), 0, checks as i64);
        made.or_else(|_| (0..checks / PAGE).skip(1).try_for_each(|page| file.write_all_at(&ZEROS, page * PAGE)))
            .map_err(failed)?;
        file.set_len(checks + 4 * pages).map_err(failed)
    }

    /// Opens the tables that a file has.
    pub fn open(file: File, size: u64) -> Result<Journal> {
        let pages = size.div_ceil(PAGE);
        let table = |index| Table::of_file(&file, PAGE + index * Table::length(pages), pages);
        Ok(Journal {
            here: table(0)?,
            dirty: table(1)?,
            safe: table(2)?,
            doubt: table(3)?,
            intended: Table::in_memory(pages)?,
            pushed: Table::in_memory(pages)?,
            changed: AtomicBool::new(true),
            changing: RwLock::new(()),
            intending: Mutex::new(()),
            file,
            size,
        })
    }

    /// Whether a file is as long as the journal of such a region.
    pub fn fits(file: &File, size: u64) -> bool {
        let pages = size.div_ceil(PAGE);
        file.metadata().is_ok_and(|metadata| metadata.len() == PAGE + 4 * Table::length(pages) + 4 * pages)
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Makes what is in the file durable.
    pub fn flush(&self) -> Result<()> {
        self.file.sync_data().map_err(|error| Error::io("sync the journal of a cache", error))
    }

    /// Takes what another boot left for what it is worth. Each step is on disk before the next, and may be done twice.
    pub fn in_another_boot(&self) -> Result<()> {
        let safe = self.safe.words();
        let suspect = self.dirty.runs().without(&self.safe.runs());
        for run in suspect.iter() {
            self.write_checks(run.clone(), &vec![0; (run.end - run.start) as usize])?;
        }
        self.doubt.add(&self.here.words());
        self.doubt.remove(&self.dirty.words());
        self.doubt.remove(&safe);
        self.flush()?;
        for (table, keep) in [(&self.here, &safe), (&self.dirty, &safe)] {
            table.remove(&table.words());
            table.add(keep);
            self.flush()?;
        }
        Ok(())
    }

    /// The pages that are as the backend has them, and those that are newer.
    pub fn pages(&self) -> (Runs, Runs) {
        let dirty = self.dirty.runs();
        (self.here.runs().without(&dirty), dirty)
    }

    /// Bytes of pages that are newer here than at the backend.
    pub fn dirty_bytes(&self) -> u64 {
        (self.dirty.runs().pages() * PAGE).min(self.size)
    }

    fn change(&self) {
        if !self.changed.load(Ordering::Relaxed) {
            self.changed.store(true, Ordering::SeqCst);
        }
    }

    /// These bytes, or zeros, came from the backend.
    pub fn kept(&self, pages: Range<u64>, bytes: Option<&[u8]>) {
        // Without its checksum a page is fetched again after another boot.
        let _ = self.write_checks(pages.clone(), &self.checks(&pages, bytes));
        self.doubt.clear(pages.clone());
        self.here.set(pages);
        self.change();
    }

    /// Pages of which nothing was here have bytes that are newer than the backend's.
    pub fn written(&self, pages: Range<u64>) {
        self.dirty.set(pages.clone());
        self.doubt.clear(pages.clone());
        self.here.set(pages);
        self.change();
    }

    /// Pages that are here are about to become newer.
    pub fn writing(&self, pages: Range<u64>) -> Writing<'_> {
        let writing = self.changing.read().unwrap_or_else(|e| e.into_inner());
        self.dirty.set(pages);
        self.change();
        Some(writing)
    }

    /// Sees to it that after a power loss nobody takes older bytes of these pages for the backend's. `first` is done
    /// before, where something must be.
    pub fn intend(&self, pages: Range<u64>, first: impl FnOnce() -> Result<()>) -> Result<()> {
        if self.intended.has_all(pages.clone()) {
            return Ok(());
        }
        let _intending = self.intending.lock().unwrap_or_else(|e| e.into_inner());
        if self.intended.has_all(pages) {
            return Ok(());
        }
        // All there are, so that the next pushes need not wait.
        let dirty = self.dirty.words();
        first()?;
        self.flush()?;
        self.intended.add(&dirty);
        Ok(())
    }

    /// The checksums of a run of pages with these bytes, or zeros. None is 0.
    pub fn checks(&self, pages: &Range<u64>, bytes: Option<&[u8]>) -> Vec<u32> {
        let check = |bytes: &[u8]| crc32c::crc32c(bytes).max(1);
        if let Some(bytes) = bytes {
            return bytes.chunks(PAGE as usize).map(check).collect();
        }
        let mut checks = vec![check(&ZEROS); (pages.end - pages.start) as usize];
        if let Some(last) = checks.last_mut().filter(|_| pages.end * PAGE > self.size) {
            *last = check(&ZEROS[..(self.size % PAGE) as usize]);
        }
        checks
    }

    fn checks_at(&self, page: u64) -> u64 {
        PAGE + 4 * Table::length(self.size.div_ceil(PAGE)) + 4 * page
    }

    fn write_checks(&self, pages: Range<u64>, checks: &[u32]) -> Result<()> {
        let bytes: Vec<u8> = checks.iter().flat_map(|check| check.to_le_bytes()).collect();
        let written = self.file.write_all_at(&bytes, self.checks_at(pages.start));
        written.map_err(|error| Error::io("write checksums of a cache", error))
    }

    /// The backend acknowledged pages with these checksums.
    pub fn pushed(&self, pages: Range<u64>, checks: &[u32]) {
        let _ = self.write_checks(pages.clone(), checks);
        self.pushed.set(pages);
        self.change();
    }

    /// Whether all these pages, which nobody looked at in this boot, are in `store` with their checksums.
    pub fn recall(&self, pages: Range<u64>, store: &File) -> bool {
        if !self.doubt.has_all(pages.clone()) {
            return false;
        }
        let bytes = pages.start * PAGE..(pages.end * PAGE).min(self.size);
        let mut buffer = Buffer::new((bytes.end - bytes.start) as usize);
        let mut known = vec![0; (pages.end - pages.start) as usize * 4];
        let read = store.read_exact_at(&mut buffer, bytes.start);
        if read.and_then(|()| self.file.read_exact_at(&mut known, self.checks_at(pages.start))).is_err() {
            return false;
        }
        let checks = self.checks(&pages, Some(&buffer));
        let is_right = checks.iter().zip(known.chunks(4)).all(|(check, known)| check.to_le_bytes() == known);
        if is_right {
            self.here.set(pages.clone());
            self.doubt.clear(pages);
        }
        is_right
    }

    /// Makes all that is here now durable, dirty pages among it: their bytes by `sync`, then that they are.
    pub fn settle(&self, sync: impl FnOnce() -> Result<()>) -> Result<()> {
        if !self.changed.swap(false, Ordering::SeqCst) {
            return Ok(());
        }
        let dirty = self.dirty.words();
        let settled = sync().and_then(|()| {
            self.safe.add(&dirty);
            self.flush()
        });
        settled.inspect_err(|_| self.change())
    }

    /// The pages that the backend acknowledged and did not say to have synced.
    pub fn take_pushed(&self) -> Runs {
        self.pushed.take()
    }

    /// Puts those back which it did not sync after all.
    pub fn put_back(&self, pushed: &Runs) {
        pushed.iter().for_each(|run| self.pushed.set(run.clone()));
    }

    /// The backend has synced what was pushed: what was not changed since is dirty no more. As `settle` besides;
    /// `last` is done before that is durable.
    pub fn synced(
        &self,
        pushed: &Runs,
        states: &PageStates,
        sync: impl FnOnce() -> Result<()>,
        last: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let changed = self.changed.swap(false, Ordering::SeqCst);
        if !changed && pushed.is_empty() {
            return Ok(());
        }
        let dirty = self.dirty.words();
        let settled = sync().and_then(|()| {
            self.safe.add(&dirty);
            for run in pushed.iter() {
                (run.start..run.end).step_by(AT_ONCE as usize).for_each(|start| {
                    self.clear_clean(start..run.end.min(start + AT_ONCE), states);
                });
            }
            last()?;
            self.flush()
        });
        settled.inspect_err(|_| self.change())
    }

    fn clear_clean(&self, pages: Range<u64>, states: &PageStates) {
        let _alone = self.changing.write().unwrap_or_else(|e| e.into_inner());
        let mut at = pages.start;
        while let Some(run) = states.next_run(at..pages.end, SAME) {
            at = run.end;
            // Pushed once more since, and not synced with that.
            for page in run.filter(|page| !self.pushed.has(*page)) {
                [&self.dirty, &self.safe, &self.intended].iter().for_each(|table| table.clear(page..page + 1));
            }
        }
    }
}
