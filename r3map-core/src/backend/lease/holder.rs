//! Who holds a lease, or wants to: takes the place, keeps it, lets every write ask, and gives it back.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::clock::Moment;
use super::{Record, Records, Terms};
use crate::cancel::{Limit, Waiter};
use crate::error::{Code, Error, Result};
use crate::runtime;
use crate::thread::{self, Process};

/// The first pause between two looks at another's record; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The least bound of one request to the store.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long giving the lease back keeps its caller.
const RELEASING: Duration = Duration::from_secs(2);

/// The lease of one handle to a region. The last one to let go of it gives it back.
pub struct Lease(Arc<Shared>, Process);

struct Shared {
    records: Box<dyn Kept>,
    terms: Terms,
    /// Who this is, for people.
    name: String,
    /// Held by whoever writes a record.
    turn: tokio::sync::Mutex<()>,
    state: Mutex<State>,
    /// Told when the last write under way is over.
    calm: Notify,
}

struct State {
    place: Place,
    /// Counts how often the place was given back: no write goes on in another tenure than it began in.
    tenure: u64,
    /// Writes that are on their way to the store.
    under_way: usize,
}

enum Place {
    None,
    /// `since` is from before its record was sent.
    Held {
        record: Record,
        since: Moment,
        leaving: bool,
    },
    Lost(Error),
}

/// What a look at the newest record brings.
enum Look {
    /// The place, and when its record was sent.
    Taken(Record, Moment),
    /// Another has it, and just wrote a record.
    Lives(Record),
    /// Another has it, and may be dead.
    Silent(Record),
    /// Another took it at the same time.
    Quicker,
}

/// What was seen of another's record.
#[derive(Default)]
struct Watch {
    /// What was there at the last look, and when that was.
    last: Option<(Option<Record>, Moment)>,
    /// For how long it was the same.
    watched: Duration,
}

impl Watch {
    /// For how long this record has been watched; `None` if another was there before. Who was away itself has not
    /// watched: of the time between two looks in a row no more than `most` counts.
    fn see(&mut self, newest: &Option<Record>, most: Duration) -> Option<Duration> {
        let now = Moment::now();
        match self.last.replace((newest.clone(), now)) {
            Some((before, _)) if before != *newest => return None,
            Some((_, at)) => self.watched += now.since(at).min(most),
            None => {}
        }
        Some(self.watched)
    }
}

/// A write on its way to the store, until it is dropped: for so long the lease is not given back.
pub struct UnderWay(Arc<Shared>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.under_way -= 1;
        if state.under_way == 0 {
            self.0.calm.notify_one();
        }
    }
}

impl Lease {
    /// A lease that nobody asked for yet.
    pub fn new(records: Arc<impl Records>, terms: Terms) -> Lease {
        let state = State { place: Place::None, tenure: 0, under_way: 0 };
        let shared = Arc::new(Shared {
            records: Box::new(records),
            terms,
            name: thread::display(),
            turn: tokio::sync::Mutex::default(),
            state: Mutex::new(state),
            calm: Notify::new(),
        });
        Lease(shared, Process::current())
    }

    /// Takes the lease, waiting for a holder that may be dead; `busy` with the name of one that lives.
    pub async fn claim(&self, limit: &Limit) -> Result<()> {
        self.enter(limit).await.map(drop)
    }

    /// The tenure in which a write begins now; takes the lease if need be.
    pub async fn enter(&self, limit: &Limit) -> Result<u64> {
        let shared = &self.0;
        if let Some(tenure) = shared.tenure()? {
            return Ok(tenure);
        }
        let turn = shared.turn.lock();
        let _turn = match limit.deadline {
            None => turn.await,
            Some(deadline) => tokio::time::timeout_at(deadline.into(), turn).await.map_err(|_| late())?,
        };
        if let Some(tenure) = shared.tenure()? {
            return Ok(tenure);
        }
        let goes_on = match &mut shared.state().place {
            // It was about to go.
            Place::Held { leaving, .. } => {
                *leaving = false;
                true
            }
            _ => false,
        };
        if !goes_on {
            let (record, since) = shared.take(limit).await?;
            if let Err(error) = shared.within(shared.records.probe(&record)).await {
                let _ = shared.within(shared.records.replace(Some(&record), &shared.next(Some(&record), true)?)).await;
                return Err(error);
            }
            shared.state().place = Place::Held { record, since, leaving: false };
        }
        let tenure = shared.state().tenure;
        runtime::handle()?.spawn(keep(Arc::downgrade(shared), tenure));
        Ok(tenure)
    }

    /// Lets a write of that tenure go to the store, once it is certain that nobody can have taken over.
    pub async fn admit(&self, tenure: u64) -> Result<UnderWay> {
        let shared = &self.0;
        if let Some(admitted) = shared.admitted(tenure)? {
            return Ok(admitted);
        }
        let _turn = shared.turn.lock().await;
        if shared.admitted(tenure)?.is_none() {
            shared.extend().await?;
        }
        shared.admitted(tenure)?.ok_or_else(|| {
            let message = "the writer's lease is as good as over before the store says that it was extended: \
                           the store is slow, or lease_ttl short";
            Error::new(Code::Timeout, message)
        })
    }

    /// Gives the lease back, if it is held, once no write is under way. One that was lost may be asked for anew.
    pub fn release(&self) {
        // In a forked child it is the parent's.
        if !self.1.is_current() {
            return;
        }
        {
            let mut state = self.0.state();
            match &mut state.place {
                Place::Held { leaving, .. } if !*leaving => *leaving = true,
                Place::Lost(_) => state.place = Place::None,
                _ => return,
            }
            state.tenure += 1;
            if matches!(state.place, Place::None) {
                return;
            }
        }
        let Ok(runtime) = runtime::handle() else { return };
        let (waiter, notifier) = Waiter::new();
        let shared = self.0.clone();
        runtime.spawn(async move {
            shared.leave().await;
            notifier.notify(());
        });
        if tokio::runtime::Handle::try_current().is_err() {
            let _ = waiter.wait(&Limit::within(RELEASING), "give the writer's lease back");
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.release();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The tenure there is; an error once the lease is lost.
    fn tenure(&self) -> Result<Option<u64>> {
        let state = self.state();
        match &state.place {
            Place::Held { leaving: false, .. } => Ok(Some(state.tenure)),
            Place::Lost(error) => Err(error.clone()),
            _ => Ok(None),
        }
    }

    /// A write that may go now; `None` where another record has to be written first.
    fn admitted(self: &Arc<Self>, tenure: u64) -> Result<Option<UnderWay>> {
        let mut state = self.state();
        match &state.place {
            Place::Lost(error) => Err(error.clone()),
            Place::Held { since, .. } if state.tenure == tenure => {
                if since.elapsed() >= self.terms.time_to_live * 2 / 3 {
                    return Ok(None);
                }
                state.under_way += 1;
                Ok(Some(UnderWay(self.clone())))
            }
            _ => Err(Error::new(Code::StaleEpoch, "the writer's lease was given back before this was written")),
        }
    }

    /// A request to the store, given up after a while. It may then take effect all the same, later.
    async fn within<T>(&self, request: impl Future<Output = Result<T>>) -> Result<T> {
        match tokio::time::timeout(self.terms.time_to_live.max(PATIENCE), request).await {
            Ok(outcome) => outcome.map_err(|error| error.context("the writer's lease")),
            Err(_) => Err(Error::new(Code::Timeout, "the writer's lease: the store does not answer")),
        }
    }

    /// The record that takes the place of `old`.
    fn next(&self, old: Option<&Record>, released: bool) -> Result<Record> {
        let epoch = old.map_or(0, |old| old.epoch).checked_add(1);
        let epoch = epoch.ok_or_else(|| Error::new(Code::Corrupt, "the writer's lease has the last epoch there is"))?;
        let Terms { holder, time_to_live } = self.terms;
        Ok(Record { epoch, holder, name: self.name.clone(), time_to_live, released })
    }

    /// Takes the place from nobody, from one that has let go, or from one whose record stayed the same for its whole
    /// time to live.
    async fn take(&self, limit: &Limit) -> Result<(Record, Moment)> {
        let mut watch = Watch::default();
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match self.look(&mut watch).await {
                Ok(Look::Taken(record, since)) => return Ok((record, since)),
                Ok(Look::Lives(other)) => return Err(busy(&other)),
                Ok(Look::Silent(other)) => busy(&other),
                Ok(Look::Quicker) => late(),
                Err(error) if error.is_retryable() => error,
                Err(error) => return Err(error),
            };
            pause = (pause * 2).min(self.terms.time_to_live / 10);
            let wakes = Instant::now() + pause;
            if limit.check("").is_err() || limit.deadline.is_some_and(|deadline| deadline < wakes) {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// One look, and the try for the place if it is free.
    async fn look(&self, watch: &mut Watch) -> Result<Look> {
        let newest = self.within(self.records.newest()).await?;
        if let Some(other) = newest.as_ref().filter(|record| !record.released && record.holder != self.terms.holder) {
            let time = self.terms.time_to_live.max(other.time_to_live);
            match watch.see(&newest, time / 8) {
                None => return Ok(Look::Lives(other.clone())),
                Some(watched) if watched < time => return Ok(Look::Silent(other.clone())),
                Some(_) => tracing::warn!(holder = other.name, "the writer's lease has run out and is taken over"),
            }
        }
        let next = self.next(newest.as_ref(), false)?;
        let sent = Moment::now();
        if self.within(self.records.replace(newest.as_ref(), &next)).await? {
            return Ok(Look::Taken(next, sent));
        }
        *watch = Watch { last: Some((newest, Moment::now())), watched: Duration::ZERO };
        Ok(Look::Quicker)
    }

    /// Writes another record of this holder's, with the turn; an error for good where somebody else has the place.
    async fn extend(&self) -> Result<()> {
        loop {
            let old = match &self.state().place {
                Place::Held { record, .. } => record.clone(),
                Place::Lost(error) => return Err(error.clone()),
                Place::None => return Ok(()),
            };
            let (next, sent) = (self.next(Some(&old), false)?, Moment::now());
            if self.within(self.records.replace(Some(&old), &next)).await? {
                self.now_has(next, Some(sent));
                return Ok(());
            }
            match self.within(self.records.newest()).await? {
                // An earlier try that was given up has arrived. When it did is not known: it extends nothing.
                Some(newest) if newest.holder == self.terms.holder && newest.epoch > old.epoch => {
                    self.now_has(newest, None);
                }
                Some(newest) if newest.holder != self.terms.holder => {
                    let error = stale(&newest);
                    tracing::error!(%error, "the writer's lease is lost");
                    self.state().place = Place::Lost(error.clone());
                    return Err(error);
                }
                _ => return Err(Error::new(Code::Busy, "the store did not take the record of the writer's lease")),
            }
        }
    }

    fn now_has(&self, next: Record, sent: Option<Moment>) {
        if let Place::Held { record, since, .. } = &mut self.state().place {
            *record = next;
            *since = sent.unwrap_or(*since);
        }
    }

    /// Says that the place is free, once no write is under way, unless it was asked for again meanwhile.
    async fn leave(&self) {
        let _turn = self.turn.lock().await;
        loop {
            let (record, is_calm) = {
                let mut state = self.state();
                match &state.place {
                    Place::Held { record, leaving: true, .. } => (record.clone(), state.under_way == 0),
                    Place::Held { .. } => return,
                    _ => return state.place = Place::None,
                }
            };
            if is_calm {
                let next = self.next(Some(&record), true);
                let released = match next {
                    Ok(next) => self.within(self.records.replace(Some(&record), &next)).await,
                    Err(error) => Err(error),
                };
                if let Err(error) = released {
                    let time = self.terms.time_to_live;
                    tracing::warn!(%error, "the writer's lease was not given back: it runs out within {time:?}");
                }
                return self.state().place = Place::None;
            }
            // Until then it is kept.
            let third = self.terms.time_to_live / 3;
            if tokio::time::timeout(third, self.calm.notified()).await.is_err() {
                if let Err(error) = self.extend().await {
                    tracing::warn!(%error, "the writer's lease was not extended for the last writes");
                }
            }
        }
    }
}

/// Keeps a lease until it is given back, lost, or nobody has it any more.
async fn keep(shared: std::sync::Weak<Shared>, tenure: u64) {
    let mut pause = None;
    loop {
        let Some(time) = shared.upgrade().map(|shared| shared.terms.time_to_live) else { return };
        tokio::time::sleep(pause.take().unwrap_or(time / 3)).await;
        let Some(shared) = shared.upgrade() else { return };
        let _turn = shared.turn.lock().await;
        if shared.state().tenure != tenure {
            return;
        }
        match shared.extend().await {
            Ok(()) => {}
            Err(error) if error.is_retryable() => {
                tracing::debug!(%error, "the writer's lease was not extended yet");
                pause = Some(time / 15);
            }
            Err(_) => return,
        }
    }
}

fn busy(other: &Record) -> Error {
    let message = format!(
        "{} writes to this region, and one may: mount it read-only, or when that has closed; if it is dead its lease \
         runs out after {:?}",
        other.name, other.time_to_live
    );
    Error::new(Code::Busy, message)
}

fn late() -> Error {
    Error::new(Code::Timeout, "the deadline passed while waiting for the writer's lease")
}

fn stale(newest: &Record) -> Error {
    let message = format!(
        "{} took over the writer's lease, since this one was silent for longer than its time to live: nothing more is \
         written here, and what was not synced is lost; close this and open it anew",
        newest.name
    );
    Error::new(Code::StaleEpoch, message)
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// [`Records`] of whichever store.
trait Kept: Send + Sync {
    fn newest(&self) -> Boxed<'_, Option<Record>>;
    fn replace<'a>(&'a self, old: Option<&'a Record>, next: &'a Record) -> Boxed<'a, bool>;
    fn probe<'a>(&'a self, held: &'a Record) -> Boxed<'a, ()>;
}

impl<R: Records> Kept for Arc<R> {
    fn newest(&self) -> Boxed<'_, Option<Record>> {
        Box::pin(R::newest(self))
    }

    fn replace<'a>(&'a self, old: Option<&'a Record>, next: &'a Record) -> Boxed<'a, bool> {
        Box::pin(R::replace(self, old, next))
    }

    fn probe<'a>(&'a self, held: &'a Record) -> Boxed<'a, ()> {
        Box::pin(R::probe(self, held))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A store in memory that loses as many answers as it is told to.
    #[derive(Default)]
    struct Memory {
        record: Mutex<Option<Record>>,
        lose: AtomicUsize,
    }

    impl Records for Memory {
        async fn newest(&self) -> Result<Option<Record>> {
            Ok(self.record.lock().unwrap().clone())
        }

        async fn replace(&self, old: Option<&Record>, next: &Record) -> Result<bool> {
            let mut record = self.record.lock().unwrap();
            let is_right = record.is_none() || record.as_ref() == old;
            if is_right {
                *record = Some(next.clone());
            }
            match self.lose.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| count.checked_sub(1)) {
                Ok(_) => Err(Error::new(Code::Disconnected, "the answer was lost")),
                Err(_) => Ok(is_right),
            }
        }
    }

    fn lease(store: &Arc<Memory>, number: u8) -> Lease {
        Lease::new(store.clone(), Terms { holder: [number; 16], time_to_live: Duration::from_secs(3600) })
    }

    fn wait<T>(work: impl Future<Output = T>) -> T {
        runtime::handle().unwrap().block_on(work)
    }

    #[test]
    fn a_record_whose_answer_was_lost_is_known_again_and_extends_nothing() {
        let store = Arc::new(Memory::default());
        let (one, two) = (lease(&store, 1), lease(&store, 2));
        store.lose.store(2, Ordering::SeqCst);
        let tenure = wait(one.enter(&Limit::none())).unwrap();
        drop(wait(one.admit(tenure)).unwrap());
        store.lose.store(1, Ordering::SeqCst);
        assert!(wait(one.0.extend()).unwrap_err().is_retryable());
        wait(one.0.extend()).unwrap();
        assert_eq!(store.record.lock().unwrap().as_ref().unwrap().epoch, 5);
        let error = wait(two.enter(&Limit::within(Duration::from_millis(1)))).unwrap_err();
        assert_eq!(error.code(), Code::Busy, "{error}");
        // Given back, an answer being lost or not, it is free at once.
        store.lose.store(1, Ordering::SeqCst);
        one.release();
        let tenure_of_two = wait(two.enter(&Limit::none())).unwrap();
        drop(wait(two.admit(tenure_of_two)).unwrap());
        assert_eq!(wait(one.admit(tenure)).err().unwrap().code(), Code::StaleEpoch);
    }

    #[test]
    fn whoever_finds_another_in_its_place_is_fenced_until_it_gives_up_whatever_the_epoch() {
        let store = Arc::new(Memory::default());
        let (one, two) = (lease(&store, 1), lease(&store, 2));
        let tenure = wait(one.enter(&Limit::none())).unwrap();
        wait(one.0.extend()).unwrap();
        // A store that forgot all.
        *store.record.lock().unwrap() = None;
        wait(two.claim(&Limit::none())).unwrap();
        for _ in 0..2 {
            assert_eq!(wait(one.0.extend()).unwrap_err().code(), Code::StaleEpoch);
            assert_eq!(wait(one.admit(tenure)).err().unwrap().code(), Code::StaleEpoch);
            assert_eq!(wait(one.enter(&Limit::none())).unwrap_err().code(), Code::StaleEpoch);
        }
        one.release();
        two.release();
        wait(one.claim(&Limit::none())).unwrap();
        assert_eq!(wait(one.admit(tenure)).err().unwrap().code(), Code::StaleEpoch, "of another tenure");
    }

    #[test]
    fn the_lease_is_given_back_when_the_last_write_is_over_and_kept_if_it_is_asked_for_before() {
        let store = Arc::new(Memory::default());
        let (one, two) = (lease(&store, 1), lease(&store, 2));
        let tenure = wait(one.enter(&Limit::none())).unwrap();
        let under_way = wait(one.admit(tenure)).unwrap();
        wait(async { one.release() });
        assert!(!store.record.lock().unwrap().as_ref().unwrap().released);
        drop(under_way);
        let begin = Instant::now();
        while wait(two.claim(&Limit::within(Duration::from_millis(1)))).is_err() {
            assert!(begin.elapsed() < Duration::from_secs(60));
        }
        two.release();
        let tenure = wait(one.enter(&Limit::none())).unwrap();
        let under_way = wait(one.admit(tenure)).unwrap();
        wait(async { one.release() });
        drop(under_way);
        wait(one.claim(&Limit::none())).unwrap();
        assert_eq!(wait(two.claim(&Limit::within(Duration::from_millis(1)))).unwrap_err().code(), Code::Busy);
    }
}
