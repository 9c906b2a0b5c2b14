//! The thread that drives a destination: it does what the machine says, tells it what happened, and pulls.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backend::remote::leech::Heard;
use crate::cancel::Limit;
use crate::error::{Code, Error, Result};
use crate::event::Kind;
use crate::migration::destination::{Action, Destination, Event, Told};
use crate::migration::home::Homes;
use crate::migration::leecher::LeechState;
use crate::migration::leecher::core::{Core, Input};
use crate::migration::leecher::plan::{Plan, Wish};
use crate::migration::leecher::pull::{Aim, Pull};
use crate::migration::record::{Record, State};
use crate::migration::{Dirty, Message, Runs};
use crate::options::Pull as When;
use crate::page::{PAGE, Set};
use crate::wire::{Identity, socket};

/// Pauses before something is said again that may have been lost.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));

/// How long a connection may leave a question without an answer before it is made anew, within the option `deadline`.
/// Keep-alive does not find one that somebody between the two sides keeps open.
const SILENCE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// The thread's own.
pub struct Driver {
    core: Arc<Core>,
    destination: Destination,
    homes: Option<Homes>,
    actions: VecDeque<Action>,
    pull: Pull,
    plan: Plan,
    again: Again,
    /// When the first question was asked since something was heard.
    unheard: Option<Instant>,
    /// Whether the source gave up what is missing.
    abandoned: bool,
    /// Whether the bytes could not be made durable, which does not get better.
    unsynced: bool,
    stopped: bool,
}

/// When to say again what may be lost.
struct Again {
    pause: Duration,
    at: Instant,
}

impl Again {
    fn begin() -> Again {
        Again { pause: AGAIN.0, at: Instant::now() + AGAIN.0 }
    }

    fn later(&mut self) {
        self.pause = (self.pause * 2).min(AGAIN.1);
        self.at = Instant::now() + self.pause;
    }
}

impl Driver {
    /// A driver of this machine, whose first actions these are.
    pub fn new(core: Arc<Core>, homes: Homes, destination: Destination, first: Vec<Action>) -> Result<Driver> {
        Ok(Driver {
            pull: Pull::new(core.clone())?,
            core,
            destination,
            homes: Some(homes),
            actions: first.into(),
            plan: Plan::default(),
            again: Again::begin(),
            unheard: None,
            abandoned: false,
            unsynced: false,
            stopped: false,
        })
    }

    /// Drives it until nothing ties the region to its source, or somebody ends it.
    pub fn run(mut self) {
        self.act();
        while !self.stopped {
            if self.destination.is_idle() && self.core.status().over.is_none() {
                self.begin();
            }
            // What falls due from here on is looked at in the next turn.
            let now = Instant::now();
            for input in self.core.inbox().take() {
                self.take(input);
                self.act();
            }
            if self.again.at <= now {
                self.again.later();
                self.doubt();
                self.event(Event::Again);
            }
            let seen = self.look();
            let more = self.pull(&seen);
            self.publish();
            if self.destination.is_independent() {
                break;
            }
            self.rest(more, &seen, now);
        }
        self.core.seed().close();
        // Whoever seeds the region next writes its record.
        self.homes = None;
        self.publish();
    }

    /// Begins an attempt.
    fn begin(&mut self) {
        match socket::random() {
            Ok(attempt) => {
                self.again = Again::begin();
                self.event(Event::Begin { attempt });
            }
            Err(error) => self.end(error),
        }
    }

    fn event(&mut self, event: Event) {
        match self.destination.on(event) {
            Ok(actions) => self.actions.extend(actions),
            Err(error) => tracing::debug!(%error, "a destination refused an event"),
        }
        self.act();
    }

    /// Makes a connection anew that is silent though it was asked.
    fn doubt(&mut self) {
        let deadline = self.core.options().deadline;
        let patience = if deadline.is_zero() { SILENCE.1 } else { deadline.clamp(SILENCE.0, SILENCE.1) };
        if let Some(since) = self.unheard.filter(|since| since.elapsed() >= patience) {
            self.unheard = None;
            self.core.seed().cut_if_silent(since);
        }
    }

    fn take(&mut self, input: Input) {
        if let Input::Heard(_) = input {
            self.unheard = None;
        }
        match input {
            Input::Heard(Heard::Message(message)) => self.hear(message),
            Input::Heard(Heard::Connected) => {
                self.core.publish(|status| (status.connected, status.forsaken) = (true, false));
                if self.destination.owns() && !self.abandoned {
                    self.core.tell(Kind::Recovered, None);
                }
                // What was said on the connection before may be lost.
                self.again = Again::begin();
                self.event(Event::Again);
                self.plan.ask_again();
            }
            Input::Heard(Heard::Lost(error)) => {
                let was_connected = std::mem::replace(&mut self.core.status().connected, false);
                self.core.publish(|status| status.cause = Some(error.clone()));
                if was_connected && self.destination.owns() {
                    self.core.tell(Kind::Disconnected, Some(error));
                }
            }
            Input::Heard(Heard::Over(error)) if !self.destination.owns() => self.end(error),
            Input::Heard(Heard::Over(_)) => {
                self.core.publish(|status| (status.connected, status.forsaken) = (false, true));
            }
            Input::Finalize => {}
            Input::Stop => self.stopped = true,
        }
    }

    fn hear(&mut self, message: Message) {
        if let Message::Dirty { .. } = &message {
            self.plan.answered();
        }
        self.event(Event::Received(message));
    }

    /// Nothing comes of it any more.
    fn end(&mut self, error: Error) {
        self.core.publish(|status| {
            status.state = LeechState::Ended;
            status.over = Some(error);
        });
    }

    /// Does what the machine says, in its order.
    fn act(&mut self) {
        while let Some(action) = self.actions.pop_front() {
            match action {
                Action::Send(message) => {
                    // That the region was taken is the one thing that nobody answers.
                    if !matches!(message, Message::Taken { .. }) {
                        self.unheard.get_or_insert_with(Instant::now);
                    }
                    self.core.seed().say(&message);
                }
                Action::Persist { step, record } => self.persist(step, &record),
                Action::Pull { session } => self.start_pulling(session),
                Action::Forget { round, pages } => self.forget_round(round, &pages),
                Action::Stop => self.stop_pulling(),
                Action::Settle { step, dirty } => self.settle(step, &dirty),
                Action::Open { session, payload } => self.open(session, payload),
                Action::Fence => self.fence(),
                Action::Tell(told) => self.tell(told),
            }
        }
    }

    fn persist(&mut self, step: u64, record: &Record) {
        let begun = Instant::now();
        let Some(homes) = &self.homes else { return };
        let event = match homes.save(record) {
            Ok(()) => {
                if matches!(record.state, State::Complete | State::Owner) {
                    self.core.parts().iter().for_each(|part| part.place().complete());
                }
                Event::Persisted { step }
            }
            Err(error) => Event::NotPersisted { step, reason: error.message().to_owned() },
        };
        self.core.status().persisting = begun.elapsed();
        match self.destination.on(event) {
            Ok(actions) => self.actions.extend(actions),
            Err(error) => tracing::debug!(%error, "a destination refused an event"),
        }
    }

    /// Applies to each part what is said of pages of all.
    fn forget(&self, pages: &Runs) {
        for run in pages.iter() {
            for (part, run) in self.core.split(run) {
                if let Err(error) = part.region().forget(run) {
                    // It is absent all the same; only its memory is not given back.
                    tracing::warn!(%error, "pages that were forgotten stay in memory");
                }
            }
        }
    }

    /// Forgets everything, but proposes it to be compared.
    fn forget_all(&self) {
        for part in self.core.parts() {
            let states = part.region().states();
            let mut at = 0;
            while let Some(run) = states.next_run(at..states.pages(), Set::LOCAL) {
                part.feed().propose(part.region().bytes_of(&run));
                at = run.end;
            }
        }
        self.forget(&Runs::all(self.core.pages()));
    }

    fn start_pulling(&mut self, session: Identity) {
        self.core.seed().enter(session);
        self.pull.begin();
        self.plan = Plan::default();
    }

    fn stop_pulling(&mut self) {
        self.forget_all();
        self.pull.begin();
        self.plan = Plan::default();
    }

    fn forget_round(&mut self, round: u64, pages: &Runs) {
        self.forget(pages);
        self.pull.dirtied(round, pages);
        let written = pages.pages() * PAGE;
        self.plan.learned(written, self.pull.bytes_again());
        self.core.status().rounds = round;
    }

    fn settle(&mut self, step: u64, dirty: &Dirty) {
        match dirty {
            Dirty::All => self.forget_all(),
            Dirty::Pages(pages) => self.forget(pages),
        }
        let settled = self.core.parts().iter().try_for_each(|part| part.place().settle());
        match settled {
            Ok(()) => self.event(Event::Settled { step }),
            Err(error) => {
                // Nothing was said yet: the region stays nobody's until it can be.
                self.core.publish(|status| status.cause = Some(error.clone()));
                tracing::error!(%error, "the map of a region's pages cannot be written: trying again");
                std::thread::sleep(AGAIN.0);
                if !self.core.inbox().is_stopping() {
                    self.actions.push_front(Action::Settle { step, dirty: dirty.clone() });
                }
            }
        }
    }

    fn open(&mut self, session: Identity, payload: Vec<u8>) {
        self.core.seed().enter(session);
        {
            let mut status = self.core.status();
            status.payload = Arc::new(payload);
            status.epoch = self.destination.record().region.epoch;
            status.owns = true;
            status.bound = false;
            status.state = match self.destination.record().state {
                State::Taken => LeechState::Owner,
                _ => LeechState::Complete,
            };
        }
        self.core.parts().iter().filter_map(|part| part.mount()).for_each(|mount| mount.let_in());
        self.core.inbox().signal.signal();
    }

    fn fence(&mut self) {
        for mount in self.core.parts().iter().filter_map(|part| part.mount()) {
            if let Err(error) = mount.take_away() {
                tracing::error!(%error, "a region that was taken back is still shown by its device");
            }
        }
    }

    fn tell(&mut self, told: Told) {
        match told {
            Told::Refused { code, reason } => {
                self.end(Error::new(code, format!("leech: the source refuses: {reason}")).with_retryable(false));
            }
            Told::Tracking => self.core.publish(|status| status.state = LeechState::Pulling),
            Told::Aborted { reason, tracking } => {
                let error = Error::new(Code::Busy, format!("finalize: the source goes on: {reason}"));
                self.core.publish(|status| {
                    status.aborted += 1;
                    // That is the answer to all who wait now: the app is asked again when somebody calls again.
                    status.finalizing = 0;
                    status.bound = false;
                    status.state = if tracking { LeechState::Pulling } else { LeechState::Connecting };
                    status.cause = Some(error);
                });
                self.plan.begin_again();
            }
            Told::Ended { reason } => {
                let error = Error::new(Code::Disconnected, format!("the source ended the session: {reason}"));
                self.core.publish(|status| {
                    status.state = LeechState::Connecting;
                    status.cause = Some(error);
                });
            }
            Told::Abandoned if !self.abandoned => {
                self.abandoned = true;
                let missing = self.core.size().saturating_sub(self.core.local_bytes());
                let message = format!("the source gave up {missing} bytes that had not come: they are lost");
                self.core.tell(Kind::Abandoned, Some(Error::new(Code::Io, message)));
            }
            Told::Abandoned => {}
            Told::Drained => self.core.tell(Kind::Drained, None),
            Told::Fenced => {
                let error = Error::new(Code::Fenced, "the region was taken back by force where it came from");
                self.core.publish(|status| {
                    status.state = LeechState::Fenced;
                    status.over = Some(error.clone());
                });
                self.core.tell(Kind::Fenced, Some(error));
            }
            Told::Trouble { reason } => {
                self.core.publish(|status| status.cause = Some(Error::new(Code::Io, reason)));
            }
        }
    }

    fn look(&mut self) -> Seen {
        self.pull.begin_step();
        let (under_way, local) = (self.pull.under_way(), self.is_local());
        let status = self.core.status();
        Seen { under_way, finalizing: status.finalizing, wanting: status.wanting, local }
    }

    /// Asks for what comes next; says whether there was more than there is room for.
    fn pull(&mut self, seen: &Seen) -> bool {
        let on_demand = self.core.options().pull == When::Demand;
        let round_trip = self.plan.round_trip();
        if self.destination.owns() {
            if self.is_local() {
                self.became_local();
            } else if !self.abandoned && !on_demand {
                return self.pull.step(Aim::Rest, round_trip);
            }
            return false;
        }
        if !self.destination.is_tracking() {
            return false;
        }
        let (finalize, more) = (seen.finalizing > 0, seen.wanting > 0);
        let wish = Wish { finalize, more, first: !on_demand, size: self.core.size() };
        let next = self.plan.next(&wish, seen.under_way == 0, &self.pull);
        if next.ask {
            self.event(Event::Round);
        }
        if next.finalize {
            self.core.publish(|status| {
                status.bound = true;
                status.state = LeechState::Finalizing;
            });
            self.event(Event::Finalize);
            return false;
        }
        self.pull.step(next.aim, round_trip)
    }

    fn is_local(&self) -> bool {
        self.core.parts().iter().all(|part| {
            let states = part.region().states();
            // Counted before it is looked at: counting costs nothing.
            states.count(Set::LOCAL) == states.pages()
                && states.next_run(0..states.pages(), Set::LOCAL.complement()).is_none()
        })
    }

    fn became_local(&mut self) {
        let is_told = self.core.status().state == LeechState::Complete;
        if self.destination.record().state != State::Taken || is_told || self.unsynced {
            return;
        }
        match self.core.parts().iter().try_for_each(|part| part.place().sync()) {
            Ok(()) => {
                self.core.tell(Kind::Local, None);
                self.core.publish(|status| status.state = LeechState::Complete);
                self.again = Again::begin();
                self.event(Event::Local);
            }
            Err(error) => {
                // The source keeps what it has: nothing is lost while this host lives.
                tracing::error!(%error, "a region that has all its bytes cannot be made durable");
                self.unsynced = true;
                self.core.publish(|status| status.cause = Some(error));
            }
        }
    }

    fn publish(&mut self) {
        let figures = self.plan.figures(self.pull.rate());
        let (bound, owns) = (self.destination.is_bound(), self.destination.owns());
        let complete = matches!(self.destination.record().state, State::Complete | State::Owner);
        let independent = complete && self.homes.is_none();
        self.core.publish(|status| {
            status.bound = bound;
            status.owns = owns;
            status.complete = complete;
            status.independent = independent;
            status.dirty = self.pull.bytes_again();
            status.dirty_rate = figures.dirty_rate;
            status.pull_rate = self.pull.rate();
            status.round_trip = figures.round_trip;
            status.state =
                match status.state {
                    LeechState::Pulling | LeechState::Outpaced if self.destination.is_tracking() => {
                        if figures.outpaced { LeechState::Outpaced } else { LeechState::Pulling }
                    }
                    LeechState::Connecting if bound => LeechState::Finalizing,
                    state => state,
                };
        });
    }

    /// Waits for something to do, of which what was seen at the last look, at `now`, is no part.
    fn rest(&self, more: bool, seen: &Seen, now: Instant) {
        let times = [Some(self.again.at), self.plan.due(), self.pull.not_before()];
        let limit = Limit { deadline: next_after(times, now), cancel: None };
        let was_idle = seen.under_way == 0 && !self.pull.has_asked();
        let look = || {
            let asked = {
                let status = self.core.status();
                (status.finalizing, status.wanting) != (seen.finalizing, seen.wanting)
            };
            let landed = !was_idle && self.pull.under_way() == 0 || !seen.local && self.is_local();
            (!self.core.inbox().is_empty() || asked || landed || more && self.pull.has_room()).then_some(())
        };
        // That time is up is as good a reason as any.
        let _ = self.core.inbox().signal.wait(&limit, "drive a leecher", look);
    }
}

/// The first of these times that was still to come at the last look. What was past then was looked at, and waits for
/// something else; what has passed since was not.
fn next_after(times: [Option<Instant>; 3], looked: Instant) -> Option<Instant> {
    times.into_iter().flatten().filter(|time| *time > looked).min()
}

/// What was there when it was decided what to do.
struct Seen {
    /// Bytes under way.
    under_way: u64,
    /// Calls that wait for the region.
    finalizing: u64,
    /// Calls that wait for more of it.
    wanting: u64,
    /// Whether nothing is missing.
    local: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_falls_due_between_the_look_and_the_rest_is_not_slept_through() {
        let looked = Instant::now();
        let [before, soon, late] = [0, 1, 2].map(|count| looked + Duration::from_micros(count));
        std::thread::sleep(Duration::from_millis(1));
        assert_eq!(next_after([Some(late), None, Some(soon)], looked), Some(soon));
        assert_eq!(next_after([Some(before), Some(late), None], looked), Some(late));
        assert_eq!(next_after([Some(before), None, None], looked), None);
    }
}
