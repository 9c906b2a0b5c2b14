//! Bulk over as many connections as help, and how far away the server is.
//!
//! Reads go to the connection with the least under way, and no more of them than keep it busy: the others wait for the
//! first that has room, which may be one that is not there yet. Changes stay on one connection, so that one which is
//! sent again can never land after a later one; so do hashes, which are short.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::client::Client;
use super::link::{Asked, Body};
use super::spread::{FAR, Spread, Step};
use super::timing::Timing;
use crate::backend::link::{Link, Protocol};
use crate::backend::{Completion, Priority, RoundTrip};
use crate::buffer::Buffer;
use crate::error::Error;
use crate::page::PAGE;
use crate::wire::{Header, Kind};

/// The most connections for bulk besides the one that is always there.
pub const MOST_SPARE: u16 = 7;
/// How often spare connections are looked after.
const GLANCE: Duration = Duration::from_secs(1);
/// For how long one may answer nothing before others do its work.
const STUCK: Duration = Duration::from_secs(5);
/// How long spare connections are kept while there is no bulk.
const IDLE: Duration = Duration::from_secs(10);
/// When a probe is given up.
const PROBE_TIME: Duration = Duration::from_secs(10);
/// What is no longer than this is small, in bytes: how long it takes says how far the server is.
const SMALL: u64 = 16 << 10;
/// How many requests of this length a connection gets of which nothing is known, and of shorter ones as many more.
const BEGIN: (usize, u64) = (24, 256 << 10);

/// What a client knows of its bulk.
#[derive(Default)]
pub struct Bulk {
    spread: Mutex<Spread>,
    timing: Timing,
    flow: Mutex<Flow>,
}

#[derive(Default)]
struct Flow {
    /// Reads that no connection has room for.
    waiting: VecDeque<Waiting>,
    /// What each connection carries, by its role.
    lanes: [Lane; MOST_SPARE as usize + 2],
    /// When bytes came last.
    came: Option<Instant>,
    /// With what all that waits has failed.
    end: Option<Error>,
}

struct Waiting {
    asked: Asked,
    deadline: Option<Instant>,
    completion: Completion,
}

/// What one connection carries.
#[derive(Clone, Copy, Default)]
struct Lane {
    since: Option<Instant>,
    answers: usize,
    /// How many answers came in the last round trip that was counted.
    carried: usize,
}

impl Lane {
    /// An answer came by it.
    fn came(&mut self, now: Instant, trip: Duration) {
        self.answers += 1;
        let time = now.saturating_duration_since(*self.since.get_or_insert(now));
        if time >= trip {
            self.carried = (self.answers as f64 * trip.as_secs_f64() / time.as_secs_f64()) as usize;
            (self.since, self.answers) = (Some(now), 0);
        }
    }

    /// How many requests of this length keep it busy: what it carries in two round trips, so that one which carries all
    /// it gets gets twice as many after each.
    fn room(&self, length: u64) -> usize {
        BEGIN.0 * (BEGIN.1 / length.max(PAGE)).max(1) as usize + 2 * self.carried
    }
}

impl Bulk {
    /// The greeting took that long.
    pub fn greeted(&self, time: Duration) {
        self.timing.greeted(time);
    }

    /// How long the way there and back takes, if something was measured.
    pub fn round_trip(&self) -> Option<RoundTrip> {
        self.timing.round_trip()
    }

    fn spread(&self) -> MutexGuard<'_, Spread> {
        self.spread.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn flow(&self) -> MutexGuard<'_, Flow> {
        self.flow.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Fails all that waits, now and later.
    pub fn end(&self, error: &Error) {
        let mut flow = self.flow();
        flow.end.get_or_insert_with(|| error.clone());
        let waiting = std::mem::take(&mut flow.waiting);
        drop(flow);
        waiting.into_iter().for_each(|read| read.completion.complete(Err(error.clone())));
    }

    fn trip(&self) -> Duration {
        self.round_trip().map_or(Duration::ZERO, |trip| trip.least)
    }

    /// A spare connection is there.
    pub fn opened(&self) {
        self.spread().opened(Instant::now(), self.trip());
    }

    /// A spare connection could not be made, or was lost.
    pub fn failed(&self) {
        self.spread().failed(Instant::now());
    }
}

impl Client {
    /// A read was answered.
    pub(super) fn came(self: &Arc<Self>, link: &Link<Client>, length: u64, time: Duration) {
        if link.role() == 0 && length <= SMALL {
            self.bulk.timing.took(time);
        }
        if link.role() == 0 && !self.links().bulk().is_empty() {
            return;
        }
        let (now, trip) = (Instant::now(), self.bulk.trip());
        let waiting = {
            let mut flow = self.bulk.flow();
            flow.came = Some(now);
            flow.lanes[usize::from(link.role())].came(now, trip);
            flow.waiting.len()
        };
        if self.bulk.timing.wants_probe(now) {
            self.probe(now + PROBE_TIME);
        }
        let under_way = waiting + self.links().bulk().iter().map(|link| link.load().0).sum::<usize>();
        let step = self.bulk.spread().came(now, length as usize, under_way, trip);
        match step {
            Step::Stay => {}
            Step::Open => self.open_another(now),
            Step::Close => {
                if let Some(newest) = self.spare().iter().rev().find(|link| link.is_up()) {
                    newest.retire();
                }
            }
        }
    }

    /// Sends a read of the background on its way.
    pub(super) fn read_in_bulk(self: &Arc<Self>, asked: Asked, deadline: Option<Instant>, completion: Completion) {
        let client = self.clone();
        let completion = Completion::new(move |outcome| {
            completion.complete(outcome);
            client.send_waiting();
        });
        let mut flow = self.bulk.flow();
        if let Some(error) = flow.end.clone() {
            drop(flow);
            return completion.complete(Err(error));
        }
        flow.waiting.push_back(Waiting { asked, deadline, completion });
        drop(flow);
        self.links().arm(deadline);
        self.send_waiting();
    }

    /// Sends what waits as far as connections have room.
    pub(super) fn send_waiting(self: &Arc<Self>) {
        let is_far = self.bulk.trip() >= FAR;
        loop {
            let mut flow = self.bulk.flow();
            let Some(length) = flow.waiting.front().map(|next| next.asked.header.length) else { return };
            // To a near server all of it may go at once.
            let link = self.links().least_loaded(|role| match is_far {
                true => flow.lanes[usize::from(role)].room(length),
                false => usize::MAX,
            });
            let Some(link) = link else { return };
            let Some(Waiting { asked, deadline, completion }) = flow.waiting.pop_front() else { return };
            drop(flow);
            link.submit(self, asked, deadline, completion);
        }
    }

    /// Gives up what waits and is late; says when the next one is.
    fn expire_waiting(&self, now: Instant) -> Option<Instant> {
        let is_late = |read: &Waiting| read.deadline.is_some_and(|deadline| deadline <= now);
        let mut flow = self.bulk.flow();
        let (late, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut flow.waiting).into_iter().partition(is_late);
        flow.waiting = waiting.into();
        let next = flow.waiting.iter().filter_map(|read| read.deadline).min();
        drop(flow);
        for Waiting { asked, completion, .. } in late {
            completion.complete(Err(self.links().steady(Priority::Bulk).late(self, &asked)));
        }
        next
    }

    fn spare(&self) -> &[Arc<Link<Client>>] {
        self.links().bulk().get(1..).unwrap_or_default()
    }

    fn open_another(self: &Arc<Self>, now: Instant) {
        let free = self.spare().iter().find(|link| !link.is_up());
        match free.map(|link| link.want(self)) {
            Some(Ok(())) => self.links().arm(Some(now + GLANCE)),
            Some(Err(_)) | None => self.bulk.failed(),
        }
    }

    /// Asks for nothing, to see how long the answer takes.
    fn probe(self: &Arc<Self>, deadline: Instant) {
        let asked = Asked { header: Header::new(Kind::Read, 0), body: Body::Read(Some(Buffer::new(0))) };
        let client = Arc::downgrade(self);
        let completion = Completion::new(move |_| {
            if let Some(client) = client.upgrade() {
                client.bulk.timing.probed();
            }
        });
        self.links().first().submit(self, asked, Some(deadline), completion);
    }

    /// Looks after what waits and after spare connections; says when to do so again.
    pub(super) fn look_after_bulk(&self, now: Instant) -> Option<Instant> {
        let next = self.expire_waiting(now);
        if !self.spare().iter().any(|link| link.is_up()) {
            return next;
        }
        let came = self.bulk.flow().came;
        let is_idle = came.is_none_or(|came| now.saturating_duration_since(came) >= IDLE);
        for link in self.spare() {
            if let Some(since) = now.checked_sub(STUCK) {
                link.cut_if_stuck(since);
            }
            if is_idle {
                link.retire();
            }
        }
        Some(next.map_or(now + GLANCE, |next| next.min(now + GLANCE)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_of_which_nothing_is_known_gets_as_many_bytes_in_short_requests_as_in_long_ones() {
        let bytes = |length: u64| Lane::default().room(length) as u64 * length;
        assert_eq!(bytes(PAGE), bytes(BEGIN.1));
        assert_eq!(Lane::default().room(4 * BEGIN.1), BEGIN.0);
        assert_eq!(Lane::default().room(1), Lane::default().room(PAGE));
    }
}
