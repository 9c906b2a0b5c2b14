//! The side a region moves away from.

mod event;

pub use event::{Action, Event, Told, What};

use crate::error::{Code, Error, Result};
use crate::migration::record::{Record, State};
use crate::migration::{Dirty, MAX_HAND_OVER, Message, Moved, Vote};
use crate::wire::Identity;

/// A destination that pulls.
#[derive(Clone, Debug)]
struct Live {
    attempt: Identity,
    session: Identity,
    /// Votes up to this one are never acted on.
    refused: u64,
}

/// A vote that is being acted on.
#[derive(Clone, Debug)]
struct Acting {
    live: Live,
    vote: Vote,
    acknowledged: u64,
}

#[derive(Clone, Debug)]
enum Phase {
    /// Bytes of the region are still at the source from which it came here.
    Arriving,
    Waiting,
    Arming {
        step: u64,
        attempt: Identity,
    },
    Tracking(Live),
    Suspending {
        acting: Acting,
        sequence: u64,
    },
    Quiescing {
        acting: Acting,
        step: u64,
        payload: Vec<u8>,
    },
    /// The commit is being written: it can no longer be called off.
    Committing {
        acting: Acting,
        step: u64,
        given: Record,
    },
    /// The commit could not be written, or who knows: the region is nobody's until the undoing of it is durable.
    Undoing {
        step: u64,
        reason: String,
    },
    Given,
    Draining {
        step: u64,
        answer: bool,
    },
    Drained,
    Reclaiming {
        step: u64,
        owner: Record,
    },
}

/// The machine of a source.
#[derive(Clone, Debug)]
pub struct Source {
    record: Record,
    phase: Phase,
    step: u64,
    sequence: u64,
    out: Vec<Action>,
}

impl Source {
    /// A source whose record on disk is this one: of a region that is here as a whole, or that was given away.
    /// What to do first are its actions.
    pub fn new(record: Record) -> Result<(Source, Vec<Action>)> {
        let phase = match record.state {
            State::Owner | State::Complete => Phase::Waiting,
            State::Given => Phase::Given,
            State::Drained => Phase::Drained,
            State::Copy | State::Willing | State::Taken => {
                let message = "this region cannot be seeded: it is owned elsewhere, or not all of it is here yet";
                return Err(Error::new(Code::Busy, message));
            }
        };
        let mut source = Source { record, phase, step: 0, sequence: 0, out: Vec::new() };
        match source.phase {
            Phase::Given => {
                source.out.push(Action::Fence);
                source.tell(What::Committed);
            }
            Phase::Drained => {
                source.out.push(Action::Fence);
                source.tell(What::Drained);
            }
            _ => source.tell(What::Waiting),
        }
        let out = std::mem::take(&mut source.out);
        Ok((source, out))
    }

    /// A source of a region that is owned here and not all here yet: whoever would track it is answered once it has
    /// [arrived](Event::Arrived).
    pub fn arriving(region: Moved) -> (Source, Vec<Action>) {
        let record = Record::new(State::Taken, region);
        let mut source = Source { record, phase: Phase::Arriving, step: 0, sequence: 0, out: Vec::new() };
        source.tell(What::Waiting);
        let out = std::mem::take(&mut source.out);
        (source, out)
    }

    /// The region, under the epoch of this side's record.
    pub fn region(&self) -> Moved {
        self.record.region
    }

    /// Whether the region is here: its app may read and write, if it was not asked to stop.
    pub fn owns(&self) -> bool {
        !matches!(
            self.phase,
            Phase::Committing { .. }
                | Phase::Undoing { .. }
                | Phase::Given
                | Phase::Draining { .. }
                | Phase::Drained
                | Phase::Reclaiming { .. }
        )
    }

    /// Whether a destination of this session may read pages here.
    pub fn serves(&self, session: Identity) -> bool {
        self.serving() == Some(session)
    }

    /// The session whose destination may read pages here, if there is one.
    pub fn serving(&self) -> Option<Identity> {
        match &self.phase {
            Phase::Given => Some(self.record.vote.session),
            Phase::Committing { .. } | Phase::Undoing { .. } | Phase::Reclaiming { .. } => None,
            _ => self.pulling(),
        }
    }

    /// The session of a destination that pulls and that may still be called off.
    pub fn pulling(&self) -> Option<Identity> {
        self.live().map(|live| live.session)
    }

    /// The vote by which the region was given away, for as long as its destination may lack bytes.
    pub fn given(&self) -> Option<Vote> {
        matches!(self.phase, Phase::Given).then_some(self.record.vote)
    }

    /// Whether an attempt of that name would find another destination pulling.
    pub fn is_taken_from(&self, attempt: Identity) -> bool {
        self.live().is_some_and(|live| live.attempt != attempt)
    }

    /// Whether closing it would take bytes away that the destination lacks.
    pub fn is_needed(&self) -> bool {
        matches!(self.phase, Phase::Committing { .. } | Phase::Undoing { .. } | Phase::Given)
    }

    /// Takes an event and says what to do. An error is the app's, and changed nothing.
    pub fn on(&mut self, event: Event) -> Result<Vec<Action>> {
        match event {
            Event::Received(message) => self.received(message),
            Event::Arrived { record } => {
                let is_whole = matches!(record.state, State::Owner | State::Complete);
                if matches!(self.phase, Phase::Arriving) && is_whole {
                    self.record = record;
                    self.phase = Phase::Waiting;
                }
            }
            Event::Armed { step, session } => self.armed(step, session),
            Event::NotArmed { step, reason } => match self.phase {
                Phase::Arming { step: due, attempt } if due == step => {
                    self.phase = Phase::Waiting;
                    self.send(Message::Refused { attempt, code: Code::Io, reason });
                }
                _ => {}
            },
            Event::Collected { session, round, pages } => {
                if matches!(&self.phase, Phase::Tracking(live) if live.session == session) {
                    self.send(Message::Dirty { session, round, pages });
                }
            }
            Event::Suspended { sequence, payload } => self.suspended(sequence, payload)?,
            Event::Refused { sequence, reason } => {
                let acting = self.asked(sequence)?.clone();
                self.resume(acting, reason);
            }
            Event::Quiesced { step, dirty } => self.quiesced(step, dirty),
            Event::Disturbed { step, reason } => {
                if let Phase::Quiescing { acting, step: due, .. } = &self.phase {
                    if *due == step {
                        self.resume(acting.clone(), reason);
                    }
                }
            }
            Event::Persisted { step } => self.persisted(step),
            Event::NotPersisted { step, reason } => self.not_persisted(step, reason),
            Event::Lost { session } => {
                if self.live().is_some_and(|live| live.session == session) {
                    self.end("the destination has been away for too long");
                }
            }
            Event::Again => self.again(),
            Event::Abandon => match self.phase {
                Phase::Given => self.drain(false),
                Phase::Drained | Phase::Draining { .. } => {}
                _ => return Err(Error::new(Code::InvalidArgument, "abandon: the region was not given away")),
            },
            Event::Reclaim => match self.phase {
                Phase::Given | Phase::Drained => self.reclaim(),
                _ => return Err(Error::new(Code::InvalidArgument, "reclaim: the region was not given away")),
            },
        }
        Ok(std::mem::take(&mut self.out))
    }

    /// The session whose end would still leave the region here.
    fn live(&self) -> Option<&Live> {
        match &self.phase {
            Phase::Tracking(live) => Some(live),
            Phase::Suspending { acting, .. } | Phase::Quiescing { acting, .. } => Some(&acting.live),
            _ => None,
        }
    }

    fn send(&mut self, message: Message) {
        self.out.push(Action::Send(message));
    }

    fn tell(&mut self, what: What) {
        self.sequence += 1;
        self.out.push(Action::Tell(Told { sequence: self.sequence, what }));
    }

    fn step(&mut self) -> u64 {
        self.step += 1;
        self.step
    }

    fn persist(&mut self, record: Record) -> u64 {
        let step = self.step();
        self.out.push(Action::Persist { step, record });
        step
    }

    fn received(&mut self, message: Message) {
        match message {
            Message::Track { attempt, region } => self.track(attempt, region),
            Message::Round { session, acknowledged } => match &self.phase {
                Phase::Tracking(live) if live.session == session => {
                    self.out.push(Action::Collect { session, acknowledged });
                }
                // Whoever is being asked to stop has no time for rounds: the last one comes with the region.
                _ if self.live().is_some_and(|live| live.session == session) => {}
                _ => self.answer(Vote { session, epoch: 0, ballot: 0 }),
            },
            Message::Finalize { vote, acknowledged } => self.finalize(vote, acknowledged),
            Message::Status { vote } => {
                if let Phase::Tracking(live) = &mut self.phase {
                    if live.session == vote.session {
                        // A FINALIZE of this vote that comes late must find what is answered here.
                        live.refused = live.refused.max(vote.ballot);
                    }
                }
                self.answer(vote);
            }
            Message::Taken { vote } => match self.phase {
                Phase::Given if self.record.vote == vote => {}
                _ => self.answer(vote),
            },
            Message::Complete { vote } => match self.phase {
                Phase::Given if self.record.vote == vote => self.drain(true),
                Phase::Given => self.answer(vote),
                Phase::Draining { ref mut answer, .. } => *answer = true,
                _ => self.answer(vote),
            },
            // A destination says nothing else.
            _ => {}
        }
    }

    fn track(&mut self, attempt: Identity, region: Moved) {
        let here = self.record.region;
        let refused = if (region.identity, region.size) != (here.identity, here.size) {
            Some((Code::InvalidArgument, "another region is wanted than the one that is here".to_owned()))
        } else if !self.owns() {
            Some((Code::Fenced, "the region was given away".to_owned()))
        } else if region.epoch > here.epoch {
            let message = format!("epoch {} is wanted and {} is here: it moved on since", region.epoch, here.epoch);
            Some((Code::StaleEpoch, message))
        } else {
            match &self.phase {
                Phase::Arriving | Phase::Waiting | Phase::Arming { .. } => None,
                _ if self.live().is_some_and(|live| live.attempt == attempt) => None,
                _ => Some((Code::Busy, "another destination pulls this region".to_owned())),
            }
        };
        if let Some((code, reason)) = refused {
            return self.send(Message::Refused { attempt, code, reason });
        }
        match &self.phase {
            Phase::Waiting => {
                let step = self.step();
                self.phase = Phase::Arming { step, attempt };
                self.out.push(Action::Arm { step });
            }
            // Who asked first has it; who comes while it begins asks again.
            Phase::Arming { .. } => {}
            Phase::Tracking(live) => {
                let session = live.session;
                self.send(Message::Tracking { attempt, session, region: here });
            }
            _ => {}
        }
    }

    fn armed(&mut self, due: u64, session: Identity) {
        match self.phase {
            Phase::Arming { step, attempt } if step == due => {
                self.phase = Phase::Tracking(Live { attempt, session, refused: 0 });
                self.tell(What::Tracking);
                self.send(Message::Tracking { attempt, session, region: self.record.region });
            }
            _ => {}
        }
    }

    fn finalize(&mut self, vote: Vote, acknowledged: u64) {
        match &self.phase {
            Phase::Tracking(live)
                if live.session == vote.session
                    && vote.ballot > live.refused
                    && vote.epoch == self.record.region.epoch + 1 =>
            {
                let acting = Acting { live: live.clone(), vote, acknowledged };
                self.tell(What::Suspending);
                self.phase = Phase::Suspending { acting, sequence: self.sequence };
                self.send(Message::Pending { vote });
            }
            _ => self.answer(vote),
        }
    }

    /// Whether this side would know if the vote had been acted on: an older state of the region would not, and
    /// whoever asks it by mistake must not hear that nothing will come of the vote.
    fn may_deny(&self, vote: Vote) -> bool {
        let owned = self.owns() || matches!(self.phase, Phase::Committing { .. });
        vote.epoch <= self.record.region.epoch.saturating_add(u64::from(owned))
    }

    /// What becomes of a vote, as far as it is certain.
    fn answer(&mut self, vote: Vote) {
        let epoch = self.record.region.epoch;
        let known = self.record.vote == vote;
        let acting = match &self.phase {
            Phase::Suspending { acting, .. } | Phase::Quiescing { acting, .. } | Phase::Committing { acting, .. } => {
                Some(acting.vote)
            }
            _ => None,
        };
        let tracking = self.live().filter(|live| live.session == vote.session);
        let message = match &self.phase {
            Phase::Given if known => {
                let (dirty, payload) = (self.record.dirty.clone(), self.record.payload.clone());
                Message::Given { vote, dirty, payload }
            }
            Phase::Drained if known => Message::Drained { vote },
            Phase::Draining { .. } if known => return,
            // Which way these end is not known yet, whoever asks.
            Phase::Undoing { .. } | Phase::Reclaiming { .. } => Message::Pending { vote },
            _ if acting == Some(vote) => Message::Pending { vote },
            _ if !self.may_deny(vote) => return,
            _ => {
                let reason = if tracking.is_some() { "the vote was refused" } else { "its session is over" };
                Message::Aborted { vote, epoch, tracking: tracking.is_some(), reason: reason.to_owned() }
            }
        };
        self.send(message);
    }

    /// The vote for which the app was asked to stop by that event.
    fn asked(&self, sequence: u64) -> Result<&Acting> {
        match &self.phase {
            Phase::Suspending { acting, sequence: asked } if *asked == sequence => Ok(acting),
            _ => {
                let message = format!("event {sequence} asks for nothing (any more): take the next one");
                Err(Error::new(Code::StaleEpoch, message))
            }
        }
    }

    fn suspended(&mut self, sequence: u64, payload: Vec<u8>) -> Result<()> {
        let acting = self.asked(sequence)?.clone();
        if payload.len() > MAX_HAND_OVER {
            let message = format!("a payload of {} bytes, where {MAX_HAND_OVER} are allowed", payload.len());
            return Err(Error::new(Code::InvalidArgument, message));
        }
        let step = self.step();
        self.out.push(Action::Quiesce { step, acknowledged: acting.acknowledged });
        self.phase = Phase::Quiescing { acting, step, payload };
        Ok(())
    }

    fn quiesced(&mut self, due: u64, dirty: Dirty) {
        let (acting, payload) = match &mut self.phase {
            Phase::Quiescing { acting, step, payload } if *step == due => (acting.clone(), std::mem::take(payload)),
            _ => return,
        };
        let region = Moved { epoch: acting.vote.epoch, ..self.record.region };
        let given = Record { vote: acting.vote, dirty, payload, ..Record::new(State::Given, region) };
        let step = self.persist(given.clone());
        self.phase = Phase::Committing { acting, step, given };
    }

    fn persisted(&mut self, due: u64) {
        match &mut self.phase {
            Phase::Committing { step, given, acting } if *step == due => {
                let vote = acting.vote;
                self.record = given.clone();
                self.phase = Phase::Given;
                // The destination first: the app there waits.
                self.answer(vote);
                self.out.push(Action::Fence);
                self.out.push(Action::Disarm);
                self.tell(What::Committed);
            }
            Phase::Undoing { step, reason } if *step == due => {
                let reason = std::mem::take(reason);
                self.phase = Phase::Waiting;
                self.out.extend([Action::Disarm, Action::Reopen]);
                self.tell(What::Resumed { reason });
                self.tell(What::Waiting);
            }
            Phase::Draining { step, answer } if *step == due => {
                let answer = *answer;
                self.record = self.record.voted(State::Drained, self.record.vote);
                self.phase = Phase::Drained;
                if answer {
                    self.answer(self.record.vote);
                }
                self.tell(What::Drained);
            }
            Phase::Reclaiming { step, owner } if *step == due => {
                self.record = owner.clone();
                self.phase = Phase::Waiting;
                self.out.push(Action::Reopen);
                self.tell(What::Resumed { reason: "the region was taken back".to_owned() });
                self.tell(What::Waiting);
            }
            _ => {}
        }
    }

    fn not_persisted(&mut self, due: u64, reason: String) {
        match &self.phase {
            Phase::Committing { step, .. } if *step == due => {
                // The commit may be on disk all the same. Only once the record before it is there again is the
                // region certain to be here.
                let step = self.persist(self.record.clone());
                self.phase = Phase::Undoing { step, reason };
            }
            Phase::Undoing { step, .. } | Phase::Draining { step, .. } | Phase::Reclaiming { step, .. }
                if *step == due =>
            {
                self.tell(What::Trouble { reason });
            }
            _ => {}
        }
    }

    /// Writes once more what may not have been written. An answer to the older try is then nobody's.
    fn again(&mut self) {
        let next = self.step + 1;
        let record = match &mut self.phase {
            Phase::Undoing { step, .. } => {
                *step = next;
                self.record.clone()
            }
            Phase::Draining { step, .. } => {
                *step = next;
                self.record.voted(State::Drained, self.record.vote)
            }
            Phase::Reclaiming { step, owner } => {
                *step = next;
                owner.clone()
            }
            _ => return,
        };
        self.persist(record);
    }

    /// This vote comes to nothing; its session goes on.
    fn resume(&mut self, acting: Acting, reason: String) {
        let Acting { mut live, vote, .. } = acting;
        if matches!(self.phase, Phase::Quiescing { .. }) {
            self.out.push(Action::Reopen);
        }
        live.refused = live.refused.max(vote.ballot);
        self.phase = Phase::Tracking(live);
        self.tell(What::Resumed { reason: reason.clone() });
        let epoch = self.record.region.epoch;
        self.send(Message::Aborted { vote, epoch, tracking: true, reason });
    }

    /// The session is over, and the region stays.
    fn end(&mut self, reason: &str) {
        let phase = std::mem::replace(&mut self.phase, Phase::Waiting);
        let vote = match &phase {
            Phase::Suspending { acting, .. } | Phase::Quiescing { acting, .. } => Some(acting.vote),
            Phase::Tracking(live) => Some(Vote { session: live.session, epoch: 0, ballot: 0 }),
            _ => None,
        };
        if let Some(vote) = vote {
            let (epoch, reason) = (self.record.region.epoch, reason.to_owned());
            self.send(Message::Aborted { vote, epoch, tracking: false, reason });
        }
        self.out.push(Action::Disarm);
        match phase {
            Phase::Quiescing { .. } => {
                self.out.push(Action::Reopen);
                self.tell(What::Resumed { reason: reason.to_owned() });
            }
            Phase::Suspending { .. } => self.tell(What::Resumed { reason: reason.to_owned() }),
            _ => {}
        }
        self.tell(What::Waiting);
    }

    fn drain(&mut self, answer: bool) {
        let step = self.persist(self.record.voted(State::Drained, self.record.vote));
        self.phase = Phase::Draining { step, answer };
    }

    fn reclaim(&mut self) {
        let region = Moved { epoch: self.record.region.epoch + 1, ..self.record.region };
        let owner = Record::new(State::Owner, region);
        let step = self.persist(owner.clone());
        self.phase = Phase::Reclaiming { step, owner };
    }
}
