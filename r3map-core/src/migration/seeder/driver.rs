//! Drives the machine of a source: what it says is done here, and it is told what happened.
//!
//! Whoever brings an event holds the machine for a moment and never waits: messages go out and events are told at
//! once, and what may take long (scans, records, fencing) is queued for one thread, together with everything that the
//! machine wants after it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::cancel::Limit;
use crate::error::{Code, Error, Result};
use crate::migration::home::Homes;
use crate::migration::record::Record;
use crate::migration::seeder::clocks::{Clocks, Due};
use crate::migration::seeder::events::{Log, SeedEvent, SeedState};
use crate::migration::seeder::peers::{Peer, Peers};
use crate::migration::seeder::rate::Rate;
use crate::migration::seeder::truth::Truth;
use crate::migration::seeder::{SeedOptions, records};
use crate::migration::source::{Action, Event, Source, Told, What};
use crate::migration::{Dirty, MAX_HAND_OVER, Message, Moved};
use crate::stats::Stats;
use crate::thread;
use crate::wire::{Identity, socket};

/// What drives one seeder.
pub struct Driver {
    truth: Arc<Truth>,
    /// None while the region arrives, and once this has ended: they are another's.
    homes: Mutex<Option<Homes>>,
    /// Whether the record outlives this process, so that the bytes have to as well.
    lasts: AtomicBool,
    /// The region as it is known to all: of its epoch the machine knows more.
    region: Moved,
    suspend_deadline: Duration,
    deadline: Duration,
    trust: bool,
    legacy: bool,
    machine: Mutex<Machine>,
    /// Told when the machine's thread has something to do.
    wake: Condvar,
    /// The session whose destination may read.
    serving: RwLock<Option<Identity>>,
    peers: Peers,
    log: Log,
    rate: Mutex<Rate>,
    rounds: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the thread does.
enum Job {
    /// What the machine said.
    Do(Action),
    /// Tells the app.
    Tell(SeedEvent),
    /// Makes durable what is written so far, so that little is left to do while the app has stopped.
    FlushAhead,
}

struct Machine {
    source: Source,
    /// What is to be done by the thread, in order.
    jobs: VecDeque<Job>,
    clocks: Clocks,
    /// The client with whom the source speaks: unasked messages go to it.
    partner: Option<Identity>,
    /// Why the event that is being taken came about: the machine itself has words only.
    cause: Option<Error>,
    /// The last record that could not be written: its words may be told later.
    failure: Option<Error>,
    ended: bool,
}

impl Machine {
    /// What the app is told, with the error that it came from.
    fn event(&self, Told { sequence, what }: Told) -> SeedEvent {
        let because = |reason: String, code| {
            let failure = self.failure.clone().filter(|failure| failure.message() == reason);
            Some(self.cause.clone().or(failure).unwrap_or_else(|| Error::new(code, reason)))
        };
        let (state, cause) = match what {
            What::Waiting => (SeedState::Waiting, None),
            What::Tracking => (SeedState::Tracking, None),
            What::Suspending => (SeedState::Suspending, None),
            What::Resumed { reason } => (SeedState::Resumed, because(reason, Code::Cancelled)),
            What::Committed => (SeedState::Committed, None),
            What::Drained => (SeedState::Drained, None),
            What::Trouble { reason } => (SeedState::Trouble, because(reason, Code::Io)),
        };
        SeedEvent { sequence, state, cause }
    }
}

impl Driver {
    /// Begins to seed this, as its records say where it is.
    pub fn start(truth: Truth, options: &SeedOptions) -> Result<Arc<Driver>> {
        let mut clocks = Clocks::default();
        let (homes, region, (source, actions)) = if truth.seeded().all(|seeded| seeded.has_arrived()) {
            let (homes, record) = records::open(&truth, options.cache_trust)?;
            (Some(homes), record.region, Source::new(record)?)
        } else {
            clocks.arrives();
            let region = records::arriving(&truth)?;
            (None, region, Source::arriving(region))
        };
        let owns = source.owns() && homes.is_some();
        let machine =
            Machine { source, jobs: VecDeque::new(), clocks, partner: None, cause: None, failure: None, ended: false };
        let driver = Arc::new(Driver {
            truth: Arc::new(truth),
            lasts: AtomicBool::new(homes.as_ref().is_some_and(Homes::last)),
            homes: Mutex::new(homes),
            region,
            suspend_deadline: options.suspend_deadline,
            deadline: options.deadline,
            trust: options.cache_trust,
            legacy: options.allow_legacy,
            machine: Mutex::new(machine),
            wake: Condvar::new(),
            serving: RwLock::default(),
            peers: Peers::default(),
            log: Log::default(),
            rate: Mutex::default(),
            rounds: AtomicU64::new(0),
            thread: Mutex::default(),
        });
        if owns {
            // Parts that were written off for a commit that never came are here all the same.
            driver.truth.seeded().for_each(|seeded| seeded.reopen());
        }
        driver.act(&mut driver.lock(), actions, None);
        let worker = driver.clone();
        let started = thread::spawn("r3map-seed", move || worker.run());
        let started = started.map_err(|error| Error::io("start the thread of a seeder", error))?;
        *driver.thread.lock().unwrap_or_else(|e| e.into_inner()) = Some(started);
        Ok(driver)
    }

    fn lock(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The bytes.
    pub fn truth(&self) -> &Arc<Truth> {
        &self.truth
    }

    /// What is told to the app.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The region, at its epoch now.
    pub fn region(&self) -> Moved {
        Moved { epoch: self.lock().source.region().epoch, ..self.region }
    }

    /// Whether closing it would take bytes away that the destination lacks.
    pub fn is_needed(&self) -> bool {
        self.lock().source.is_needed()
    }

    /// Whether leechers may take it by a protocol that says less.
    pub fn allows_legacy(&self) -> bool {
        self.legacy
    }

    /// Bound of each blocking operation.
    #[cfg(feature = "grpc")]
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// The vote by which the region was given away, for as long as its destination may lack bytes.
    #[cfg(feature = "grpc")]
    pub fn given(&self) -> Option<crate::migration::Vote> {
        self.lock().source.given()
    }

    /// Figures of the seeder.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        stats.put("size", self.region.size);
        stats.put("epoch", self.region().epoch);
        stats.put("served_bytes", self.truth.served());
        stats.put("dirtied_bytes", self.truth.marked() * crate::page::PAGE);
        stats.put("dirty_rate", self.rate.lock().unwrap_or_else(|e| e.into_inner()).bytes_per_second());
        stats.put("rounds", self.rounds.load(Ordering::Relaxed));
        stats
    }

    /// A connection was greeted.
    pub fn arrive(&self, peer: &Arc<Peer>) {
        self.peers.arrive(peer);
        let mut machine = self.lock();
        if peer.session().is_some_and(|session| machine.source.serves(session)) {
            machine.partner = Some(peer.client);
        }
        if machine.partner == Some(peer.client) {
            machine.clocks.partner_is_here();
        }
    }

    /// A connection is over; with a goodbye its client means that it wants nothing more.
    pub fn leave(&self, peer: &Arc<Peer>, goodbye: bool) {
        self.peers.leave(peer);
        let mut machine = self.lock();
        if machine.partner != Some(peer.client) || self.peers.newest(peer.client).is_some() {
            return;
        }
        machine.clocks.partner_is_gone(self.deadline);
        self.wake.notify_all();
        if goodbye {
            self.lose(&mut machine, "the destination said goodbye");
        }
    }

    /// An error unless a peer may read now.
    pub fn check_read(&self, peer: &Peer) -> Result<()> {
        let serving = *self.serving.read().unwrap_or_else(|e| e.into_inner());
        let session = peer.session();
        if session.is_some() && serving == session {
            return Ok(());
        }
        let message = match session {
            None => "read: no session has begun on this connection: say TRACK first",
            Some(_) => "read: the session of this connection is over, or not one of this source",
        };
        Err(Error::new(Code::StaleEpoch, message).with_retryable(session.is_none()))
    }

    /// A message came.
    pub fn received(&self, message: Message, peer: &Arc<Peer>) {
        let mut machine = self.lock();
        if let Some(vote) = message.vote() {
            peer.join(vote.session);
        }
        match message {
            // Perhaps that one is gone and its connection not over yet: a moment tells.
            Message::Track { attempt, .. } if machine.source.is_taken_from(attempt) => {
                machine.clocks.rival(message, peer.clone());
                self.wake.notify_all();
            }
            message => self.take(&mut machine, message, peer),
        }
    }

    fn take(&self, machine: &mut Machine, message: Message, peer: &Arc<Peer>) {
        let before = machine.source.serving();
        let session = message.vote().map(|vote| vote.session);
        // A machine's errors are answers to the app, and this is none.
        let actions = machine.source.on(Event::Received(message)).unwrap_or_default();
        let is_partner = session.is_some_and(|session| before == Some(session) || machine.source.serves(session));
        if is_partner || actions.iter().any(|action| matches!(action, Action::Arm { .. } | Action::Collect { .. })) {
            machine.partner = Some(peer.client);
            machine.clocks.partner_is_here();
        }
        self.act(machine, actions, Some(peer));
    }

    /// The app has stopped, and hands this over.
    pub fn suspended(&self, sequence: u64, payload: &[u8]) -> Result<()> {
        if payload.len() > MAX_HAND_OVER {
            let message = format!("a payload of {} bytes, where {MAX_HAND_OVER} are allowed", payload.len());
            return Err(Error::new(Code::InvalidArgument, message));
        }
        let mut machine = self.lock();
        let peer = machine.partner.and_then(|partner| self.peers.newest(partner));
        if !payload.is_empty() && peer.is_some_and(|peer| peer.is_bridged()) {
            let message =
                "the leecher speaks the legacy protocol, by which no payload can be handed over: leave it away";
            return Err(Error::new(Code::Unsupported, message));
        }
        self.on_locked(&mut machine, Event::Suspended { sequence, payload: payload.to_vec() })
    }

    /// Something happened, here or at the app.
    pub fn on(&self, event: Event) -> Result<()> {
        let mut machine = self.lock();
        self.on_locked(&mut machine, event)
    }

    /// The same, of a failure: the app is told this very error.
    fn failed(&self, error: Error, event: impl FnOnce(String) -> Event) {
        let mut machine = self.lock();
        let reason = error.message().to_owned();
        machine.cause = Some(error);
        let _ = self.on_locked(&mut machine, event(reason));
        machine.cause = None;
    }

    fn on_locked(&self, machine: &mut Machine, event: Event) -> Result<()> {
        // What a record that was begun came to is still told: to the app, and to a destination that waits for it.
        if machine.ended && !matches!(event, Event::Persisted { .. } | Event::NotPersisted { .. }) {
            return Err(Error::new(Code::Closed, "the seeder is closed"));
        }
        let actions = machine.source.on(event)?;
        self.act(machine, actions, None);
        Ok(())
    }

    /// The destination is taken for gone, if it may be.
    fn lose(&self, machine: &mut Machine, why: &str) {
        if let Some(session) = machine.source.pulling() {
            machine.cause = Some(Error::new(Code::Disconnected, why));
            let _ = self.on_locked(machine, Event::Lost { session });
            machine.cause = None;
        }
    }

    /// Does at once what can be done at once, and leaves the rest, in order, to the thread.
    fn act(&self, machine: &mut Machine, actions: Vec<Action>, asked_by: Option<&Arc<Peer>>) {
        *self.serving.write().unwrap_or_else(|e| e.into_inner()) = machine.source.serving();
        let mut in_order = true;
        for action in actions {
            if matches!(action, Action::Tell(Told { what: What::Suspending, .. })) && self.lasts() {
                in_order = false;
                machine.jobs.push_back(Job::FlushAhead);
            }
            match action {
                Action::Send(message) if in_order => self.send(machine.partner, &message, asked_by),
                Action::Tell(told) if in_order => self.tell(machine, machine.event(told)),
                action => {
                    let job = match action {
                        Action::Tell(told) => Job::Tell(machine.event(told)),
                        action => Job::Do(action),
                    };
                    if matches!(job, Job::Do(Action::Collect { .. })) {
                        // Only the newest question counts, however many are asked.
                        machine.jobs.retain(|job| !matches!(job, Job::Do(Action::Collect { .. })));
                    }
                    in_order = false;
                    if let Job::Do(Action::Quiesce { .. }) = job {
                        self.truth.seeded().for_each(|seeded| seeded.suspend());
                    }
                    machine.jobs.push_back(job);
                    self.wake.notify_all();
                }
            }
        }
    }

    fn send(&self, partner: Option<Identity>, message: &Message, asked_by: Option<&Arc<Peer>>) {
        match asked_by.cloned().or_else(|| self.peers.newest(partner?)) {
            Some(peer) => peer.say(message),
            // Whoever it is for asks again.
            None => tracing::debug!(?message, "nobody is there to be told"),
        }
    }

    fn tell(&self, machine: &mut Machine, event: SeedEvent) {
        let cause = event.cause.as_ref().map(Error::message);
        tracing::info!(state = event.state.name(), sequence = event.sequence, cause, "seeder");
        machine.clocks.told(event.state, event.sequence, self.suspend_deadline);
        self.log.tell(event);
        self.wake.notify_all();
    }

    /// The thread: jobs in order, and between them what is due.
    fn run(&self) {
        while let Some(job) = self.next_job() {
            match job {
                Job::Do(action) => self.work(action),
                Job::Tell(event) => self.tell(&mut self.lock(), event),
                Job::FlushAhead => self.flush_ahead(),
            }
        }
        self.log.end();
    }

    fn next_job(&self) -> Option<Job> {
        let mut machine = self.lock();
        loop {
            if let Some(job) = machine.jobs.pop_front() {
                return Some(job);
            }
            if machine.ended {
                return None;
            }
            if let Some(due) = machine.clocks.due() {
                self.time(&mut machine, due);
                continue;
            }
            machine = match machine.clocks.next() {
                None => self.wake.wait(machine).unwrap_or_else(|e| e.into_inner()),
                Some(at) => {
                    let left = at.saturating_duration_since(Instant::now());
                    self.wake.wait_timeout(machine, left).unwrap_or_else(|e| e.into_inner()).0
                }
            };
        }
    }

    fn time(&self, machine: &mut Machine, due: Due) {
        match due {
            Due::Arriving => self.arrive_whole(machine),
            Due::Suspend { sequence } => {
                let reason = "the app did not stop within suspend_deadline";
                machine.cause = Some(Error::new(Code::Timeout, reason));
                // It may have been answered a moment ago.
                let _ = self.on_locked(machine, Event::Refused { sequence, reason: reason.to_owned() });
                machine.cause = None;
            }
            Due::PartnerLost => self.lose(machine, "the destination has been away for too long"),
            Due::Again => {
                let _ = self.on_locked(machine, Event::Again);
            }
            Due::Rival { message, peer, takes_over } => {
                if takes_over {
                    self.lose(machine, "the destination is gone, and another asks");
                }
                self.take(machine, message, &peer);
            }
        }
    }

    /// Looks whether the region has arrived, and begins in earnest.
    fn arrive_whole(&self, machine: &mut Machine) {
        if !self.truth.seeded().all(|seeded| seeded.has_arrived()) {
            return machine.clocks.arrives();
        }
        match records::open(&self.truth, self.trust) {
            Ok((homes, record)) => {
                self.lasts.store(homes.last(), Ordering::Relaxed);
                *self.homes.lock().unwrap_or_else(|e| e.into_inner()) = Some(homes);
                let _ = self.on_locked(machine, Event::Arrived { record });
            }
            Err(error) => {
                tracing::warn!(%error, "a region that has arrived cannot be seeded yet");
                machine.clocks.arrives();
            }
        }
    }

    fn work(&self, action: Action) {
        match action {
            Action::Send(message) => {
                let partner = self.lock().partner;
                self.send(partner, &message, None);
            }
            // Queued as what the app reads.
            Action::Tell(_) => {}
            Action::Arm { step } => match self.arm() {
                Ok(session) => drop(self.on(Event::Armed { step, session })),
                Err(error) => {
                    tracing::error!(%error, "writes cannot be tracked");
                    self.failed(error, |reason| Event::NotArmed { step, reason });
                }
            },
            Action::Disarm => self.truth.seeded().for_each(|seeded| seeded.tracker().disarm()),
            Action::Collect { session, acknowledged } => self.collect(session, acknowledged),
            Action::Quiesce { step, acknowledged } => match self.quiesce(acknowledged) {
                Ok(dirty) => drop(self.on(Event::Quiesced { step, dirty })),
                Err(error) => self.failed(error, |reason| Event::Disturbed { step, reason }),
            },
            Action::Reopen => self.truth.seeded().for_each(|seeded| seeded.reopen()),
            Action::Persist { step, record } => match self.save(&record) {
                Ok(()) => drop(self.on(Event::Persisted { step })),
                Err(error) => {
                    self.lock().failure = Some(error.clone());
                    self.failed(error, |reason| Event::NotPersisted { step, reason });
                }
            },
            Action::Fence => {
                for seeded in self.truth.seeded() {
                    if let Err(error) = seeded.fence(&self.limit()) {
                        tracing::error!(%error, "a view of a region that is another host's now could not be ended");
                    }
                }
            }
        }
    }

    fn save(&self, record: &Record) -> Result<()> {
        match &*self.homes.lock().unwrap_or_else(|e| e.into_inner()) {
            Some(homes) => homes.save(record),
            None => Err(Error::new(Code::Closed, "the seeder is closed")),
        }
    }

    fn limit(&self) -> Limit {
        Limit::within(self.deadline)
    }

    fn arm(&self) -> Result<Identity> {
        self.truth.seeded().try_for_each(|seeded| seeded.arm())?;
        *self.rate.lock().unwrap_or_else(|e| e.into_inner()) = Rate::default();
        socket::random()
    }

    fn collect(&self, session: Identity, acknowledged: u64) {
        if self.lock().source.pulling() != Some(session) {
            return;
        }
        let limit = self.limit();
        let collected = self.truth.seeded().try_for_each(|seeded| seeded.collect(&limit).map(drop));
        if let Err(error) = collected {
            // The destination asks again.
            tracing::warn!(%error, "what was written could not be collected");
            return;
        }
        self.rate.lock().unwrap_or_else(|e| e.into_inner()).marked(self.truth.marked());
        if let Some((round, pages)) = self.truth.round(acknowledged) {
            self.rounds.store(round, Ordering::Relaxed);
            let _ = self.on(Event::Collected { session, round, pages });
        }
    }

    fn lasts(&self) -> bool {
        self.lasts.load(Ordering::Relaxed)
    }

    fn flush_ahead(&self) {
        let limit = self.limit();
        if let Err(error) = self.truth.seeded().try_for_each(|seeded| seeded.flush(&limit)) {
            // Then it fails once more when it counts, and the app is told.
            tracing::warn!(%error, "what was written could not be made durable before the app stops");
        }
    }

    /// Has everything stop; what the destination lacks then that has taken these rounds into account.
    fn quiesce(&self, acknowledged: u64) -> Result<Dirty> {
        let partner = self.lock().partner;
        let away = || Error::new(Code::Disconnected, "the destination is away: it is not given the region now");
        let peer = partner.and_then(|partner| self.peers.newest(partner)).ok_or_else(away)?;
        let (limit, lasting) = (self.limit(), self.lasts());
        self.truth.seeded().try_for_each(|seeded| seeded.settle(lasting, &limit))?;
        self.truth.seeded().try_for_each(|seeded| seeded.verify(&limit))?;
        let dirty = self.truth.rest(acknowledged);
        peer.check_take(&dirty)?;
        Ok(dirty)
    }

    /// Ends it: whoever pulls hears that the session is over, and what was begun is done first. Without `force` one
    /// whose bytes somebody still needs is `busy`.
    pub fn end(&self, force: bool) -> Result<()> {
        {
            let mut machine = self.lock();
            if machine.ended {
                return Ok(());
            }
            if machine.source.is_needed() && !force {
                let message = "the region was given away and its leecher still lacks bytes of it: wait until it is \
                               drained, or abandon it";
                return Err(Error::new(Code::Busy, message));
            }
            self.lose(&mut machine, "the seeder was closed");
            machine.ended = true;
            self.wake.notify_all();
        }
        let thread = self.thread.lock().unwrap_or_else(|e| e.into_inner()).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
        *self.serving.write().unwrap_or_else(|e| e.into_inner()) = None;
        self.peers.cut();
        *self.homes.lock().unwrap_or_else(|e| e.into_inner()) = None;
        self.truth.seeded().for_each(|seeded| seeded.release());
        Ok(())
    }
}
