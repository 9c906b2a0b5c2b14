//! The connections of one client.

use std::sync::Arc;
use std::time::Instant;

use super::timer::Timer;
use super::{Connected, Link, Protocol, end};
use crate::backend::Priority;
use crate::error::{Error, Result};
use crate::thread;

/// The connections of one client, and the clock of their deadlines. The first is for what the app waits for; the
/// others are for bulk, connected when first used. The last of those may be spare: connected when they are wanted.
pub struct Links<P: Protocol> {
    links: Vec<Arc<Link<P>>>,
    timer: Timer,
}

impl<P: Protocol> Links<P> {
    /// So many that are made again when they are lost, and so many spare ones.
    pub fn new(count: u16, spare: u16) -> Links<P> {
        let links = (0..count + spare).map(|role| Arc::new(Link::new(role, role >= count)));
        Links { links: links.collect(), timer: Timer::default() }
    }

    /// Starts the thread for deadlines and that of the first link, which may have its connection already.
    pub fn start(client: &Arc<P>, connected: Option<Connected>) -> Result<()> {
        let started = thread::spawn("r3map-timer", {
            let client = client.clone();
            move || client.links().timer.run(|now| client.links().expire(&client, now))
        });
        let started = started.map_err(|error| Error::io("start a thread for deadlines", error));
        let started = started.and_then(|_| client.links().first().start(client, connected));
        started.inspect_err(|error| end(&**client, error))
    }

    /// The link for what the app waits for.
    pub fn first(&self) -> &Arc<Link<P>> {
        &self.links[0]
    }

    /// Those for bulk, where there are some.
    pub fn bulk(&self) -> &[Arc<Link<P>>] {
        &self.links[1..]
    }

    /// The one that is always there for what is of this priority.
    pub fn steady(&self, priority: Priority) -> &Arc<Link<P>> {
        match (priority, self.bulk()) {
            (Priority::Bulk, [steady, ..]) => steady,
            _ => self.first(),
        }
    }

    /// The one for bulk with the least under way, if it is less than what `room` says of its role. The one that is
    /// always there stands in while none is connected.
    pub fn least_loaded(&self, room: impl Fn(u16) -> usize) -> Option<&Arc<Link<P>>> {
        let connected = self.bulk().iter().filter_map(|link| match link.load() {
            (load, true) => Some((load, link)),
            _ => None,
        });
        let best = connected.min_by_key(|(load, _)| *load);
        let (load, link) = best.unwrap_or_else(|| {
            let steady = self.steady(Priority::Bulk);
            (steady.load().0, steady)
        });
        (load < room(link.role())).then_some(link)
    }

    /// Sees to it that a deadline is kept, or [`Protocol::tick`] is called.
    pub fn arm(&self, deadline: Option<Instant>) {
        self.timer.arm(deadline);
    }

    fn expire(&self, client: &P, now: Instant) -> Option<Instant> {
        let tick = client.tick(now);
        self.links.iter().filter_map(|link| link.expire(client, now)).chain(tick).min()
    }

    pub(super) fn end(&self, client: &P, error: &Error) {
        self.links.iter().for_each(|link| link.end(client, error));
        self.timer.end();
    }
}
