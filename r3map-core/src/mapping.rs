//! Memory that several threads read and write at once: the one module outside `device/` that touches raw
//! memory. Races on the bytes themselves are the users' own, as on any shared memory; they never move a
//! bound or a length.

use std::fs::File;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};

use crate::error::{Error, Result};

/// A mapped length of bytes.
pub struct Mapping {
    // `None` for a length of zero, which no kernel maps.
    map: Option<MmapRaw>,
}

impl Mapping {
    /// Maps the first `length` bytes of a file, shared, for reading and writing.
    pub fn of_file(file: &File, length: usize) -> Result<Mapping> {
        if length == 0 {
            return Ok(Mapping { map: None });
        }
        let map = MmapOptions::new().len(length).map_raw(file);
        Ok(Mapping { map: Some(map.map_err(|error| Error::io(format!("map {length} bytes"), error))?) })
    }

    /// How many bytes are mapped.
    pub fn len(&self) -> usize {
        self.map.as_ref().map_or(0, MmapRaw::len)
    }

    /// Copies `buffer.len()` bytes at `offset` out of the mapping.
    ///
    /// # Panics
    /// If they reach outside it.
    #[inline]
    pub fn read(&self, buffer: &mut [u8], offset: usize) {
        let Some(map) = self.checked(offset, buffer.len()) else { return };
        // SAFETY: the range lies inside the mapping (checked), and `buffer` is exclusive memory of ours.
        unsafe { std::ptr::copy_nonoverlapping(map.as_ptr().add(offset), buffer.as_mut_ptr(), buffer.len()) }
    }

    /// Copies `data` into the mapping at `offset`.
    ///
    /// # Panics
    /// If it reaches outside it.
    #[inline]
    pub fn write(&self, data: &[u8], offset: usize) {
        let Some(map) = self.checked(offset, data.len()) else { return };
        // SAFETY: as in `read`; a writer at the same time may leave a mix of both, as shared memory does.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), map.as_mut_ptr().add(offset), data.len()) }
    }

    #[inline]
    fn checked(&self, offset: usize, length: usize) -> Option<&MmapRaw> {
        assert!(offset.checked_add(length).is_some_and(|end| end <= self.len()));
        self.map.as_ref().filter(|_| length > 0)
    }
}

/// A table of atomic words that begin as zero and take memory only where they are written.
#[cfg_attr(feature = "shuttle", allow(dead_code))]
pub struct Words {
    map: Option<MmapRaw>,
    length: usize,
}

#[cfg_attr(feature = "shuttle", allow(dead_code))]
impl Words {
    /// A table of that many words.
    pub fn zeroed(length: usize) -> Result<Words> {
        if length == 0 {
            return Ok(Words { map: None, length });
        }
        let mut options = MmapOptions::new();
        let bytes = length * size_of::<AtomicU64>();
        let map = options.len(bytes).no_reserve_swap().map_anon();
        let map = map.map_err(|error| Error::io(format!("map {bytes} bytes of page states"), error))?;
        Ok(Words { map: Some(map.into()), length })
    }

    /// A table of that many words that is a file's bytes from `offset`, a whole page, on; the file is that long.
    pub fn of_file(file: &File, offset: u64, length: usize) -> Result<Words> {
        if length == 0 {
            return Ok(Words { map: None, length });
        }
        let bytes = length * size_of::<AtomicU64>();
        let map = MmapOptions::new().offset(offset).len(bytes).map_raw(file);
        let map = map.map_err(|error| Error::io(format!("map {bytes} bytes of a table"), error))?;
        Ok(Words { map: Some(map), length })
    }
}

/// As a set of bits, 64 a word.
impl Words {
    /// Sets the bits of a range.
    pub fn set(&self, bits: Range<u64>) {
        for bit in bits {
            self[(bit / 64) as usize].fetch_or(1 << (bit % 64), Ordering::Relaxed);
        }
    }

    /// Calls `change` for each word that has bits of a range, with those bits.
    pub fn each(&self, bits: Range<u64>, mut change: impl FnMut(&AtomicU64, u64)) {
        let mut at = bits.start;
        while at < bits.end {
            let count = (bits.end - at).min(64 - at % 64);
            change(&self[(at / 64) as usize], (u64::MAX >> (64 - count)) << (at % 64));
            at += count;
        }
    }

    /// Whether a bit is set.
    pub fn has(&self, bit: u64) -> bool {
        self[(bit / 64) as usize].load(Ordering::Relaxed) >> (bit % 64) & 1 == 1
    }
}

impl std::ops::Deref for Words {
    type Target = [AtomicU64];

    #[inline]
    fn deref(&self) -> &[AtomicU64] {
        match &self.map {
            None => &[],
            // SAFETY: the mapping is page-aligned, `length` words long (any bits are a valid AtomicU64), lives as long as `self`, and nothing reaches it but through this slice.
            Some(map) => unsafe { std::slice::from_raw_parts(map.as_ptr().cast(), self.length) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_zero_until_written_and_a_table_of_none_is_empty() {
        let words = Words::zeroed(1 << 20).unwrap();
        words[12345].store(7, Ordering::Relaxed);
        assert_eq!(words[12345].load(Ordering::Relaxed), 7);
        assert_eq!(words[12346].load(Ordering::Relaxed), 0);
        assert!(Words::zeroed(0).unwrap().is_empty());
    }
}
