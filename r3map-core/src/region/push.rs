//! Sending pages to the backend: one push a page at a time, and what was written meanwhile stays dirty.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::backend::{Completion, Operation, Priority, Reply, Request};
use crate::buffer::Buffer;
use crate::cancel::{Limit, Signal};
use crate::error::{Error, Result};
use crate::page::{Change, PAGE, Set, State};
use crate::region::Region;

/// Pushes under way, and the failure that every sync tells until one gets through.
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
    /// The newest failure, and the number of the last push started when it happened.
    failure: Option<(u64, Error)>,
}

const TAKE: Change = Change::of(&[(State::Dirty, State::Pushing)]);
const TAKE_ZERO: Change = Change::of(&[(State::ZeroDirty, State::ZeroPushing)]);
const PUSHED: Change =
    Change::of(&[(State::Pushing, State::Clean), (State::Redirtied, State::Dirty), (State::ZeroPushing, State::Zero)]);
const NOT_PUSHED: Change = Change::of(&[
    (State::Pushing, State::Dirty),
    (State::Redirtied, State::Dirty),
    (State::ZeroPushing, State::ZeroDirty),
]);
const WAITING: Set = Set::of(&[State::Dirty, State::ZeroDirty]);
/// Zeroes carry no bytes: one push may be long.
const LONGEST_ZERO: u64 = (1 << 30) / PAGE;

impl Region {
    /// Starts one push of the first dirty run at or after `from`, coalesced to at most a request, and says
    /// where to look for the next; `None` if nothing there is dirty.
    pub fn push_next(self: &Arc<Self>, from: u64, deadline: Option<Instant>) -> Option<u64> {
        let run = self.states().next_run(from..self.states().pages(), WAITING)?;
        let longest = u64::from(self.info().max_request.min(self.info().chunk_size.max(1 << 20))) / PAGE;
        let zero = self.states().get(run.start) == State::ZeroDirty;
        let end = run.end.min(run.start + if zero { LONGEST_ZERO } else { longest.max(1) });
        let mut taken: Option<Range<u64>> = None;
        let mut rest = Vec::new();
        self.states().change(run.start..end, if zero { &TAKE_ZERO } else { &TAKE }, |run, _, _| match taken {
            None => taken = Some(run),
            Some(_) => rest.push(run),
        });
        // A change that skips a page reports two runs; each becomes a push of its own.
        for run in taken.into_iter().chain(rest) {
            self.push(run, zero, deadline);
        }
        Some(end)
    }

    fn push(self: &Arc<Self>, pages: Range<u64>, zero: bool, deadline: Option<Instant>) {
        let bytes = self.bytes_of(&pages);
        let length = bytes.end - bytes.start;
        let number = self.pushes.begin(length);
        let operation = if zero {
            Ok(Operation::Zero { offset: bytes.start, length })
        } else {
            let mut data = Buffer::new(length as usize);
            self.read_store(&mut data, bytes.start).map(|()| Operation::Write { offset: bytes.start, data })
        };
        let region = self.clone();
        let completion = Completion::new(move |outcome| region.pushed(number, pages, length, outcome));
        match operation {
            Err(error) => completion.complete(Err(error)),
            Ok(operation) => {
                let request = Request { operation, priority: Priority::Bulk, deadline, completion };
                self.backend().clone().submit(request);
            }
        }
    }

    fn pushed(&self, number: u64, pages: Range<u64>, length: u64, outcome: Result<Reply>) {
        // A page of zeroes that is just being given bytes is ours again in a moment.
        let filling = Set::of(&[State::Filling]);
        while let Some(run) = self.states().next_run(pages.clone(), filling) {
            self.settled(run.start);
        }
        self.states().change(pages, if outcome.is_ok() { &PUSHED } else { &NOT_PUSHED }, |_, _, _| {});
        if outcome.is_ok() {
            self.figures.pushed.add(length);
        }
        self.pushes.end(number, length, outcome.err());
    }

    /// Pushes everything that is dirty at this moment, whoever made it so, and waits for it. Fails if any push
    /// failed since then; what failed stays dirty.
    pub fn push_all(self: &Arc<Self>, window: u64, limit: &Limit) -> Result<()> {
        self.collect()?;
        let begun = self.pushes.number();
        // Once for what is dirty, and once more for what was being pushed while it was written.
        for _ in 0..2 {
            let mut from = 0;
            while let Some(next) = self.push_next(from, limit.deadline) {
                from = next;
                self.pushes.wait_below(window, limit)?;
            }
            self.pushes.wait_through(self.pushes.number(), limit)?;
        }
        self.pushes.failed_since(begun)
    }

    /// Bytes of pushes under way.
    pub fn pushing_bytes(&self) -> u64 {
        self.pushes.lock().bytes
    }

    /// Waits until fewer than `window` bytes of pushes are under way.
    pub fn wait_pushing_below(&self, window: u64, limit: &Limit) -> Result<()> {
        self.pushes.wait_below(window, limit)
    }

    /// The newest push failure, if nothing got through since.
    pub fn push_failure(&self) -> Option<Error> {
        self.pushes.lock().failure.as_ref().map(|(_, error)| error.clone())
    }

    /// Bytes newer here than at the backend, as far as is known without asking a mapping.
    pub fn dirty_bytes(&self) -> u64 {
        (self.states().count(Set::UNPUSHED) * PAGE).min(self.info().size)
    }
}

impl Pushes {
    fn lock(&self) -> std::sync::MutexGuard<'_, Under> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn begin(&self, bytes: u64) -> u64 {
        let mut under = self.lock();
        under.next += 1;
        let number = under.next;
        under.way.insert(number);
        under.bytes += bytes;
        number
    }

    fn end(&self, number: u64, bytes: u64, error: Option<Error>) {
        let mut under = self.lock();
        under.way.remove(&number);
        under.bytes -= bytes;
        match error {
            Some(error) => under.failure = Some((under.next, error)),
            // Something begun after the failure got through: the way is open again.
            None if under.failure.as_ref().is_some_and(|(last, _)| number > *last) => under.failure = None,
            None => {}
        }
        drop(under);
        self.changed.signal();
    }

    /// The number of the last push begun.
    fn number(&self) -> u64 {
        self.lock().next
    }

    fn wait_below(&self, bytes: u64, limit: &Limit) -> Result<()> {
        self.changed.wait(limit, "push", || (self.lock().bytes < bytes).then_some(()))
    }

    fn wait_through(&self, number: u64, limit: &Limit) -> Result<()> {
        self.changed.wait(limit, "push", || self.lock().way.first().is_none_or(|first| *first > number).then_some(()))
    }

    fn failed_since(&self, number: u64) -> Result<()> {
        match &self.lock().failure {
            Some((last, error)) if *last >= number => Err(error.clone()),
            _ => Ok(()),
        }
    }
}
