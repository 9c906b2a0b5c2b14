//! The side a region moves to.

use crate::error::{Code, Error, Result};
use crate::migration::record::{Record, State};
use crate::migration::{Dirty, Message, Moved, Runs, Vote};
use crate::wire::Identity;

/// What happened to a destination.
#[derive(Clone, Debug)]
pub enum Event {
    /// Begin an attempt, under a random name that was never used before.
    Begin {
        /// Its name.
        attempt: Identity,
    },
    /// A message came.
    Received(Message),
    /// It is time to ask what was written meanwhile.
    Round,
    /// The app wants the region.
    Finalize,
    /// [`Action::Settle`] is done.
    Settled {
        /// Of the action.
        step: u64,
    },
    /// Every byte is here, as durable as this place ever is.
    Local,
    /// [`Action::Persist`] is done: the record is durable.
    Persisted {
        /// Of the action.
        step: u64,
    },
    /// [`Action::Persist`] failed: the record on disk is the old one or the new.
    NotPersisted {
        /// Of the action.
        step: u64,
        /// Why.
        reason: String,
    },
    /// Time has passed, or the source can be reached again: what may be lost is said again, and what failed is
    /// tried again.
    Again,
}

/// What is to be done for a destination, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send it, or lose it.
    Send(Message),
    /// Make this the record, durably; then [`Event::Persisted`] or [`Event::NotPersisted`].
    Persist {
        /// To be said with the event.
        step: u64,
        /// The record.
        record: Record,
    },
    /// Pull from this session. What is here already counts only where it is known to be alike.
    Pull {
        /// The session.
        session: Identity,
    },
    /// What is here of these pages, or on its way here, is old. To be done before what follows.
    Forget {
        /// The round that says so.
        round: u64,
        /// Its pages.
        pages: Runs,
    },
    /// The session is over: stop pulling; nothing here is known to be alike any more.
    Stop,
    /// The last of them: what is here of these pages, or on its way here, is old. Which pages are here is to be on
    /// disk when that is done; then [`Event::Settled`].
    Settle {
        /// To be said with the event.
        step: u64,
        /// The pages.
        dirty: Dirty,
    },
    /// The app may read and write; what is missing is pulled from this session.
    Open {
        /// The session.
        session: Identity,
        /// What the app at the source hands over.
        payload: Vec<u8>,
    },
    /// The region was taken away from here: nothing of this process reads or writes it any more.
    Fence,
    /// Tell the app.
    Tell(Told),
}

/// What the app of a destination is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// The source refused the attempt; nothing was changed.
    Refused {
        /// Why, for a program.
        code: Code,
        /// Why, for people.
        reason: String,
    },
    /// The region is being pulled.
    Tracking,
    /// The source will not act on the vote.
    Aborted {
        /// Whether the pull goes on.
        tracking: bool,
        /// Why.
        reason: String,
    },
    /// The session ended before any vote.
    Ended {
        /// Why.
        reason: String,
    },
    /// The source gave up what was not pulled: those bytes are lost.
    Abandoned,
    /// The source knows that all is here.
    Drained,
    /// The source took the region back by force.
    Fenced,
    /// A record could not be written; it is tried again.
    Trouble {
        /// Why.
        reason: String,
    },
}

#[derive(Clone, Debug)]
struct Live {
    session: Identity,
    acknowledged: u64,
    /// The last vote.
    ballot: u64,
}

#[derive(Clone, Debug)]
enum Phase {
    Idle,
    Asking {
        attempt: Identity,
    },
    /// Writing down that there are bytes of this region here.
    Beginning {
        step: u64,
        live: Live,
    },
    Tracking(Live),
    Voting {
        step: u64,
        live: Live,
        vote: Vote,
    },
    /// `live` is none after a restart.
    Willing {
        live: Option<Live>,
        vote: Vote,
    },
    /// Taking the vote off the record, now that the source has.
    Dropping {
        step: u64,
        live: Option<Live>,
        reason: String,
    },
    Settling {
        step: u64,
        vote: Vote,
        payload: Vec<u8>,
    },
    Taking {
        step: u64,
        taken: Record,
    },
    Taken,
    Completing {
        step: u64,
    },
    Complete,
    Finishing {
        step: u64,
    },
    Owner,
    Fencing {
        step: u64,
        epoch: u64,
    },
    Fenced,
}

/// The machine of a destination.
#[derive(Clone, Debug)]
pub struct Destination {
    /// The record as it is on disk, as far as it is certain.
    record: Record,
    phase: Phase,
    step: u64,
    out: Vec<Action>,
}

impl Destination {
    /// A destination for a region that its source says to be this one, over what is here: nothing, or bytes with
    /// this record. A record by which the region is here, or was given to somebody who has not all of it, is
    /// `busy`; one of another region is refused.
    pub fn new(region: Moved, record: Option<Record>) -> Result<(Destination, Vec<Action>)> {
        let record = record.unwrap_or(Record::new(State::Copy, region));
        let here = record.region;
        if (here.identity, here.size) != (region.identity, region.size) {
            let message = "what is here belongs to another region: say overwrite to lose it, or move elsewhere";
            return Err(Error::new(Code::Busy, message));
        }
        match record.state {
            State::Owner | State::Given => {
                let message = "the region itself is here, or bytes that its owner still needs: it cannot move here";
                return Err(Error::new(Code::Busy, message));
            }
            State::Copy | State::Drained if region.epoch < here.epoch => return Err(stale(region.epoch, here.epoch)),
            _ => {}
        }
        Ok(Destination::resume(record))
    }

    /// A destination that goes on from the record on disk. What to do first are its actions.
    pub fn resume(record: Record) -> (Destination, Vec<Action>) {
        let phase = match record.state {
            State::Copy | State::Drained | State::Given => Phase::Idle,
            State::Willing => Phase::Willing { live: None, vote: record.vote },
            State::Taken => Phase::Taken,
            State::Complete => Phase::Complete,
            State::Owner => Phase::Owner,
        };
        let mut destination = Destination { record, phase, step: 0, out: Vec::new() };
        if destination.owns() {
            destination.open();
        }
        let out = std::mem::take(&mut destination.out);
        (destination, out)
    }

    /// Whether the region is here: its app may read and write.
    pub fn owns(&self) -> bool {
        matches!(
            self.phase,
            Phase::Taken | Phase::Completing { .. } | Phase::Complete | Phase::Finishing { .. } | Phase::Owner
        )
    }

    /// Whether nothing ties it to its source any more.
    pub fn is_independent(&self) -> bool {
        matches!(self.phase, Phase::Owner)
    }

    /// Whether it has voted and does not know what came of it: it must not be closed for good.
    pub fn is_bound(&self) -> bool {
        matches!(
            self.phase,
            Phase::Voting { .. } | Phase::Willing { .. } | Phase::Settling { .. } | Phase::Taking { .. }
        )
    }

    /// Whether an attempt may begin.
    pub fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle)
    }

    /// Whether it pulls and has not voted.
    pub fn is_tracking(&self) -> bool {
        matches!(self.phase, Phase::Tracking(_))
    }

    /// The record on disk, as far as it is certain.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Takes an event and says what to do. An error is the app's, and changed nothing.
    pub fn on(&mut self, event: Event) -> Result<Vec<Action>> {
        match event {
            Event::Begin { attempt } => {
                if !self.is_idle() {
                    return Err(Error::new(Code::Busy, "an attempt is under way, or the region is here"));
                }
                self.phase = Phase::Asking { attempt };
                self.again();
            }
            Event::Received(message) => self.received(message),
            Event::Round => {
                if let Phase::Tracking(live) = &self.phase {
                    let (session, acknowledged) = (live.session, live.acknowledged);
                    self.send(Message::Round { session, acknowledged });
                }
            }
            Event::Finalize => self.finalize()?,
            Event::Settled { step } => self.settled(step),
            Event::Local => {
                if matches!(self.phase, Phase::Taken) {
                    let step = self.persist(self.record.voted(State::Complete, self.record.vote));
                    self.phase = Phase::Completing { step };
                }
            }
            Event::Persisted { step } => self.persisted(step),
            Event::NotPersisted { step, reason } => {
                if self.pending().is_some_and(|(due, _)| due == step) {
                    self.out.push(Action::Tell(Told::Trouble { reason }));
                }
            }
            Event::Again => self.again(),
        }
        Ok(std::mem::take(&mut self.out))
    }

    fn send(&mut self, message: Message) {
        self.out.push(Action::Send(message));
    }

    fn persist(&mut self, record: Record) -> u64 {
        self.step += 1;
        self.out.push(Action::Persist { step: self.step, record });
        self.step
    }

    fn open(&mut self) {
        let (session, payload) = (self.record.vote.session, self.record.payload.clone());
        self.out.push(Action::Open { session, payload });
    }

    /// The record without a vote: bytes of the region as it was under that epoch.
    fn copy(&self, epoch: u64) -> Record {
        Record::new(State::Copy, Moved { epoch, ..self.record.region })
    }

    /// The record that is being written, and the step it belongs to.
    fn pending(&self) -> Option<(u64, Record)> {
        let epoch = self.record.region.epoch;
        Some(match &self.phase {
            Phase::Beginning { step, .. } | Phase::Dropping { step, .. } => (*step, self.copy(epoch)),
            Phase::Voting { step, vote, .. } => (*step, self.record.voted(State::Willing, *vote)),
            Phase::Taking { step, taken } => (*step, taken.clone()),
            Phase::Completing { step } => (*step, self.record.voted(State::Complete, self.record.vote)),
            Phase::Finishing { step } => (*step, Record::new(State::Owner, self.record.region)),
            Phase::Fencing { step, epoch } => (*step, self.copy(*epoch)),
            _ => return None,
        })
    }

    fn finalize(&mut self) -> Result<()> {
        match &self.phase {
            Phase::Tracking(live) => {
                let ballot = live.ballot + 1;
                let live = Live { ballot, ..live.clone() };
                let vote = Vote { session: live.session, epoch: self.record.region.epoch + 1, ballot };
                let step = self.persist(self.record.voted(State::Willing, vote));
                self.phase = Phase::Voting { step, live, vote };
                Ok(())
            }
            // It may be asked for as often as one likes.
            _ if self.is_bound() || self.owns() => Ok(()),
            _ => Err(Error::new(Code::InvalidArgument, "finalize: nothing is pulled yet")),
        }
    }

    fn received(&mut self, message: Message) {
        match message {
            Message::Tracking { attempt, session, region } => self.tracking(attempt, session, region),
            Message::Refused { attempt, code, reason } => {
                if matches!(self.phase, Phase::Asking { attempt: asked } if asked == attempt) {
                    self.phase = Phase::Idle;
                    self.out.push(Action::Tell(Told::Refused { code, reason }));
                }
            }
            Message::Dirty { session, round, pages } => match &mut self.phase {
                // Only the next one: another is an old one that comes late, or again.
                Phase::Tracking(live) if live.session == session && round == live.acknowledged + 1 => {
                    live.acknowledged = round;
                    self.out.push(Action::Forget { round, pages });
                }
                _ => {}
            },
            Message::Given { vote, dirty, payload } => self.given(vote, dirty, payload),
            Message::Aborted { vote, epoch, tracking, reason } => self.aborted(vote, epoch, tracking, reason),
            Message::Drained { vote } if vote == self.record.vote => match self.phase {
                Phase::Complete => {
                    let step = self.persist(Record::new(State::Owner, self.record.region));
                    self.phase = Phase::Finishing { step };
                }
                Phase::Taken => self.out.push(Action::Tell(Told::Abandoned)),
                _ => {}
            },
            // A source says nothing else; and that a vote is being acted on is all one can know of it.
            _ => {}
        }
    }

    fn tracking(&mut self, attempt: Identity, session: Identity, region: Moved) {
        if !matches!(self.phase, Phase::Asking { attempt: asked } if asked == attempt) {
            return;
        }
        let here = self.record.region;
        let refused = if (region.identity, region.size) != (here.identity, here.size) {
            Some(Error::new(Code::InvalidArgument, "the source has another region than the one that was begun with"))
        } else if region.epoch < here.epoch {
            Some(stale(region.epoch, here.epoch))
        } else {
            None
        };
        if let Some(error) = refused {
            self.phase = Phase::Idle;
            let (code, reason) = (error.code(), error.message().to_owned());
            return self.out.push(Action::Tell(Told::Refused { code, reason }));
        }
        self.record.region = region;
        let step = self.persist(self.copy(region.epoch));
        self.phase = Phase::Beginning { step, live: Live { session, acknowledged: 0, ballot: 0 } };
    }

    fn given(&mut self, given: Vote, dirty: Dirty, payload: Vec<u8>) {
        let (vote, dirty) = match &self.phase {
            Phase::Willing { live: Some(_), vote } if *vote == given => (*vote, dirty),
            // What was here before a restart was pulled in rounds that nobody remembers.
            Phase::Willing { live: None, vote } if *vote == given => (*vote, Dirty::All),
            _ => return,
        };
        self.step += 1;
        self.phase = Phase::Settling { step: self.step, vote, payload };
        self.out.push(Action::Settle { step: self.step, dirty });
    }

    fn settled(&mut self, due: u64) {
        match &mut self.phase {
            Phase::Settling { step, vote, payload } if *step == due => {
                let region = Moved { epoch: vote.epoch, ..self.record.region };
                let (vote, payload) = (*vote, std::mem::take(payload));
                let taken = Record { vote, payload, ..Record::new(State::Taken, region) };
                let step = self.persist(taken.clone());
                self.phase = Phase::Taking { step, taken };
            }
            _ => {}
        }
    }

    fn aborted(&mut self, vote: Vote, epoch: u64, tracking: bool, reason: String) {
        match &self.phase {
            Phase::Tracking(live) if live.session == vote.session && !tracking => {
                self.phase = Phase::Idle;
                self.out.extend([Action::Stop, Action::Tell(Told::Ended { reason })]);
            }
            Phase::Willing { live, vote: mine } if *mine == vote => {
                let live = live.clone().filter(|_| tracking);
                self.drop_vote(live, reason);
            }
            // A source that gave the region and says so now has taken it back.
            Phase::Settling { vote: mine, .. } if *mine == vote && epoch > vote.epoch => self.drop_vote(None, reason),
            Phase::Taking { taken, .. } if taken.vote == vote && epoch > vote.epoch => self.drop_vote(None, reason),
            Phase::Taken | Phase::Completing { .. } | Phase::Complete
                if self.record.vote == vote && epoch > vote.epoch =>
            {
                let step = self.persist(self.copy(epoch));
                self.phase = Phase::Fencing { step, epoch };
                self.out.extend([Action::Fence, Action::Tell(Told::Fenced)]);
            }
            _ => {}
        }
    }

    fn drop_vote(&mut self, live: Option<Live>, reason: String) {
        let step = self.persist(self.copy(self.record.region.epoch));
        self.phase = Phase::Dropping { step, live, reason };
    }

    fn persisted(&mut self, due: u64) {
        let Some((step, record)) = self.pending() else { return };
        if step != due {
            return;
        }
        self.record = record;
        let vote = self.record.vote;
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Beginning { live, .. } => {
                self.out.extend([Action::Pull { session: live.session }, Action::Tell(Told::Tracking)]);
                self.phase = Phase::Tracking(live);
            }
            Phase::Voting { live, vote, .. } => {
                self.send(Message::Finalize { vote, acknowledged: live.acknowledged });
                self.phase = Phase::Willing { live: Some(live), vote };
            }
            Phase::Dropping { live, reason, .. } => {
                let tracking = live.is_some();
                if !tracking {
                    self.out.push(Action::Stop);
                }
                self.phase = live.map_or(Phase::Idle, Phase::Tracking);
                self.out.push(Action::Tell(Told::Aborted { tracking, reason }));
            }
            Phase::Taking { .. } => {
                self.phase = Phase::Taken;
                self.open();
                self.send(Message::Taken { vote });
            }
            Phase::Completing { .. } => {
                self.phase = Phase::Complete;
                self.send(Message::Complete { vote });
            }
            Phase::Finishing { .. } => {
                self.phase = Phase::Owner;
                self.out.push(Action::Tell(Told::Drained));
            }
            Phase::Fencing { .. } => self.phase = Phase::Fenced,
            other => self.phase = other,
        }
    }

    fn again(&mut self) {
        if let Some((_, record)) = self.pending() {
            let fresh = self.persist(record);
            match &mut self.phase {
                Phase::Beginning { step, .. }
                | Phase::Voting { step, .. }
                | Phase::Dropping { step, .. }
                | Phase::Taking { step, .. }
                | Phase::Completing { step }
                | Phase::Finishing { step }
                | Phase::Fencing { step, .. } => *step = fresh,
                _ => {}
            }
            return;
        }
        let vote = self.record.vote;
        let message = match &self.phase {
            Phase::Asking { attempt } => Message::Track { attempt: *attempt, region: self.record.region },
            Phase::Willing { live: Some(live), vote } => {
                Message::Finalize { vote: *vote, acknowledged: live.acknowledged }
            }
            // It can no longer say what it has: it asks for the last answer only.
            Phase::Willing { live: None, vote } => Message::Status { vote: *vote },
            Phase::Taken => Message::Taken { vote },
            Phase::Complete => Message::Complete { vote },
            _ => return,
        };
        self.send(message);
    }
}

fn stale(theirs: u64, ours: u64) -> Error {
    let message = format!("the source has epoch {theirs}, and what is here is of epoch {ours}: it moved on since");
    Error::new(Code::StaleEpoch, message)
}
