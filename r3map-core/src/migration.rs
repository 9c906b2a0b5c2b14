//! Moving a region that is in use: who owns it at every moment, whoever dies and whatever is lost.
//!
//! [`Source`](source::Source) and [`Destination`](destination::Destination) are the two sides as machines without
//! clocks, threads, files or sockets: an event goes in, actions come out, to be done in their order. Whoever drives
//! one does what it says and tells it what happened; a machine that is made anew from the [record](record::Record)
//! on disk goes on where the one before it was when it died. `tests/t620_simulation.rs` drives both through losses
//! and crashes.
//!
//! The commit is one write: that of the source's record `Given`. Before it the source owns the region, after it
//! the destination does, and neither ever says the one while the other may still happen.

use crate::wire::Identity;

pub mod destination;
pub(crate) mod fields;
pub mod home;
pub mod leecher;
pub mod message;
pub mod record;
pub mod runs;
pub mod seeder;
pub mod source;
pub mod tracker;

pub use message::Message;
pub use runs::Runs;

/// The most bytes that an app hands over with a region.
pub const MAX_HAND_OVER: usize = 16 << 20;

/// A region as it moves from host to host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// The same wherever it is; made when it is first seeded.
    pub identity: Identity,
    /// Its size in bytes.
    pub size: u64,
    /// How often it has changed hands: who has it under a larger epoch has it after who had it under a smaller.
    pub epoch: u64,
}

impl Moved {
    /// How many pages it has.
    pub fn pages(&self) -> u64 {
        self.size.div_ceil(crate::page::PAGE)
    }
}

/// What names a part of regions that move as one, other than the first: made from what names them all, so that
/// no other part, and no part of another group, is taken for it.
pub fn part_identity(group: Identity, index: usize) -> Identity {
    let mut identity = Identity::default();
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"r3map part").update(&group).update(&(index as u64).to_le_bytes());
    hasher.finalize_xof().fill(&mut identity);
    identity
}

/// A destination's word that it will own the region if it is given: it cannot take it back, only the source can
/// say that it will not come to that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vote {
    /// The session it belongs to.
    pub session: Identity,
    /// The epoch that begins if it succeeds.
    pub epoch: u64,
    /// Counts the votes of a session from 1.
    pub ballot: u64,
}

/// Pages whose bytes at the destination are older than the source's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dirty {
    /// Nobody knows: all that are not known to be alike.
    All,
    /// These.
    Pages(Runs),
}
