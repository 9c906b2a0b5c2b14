//! The thread that wakes at the next deadline of any request.

use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Instant;

/// When to look at the deadlines again.
#[derive(Default)]
pub struct Timer {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    next: Option<Instant>,
    ended: bool,
}

impl Timer {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Sees to it that the deadlines are looked at then, or before.
    pub fn arm(&self, deadline: Option<Instant>) {
        let Some(deadline) = deadline else { return };
        let mut state = self.state();
        if state.next.is_none_or(|next| deadline < next) {
            state.next = Some(deadline);
            self.changed.notify_one();
        }
    }

    /// Lets the thread go.
    pub fn end(&self) {
        self.state().ended = true;
        self.changed.notify_one();
    }

    /// Calls `expire` at every deadline, which says when the next one is, until the end.
    pub fn run(&self, mut expire: impl FnMut(Instant) -> Option<Instant>) {
        let mut state = self.state();
        while !state.ended {
            let now = Instant::now();
            state = match state.next {
                None => self.changed.wait(state).unwrap_or_else(|e| e.into_inner()),
                Some(next) if next > now => {
                    self.changed.wait_timeout(state, next - now).unwrap_or_else(|e| e.into_inner()).0
                }
                Some(_) => {
                    state.next = None;
                    drop(state);
                    let next = expire(now);
                    self.arm(next);
                    self.state()
                }
            }
        }
    }
}
