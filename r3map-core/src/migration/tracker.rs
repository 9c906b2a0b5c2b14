//! Which pages were written while a destination pulls: a bit a page, taken in rounds.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use crate::error::Result;
use crate::migration::runs::{MAX_ENCODED, Runs};
use crate::page::PAGE;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use crate::sync::{Mutex, MutexGuard, Words};

const PER_WORD: u64 = 64;
/// Words behind one word of the summary.
const PER_SUMMARY: usize = 64;

/// The pages written since tracking began and not yet taken into account at the other side.
///
/// Whoever writes says so *after* the bytes and *before* anybody is told that the write is done. A round is what
/// was said until then; it is the same each time it is asked for, until the other side has acknowledged it.
pub struct Tracker {
    pages: u64,
    words: Words,
    /// A bit for each word that has any.
    summary: Words,
    armed: AtomicBool,
    /// Pages newly marked since tracking began: the dirty rate is how fast this grows.
    marked: AtomicU64,
    rounds: Mutex<Rounds>,
}

/// The rounds so far.
#[derive(Default)]
struct Rounds {
    /// The number of the last round taken.
    number: u64,
    /// Its pages, until it is acknowledged.
    frozen: Option<Runs>,
}

impl Tracker {
    /// A tracker of that many pages, which takes no memory for pages that are not written.
    pub fn new(pages: u64) -> Result<Tracker> {
        let words = pages.div_ceil(PER_WORD) as usize;
        Ok(Tracker {
            pages,
            words: Words::zeroed(words)?,
            summary: Words::zeroed(words.div_ceil(PER_SUMMARY))?,
            armed: AtomicBool::new(false),
            marked: AtomicU64::new(0),
            rounds: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Rounds> {
        self.rounds.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Begins anew: whoever reads a page after this reads what was written before, or is told of it by a round.
    pub fn arm(&self) {
        let mut rounds = self.lock();
        *rounds = Rounds::default();
        self.take();
        self.marked.store(0, Ordering::Relaxed);
        self.armed.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Ends: marks cost next to nothing again.
    pub fn disarm(&self) {
        self.armed.store(false, Ordering::SeqCst);
    }

    /// These pages were written. To be called after the bytes are there, before the write is acknowledged.
    pub fn mark(&self, pages: Range<u64>) {
        // Either this sees the tracker armed, or who armed it and then reads sees the bytes.
        fence(Ordering::SeqCst);
        if !self.armed.load(Ordering::SeqCst) {
            return;
        }
        let end = pages.end.min(self.pages);
        let mut page = pages.start;
        while page < end {
            let (word, bit) = ((page / PER_WORD) as usize, page % PER_WORD);
            let count = (end - page).min(PER_WORD - bit);
            let bits = (u64::MAX >> (PER_WORD - count)) << bit;
            let before = self.words[word].fetch_or(bits, Ordering::SeqCst);
            if before & bits != bits {
                self.marked.fetch_add(u64::from((bits & !before).count_ones()), Ordering::Relaxed);
            }
            // After the word, so that whoever clears this bit finds the word, or leaves the bit.
            self.summary[word / PER_SUMMARY].fetch_or(1 << (word % PER_SUMMARY), Ordering::SeqCst);
            page += count;
        }
    }

    /// How many pages were newly marked since tracking began.
    pub fn marked(&self) -> u64 {
        self.marked.load(Ordering::Relaxed)
    }

    /// The round after the one that was acknowledged: a new one, or the same again if it was taken before.
    /// `None` if that is not the last one, which then is a question that came late.
    pub fn round(&self, acknowledged: u64) -> Option<(u64, Runs)> {
        let mut rounds = self.lock();
        if acknowledged == rounds.number {
            rounds.number += 1;
            rounds.frozen = Some(self.take().joined(MAX_ENCODED));
        }
        let frozen = rounds.frozen.clone().filter(|_| acknowledged + 1 == rounds.number)?;
        Some((rounds.number, frozen))
    }

    /// Everything since the round that was acknowledged; takes nothing. `None` as in [`round`](Tracker::round).
    pub fn rest(&self, acknowledged: u64) -> Option<Runs> {
        let rounds = self.lock();
        let frozen = match &rounds.frozen {
            _ if acknowledged == rounds.number => None,
            Some(frozen) if acknowledged + 1 == rounds.number => Some(frozen),
            _ => return None,
        };
        let live = self.look(|summary| summary.load(Ordering::SeqCst), |word| word.load(Ordering::SeqCst));
        Some(frozen.map_or(live.clone(), |frozen| frozen.union(&live)).joined(MAX_ENCODED))
    }

    /// Takes every mark. The summary goes first: a mark that comes between sets it again, for the next time.
    fn take(&self) -> Runs {
        self.look(|summary| summary.swap(0, Ordering::SeqCst), |word| word.swap(0, Ordering::SeqCst))
    }

    /// The marked pages, as `summary` and `word` give the words of either table.
    fn look(&self, summary: impl Fn(&AtomicU64) -> u64, word: impl Fn(&AtomicU64) -> u64) -> Runs {
        let mut runs = Runs::default();
        for (index, many) in self.summary.iter().enumerate() {
            let mut left = summary(many);
            while left != 0 {
                let at = index * PER_SUMMARY + left.trailing_zeros() as usize;
                left &= left - 1;
                let mut bits = word(&self.words[at]);
                let mut page = at as u64 * PER_WORD;
                while bits != 0 {
                    let skip = bits.trailing_zeros();
                    let length = (bits >> skip).trailing_ones();
                    page += u64::from(skip);
                    runs.push(page..page + u64::from(length));
                    page += u64::from(length);
                    bits = bits.checked_shr(skip + length).unwrap_or(0);
                }
            }
        }
        runs
    }
}

/// Where those who write a region say so: to nobody until it is seeded for the first time.
#[derive(Default)]
pub struct Marks(OnceLock<Arc<Tracker>>);

impl Marks {
    /// The tracker that is told from now on, of a region of that many pages.
    pub fn tracker(&self, pages: u64) -> Result<Arc<Tracker>> {
        if let Some(tracker) = self.0.get() {
            return Ok(tracker.clone());
        }
        let fresh = Arc::new(Tracker::new(pages)?);
        Ok(self.0.get_or_init(|| fresh).clone())
    }

    /// Tells that tracker from now on, unless another is told already.
    pub fn join(&self, tracker: &Arc<Tracker>) {
        let _ = self.0.set(tracker.clone());
    }

    /// These pages were written, or it failed half-way. To be called after the bytes are there, before the write is
    /// acknowledged.
    #[inline]
    pub fn mark(&self, pages: Range<u64>) {
        // Either this sees the tracker, or who armed it and then reads sees the bytes.
        fence(Ordering::SeqCst);
        if let Some(tracker) = self.0.get() {
            tracker.mark(pages);
        }
    }

    /// The same of the pages that a range of bytes touches.
    #[inline]
    pub fn mark_bytes(&self, offset: u64, length: u64) {
        self.mark(offset / PAGE..offset.saturating_add(length).div_ceil(PAGE));
    }
}

/// In which order a destination pulls pages again: those that were written longest ago first, since they are the
/// likeliest to stay as they are.
#[derive(Default)]
pub struct Again {
    /// By the round in which they were written last.
    by_round: BTreeMap<u64, VecDeque<Range<u64>>>,
    pages: u64,
}

impl Again {
    /// These pages were written in this round.
    pub fn dirtied(&mut self, round: u64, pages: &Runs) {
        for (older, runs) in &mut self.by_round {
            let left: Runs = runs.drain(..).collect();
            let left = if *older == round { left.union(pages) } else { left.without(pages) };
            runs.extend(left.iter().cloned());
        }
        self.by_round.entry(round).or_insert_with(|| pages.iter().cloned().collect());
        self.by_round.retain(|_, runs| !runs.is_empty());
        self.pages = self.by_round.values().flatten().map(|run| run.end - run.start).sum();
    }

    /// The next run to pull, at most `longest` pages (one or more), which then is no longer waited for.
    pub fn next(&mut self, longest: u64) -> Option<Range<u64>> {
        let mut oldest = self.by_round.first_entry()?;
        let first = oldest.get_mut().front_mut()?;
        let run = first.start..first.end.min(first.start + longest.max(1));
        first.start = run.end;
        if first.is_empty() {
            oldest.get_mut().pop_front();
        }
        if oldest.get().is_empty() {
            oldest.remove();
        }
        self.pages -= run.end - run.start;
        Some(run)
    }

    /// The round in which those were written that come next.
    pub fn oldest(&self) -> Option<u64> {
        self.by_round.keys().next().copied()
    }

    /// How many pages are to be pulled again.
    pub fn pages(&self) -> u64 {
        self.pages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs<const N: usize>(ranges: [Range<u64>; N]) -> Runs {
        ranges.into_iter().collect()
    }

    #[test]
    fn a_round_is_the_same_until_it_is_acknowledged_and_the_next_begins_behind_it() {
        let tracker = Tracker::new(100_000).unwrap();
        tracker.mark(5..6);
        tracker.arm();
        tracker.mark(10..200);
        tracker.mark(99_999..100_000);
        assert_eq!(tracker.round(0), Some((1, runs([10..200, 99_999..100_000]))));
        tracker.mark(64..65);
        tracker.mark(300..301);
        assert_eq!(tracker.round(0), Some((1, runs([10..200, 99_999..100_000]))));
        assert_eq!(tracker.rest(0), Some(runs([10..200, 300..301, 99_999..100_000])));
        assert_eq!(tracker.rest(1), Some(runs([64..65, 300..301])));
        assert_eq!(tracker.round(1), Some((2, runs([64..65, 300..301]))));
        assert_eq!((tracker.round(0), tracker.rest(0), tracker.round(3)), (None, None, None));
        assert_eq!(tracker.round(2), Some((3, Runs::default())));
        assert_eq!(tracker.marked(), 193);
        tracker.arm();
        assert_eq!((tracker.rest(0), tracker.marked()), (Some(Runs::default()), 0));
    }

    #[test]
    fn marks_that_come_while_rounds_are_taken_are_in_one_of_them() {
        let tracker = Tracker::new(1 << 16).unwrap();
        tracker.arm();
        let mut seen = Runs::default();
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..2u64)
                .map(|writer| {
                    scope.spawn({
                        let tracker = &tracker;
                        move || (writer..1 << 16).step_by(2).for_each(|page| tracker.mark(page..page + 1))
                    })
                })
                .collect();
            let mut round = 0;
            while !writers.iter().all(|writer| writer.is_finished()) {
                let (number, pages) = tracker.round(round).unwrap();
                (round, seen) = (number, seen.union(&pages));
            }
            seen = seen.union(&tracker.rest(round).unwrap());
        });
        assert_eq!(seen, Runs::all(1 << 16));
        assert!(tracker.marked() >= 1 << 16);
    }

    #[test]
    fn pages_are_pulled_again_in_the_order_in_which_they_were_last_written() {
        let mut again = Again::default();
        again.dirtied(1, &runs([0..10, 20..30]));
        again.dirtied(2, &runs([5..20, 20..25]));
        assert_eq!(again.pages(), 30);
        let order: Vec<_> = std::iter::from_fn(|| again.next(8)).collect();
        assert_eq!(order, [0..5, 25..30, 5..13, 13..21, 21..25]);
        assert_eq!(again.pages(), 0);
    }
}
