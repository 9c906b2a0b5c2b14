//! Decides what to fetch when: what belongs with a page that was missed, and everything else in the
//! background.
//!
//! The order of the background: ranges the app named, by priority; then what lies behind the newest miss to
//! the end; then the rest from the beginning. The window is a fixed number of bytes for now.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::cancel::{Limit, Signal, deadline_in};
use crate::error::{Error, Result};
use crate::event::{Events, Kind};
use crate::options::{MountOptions, Pull};
use crate::page::{PAGE, Set, State};
use crate::region::{Region, Want};
use crate::thread;

/// Bytes of background fetches under way, where the app says nothing else.
const WINDOW: u64 = 16 << 20;
/// Sequential readers told apart at once.
const STREAMS: usize = 8;
/// How far is read ahead of a sequential reader at most: 8 MiB.
const FARTHEST: u64 = (8 << 20) / PAGE;
/// What is fetched around a miss when the rest comes anyway: 64 KiB.
const AROUND: u64 = (64 << 10) / PAGE;
/// Pauses after a failed background fetch.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// A reader that goes forward.
#[derive(Clone, Copy, Default)]
struct Stream {
    /// The page it missed last.
    at: u64,
    /// How far was fetched for it.
    end: u64,
    /// How far ahead to fetch the next time, in pages.
    ahead: u64,
    /// When it last missed, in misses.
    used: u64,
}

#[derive(Default)]
struct Streams {
    known: [Stream; STREAMS],
    misses: u64,
}

/// The puller of a region.
pub struct Puller {
    region: Arc<Region>,
    events: Arc<Events>,
    background: bool,
    window: u64,
    ranges: Vec<std::ops::Range<u64>>,
    deadline: Duration,
    streams: Mutex<Streams>,
    /// Where the background goes on.
    aim: AtomicU64,
    stop: AtomicBool,
    wake: Signal,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Puller {
    /// A puller that does nothing in the background until it is started.
    pub fn new(region: Arc<Region>, events: Arc<Events>, options: &MountOptions) -> Puller {
        let mut ranges = options.pull_ranges.clone();
        ranges.sort_by_key(|range| std::cmp::Reverse(range.priority));
        let size = region.info().size;
        let pages = |range: &crate::options::PullRange| {
            let offset = range.offset.min(size);
            region.pages_of(offset, range.length.min(size - offset))
        };
        Puller {
            events,
            background: options.pull == Pull::Background,
            window: options.max_in_flight.unwrap_or(WINDOW),
            ranges: ranges.iter().map(pages).collect(),
            deadline: options.deadline,
            streams: Mutex::default(),
            aim: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            wake: Signal::default(),
            thread: Mutex::default(),
            region,
        }
    }

    /// What to fetch for a page that was missed.
    pub fn missed(&self, page: u64) -> Want {
        let pages = self.region.states().pages();
        if self.background {
            self.aim.store(page, Ordering::Relaxed);
            if let Some(ahead) = self.sequential(page) {
                return Want { pages: page..(page + ahead).min(pages), again: false };
            }
            let start = page / AROUND * AROUND;
            return Want { pages: start..(start + AROUND).min(pages), again: true };
        }
        let ahead = self.sequential(page).unwrap_or(1);
        Want { pages: page..(page + ahead).min(pages), again: false }
    }

    /// How many pages to read from here if this miss goes on where an earlier one was; doubles each time.
    pub fn sequential(&self, page: u64) -> Option<u64> {
        let mut streams = self.streams.lock().unwrap_or_else(|e| e.into_inner());
        let Streams { known, misses } = &mut *streams;
        *misses += 1;
        let follows = |stream: &&mut Stream| stream.used > 0 && page > stream.at && page <= stream.end;
        if let Some(stream) = known.iter_mut().find(follows) {
            stream.at = page;
            stream.ahead = (stream.ahead * 2).min(FARTHEST);
            stream.end = page + stream.ahead;
            stream.used = *misses;
            return Some(stream.ahead);
        }
        if let Some(oldest) = known.iter_mut().min_by_key(|stream| stream.used) {
            *oldest = Stream { at: page, end: page + 1, ahead: 2, used: *misses };
        }
        None
    }

    /// Starts pulling in the background, if that was asked for.
    pub fn start(self: &Arc<Self>) -> Result<()> {
        if !self.background {
            return Ok(());
        }
        let puller = self.clone();
        let started = thread::spawn("r3map-pull", move || puller.run());
        let started = started.map_err(|error| Error::io("start the puller", error))?;
        *self.thread.lock().unwrap_or_else(|e| e.into_inner()) = Some(started);
        Ok(())
    }

    /// Stops pulling in the background; what is under way still lands.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.wake.signal();
        self.region.figures.landed.signal();
        let thread = self.thread.lock().unwrap_or_else(|e| e.into_inner()).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }

    /// Until when a fetch that begins now may take.
    pub fn deadline(&self) -> Option<Instant> {
        deadline_in(self.deadline)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn run(&self) {
        thread::as_batch();
        let mut pause = PAUSES.0;
        let mut failures = 0;
        let mut away = false;
        while !self.stopped() {
            match self.next() {
                Some(run) => {
                    self.region.fetch(run, self.deadline());
                    self.wait_landed(|| self.region.fetching_bytes() < self.window);
                }
                None if self.region.fetching_bytes() > 0 => self.wait_landed(|| self.region.fetching_bytes() == 0),
                None if self.all_here() => {
                    if away {
                        self.events.back();
                    }
                    return self.events.tell(Kind::Local, None);
                }
                // What the app asked for is still on its way, and is absent again should that fail.
                None => self.wait_landed(|| self.all_here() || self.next().is_some()),
            }
            let (now, cause) = self.region.figures.fetch_failures();
            if now == failures {
                if away && self.region.fetching_bytes() < self.window {
                    away = false;
                    self.events.back();
                }
                pause = PAUSES.0;
                continue;
            }
            failures = now;
            // A store that takes nothing is told by who keeps it.
            if !away && !self.region.is_failing() {
                away = true;
                cause.into_iter().for_each(|cause| self.events.away(cause));
            }
            let _ = self.wake.wait(&Limit::within(pause), "pull", || self.stopped().then_some(()));
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    fn all_here(&self) -> bool {
        let states = self.region.states();
        states.next_run(0..states.pages(), Set::LOCAL.complement()).is_none()
    }

    fn wait_landed(&self, enough: impl Fn() -> bool) {
        let _ = self.region.figures.landed.wait(&Limit::none(), "pull", || (enough() || self.stopped()).then_some(()));
    }

    /// The next run to pull: at most a chunk of absent pages.
    pub fn next(&self) -> Option<std::ops::Range<u64>> {
        let states = self.region.states();
        let absent = Set::of(&[State::Absent]);
        let chunk = u64::from(self.region.info().chunk_size) / PAGE;
        let cut = |run: std::ops::Range<u64>| run.start..run.end.min((run.start / chunk + 1) * chunk);
        let named = self.ranges.iter().find_map(|range| states.next_run(range.clone(), absent));
        if let Some(run) = named {
            return Some(cut(run));
        }
        let aim = self.aim.load(Ordering::Relaxed);
        let run = states.next_run(aim..states.pages(), absent).or_else(|| states.next_run(0..aim, absent))?;
        let run = cut(run);
        // Goes on from here, unless a miss has aimed it elsewhere meanwhile.
        let _ = self.aim.compare_exchange(aim, run.end, Ordering::Relaxed, Ordering::Relaxed);
        Some(run)
    }
}
