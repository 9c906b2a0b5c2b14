//! The state of every page of a region that keeps pages here: four bits each, changed by compare-and-swap.
//!
//! Sixteen pages share an `AtomicU64`. A region of any size opens at once: the table takes memory only where
//! a page has left [`State::Absent`], and a summary bit for each 1,024 pages lets a search skip the rest.
//! Bytes are published by a Release change after they are stored and observed by an Acquire look.

use std::ops::Range;

use crate::error::Result;
use crate::sync::Words;
use crate::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a page, the unit of state and tracking.
pub const PAGE: u64 = 4096;

/// Where a page stands between this host and the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Not here.
    Absent = 0,
    /// Asked for; a fetch slot knows by whom.
    Fetching = 1,
    /// Its bytes are being stored here at this moment, by one thread and without waiting for anything remote.
    Filling = 2,
    /// Here, as the backend has it.
    Clean = 3,
    /// Zero, as the backend has it; no bytes are kept.
    Zero = 4,
    /// Here, newer than at the backend.
    Dirty = 5,
    /// Being sent to the backend.
    Pushing = 6,
    /// Written again while it was being sent.
    Redirtied = 7,
    /// Chosen to be dropped (a later step).
    Evicting = 8,
    /// Zero here by a trim or a write of zeroes that the backend has not seen; no bytes are kept.
    ZeroDirty = 9,
    /// Those zeroes are being sent.
    ZeroPushing = 10,
    /// As Dirty, and not written since the pusher looked last.
    Quiet = 11,
}

const STATES: [State; 12] = [
    State::Absent,
    State::Fetching,
    State::Filling,
    State::Clean,
    State::Zero,
    State::Dirty,
    State::Pushing,
    State::Redirtied,
    State::Evicting,
    State::ZeroDirty,
    State::ZeroPushing,
    State::Quiet,
];

/// A set of states.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Set(u16);

impl Set {
    /// The set of these states.
    pub const fn of(states: &[State]) -> Set {
        let mut bits = 0;
        let mut index = 0;
        while index < states.len() {
            bits |= 1 << states[index] as u16;
            index += 1;
        }
        Set(bits)
    }

    /// Bytes are kept here and may be read.
    pub const STORED: Set =
        Set::of(&[State::Clean, State::Dirty, State::Quiet, State::Pushing, State::Redirtied, State::Evicting]);
    /// Known to be zero without any bytes kept.
    pub const ZERO: Set = Set::of(&[State::Zero, State::ZeroDirty, State::ZeroPushing]);
    /// May be read here without asking anybody.
    pub const LOCAL: Set = Set(Set::STORED.0 | Set::ZERO.0);
    /// Not here, and nobody has asked for it or somebody has.
    pub const MISSING: Set = Set::of(&[State::Absent, State::Fetching]);
    /// Newer here than at the backend.
    pub const UNPUSHED: Set =
        Set::of(&[State::Dirty, State::Quiet, State::Pushing, State::Redirtied, State::ZeroDirty, State::ZeroPushing]);

    /// Whether the state is in the set.
    #[inline]
    pub const fn has(self, state: State) -> bool {
        self.0 >> state as u16 & 1 == 1
    }

    /// The set with one state more.
    pub const fn with(self, state: State) -> Set {
        Set(self.0 | 1 << state as u16)
    }

    /// Whether every state of this set is in the other.
    pub const fn within(self, other: Set) -> bool {
        self.0 & !other.0 == 0
    }

    /// The set of all states that are not in this one.
    pub const fn complement(self) -> Set {
        Set(!self.0 & 0xFFF)
    }
}

/// A change of state: what each state becomes, or stays.
#[derive(Clone, Copy)]
pub struct Change([u8; 16]);

impl Change {
    /// Each pair's first becomes its second; every other state stays.
    pub const fn of(pairs: &[(State, State)]) -> Change {
        let mut table = [0; 16];
        let mut index = 0;
        while index < 16 {
            table[index] = index as u8;
            index += 1;
        }
        let mut index = 0;
        while index < pairs.len() {
            table[pairs[index].0 as usize] = pairs[index].1 as u8;
            index += 1;
        }
        Change(table)
    }
}

const PER_WORD: u64 = 16;
const WORDS_PER_SUMMARY_BIT: u64 = 64;
/// Pages behind one bit of the summary: 4 MiB of the region.
const PER_SUMMARY_BIT: u64 = PER_WORD * WORDS_PER_SUMMARY_BIT;

/// The states of a region's pages.
pub struct PageStates {
    pages: u64,
    words: Words,
    // A bit that is set once any of its 1,024 pages leaves Absent, and never cleared.
    summary: Words,
    counts: [AtomicU64; 12],
}

impl PageStates {
    /// States of `pages` pages, all absent.
    pub fn new(pages: u64) -> Result<PageStates> {
        Ok(PageStates {
            pages,
            words: Words::zeroed(pages.div_ceil(PER_WORD) as usize)?,
            summary: Words::zeroed(pages.div_ceil(PER_SUMMARY_BIT * 64) as usize)?,
            counts: Default::default(),
        })
    }

    /// How many pages there are.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// How many pages are in any of these states but [`State::Absent`], from counters; while others change
    /// states the answer may be a little old.
    pub fn count(&self, set: Set) -> u64 {
        debug_assert!(!set.has(State::Absent));
        // A page on its way between two counters may make one wrap for a moment.
        let sum = STATES
            .iter()
            .filter(|state| set.has(**state))
            .fold(0u64, |sum, state| sum.wrapping_add(self.counts[*state as usize].load(Ordering::Relaxed)));
        if sum > self.pages { 0 } else { sum }
    }

    /// The state of a page.
    #[inline]
    pub fn get(&self, page: u64) -> State {
        let word = self.words[(page / PER_WORD) as usize].load(Ordering::Acquire);
        STATES[(word >> (page % PER_WORD * 4) & 0xF) as usize]
    }

    /// Whether every page of the range is in the set. Takes no lock and writes nothing.
    #[inline]
    pub fn all(&self, pages: Range<u64>, set: Set) -> bool {
        let mut page = pages.start;
        while page < pages.end {
            let mut word = self.words[(page / PER_WORD) as usize].load(Ordering::Acquire);
            word >>= page % PER_WORD * 4;
            let end = pages.end.min((page / PER_WORD + 1) * PER_WORD);
            while page < end {
                if set.0 >> (word & 0xF) & 1 == 0 {
                    return false;
                }
                word >>= 4;
                page += 1;
            }
        }
        true
    }

    /// Applies `change` to every page of the range, each by one compare-and-swap of its word, and calls
    /// `changed` for each maximal run of pages that left one same state for another, in order. Gives the states
    /// in which it left the pages, whether they changed or stayed.
    pub fn change(&self, pages: Range<u64>, change: &Change, mut changed: impl FnMut(Range<u64>, State, State)) -> Set {
        let mut left = Set::of(&[]);
        let mut run: Option<(Range<u64>, u8, u8)> = None;
        let mut flush = |run: &mut Option<(Range<u64>, u8, u8)>| {
            if let Some((range, from, to)) = run.take() {
                let length = range.end - range.start;
                if from != State::Absent as u8 {
                    self.counts[from as usize].fetch_sub(length, Ordering::Relaxed);
                }
                if to != State::Absent as u8 {
                    self.counts[to as usize].fetch_add(length, Ordering::Relaxed);
                }
                changed(range, STATES[from as usize], STATES[to as usize]);
            }
        };
        let mut page = pages.start;
        while page < pages.end {
            let index = (page / PER_WORD) as usize;
            let end = pages.end.min((page / PER_WORD + 1) * PER_WORD);
            let mut before = self.words[index].load(Ordering::Acquire);
            let after = loop {
                let mut after = before;
                for page in page..end {
                    let shift = page % PER_WORD * 4;
                    let to = change.0[(before >> shift & 0xF) as usize] as u64;
                    after = after & !(0xF << shift) | to << shift;
                }
                if after == before {
                    break after;
                }
                if before == 0 {
                    self.touch(page);
                }
                match self.words[index].compare_exchange_weak(before, after, Ordering::AcqRel, Ordering::Acquire) {
                    Ok(_) => break after,
                    Err(now) => before = now,
                }
            };
            for page in page..end {
                let shift = page % PER_WORD * 4;
                let (from, to) = ((before >> shift & 0xF) as u8, (after >> shift & 0xF) as u8);
                left.0 |= 1 << to;
                if from == to {
                    flush(&mut run);
                    continue;
                }
                match &mut run {
                    Some((range, f, t)) if *f == from && *t == to => range.end = page + 1,
                    _ => {
                        flush(&mut run);
                        run = Some((page..page + 1, from, to));
                    }
                }
            }
            page = end;
        }
        flush(&mut run);
        left
    }

    /// Moves one page from one state to another, if it is in the first.
    pub fn step(&self, page: u64, from: State, to: State) -> bool {
        let mut moved = false;
        self.change(page..page + 1, &Change::of(&[(from, to)]), |_, _, _| moved = true);
        moved
    }

    /// The first maximal run of pages at or after `pages.start` whose states are all in `set`, cut at
    /// `pages.end`. Skips what was never touched without looking at it.
    pub fn next_run(&self, pages: Range<u64>, set: Set) -> Option<Range<u64>> {
        let start = self.seek(pages.clone(), set)?;
        // Not from `start`: it may have left the set since, and a run of no pages would be no answer.
        let end = self.seek(start + 1..pages.end, set.complement()).unwrap_or(pages.end);
        Some(start..end)
    }

    /// The first page of the range whose state is in `set`.
    fn seek(&self, pages: Range<u64>, set: Set) -> Option<u64> {
        let mut page = pages.start;
        while page < pages.end {
            if page % PER_SUMMARY_BIT == 0 && !self.touched(page) {
                if set.has(State::Absent) {
                    return Some(page);
                }
                page = self.next_touched(page / PER_SUMMARY_BIT).unwrap_or(pages.end / PER_SUMMARY_BIT + 1)
                    * PER_SUMMARY_BIT;
                continue;
            }
            let word = self.words[(page / PER_WORD) as usize].load(Ordering::Acquire);
            let end = pages.end.min((page / PER_WORD + 1) * PER_WORD);
            // Sixteen pages in one same state are the common case.
            let first = word & 0xF;
            if word == first * 0x1111_1111_1111_1111 && set.0 >> first & 1 == 0 {
                page = end;
                continue;
            }
            for page in page..end {
                if set.0 >> (word >> (page % PER_WORD * 4) & 0xF) & 1 == 1 {
                    return Some(page);
                }
            }
            page = end;
        }
        None
    }

    fn touch(&self, page: u64) {
        let bit = page / PER_SUMMARY_BIT;
        let word = &self.summary[(bit / 64) as usize];
        if word.load(Ordering::Relaxed) >> (bit % 64) & 1 == 0 {
            // Before the state itself changes, so that no search misses a page that has left Absent.
            word.fetch_or(1 << (bit % 64), Ordering::SeqCst);
        }
    }

    fn touched(&self, page: u64) -> bool {
        let bit = page / PER_SUMMARY_BIT;
        self.summary[(bit / 64) as usize].load(Ordering::SeqCst) >> (bit % 64) & 1 == 1
    }

    /// The first set bit of the summary at or after `bit`.
    fn next_touched(&self, bit: u64) -> Option<u64> {
        let mut mask = u64::MAX << (bit % 64);
        for index in (bit / 64) as usize..self.summary.len() {
            let word = self.summary[index].load(Ordering::SeqCst) & mask;
            if word != 0 {
                return Some(index as u64 * 64 + u64::from(word.trailing_zeros()));
            }
            mask = u64::MAX;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FETCH: Change = Change::of(&[(State::Absent, State::Fetching)]);

    #[test]
    fn a_change_reports_each_run_that_changed_and_leaves_other_states_alone() {
        let states = PageStates::new(100).unwrap();
        states.change(20..21, &Change::of(&[(State::Absent, State::Dirty)]), |_, _, _| {});
        let mut runs = Vec::new();
        states.change(10..40, &FETCH, |run, from, to| runs.push((run, from, to)));
        let fetch = |run| (run, State::Absent, State::Fetching);
        assert_eq!(runs, [fetch(10..20), fetch(21..40)]);
        assert_eq!(states.get(20), State::Dirty);
        assert_eq!(states.get(9), State::Absent);
        assert_eq!(states.count(Set::of(&[State::Fetching])), 29);
        assert_eq!(states.count(Set::UNPUSHED), 1);
    }

    #[test]
    fn runs_are_found_in_a_region_too_large_to_look_at() {
        let pages = (1u64 << 42) / PAGE;
        let states = PageStates::new(pages).unwrap();
        assert_eq!(states.next_run(0..pages, Set::UNPUSHED), None);
        states.change(pages - 3..pages, &Change::of(&[(State::Absent, State::Dirty)]), |_, _, _| {});
        states.change(5000..5001, &Change::of(&[(State::Absent, State::Dirty)]), |_, _, _| {});
        assert_eq!(states.next_run(0..pages, Set::UNPUSHED), Some(5000..5001));
        assert_eq!(states.next_run(5001..pages, Set::UNPUSHED), Some(pages - 3..pages));
        assert_eq!(states.next_run(0..pages, Set::MISSING), Some(0..5000));
        assert_eq!(states.next_run(5000..pages, Set::MISSING), Some(5001..pages - 3));
    }

    #[test]
    fn next_run_agrees_with_a_plain_search_on_random_states() {
        let mut seed = 0x9E37_79B9_7F4A_7C15u64;
        let mut random = move |below: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % below
        };
        let pages = 3000;
        let states = PageStates::new(pages).unwrap();
        for _ in 0..60 {
            let start = random(pages);
            let end = (start + 1 + random(90)).min(pages);
            let to = STATES[random(12) as usize];
            let all: Vec<_> = STATES.iter().map(|from| (*from, to)).collect();
            states.change(start..end, &Change::of(&all), |_, _, _| {});
        }
        for set in [Set::LOCAL, Set::MISSING, Set::UNPUSHED, Set::STORED] {
            let mut at = 0;
            while let Some(run) = states.next_run(at..pages, set) {
                let expected = (at..pages).find(|page| set.has(states.get(*page))).unwrap();
                assert_eq!(run.start, expected);
                assert!(run.clone().all(|page| set.has(states.get(page))) && states.all(run.clone(), set));
                assert!(run.end == pages || !set.has(states.get(run.end)));
                at = run.end;
            }
            assert!((at..pages).all(|page| !set.has(states.get(page))));
        }
    }
}
