//! A bit for each page, in memory or in the journal of a cache; what was never set costs nothing to pass over.

use std::fs::File;
use std::ops::Range;
use std::sync::atomic::Ordering;

use crate::error::Result;
use crate::mapping::Words;
use crate::migration::Runs;
use crate::page::PAGE;

/// Pages behind one word.
const PER_WORD: u64 = 64;
/// Words behind one bit of the summary: a page of a file.
const PER_PART: usize = PAGE as usize / 8;

/// A set of pages that any thread may change.
pub struct Table {
    pages: u64,
    words: Words,
    /// Which parts may have a bit that is set.
    touched: Words,
}

impl Table {
    /// How many bytes of a file a table takes: whole pages.
    pub fn length(pages: u64) -> u64 {
        pages.div_ceil(PER_WORD * PER_PART as u64) * PAGE
    }

    /// No pages yet, kept in memory.
    pub fn in_memory(pages: u64) -> Result<Table> {
        let words = pages.div_ceil(PER_WORD) as usize;
        Ok(Table { pages, words: Words::zeroed(words)?, touched: Table::summary(words)? })
    }

    /// The pages that a file says, from an offset on; it changes as they do.
    pub fn of_file(file: &File, offset: u64, pages: u64) -> Result<Table> {
        let words = pages.div_ceil(PER_WORD) as usize;
        let table = Table { pages, words: Words::of_file(file, offset, words)?, touched: Table::summary(words)? };
        let set = table.words.iter().enumerate().filter(|(_, word)| word.load(Ordering::Relaxed) != 0);
        set.for_each(|(index, _)| table.touch(index));
        Ok(table)
    }

    fn summary(words: usize) -> Result<Words> {
        Words::zeroed(words.div_ceil(PER_PART * 64))
    }

    fn touch(&self, index: usize) {
        let part = (index / PER_PART) as u64;
        if !self.touched.has(part) {
            self.touched.set(part..part + 1);
        }
    }

    /// Adds pages.
    pub fn set(&self, pages: Range<u64>) {
        let mut index = (pages.start / PER_WORD) as usize;
        self.words.each(pages, |word, bits| {
            self.touch(index);
            if word.load(Ordering::SeqCst) & bits != bits {
                word.fetch_or(bits, Ordering::SeqCst);
            }
            index += 1;
        });
    }

    /// Takes pages out.
    pub fn clear(&self, pages: Range<u64>) {
        self.words.each(pages, |word, bits| {
            if word.load(Ordering::SeqCst) & bits != 0 {
                word.fetch_and(!bits, Ordering::SeqCst);
            }
        });
    }

    /// Whether all these pages are in it.
    pub fn has_all(&self, pages: Range<u64>) -> bool {
        let mut all = true;
        self.words.each(pages, |word, bits| all &= word.load(Ordering::SeqCst) & bits == bits);
        all
    }

    /// Whether a page is in it.
    pub fn has(&self, page: u64) -> bool {
        self.words.has(page)
    }

    /// The words that are not zero, with their places.
    pub fn words(&self) -> Vec<(usize, u64)> {
        let mut words = Vec::new();
        for part in (0..self.words.len().div_ceil(PER_PART)).filter(|part| self.touched.has(*part as u64)) {
            let from = part * PER_PART;
            let to = (from + PER_PART).min(self.words.len());
            let part = (from..to).map(|index| (index, self.words[index].load(Ordering::SeqCst)));
            words.extend(part.filter(|(_, word)| *word != 0));
        }
        words
    }

    /// Adds what such words say.
    pub fn add(&self, words: &[(usize, u64)]) {
        for (index, bits) in words {
            self.touch(*index);
            if self.words[*index].load(Ordering::SeqCst) & bits != *bits {
                self.words[*index].fetch_or(*bits, Ordering::SeqCst);
            }
        }
    }

    /// Takes out what such words say.
    pub fn remove(&self, words: &[(usize, u64)]) {
        for (index, bits) in words {
            if self.words[*index].load(Ordering::SeqCst) & bits != 0 {
                self.words[*index].fetch_and(!bits, Ordering::SeqCst);
            }
        }
    }

    /// The pages in it.
    pub fn runs(&self) -> Runs {
        self.runs_of(&self.words())
    }

    /// Takes all pages out, and says which.
    pub fn take(&self) -> Runs {
        let mut words = self.words();
        words.iter_mut().for_each(|(index, word)| *word = self.words[*index].swap(0, Ordering::SeqCst));
        self.runs_of(&words)
    }

    fn runs_of(&self, words: &[(usize, u64)]) -> Runs {
        let mut runs = Runs::default();
        words.iter().for_each(|(index, word)| runs.push_bits(*index as u64 * PER_WORD, *word, self.pages));
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_in_it_from_set_to_clear_wherever_they_lie() {
        let pages = 5_000_000;
        let table = Table::in_memory(pages).unwrap();
        table.set(10..200);
        table.set(pages - 1..pages);
        table.clear(64..128);
        let expected: Runs = [10..64, 128..200, pages - 1..pages].into_iter().collect();
        assert_eq!(table.runs(), expected);
        assert!(table.has_all(10..64) && !table.has_all(10..65) && table.has(pages - 1));
        let words = table.words();
        assert_eq!(table.take(), expected);
        assert!(table.runs().is_empty());
        table.add(&words);
        assert_eq!(table.runs(), expected);
        table.remove(&words);
        assert!(table.words().is_empty());
    }
}
