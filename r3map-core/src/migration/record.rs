//! What each side of a migration remembers through its death.
//!
//! A record lies beside the region's bytes: `<file>.r3map`, or `.r3map.migration` inside a directory of chunks, whose
//! `.r3map` says its shape and is written once. It is replaced whole: after a crash it is the old one or the new.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use crate::error::{Code, Error, Result};
use crate::migration::fields::Fields;
use crate::migration::runs::{MAX_ENCODED, Runs};
use crate::migration::{Dirty, MAX_HAND_OVER, Moved, Vote};

const MAGIC: [u8; 4] = *b"r3mR";
const VERSION: u16 = 1;
/// Bytes before the set of pages and the payload.
const HEAD: usize = 100;
const LONGEST: usize = HEAD + MAX_ENCODED + MAX_HAND_OVER;
const ALL: u16 = 1;
const PART: u16 = 2;

/// Where a side stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum State {
    /// The region is here, all of it.
    Owner = 1,
    /// Bytes of the region are here as they were at some moment up to its epoch; it is owned elsewhere.
    Copy = 2,
    /// A destination that has voted: the region is another's, or becomes this one's by the source's record alone.
    Willing = 3,
    /// A source that has given the region away: fenced for good, and keeps the bytes the destination lacks.
    Given = 4,
    /// A destination that owns the region while bytes of it are still at the source.
    Taken = 5,
    /// A destination that has all bytes and has yet to hear that the source knows.
    Complete = 6,
    /// A source that gave the region away and that nobody waits for.
    Drained = 7,
}

const STATES: [State; 7] =
    [State::Owner, State::Copy, State::Willing, State::Given, State::Taken, State::Complete, State::Drained];

/// What is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where this side stands.
    pub state: State,
    /// The region, under the epoch this record is about.
    pub region: Moved,
    /// The vote that led here; zeros where none did.
    pub vote: Vote,
    /// Of [`State::Given`]: the pages whose bytes the destination lacks. Else none.
    pub dirty: Dirty,
    /// Of [`State::Given`] and [`State::Taken`]: what the app hands over.
    pub payload: Vec<u8>,
    /// Whether it is about a part of what moved as one, whose record is with the first part.
    pub is_part: bool,
}

impl Record {
    /// Nothing but this state of that region.
    pub fn new(state: State, region: Moved) -> Record {
        let vote = Vote { session: [0; 16], epoch: 0, ballot: 0 };
        Record { state, region, vote, dirty: Dirty::Pages(Runs::default()), payload: Vec::new(), is_part: false }
    }

    /// The same in this state, by this vote and without what was left to move.
    pub fn voted(&self, state: State, vote: Vote) -> Record {
        Record { vote, ..Record::new(state, self.region) }
    }

    /// As it is kept.
    pub fn encode(&self) -> Vec<u8> {
        let (flags, dirty) = match &self.dirty {
            Dirty::All => (ALL, Vec::new()),
            Dirty::Pages(pages) => (0, pages.encode()),
        };
        let flags = flags | if self.is_part { PART } else { 0 };
        let mut bytes = Vec::with_capacity(HEAD + dirty.len() + self.payload.len());
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((self.state as u16).to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend([0; 2]);
        bytes.extend(self.region.identity);
        bytes.extend(self.region.size.to_le_bytes());
        bytes.extend(self.region.epoch.to_le_bytes());
        bytes.extend(self.vote.session);
        bytes.extend(self.vote.epoch.to_le_bytes());
        bytes.extend(self.vote.ballot.to_le_bytes());
        bytes.extend((dirty.len() as u32).to_le_bytes());
        bytes.extend(crc32c::crc32c(&dirty).to_le_bytes());
        bytes.extend((self.payload.len() as u32).to_le_bytes());
        bytes.extend(crc32c::crc32c(&self.payload).to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
        bytes.extend(dirty);
        bytes.extend(&self.payload);
        bytes
    }

    /// What was kept. Without a readable set of pages all are suspect, which costs time; without the rest of it
    /// nobody knows who owns the region, which is `corrupt`.
    pub fn decode(bytes: &[u8]) -> Result<Record> {
        let mut fields = Fields::new(bytes, "a record of a migration");
        let head = &bytes[..bytes.len().min(HEAD - 4)];
        if fields.bytes(4)? != MAGIC {
            return Err(corrupt("it is none of r3map"));
        }
        let version = fields.u16()?;
        let (state, flags, _) = (fields.u16()?, fields.u16()?, fields.u16()?);
        let region = Moved { identity: fields.identity()?, size: fields.u64()?, epoch: fields.u64()? };
        let vote = Vote { session: fields.identity()?, epoch: fields.u64()?, ballot: fields.u64()? };
        let dirty = (fields.u32()? as usize, fields.u32()?);
        let payload = (fields.u32()? as usize, fields.u32()?);
        fields.u32()?;
        if fields.u32()? != crc32c::crc32c(head) {
            return Err(corrupt("its head fails the checksum"));
        }
        if version != VERSION {
            return Err(Error::new(Code::Unsupported, format!("a record of the version {version}: r3map is too old")));
        }
        let state = STATES.into_iter().find(|known| *known as u16 == state);
        let state = state.ok_or_else(|| corrupt("its state is unknown"))?;
        let pages = fields.bytes(dirty.0.min(fields.left()))?;
        let readable = pages.len() == dirty.0 && crc32c::crc32c(pages) == dirty.1 && flags & ALL == 0;
        let pages = readable.then(|| Runs::decode(pages, region.pages()).ok()).flatten();
        let handed = fields.bytes(payload.0.min(fields.left()))?;
        if handed.len() != payload.0 || handed.len() > MAX_HAND_OVER || crc32c::crc32c(handed) != payload.1 {
            return Err(corrupt("what the app handed over fails the checksum"));
        }
        let (dirty, payload) = (pages.map_or(Dirty::All, Dirty::Pages), handed.to_vec());
        Ok(Record { state, region, vote, dirty, payload, is_part: flags & PART != 0 })
    }
}

fn corrupt(why: &str) -> Error {
    let todo = "find out which host owns the region before anything is done with these bytes";
    Error::new(Code::Corrupt, format!("a record of a migration was refused: {why}; {todo}"))
}

/// Where the record of one region is kept.
pub struct Store(Place);

enum Place {
    /// For regions that die with the process.
    Memory(Mutex<Option<Record>>),
    Disk(PathBuf),
}

impl Store {
    /// In this process, for a region whose bytes are.
    pub fn memory() -> Store {
        Store(Place::Memory(Mutex::new(None)))
    }

    /// Beside a region's file, or inside its directory of chunks.
    pub fn beside(region: &Path) -> Store {
        Store(Place::Disk(beside(region, ".r3map", ".r3map.migration")))
    }

    /// Whether it outlives this process.
    pub fn lasts(&self) -> bool {
        matches!(self.0, Place::Disk(_))
    }

    /// The record, if there is one.
    pub fn load(&self) -> Result<Option<Record>> {
        match &self.0 {
            Place::Memory(record) => Ok(lock(record).clone()),
            Place::Disk(path) => {
                let failed = |error| Error::io(format!("read {}", path.display()), error);
                let file = match File::open(path) {
                    Ok(file) => file,
                    Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                    Err(error) => return Err(failed(error)),
                };
                let mut bytes = Vec::new();
                file.take(LONGEST as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
                Record::decode(&bytes).map(Some).map_err(|error| error.context(path.display()))
            }
        }
    }

    /// Replaces the record; durable when this returns. If it fails, it is the old one or the new.
    pub fn save(&self, record: &Record) -> Result<()> {
        match &self.0 {
            Place::Memory(kept) => *lock(kept) = Some(record.clone()),
            Place::Disk(path) => {
                replace(path, &record.encode())?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Memory(_) => f.write_str("its record is in this process"),
            Place::Disk(path) => write!(f, "its record is {}", path.display()),
        }
    }
}

/// The path of what lies beside a region's file under its name with an ending, or inside its directory under another.
pub(crate) fn beside(region: &Path, ending: &str, inside: &str) -> PathBuf {
    if region.is_dir() {
        return region.join(inside);
    }
    let mut name = region.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// Replaces a file whole; durable when this returns. After a crash it is the old one or the new.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    // What an app hands over is nobody else's business.
    let open = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh);
    let replaced = open.and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_data()?;
        std::fs::rename(&fresh, path)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    });
    replaced.map_err(|error| Error::io(format!("write {}", path.display()), error))
}

fn lock(record: &Mutex<Option<Record>>) -> MutexGuard<'_, Option<Record>> {
    record.lock().unwrap_or_else(|e| e.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given() -> Record {
        let region = Moved { identity: [7; 16], size: 1_000_000, epoch: 3 };
        let vote = Vote { session: [9; 16], epoch: 3, ballot: 2 };
        let dirty = Dirty::Pages([1..2, 40..90].into_iter().collect());
        Record { vote, dirty, payload: b"registers".to_vec(), ..Record::new(State::Given, region) }
    }

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("r3map-record-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        path
    }

    #[test]
    fn a_record_reads_as_it_was_written_beside_a_file_in_a_directory_and_in_memory() {
        let place = directory("places");
        std::fs::write(place.join("region"), b"bytes").unwrap();
        std::fs::write(place.join(".r3map"), "size 1000000\nchunk 65536\n").unwrap();
        for store in [Store::memory(), Store::beside(&place.join("region")), Store::beside(&place)] {
            assert_eq!(store.load().unwrap(), None);
            for record in [given(), Record::new(State::Owner, given().region), Record { dirty: Dirty::All, ..given() }]
            {
                store.save(&record).unwrap();
                assert_eq!(store.load().unwrap(), Some(record));
            }
        }
        assert!(place.join("region.r3map").exists() && !place.join("region.r3map.new").exists());
        assert_eq!(std::fs::read_to_string(place.join(".r3map")).unwrap(), "size 1000000\nchunk 65536\n");
        std::fs::remove_dir_all(&place).unwrap();
    }

    #[test]
    fn what_a_crash_left_of_a_newer_record_is_not_read() {
        let place = directory("crash");
        let store = Store::beside(&place.join("region"));
        store.save(&given()).unwrap();
        std::fs::write(place.join("region.r3map.new"), b"half").unwrap();
        assert_eq!(store.load().unwrap(), Some(given()));
        store.save(&Record::new(State::Drained, given().region)).unwrap();
        assert_eq!(store.load().unwrap().unwrap().state, State::Drained);
        std::fs::remove_dir_all(&place).unwrap();
    }

    #[test]
    fn an_unreadable_set_of_pages_makes_all_suspect_and_any_other_damage_is_refused() {
        let golden = given().encode();
        let dirty = HEAD..golden.len() - given().payload.len();
        for at in 0..golden.len() {
            let mut bytes = golden.clone();
            bytes[at] ^= 0x10;
            match Record::decode(&bytes) {
                Ok(record) => {
                    assert_eq!((dirty.contains(&at), record), (true, Record { dirty: Dirty::All, ..given() }))
                }
                Err(error) => assert_eq!((dirty.contains(&at), error.code()), (false, Code::Corrupt), "{at}"),
            }
            assert!(Record::decode(&golden[..at]).is_err());
        }
    }

    #[test]
    fn a_record_is_the_golden_one_and_one_of_a_later_version_is_not_guessed_at() {
        // Made without this library.
        let golden = "72336d5201000400000000000707070707070707070707070707070740420f0000000000030000000000000009090909\
                      0909090909090909090909090300000000000000020000000000000005000000dd1ac88a09000000a4af03db00000000\
                      9c844b530201012632726567697374657273";
        let text: String = given().encode().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(text, golden);
        let mut later = given().encode();
        later[4] = 2;
        let crc = crc32c::crc32c(&later[..HEAD - 4]).to_le_bytes();
        later[HEAD - 4..HEAD].copy_from_slice(&crc);
        assert_eq!(Record::decode(&later).unwrap_err().code(), Code::Unsupported);
    }
}
