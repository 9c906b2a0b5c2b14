//! A tape in a drive: one head, blocks that are found by their address, and filemarks.
//!
//! A record is written by one call. A sync writes a filemark, for which the drive writes out what it still holds; so
//! what lies before a filemark was durable. Each block and each filemark takes an address. Whatever is written ends the
//! tape behind it.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use super::drive::Drive;
use super::medium::{Found, Medium, Wanted, lock};
use super::record::{HEAD, LONGEST_CHUNK, Label};
use crate::error::{Code, Error, Result};

/// What a drive does. Positions are addresses.
pub(super) trait Deck: Send {
    /// Bytes of a block, or 0 where each is as long as what is written.
    fn block(&mut self) -> std::io::Result<u32>;
    fn tell(&mut self) -> std::io::Result<u64>;
    fn seek(&mut self, address: u64) -> std::io::Result<()>;
    /// Behind all that was written.
    fn seek_end(&mut self) -> std::io::Result<()>;
    /// Reads a block, or as many as there are bytes; none where there is a filemark.
    fn read(&mut self, block: &mut [u8]) -> std::io::Result<usize>;
    fn write(&mut self, block: &[u8]) -> std::io::Result<()>;
    /// Writes a filemark once everything before it is on the tape.
    fn mark(&mut self) -> std::io::Result<()>;
}

/// Bytes of the label where blocks may have any length.
const LABEL_BLOCK: usize = 512;

/// A tape in a drive.
pub(super) struct Reel<D> {
    first: u64,
    step: u64,
    head: Mutex<Position<D>>,
}

struct Position<D> {
    deck: D,
    /// Where the head is; none after an error.
    at: Option<u64>,
    /// Behind all that was written.
    end: u64,
    /// Behind the last filemark that was seen or written.
    marked: u64,
    /// A record.
    block: Vec<u8>,
}

impl Reel<Drive> {
    /// Opens a device file; a blank tape is given a label where the URL says a size. Says also whether it may only be read.
    pub fn open_device(path: &Path, wanted: &Wanted) -> Result<(Reel<Drive>, Label, bool)> {
        let open = |write| OpenOptions::new().read(true).write(write).open(path);
        let (file, read_only) = match open(true) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EROFS | libc::EPERM)) => {
                (open(false), true)
            }
            opened => (opened, false),
        };
        let file: File = file.map_err(|error| Error::io(format!("open {}", wanted.name), error))?;
        let deck = Drive::new(lock(file, read_only, wanted.name)?).map_err(|error| {
            let message = format!("{} is neither a file nor a tape drive ({error})", wanted.name);
            Error::new(Code::InvalidArgument, message)
        })?;
        let (reel, label) = Reel::open(deck, wanted, read_only)?;
        Ok((reel, label, read_only))
    }
}

impl<D: Deck> Reel<D> {
    /// The tape that is in a drive.
    pub fn open(mut deck: D, wanted: &Wanted, read_only: bool) -> Result<(Reel<D>, Label)> {
        let failed = |what: &str, error| Error::io(format!("{}: {what}", wanted.name), error);
        let block = deck.block().map_err(|error| failed("ask for its block size", error))?;
        if u64::from(block) > LONGEST_CHUNK {
            let message = format!("{}: its blocks of {block} bytes are too long: set others", wanted.name);
            return Err(Error::new(Code::Unsupported, message));
        }
        let mut top = vec![0; LABEL_BLOCK.next_multiple_of(block.max(1) as usize)];
        let end = deck.seek_end().and_then(|()| deck.tell()).map_err(|error| failed("look for its end", error))?;
        let mut marked = 0;
        let (label, end) = match wanted.fresh(block)? {
            Some(label) if end == 0 && !read_only => {
                top[..HEAD].copy_from_slice(&label.encode());
                let written = deck.write(&top).and_then(|()| deck.mark());
                written.map_err(|error| failed("write its label", error))?;
                marked = deck.tell().map_err(|error| failed("ask for its position", error))?;
                (label, marked)
            }
            _ if end == 0 => return Err(wanted.blank()),
            _ => {
                let read = deck.seek(0).and_then(|()| deck.read(&mut top));
                let length = read.map_err(|error| failed("read its label", error))?;
                (wanted.agree(&top[..length.min(top.len())])?, end)
            }
        };
        if label.block != block {
            let message = format!(
                "{}: the tape was written in blocks of {} bytes, the drive is set to {block} (0 is any length)",
                wanted.name, label.block
            );
            return Err(Error::new(
                Code::InvalidArgument,
                format!("{message}: set it with `mt setblk {}`", label.block),
            ));
        }
        let blocks = |bytes: usize| if block == 0 { 1 } else { bytes as u64 / u64::from(block) };
        let (first, step) = (blocks(top.len()), blocks(label.stride()));
        let at = deck.tell().map_err(|error| failed("ask for its position", error))?;
        // Behind the label, or behind that and the mark.
        if at != first + u64::from(marked > 0) {
            let message = format!("{}: behind its label the drive says to be at {at}: set it", wanted.name);
            return Err(Error::new(Code::Unsupported, format!("{message} with `mt stsetoptions scsi2logical`")));
        }
        let head = Position { deck, at: Some(at), end, marked, block: vec![0; label.stride()] };
        Ok((Reel { first, step, head: Mutex::new(head) }, label))
    }

    fn head(&self) -> MutexGuard<'_, Position<D>> {
        self.head.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl<D: Deck> Position<D> {
    fn go_to(&mut self, address: u64) -> std::io::Result<()> {
        if self.at != Some(address) {
            self.at = None;
            self.deck.seek(address)?;
            self.at = Some(address);
        }
        Ok(())
    }
}

impl<D: Deck> Medium for Reel<D> {
    fn first(&self) -> u64 {
        self.first
    }

    fn step(&self) -> u64 {
        self.step
    }

    fn durable(&self) -> u64 {
        self.first
    }

    fn look(&self, address: u64, record: &mut [u8]) -> Result<Found> {
        let head = &mut *self.head();
        if address >= head.end {
            return Ok(Found::End);
        }
        let read = head.go_to(address).and_then(|()| head.deck.read(&mut head.block));
        head.at = None;
        match read {
            Ok(0) => {
                head.at = Some(address + 1);
                head.marked = head.marked.max(address + 1);
                Ok(Found::Mark)
            }
            Ok(length) if length == head.block.len() => {
                head.at = Some(address + self.step);
                record.copy_from_slice(&head.block[..record.len()]);
                Ok(Found::Record)
            }
            Ok(length) => {
                let message = format!("the block at {address} has {length} of {} bytes", head.block.len());
                Ok(Found::Unreadable(Error::new(Code::Corrupt, message)))
            }
            Err(error) => Ok(Found::Unreadable(Error::io(format!("read the block at {address}"), error))),
        }
    }

    fn append(&self, address: u64, record: &[u8]) -> Result<()> {
        let head = &mut *self.head();
        head.block[..record.len()].copy_from_slice(record);
        head.block[record.len()..].fill(0);
        let written = head.go_to(address).and_then(|()| head.deck.write(&head.block));
        head.at = None;
        written.map_err(|error| Error::io(format!("append a block at {address}"), error))?;
        (head.at, head.end) = (Some(address + self.step), address + self.step);
        Ok(())
    }

    fn sync(&self, end: u64) -> Result<u64> {
        let head = &mut *self.head();
        if head.marked == end && head.end == end {
            return Ok(end);
        }
        let marked = head.go_to(end).and_then(|()| head.deck.mark());
        head.at = None;
        marked.map_err(|error| Error::io(format!("write a filemark at {end}"), error))?;
        (head.at, head.end, head.marked) = (Some(end + 1), end + 1, end + 1);
        Ok(end + 1)
    }

    fn cut(&self, end: u64) -> Result<()> {
        // What is written there next ends the tape behind it.
        self.head().end = end;
        Ok(())
    }

    fn buffers(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    //! No drive stands behind these: a model of one does, blocks and filemarks in a row.

    use std::io;
    use std::sync::Arc;

    use super::super::index::{End, Index, Place};
    use super::super::record::{Head, Kind};
    use super::super::scan::scan;
    use super::*;

    /// What lies on the tape: blocks, filemarks (none), and blocks that cannot be read.
    type Objects = Arc<Mutex<Vec<io::Result<Vec<u8>>>>>;

    struct Model {
        objects: Objects,
        at: usize,
        block: u32,
    }

    impl Model {
        fn put(&mut self, object: Vec<u8>) {
            let mut objects = self.objects.lock().unwrap();
            objects.truncate(self.at);
            objects.push(Ok(object));
            self.at += 1;
        }
    }

    impl Deck for Model {
        fn block(&mut self) -> io::Result<u32> {
            Ok(self.block)
        }
        fn tell(&mut self) -> io::Result<u64> {
            Ok(self.at as u64)
        }
        fn seek(&mut self, address: u64) -> io::Result<()> {
            self.at = address as usize;
            if self.at <= self.objects.lock().unwrap().len() { Ok(()) } else { Err(io::Error::other("no such block")) }
        }
        fn seek_end(&mut self) -> io::Result<()> {
            self.at = self.objects.lock().unwrap().len();
            Ok(())
        }
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let objects = self.objects.lock().unwrap();
            let mut length = 0;
            while length < buffer.len() {
                match objects.get(self.at) {
                    Some(Ok(object)) if object.is_empty() && length == 0 => {
                        self.at += 1;
                        return Ok(0);
                    }
                    Some(Ok(object)) if !object.is_empty() => {
                        let object = &object[..object.len().min(buffer.len() - length)];
                        buffer[length..length + object.len()].copy_from_slice(object);
                        length += object.len();
                        self.at += 1;
                    }
                    Some(Ok(_)) => break,
                    Some(Err(_)) | None => return Err(io::Error::other("this block cannot be read")),
                }
                if self.block == 0 {
                    break;
                }
            }
            Ok(length)
        }
        fn write(&mut self, data: &[u8]) -> io::Result<()> {
            match self.block as usize {
                0 => self.put(data.to_vec()),
                block => {
                    assert_eq!(data.len() % block, 0, "whole blocks");
                    data.chunks(block).for_each(|block| self.put(block.to_vec()));
                }
            }
            Ok(())
        }
        fn mark(&mut self) -> io::Result<()> {
            self.put(Vec::new());
            Ok(())
        }
    }

    const FRESH: Wanted = Wanted { name: "a model", size: Some(100_000), chunk: Some(4096) };
    const THERE: Wanted = Wanted { name: "a model", size: None, chunk: None };

    fn load(objects: &Objects, block: u32, wanted: &Wanted) -> Result<(Reel<Model>, Label)> {
        Reel::open(Model { objects: objects.clone(), at: 0, block }, wanted, false)
    }

    fn found(reel: &Reel<Model>, label: &Label) -> super::super::scan::Scanned {
        let begin = End { address: reel.first(), ..End::default() };
        scan(reel, label, Index::new(reel.step()), begin).unwrap()
    }

    fn append(reel: &Reel<Model>, label: &Label, end: &mut End, chunk: u64) {
        let data = vec![chunk as u8; label.length(chunk) as usize];
        let kind = Kind::Data { chunk, crc: crc32c::crc32c(&data) };
        let head = Head { number: end.number, prior: end.prior, kind };
        let mut record = head.encode(label).to_vec();
        record.extend(data);
        reel.append(end.address, &record).unwrap();
        let next = End { address: end.address + reel.step(), number: end.number + 1, ..*end };
        *end = End { prior: head.crc(label), last: end.address, ..next };
    }

    #[test]
    fn what_a_tape_holds_is_found_between_filemarks_in_blocks_of_any_and_of_one_length() {
        for block in [0, 512, 1024, 8192] {
            let objects = Objects::default();
            assert_eq!(load(&objects, block, &THERE).err().unwrap().code(), Code::InvalidArgument);
            let (reel, label) = load(&objects, block, &FRESH).unwrap();
            let mut end = found(&reel, &label).end;
            for round in 0..3 {
                for chunk in [round, round + 1, 24] {
                    append(&reel, &label, &mut end, chunk);
                }
                end.address = reel.sync(end.address).unwrap();
                assert_eq!(reel.sync(end.address).unwrap(), end.address, "one filemark is enough");
            }
            let (reel, label) = load(&objects, block, &THERE).unwrap();
            let there = found(&reel, &label);
            assert_eq!((there.end, there.durable, there.torn), (end, end.address, None), "{block}");
            let mut record = vec![0; label.stride()];
            for chunk in 0..25 {
                match there.index.find(chunk).0 {
                    Place::At(address) => {
                        assert!(matches!(reel.look(address, &mut record).unwrap(), Found::Record));
                        let head = Head::decode(&record, &label).unwrap();
                        assert!(head.payload(&record, &label).unwrap().iter().all(|byte| *byte == chunk as u8));
                    }
                    place => assert!(place == Place::Unwritten && (4..24).contains(&chunk), "{chunk}: {place:?}"),
                }
            }
            let other = load(&objects, block + 512, &THERE).err().unwrap();
            assert!(matches!(other.code(), Code::InvalidArgument | Code::Corrupt), "{other}");
        }
    }

    #[test]
    fn an_unreadable_block_before_a_filemark_is_damage_and_behind_the_last_one_the_end() {
        for block in [0, 1024] {
            let objects = Objects::default();
            let (reel, label) = load(&objects, block, &FRESH).unwrap();
            let mut end = found(&reel, &label).end;
            (0..3).for_each(|chunk| append(&reel, &label, &mut end, chunk));
            let damaged = end.last;
            end.address = reel.sync(end.address).unwrap();
            (3..6).for_each(|chunk| append(&reel, &label, &mut end, chunk));
            let torn = end.last - reel.step();
            for address in [damaged, torn] {
                objects.lock().unwrap()[address as usize] = Err(io::Error::other("damaged"));
            }
            let (reel, label) = load(&objects, block, &THERE).unwrap();
            let mut there = found(&reel, &label);
            assert!(there.torn.is_some() && there.end.address == torn && there.end.number == 4, "{:?}", there.end);
            assert_eq!(there.index.find(3).0, Place::At(torn - reel.step()));
            for chunk in [0, 2, 4, 5, 9] {
                assert_eq!(there.index.find(chunk).0, Place::Doubtful, "{chunk}");
            }
            reel.cut(torn).unwrap();
            append(&reel, &label, &mut there.end, 2);
            reel.sync(there.end.address).unwrap();
            let (reel, label) = load(&objects, block, &THERE).unwrap();
            let again = found(&reel, &label);
            assert_eq!((again.torn, again.index.find(2).0), (None, Place::At(torn)));
        }
    }
}
