//! `tape:///path?size=…&chunk=64KiB&index=…` — a medium that is written at its end alone: a tape drive, or a plain file.
//!
//! Every write of a chunk appends a record ([`record`]); where the newest copy of each lies is kept in memory ([`index`])
//! and follows from the records alone. Opening a tape reads them: the heads of a file's, all of a drive's. The file that
//! `index` names spares what it knows of; lost, damaged or another tape's it is made anew, and nothing is lost with it.
//!
//! - What was not synced when a process or host died is there up to some moment, and nothing that came later.
//! - Bytes that fail their checksum are `corrupt`, never an older copy: writing the whole chunk mends it. Where it cannot
//!   be told which chunk a damaged record was about, each that was not written since is.
//! - Older copies are not taken away: copying a region to a fresh tape does that.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use crate::backend::parts::{Part, parts, transfer_unit};
use crate::backend::{Backend, Extent, Info};
use crate::error::{Code, Error, Result};
use crate::migration::record::replace;
use crate::url::Location;
use index::{End, Index, Place, Snapshot};
use medium::{Found, Medium, Wanted};
use record::{HEAD, Head, Kind, Label};

mod drive;
pub mod index;
mod medium;
mod plain;
pub mod record;
mod reel;
mod scan;

/// The index file is written again at a sync after so many records, or as many as it has runs.
const SAVE_AFTER: u64 = 4096;
/// An index file of more bytes is no index.
const LONGEST_INDEX: u64 = 4 << 30;

/// A region on a tape, which one process at a time may write to.
pub struct Tape {
    info: Info,
    label: Label,
    open: RwLock<Option<Arc<Open>>>,
}

/// What is let go of when the tape is closed.
struct Open {
    medium: Box<dyn Medium>,
    index: RwLock<Index>,
    log: Mutex<Log>,
}

/// What appends and syncs need, one at a time.
struct Log {
    end: End,
    /// The number of the record behind the last that is durable.
    synced: u64,
    /// Where the index is kept, and up to which record that one goes.
    file: Option<PathBuf>,
    saved: u64,
    /// Why what was acknowledged may not be there: nothing goes on after that.
    lost: Option<Error>,
}

impl Tape {
    /// Opens `tape:///path`: a plain file or a drive's device file. A file that is missing, and a blank tape, become a
    /// region only where the URL gives a size; a size or chunk that differs from the tape's is refused. A second one to
    /// open it is `busy`.
    pub fn open(location: &Location) -> Result<Tape> {
        let path = location.file_path()?;
        let parameters = location.parameters(&["size", "chunk", "index"])?;
        let name = location.as_str();
        let wanted = Wanted { name, size: parameters.size("size")?, chunk: parameters.size("chunk")? };
        let file = parameters.get("index").map(PathBuf::from);
        if file.as_ref().is_some_and(|file| !file.is_absolute()) {
            let message = format!("{name}: index is the absolute path of a file");
            return Err(Error::new(Code::InvalidArgument, message));
        }
        use std::os::unix::fs::FileTypeExt;
        let kind = std::fs::metadata(&path).map(|metadata| metadata.file_type());
        let is_drive = kind.as_ref().is_ok_and(|kind| kind.is_char_device());
        if kind.is_ok_and(|kind| !kind.is_file() && !is_drive) {
            let message = format!("{name} is neither a regular file nor a tape drive");
            return Err(Error::new(Code::InvalidArgument, message));
        }
        let (medium, label, read_only): (Box<dyn Medium>, _, _) = if is_drive {
            let (reel, label, read_only) = reel::Reel::open_device(&path, &wanted)?;
            (Box::new(reel), label, read_only)
        } else {
            let (plain, label, read_only) = plain::Plain::open(&path, &wanted)?;
            (Box::new(plain), label, read_only)
        };
        let open = Open::new(medium, &label, read_only, file).map_err(|error| error.context(name))?;
        let info = Info {
            local: !is_drive,
            managed_by_default: true,
            read_only,
            chunk_size: transfer_unit(label.chunk),
            identity: Some(label.id),
            ..Info::local(name, label.size)
        };
        Ok(Tape { info, label, open: RwLock::new(Some(Arc::new(open))) })
    }

    fn opened(&self) -> Result<Arc<Open>> {
        let open = self.open.read().unwrap_or_else(|e| e.into_inner());
        open.clone().ok_or_else(|| Error::new(Code::Closed, format!("{}: the backend was closed", self.info.name)))
    }

    fn check_write(&self, offset: u64, length: u64) -> Result<()> {
        if self.info.read_only {
            return Err(Error::new(Code::ReadOnly, format!("{}: this user may not write to it", self.info.name)));
        }
        self.info.check(offset, length)
    }

    fn failed(&self, what: &str, error: Error) -> Error {
        error.context(format!("{}: {what}", self.info.name))
    }
}

impl Open {
    /// What a medium holds: from the index file on, where that is right, else from the first record.
    fn new(medium: Box<dyn Medium>, label: &Label, read_only: bool, file: Option<PathBuf>) -> Result<Open> {
        let snapshot = file.as_deref().and_then(|file| load(file, &*medium, label));
        let saved = snapshot.as_ref().map_or(0, |snapshot| snapshot.end.number);
        let begin = End { address: medium.first(), ..End::default() };
        let (index, end) =
            snapshot.map_or_else(|| (Index::new(medium.step()), begin), |snapshot| (snapshot.index, snapshot.end));
        let found = scan::scan(&*medium, label, index, end)?;
        if let Some(why) = found.torn {
            let number = found.end.number;
            tracing::warn!("a tape ends before record {number}, which was not synced: {why}");
            if !read_only {
                medium.cut(found.end.address)?;
            }
        }
        let synced = if found.end.address <= found.durable { found.end.number } else { 0 };
        let log = Log { end: found.end, synced, file: file.filter(|_| !read_only), saved, lost: None };
        Ok(Open { medium, index: RwLock::new(found.index), log: Mutex::new(log) })
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn find(&self, chunk: u64) -> (Place, u64) {
        self.index.read().unwrap_or_else(|e| e.into_inner()).find(chunk)
    }

    /// The record with a chunk's newest bytes, which lie behind its head; `None` is zeros.
    fn fetch(&self, chunk: u64, label: &Label) -> Result<Option<Vec<u8>>> {
        let todo = "write the whole chunk anew, or restore the tape";
        let address = match self.find(chunk).0 {
            Place::Unwritten | Place::Zeros => return Ok(None),
            Place::At(address) => address,
            Place::Doubtful => {
                let message =
                    format!("a record that cannot be read may have the newest bytes of chunk {chunk}: {todo}");
                return Err(Error::new(Code::Corrupt, message));
            }
        };
        let mut record = vec![0; label.stride()];
        match self.medium.look(address, &mut record)? {
            Found::Record => {}
            Found::Unreadable(error) => return Err(error),
            Found::Mark | Found::End => {
                return Err(Error::new(Code::Corrupt, format!("there is no record at {address} any more")));
            }
        }
        let head = Head::decode(&record, label)?;
        if !matches!(head.kind, Kind::Data { chunk: there, .. } if there == chunk) {
            return Err(Error::new(Code::Corrupt, format!("the record at {address} is not chunk {chunk}'s any more")));
        }
        head.payload(&record, label)
            .map_err(|error| Error::new(Code::Corrupt, format!("{}: {todo}", error.message())))?;
        Ok(Some(record))
    }

    /// Appends what `kind` says, with the payload already behind the head's place in `record`.
    fn append(&self, log: &mut Log, kind: Kind, record: &mut [u8], label: &Label) -> Result<()> {
        if let Some(lost) = &log.lost {
            return Err(lost.clone().context("an earlier append or sync failed"));
        }
        let head = Head { number: log.end.number, prior: log.end.prior, kind };
        record[..HEAD].copy_from_slice(&head.encode(label));
        let address = log.end.address;
        self.medium.append(address, record).inspect_err(|error| {
            if self.medium.buffers() {
                log.lost = Some(error.clone());
            }
        })?;
        let next = address + self.medium.step();
        log.end = End { address: next, number: head.number + 1, prior: head.crc(label), last: address };
        let mut index = self.index.write().unwrap_or_else(|e| e.into_inner());
        match kind {
            Kind::Data { chunk, .. } => index.set(chunk, address),
            Kind::Zeros { first, count } => index.set_zeros(first..first + count, address),
        }
        Ok(())
    }

    /// Appends a part of a chunk, with what else the chunk has; `None` is zeros.
    fn append_part(&self, log: &mut Log, part: &Part, data: Option<&[u8]>, label: &Label) -> Result<()> {
        let chunk = part.chunk / label.chunk;
        let whole = label.length(chunk);
        let there = if part.length == whole { None } else { self.fetch(chunk, label)? };
        if there.is_none() && data.is_none() {
            return Ok(());
        }
        let mut record = there.unwrap_or_else(|| vec![0; label.stride()]);
        let share = &mut record[HEAD + part.within as usize..][..part.length as usize];
        match data {
            Some(data) => share.copy_from_slice(data),
            None => share.fill(0),
        }
        let crc = crc32c::crc32c(&record[HEAD..HEAD + whole as usize]);
        self.append(log, Kind::Data { chunk, crc }, &mut record, label)
    }

    fn sync(&self, label: &Label) -> Result<()> {
        let log = &mut *self.log();
        if let Some(lost) = &log.lost {
            return Err(lost.clone().context("an earlier append or sync failed"));
        }
        log.end.address = self.medium.sync(log.end.address).inspect_err(|error| log.lost = Some(error.clone()))?;
        log.synced = log.end.number;
        let runs = self.index.read().unwrap_or_else(|e| e.into_inner()).len() as u64;
        if log.synced - log.saved >= SAVE_AFTER.max(runs) {
            self.save(log, label);
        }
        Ok(())
    }

    /// Writes the index file, where there is one and it would say more. It loses nothing if that fails.
    fn save(&self, log: &mut Log, label: &Label) {
        let Some(file) = log.file.as_deref().filter(|_| log.synced == log.end.number && log.saved < log.synced) else {
            return;
        };
        let index = self.index.read().unwrap_or_else(|e| e.into_inner()).clone();
        match replace(file, &Snapshot { id: label.id, index, end: log.end }.encode()) {
            Ok(()) => log.saved = log.synced,
            Err(error) => tracing::warn!("the index of a tape was not written: {error}"),
        }
    }
}

/// The index of a file, if it is this tape's and the tape still has what it knows of.
fn load(file: &Path, medium: &dyn Medium, label: &Label) -> Option<Snapshot> {
    let read = || -> Result<Snapshot> {
        let length = std::fs::metadata(file).map_err(|error| Error::io("look at it", error))?.len();
        if length > LONGEST_INDEX {
            return Err(Error::new(Code::Corrupt, format!("it has {length} bytes")));
        }
        let bytes = std::fs::read(file).map_err(|error| Error::io("read it", error))?;
        let snapshot = Snapshot::decode(&bytes, label.chunks(), medium.step())?;
        let end = &snapshot.end;
        let mut record = vec![0; label.stride()];
        let same = snapshot.id == label.id
            && end.number > 0
            && matches!(medium.look(end.last, &mut record)?, Found::Record)
            && Head::decode(&record, label)
                .is_ok_and(|head| head.number + 1 == end.number && head.crc(label) == end.prior);
        // The prior of each record says the one before it: who has the last of them has all.
        if same { Ok(snapshot) } else { Err(Error::new(Code::Corrupt, "it is not of this tape, as it is now")) }
    };
    match read() {
        Ok(snapshot) => Some(snapshot),
        Err(error) => {
            tracing::info!("a tape is read from its beginning, without its index {}: {error}", file.display());
            None
        }
    }
}

impl Backend for Tape {
    fn info(&self) -> &Info {
        &self.info
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.info.check(offset, buffer.len() as u64)?;
        let open = self.opened()?;
        let mut rest = buffer;
        for part in parts(self.label.chunk, offset, rest.len() as u64) {
            let (share, after) = rest.split_at_mut(part.length as usize);
            let fetched = open.fetch(part.chunk / self.label.chunk, &self.label);
            match fetched.map_err(|error| self.failed(&format!("read at {}", part.chunk), error))? {
                Some(record) => share.copy_from_slice(&record[HEAD + part.within as usize..][..share.len()]),
                None => share.fill(0),
            }
            rest = after;
        }
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.check_write(offset, data.len() as u64)?;
        let open = self.opened()?;
        let (mut rest, mut log) = (data, open.log());
        for part in parts(self.label.chunk, offset, data.len() as u64) {
            let (share, after) = rest.split_at(part.length as usize);
            let appended = open.append_part(&mut log, &part, Some(share), &self.label);
            appended.map_err(|error| self.failed(&format!("write at {}", part.chunk), error))?;
            rest = after;
        }
        Ok(())
    }

    fn zero_at(&self, offset: u64, length: u64) -> Result<()> {
        self.check_write(offset, length)?;
        let open = self.opened()?;
        let (chunk, end, mut log) = (self.label.chunk, offset + length, open.log());
        // The whole chunks of it are one record; the last one of the region is whole where it ends.
        let first = offset.div_ceil(chunk);
        let behind = if end == self.info.size { self.label.chunks() } else { end / chunk };
        let inner = if first < behind { first..behind } else { 0..0 };
        let (head, tail) = match inner.is_empty() {
            true => (offset..end, end..end),
            false => (offset..inner.start * chunk, (inner.end * chunk).min(end)..end),
        };
        let work = || -> Result<()> {
            for edge in [head, tail] {
                for part in parts(chunk, edge.start, edge.end - edge.start) {
                    open.append_part(&mut log, &part, None, &self.label)?;
                }
            }
            let mut at = inner.start;
            while at < inner.end {
                match open.find(at) {
                    (Place::Zeros | Place::Unwritten, alike) => at = at.saturating_add(alike),
                    _ => {
                        let kind = Kind::Zeros { first: at, count: inner.end - at };
                        return open.append(&mut log, kind, &mut [0; HEAD], &self.label);
                    }
                }
            }
            Ok(())
        };
        work().map_err(|error| self.failed(&format!("zero at {offset}"), error))
    }

    fn extents(&self, offset: u64, length: u64, most: usize) -> Result<Vec<Extent>> {
        self.info.check(offset, length)?;
        let (open, chunk, end) = (self.opened()?, self.label.chunk, offset + length);
        let (mut extents, mut at) = (Vec::<Extent>::new(), offset);
        while at < end {
            let (place, alike) = open.find(at / chunk);
            let zero = matches!(place, Place::Zeros | Place::Unwritten);
            let until = (at / chunk).saturating_add(alike).saturating_mul(chunk).min(end);
            let is_full = extents.len() == most;
            match extents.last_mut().filter(|last| last.zero == zero) {
                Some(last) => last.length += until - at,
                None if is_full => break,
                None => extents.push(Extent { length: until - at, zero }),
            }
            at = until;
        }
        Ok(extents)
    }

    fn sync(&self) -> Result<()> {
        let open = self.opened()?;
        if self.info.read_only {
            return Ok(());
        }
        open.sync(&self.label).map_err(|error| self.failed("sync", error))
    }

    fn try_read_at(&self, buffer: &mut [u8], offset: u64) -> Option<Result<()>> {
        self.info.local.then(|| self.read_at(buffer, offset))
    }

    fn try_write_at(&self, data: &[u8], offset: u64) -> Option<Result<()>> {
        self.info.local.then(|| self.write_at(data, offset))
    }

    fn close(&self) -> Result<()> {
        let open = self.open.write().unwrap_or_else(|e| e.into_inner()).take();
        if let Some(open) = open {
            open.save(&mut open.log(), &self.label);
        }
        Ok(())
    }
}
