//! One writer an export: whoever writes first, or says that it will, holds the lease while it is connected and
//! for a moment after a connection that ended without a word.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::error::{Code, Error, Result};
use crate::wire::Identity;

/// How long a writer whose connection broke may take to come back.
pub const GRACE: Duration = Duration::from_secs(5);
/// How long the end of a holder's connection may take to be noticed, before a newcomer is told that it lives.
const NOTICE: Duration = Duration::from_secs(1);

/// The lease of one export.
#[derive(Default)]
pub struct Lease {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Connections of each client of the export.
    present: HashMap<Identity, usize>,
    holder: Option<Holder>,
}

struct Holder {
    client: Identity,
    /// Who it is, for people.
    display: String,
    /// Until when it may come back; `None` while it is connected.
    until: Option<Instant>,
}

impl Lease {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// A connection of this client begins.
    pub fn arrive(&self, client: Identity) {
        let mut state = self.state();
        *state.present.entry(client).or_default() += 1;
        if let Some(holder) = state.holder.as_mut().filter(|holder| holder.client == client) {
            holder.until = None;
            self.changed.notify_all();
        }
    }

    /// A connection of this client is over. With a goodbye on its last one the client gives the lease back.
    pub fn leave(&self, client: Identity, goodbye: bool) {
        let mut state = self.state();
        let left = state.present.get_mut(&client).map_or(0, |count| {
            *count -= 1;
            *count
        });
        if left > 0 {
            return;
        }
        state.present.remove(&client);
        if let Some(holder) = state.holder.as_mut().filter(|holder| holder.client == client) {
            holder.until = Some(Instant::now() + if goodbye { Duration::ZERO } else { GRACE });
            self.changed.notify_all();
        }
    }

    /// Gives the lease back, if this client has it.
    pub fn release(&self, client: Identity) {
        let mut state = self.state();
        if state.holder.as_ref().is_some_and(|holder| holder.client == client) {
            state.holder = None;
            self.changed.notify_all();
        }
    }

    /// Takes the lease for a client that is connected, waiting for a holder that may still come back. While
    /// another lives, or the wait is `stopped`, it is `busy`.
    pub fn claim(&self, client: Identity, display: &str, stopped: impl Fn() -> bool) -> Result<()> {
        let begun = Instant::now();
        let mut state = self.state();
        loop {
            let now = Instant::now();
            let left = match &state.holder {
                Some(holder) if holder.client == client => return Ok(()),
                Some(Holder { until: Some(until), .. }) if *until > now => *until - now,
                Some(Holder { until: None, display, .. }) if now >= begun + NOTICE => return Err(busy(display)),
                Some(Holder { until: None, .. }) => begun + NOTICE - now,
                _ => {
                    state.holder = Some(Holder { client, display: display.to_owned(), until: None });
                    return Ok(());
                }
            };
            if stopped() {
                return Err(Error::new(Code::Busy, "the connection ended while it waited for the writer's lease"));
            }
            // Looks now and then whether anybody still waits here.
            let nap = left.min(Duration::from_millis(200));
            state = self.changed.wait_timeout(state, nap).unwrap_or_else(|e| e.into_inner()).0;
        }
    }
}

fn busy(display: &str) -> Error {
    let message = format!("{display} writes to this export, and one may: mount it read-only, or when that has closed");
    Error::new(Code::Busy, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Identity = [1; 16];
    const TWO: Identity = [2; 16];

    #[test]
    fn the_first_holds_it_until_it_says_goodbye_on_its_last_connection() {
        let lease = Lease::default();
        for client in [ONE, ONE, TWO] {
            lease.arrive(client);
        }
        lease.claim(ONE, "one", || false).unwrap();
        lease.claim(ONE, "one", || false).unwrap();
        lease.leave(ONE, true);
        let error = lease.claim(TWO, "two", || false).unwrap_err();
        assert_eq!((error.code(), error.message().starts_with("one writes")), (Code::Busy, true));
        lease.release(TWO);
        assert_eq!(lease.claim(TWO, "two", || false).unwrap_err().code(), Code::Busy);
        lease.leave(ONE, true);
        lease.claim(TWO, "two", || false).unwrap();
        lease.arrive(ONE);
        assert!(lease.claim(ONE, "one", || false).unwrap_err().message().starts_with("two writes"));
    }

    #[test]
    fn one_that_breaks_off_keeps_it_for_a_moment_and_gets_it_back() {
        let lease = Lease::default();
        lease.arrive(ONE);
        lease.arrive(TWO);
        lease.claim(ONE, "one", || false).unwrap();
        lease.leave(ONE, false);
        assert_eq!(lease.claim(TWO, "two", || true).unwrap_err().code(), Code::Busy);
        lease.arrive(ONE);
        assert!(lease.claim(TWO, "two", || false).unwrap_err().message().starts_with("one writes"));
        lease.leave(ONE, false);
        lease.claim(TWO, "two", || false).unwrap();
        assert!(lease.claim(ONE, "one", || false).unwrap_err().message().starts_with("two writes"));
    }
}
