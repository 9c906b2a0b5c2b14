//! The gate that every operation on a handle passes: closing it waits until those inside are out.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};

use crate::cancel::Limit;
use crate::error::{Code, Error, Result};

const OPEN: u32 = 0;
const HELD: u32 = u32::MAX;
const SUSPENDED: u32 = Code::Suspended as u32;
const FENCED: u32 = Code::Fenced as u32;

/// Enough that threads seldom share one.
const STRIPES: usize = 16;

#[repr(align(128))]
#[derive(Default)]
struct Stripe {
    inside: AtomicU64,
}

/// Lets operations in and counts them, without a lock while it is open.
#[derive(Default)]
pub struct Gate {
    /// `OPEN`, `HELD`, or the number of the code with which newcomers fail.
    state: AtomicU32,
    stripes: [Stripe; STRIPES],
    waiting: Mutex<()>,
    changed: Condvar,
}

/// An operation inside the gate.
pub struct Guard<'a> {
    gate: &'a Gate,
    stripe: usize,
}

/// An operation that is inside until it is said to have left.
#[must_use]
pub struct Inside(usize);

/// The error of an operation on a mount that lets nobody in.
pub fn refusal(code: Code) -> Error {
    let message = match code {
        Code::Closed => "the mount is closed",
        Code::Suspended => "the mount is suspended for a hand-over",
        Code::Fenced => "the region is owned by another host now",
        _ => "the mount takes no operations",
    };
    Error::new(code, message)
}

thread_local! {
    static STRIPE: usize = {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed) as usize % STRIPES
    };
}

impl Gate {
    /// Enters, waiting while the gate is held; fails with the code it was closed with.
    #[inline]
    pub fn enter(&self) -> Result<Guard<'_>> {
        let stripe = STRIPE.with(|stripe| *stripe);
        loop {
            // SeqCst here and in `wait_empty`: either we see the gate shut, or the shutter sees us inside.
            self.stripes[stripe].inside.fetch_add(1, Ordering::SeqCst);
            match self.state.load(Ordering::SeqCst) {
                OPEN => return Ok(Guard { gate: self, stripe }),
                state => {
                    self.leave(stripe);
                    self.refused(state)?;
                }
            }
        }
    }

    #[cold]
    fn refused(&self, state: u32) -> Result<()> {
        if state == HELD {
            let mut waiting = self.waiting.lock().unwrap_or_else(|e| e.into_inner());
            while self.state.load(Ordering::SeqCst) == HELD {
                waiting = self.changed.wait(waiting).unwrap_or_else(|e| e.into_inner());
            }
            return Ok(());
        }
        Err(refusal(Code::from_number(state).unwrap_or(Code::Internal)))
    }

    fn leave(&self, stripe: usize) {
        self.stripes[stripe].inside.fetch_sub(1, Ordering::SeqCst);
        if self.state.load(Ordering::SeqCst) != OPEN {
            drop(self.waiting.lock().unwrap_or_else(|e| e.into_inner()));
            self.changed.notify_all();
        }
    }

    /// Makes newcomers fail with `code` and waits until nobody is inside. Opens again if the limit is
    /// reached first. One that is suspended or fenced already stays so; one that is fenced may be closed.
    pub fn shut(&self, code: Code, limit: &Limit, what: &str) -> Result<()> {
        self.change(code as u32, limit, what)
    }

    /// Makes newcomers fail with `code` from now on and waits for nobody. Does nothing unless the gate is open.
    pub fn refuse(&self, code: Code) {
        let _ = self.state.compare_exchange(OPEN, code as u32, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Makes newcomers of a gate that was shut with `from` fail with `to`. Says whether it was.
    pub fn turn(&self, from: Code, to: Code) -> bool {
        self.state.compare_exchange(from as u32, to as u32, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Whether newcomers fail with `code`.
    pub fn refuses(&self, code: Code) -> bool {
        self.state.load(Ordering::SeqCst) == code as u32
    }

    /// Lets newcomers in again if they failed with `code`.
    pub fn reopen(&self, code: Code) {
        if self.state.compare_exchange(code as u32, OPEN, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            drop(self.waiting.lock().unwrap_or_else(|e| e.into_inner()));
            self.changed.notify_all();
        }
    }

    /// Keeps an operation inside beyond the life of its guard, until it is [`left`](Gate::left).
    pub fn stay(guard: Guard<'_>) -> Inside {
        let inside = Inside(guard.stripe);
        std::mem::forget(guard);
        inside
    }

    /// An operation that stayed is over.
    pub fn left(&self, inside: Inside) {
        self.leave(inside.0);
    }

    /// Makes newcomers wait, waits until nobody is inside, runs `body` and opens again.
    pub fn hold<T>(&self, limit: &Limit, what: &str, body: impl FnOnce() -> Result<T>) -> Result<T> {
        self.change(HELD, limit, what)?;
        let outcome = body();
        self.open();
        outcome
    }

    /// Lets newcomers in again.
    pub fn open(&self) {
        self.state.store(OPEN, Ordering::SeqCst);
        drop(self.waiting.lock().unwrap_or_else(|e| e.into_inner()));
        self.changed.notify_all();
    }

    fn change(&self, to: u32, limit: &Limit, what: &str) -> Result<()> {
        loop {
            match self.state.compare_exchange(OPEN, to, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => break,
                Err(now) if now == to && [FENCED, SUSPENDED].contains(&to) => break,
                Err(FENCED) if to == Code::Closed as u32 && self.turn(Code::Fenced, Code::Closed) => break,
                Err(now) => self.refused(now)?,
            }
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(|e| e.into_inner());
        while self.stripes.iter().map(|stripe| stripe.inside.load(Ordering::SeqCst)).sum::<u64>() > 0 {
            if let Err(error) = limit.check(what) {
                drop(waiting);
                self.open();
                return Err(error);
            }
            // A cancel is looked at a few times a second: shutting is rare and mostly immediate.
            let pause = std::time::Duration::from_millis(50);
            waiting = self.changed.wait_timeout(waiting, pause).unwrap_or_else(|e| e.into_inner()).0;
        }
        Ok(())
    }
}

impl Drop for Guard<'_> {
    #[inline]
    fn drop(&mut self) {
        self.gate.leave(self.stripe);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn shutting_waits_for_those_inside_and_refuses_newcomers() {
        let gate = Arc::new(Gate::default());
        let guard = gate.enter().unwrap();
        let error = gate.shut(Code::Closed, &Limit::within(Duration::from_millis(20)), "close").unwrap_err();
        assert_eq!(error.code(), Code::Timeout);
        drop(gate.enter().unwrap());
        let shutter = std::thread::spawn({
            let gate = gate.clone();
            move || gate.shut(Code::Closed, &Limit::none(), "close")
        });
        while gate.state.load(Ordering::SeqCst) == OPEN {
            std::thread::yield_now();
        }
        assert_eq!(gate.enter().err().unwrap().code(), Code::Closed);
        drop(guard);
        shutter.join().unwrap().unwrap();
    }

    #[test]
    fn newcomers_wait_while_the_gate_is_held() {
        let gate = Arc::new(Gate::default());
        let newcomer = gate
            .hold(&Limit::none(), "attach", || {
                let gate = gate.clone();
                let newcomer = std::thread::spawn(move || gate.enter().map(drop));
                std::thread::sleep(Duration::from_millis(20));
                assert!(!newcomer.is_finished());
                Ok(newcomer)
            })
            .unwrap();
        newcomer.join().unwrap().unwrap();
    }
}
