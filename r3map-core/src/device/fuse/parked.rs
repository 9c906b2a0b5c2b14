//! Requests that wait for the region, each answered once: by its completion, or with `timeout` when that
//! does not come.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::channel::Channel;

/// A request that waits.
pub struct Parked {
    /// Where its answer goes.
    pub channel: Arc<Channel>,
    /// What it is, for messages.
    pub what: What,
    /// When it is given up; `None` is never.
    pub expires: Option<Instant>,
}

/// What a request is about.
#[derive(Clone, Copy, Debug)]
pub struct What {
    pub verb: &'static str,
    pub offset: u64,
    pub length: u64,
    /// Whether its loss means that a later sync may not succeed.
    pub changes: bool,
}

/// The requests that wait, by the number a reply names them by.
pub struct Table {
    state: Mutex<State>,
    changed: Condvar,
    /// How often it is looked at while something waits.
    tick: Duration,
    deadline: Duration,
}

#[derive(Default)]
struct State {
    waiting: HashMap<u64, Parked>,
    /// The watch sleeps until it is woken: nothing waited for a while.
    asleep: bool,
    over: bool,
}

impl Table {
    /// A table whose requests are given up after `deadline`; zero is never.
    pub fn new(deadline: Duration) -> Table {
        let tick = (deadline / 8).clamp(Duration::from_millis(5), Duration::from_secs(1));
        let state = State { waiting: HashMap::with_capacity(256), ..State::default() };
        Table { state: Mutex::new(state), changed: Condvar::new(), tick, deadline }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Parks a request and tells by when the region must have answered it.
    pub fn park(&self, unique: u64, channel: &Arc<Channel>, what: What) -> Option<Instant> {
        let deadline = crate::cancel::deadline_in(self.deadline);
        // The region is given a little longer, so that it may tell the cause of the delay itself.
        let expires = deadline.and_then(|deadline| deadline.checked_add(self.tick));
        let mut state = self.state();
        state.waiting.insert(unique, Parked { channel: channel.clone(), what, expires });
        if std::mem::take(&mut state.asleep) {
            self.changed.notify_all();
        }
        deadline
    }

    /// Takes a request out to be answered; `None` if it was answered already.
    pub fn claim(&self, unique: u64) -> Option<Parked> {
        self.state().waiting.remove(&unique)
    }

    /// Takes all requests out, to be refused, and ends the watch.
    pub fn end(&self) -> HashMap<u64, Parked> {
        let mut state = self.state();
        state.over = true;
        self.changed.notify_all();
        std::mem::take(&mut state.waiting)
    }

    /// Gives requests up whose time is over, until the table ends.
    pub fn watch(&self, mut give_up: impl FnMut(u64, Parked)) {
        let mut state = self.state();
        while !state.over {
            let now = Instant::now();
            let late = |parked: &Parked| parked.expires.is_some_and(|expires| expires <= now);
            if let Some(unique) = state.waiting.iter().find(|(_, parked)| late(parked)).map(|(unique, _)| *unique) {
                let parked = state.waiting.remove(&unique);
                drop(state);
                parked.into_iter().for_each(|parked| give_up(unique, parked));
                state = self.state();
                continue;
            }
            if state.waiting.is_empty() {
                state.asleep = true;
                state = self.changed.wait(state).unwrap_or_else(|e| e.into_inner());
            } else {
                state = self.changed.wait_timeout(state, self.tick).unwrap_or_else(|e| e.into_inner()).0;
            }
        }
    }
}
