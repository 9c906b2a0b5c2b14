//! What a seeder tells its app, each event once and in order.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use crate::cancel::{Limit, Signal};
use crate::error::{Code, Error, Result};

/// Where a seeder stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum SeedState {
    /// There is no leecher.
    Waiting = 1,
    /// A leecher pulls.
    Tracking = 2,
    /// It asks for the region: stop writing and say [`suspended`](super::Seeder::suspended), or
    /// [`refuse`](super::Seeder::refuse).
    Suspending = 3,
    /// It came to nothing: go on writing.
    Resumed = 4,
    /// The leecher owns the region; here it is fenced, and stays so.
    Committed = 5,
    /// The leecher has every byte, or was given up.
    Drained = 6,
    /// A record could not be written, which is tried again.
    Trouble = 7,
}

impl SeedState {
    /// The name users read, such as `tracking`.
    pub fn name(self) -> &'static str {
        match self {
            SeedState::Waiting => "waiting",
            SeedState::Tracking => "tracking",
            SeedState::Suspending => "suspending",
            SeedState::Resumed => "resumed",
            SeedState::Committed => "committed",
            SeedState::Drained => "drained",
            SeedState::Trouble => "trouble",
        }
    }
}

/// One event of a seeder.
#[derive(Clone, Debug)]
pub struct SeedEvent {
    /// Its number; the first is 1, and none is left out.
    pub sequence: u64,
    /// What happened.
    pub state: SeedState,
    /// Why, where there is a why.
    pub cause: Option<Error>,
}

/// The events so far. None is thrown away: each needs the app or a leecher to come about, and the repeated ones come
/// ever more slowly.
#[derive(Default)]
pub struct Log {
    events: Mutex<Events>,
    told: Signal,
}

#[derive(Default)]
struct Events {
    by_number: BTreeMap<u64, SeedEvent>,
    ended: bool,
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Events> {
        self.events.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Adds an event; one with a smaller number may still come.
    pub fn tell(&self, event: SeedEvent) {
        self.lock().by_number.insert(event.sequence, event);
        self.told.signal();
    }

    /// No more will come.
    pub fn end(&self) {
        self.lock().ended = true;
        self.told.signal();
    }

    /// The event after that one, waiting for it.
    pub fn next(&self, after: u64, limit: &Limit) -> Result<SeedEvent> {
        self.told.wait(limit, "next event of a seeder", || {
            let events = self.lock();
            match events.by_number.get(&(after.saturating_add(1))) {
                Some(event) => Some(Ok(event.clone())),
                None => events.ended.then(|| Err(closed())),
            }
        })?
    }

    /// Waits until the last event is of that state.
    pub fn wait(&self, state: SeedState, limit: &Limit, what: &str) -> Result<()> {
        self.told.wait(limit, what, || {
            let events = self.lock();
            match events.by_number.last_key_value() {
                Some((_, event)) if event.state == state => Some(Ok(())),
                _ => events.ended.then(|| Err(closed())),
            }
        })?
    }
}

fn closed() -> Error {
    Error::new(Code::Closed, "the seeder is closed")
}
