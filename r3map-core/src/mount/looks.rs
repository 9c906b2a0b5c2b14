//! When the pusher looks before its interval is over, and what it then leaves alone.
//!
//! A look costs a scan of the slice, and the app a fault for each page that it goes on writing. So it pays while
//! much is written that is not written again soon, and not on an idle mount or for a small set of hot pages.

use std::ops::Range;
use std::time::Duration;

use crate::error::Result;
use crate::mapping::Words;
use crate::page::{PAGE, Set, State};
use crate::region::Region;

/// The pause between two looks while they pay; it doubles when they do not.
const PAUSE: Duration = Duration::from_millis(10);
/// How many times as long as a look takes is not looked again.
const SHARE: u32 = 16;
/// Pages that are worth a look: 1 MiB.
const MUCH: u64 = (1 << 20) / PAGE;

/// What the pusher knows from its looks so far.
pub struct Looks {
    interval: Duration,
    pause: Duration,
    /// A bit for each page that was pushed since the interval began: it is not pushed again until the next.
    pushed: Words,
    any_pushed: bool,
    /// How many pages the last look found and left, to see whether they stay as they are.
    left: u64,
    /// Bytes pulled until the last look.
    pulled: u64,
}

impl Looks {
    /// Looks of a region of that many pages.
    pub fn new(interval: Duration, pages: u64) -> Result<Looks> {
        let pushed = Words::zeroed(pages.div_ceil(64) as usize)?;
        let mut looks = Looks { interval, pause: interval, pushed, any_pushed: false, left: 0, pulled: 0 };
        looks.pace(true, Duration::ZERO);
        Ok(looks)
    }

    /// How long to wait for the next look.
    pub fn pause(&self) -> Duration {
        self.pause
    }

    /// All that is dirty is about to be pushed, and an interval begins.
    pub fn begin_interval(&mut self, region: &Region) {
        // Without memory for an empty set, what was pushed before waits an interval more.
        let empty = self.any_pushed.then(|| Words::zeroed(self.pushed.len()).ok()).flatten();
        let emptied = empty.is_some();
        let before = empty.map(|empty| std::mem::replace(&mut self.pushed, empty));
        let before = before.as_ref().unwrap_or(&self.pushed);
        let states = region.states();
        let (mut at, mut fresh) = (0, 0);
        while let Some(run) = states.next_run(at..states.pages(), Set::of(&[State::Dirty, State::Quiet])) {
            at = run.end;
            fresh += run.clone().filter(|page| !before.has(*page)).count() as u64;
            self.pushed.set(run);
        }
        self.any_pushed = self.any_pushed && !emptied || at > 0;
        let pays = fresh >= MUCH || self.has_pulled(region);
        self.left = 0;
        self.pace(pays, Duration::ZERO);
    }

    /// These pages were pushed.
    pub fn pushed(&mut self, pages: Range<u64>) {
        self.pushed.set(pages);
        self.any_pushed = true;
    }

    /// Whether this page was pushed since the interval began.
    pub fn has_pushed(&self, page: u64) -> bool {
        self.pushed.has(page)
    }

    /// A look that took so long pushed so many pages, and left so many to the next.
    pub fn learn(&mut self, region: &Region, pushed: u64, left: u64, cost: Duration) {
        let pays = match self.left {
            // What was brought just now is what is written next, if anything is.
            0..MUCH => left >= MUCH || self.has_pulled(region),
            before => pushed * 2 >= before,
        };
        self.left = left;
        self.pace(pays, cost);
    }

    fn has_pulled(&mut self, region: &Region) -> bool {
        let before = std::mem::replace(&mut self.pulled, region.figures.pulled.get());
        self.pulled - before >= MUCH * PAGE
    }

    fn pace(&mut self, pays: bool, cost: Duration) {
        let pause = if pays { PAUSE } else { self.pause.saturating_mul(2) };
        self.pause = pause.max(cost * SHARE).min(self.interval);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::backend::memory::{Memory, memory_file};

    const PAGES: u64 = 4 * MUCH;

    fn looks(interval: Duration) -> (Region, Looks) {
        let backend = Arc::new(Memory::new(PAGES * PAGE).unwrap());
        let store = memory_file(c"pages", PAGES * PAGE).unwrap();
        (Region::new(backend, store, None).unwrap(), Looks::new(interval, PAGES).unwrap())
    }

    #[test]
    fn looks_that_find_nothing_or_what_is_written_again_become_rare() {
        let (region, mut looks) = looks(Duration::from_secs(1));
        let mut pauses = vec![looks.pause()];
        for _ in 0..8 {
            looks.learn(&region, 0, 0, Duration::ZERO);
            pauses.push(looks.pause());
        }
        assert_eq!(
            pauses.iter().map(Duration::as_millis).collect::<Vec<_>>(),
            [10, 20, 40, 80, 160, 320, 640, 1000, 1000]
        );
        looks.learn(&region, 0, MUCH, Duration::ZERO);
        assert_eq!(looks.pause(), PAUSE, "much was written");
        looks.learn(&region, MUCH / 2, 0, Duration::from_millis(5));
        assert_eq!(looks.pause(), Duration::from_millis(80), "most of it stayed, and a look takes long");
        for pages in [MUCH, MUCH, MUCH] {
            looks.learn(&region, 0, pages, Duration::ZERO);
        }
        assert_eq!(looks.pause(), 4 * PAUSE, "the second and third time it was the same");
    }

    #[test]
    fn an_interval_begins_with_what_is_pushed_then_and_forgets_what_was_before() {
        let (region, mut looks) = looks(Duration::from_secs(1));
        let pushed = |looks: &Looks| (0..PAGES).filter(|page| looks.has_pushed(*page)).collect::<Vec<_>>();
        looks.pushed(3..5);
        region.try_write(&[7; 2 * PAGE as usize], 64 * PAGE).unwrap().unwrap();
        assert_eq!(pushed(&looks), [3, 4]);
        looks.begin_interval(&region);
        assert_eq!(pushed(&looks), [64, 65]);
        assert_eq!(looks.pause(), 2 * PAUSE, "so little is no reason to look soon");
        let much = vec![7; (2 * MUCH * PAGE) as usize];
        region.try_write(&much, 0).unwrap().unwrap();
        looks.begin_interval(&region);
        assert_eq!(looks.pause(), PAUSE, "much was not dirty before");
        looks.begin_interval(&region);
        assert_eq!(looks.pause(), 2 * PAUSE, "the same pages again");
    }
}
