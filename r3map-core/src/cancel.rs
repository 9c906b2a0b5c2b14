//! How long a blocking call may take: a deadline, a cancel, and the place where a caller waits.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::error::{Code, Error, Result};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex, MutexGuard};

/// How much later the one who waits gives up than the one who works.
const MOMENT: Duration = Duration::from_millis(250);

/// How often a thread that waits asks an [asking](Cancel::asking) switch.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// A switch that another thread triggers to end the calls it was given to. Once triggered it stays so.
///
/// Clones are the same switch. A call that was cancelled may or may not have taken effect, like one that
/// timed out.
#[derive(Clone, Default)]
pub struct Cancel(Arc<CancelInner>);

#[derive(Default)]
struct CancelInner {
    triggered: AtomicBool,
    next: AtomicU64,
    parked: Mutex<HashMap<u64, Weak<Wakeup>>>,
    ask: Option<Box<dyn Fn() -> bool + Send + Sync>>,
}

/// What a waiting thread sleeps on.
#[derive(Default)]
struct Wakeup {
    lock: Mutex<()>,
    condition: Condvar,
}

impl Wakeup {
    fn wake(&self) {
        // Taking the lock orders this wake-up after the sleeper's last look.
        drop(self.lock.lock().unwrap_or_else(|e| e.into_inner()));
        self.condition.notify_all();
    }

    fn sleep<'a>(&self, guard: MutexGuard<'a, ()>, deadline: Option<Instant>) -> MutexGuard<'a, ()> {
        match deadline {
            None => self.condition.wait(guard).unwrap_or_else(|e| e.into_inner()),
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                self.condition.wait_timeout(guard, left).unwrap_or_else(|e| e.into_inner()).0
            }
        }
    }

    /// Sleeps until it is woken, the limit is reached or it is time to ask its cancel.
    fn sleep_within<'a>(
        &'a self,
        guard: MutexGuard<'a, ()>,
        limit: &Limit,
        ask_at: &mut Option<Instant>,
    ) -> MutexGuard<'a, ()> {
        let Some(ask) = limit.cancel.as_ref().filter(|cancel| cancel.0.ask.is_some()) else {
            return self.sleep(guard, limit.deadline);
        };
        let next = *ask_at.get_or_insert_with(|| Instant::now() + ASK_EVERY);
        let guard = self.sleep(guard, Some(limit.deadline.map_or(next, |deadline| deadline.min(next))));
        if Instant::now() < next {
            return guard;
        }
        // Whoever is asked may take its time, and others may wake us meanwhile.
        drop(guard);
        ask.ask();
        *ask_at = None;
        self.lock.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Cancel {
    /// A switch not yet triggered.
    pub fn new() -> Cancel {
        Cancel::default()
    }

    /// A switch that is also triggered by what `ask` says: a thread that waits with it asks about every 50 ms,
    /// with no lock held. For languages that tell only the waiting thread itself that it shall stop.
    pub fn asking(ask: impl Fn() -> bool + Send + Sync + 'static) -> Cancel {
        Cancel(Arc::new(CancelInner { ask: Some(Box::new(ask)), ..CancelInner::default() }))
    }

    fn ask(&self) {
        if self.0.ask.as_ref().is_some_and(|ask| ask()) {
            self.trigger();
        }
    }

    /// Ends every call that waits with this switch, now and from now on, with `cancelled`.
    pub fn trigger(&self) {
        self.0.triggered.store(true, Ordering::SeqCst);
        let parked = std::mem::take(&mut *self.0.parked.lock().unwrap_or_else(|e| e.into_inner()));
        for wakeup in parked.into_values().filter_map(|weak| weak.upgrade()) {
            wakeup.wake();
        }
    }

    /// Whether it was triggered.
    pub fn is_triggered(&self) -> bool {
        self.0.triggered.load(Ordering::SeqCst)
    }

    fn park(&self, wakeup: &Arc<Wakeup>) -> Parked<'_> {
        let key = self.0.next.fetch_add(1, Ordering::Relaxed);
        self.0.parked.lock().unwrap_or_else(|e| e.into_inner()).insert(key, Arc::downgrade(wakeup));
        Parked { cancel: self, key }
    }
}

struct Parked<'a> {
    cancel: &'a Cancel,
    key: u64,
}

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        self.cancel.0.parked.lock().unwrap_or_else(|e| e.into_inner()).remove(&self.key);
    }
}

/// The bounds of one blocking call.
#[derive(Clone, Default)]
pub struct Limit {
    /// When the call gives up; `None` waits for ever.
    pub deadline: Option<Instant>,
    /// What ends it sooner.
    pub cancel: Option<Cancel>,
}

impl Limit {
    /// No bound at all.
    pub fn none() -> Limit {
        Limit::default()
    }

    /// A bound of that much time from now; zero waits for ever.
    pub fn within(time: Duration) -> Limit {
        Limit { deadline: deadline_in(time), cancel: None }
    }

    /// The same bound, ended sooner by `cancel`.
    pub fn with_cancel(mut self, cancel: Option<Cancel>) -> Limit {
        self.cancel = cancel;
        self
    }

    /// The same bound a moment later, for who waits on something that keeps the bound by itself: it ends with the
    /// cause, where this clock would only know that the time is up.
    pub fn and_a_moment(&self) -> Limit {
        let later = |deadline: Instant| deadline.checked_add(MOMENT).unwrap_or(deadline);
        Limit { deadline: self.deadline.map(later), cancel: self.cancel.clone() }
    }

    /// An error once the bound is reached: `cancelled` or `timeout`, saying what was under way.
    pub fn check(&self, what: &str) -> Result<()> {
        if self.cancel.as_ref().is_some_and(Cancel::is_triggered) {
            return Err(Error::new(Code::Cancelled, format!("{what}: cancelled by the caller")));
        }
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(Error::new(Code::Timeout, format!("{what}: the deadline passed")));
        }
        Ok(())
    }
}

/// The moment that much time from now; zero, or more than the clock can say, is never.
pub fn deadline_in(time: Duration) -> Option<Instant> {
    if time.is_zero() { None } else { Instant::now().checked_add(time) }
}

/// A value that one thread waits for and another brings.
pub struct Waiter<T> {
    slot: Arc<Slot<T>>,
}

/// The bringing end of a [`Waiter`].
pub struct Notifier<T> {
    slot: Arc<Slot<T>>,
}

struct Slot<T> {
    value: Mutex<Option<T>>,
    wakeup: Arc<Wakeup>,
}

impl<T> Waiter<T> {
    /// A value to wait for and the end that brings it.
    pub fn new() -> (Waiter<T>, Notifier<T>) {
        let slot = Arc::new(Slot { value: Mutex::new(None), wakeup: Arc::default() });
        (Waiter { slot: slot.clone() }, Notifier { slot })
    }

    /// Waits for the value within the bound; `what` names the call in the error.
    pub fn wait(self, limit: &Limit, what: &str) -> Result<T> {
        let parked = limit.cancel.as_ref().map(|cancel| cancel.park(&self.slot.wakeup));
        let mut ask_at = None;
        let mut guard = self.slot.wakeup.lock.lock().unwrap_or_else(|e| e.into_inner());
        let outcome = loop {
            if let Some(value) = self.slot.value.lock().unwrap_or_else(|e| e.into_inner()).take() {
                break Ok(value);
            }
            if let Err(error) = limit.check(what) {
                break Err(error);
            }
            guard = self.slot.wakeup.sleep_within(guard, limit, &mut ask_at);
        };
        // `trigger` wakes with its own list lock free but takes ours: let go of ours first.
        drop(guard);
        drop(parked);
        outcome
    }
}

impl<T> Notifier<T> {
    /// Brings the value and wakes the waiting thread, if it still waits.
    pub fn notify(self, value: T) {
        *self.slot.value.lock().unwrap_or_else(|e| e.into_inner()) = Some(value);
        self.slot.wakeup.wake();
    }
}

/// Something that changes now and then, for threads that wait until it has changed enough.
#[derive(Default)]
pub struct Signal {
    waiting: AtomicU64,
    wakeup: Arc<Wakeup>,
}

impl Signal {
    /// Lets every waiting thread look again.
    pub fn signal(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.wakeup.wake();
        }
    }

    /// Waits within the bound until `look` finds something; it is called again after each signal.
    pub fn wait<T>(&self, limit: &Limit, what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
        if let Some(found) = look() {
            return Ok(found);
        }
        let parked = limit.cancel.as_ref().map(|cancel| cancel.park(&self.wakeup));
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut ask_at = None;
        let mut guard = self.wakeup.lock.lock().unwrap_or_else(|e| e.into_inner());
        let outcome = loop {
            if let Some(found) = look() {
                break Ok(found);
            }
            if let Err(error) = limit.check(what) {
                break Err(error);
            }
            guard = self.wakeup.sleep_within(guard, limit, &mut ask_at);
        };
        drop(guard);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        drop(parked);
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn a_waiter_gets_the_value_that_another_thread_brings() {
        let (waiter, notifier) = Waiter::new();
        let bringer = thread::spawn(move || notifier.notify(7));
        assert_eq!(waiter.wait(&Limit::within(Duration::from_secs(10)), "test").unwrap(), 7);
        bringer.join().unwrap();
    }

    #[test]
    fn a_deadline_ends_a_wait_with_timeout() {
        let (waiter, _notifier) = Waiter::<()>::new();
        let error = waiter.wait(&Limit::within(Duration::from_millis(5)), "read").unwrap_err();
        assert_eq!(error.code(), Code::Timeout);
        assert_eq!(error.message(), "read: the deadline passed");
    }

    #[test]
    fn a_cancel_ends_a_wait_that_has_no_deadline() {
        let cancel = Cancel::new();
        let (waiter, _notifier) = Waiter::<()>::new();
        let trigger = thread::spawn({
            let cancel = cancel.clone();
            move || {
                thread::sleep(Duration::from_millis(10));
                cancel.trigger();
            }
        });
        let error = waiter.wait(&Limit::none().with_cancel(Some(cancel)), "read").unwrap_err();
        assert_eq!(error.code(), Code::Cancelled);
        trigger.join().unwrap();
    }

    #[test]
    fn a_waiting_thread_asks_a_cancel_itself_and_may_be_brought_the_value_meanwhile() {
        let (waiter, notifier) = Waiter::new();
        let notifier = std::sync::Mutex::new(Some(notifier));
        let asked = Arc::new(AtomicU64::new(0));
        let cancel = Cancel::asking({
            let asked = asked.clone();
            let waiting = thread::current().id();
            move || {
                assert_eq!(thread::current().id(), waiting);
                if asked.fetch_add(1, Ordering::SeqCst) == 1 {
                    notifier.lock().unwrap().take().unwrap().notify(7);
                }
                asked.load(Ordering::SeqCst) > 2
            }
        });
        let limit = Limit::none().with_cancel(Some(cancel));
        assert_eq!(waiter.wait(&limit, "read").unwrap(), 7);
        let (waiter, _notifier) = Waiter::<()>::new();
        assert_eq!(waiter.wait(&limit, "read").unwrap_err().code(), Code::Cancelled);
        assert_eq!(asked.load(Ordering::SeqCst), 3);
    }
}
