//! Where it is written who has a region, and who may change that.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::error::{Code, Error, Result};
use crate::migration::record::{Record, State, Store, beside};
use crate::migration::{Moved, part_identity};
use crate::version::{self, Version};

/// The place of a region's record, and of the lock of the one seeder or leecher that writes it.
pub struct Home {
    store: Store,
    version: version::Store,
    /// What is locked, where other processes could hold it too.
    region: Option<PathBuf>,
    held: AtomicBool,
}

impl Home {
    /// In this process, for a region whose bytes are.
    pub fn memory() -> Arc<Home> {
        Arc::new(Home {
            store: Store::memory(),
            version: version::Store::memory(),
            region: None,
            held: AtomicBool::new(false),
        })
    }

    /// Beside a region's file, or in its directory of chunks.
    pub fn beside(region: &Path) -> Arc<Home> {
        // The same place, by whatever links it is reached.
        let region = std::fs::canonicalize(region).unwrap_or_else(|_| region.to_owned());
        let version = version::Store::Disk(beside(&region, ".r3map.version", ".r3map.version"));
        Arc::new(Home { store: Store::beside(&region), version, region: Some(region), held: AtomicBool::new(false) })
    }

    /// What tells this region from every other that is open in this process: its file's device and number, whatever
    /// it is called; of one in memory its home's own address, on a device that no kernel has.
    pub(crate) fn place(&self) -> Result<(u64, u64)> {
        let Some(region) = &self.region else { return Ok((u64::MAX, std::ptr::from_ref(self) as u64)) };
        let metadata = std::fs::metadata(region);
        let metadata = metadata.map_err(|error| Error::io(format!("look at {}", region.display()), error))?;
        Ok((metadata.dev(), metadata.ino()))
    }

    /// Whether both are one place, by the same name.
    pub(crate) fn is_at(&self, other: &Home) -> bool {
        std::ptr::eq(self, other) || (self.region.is_some() && self.region == other.region)
    }

    /// The record, if there is one.
    pub fn load(&self) -> Result<Option<Record>> {
        self.store.load()
    }

    /// Which version of the region is here, if one was ever written down.
    pub(crate) fn version(&self) -> Result<Option<Version>> {
        self.version.load()
    }

    /// Writes down that this version is here, durably.
    pub(crate) fn save_version(&self, version: Version) -> Result<()> {
        self.version.save(version)
    }

    /// Whether the region may be read and written by whoever opens it: a record that says otherwise is the error
    /// `fenced`.
    pub fn check(&self) -> Result<()> {
        let Some(record) = self.load()? else { return Ok(()) };
        let (what, todo) = match record.state {
            State::Owner | State::Complete => return Ok(()),
            State::Given | State::Drained => {
                ("was given to another host", "open it there, or seed it here and reclaim it if it is lost there")
            }
            State::Copy => ("is owned by another host, of which there is an older copy here", "leech it"),
            State::Willing => ("is being moved here, or was called off", "leech it again: its source knows"),
            State::Taken => ("is owned here, but not all of it has arrived", "leech it again to go on"),
        };
        let message = format!("the region {what} (epoch {}, {}): {todo}", record.region.epoch, self.store);
        Err(Error::new(Code::Fenced, message))
    }

    /// Whether the region was given to another host, which may still need bytes of it from here.
    pub fn is_given(&self) -> Result<bool> {
        Ok(self.load()?.is_some_and(|record| matches!(record.state, State::Given | State::Drained)))
    }

    /// Makes the caller the one who may write the record, until the result is dropped; `busy` where there is one.
    pub fn hold(self: &Arc<Home>) -> Result<Held> {
        let busy = || Error::new(Code::Busy, format!("another seeder or leecher has this region ({})", self.store));
        if self.held.swap(true, Ordering::SeqCst) {
            return Err(busy());
        }
        let mut held = Held { home: self.clone(), _lock: None };
        if let Some(region) = &self.region {
            let file = File::open(region).map_err(|error| Error::io(format!("open {}", region.display()), error))?;
            held._lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => Some(lock),
                Err((_, Errno::EWOULDBLOCK)) => return Err(busy()),
                Err((_, errno)) => return Err(Error::io(format!("lock {}", region.display()), errno.into())),
            };
        }
        Ok(held)
    }
}

/// The right to write a record. A process that dies gives it back.
pub struct Held {
    home: Arc<Home>,
    _lock: Option<Flock<File>>,
}

impl Held {
    /// The record, if there is one.
    pub fn load(&self) -> Result<Option<Record>> {
        self.home.load()
    }

    /// Replaces the record; durable when this returns. If it fails, it is the old one or the new.
    pub fn save(&self, record: &Record) -> Result<()> {
        self.home.store.save(record)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.home.held.store(false, Ordering::SeqCst);
    }
}

/// The records of regions that move as one. The first one's is about all of them, and the commit; each other place
/// has one of the same state under an identity that says of which group it is and where in it.
pub struct Homes {
    parts: Vec<(Held, u64)>,
}

impl Homes {
    /// Of regions of these sizes in bytes, in their order: one or more.
    pub fn new(parts: Vec<(Held, u64)>) -> Homes {
        assert!(!parts.is_empty());
        Homes { parts }
    }

    /// The record of the whole, if there is one.
    pub fn load(&self) -> Result<Option<Record>> {
        self.parts[0].0.load()
    }

    /// Whether one of them outlives this process.
    pub fn last(&self) -> bool {
        self.parts.iter().any(|(held, _)| held.home.store.lasts())
    }

    /// What the place of one part says while the whole says `record`.
    fn of_part(&self, record: &Record, index: usize) -> Record {
        let identity = part_identity(record.region.identity, index);
        let region = Moved { identity, size: self.parts[index].1, epoch: record.region.epoch };
        Record { vote: record.vote, is_part: true, ..Record::new(record.state, region) }
    }

    /// Whether the other places say that they are these parts of the whole of this record, whatever their state.
    pub fn belong_to(&self, record: &Record) -> Result<bool> {
        for (index, (held, _)) in self.parts.iter().enumerate().skip(1) {
            let (there, wanted) = (held.load()?, self.of_part(record, index).region);
            if there.is_none_or(|there| {
                !there.is_part || (there.region.identity, there.region.size) != (wanted.identity, wanted.size)
            }) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What each place says now, in their order.
    pub fn each(&self) -> Result<Vec<Option<Record>>> {
        self.parts.iter().map(|(held, _)| held.load()).collect()
    }

    /// Makes this the record of all, durable when it returns. No place ever says that its part is here while the
    /// first says that the whole is not: a region that goes is written off at the others first, one that comes at
    /// the first.
    pub fn save(&self, record: &Record) -> Result<()> {
        let comes = matches!(record.state, State::Owner | State::Taken | State::Complete);
        if comes {
            self.parts[0].0.save(record)?;
        }
        for (index, (held, _)) in self.parts.iter().enumerate().skip(1) {
            held.save(&self.of_part(record, index))?;
        }
        if comes { Ok(()) } else { self.parts[0].0.save(record) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGION: Moved = Moved { identity: [5; 16], size: 3 * 4096, epoch: 7 };

    #[test]
    fn one_holds_a_region_in_this_process_and_among_all() {
        let path = std::env::temp_dir().join(format!("r3map-home-{}", std::process::id()));
        std::fs::write(&path, b"bytes").unwrap();
        let (one, other) = (Home::beside(&path), Home::beside(&path));
        let held = one.hold().unwrap();
        assert_eq!(one.hold().err().unwrap().code(), Code::Busy);
        assert_eq!(other.hold().err().unwrap().code(), Code::Busy);
        drop(held);
        drop(other.hold().unwrap());
        drop(one.hold().unwrap());
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn parts_of_a_group_know_their_place_in_it() {
        let homes = [Home::memory(), Home::memory()];
        let group = |order: [usize; 2]| {
            Homes::new(order.into_iter().map(|index| (homes[index].hold().unwrap(), 4096)).collect())
        };
        let given = Record::new(State::Given, REGION);
        let parts = group([0, 1]);
        assert!(!parts.belong_to(&given).unwrap());
        parts.save(&given).unwrap();
        assert!(parts.belong_to(&given).unwrap());
        assert_eq!(parts.load().unwrap(), Some(given.clone()));
        drop(parts);
        assert!(!group([1, 0]).belong_to(&given).unwrap());
        for home in homes {
            assert_eq!(home.check().unwrap_err().code(), Code::Fenced);
        }
    }
}
