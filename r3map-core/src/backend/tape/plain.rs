//! A plain file as a tape.
//!
//! Its first 4096 bytes are the label and two slots, behind which records lie, one after another. A sync says in one slot
//! after the other how many records are durable: what lies before and cannot be read was damaged; what lies behind may
//! be a write that was cut off.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;

use nix::fcntl::Flock;

use super::medium::{Found, Medium, Wanted, lock};
use super::record::Label;
use crate::error::{Code, Error, Result};
use crate::migration::fields::Fields;

/// Where records begin.
const RECORDS: u64 = 4096;
const SLOTS: [u64; 2] = [1024, 2048];
const SLOT: usize = 12;
/// Records are a multiple of this, a disk's sector.
const BLOCK: u32 = 512;

/// A file, locked. Addresses are the numbers of records.
pub(super) struct Plain {
    file: Flock<File>,
    label: Label,
    slots: Mutex<Slots>,
}

/// How many records are durable, and which slot says so next.
#[derive(Clone, Copy)]
struct Slots {
    durable: u64,
    next: usize,
}

impl Plain {
    /// Opens the file; one that is missing or empty becomes a tape where the URL gives a size. Says also whether it may
    /// only be read.
    pub fn open(path: &Path, wanted: &Wanted) -> Result<(Plain, Label, bool)> {
        let name = wanted.name;
        let failed = |what: &str, error| Error::io(format!("{what} {name}"), error);
        let fresh = wanted.fresh(BLOCK)?;
        let open = |write| OpenOptions::new().read(true).write(write).create(write && fresh.is_some()).open(path);
        let (file, read_only) = match open(true) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EROFS | libc::EPERM)) => {
                (open(false), true)
            }
            opened => (opened, false),
        };
        let file = lock(file.map_err(|error| failed("open", error))?, read_only, name)?;
        let length = file.metadata().map_err(|error| failed("look at", error))?.len();
        let mut top = vec![0; length.min(RECORDS) as usize];
        file.read_exact_at(&mut top, 0).map_err(|error| failed("read", error))?;
        // A crash may have come between the making of a file and its label.
        let is_fresh = length <= RECORDS && top.iter().all(|byte| *byte == 0);
        let label = match fresh {
            _ if !is_fresh => wanted.agree(&top)?,
            Some(label) if !read_only => {
                begin(&file, path, &label).map_err(|error| failed("write the label of", error))?;
                label
            }
            _ => return Err(wanted.blank()),
        };
        if label.block != BLOCK {
            let message = format!("{name}: it was copied from a drive: copy it by its region, with `r3map copy`");
            return Err(Error::new(Code::Unsupported, message));
        }
        let (slots, length) = (Slots::read(&top, &label), file.metadata().map_or(0, |metadata| metadata.len()));
        let records = length.saturating_sub(RECORDS) / label.stride() as u64;
        if slots.durable > records || length < RECORDS {
            let message = format!("{name}: it ends after {records} of {} records that were synced", slots.durable);
            return Err(Error::new(
                Code::Corrupt,
                format!("{message}, so that any byte may be an old one: restore it"),
            ));
        }
        Ok((Plain { file, label, slots: Mutex::new(slots) }, label, read_only))
    }

    /// Where a record begins in the file.
    fn place(&self, address: u64) -> Result<u64> {
        let stride = self.label.stride() as u64;
        let place = address.checked_mul(stride).and_then(|place| place.checked_add(RECORDS));
        place
            .filter(|place| *place < i64::MAX as u64 - stride)
            .ok_or_else(|| Error::new(Code::OutOfRange, format!("record {address} lies behind the longest file")))
    }
}

/// Writes the top of a file, so that it is there after a crash.
fn begin(file: &File, path: &Path, label: &Label) -> std::io::Result<()> {
    let mut top = label.encode().to_vec();
    top.resize(RECORDS as usize, 0);
    file.write_all_at(&top, 0)?;
    file.sync_all()?;
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

impl Slots {
    fn read(top: &[u8], label: &Label) -> Slots {
        let [first, second] = SLOTS.map(|at| {
            let slot = top.get(at as usize..at as usize + SLOT)?;
            let number = Fields::new(slot, "a slot").u64().ok()?;
            (Slots::encode(number, label)[..] == *slot).then_some(number)
        });
        // The one that says less is the next to be written.
        Slots { durable: first.max(second).unwrap_or(0), next: (first > second).into() }
    }

    fn encode(number: u64, label: &Label) -> [u8; SLOT] {
        let mut slot = [0; SLOT];
        slot[..8].copy_from_slice(&number.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&label.id), &slot[..8]);
        slot[8..].copy_from_slice(&crc.to_le_bytes());
        slot
    }
}

impl Medium for Plain {
    fn first(&self) -> u64 {
        0
    }

    fn step(&self) -> u64 {
        1
    }

    fn durable(&self) -> u64 {
        self.slots.lock().unwrap_or_else(|e| e.into_inner()).durable
    }

    fn look(&self, address: u64, record: &mut [u8]) -> Result<Found> {
        let place = self.place(address)?;
        let length = self.file.metadata().map_err(|error| Error::io("look at the file", error))?.len();
        if place >= length {
            return Ok(Found::End);
        }
        if place + self.label.stride() as u64 > length {
            return Ok(Found::Unreadable(Error::new(Code::Corrupt, format!("record {address} ends early"))));
        }
        Ok(match self.file.read_exact_at(record, place) {
            Ok(()) => Found::Record,
            Err(error) => Found::Unreadable(Error::io(format!("read record {address}"), error)),
        })
    }

    fn append(&self, address: u64, record: &[u8]) -> Result<()> {
        let place = self.place(address)?;
        let failed = |error| Error::io(format!("append record {address}"), error);
        self.file.write_all_at(record, place).map_err(failed)?;
        // The rest is a hole, in the place also of what an append that failed left.
        match self.label.stride() {
            stride if record.len() < stride => self.file.set_len(place + stride as u64).map_err(failed),
            _ => Ok(()),
        }
    }

    fn sync(&self, end: u64) -> Result<u64> {
        self.file.sync_data().map_err(|error| Error::io("sync", error))?;
        let mut slots = self.slots.lock().unwrap_or_else(|e| e.into_inner());
        if slots.durable != end {
            let slot = Slots::encode(end, &self.label);
            let written = self.file.write_all_at(&slot, SLOTS[slots.next]);
            written.map_err(|error| Error::io("write down what was synced", error))?;
            *slots = Slots { durable: end, next: 1 - slots.next };
        }
        Ok(end)
    }

    fn cut(&self, end: u64) -> Result<()> {
        let place = self.place(end)?;
        // Durably, before anything is appended: else the rest might come back behind it.
        let cut = self.file.set_len(place).and_then(|()| self.file.sync_all());
        cut.map_err(|error| Error::io(format!("cut the file at record {end}"), error))
    }

    fn buffers(&self) -> bool {
        false
    }
}
