//! What source and destination say to each other, and how it is written in frames.

use crate::error::{Code, Error, Result};
use crate::migration::fields::{Fields, put_counted};
use crate::migration::runs::Runs;
use crate::migration::{Dirty, MAX_HAND_OVER, Moved, Vote};
use crate::wire::{Header, Identity, Kind, MAX_MESSAGE};

/// One message. All of them may be lost, come twice, late or in another order, at no harm but time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Destination: track the writes to this region for me. The same attempt again is the same question.
    Track {
        /// Names the attempt; random.
        attempt: Identity,
        /// The region that is meant. An epoch larger than the source's says that the source is the older state.
        region: Moved,
    },
    /// Destination: every round up to this one is taken into account; which pages were written since?
    Round {
        /// The session that TRACKING began.
        session: Identity,
        /// The last round taken into account; 0 is none.
        acknowledged: u64,
    },
    /// Destination: give me the region. I have bound myself to take it if you do.
    Finalize {
        /// What was voted.
        vote: Vote,
        /// The last round taken into account.
        acknowledged: u64,
    },
    /// Destination, after a restart: what became of my vote? One that was not acted on yet never will be.
    Status {
        /// What was voted.
        vote: Vote,
    },
    /// Destination: the region is mine, and bytes of it are still with you.
    Taken {
        /// What was voted.
        vote: Vote,
    },
    /// Destination: all bytes are here and as durable as they ever are.
    Complete {
        /// What was voted.
        vote: Vote,
    },
    /// Source: writes are tracked from before this was sent; pages read from now on count.
    Tracking {
        /// The attempt that asked.
        attempt: Identity,
        /// The session that begins; made by the source, and never twice.
        session: Identity,
        /// What the source has.
        region: Moved,
    },
    /// Source: what was written since the round before. It stays the same until it is acknowledged.
    Dirty {
        /// The session.
        session: Identity,
        /// The number of the round.
        round: u64,
        /// Its pages.
        pages: Runs,
    },
    /// Source: the vote is being acted on.
    Pending {
        /// Which.
        vote: Vote,
    },
    /// Source: the region is yours. Repeated as often as it is asked for.
    Given {
        /// By this vote.
        vote: Vote,
        /// Written since the last round that the vote acknowledged.
        dirty: Dirty,
        /// What the app hands over, at most [`MAX_HAND_OVER`] bytes.
        payload: Vec<u8>,
    },
    /// Source: this vote will never be acted on. It says nothing of any other vote.
    Aborted {
        /// Which; ballot 0 where it is only about the session.
        vote: Vote,
        /// The epoch of the source now: larger than the vote's if the region was taken back from who had it.
        epoch: u64,
        /// Whether the session goes on.
        tracking: bool,
        /// Why, for people.
        reason: String,
    },
    /// Source: it has nothing left that anybody waits for.
    Drained {
        /// By this vote.
        vote: Vote,
    },
    /// Source: this attempt is refused, and nothing was changed for it.
    Refused {
        /// Which.
        attempt: Identity,
        /// Why, for a program.
        code: Code,
        /// Why, for people.
        reason: String,
    },
}

const TRACKS: u32 = 1;
const ALL: u32 = 1;

impl Message {
    /// The vote that it is about.
    pub fn vote(&self) -> Option<Vote> {
        match self {
            Message::Finalize { vote, .. }
            | Message::Status { vote }
            | Message::Taken { vote }
            | Message::Complete { vote }
            | Message::Pending { vote }
            | Message::Given { vote, .. }
            | Message::Aborted { vote, .. }
            | Message::Drained { vote } => Some(*vote),
            _ => None,
        }
    }

    /// The header and the payload of the frame that carries it.
    pub fn encode(&self) -> (Header, Vec<u8>) {
        let mut bytes = Vec::new();
        match self {
            Message::Track { attempt, region } => {
                bytes.extend(attempt);
                region.put(&mut bytes);
            }
            Message::Tracking { attempt, session, region } => {
                bytes.extend(attempt);
                bytes.extend(session);
                region.put(&mut bytes);
            }
            Message::Round { session, acknowledged } => {
                bytes.extend(session);
                bytes.extend(acknowledged.to_le_bytes());
            }
            Message::Dirty { session, round, pages } => {
                bytes.extend(session);
                bytes.extend(round.to_le_bytes());
                put_counted(&mut bytes, &pages.encode());
            }
            Message::Finalize { vote, acknowledged } => {
                vote.put(&mut bytes);
                bytes.extend(acknowledged.to_le_bytes());
            }
            Message::Status { vote }
            | Message::Taken { vote }
            | Message::Complete { vote }
            | Message::Pending { vote }
            | Message::Drained { vote } => vote.put(&mut bytes),
            Message::Given { vote, dirty, payload } => {
                vote.put(&mut bytes);
                let (flags, pages) = match dirty {
                    Dirty::All => (ALL, Vec::new()),
                    Dirty::Pages(pages) => (0, pages.encode()),
                };
                bytes.extend(flags.to_le_bytes());
                put_counted(&mut bytes, &pages);
                put_counted(&mut bytes, payload);
            }
            Message::Aborted { vote, epoch, tracking, reason } => {
                vote.put(&mut bytes);
                bytes.extend(epoch.to_le_bytes());
                bytes.extend((if *tracking { TRACKS } else { 0 }).to_le_bytes());
                put_counted(&mut bytes, shortened(reason));
            }
            Message::Refused { attempt, code, reason } => {
                bytes.extend(attempt);
                bytes.extend((*code as u32).to_le_bytes());
                put_counted(&mut bytes, shortened(reason));
            }
        }
        (Header::new(self.kind(), 0).with_payload(&bytes), bytes)
    }

    /// The message of a frame of this kind, for a region of `pages` pages. Bytes behind the fields known here
    /// belong to later versions.
    pub fn decode(kind: Kind, payload: &[u8], pages: u64) -> Result<Message> {
        let mut fields = Fields::new(payload, "a message of a migration");
        Ok(match kind {
            Kind::Track => Message::Track { attempt: fields.identity()?, region: Moved::take(&mut fields)? },
            Kind::Tracking => Message::Tracking {
                attempt: fields.identity()?,
                session: fields.identity()?,
                region: Moved::take(&mut fields)?,
            },
            Kind::Round => Message::Round { session: fields.identity()?, acknowledged: fields.u64()? },
            Kind::Dirty => Message::Dirty {
                session: fields.identity()?,
                round: fields.u64()?,
                pages: Runs::decode(fields.counted(super::runs::MAX_ENCODED)?, pages)?,
            },
            Kind::Finalize => Message::Finalize { vote: Vote::take(&mut fields)?, acknowledged: fields.u64()? },
            Kind::Status => Message::Status { vote: Vote::take(&mut fields)? },
            Kind::Taken => Message::Taken { vote: Vote::take(&mut fields)? },
            Kind::Complete => Message::Complete { vote: Vote::take(&mut fields)? },
            Kind::Pending => Message::Pending { vote: Vote::take(&mut fields)? },
            Kind::Drained => Message::Drained { vote: Vote::take(&mut fields)? },
            Kind::Given => {
                let (vote, flags) = (Vote::take(&mut fields)?, fields.u32()?);
                let dirty = fields.counted(super::runs::MAX_ENCODED)?;
                let dirty = if flags & ALL != 0 { Dirty::All } else { Dirty::Pages(Runs::decode(dirty, pages)?) };
                Message::Given { vote, dirty, payload: fields.counted(MAX_HAND_OVER)?.to_vec() }
            }
            Kind::Aborted => Message::Aborted {
                vote: Vote::take(&mut fields)?,
                epoch: fields.u64()?,
                tracking: fields.u32()? & TRACKS != 0,
                reason: fields.words(MAX_MESSAGE)?,
            },
            Kind::Refused => Message::Refused {
                attempt: fields.identity()?,
                code: Code::from_number(fields.u32()?).unwrap_or(Code::Internal),
                reason: fields.words(MAX_MESSAGE)?,
            },
            other => {
                let message = format!("a frame {other:?} is no message of a migration");
                return Err(Error::new(Code::InvalidArgument, message));
            }
        })
    }

    fn kind(&self) -> Kind {
        match self {
            Message::Track { .. } => Kind::Track,
            Message::Round { .. } => Kind::Round,
            Message::Finalize { .. } => Kind::Finalize,
            Message::Status { .. } => Kind::Status,
            Message::Taken { .. } => Kind::Taken,
            Message::Complete { .. } => Kind::Complete,
            Message::Tracking { .. } => Kind::Tracking,
            Message::Dirty { .. } => Kind::Dirty,
            Message::Pending { .. } => Kind::Pending,
            Message::Given { .. } => Kind::Given,
            Message::Aborted { .. } => Kind::Aborted,
            Message::Drained { .. } => Kind::Drained,
            Message::Refused { .. } => Kind::Refused,
        }
    }
}

impl Moved {
    fn put(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.identity);
        bytes.extend(self.size.to_le_bytes());
        bytes.extend(self.epoch.to_le_bytes());
    }

    fn take(fields: &mut Fields<'_>) -> Result<Moved> {
        Ok(Moved { identity: fields.identity()?, size: fields.u64()?, epoch: fields.u64()? })
    }
}

impl Vote {
    fn put(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.session);
        bytes.extend(self.epoch.to_le_bytes());
        bytes.extend(self.ballot.to_le_bytes());
    }

    fn take(fields: &mut Fields<'_>) -> Result<Vote> {
        Ok(Vote { session: fields.identity()?, epoch: fields.u64()?, ballot: fields.u64()? })
    }
}

fn shortened(words: &str) -> &[u8] {
    let mut end = words.len().min(MAX_MESSAGE);
    while !words.is_char_boundary(end) {
        end -= 1;
    }
    &words.as_bytes()[..end]
}
