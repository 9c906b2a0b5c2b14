//! What happens to a mount in the background, told in order.

use std::collections::VecDeque;
use std::sync::Mutex;

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

impl Kind {
    /// What it means for the mount that a fetch failed so.
    pub(crate) fn of_failed_fetch(cause: &Error) -> Kind {
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(cause);
        while let Some(error) = source {
            let system = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
            if system == Some(libc::ENOSPC) {
                return Kind::CacheFull;
            }
            source = error.source();
        }
        Kind::Disconnected
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
    log: Mutex<(u64, VecDeque<Event>)>,
    told: Signal,
}

impl Events {
    /// Adds an event.
    pub fn tell(&self, kind: Kind, cause: Option<Error>) {
        let mut log = self.log.lock().unwrap_or_else(|e| e.into_inner());
        log.0 += 1;
        let sequence = log.0;
        log.1.push_back(Event { sequence, kind, cause });
        if log.1.len() > KEPT {
            log.1.pop_front();
        }
        drop(log);
        self.told.signal();
    }

    /// The first event kept whose number is more than `after`, waiting for it.
    pub fn next(&self, after: u64, limit: &Limit) -> Result<Event> {
        self.told.wait(limit, "next event", || {
            let log = self.log.lock().unwrap_or_else(|e| e.into_inner());
            log.1.iter().find(|event| event.sequence > after).cloned()
        })
    }
}
