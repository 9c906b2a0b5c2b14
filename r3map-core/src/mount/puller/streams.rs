//! Readers that go on in order, told by what they miss: forward or backward, page after page or with a stride.

use std::collections::VecDeque;
use std::ops::Range;

use crate::page::PAGE;

/// Readers told apart at once.
const STREAMS: usize = 8;
/// Misses that are remembered to find a reader by.
const MISSES: usize = 8;
/// How far is read ahead of a reader at most: 8 MiB.
const FARTHEST: u64 = (8 << 20) / PAGE;
/// Steps that are fetched ahead of a reader with a stride at most.
const STEPS: u64 = 64;

/// What was missed lately and who reads in order.
#[derive(Default)]
pub struct Streams {
    known: Vec<Stream>,
    /// Misses that go with no stream, the latest first.
    lately: VecDeque<Range<u64>>,
    misses: u64,
}

/// A reader that goes on in order.
struct Stream {
    /// From one of its accesses to the next, in pages; never zero.
    stride: i64,
    /// Pages of each access.
    length: u64,
    /// Where it missed last.
    at: u64,
    /// How many steps from there were fetched for it.
    fetched: u64,
    /// How many are to be, the next time.
    ahead: u64,
    /// When it last missed, in misses.
    used: u64,
}

impl Streams {
    /// What to fetch ahead of whoever missed these pages, which are fetched already: nothing, unless it goes on where an
    /// earlier one was. Twice as much each time.
    pub fn missed(&mut self, pages: Range<u64>, end: u64) -> Vec<Range<u64>> {
        self.misses += 1;
        let misses = self.misses;
        if let Some((stream, steps)) =
            self.known.iter_mut().find_map(|stream| stream.steps_to(&pages).map(|steps| (stream, steps)))
        {
            stream.used = misses;
            return stream.advance(pages, steps, end);
        }
        let found = self.stride_to(&pages);
        self.lately.push_front(pages.clone());
        self.lately.truncate(MISSES);
        let Some(stride) = found else { return Vec::new() };
        // It is one of those now, and its misses go with it.
        self.lately.pop_front();
        let length = pages.end - pages.start;
        let mut stream = Stream { stride, length, at: pages.start, fetched: 0, ahead: 1, used: misses };
        let ahead = stream.advance(pages, 0, end);
        if self.known.len() == STREAMS {
            let oldest = (0..STREAMS).min_by_key(|index| self.known[*index].used).unwrap_or(0);
            self.known.swap_remove(oldest);
        }
        self.known.push(stream);
        ahead
    }

    /// With which stride these pages go on what was missed lately: directly behind another miss, or as far from it as
    /// that was from a third.
    fn stride_to(&self, pages: &Range<u64>) -> Option<i64> {
        if self.lately.iter().any(|miss| miss.end == pages.start) {
            return Some((pages.end - pages.start) as i64);
        }
        for (index, near) in self.lately.iter().enumerate() {
            let stride = pages.start as i64 - near.start as i64;
            let before = near.start as i64 - stride;
            let goes_on = |far: &&Range<u64>| far.start as i64 == before;
            if stride != 0 && self.lately.iter().skip(index + 1).any(|far| goes_on(&far)) {
                return Some(stride);
            }
        }
        None
    }
}

impl Stream {
    /// Whether it goes without gaps forward.
    fn is_sequential(&self) -> bool {
        self.stride > 0 && self.stride as u64 <= self.length
    }

    /// How many steps it is from its last miss to this one, if this is one of its accesses.
    fn steps_to(&self, pages: &Range<u64>) -> Option<u64> {
        let distance = pages.start as i64 - self.at as i64;
        let steps = distance / self.stride;
        // It may miss again what is on its way, or the first that was not fetched.
        if steps < 1 || steps as u64 > self.fetched + 1 {
            return None;
        }
        (self.is_sequential() || distance % self.stride == 0).then_some(steps as u64)
    }

    /// It has come to these pages, so many steps on.
    fn advance(&mut self, pages: Range<u64>, steps: u64, end: u64) -> Vec<Range<u64>> {
        self.at = pages.start;
        self.fetched = self.fetched.saturating_sub(steps);
        self.length = self.length.max(pages.end - pages.start);
        let length = self.length;
        let most = if self.is_sequential() { FARTHEST / self.stride as u64 } else { STEPS.min(FARTHEST / length) };
        self.ahead = (self.ahead * 2).clamp(1, most.max(1));
        let first = self.fetched + 1;
        self.fetched = self.fetched.max(self.ahead);
        let at = |step: u64| {
            let start = self.at as i64 + self.stride * step as i64;
            (start.max(0) as u64).min(end)..((start + length as i64).max(0) as u64).min(end)
        };
        if self.is_sequential() {
            let run = at(first).start..at(self.fetched).end;
            return (run.start < run.end && first <= self.fetched).then_some(run).into_iter().collect();
        }
        (first..=self.fetched).map(at).filter(|run| run.start < run.end).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: u64 = 1 << 20;

    fn pages(runs: &[Range<u64>]) -> u64 {
        runs.iter().map(|run| run.end - run.start).sum()
    }

    #[test]
    fn a_reader_that_goes_forward_has_twice_as_much_fetched_ahead_at_each_miss() {
        let mut streams = Streams::default();
        assert!(streams.missed(100..101, END).is_empty());
        assert_eq!(streams.missed(101..102, END), [102..104]);
        assert_eq!(streams.missed(104..105, END), [105..109]);
        assert_eq!(streams.missed(109..110, END), [110..118]);
        // It comes to what is on its way still: only what is beyond that.
        assert_eq!(streams.missed(114..115, END), [118..131]);
        let mut at = 131;
        for _ in 0..20 {
            at = streams.missed(at..at + 1, END)[0].end;
        }
        let ahead = streams.missed(at..at + 1, END);
        assert_eq!(pages(&ahead), FARTHEST);
    }

    #[test]
    fn nothing_is_fetched_beyond_the_ends() {
        let mut streams = Streams::default();
        streams.missed(7..8, 10);
        assert_eq!(streams.missed(8..9, 10), [9..10]);
        assert!(streams.missed(9..10, 10).is_empty());
        for page in [9, 6, 3, 0] {
            assert!(streams.missed(page..page + 1, 10).iter().all(|run| run.start < run.end && run.end <= 10));
        }
    }

    #[test]
    fn three_misses_of_the_same_distance_are_a_stride_forward_or_backward() {
        for stride in [7i64, 100, -1, -16, -1000] {
            let mut streams = Streams::default();
            let at = |step: i64| (900_000 + stride * step) as u64;
            let run = |step: i64| at(step)..at(step) + 1;
            assert!(streams.missed(run(0), END).is_empty());
            assert!(streams.missed(run(1), END).is_empty());
            assert_eq!(streams.missed(run(2), END), [run(3), run(4)]);
            assert_eq!(streams.missed(run(5), END), (6..10).map(run).collect::<Vec<_>>());
            assert_eq!(pages(&streams.missed(run(10), END)), 8);
            for _ in 0..9 {
                let next = streams.known[0].fetched as i64 + 1;
                let at = streams.known[0].at as i64 + stride * next;
                streams.missed(at as u64..at as u64 + 1, END);
            }
            assert!(streams.known[0].fetched <= STEPS);
        }
    }

    #[test]
    fn long_accesses_one_behind_the_other_are_one_reader() {
        let mut streams = Streams::default();
        assert!(streams.missed(0..256, END).is_empty());
        assert_eq!(streams.missed(256..512, END), [512..1024]);
        assert_eq!(streams.missed(1024..1280, END), [1280..2304]);
    }

    #[test]
    fn several_readers_at_once_are_told_apart() {
        let mut streams = Streams::default();
        let mut ahead = [0; 4];
        for step in 0..3 {
            for (reader, ahead) in ahead.iter_mut().enumerate() {
                let at = [0, 17_000, 90_000, 400_000][reader] + step * [1, 16, 3, 50][reader];
                *ahead = pages(&streams.missed(at..at + 1, END));
            }
        }
        assert!(ahead.iter().all(|ahead| *ahead > 0), "{ahead:?}");
    }

    #[test]
    fn random_misses_make_hardly_anything_be_fetched() {
        let mut seed = 0x9E37_79B9_7F4A_7C15u64;
        let (mut fetched, mut missed) = (0, 0);
        for _ in 0..200 {
            let mut streams = Streams::default();
            // One in a hundred of 64 MiB.
            for _ in 0..164 {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                let page = seed % 16384;
                fetched += pages(&streams.missed(page..page + 1, 16384));
                missed += 1;
            }
        }
        assert!(fetched * 50 < missed, "{fetched} for {missed}");
    }
}
