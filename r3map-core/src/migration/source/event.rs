//! What happens to a source, and what is to be done for it.

use crate::migration::record::Record;
use crate::migration::{Dirty, Message, Runs};
use crate::wire::Identity;

/// What happened to a source.
#[derive(Clone, Debug)]
pub enum Event {
    /// A message came.
    Received(Message),
    /// Of a source that was [`arriving`](Source::arriving): all of the region is here, and this is its record.
    Arrived {
        /// The record on disk.
        record: Record,
    },
    /// [`Action::Arm`] is done; `session` is random and was never used before.
    Armed {
        /// Of the action.
        step: u64,
        /// The name of the session that begins.
        session: Identity,
    },
    /// [`Action::Arm`] failed: writes cannot be tracked.
    NotArmed {
        /// Of the action.
        step: u64,
        /// Why.
        reason: String,
    },
    /// [`Action::Collect`] is done.
    Collected {
        /// The session it was for.
        session: Identity,
        /// The number of the round.
        round: u64,
        /// Its pages.
        pages: Runs,
    },
    /// The app has stopped writing.
    Suspended {
        /// Of the event that asked for it.
        sequence: u64,
        /// What it hands over.
        payload: Vec<u8>,
    },
    /// The app will not stop, or did not within `suspend_deadline`.
    Refused {
        /// Of the event that asked for it.
        sequence: u64,
        /// Why.
        reason: String,
    },
    /// [`Action::Quiesce`] is done: nothing writes any more, and these are all the pages that the vote lacks.
    Quiesced {
        /// Of the action.
        step: u64,
        /// Written since the round that the vote acknowledges.
        dirty: Dirty,
    },
    /// [`Action::Quiesce`] failed: something still writes, or cannot be flushed.
    Disturbed {
        /// Of the action.
        step: u64,
        /// Why.
        reason: String,
    },
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
    /// The destination of this session has been away for too long.
    Lost {
        /// The session.
        session: Identity,
    },
    /// Time has passed: what failed is to be tried again.
    Again,
    /// The app gives up what the destination still lacks.
    Abandon,
    /// The app takes the region back from a destination that is lost for good.
    Reclaim,
}

/// What is to be done for a source, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send it, or lose it.
    Send(Message),
    /// Begin to track writes anew; then [`Event::Armed`].
    Arm {
        /// To be said with the event.
        step: u64,
    },
    /// Stop tracking writes.
    Disarm,
    /// Take the round after this one; then [`Event::Collected`], or nothing if that question came late.
    Collect {
        /// The session it is for.
        session: Identity,
        /// What the destination has taken into account.
        acknowledged: u64,
    },
    /// Shut the gate, wait out who is inside, stop the pusher, flush the device, scan, and scan again to see that
    /// nothing writes; then [`Event::Quiesced`] or [`Event::Disturbed`].
    Quiesce {
        /// To be said with the event.
        step: u64,
        /// What the destination has taken into account.
        acknowledged: u64,
    },
    /// Undo that: the region goes on here.
    Reopen,
    /// Make this the record, durably; then [`Event::Persisted`] or [`Event::NotPersisted`].
    Persist {
        /// To be said with the event.
        step: u64,
        /// The record.
        record: Record,
    },
    /// Nothing of this process writes or reads the region any more, by any view.
    Fence,
    /// Tell the app.
    Tell(Told),
}

/// What the app is told, each with its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Counts from 1.
    pub sequence: u64,
    /// What it is.
    pub what: What,
}

/// What the app of a source is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// There is no destination.
    Waiting,
    /// A destination pulls.
    Tracking,
    /// Stop writing, then say so with this event's number.
    Suspending,
    /// Go on writing.
    Resumed {
        /// Why it came to nothing.
        reason: String,
    },
    /// The region is the destination's.
    Committed,
    /// The destination has every byte.
    Drained,
    /// A record could not be written; it is tried again.
    Trouble {
        /// Why.
        reason: String,
    },
}
