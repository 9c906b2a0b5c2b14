//! In which order the background pulls: ranges the app named, by priority; the order of first accesses that was recorded
//! earlier; what readers that go on in order will want next; then what lies behind the newest miss to the end, and the
//! rest from the beginning.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use crate::page::{PageStates, Set, State};

const ABSENT: Set = Set::of(&[State::Absent]);
/// Runs ahead of readers that are remembered: the oldest goes first.
const SOON: usize = 256;

/// What the background pulls next.
pub struct Order {
    named: Mutex<Walk>,
    trace: Mutex<Walk>,
    /// What readers will want next.
    soon: Mutex<VecDeque<Range<u64>>>,
    /// Where the linear rest goes on; none is pulled without it.
    aim: Option<AtomicU64>,
}

/// Runs of pages that are walked through in their order.
#[derive(Default)]
struct Walk {
    runs: Vec<Range<u64>>,
    next: usize,
    /// Where in that run.
    at: u64,
}

impl Walk {
    /// The next run of absent pages, cut to what is asked for at once.
    fn next(&mut self, states: &PageStates, cut: impl Fn(Range<u64>) -> Range<u64>) -> Option<Range<u64>> {
        while let Some(run) = self.runs.get(self.next) {
            let found = states.next_run(run.start.max(self.at)..run.end, ABSENT).map(&cut);
            if let Some(found) = found {
                self.at = found.end;
                return Some(found);
            }
            (self.next, self.at) = (self.next + 1, 0);
        }
        None
    }
}

impl Order {
    /// Named ranges, then those of a trace, then all the rest if that is wanted.
    pub fn new(named: Vec<Range<u64>>, trace: Vec<Range<u64>>, rest: bool) -> Order {
        let walk = |runs| Mutex::new(Walk { runs, ..Walk::default() });
        Order { named: walk(named), trace: walk(trace), soon: Mutex::default(), aim: rest.then(|| AtomicU64::new(0)) }
    }

    /// Whether everything is pulled in the end.
    pub fn is_all(&self) -> bool {
        self.aim.is_some()
    }

    /// The app missed something: the rest goes on behind it.
    pub fn aim_at(&self, page: u64) {
        if let Some(aim) = &self.aim {
            aim.store(page, Ordering::Relaxed);
        }
    }

    /// A reader will want this next.
    pub fn add_soon(&self, runs: Vec<Range<u64>>) {
        let mut soon = lock(&self.soon);
        soon.extend(runs);
        let surplus = soon.len().saturating_sub(SOON);
        soon.drain(..surplus);
    }

    /// Pages that were asked for may be absent again: all is looked at anew.
    pub fn restart(&self) {
        for walk in [&self.named, &self.trace] {
            let mut walk = lock(walk);
            (walk.next, walk.at) = (0, 0);
        }
    }

    /// The next run to pull: absent pages of one chunk, at most so many.
    pub fn next(&self, states: &PageStates, chunk: u64, longest: u64) -> Option<Range<u64>> {
        let cut = |run: Range<u64>| {
            let end = run.end.min((run.start / chunk + 1) * chunk);
            run.start..end.min(run.start + longest.max(1))
        };
        let named = lock(&self.named).next(states, cut);
        let told = named.or_else(|| lock(&self.trace).next(states, cut)).or_else(|| self.next_soon(states, cut));
        if told.is_some() {
            return told;
        }
        let place = self.aim.as_ref()?;
        let aim = place.load(Ordering::Relaxed);
        let run = states.next_run(aim..states.pages(), ABSENT).or_else(|| states.next_run(0..aim, ABSENT))?;
        let run = cut(run);
        // Goes on from here, unless a miss has aimed it elsewhere meanwhile.
        let _ = place.compare_exchange(aim, run.end, Ordering::Relaxed, Ordering::Relaxed);
        Some(run)
    }

    fn next_soon(&self, states: &PageStates, cut: impl Fn(Range<u64>) -> Range<u64>) -> Option<Range<u64>> {
        let mut soon = lock(&self.soon);
        while let Some(first) = soon.front_mut() {
            if let Some(run) = states.next_run(first.clone(), ABSENT) {
                let run = cut(run);
                first.start = run.end;
                return Some(run);
            }
            soon.pop_front();
        }
        None
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::Change;

    const TAKEN: Change = Change::of(&[(State::Absent, State::Fetching)]);
    const GIVEN_UP: Change = Change::of(&[(State::Fetching, State::Absent)]);

    /// All that is pulled, in order, in runs of at most four pages.
    fn pulled(order: &Order, states: &PageStates) -> Vec<Range<u64>> {
        let next = || {
            let run = order.next(states, 16, 4)?;
            states.change(run.clone(), &TAKEN, |_, _, _| {});
            Some(run)
        };
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn what_was_named_comes_first_then_the_trace_then_what_readers_want_then_the_rest_behind_the_newest_miss() {
        let states = PageStates::new(40).unwrap();
        let order = Order::new(vec![30..33, 10..12], vec![11..14, 2..3], true);
        order.add_soon(vec![5..6, 7..8]);
        order.aim_at(34);
        let runs = pulled(&order, &states);
        assert_eq!(runs[..7], [30..32, 32..33, 10..12, 12..14, 2..3, 5..6, 7..8]);
        assert_eq!(
            runs[7..],
            [34..38, 38..40, 0..2, 3..5, 6..7, 8..10, 14..16, 16..20, 20..24, 24..28, 28..30, 33..34]
        );
    }

    #[test]
    fn what_failed_comes_again_and_without_the_rest_it_ends_with_what_was_told() {
        let states = PageStates::new(40).unwrap();
        let order = Order::new(vec![], vec![20..28, 3..5], false);
        assert_eq!(pulled(&order, &states), [20..24, 24..28, 3..5]);
        states.change(24..28, &GIVEN_UP, |_, _, _| {});
        assert_eq!(pulled(&order, &states), [] as [Range<u64>; 0]);
        order.restart();
        assert_eq!(pulled(&order, &states), [24..28]);
    }

    #[test]
    fn of_what_readers_will_want_the_oldest_is_forgotten() {
        let states = PageStates::new(4096).unwrap();
        let order = Order::new(vec![], vec![], false);
        order.add_soon((0..300).map(|run| run * 4..run * 4 + 1).collect());
        assert_eq!(pulled(&order, &states)[0], 176..177);
    }
}
