//! What is pulled when: pages that were never written since tracking began, then those that were, the ones written
//! longest ago first; and once the region is here what the app misses, then the rest.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::cancel::deadline_in;
use crate::error::Result;
use crate::mapping::Words;
use crate::migration::Runs;
use crate::migration::leecher::core::{Core, Part};
use crate::migration::tracker::Again;
use crate::page::{PAGE, Set, State};

/// The least and the most bytes under way.
const WINDOW: (u64, u64) = (1 << 20, 32 << 20);
/// How much of the time's traffic is under way, besides what the way there takes: a slow link is not flooded.
const AHEAD: Duration = Duration::from_millis(100);
/// How often the rate is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// Pauses after pulls that failed.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// Pages in a run that is asked for again.
const RUN: u64 = (1 << 20) / PAGE;

/// Which pages come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// None.
    Nothing,
    /// Those never written since tracking began.
    First,
    /// Those that were.
    Again,
    /// Those that were, but not for that many rounds.
    Cold(u64),
    /// Whatever is missing, by what the app misses.
    Rest,
}

/// What is pulled of a region.
pub struct Pull {
    core: Arc<Core>,
    /// Ranges of pages still to be walked through, in their order.
    walk: VecDeque<Range<u64>>,
    again: Again,
    /// The pages of `again`: a bit each.
    written: Words,
    /// The last round that was taken into account.
    round: u64,
    window: u64,
    rate: Rate,
    failures: u64,
    pause: Duration,
    not_before: Option<Instant>,
    /// Whether the last step asked for anything.
    asked: bool,
}

/// How fast bytes come.
struct Rate {
    since: Instant,
    landed: u64,
    /// Bytes a second; 0 while it is not known.
    bytes: u64,
}

impl Pull {
    /// Nothing is pulled yet.
    pub fn new(core: Arc<Core>) -> Result<Pull> {
        let written = Words::zeroed(core.pages().div_ceil(64) as usize)?;
        Ok(Pull {
            core,
            walk: VecDeque::new(),
            again: Again::default(),
            written,
            round: 0,
            window: WINDOW.0 * 2,
            rate: Rate { since: Instant::now(), landed: 0, bytes: 0 },
            failures: 0,
            pause: PAUSES.0,
            not_before: None,
            asked: false,
        })
    }

    /// Begins anew: of nothing is known that it is alike.
    pub fn begin(&mut self) {
        self.again = Again::default();
        self.written
            .iter()
            .filter(|word| word.load(Ordering::Relaxed) != 0)
            .for_each(|word| word.store(0, Ordering::Relaxed));
        self.round = 0;
        self.walk_all();
    }

    fn walk_all(&mut self) {
        let named = self.core.named_pages();
        self.walk = named.into_iter().chain(std::iter::once(0..self.core.pages())).collect();
    }

    /// These pages were written at the source until this round; they were forgotten here.
    pub fn dirtied(&mut self, round: u64, pages: &Runs) {
        self.round = round;
        self.again.dirtied(round, pages);
        pages.iter().cloned().for_each(|run| self.mark(run, true));
    }

    fn mark(&self, pages: Range<u64>, written: bool) {
        let mut page = pages.start;
        while page < pages.end {
            let count = (pages.end - page).min(64 - page % 64);
            let bits = (u64::MAX >> (64 - count)) << (page % 64);
            let word = &self.written[(page / 64) as usize];
            match written {
                true => word.fetch_or(bits, Ordering::Relaxed),
                false => word.fetch_and(!bits, Ordering::Relaxed),
            };
            page += count;
        }
    }

    fn is_written(&self, page: u64) -> bool {
        self.written[(page / 64) as usize].load(Ordering::Relaxed) >> (page % 64) & 1 == 1
    }

    /// Bytes that wait to be pulled again.
    pub fn bytes_again(&self) -> u64 {
        self.again.pages() * PAGE
    }

    /// Whether all that was never written was asked for.
    pub fn is_walked(&self) -> bool {
        self.walk.is_empty()
    }

    /// How many bytes a second come, 0 while that is not known.
    pub fn rate(&self) -> u64 {
        self.rate.bytes
    }

    /// Bytes under way.
    pub fn under_way(&self) -> u64 {
        self.core.under_way()
    }

    /// Whether there is room for more under way.
    pub fn has_room(&self) -> bool {
        self.under_way() <= self.window * 3 / 4
    }

    /// Nothing was asked for yet in what follows.
    pub fn begin_step(&mut self) {
        self.asked = false;
    }

    /// Whether anything was since.
    pub fn has_asked(&self) -> bool {
        self.asked
    }

    /// When it goes on after a failure.
    pub fn not_before(&self) -> Option<Instant> {
        self.not_before
    }

    /// Asks for what comes next until enough is under way; says whether there was more.
    pub fn step(&mut self, aim: Aim, round_trip: Duration) -> bool {
        self.look(round_trip);
        let now = Instant::now();
        if self.not_before.is_some_and(|then| then > now) {
            return false;
        }
        self.not_before = None;
        if self.has_failed() {
            self.not_before = Some(now + self.pause);
            self.pause = (self.pause * 2).min(PAUSES.1);
            return false;
        }
        while self.under_way() < self.window {
            let Some(run) = self.next(aim) else { return false };
            self.ask(run);
            self.asked = true;
        }
        true
    }

    fn has_failed(&mut self) -> bool {
        let failures = self.core.parts().iter().map(|part| part.region().figures.fetch_failures().0).sum();
        if std::mem::replace(&mut self.failures, failures) == failures {
            if self.rate.bytes > 0 {
                self.pause = PAUSES.0;
            }
            return false;
        }
        // What was given up is absent again, behind where the walk is by now.
        self.walk_all();
        true
    }

    /// Asks for every page of a run that is not here.
    fn ask(&mut self, run: Range<u64>) {
        let deadline = deadline_in(self.core.options().deadline);
        for (part, run) in self.core.split(&run) {
            part.region().fetch(run, deadline);
        }
    }

    fn next(&mut self, aim: Aim) -> Option<Range<u64>> {
        match aim {
            Aim::Nothing => None,
            Aim::First => self.next_first(),
            Aim::Again => self.next_again(u64::MAX),
            Aim::Cold(rounds) => self.next_again(self.round.saturating_sub(rounds)),
            Aim::Rest => self.core.parts().iter().find_map(|part| {
                let run = part.managed().next_absent()?;
                Some(run.start + part.first()..run.end + part.first())
            }),
        }
    }

    fn next_again(&mut self, until: u64) -> Option<Range<u64>> {
        self.again.oldest().filter(|round| *round <= until)?;
        let run = self.again.next(RUN)?;
        self.mark(run.clone(), false);
        Some(run)
    }

    /// The next run of pages that are absent and were not written since, at most a chunk.
    fn next_first(&mut self) -> Option<Range<u64>> {
        while let Some(range) = self.walk.front().cloned() {
            let found = self.core.split(&range).into_iter().find_map(|(part, range)| self.find(part, range));
            let Some(found) = found else {
                self.walk.pop_front();
                continue;
            };
            if let Some(front) = self.walk.front_mut() {
                front.start = found.end;
            }
            return Some(found);
        }
        None
    }

    fn find(&self, part: &Part, mut range: Range<u64>) -> Option<Range<u64>> {
        let states = part.region().states();
        let chunk = (u64::from(part.region().info().chunk_size) / PAGE).max(1);
        loop {
            let run = states.next_run(range.clone(), Set::of(&[State::Absent]))?;
            let end = run.end.min((run.start / chunk + 1) * chunk);
            let of = |page: u64| page + part.first();
            let start = (run.start..end).find(|page| !self.is_written(of(*page)));
            if let Some(start) = start {
                let end = (start..end).find(|page| self.is_written(of(*page))).unwrap_or(end);
                return Some(of(start)..of(end));
            }
            range.start = end;
        }
    }

    /// Measures how fast bytes come, and has as many under way as come in a moment.
    fn look(&mut self, round_trip: Duration) {
        let (now, landed) = (Instant::now(), self.core.landed_bytes());
        let time = now - self.rate.since;
        if time < LOOK {
            return;
        }
        let came = landed - self.rate.landed;
        let was_busy = came > 0 && self.under_way() > 0;
        (self.rate.since, self.rate.landed) = (now, landed);
        if !was_busy {
            return;
        }
        let fresh = (came as f64 / time.as_secs_f64()) as u64;
        self.rate.bytes = if self.rate.bytes == 0 { fresh } else { (self.rate.bytes * 3 + fresh) / 4 };
        let ahead = (fresh.max(self.rate.bytes) as f64 * (AHEAD + round_trip * 2).as_secs_f64()) as u64;
        self.window = self.core.options().max_in_flight.unwrap_or(ahead.clamp(WINDOW.0, WINDOW.1));
    }
}
