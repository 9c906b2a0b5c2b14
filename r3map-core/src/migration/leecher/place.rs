//! Where a region that moves here is to live: memory of this process, or a file with what is remembered of it.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use nix::unistd::{Whence, lseek};
use once_cell::sync::OnceCell;

use crate::backend::memory::memory_file;
use crate::boot::BOOT;
use crate::error::{Code, Error, Result};
use crate::migration::home::{Held, Home};
use crate::migration::leecher::pages::PageMap;
use crate::migration::record::{Record, State};
use crate::migration::{Moved, Runs};
use crate::page::PAGE;
use crate::region::Ledger;
use crate::url::Location;

/// The place of one region.
pub struct Place {
    name: String,
    file: File,
    size: u64,
    home: Arc<Home>,
    disk: Option<Disk>,
    /// Whether nothing was there before.
    fresh: bool,
}

struct Disk {
    path: PathBuf,
    map: OnceCell<PageMap>,
    /// The first sync that failed: the kernel says once that it lost a write, and next time that all is well.
    lost: Mutex<Option<Error>>,
    /// Whether everything is here, so that nothing depends on the map any more.
    complete: AtomicBool,
}

/// What a URL names, before anything is done to it.
pub enum Local {
    /// Memory of this process, of that size if one was given.
    Memory(Option<u64>),
    /// A file, of that size if one was given.
    File(PathBuf, Option<u64>),
}

impl Local {
    /// The place that a URL names.
    pub fn parse(url: &str) -> Result<Local> {
        let location = Location::parse(url).map_err(|error| error.context("local"))?;
        let size = |location: &Location| location.parameters(&["size"])?.size("size");
        match location.scheme() {
            "memory" => Ok(Local::Memory(size(&location)?)),
            "file" => Ok(Local::File(location.file_path()?, size(&location)?)),
            other => {
                let message = format!("local: a region moves to memory: or to a file:, not yet to {other}:");
                Err(Error::new(Code::Unsupported, message))
            }
        }
    }

    /// What is remembered of what lies there, and how long it is: none for memory, which is new each time.
    pub fn remembered(&self) -> Result<Option<(Record, u64)>> {
        let Local::File(path, _) = self else { return Ok(None) };
        let Ok(metadata) = std::fs::metadata(path) else { return Ok(None) };
        Ok(Home::beside(path).load()?.map(|record| (record, metadata.len())))
    }
}

impl Place {
    /// Takes a place for `size` bytes, the region or part of one that `region` says, and the right to write its record.
    /// What is there already is refused as `busy`, unless it is an earlier state of it or may be overwritten.
    pub fn take(url: &str, size: u64, region: Moved, overwrite: bool) -> Result<(Place, Held)> {
        let local = Local::parse(url)?;
        let (Local::Memory(wanted) | Local::File(_, wanted)) = &local;
        if wanted.is_some_and(|wanted| wanted != size) {
            let message = format!("local: {url} is to have another size than the region, which has {size} bytes");
            return Err(Error::new(Code::InvalidArgument, message));
        }
        let Local::File(path, _) = local else {
            let file = memory_file(c"r3map-region", size.next_multiple_of(PAGE))?;
            let home = Home::memory();
            let held = home.hold()?;
            return Ok((Place { name: url.to_owned(), file, size, home, disk: None, fresh: true }, held));
        };
        let open = |fresh| OpenOptions::new().read(true).write(true).create_new(fresh).open(&path);
        let file = match open(false) {
            Err(error) if error.kind() == ErrorKind::NotFound => open(true),
            opened => opened,
        };
        let file = file.map_err(|error| Error::io(format!("open {url}"), error))?;
        let metadata = file.metadata().map_err(|error| Error::io(format!("look at {url}"), error))?;
        if !metadata.is_file() {
            return Err(Error::new(Code::Unsupported, format!("local: {url} is no regular file")));
        }
        let home = Home::beside(&path);
        let held = home.hold().map_err(|error| error.context(format!("local: {url}")))?;
        let record = home.load()?;
        let fresh = record.is_none() && metadata.len() == 0;
        let map = OnceCell::new();
        let disk = Disk { path, map, lost: Mutex::default(), complete: AtomicBool::new(false) };
        let place = Place { name: url.to_owned(), file, size, home, disk: Some(disk), fresh };
        match record {
            Some(record) if is_earlier(&record, region) && metadata.len() == size => {}
            // Bytes that only a restart would ask for, and it would not find them.
            Some(record) if is_earlier(&record, region) && !owns(&record) => place.wipe(&held, region)?,
            None if fresh => place.wipe(&held, region)?,
            _ if overwrite => place.wipe(&held, region)?,
            _ => return Err(taken(url)),
        }
        Ok((place, held))
    }

    /// Makes it a place in which nothing is.
    fn wipe(&self, held: &Held, region: Moved) -> Result<()> {
        // The record first: without one the file is anybody's.
        held.save(&Record::new(State::Copy, region))?;
        let emptied = self.file.set_len(0).and_then(|()| self.file.set_len(self.size));
        emptied.map_err(|error| Error::io(format!("give {} {} bytes", self.name, self.size), error))
    }

    /// Undoes the taking of a place in which nothing was.
    pub fn undo(&self) {
        let Some(disk) = self.disk.as_ref().filter(|_| self.fresh) else { return };
        if let Some(map) = self.map() {
            map.remove();
        }
        let mut record = disk.path.as_os_str().to_owned();
        record.push(".r3map");
        for path in [&disk.path, &PathBuf::from(record)] {
            if let Err(error) = std::fs::remove_file(path) {
                tracing::warn!(path = %path.display(), %error, "a place that is of no use stays");
            }
        }
    }

    /// Its bytes.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where its record is kept.
    pub fn home(&self) -> &Arc<Home> {
        &self.home
    }

    /// Whether its bytes outlive the process.
    pub fn is_on_disk(&self) -> bool {
        self.disk.is_some()
    }

    #[inline]
    fn map(&self) -> Option<&PageMap> {
        self.disk.as_ref().and_then(|disk| disk.map.get())
    }

    /// Opens the map of its pages: those that are here count if the region is `owned`, else they are none. An owned
    /// region without a map is `corrupt`: nobody knows any more what the app wrote.
    pub fn map_pages(&self, region: Moved, owned: bool) -> Result<Runs> {
        let Some(disk) = &self.disk else { return Ok(Runs::default()) };
        // Each boot its own, where the kernel does not say which this is.
        let boot = match *BOOT {
            Some(boot) => boot,
            None => crate::wire::socket::random()?,
        };
        let (map, found) = PageMap::open(&disk.path, region.identity, self.size.div_ceil(PAGE), boot)?;
        let map = disk.map.get_or_init(|| map);
        match found {
            Some(found) if owned => Ok(found.pages),
            None if owned => {
                map.remove();
                let message =
                    "the map of its pages is gone or damaged, so that nobody knows which of them the app wrote";
                Err(Error::new(Code::Corrupt, format!("{}: {message}: find out before it is leeched on", self.name)))
            }
            _ => {
                map.clear();
                Ok(Runs::default())
            }
        }
    }

    /// The ranges of the file that may hold bytes, from before.
    pub fn extents(&self) -> Vec<Range<u64>> {
        let mut extents = Vec::new();
        let mut at = 0;
        while let Some(start) = seek(&self.file, at, Whence::SeekData).filter(|start| *start < self.size) {
            at = seek(&self.file, start, Whence::SeekHole).unwrap_or(self.size).min(self.size);
            extents.push(start..at);
        }
        extents
    }

    /// Makes what is known of its pages durable as it is, though not their bytes.
    pub fn settle(&self) -> Result<()> {
        self.map().map_or(Ok(()), |map| map.flush())
    }

    /// Makes its bytes durable, and then that they are.
    pub fn sync(&self) -> Result<()> {
        let Some(disk) = &self.disk else { return Ok(()) };
        let mut lost = disk.lost.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(error) = &*lost {
            return Err(error.clone().context("an earlier sync failed"));
        }
        let data = || self.file.sync_data().map_err(|error| Error::io(format!("{}: sync", self.name), error));
        let synced = match self.map().filter(|_| !disk.complete.load(Ordering::SeqCst)) {
            Some(map) => map.synced(data),
            None => data(),
        };
        synced.inspect_err(|error| *lost = Some(error.clone()))
    }

    /// The record says that all is here: the map is of no more use.
    pub fn complete(&self) {
        if let Some(disk) = &self.disk {
            disk.complete.store(true, Ordering::SeqCst);
        }
        if let Some(map) = self.map() {
            map.remove();
        }
    }

    /// Fills a buffer with what lies here.
    pub fn read(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let read = self.file.read_exact_at(buffer, offset);
        read.map_err(|error| Error::io(format!("{}: read {} bytes", self.name, buffer.len()), error))
    }
}

impl Ledger for Place {
    fn here(&self, pages: Range<u64>) {
        if let Some(map) = self.map() {
            map.here(pages);
        }
    }

    fn gone(&self, pages: Range<u64>) {
        if let Some(map) = self.map() {
            map.gone(pages);
        }
    }
}

fn is_same(record: &Record, region: Moved) -> bool {
    (record.region.identity, record.region.size) == (region.identity, region.size)
}

/// Whether a record says that what is here is an earlier state of this region, or the region itself.
fn is_earlier(record: &Record, region: Moved) -> bool {
    is_owner_since(record, region) || is_same(record, region) && !matches!(record.state, State::Owner | State::Given)
}

/// Whether the region came here from a source that has this epoch, and nothing ties it to that any more.
pub fn is_owner_since(record: &Record, region: Moved) -> bool {
    is_same(record, region) && record.state == State::Owner && record.region.epoch >= region.epoch
}

/// Whether the region is here by this record, and what was written to it perhaps nowhere else.
fn owns(record: &Record) -> bool {
    matches!(record.state, State::Taken | State::Complete | State::Owner)
}

fn taken(url: &str) -> Error {
    let message = format!(
        "local: {url} is there and is no earlier state of this region: say overwrite to lose what is in it, or move \
         to another file"
    );
    Error::new(Code::Busy, message).with_retryable(false)
}

/// Nobody else uses the file's position.
fn seek(file: &File, offset: u64, whence: Whence) -> Option<u64> {
    lseek(file, offset as i64, whence).ok().and_then(|found| u64::try_from(found).ok())
}
