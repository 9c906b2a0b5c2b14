//! The requests of a device that wait for their backend, and the thread that cares for those that fail.
//!
//! The kernel treats a connection that does not answer in time as dead and sends its requests again over
//! another, so every request is answered before: by its completion or, at the deadline, by the care thread.
//! That thread alone logs, because a log may lead to the region itself.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::cancel::deadline_in;
use crate::device::nbd::queue::Queue;
use crate::error::{Code, Error};
use crate::wire::nbd::{Command, Request, error_number};

/// How late a request may be failed. The kernel's own bound leaves twice as much.
const SLACK: Duration = Duration::from_secs(5);

/// A request that was not answered yet.
pub struct Parked {
    /// Where it came from and its answer goes.
    pub queue: Arc<Queue>,
    /// What it asks.
    pub request: Request,
    /// When it fails; `None` is never.
    pub deadline: Option<Instant>,
}

/// The waiting requests of one device.
pub struct Care {
    name: String,
    time: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    next: u64,
    /// By number; as all have the same time, in the order of their deadlines too.
    parked: BTreeMap<u64, Parked>,
    failed: VecDeque<(Parked, Error)>,
    latest: Option<Error>,
    /// Why the last flush failed.
    flush: Option<Error>,
    /// Whether the kernel was told that a change failed, or may have been: it drops the bytes then.
    lost: bool,
    closing: Option<Instant>,
    ended: bool,
}

impl Care {
    /// Cares for requests to the region of that name, each of which may take `time`; zero is for ever.
    pub fn new(name: String, time: Duration) -> Care {
        Care { name, time, state: Mutex::default(), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Keeps a request until it is [taken](Care::take): its number, and when it fails.
    pub fn park(&self, queue: &Arc<Queue>, request: Request) -> (u64, Option<Instant>) {
        let deadline = deadline_in(self.time);
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        state.parked.insert(number, Parked { queue: queue.clone(), request, deadline });
        (number, deadline)
    }

    /// Takes a request to answer it; `None` if it was answered already. Whoever gets it answers it.
    pub fn take(&self, number: u64) -> Option<Parked> {
        self.state().parked.remove(&number)
    }

    /// Keeps a request that was taken for another while, and says when it fails.
    pub fn put_back(&self, number: u64, parked: Parked) -> Option<Instant> {
        let deadline = parked.deadline;
        self.state().parked.insert(number, parked);
        deadline
    }

    /// Has the care thread log the cause and then answer a request with an error.
    pub fn fail(&self, parked: Parked, error: Error) {
        self.state().failed.push_back((parked, error));
        self.changed.notify_one();
    }

    /// The error with which a request failed last.
    pub fn latest_failure(&self) -> Option<Error> {
        self.state().latest.clone()
    }

    /// Keeps why a connection ended, for those whose requests end with it.
    pub fn note(&self, error: Error) {
        let mut state = self.state();
        (state.latest, state.lost) = (Some(error), true);
    }

    /// Why a flush failed that lost nothing and may be tried again: what was written is kept below.
    pub fn passing_failure(&self) -> Option<Error> {
        let state = self.state();
        state.flush.clone().filter(|error| !state.lost && error.is_retryable())
    }

    /// No request may take longer than until then.
    pub fn close_by(&self, deadline: Option<Instant>) {
        self.state().closing = deadline;
        self.changed.notify_one();
    }

    /// Ends the care thread once nothing that failed is unanswered.
    pub fn end(&self) {
        self.state().ended = true;
        self.changed.notify_one();
    }

    /// The care thread.
    pub fn run(&self) {
        let mut state = self.state();
        loop {
            if let Some((parked, error)) = state.failed.pop_front().or_else(|| self.expired(&mut state)) {
                state.latest = Some(error.clone());
                match parked.request.command {
                    Some(Command::Flush) => state.flush = Some(error.clone()),
                    Some(Command::Read | Command::Cache | Command::BlockStatus) => {}
                    _ => state.lost = true,
                }
                drop(state);
                self.answer(parked, &error);
                state = self.state();
                continue;
            }
            if state.ended {
                return;
            }
            let first = state.parked.first_key_value().and_then(|(_, parked)| parked.deadline);
            let nearest = [first, state.closing].into_iter().flatten().min();
            // Parking wakes nobody, so look again at least as often as a new request may fail; and not at once
            // where a closing deadline has passed and nothing is left to fail.
            let slack = if self.time.is_zero() { SLACK } else { self.time.min(SLACK) };
            let pause = nearest.map_or(slack, |at| at.saturating_duration_since(Instant::now()).min(slack));
            let pause = pause.max(Duration::from_millis(10));
            state = self.changed.wait_timeout(state, pause).unwrap_or_else(|e| e.into_inner()).0;
        }
    }

    fn expired(&self, state: &mut State) -> Option<(Parked, Error)> {
        let first = state.parked.first_entry()?;
        let now = Instant::now();
        let due = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        if !due(first.get().deadline) && !due(state.closing) {
            return None;
        }
        let message = format!("{}: the backend did not answer within {:?}", self.name, self.time);
        Some((first.remove(), Error::new(Code::Timeout, message)))
    }

    fn answer(&self, parked: Parked, error: &Error) {
        let Request { command, cookie, offset, length, .. } = parked.request;
        let what = command.map_or("unknown command", |command| command.name());
        tracing::error!(region = self.name, what, offset, length, %error, "answered an NBD request with an error");
        parked.queue.answer(cookie, error_number(error), &[], 0);
    }
}
