//! Which pages of a file are those of the region that moves there: a map that survives the death of this process, and
//! that of its host.
//!
//! Beside `<file>` lies `<file>.r3map.pages`: a page that says what the map is of, then two tables with a bit a page.
//! The first follows each page that lands and each write of the app as it happens: it lies in the kernel's memory as
//! the bytes do, so both are there after a kill, and neither can be trusted after another boot. The second has the
//! pages of the first as it was before the last fdatasync of the bytes: it is trusted after a boot.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::mapping::Words;
use crate::migration::Runs;
use crate::page::PAGE;
use crate::region::Ledger;
use crate::wire::Identity;

const MAGIC: [u8; 8] = *b"r3mP\x01\0\0\0";
/// Bytes of the head that mean something: magic, identity, pages, boot, checksum.
const HEAD: usize = 8 + 16 + 8 + 16 + 4;
const PER_WORD: u64 = 64;

/// The map of one region's pages.
pub struct PageMap {
    path: PathBuf,
    file: File,
    pages: u64,
    /// What is in the file, as far as its kernel knows.
    here: Words,
    /// What of that is durable.
    durable: Words,
    /// Whether something came here since the last [`synced`](PageMap::synced) began.
    grown: AtomicBool,
}

/// What a map says that was there before.
pub struct Found {
    /// The pages that are in the file.
    pub pages: Runs,
}

impl PageMap {
    /// The map beside a file: the one that is there if it is of this region, else a new one of no pages.
    pub fn open(beside: &Path, identity: Identity, pages: u64, boot: Identity) -> Result<(PageMap, Option<Found>)> {
        let mut name = beside.as_os_str().to_owned();
        name.push(".r3map.pages");
        let path = PathBuf::from(name);
        let table = pages.div_ceil(PER_WORD * 512) * PAGE;
        let length = PAGE + 2 * table;
        let failed = |error| Error::io(format!("keep a map of pages in {}", path.display()), error);
        let mut open = OpenOptions::new();
        open.read(true).write(true).mode(0o600);
        let (file, old) = match open.open(&path) {
            Ok(file) => {
                let boot_then = head(&file, identity, pages)
                    .filter(|_| file.metadata().is_ok_and(|metadata| metadata.len() == length));
                (file, boot_then)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                (open.create_new(true).open(&path).map_err(failed)?, None)
            }
            Err(error) => return Err(failed(error)),
        };
        if old.is_none() {
            file.set_len(0).map_err(failed)?;
            // All of it now: a disk that is full later must not be a fault in a mapping.
            let made = nix::fcntl::fallocate(&file, nix::fcntl::FallocateFlags::empty(), 0, length as i64);
            made.or_else(|_| zeros(&file, length)).map_err(failed)?;
        }
        let words = pages.div_ceil(PER_WORD) as usize;
        let here = Words::of_file(&file, PAGE, words)?;
        let durable = Words::of_file(&file, PAGE + table, words)?;
        if old.is_some_and(|then| then != boot) {
            here.iter().zip(durable.iter()).for_each(|(here, durable)| {
                here.store(durable.load(Ordering::Relaxed), Ordering::Relaxed);
            });
        }
        let map = PageMap { path: path.clone(), file, pages, here, durable, grown: AtomicBool::new(true) };
        // The tables before the head that says whose they are.
        map.flush()?;
        map.file.write_all_at(&encode(identity, pages, boot), 0).map_err(failed)?;
        map.flush()?;
        let found = old.is_some().then(|| Found { pages: map.runs() });
        Ok((map, found))
    }

    /// Begins anew with no pages.
    pub fn clear(&self) {
        self.gone(0..self.pages);
    }

    /// Takes down what is here, then lets `sync` make the bytes durable, then that they are.
    pub fn synced(&self, sync: impl FnOnce() -> Result<()>) -> Result<()> {
        if !self.grown.swap(false, Ordering::SeqCst) {
            return sync();
        }
        let before: Vec<u64> = self.here.iter().map(|word| word.load(Ordering::SeqCst)).collect();
        let outcome = sync().and_then(|()| {
            for (word, bits) in self.durable.iter().zip(&before) {
                if word.load(Ordering::Relaxed) | bits != word.load(Ordering::Relaxed) {
                    word.fetch_or(*bits, Ordering::SeqCst);
                }
            }
            self.flush()
        });
        if outcome.is_err() {
            self.grown.store(true, Ordering::SeqCst);
        }
        outcome
    }

    /// Makes the map as it is durable.
    pub fn flush(&self) -> Result<()> {
        self.file.sync_data().map_err(|error| Error::io(format!("sync {}", self.path.display()), error))
    }

    /// Takes the map away: all pages are here, and the record says so.
    pub fn remove(&self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            if error.kind() != ErrorKind::NotFound {
                tracing::warn!(path = %self.path.display(), %error, "a map of pages that is of no more use stays");
            }
        }
    }

    fn runs(&self) -> Runs {
        let mut runs = Runs::default();
        for (index, word) in self.here.iter().enumerate() {
            runs.push_bits(index as u64 * PER_WORD, word.load(Ordering::Relaxed), self.pages);
        }
        runs
    }
}

impl Ledger for PageMap {
    fn here(&self, pages: Range<u64>) {
        self.here.each(pages, |word, bits| {
            word.fetch_or(bits, Ordering::SeqCst);
        });
        if !self.grown.load(Ordering::Relaxed) {
            self.grown.store(true, Ordering::SeqCst);
        }
    }

    fn gone(&self, pages: Range<u64>) {
        // Looked at first: a table that was never written stays unwritten.
        let clear = |word: &AtomicU64, bits: u64| {
            if word.load(Ordering::SeqCst) & bits != 0 {
                word.fetch_and(!bits, Ordering::SeqCst);
            }
        };
        self.here.each(pages.clone(), clear);
        self.durable.each(pages, clear);
    }
}

fn encode(identity: Identity, pages: u64, boot: Identity) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD);
    bytes.extend(MAGIC);
    bytes.extend(identity);
    bytes.extend(pages.to_le_bytes());
    bytes.extend(boot);
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

/// The boot in which the map was last opened, if it is one of this region.
fn head(file: &File, identity: Identity, pages: u64) -> Option<Identity> {
    let mut bytes = [0; HEAD];
    file.read_exact_at(&mut bytes, 0).ok()?;
    let boot: Identity = bytes[32..48].try_into().ok()?;
    (bytes[..] == encode(identity, pages, boot)[..]).then_some(boot)
}

fn zeros(file: &File, length: u64) -> std::io::Result<()> {
    let block = [0; PAGE as usize];
    (0..length / PAGE).try_for_each(|page| file.write_all_at(&block, page * PAGE))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGION: Identity = [7; 16];
    const BOOT: Identity = [1; 16];
    const PAGES: u64 = 100_000;

    fn place(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("r3map-pages-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(path.with_extension("r3map.pages"));
        path
    }

    fn found(path: &Path, boot: Identity) -> Runs {
        PageMap::open(path, REGION, PAGES, boot).unwrap().1.unwrap().pages
    }

    fn runs<const N: usize>(ranges: [Range<u64>; N]) -> Runs {
        ranges.into_iter().collect()
    }

    #[test]
    fn in_the_same_boot_all_that_was_here_is_found_and_in_another_only_what_was_synced() {
        let path = place("boots");
        let (map, none) = PageMap::open(&path, REGION, PAGES, BOOT).unwrap();
        assert!(none.is_none());
        map.here(10..200);
        map.synced(|| Ok(())).unwrap();
        map.here(64..65);
        map.here(PAGES - 1..PAGES);
        map.gone(100..110);
        drop(map);
        assert_eq!(found(&path, BOOT), runs([10..100, 110..200, PAGES - 1..PAGES]));
        assert_eq!(found(&path, [2; 16]), runs([10..100, 110..200]));
        let (map, _) = PageMap::open(&path, REGION, PAGES, [2; 16]).unwrap();
        map.remove();
        assert!(PageMap::open(&path, REGION, PAGES, BOOT).unwrap().1.is_none());
        PageMap::open(&path, REGION, PAGES, BOOT).unwrap().0.remove();
    }

    #[test]
    fn what_comes_while_the_bytes_are_synced_is_not_yet_durable() {
        let path = place("while");
        let (map, _) = PageMap::open(&path, REGION, PAGES, BOOT).unwrap();
        map.here(0..1);
        map.synced(|| {
            map.here(1..2);
            Ok(())
        })
        .unwrap();
        drop(map);
        assert_eq!(found(&path, [2; 16]), Runs::all(1));
        let (map, _) = PageMap::open(&path, REGION, PAGES, [2; 16]).unwrap();
        map.here(5..6);
        assert!(map.synced(|| Err(Error::new(crate::Code::Io, "the disk is gone"))).is_err());
        drop(map);
        assert_eq!(found(&path, [3; 16]), Runs::all(1));
        PageMap::open(&path, REGION, PAGES, BOOT).unwrap().0.remove();
    }

    #[test]
    fn a_map_of_another_region_or_size_or_a_damaged_one_is_begun_anew() {
        let path = place("other");
        let (map, _) = PageMap::open(&path, REGION, PAGES, BOOT).unwrap();
        map.here(0..9);
        drop(map);
        assert!(PageMap::open(&path, [8; 16], PAGES, BOOT).unwrap().1.is_none());
        assert!(PageMap::open(&path, [8; 16], PAGES + 1, BOOT).unwrap().1.is_none());
        let (map, _) = PageMap::open(&path, REGION, PAGES, BOOT).unwrap();
        map.here(0..9);
        map.file.write_all_at(b"x", 3).unwrap();
        drop(map);
        assert!(PageMap::open(&path, REGION, PAGES, BOOT).unwrap().1.is_none());
        PageMap::open(&path, REGION, PAGES, BOOT).unwrap().0.remove();
    }
}
