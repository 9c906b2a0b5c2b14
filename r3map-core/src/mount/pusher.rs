//! Sends what was written to the backend while the app goes on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::cancel::{Limit, Signal, deadline_in};
use crate::error::{Error, Result};
use crate::event::{Events, Kind};
use crate::mount::backlog::Backlog;
use crate::mount::looks::Looks;
use crate::options::MountOptions;
use crate::page::PAGE;
use crate::region::Region;
use crate::thread;
use crate::wire::socket::spread;

/// Bytes of pushes under way at once.
const WINDOW: u64 = 16 << 20;
/// The shortest run that is pushed before the interval is over: 64 KiB. Shorter ones may still grow together.
const SHORTEST: u64 = (64 << 10) / PAGE;

/// The first pause after a push that failed, and the longest: each is twice as long as the one before.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// The time between two rounds while as much is dirty as may be.
const CROWDED: Duration = Duration::from_millis(10);

/// The pusher of a region.
pub struct Pusher {
    region: Arc<Region>,
    events: Arc<Events>,
    interval: Duration,
    window: u64,
    deadline: Duration,
    stop: AtomicBool,
    /// Whether nothing may be sent; locked by whoever is about to begin a push.
    held: Mutex<bool>,
    backlog: Arc<Backlog>,
    wake: Arc<Signal>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Pusher {
    /// A pusher that does nothing in the background until it is started.
    pub fn new(region: Arc<Region>, events: Arc<Events>, options: &MountOptions) -> Pusher {
        let wake = Arc::<Signal>::default();
        Pusher {
            backlog: Arc::new(Backlog::new(region.clone(), wake.clone())),
            region,
            events,
            interval: options.push_interval,
            window: options.max_in_flight.unwrap_or(WINDOW),
            deadline: options.deadline,
            stop: AtomicBool::new(false),
            held: Mutex::new(false),
            wake,
            thread: Mutex::default(),
        }
    }

    /// Starts pushing in the background, unless the interval is zero.
    pub fn start(self: &Arc<Self>) -> Result<()> {
        if self.interval.is_zero() {
            return Ok(());
        }
        let pusher = self.clone();
        let looks = Looks::new(self.interval, self.region.states().pages())?;
        let started = thread::spawn("r3map-push", move || pusher.run(looks));
        let started = started.map_err(|error| Error::io("start the pusher", error))?;
        *self.thread.lock().unwrap_or_else(|e| e.into_inner()) = Some(started);
        self.backlog.set_leaves(true);
        Ok(())
    }

    /// What holds writers back.
    pub fn backlog(&self) -> &Arc<Backlog> {
        &self.backlog
    }

    /// Stops pushing in the background; what is under way is still resolved.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.backlog.set_leaves(false);
        self.wake.signal();
        let thread = self.thread.lock().unwrap_or_else(|e| e.into_inner()).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }

    /// Begins no more pushes in the background until [`go_on`](Pusher::go_on), and waits until those under way are
    /// resolved.
    pub fn hold(&self, limit: &Limit) -> Result<()> {
        *self.held() = true;
        self.backlog.set_leaves(false);
        self.region.wait_pushing_below(1, limit)
    }

    /// Pushes again.
    pub fn go_on(&self) {
        *self.held() = false;
        let runs = self.thread.lock().unwrap_or_else(|e| e.into_inner()).is_some();
        self.backlog.set_leaves(runs);
    }

    fn held(&self) -> MutexGuard<'_, bool> {
        self.held.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Pushes everything that is dirty now and waits until the backend has it. Tries again within the limit where
    /// that may help.
    pub fn push_all(&self, limit: &Limit) -> Result<()> {
        let mut pause = PAUSES.0;
        loop {
            let Err(error) = self.region.push_all(self.window, limit) else { return Ok(()) };
            let next = Instant::now() + spread(pause);
            if !error.is_retryable() || limit.deadline.is_some_and(|deadline| next >= deadline) || self.is_stopped() {
                self.events.tell(Kind::PushFailed, Some(error.clone()));
                return Err(error);
            }
            let rest = Limit { deadline: Some(next), cancel: limit.cancel.clone() };
            let _ = self.wake.wait(&rest, "push", || self.is_stopped().then_some(()));
            limit.check("push")?;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn run(&self, mut looks: Looks) {
        thread::as_batch();
        let mut due = deadline_in(self.interval);
        let mut pause = None;
        let mut told = 0;
        loop {
            let look = deadline_in(looks.pause());
            // Where much waits all of it goes at once. What does not get through is not tried sooner than it has to be.
            let crowded = self.backlog.is_reached().then(|| deadline_in(CROWDED)).flatten();
            let next = match pause {
                Some(pause) => deadline_in(spread(pause)),
                None => due.into_iter().chain(look).chain(crowded).min(),
            };
            let hurried = || pause.is_none() && self.backlog.is_hurried();
            let called = || (self.is_stopped() || hurried()).then_some(());
            let called = self.wake.wait(&Limit { deadline: next, cancel: None }, "push", called).is_ok();
            if self.is_stopped() {
                return;
            }
            let limit = Limit { deadline: deadline_in(self.deadline), cancel: None };
            let pushed = if !called && pause.is_none() && next == look {
                self.look(&mut looks, &limit)
            } else {
                let round = self.round(&mut looks, &limit);
                due = deadline_in(self.interval);
                round
            };
            let pushed = pushed.and_then(|()| self.region.push_failure_since(&mut told).map_or(Ok(()), Err));
            match (&pushed, pause) {
                (Err(error), None) => self.events.tell(Kind::PushFailed, Some(error.clone())),
                (Ok(()), Some(_)) => self.events.tell(Kind::Recovered, None),
                _ => {}
            }
            let longer = |pause: Option<Duration>| pause.map_or(PAUSES.0, |pause| (pause * 2).min(PAUSES.1));
            pause = pushed.is_err().then(|| longer(pause));
        }
    }

    /// Starts a push, unless pushing is held.
    fn unless_held<T>(&self, push: impl FnOnce() -> Option<T>) -> Option<T> {
        let held = self.held();
        if *held { None } else { push() }
    }

    /// Pushes all that is dirty.
    fn round(&self, looks: &mut Looks, limit: &Limit) -> Result<()> {
        if *self.held() {
            return Ok(());
        }
        self.region.collect()?;
        looks.begin_interval(&self.region);
        let mut from = 0;
        while let Some(next) = self.unless_held(|| self.region.push_next(from, limit.deadline)) {
            from = next;
            if !self.has_room(limit)? {
                break;
            }
        }
        Ok(())
    }

    /// Pushes long runs that were dirty at the last look and were not written since, nor pushed in this interval.
    fn look(&self, looks: &mut Looks, limit: &Limit) -> Result<()> {
        if *self.held() {
            return Ok(());
        }
        let begun = Instant::now();
        self.region.collect()?;
        let cost = begun.elapsed();
        let (mut from, mut pushed) = (0, 0);
        while let Some(runs) = self.unless_held(|| self.region.push_quiet(from, SHORTEST, limit.deadline)) {
            for run in runs {
                from = run.end;
                pushed += run.end - run.start;
                looks.pushed(run);
            }
            if !self.has_room(limit)? {
                break;
            }
        }
        let quiet = self.region.quieten(|page| looks.has_pushed(page));
        looks.learn(&self.region, pushed, quiet, cost);
        Ok(())
    }

    /// Waits for room in the window; says whether to go on.
    fn has_room(&self, limit: &Limit) -> Result<bool> {
        self.region.wait_pushing_below(self.window, limit)?;
        Ok(!self.is_stopped())
    }
}
