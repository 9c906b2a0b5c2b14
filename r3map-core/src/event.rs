//! What happens to a mount in the background, told in order.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

use crate::cancel::{Limit, Signal};
use crate::error::{Error, Result};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// Every byte is here.
    Local = 1,
    /// The remote is away.
    Disconnected = 2,
    /// The remote is back, pushes get through again, or the local cache has room again.
    Recovered = 3,
    /// A push failed; what it carried stays dirty.
    PushFailed = 4,
    /// The local cache has no room.
    CacheFull = 5,
    /// Of a mount that was leeched: its source knows that every byte is here.
    Drained = 6,
    /// Of a mount that was leeched: its source took the region back by force, and nothing here is of it any more.
    Fenced = 7,
    /// Of a mount that was leeched: its source gave up what is not here yet, which is lost.
    Abandoned = 8,
}

impl Kind {
    /// The name users read, such as `push_failed`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Local => "local",
            Kind::Disconnected => "disconnected",
            Kind::Recovered => "recovered",
            Kind::PushFailed => "push_failed",
            Kind::CacheFull => "cache_full",
            Kind::Drained => "drained",
            Kind::Fenced => "fenced",
            Kind::Abandoned => "abandoned",
        }
    }
}

/// One event of a mount.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its number; the first is 1.
    pub sequence: u64,
    /// What happened.
    pub kind: Kind,
    /// Why, where there is a why.
    pub cause: Option<Error>,
}

/// Events kept for an app that takes them late.
const KEPT: usize = 1024;

/// The events of a mount so far.
#[derive(Default)]
pub(crate) struct Events {
    log: Mutex<Log>,
    told: Signal,
}

#[derive(Default)]
struct Log {
    last: u64,
    kept: VecDeque<Event>,
    /// Whether the remote was told to be away, and not yet to be back.
    is_away: bool,
}

impl Events {
    /// Adds an event.
    pub fn tell(&self, kind: Kind, cause: Option<Error>) {
        self.add(self.log(), kind, cause);
    }

    /// The remote is away: told once, whoever notices.
    pub fn away(&self, cause: Error) {
        let mut log = self.log();
        if !std::mem::replace(&mut log.is_away, true) {
            self.add(log, Kind::Disconnected, Some(cause));
        }
    }

    /// The remote is back.
    pub fn back(&self) {
        let mut log = self.log();
        if std::mem::replace(&mut log.is_away, false) {
            self.add(log, Kind::Recovered, None);
        }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn add(&self, mut log: MutexGuard<'_, Log>, kind: Kind, cause: Option<Error>) {
        log.last += 1;
        let sequence = log.last;
        log.kept.push_back(Event { sequence, kind, cause });
        if log.kept.len() > KEPT {
            log.kept.pop_front();
        }
        drop(log);
        self.told.signal();
    }

    /// The first event kept whose number is more than `after`, waiting for it.
    pub fn next(&self, after: u64, limit: &Limit) -> Result<Event> {
        self.told.wait(limit, "next event", || self.log().kept.iter().find(|event| event.sequence > after).cloned())
    }
}
