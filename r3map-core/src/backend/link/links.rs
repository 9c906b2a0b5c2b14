//! The connections of one client.

use std::sync::Arc;
use std::time::Instant;

use super::timer::Timer;
use super::{Connected, Link, Protocol, end};
use crate::error::{Error, Result};
use crate::thread;

/// The connections of one client, and the clock of their deadlines. The first is for what the app waits for; the
/// others are for bulk, connected when first used.
pub struct Links<P: Protocol> {
    links: Vec<Arc<Link<P>>>,
    timer: Timer,
}

impl<P: Protocol> Links<P> {
    /// So many of them, none of which is connected.
    pub fn new(count: u16) -> Links<P> {
        Links { links: (0..count).map(|role| Arc::new(Link::new(role))).collect(), timer: Timer::default() }
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

    /// Sees to it that a deadline is kept.
    pub(super) fn arm(&self, deadline: Option<Instant>) {
        self.timer.arm(deadline);
    }

    fn expire(&self, client: &P, now: Instant) -> Option<Instant> {
        self.links.iter().filter_map(|link| link.expire(client, now)).min()
    }

    pub(super) fn end(&self, client: &P, error: &Error) {
        self.links.iter().for_each(|link| link.end(client, error));
        self.timer.end();
    }
}
