//! Sending pages to the backend: one push a page at a time, and what was written meanwhile stays dirty.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use crate::backend::{Completion, Operation, Priority, Reply, Request};
use crate::buffer::Buffer;
use crate::cancel::{Limit, Signal};
use crate::error::{Error, Result};
use crate::page::{Change, PAGE, Set, State};
use crate::region::Region;
use crate::sync::atomic::{Ordering, fence};
use crate::sync::{Mutex, MutexGuard};

/// Pushes under way, and what failed.
#[derive(Default)]
pub struct Pushes {
    state: Mutex<Under>,
    changed: Signal,
}

#[derive(Default)]
struct Under {
    next: u64,
    way: BTreeSet<u64>,
    bytes: u64,
    /// How many pushes failed so far.
    failures: u64,
    /// The newest failure, and the number of the last push begun when it happened.
    newest: Option<(u64, Error)>,
    /// The highest number of a push that got through.
    through: u64,
}

impl Under {
    fn begin(&mut self, bytes: u64) -> u64 {
        self.next += 1;
        self.way.insert(self.next);
        self.bytes += bytes;
        self.next
    }
}

const TAKE: Change = Change::of(&[(State::Dirty, State::Pushing), (State::Quiet, State::Pushing)]);
const TAKE_QUIET: Change = Change::of(&[(State::Quiet, State::Pushing)]);
const TAKE_ZERO: Change = Change::of(&[(State::ZeroDirty, State::ZeroPushing)]);
const PUSHED: Change =
    Change::of(&[(State::Pushing, State::Clean), (State::Redirtied, State::Dirty), (State::ZeroPushing, State::Zero)]);
const NOT_PUSHED: Change = Change::of(&[
    (State::Pushing, State::Dirty),
    (State::Redirtied, State::Dirty),
    (State::ZeroPushing, State::ZeroDirty),
]);
/// What waits to be pushed, or may in a moment.
const WAITING: Set = DIRTY.with(State::ZeroDirty).with(State::Filling);
/// What is pushed with its bytes.
const DIRTY: Set = Set::of(&[State::Dirty, State::Quiet]);
/// What is newer here than at the backend and takes memory.
const KEPT_DIRTY: Set = DIRTY.with(State::Pushing).with(State::Redirtied);
const QUIETEN: Change = Change::of(&[(State::Dirty, State::Quiet)]);
/// Zeroes carry no bytes: one push may be long.
const LONGEST_ZERO: u64 = (1 << 30) / PAGE;

impl Region {
    /// Starts pushing the first dirty run at or after `from`, at most a request long, and says where to look for
    /// the next: no page before that is left dirty. `None` if nothing there is.
    pub fn push_next(self: &Arc<Self>, mut from: u64, deadline: Option<Instant>) -> Option<u64> {
        loop {
            from = self.states().next_run(from..self.states().pages(), WAITING)?.start;
            let (kind, take, longest) = match self.settled(from) {
                State::Dirty | State::Quiet => (DIRTY, &TAKE, self.longest_push()),
                State::ZeroDirty => (Set::of(&[State::ZeroDirty]), &TAKE_ZERO, LONGEST_ZERO),
                _ => continue,
            };
            let stop = self.states().pages().min(from + longest);
            let Some(run) = self.states().next_run(from..stop, kind) else { continue };
            // What a writer split is looked at again from there.
            if let Some(first) = self.push_run(run, take, deadline).first().filter(|first| first.start == from) {
                return Some(first.end);
            }
        }
    }

    /// Starts pushing the first run at or after `from`, at most a request long, of pages that are quiet and whose
    /// neighbours are so, too: at least `shortest` pages. Says which; `None` if nothing there is.
    pub fn push_quiet(
        self: &Arc<Self>,
        mut from: u64,
        shortest: u64,
        deadline: Option<Instant>,
    ) -> Option<Vec<Range<u64>>> {
        let pages = self.states().pages();
        loop {
            let run = self.states().next_run(from..pages, Set::of(&[State::Quiet]))?;
            from = run.end.min(run.start + self.longest_push());
            if run.end - run.start < shortest {
                continue;
            }
            let taken = self.push_quiet_of(run.start..from, deadline);
            if !taken.is_empty() {
                return Some(taken);
            }
        }
    }

    /// Starts pushing what of a run is still quiet, which a writer may have split by now; says which.
    pub(super) fn push_quiet_of(self: &Arc<Self>, run: Range<u64>, deadline: Option<Instant>) -> Vec<Range<u64>> {
        self.push_run(run, &TAKE_QUIET, deadline)
    }

    /// Makes dirty pages quiet, but for those that are to be left; says how many.
    pub fn quieten(&self, leave: impl Fn(u64) -> bool) -> u64 {
        let (mut at, mut quiet) = (0, 0);
        while let Some(run) = self.states().next_run(at..self.states().pages(), Set::of(&[State::Dirty])) {
            at = run.end;
            let mut start = run.start;
            while start < run.end {
                let end = (start..run.end).find(|page| leave(*page)).unwrap_or(run.end);
                self.states().change(start..end, &QUIETEN, |run, _, _| quiet += run.end - run.start);
                start = end + 1;
            }
        }
        quiet
    }

    fn longest_push(&self) -> u64 {
        (u64::from(self.info().max_request.min(self.info().chunk_size.max(1 << 20))) / PAGE).max(1)
    }

    /// Pushes what `take` takes of a run; says which pieces that are.
    fn push_run(self: &Arc<Self>, run: Range<u64>, take: &Change, deadline: Option<Instant>) -> Vec<Range<u64>> {
        let taken = self.take(run, take);
        let pieces = taken.iter().map(|(_, run, _)| run.clone()).collect();
        for (number, run, from) in taken {
            self.push(number, run, from == State::ZeroDirty, deadline);
        }
        pieces
    }

    /// Takes the pages of a run that still are as `take` wants them: a push for each piece. A page is never seen
    /// as being pushed before its push counts as begun, or a sync would not wait for it.
    fn take(&self, run: Range<u64>, take: &Change) -> Vec<(u64, Range<u64>, State)> {
        let mut taken = Vec::new();
        let mut under = self.pushes.lock();
        self.states().change(run, take, |run, from, _| {
            let bytes = self.bytes_of(&run);
            taken.push((under.begin(bytes.end - bytes.start), run, from));
        });
        taken
    }

    fn push(self: &Arc<Self>, number: u64, pages: Range<u64>, zero: bool, deadline: Option<Instant>) {
        let bytes = self.bytes_of(&pages);
        let length = bytes.end - bytes.start;
        // A write that found these pages dirty stored its bytes before.
        fence(Ordering::SeqCst);
        let ledger = self.ledger.as_ref();
        let mut checks = Vec::new();
        let mut checked = |bytes: Option<&[u8]>| {
            checks = ledger.map_or_else(Vec::new, |ledger| ledger.checks(&pages, bytes));
        };
        let begun = ledger.map_or(Ok(()), |ledger| ledger.pushing(pages.clone()));
        let operation = begun.and_then(|()| {
            if zero {
                checked(None);
                return Ok(Operation::Zero { offset: bytes.start, length });
            }
            let mut data = Buffer::new(length as usize);
            self.read_store(&mut data, bytes.start)?;
            checked(Some(&data));
            Ok(Operation::Write { offset: bytes.start, data })
        });
        let region = Arc::downgrade(self);
        // A cache is nobody else's before what leaves it has arrived: it could go over what the next one pushes.
        let ledger = self.ledger.clone();
        let completion = Completion::new(move |outcome| {
            if let Some(region) = region.upgrade() {
                if let (Some(ledger), Ok(_)) = (&ledger, &outcome) {
                    ledger.pushed(pages.clone(), &checks);
                }
                region.pushed(number, pages, length, outcome);
            }
        });
        match operation {
            Err(error) => completion.complete(Err(error)),
            Ok(operation) => {
                let request = Request { operation, priority: Priority::Bulk, deadline, completion };
                self.backend().clone().submit(request);
            }
        }
    }

    fn pushed(&self, number: u64, pages: Range<u64>, length: u64, outcome: Result<Reply>) {
        let change = if outcome.is_ok() { &PUSHED } else { &NOT_PUSHED };
        // Every page leaves this push once; a zero that is just being given bytes does when it has them.
        let mut left = vec![pages];
        while let Some(run) = left.pop() {
            self.settled(run.start);
            let mut at = run.start;
            self.states().change(run.clone(), change, |changed, _, _| {
                left.extend((at < changed.start).then_some(at..changed.start));
                at = changed.end;
            });
            left.extend((at < run.end).then_some(at..run.end));
        }
        if outcome.is_ok() {
            self.figures.pushed.add(length);
        }
        self.pushes.end(number, length, outcome.err());
    }

    /// Pushes everything that is dirty at this moment, whoever made it so, and waits for it. Fails if a push
    /// failed and did not get through at the second try; what failed stays dirty.
    pub fn push_all(self: &Arc<Self>, window: u64, limit: &Limit) -> Result<()> {
        self.collect()?;
        let mut failures = 0;
        // Each push keeps the deadline and says why it could not be.
        let patient = limit.and_a_moment();
        // Once for what is dirty, and once more for what was being pushed while it was written, or failed. A page
        // that fails in the second round may have been anybody's push: that it failed is all one needs to know.
        for _ in 0..2 {
            failures = self.pushes.lock().failures;
            let mut from = 0;
            while let Some(next) = self.push_next(from, limit.deadline) {
                from = next;
                self.pushes.wait_below(window, &patient)?;
            }
            let begun = self.pushes.lock().next;
            self.pushes.wait_through(begun, &patient)?;
        }
        self.pushes.failed_since(failures)
    }

    /// Bytes of pushes under way.
    pub fn pushing_bytes(&self) -> u64 {
        self.pushes.lock().bytes
    }

    /// Waits until fewer than `window` bytes of pushes are under way.
    pub fn wait_pushing_below(&self, window: u64, limit: &Limit) -> Result<()> {
        self.pushes.wait_below(window, limit)
    }

    /// Waits until `enough`, asked again after each push that ended.
    pub fn wait_pushes(&self, limit: &Limit, what: &str, enough: impl Fn() -> bool) -> Result<()> {
        self.pushes.changed.wait(limit, what, || enough().then_some(()))
    }

    /// Lets those who [wait](Region::wait_pushes) ask again.
    pub fn tell_pushes(&self) {
        self.pushes.changed.signal();
    }

    /// Bytes kept here that are newer than at the backend, as far as is known without asking a mapping.
    pub fn kept_dirty_bytes(&self) -> u64 {
        self.states().count(KEPT_DIRTY) * PAGE
    }

    /// The newest push failure, if nothing begun after it got through since.
    pub fn push_failure(&self) -> Option<Error> {
        self.push_failure_since(&mut { u64::MAX })
    }

    /// The failure that stands, or the newest that is not among the first `told`, even where others got through
    /// since: no failure goes untold. Counts all as told.
    pub fn push_failure_since(&self, told: &mut u64) -> Option<Error> {
        let under = self.pushes.lock();
        let is_news = under.failures > std::mem::replace(told, under.failures);
        let (last, error) = under.newest.as_ref()?;
        (is_news || under.through <= *last).then(|| error.clone())
    }

    /// Bytes newer here than at the backend, as far as is known without asking a mapping.
    pub fn dirty_bytes(&self) -> u64 {
        (self.states().count(Set::UNPUSHED) * PAGE).min(self.info().size)
    }
}

impl Pushes {
    fn lock(&self) -> MutexGuard<'_, Under> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn end(&self, number: u64, bytes: u64, error: Option<Error>) {
        let mut under = self.lock();
        under.way.remove(&number);
        under.bytes -= bytes;
        match error {
            Some(error) => {
                under.failures += 1;
                under.newest = Some((under.next, error));
            }
            None => under.through = under.through.max(number),
        }
        drop(under);
        self.changed.signal();
    }

    fn wait_below(&self, bytes: u64, limit: &Limit) -> Result<()> {
        self.changed.wait(limit, "push", || (self.lock().bytes < bytes).then_some(()))
    }

    fn wait_through(&self, number: u64, limit: &Limit) -> Result<()> {
        self.changed.wait(limit, "push", || self.lock().way.first().is_none_or(|first| *first > number).then_some(()))
    }

    /// The newest failure, if there were more than `before`.
    fn failed_since(&self, before: u64) -> Result<()> {
        let under = self.lock();
        match &under.newest {
            Some((_, error)) if under.failures > before => Err(error.clone()),
            _ => Ok(()),
        }
    }
}
