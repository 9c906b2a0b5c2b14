//! The order in which a region's pages were first accessed: recorded while a mount is used, kept in a file, and pulled
//! first by a later mount.
//!
//! A file is a head {magic, version, page size, region's size, number of runs, CRC32C of the runs, CRC32C of the head},
//! and the runs: how far each begins from the end of the one before, zigzag, and how many pages it has, as varints.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use crate::error::{Code, Error, Result};
use crate::migration::fields::{Fields, put_varint};
use crate::page::PAGE;
use crate::sync::Words;
use crate::sync::atomic::Ordering;

const MAGIC: [u8; 8] = *b"r3mtrace";
const VERSION: u32 = 1;
/// Bytes of the head.
const HEAD: usize = 36;
/// Runs of a trace at most: a file of more is refused, and more are not recorded.
const MOST_RUNS: usize = 4 << 20;
/// Bytes of a run at most.
const LONGEST_RUN: usize = 20;

/// Records first accesses.
pub struct Recorder {
    /// Whether a page was accessed: a bit each.
    seen: Words,
    runs: Mutex<Vec<Range<u64>>>,
}

impl Recorder {
    /// Of a region of so many pages, none of which was accessed.
    pub fn new(pages: u64) -> Result<Recorder> {
        Ok(Recorder { seen: Words::zeroed(pages.div_ceil(64) as usize)?, runs: Mutex::default() })
    }

    /// These pages are accessed now.
    #[inline]
    pub fn access(&self, pages: Range<u64>) {
        let mut page = pages.start;
        while page < pages.end {
            let count = (pages.end - page).min(64 - page % 64);
            let bits = (u64::MAX >> (64 - count)) << (page % 64);
            if self.seen[(page / 64) as usize].load(Ordering::Relaxed) & bits != bits {
                self.first(page, bits);
            }
            page += count;
        }
    }

    /// Some of the pages of this word are accessed for the first time.
    #[cold]
    fn first(&self, page: u64, bits: u64) {
        let mut fresh = bits & !self.seen[(page / 64) as usize].fetch_or(bits, Ordering::Relaxed);
        let mut runs = self.runs();
        while fresh != 0 {
            let start = fresh.trailing_zeros();
            let count = (!(fresh >> start)).trailing_zeros();
            fresh &= !((u64::MAX >> (64 - count)) << start);
            let start = page / 64 * 64 + u64::from(start);
            let is_full = runs.len() == MOST_RUNS;
            match runs.last_mut() {
                Some(last) if last.end == start => last.end += u64::from(count),
                _ if is_full => {}
                _ => runs.push(start..start + u64::from(count)),
            }
        }
    }

    fn runs(&self) -> MutexGuard<'_, Vec<Range<u64>>> {
        self.runs.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Replaces the file by what was recorded until now, of a region of `size` bytes; durable when this returns.
    pub fn save(&self, size: u64, path: &Path) -> Result<()> {
        let bytes = encode(size, &self.runs());
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(".new");
        let open = OpenOptions::new().write(true).create(true).truncate(true).open(&fresh);
        let saved = open.and_then(|mut file| {
            file.write_all(&bytes)?;
            file.sync_data()?;
            std::fs::rename(&fresh, path)?;
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
        });
        saved.map_err(|error| Error::io(format!("write the trace {}", path.display()), error))
    }
}

/// The runs of a trace of a region of `size` bytes.
pub fn load(path: &Path, size: u64) -> Result<Vec<Range<u64>>> {
    let failed = |error| Error::io(format!("read the trace {}", path.display()), error);
    let mut bytes = Vec::new();
    let longest = (HEAD + MOST_RUNS * LONGEST_RUN) as u64;
    File::open(path).map_err(failed)?.take(longest + 1).read_to_end(&mut bytes).map_err(failed)?;
    decode(&bytes, size).map_err(|error| error.context(path.display()))
}

/// A trace as it is kept.
pub fn encode(size: u64, runs: &[Range<u64>]) -> Vec<u8> {
    let mut body = Vec::with_capacity(runs.len() * 4);
    let mut end = 0;
    for run in runs {
        let distance = run.start as i64 - end as i64;
        put_varint(&mut body, (distance << 1 ^ distance >> 63) as u64);
        put_varint(&mut body, run.end - run.start);
        end = run.end;
    }
    let mut bytes = Vec::with_capacity(HEAD + body.len());
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((PAGE as u32).to_le_bytes());
    bytes.extend(size.to_le_bytes());
    bytes.extend((runs.len() as u32).to_le_bytes());
    bytes.extend(crc32c::crc32c(&body).to_le_bytes());
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    bytes.extend(body);
    bytes
}

/// The runs of a trace that was read, of a region of `size` bytes.
pub fn decode(bytes: &[u8], size: u64) -> Result<Vec<Range<u64>>> {
    let corrupt = |why: &str| Error::new(Code::Corrupt, format!("this is no trace that can be used: {why}"));
    let mut fields = Fields::new(bytes, "a trace");
    if fields.bytes(8)? != MAGIC {
        return Err(corrupt("it was not written by trace_save"));
    }
    let (version, page, of, count) = (fields.u32()?, fields.u32()?, fields.u64()?, fields.u32()? as usize);
    let body_crc = fields.u32()?;
    if fields.u32()? != crc32c::crc32c(&bytes[..HEAD - 4]) {
        return Err(corrupt("its head is damaged"));
    }
    if (version, page) != (VERSION, PAGE as u32) {
        let message =
            format!("a trace of version {version} in pages of {page} bytes is not known here: record it anew");
        return Err(Error::new(Code::Unsupported, message));
    }
    if of != size {
        let message =
            format!("this is the trace of a region of {of} bytes, and the region has {size}: record one of it");
        return Err(Error::new(Code::InvalidArgument, message));
    }
    // Each run has two bytes at least.
    if count > MOST_RUNS || count * 2 > fields.left() || crc32c::crc32c(&bytes[HEAD..]) != body_crc {
        return Err(corrupt("its runs are damaged"));
    }
    let pages = size.div_ceil(PAGE);
    let mut runs = Vec::with_capacity(count);
    let mut end = 0u64;
    for _ in 0..count {
        let (distance, length) = (fields.varint()?, fields.varint()?);
        let distance = (distance >> 1) as i64 ^ -((distance & 1) as i64);
        let run = end.checked_add_signed(distance).and_then(|start| Some(start..start.checked_add(length)?));
        let run = run.filter(|run| run.start < run.end && run.end <= pages);
        let run = run.ok_or_else(|| corrupt("a run lies outside the region"))?;
        end = run.end;
        runs.push(run);
    }
    if fields.left() > 0 {
        return Err(corrupt("something follows its runs"));
    }
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1000 * PAGE - 5;

    #[test]
    fn first_accesses_are_recorded_in_their_order_and_no_others() {
        let recorder = Recorder::new(1000).unwrap();
        for pages in [500..501, 3..4, 4..9, 3..12, 60..200, 100..101, 500..503, 999..1000] {
            recorder.access(pages);
        }
        assert_eq!(*recorder.runs(), [500..501, 3..12, 60..200, 501..503, 999..1000]);
    }

    #[test]
    fn a_trace_reads_as_it_was_written() {
        let runs = vec![500..501, 3..12, 999..1000, 0..1, 60..200];
        assert_eq!(decode(&encode(SIZE, &runs), SIZE).unwrap(), runs);
        assert_eq!(decode(&encode(0, &[]), 0).unwrap(), []);
    }

    #[test]
    fn a_trace_that_is_cut_damaged_or_of_another_region_is_refused() {
        let whole = encode(SIZE, &[500..501, 3..12, 60..200]);
        for end in 0..whole.len() {
            assert_eq!(decode(&whole[..end], SIZE).unwrap_err().code(), Code::Corrupt, "{end}");
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 4;
            assert_eq!(decode(&damaged, SIZE).unwrap_err().code(), Code::Corrupt, "{at}");
        }
        let other = decode(&whole, SIZE + PAGE).unwrap_err();
        assert_eq!(other.code(), Code::InvalidArgument);
        // Right by its sums, and about pages that are not there.
        for runs in [vec![0..1001], vec![4..4], vec![1000..1001]] {
            assert_eq!(decode(&encode(SIZE, &runs), SIZE).unwrap_err().code(), Code::Corrupt);
        }
    }
}
