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
    /// Its number: the first is 1, and none is left out but for who is more than 1024 events behind.
    pub sequence: u64,
    /// What happened.
    pub state: SeedState,
    /// Why, where there is a why.
    pub cause: Option<Error>,
}

/// How many events are kept for those who have not asked for them yet: each attempt of a leecher makes a few.
const KEPT: usize = 1024;

/// The newest events.
#[derive(Default)]
pub struct Log {
    events: Mutex<Events>,
    told: Signal,
}

#[derive(Default)]
struct Events {
    by_number: BTreeMap<u64, SeedEvent>,
    /// The last that is not kept any more.
    dropped: u64,
    ended: bool,
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Events> {
        self.events.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Adds an event; one with a smaller number may still come.
    pub fn tell(&self, event: SeedEvent) {
        let mut events = self.lock();
        events.by_number.insert(event.sequence, event);
        if events.by_number.len() > KEPT {
            let oldest = events.by_number.pop_first();
            events.dropped = oldest.map_or(events.dropped, |(sequence, _)| sequence.max(events.dropped));
        }
        drop(events);
        self.told.signal();
    }

    /// No more will come.
    pub fn end(&self) {
        self.lock().ended = true;
        self.told.signal();
    }

    /// The event after that one, waiting for it; the oldest that is kept for who asks for an older one.
    pub fn next(&self, after: u64, limit: &Limit) -> Result<SeedEvent> {
        self.told.wait(limit, "next event of a seeder", || {
            let events = self.lock();
            match events.by_number.get(&after.max(events.dropped).saturating_add(1)) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn event(sequence: u64) -> SeedEvent {
        SeedEvent { sequence, state: SeedState::Waiting, cause: None }
    }

    fn next(log: &Log, after: u64) -> Option<u64> {
        let past = Limit::within(std::time::Duration::from_nanos(1));
        log.next(after, &past).ok().map(|event| event.sequence)
    }

    #[test]
    fn who_keeps_up_has_each_event_once_and_who_does_not_goes_on_with_the_oldest_that_is_kept() {
        const ALL: u64 = 5000;
        let (log, mut after) = (Log::default(), 0);
        for sequence in 1..=ALL {
            log.tell(event(sequence));
            // Up to 900 behind.
            while sequence % 900 == 0 && after < sequence {
                assert_eq!(next(&log, after), Some(after + 1));
                after += 1;
            }
        }
        assert_eq!(log.lock().by_number.len(), KEPT);
        let oldest = ALL - KEPT as u64 + 1;
        assert_eq!([0, 1, oldest - 1].map(|after| next(&log, after)), [Some(oldest); 3]);
        assert_eq!(next(&log, oldest), Some(oldest + 1));
        assert_eq!(next(&log, ALL), None);
    }

    #[test]
    fn an_event_that_comes_before_an_older_one_waits_for_it() {
        let log = Log::default();
        log.tell(event(1));
        log.tell(event(3));
        assert_eq!((next(&log, 0), next(&log, 1)), (Some(1), None));
        log.tell(event(2));
        assert_eq!((next(&log, 1), next(&log, 2)), (Some(2), Some(3)));
    }
}
