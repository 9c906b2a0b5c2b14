//! Decides what to fetch when: what belongs with a page that was missed, and everything else in the background.
//!
//! A page that was missed is asked for at once, on the way that the background cannot delay. In what order the
//! background pulls is [`Order`]'s to say, and how much of it is under way [`Window`]'s.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::cancel::{Limit, Signal, deadline_in};
use crate::error::{Error, Result};
use crate::event::{Events, Kind};
use crate::mount::puller::order::Order;
use crate::mount::puller::streams::Streams;
use crate::mount::puller::trace::Recorder;
use crate::mount::puller::window::Window;
use crate::options::{MountOptions, Pull};
use crate::page::{PAGE, Set};
use crate::region::{Again, Region, Want};
use crate::stats::Stats;
use crate::thread;

mod order;
mod streams;
pub(crate) mod trace;
mod window;

/// What is fetched around a miss when the rest comes anyway: 64 KiB.
const AROUND: u64 = (64 << 10) / PAGE;
/// From this round trip on what was missed is asked for by itself, before what lies around it: where the way is narrow the
/// short answer is here before the long one has left.
const FAR: Duration = Duration::from_millis(1);
/// Pauses after a failed background fetch.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// The puller of a region.
pub struct Puller {
    region: Arc<Region>,
    events: Arc<Events>,
    /// Whether a thread pulls by itself, once it is started.
    background: bool,
    /// Whether it does at this moment.
    is_pulling: AtomicBool,
    order: Order,
    streams: Mutex<Streams>,
    window: Mutex<Window>,
    recorder: Recorder,
    deadline: Duration,
    stop: AtomicBool,
    wake: Signal,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Puller {
    /// A puller that does nothing in the background until it is started.
    pub fn new(region: Arc<Region>, events: Arc<Events>, options: &MountOptions) -> Result<Puller> {
        let size = region.info().size;
        let mut ranges = options.pull_ranges.clone();
        ranges.sort_by_key(|range| std::cmp::Reverse(range.priority));
        let pages = |range: &crate::options::PullRange| {
            let offset = range.offset.min(size);
            region.pages_of(offset, range.length.min(size - offset))
        };
        let is_all = options.pull == Pull::Background;
        let named = if is_all { ranges.iter().map(pages).collect() } else { Vec::new() };
        let trace = options.trace.as_deref().map_or(Ok(Vec::new()), |path| trace::load(path, size))?;
        Ok(Puller {
            events,
            background: is_all || options.trace.is_some(),
            is_pulling: AtomicBool::new(false),
            order: Order::new(named, trace, is_all),
            streams: Mutex::default(),
            window: Mutex::new(Window::new(memory(), options.max_in_flight)),
            recorder: Recorder::new(region.states().pages())?,
            deadline: options.deadline,
            stop: AtomicBool::new(false),
            wake: Signal::default(),
            thread: Mutex::default(),
            region,
        })
    }

    /// What to fetch for pages that were missed.
    pub fn missed(&self, pages: Range<u64>) -> Want {
        self.recorder.access(pages.clone());
        let end = self.region.states().pages();
        if !self.order.is_all() {
            self.fetch_ahead(pages.clone());
            let again = if self.background { self.again() } else { Again::No };
            return Want { again, ..Want::only(pages) };
        }
        let start = pages.start / AROUND * AROUND;
        let around = start..pages.end.next_multiple_of(AROUND).min(end);
        self.order.aim_at(around.end);
        self.order.add_soon(self.ahead_of(around.clone()));
        let is_far = self.region.backend().round_trip().is_some_and(|trip| trip.least >= FAR);
        Want { asked: pages, pages: around, apart: is_far, again: self.again() }
    }

    /// Nothing else is fetched unless somebody reads in order: then what that one will want next.
    pub fn fetch_ahead(&self, pages: Range<u64>) {
        for run in self.ahead_of(pages) {
            self.region.fetch(run, self.deadline());
        }
    }

    fn ahead_of(&self, pages: Range<u64>) -> Vec<Range<u64>> {
        lock(&self.streams).missed(pages, self.region.states().pages())
    }

    /// What bulk has under way is asked for again, unless it will be here in half the time that this takes. What should
    /// be here already may have got lost.
    fn again(&self) -> Again {
        let Some(bulk) = lock(&self.window).trip() else { return Again::YES };
        let demand = self.region.backend().round_trip().map_or(bulk, |trip| trip.latest);
        Again::Unless(bulk.saturating_sub(demand / 2)..bulk + demand)
    }

    /// These pages are accessed, whether they are here or not.
    #[inline]
    pub fn accessed(&self, offset: u64, length: usize) {
        self.recorder.access(self.region.pages_of(offset, length as u64));
    }

    /// Keeps the order of first accesses in a file.
    pub fn save_trace(&self, path: &std::path::Path) -> Result<()> {
        self.recorder.save(self.region.info().size, path)
    }

    /// Adds the figures of the background.
    pub fn put_into(&self, stats: &mut Stats) {
        let left = if self.order.is_all() { self.region.info().size - self.region.local_bytes() } else { 0 };
        let is_pulling = self.is_pulling.load(Ordering::Relaxed);
        let window = lock(&self.window);
        let rate = if is_pulling { window.rate(Instant::now()) } else { 0 };
        stats.put("pull_rate", rate);
        stats.put("pull_window", if is_pulling { window.bytes() } else { 0 });
        stats.put("pull_left_ms", left.saturating_mul(1000).checked_div(rate).unwrap_or(0));
    }

    /// Starts pulling in the background, if that was asked for.
    pub fn start(self: &Arc<Self>) -> Result<()> {
        if !self.background {
            return Ok(());
        }
        let puller = self.clone();
        self.is_pulling.store(true, Ordering::Relaxed);
        let started = thread::spawn("r3map-pull", move || {
            puller.run();
            puller.is_pulling.store(false, Ordering::Relaxed);
        });
        let started = started.map_err(|error| Error::io("start the puller", error))?;
        *lock(&self.thread) = Some(started);
        Ok(())
    }

    /// Stops pulling in the background; what is under way still lands.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.wake.signal();
        self.region.figures.landed.signal();
        let thread = lock(&self.thread).take();
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
                    lock(&self.window).asked(Instant::now(), self.region.bulk_bytes().0);
                    self.wait_landed(|| self.has_room());
                }
                None if self.region.fetching_bytes() > 0 => self.wait_landed(|| self.region.fetching_bytes() == 0),
                None if self.all_here() => {
                    if away {
                        self.events.back();
                    }
                    return self.events.tell(Kind::Local, None);
                }
                // All of the trace was asked for, and nothing else is to be.
                None if !self.order.is_all() && failures == self.region.figures.fetch_failures().0 => return,
                None if !self.order.is_all() => {}
                // What the app asked for is still on its way, and is absent again should that fail.
                None => self.wait_landed(|| self.all_here() || self.next().is_some()),
            }
            let (now, cause) = self.region.figures.fetch_failures();
            if now == failures {
                if away && self.has_room() {
                    away = false;
                    self.events.back();
                }
                pause = PAUSES.0;
                continue;
            }
            failures = now;
            self.order.restart();
            lock(&self.window).lost();
            // A store that takes nothing is told by who keeps it.
            if !away && !self.region.is_failing() {
                away = true;
                cause.into_iter().for_each(|cause| self.events.away(cause));
            }
            let _ = self.wake.wait(&Limit::within(pause), "pull", || self.stopped().then_some(()));
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Whether more may be under way, by what has landed until now.
    fn has_room(&self) -> bool {
        let (asked, landed) = self.region.bulk_bytes();
        let mut window = lock(&self.window);
        window.landed(Instant::now(), landed, self.region.backend().round_trip());
        asked - landed < window.bytes()
    }

    fn all_here(&self) -> bool {
        let states = self.region.states();
        states.next_run(0..states.pages(), Set::LOCAL.complement()).is_none()
    }

    fn wait_landed(&self, enough: impl Fn() -> bool) {
        let _ = self.region.figures.landed.wait(&Limit::none(), "pull", || (enough() || self.stopped()).then_some(()));
    }

    /// The next run to pull: at most a chunk of absent pages.
    pub fn next(&self) -> Option<Range<u64>> {
        let chunk = u64::from(self.region.info().chunk_size);
        let longest = lock(&self.window).longest(chunk);
        self.order.next(self.region.states(), chunk / PAGE, longest / PAGE)
    }
}

/// Bytes of memory that this host has.
fn memory() -> u64 {
    nix::sys::sysinfo::sysinfo().map_or(0, |info| info.ram_total())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}
