//! What a leecher, its thread and its mounts have in common.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::backend::remote::leech::{Heard, Seed};
use crate::cancel::{Limit, Signal};
use crate::error::{Code, Error, Result};
use crate::event::{Events, Kind};
use crate::migration::Moved;
use crate::migration::leecher::LeechState;
use crate::migration::leecher::feed::Feed;
use crate::migration::leecher::place::Place;
use crate::mount::managed::Managed;
use crate::mount::seeding::Arriving;
use crate::mount::{Mount, WeakMount};
use crate::options::MountOptions;
use crate::page::PAGE;
use crate::region::{Paged, Region};
use crate::stats::Stats;

/// How long closing waits for the source to know that all is here.
const FAREWELL: Duration = Duration::from_secs(5);

/// What the thread is told.
pub enum Input {
    /// The connection to the source.
    Heard(Heard),
    /// The app wants the region, or no longer: how many calls wait for it is in the status.
    Finalize,
    /// End.
    Stop,
}

/// What waits for the thread.
pub struct Inbox {
    inputs: Mutex<VecDeque<Input>>,
    /// Signalled when something is put here, when something landed and when the status changed.
    pub signal: Arc<Signal>,
}

impl Inbox {
    /// Nothing waits yet.
    pub fn new() -> Inbox {
        Inbox { inputs: Mutex::default(), signal: Arc::default() }
    }

    fn inputs(&self) -> MutexGuard<'_, VecDeque<Input>> {
        self.inputs.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Tells the thread.
    pub fn put(&self, input: Input) {
        self.inputs().push_back(input);
        self.signal.signal();
    }

    /// What was told, in order.
    pub fn take(&self) -> VecDeque<Input> {
        std::mem::take(&mut *self.inputs())
    }

    /// Whether the end is among it.
    pub fn is_stopping(&self) -> bool {
        self.inputs().iter().any(|input| matches!(input, Input::Stop))
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.inputs().is_empty()
    }
}

/// One of the regions that move as one.
pub struct Part {
    first: u64,
    managed: Arc<Managed>,
    feed: Arc<Feed>,
    place: Arc<Place>,
    events: Arc<Events>,
    mount: Mutex<Held>,
}

/// Who has the mount.
#[derive(Default)]
struct Held {
    /// The leecher, until it is handed out.
    here: Option<Mount>,
    /// Whoever it was handed to.
    there: WeakMount,
}

impl Part {
    /// The part that begins at page `first` of all.
    pub fn new(first: u64, managed: Arc<Managed>, feed: Arc<Feed>, place: Arc<Place>, events: Arc<Events>) -> Part {
        Part { first, managed, feed, place, events, mount: Mutex::default() }
    }

    /// Its first page among all.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Its pages.
    pub fn region(&self) -> &Arc<Region> {
        self.managed.pages()
    }

    /// Its region, as devices and handles see it.
    pub fn managed(&self) -> &Arc<Managed> {
        &self.managed
    }

    /// Where its bytes come from.
    pub fn feed(&self) -> &Arc<Feed> {
        &self.feed
    }

    /// Where its bytes lie.
    pub fn place(&self) -> &Arc<Place> {
        &self.place
    }

    /// Its mount, if that was not dropped.
    pub fn mount(&self) -> Option<Mount> {
        let held = self.mount.lock().unwrap_or_else(|e| e.into_inner());
        held.here.clone().or_else(|| held.there.upgrade())
    }

    fn keep(&self, mount: Mount) {
        let mut held = self.mount.lock().unwrap_or_else(|e| e.into_inner());
        held.there = mount.downgrade();
        held.here = Some(mount);
    }

    fn hand_out(&self) -> Result<Mount> {
        let mut held = self.mount.lock().unwrap_or_else(|e| e.into_inner());
        let there = held.there.upgrade().filter(|mount| !mount.is_closed());
        held.here.take().or(there).ok_or_else(|| {
            Error::new(Code::Closed, "finalize: the mount was closed: leech again to go on where it was left")
        })
    }

    fn is_handed_out(&self) -> bool {
        self.mount.lock().unwrap_or_else(|e| e.into_inner()).here.is_none()
    }

    fn let_go(&self) -> Option<Mount> {
        self.mount.lock().unwrap_or_else(|e| e.into_inner()).here.take()
    }
}

/// What the thread says of itself.
#[derive(Clone)]
pub struct Status {
    /// Where it stands.
    pub state: LeechState,
    /// Why it does not get on, or why it ended.
    pub cause: Option<Error>,
    /// With what every call fails, at the end.
    pub over: Option<Error>,
    /// Whether the region is here.
    pub owns: bool,
    /// Whether it voted and does not know what came of it.
    pub bound: bool,
    /// Whether the record says that all is here.
    pub complete: bool,
    /// Whether nothing ties it to its source any more, and its record is free.
    pub independent: bool,
    /// Whether there is a connection to the source.
    pub connected: bool,
    /// Whether there will be none any more, or a close waited for one in vain.
    pub forsaken: bool,
    /// How many votes came to nothing.
    pub aborted: u64,
    /// How many calls wait for the region.
    pub finalizing: u64,
    /// How many calls wait for more of it to be here.
    pub wanting: u64,
    /// The epoch.
    pub epoch: u64,
    /// Rounds of written pages so far.
    pub rounds: u64,
    /// Bytes that were written at the source and wait to be pulled again.
    pub dirty: u64,
    /// Bytes a second written at the source, each page counted once a round.
    pub dirty_rate: u64,
    /// Bytes a second that come.
    pub pull_rate: u64,
    /// How long a question takes.
    pub round_trip: Duration,
    /// How long writing the last record took.
    pub persisting: Duration,
    /// What the app at the source handed over.
    pub payload: Arc<Vec<u8>>,
}

/// What a leecher, its thread and its mounts have in common.
pub struct Core {
    seed: Arc<Seed>,
    region: Moved,
    parts: Vec<Part>,
    options: MountOptions,
    inbox: Arc<Inbox>,
    status: Mutex<Status>,
    thread: Mutex<Option<JoinHandle<()>>>,
    stopped: AtomicBool,
}

impl Core {
    /// The core of a leecher whose thread does not run yet.
    pub fn new(seed: Arc<Seed>, region: Moved, parts: Vec<Part>, options: MountOptions, inbox: Arc<Inbox>) -> Core {
        let status = Status {
            state: LeechState::Connecting,
            cause: None,
            over: None,
            owns: false,
            bound: false,
            complete: false,
            independent: false,
            connected: false,
            forsaken: false,
            aborted: 0,
            finalizing: 0,
            wanting: 0,
            epoch: region.epoch,
            rounds: 0,
            dirty: 0,
            dirty_rate: 0,
            pull_rate: 0,
            round_trip: Duration::ZERO,
            persisting: Duration::ZERO,
            payload: Arc::default(),
        };
        let (status, thread, stopped) = (Mutex::new(status), Mutex::default(), AtomicBool::new(false));
        Core { seed, region, parts, options, inbox, status, thread, stopped }
    }

    /// Makes the mounts, which let nobody in yet, with the view that is to be prepared.
    pub fn make_mounts(self: &Arc<Core>) -> Result<()> {
        for (index, part) in self.parts.iter().enumerate() {
            let tie = Tie { core: self.clone(), index };
            let (feed, managed) = (part.feed.clone(), part.managed.clone());
            let mount = Mount::leeched(feed, managed, part.events.clone(), self.options.clone(), tie)?;
            mount.arrives_by(self.clone());
            part.keep(mount);
        }
        Ok(())
    }

    /// The thread that drives it.
    pub fn set_thread(&self, thread: JoinHandle<()>) {
        *self.thread.lock().unwrap_or_else(|e| e.into_inner()) = Some(thread);
    }

    /// The client of the source.
    pub fn seed(&self) -> &Arc<Seed> {
        &self.seed
    }

    /// The regions.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// How it was opened.
    pub fn options(&self) -> &MountOptions {
        &self.options
    }

    /// What the thread waits for.
    pub fn inbox(&self) -> &Arc<Inbox> {
        &self.inbox
    }

    /// How many pages all parts have.
    pub fn pages(&self) -> u64 {
        self.region.pages()
    }

    /// A run of pages of all as runs of each part.
    pub fn split(&self, run: &Range<u64>) -> Vec<(&Part, Range<u64>)> {
        let after = self.parts.partition_point(|part| part.first <= run.start);
        let touched = self.parts[after.saturating_sub(1)..].iter().take_while(|part| part.first < run.end);
        let cut = |part: &Part| {
            let end = part.first + part.region().states().pages();
            run.start.max(part.first) - part.first..run.end.min(end).max(part.first) - part.first
        };
        touched.map(|part| (part, cut(part))).filter(|(_, run)| run.start < run.end).collect()
    }

    /// What the app wants pulled first, as pages of all, the most wanted first. The ranges count through all parts.
    pub fn named_pages(&self) -> Vec<Range<u64>> {
        let mut ranges = self.options.pull_ranges.clone();
        ranges.sort_by_key(|range| std::cmp::Reverse(range.priority));
        let pages = |offset: u64| (offset.min(self.region.size)).div_ceil(PAGE);
        let all = |range: &crate::options::PullRange| {
            (range.offset / PAGE).min(self.pages())..pages(range.offset.saturating_add(range.length))
        };
        ranges.iter().map(all).collect()
    }

    /// Bytes of background pulls under way.
    pub fn under_way(&self) -> u64 {
        self.parts.iter().map(|part| part.region().fetching_bytes()).sum()
    }

    fn sum(&self, of: impl Fn(&Part) -> u64) -> u64 {
        self.parts.iter().map(of).sum()
    }

    /// Bytes that came, by whatever way.
    pub fn landed_bytes(&self) -> u64 {
        self.sum(|part| part.feed.figures.landed.load(Ordering::Relaxed))
    }

    /// Bytes that are here.
    pub fn local_bytes(&self) -> u64 {
        self.sum(|part| part.region().local_bytes())
    }

    /// Bytes of all parts.
    pub fn size(&self) -> u64 {
        self.sum(|part| part.region().info().size)
    }

    /// Tells the app of every part.
    pub fn tell(&self, kind: Kind, cause: Option<Error>) {
        self.parts.iter().for_each(|part| part.events.tell(kind, cause.clone()));
    }

    /// What the thread says of itself.
    pub fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Changes what it says, and lets those look who wait for that.
    pub fn publish(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.status());
        self.inbox.signal.signal();
    }

    /// Waits until `look` finds something in the status, or the end.
    pub fn wait<T>(&self, limit: &Limit, what: &str, mut look: impl FnMut(&Status) -> Option<Result<T>>) -> Result<T> {
        let waited = self.inbox.signal.wait(limit, what, || {
            let status = self.status();
            status.over.clone().map(Err).or_else(|| look(&status))
        });
        match waited {
            Ok(outcome) => outcome,
            Err(error) => match self.status().cause.clone() {
                Some(cause) => Err(error.context(cause.message())),
                None => Err(error),
            },
        }
    }

    /// Waits until that share of all bytes is here, for which written ones are pulled as often as it takes.
    pub fn wait_local(&self, share: f64, limit: &Limit) -> Result<()> {
        let wanted = (share.clamp(0.0, 1.0) * self.size() as f64).ceil() as u64;
        self.want(limit, "wait for the region to be local", |_| self.local_bytes() >= wanted)
    }

    /// Waits for something that pulling brings nearer.
    pub fn want(&self, limit: &Limit, what: &str, enough: impl Fn(&Status) -> bool) -> Result<()> {
        self.publish(|status| status.wanting += 1);
        let outcome = self.wait(limit, what, |status| enough(status).then_some(Ok(())));
        self.publish(|status| status.wanting -= 1);
        outcome
    }

    /// Waits until the region is here, and hands it out.
    pub fn finalize(&self, limit: &Limit) -> Result<Vec<Mount>> {
        let before = {
            let mut status = self.status();
            status.finalizing += 1;
            status.aborted
        };
        self.inbox.put(Input::Finalize);
        let outcome = self.wait(limit, "finalize", |status| match &status.cause {
            _ if status.owns => Some(Ok(())),
            Some(cause) if status.aborted > before => Some(Err(cause.clone())),
            _ => None,
        });
        // A vote that came to nothing has counted off all who waited for it.
        self.publish(|status| status.finalizing -= u64::from(status.aborted == before));
        outcome?;
        self.parts.iter().map(Part::hand_out).collect()
    }

    /// How long it would take now until nothing is missing here after the app at the source has stopped; `None` while
    /// that cannot be said.
    pub fn expected_pause(&self, status: &Status) -> Option<Duration> {
        let missing = self.size().saturating_sub(self.local_bytes());
        let pulling = match (missing, status.pull_rate) {
            (0, _) => 0.0,
            (_, 0) => return None,
            (missing, rate) => missing as f64 / rate as f64,
        };
        Some(Duration::from_secs_f64(pulling.min(1e9)) + status.round_trip + status.persisting * 2)
    }

    /// Figures at this moment.
    pub fn stats(&self) -> Stats {
        let status = self.status().clone();
        let local = self.local_bytes();
        let mut stats = Stats::default();
        stats.put("size", self.size());
        stats.put("local_bytes", local);
        stats.put("missing_bytes", self.size().saturating_sub(local));
        stats.put("dirty_bytes", status.dirty);
        stats.put("dirty_rate", status.dirty_rate);
        stats.put("pull_rate", status.pull_rate);
        let pause = self.expected_pause(&status).map_or(u64::MAX, |pause| pause.as_micros() as u64);
        stats.put("expected_pause_us", pause);
        stats.put("rounds", status.rounds);
        stats.put("pulled_bytes", self.sum(|part| part.feed.figures.received.load(Ordering::Relaxed)));
        stats.put("matched_bytes", self.sum(|part| part.feed.figures.matched.load(Ordering::Relaxed)));
        stats.put("epoch", status.epoch);
        let (sent, received) = self.seed.traffic();
        stats.put("sent_bytes", sent);
        stats.put("received_bytes", received);
        stats
    }

    /// Ends the thread and the connections. The record says where to go on.
    pub fn stop(&self) {
        if self.stopped.swap(true, Ordering::SeqCst) {
            return;
        }
        self.inbox.put(Input::Stop);
        // Requests of the thread's own end with the connections.
        self.seed.close();
        let thread = self.thread.lock().unwrap_or_else(|e| e.into_inner()).take();
        // A mount may be dropped for the last time by the thread itself.
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
    }

    /// Closes a leecher: what was handed out goes on.
    pub fn close(&self, limit: &Limit) -> Result<()> {
        if self.parts.iter().all(Part::is_handed_out) {
            return Ok(());
        }
        let (bound, owns) = {
            let status = self.status();
            (status.bound, status.owns)
        };
        if bound {
            let message = "close: the region is on its way here or was refused, and which is not known yet: finalize \
                           again, or end the process and leech again to the same place";
            return Err(Error::new(Code::Busy, message));
        }
        if owns {
            self.check_leave(limit)?;
        }
        for part in &self.parts {
            let Some(mount) = part.mount() else { continue };
            if owns {
                mount.close()?
            } else {
                mount.retire()?
            }
            part.let_go();
        }
        self.stop();
        self.publish(|status| {
            status.over.get_or_insert_with(|| Error::new(Code::Closed, "the leecher is closed"));
        });
        Ok(())
    }

    /// Lets go of what nobody was given.
    pub fn abandon(&self) {
        if self.parts.iter().all(Part::is_handed_out) && !self.parts.is_empty() {
            return;
        }
        let mounts: Vec<_> = self.parts.iter().filter_map(Part::let_go).collect();
        self.stop();
        drop(mounts);
    }

    /// Waits a little for the source to know that all is here, also for one that may be coming back: until it knows it
    /// keeps the region's bytes for somebody who needs them no more. An error where leaving would lose the region.
    fn check_leave(&self, limit: &Limit) -> Result<()> {
        let missing = self.size().saturating_sub(self.local_bytes());
        if missing > 0 {
            if self.parts.iter().any(|part| !part.place.is_on_disk()) && self.status().over.is_none() {
                let message = format!(
                    "close: {missing} bytes of the region are still at its source, and what is here is in memory: \
                     wait_local(1.0) first, or discard it"
                );
                return Err(Error::new(Code::Busy, message).with_retryable(true));
            }
            return Ok(());
        }
        let farewell = Limit::within(FAREWELL);
        let deadline = [limit.deadline, farewell.deadline].into_iter().flatten().min();
        let patient = Limit { deadline, cancel: limit.cancel.clone() };
        let left = self.wait(&patient, "close", |status| {
            (status.independent || status.forsaken || status.state == LeechState::Fenced).then_some(Ok(()))
        });
        if let Err(error) = left {
            tracing::info!(%error, "a mount closes before its source said that it knows it is complete");
            // Other parts of the region do not wait once more for a source that is away.
            self.publish(|status| status.forsaken = !status.connected);
        }
        Ok(())
    }
}

impl Arriving for Core {
    fn has_arrived(&self) -> bool {
        let status = self.status();
        if status.complete && !status.connected && !status.independent {
            // A source that is away need not know that the region can move on. It learns it when it is asked for it.
            self.inbox.put(Input::Stop);
        }
        status.independent
    }
}

/// What holds a mount to the leecher it came from.
pub struct Tie {
    core: Arc<Core>,
    index: usize,
}

impl Tie {
    /// What the app at the source handed over; the bytes stay for as long as the tie.
    pub fn payload(&self) -> Arc<Vec<u8>> {
        self.core.status().payload.clone()
    }

    /// Before the mount closes: an error where that would lose the region.
    pub fn check_leave(&self, limit: &Limit) -> Result<()> {
        self.core.check_leave(limit)
    }

    /// The mount is closed: so is all the rest, once no other part is open.
    pub fn leave(&self) {
        let others = self.core.parts.iter().enumerate().filter(|(index, _)| *index != self.index);
        if others.filter_map(|(_, part)| part.mount()).all(|mount| mount.is_closed()) {
            self.core.stop();
        }
    }

    /// Adds what only a leecher knows.
    pub fn put_into(&self, stats: &mut Stats) {
        let part = &self.core.parts[self.index];
        stats.put("matched_bytes", part.feed.figures.matched.load(Ordering::Relaxed));
        stats.put("epoch", self.core.status().epoch);
    }
}
