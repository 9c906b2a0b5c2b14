//! Leechers of the Go library r3map, whose protocol says no more than read, track, sync and close: each stands here as a
//! destination of the native one.
//!
//! What it cannot say, its connection says: a session lasts as long as that. Its one vote is the call of sync, and what
//! that is answered with is the commit.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::timeout;

use crate::backend::Backend;
use crate::cancel::deadline_in;
use crate::error::{Code, Error, Result};
use crate::migration::seeder::driver::Driver;
use crate::migration::seeder::peers::{Bridge, Peer};
use crate::migration::{Dirty, Message, Runs, Vote};
use crate::page::PAGE;
use crate::wire::{Identity, socket};

/// Ballots of these leechers are larger: so a record says by what protocol a region was given.
const LEGACY: u64 = 1 << 63;
/// The longest list of blocks, in bytes as it is sent: what gRPC takes unless told otherwise, less what is around it.
const MOST: usize = (4 << 20) - 64;
/// How long until something is said again that may not have been heard.
const AGAIN: Duration = Duration::from_millis(200);

/// A connection of such a leecher.
pub struct Legacy {
    seed: Arc<Driver>,
    asked: Mutex<Asked>,
}

/// What was asked on it.
#[derive(Default)]
struct Asked {
    attempt: Option<Arc<Attempt>>,
    /// Whether it was ever asked to track.
    tracks: bool,
}

impl Legacy {
    /// A connection on which nothing was asked yet.
    pub fn new(seed: Arc<Driver>) -> Legacy {
        Legacy { seed, asked: Mutex::default() }
    }

    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn attempt(&self) -> Result<Arc<Attempt>> {
        let wrong = || Error::new(Code::InvalidArgument, "no session has begun on this connection: say Track first");
        self.asked().attempt.clone().ok_or_else(wrong)
    }

    /// Begins to track; once more changes nothing.
    pub async fn track(&self) -> Result<()> {
        let attempt = {
            let mut asked = self.asked();
            asked.tracks = true;
            match asked.attempt.as_ref().filter(|attempt| attempt.is_live()) {
                Some(attempt) => attempt.clone(),
                None => asked.attempt.insert(Attempt::new(&self.seed, None)?).clone(),
            }
        };
        let tracked = attempt.track().await;
        if !attempt.is_live() {
            self.leave();
        }
        tracked
    }

    /// Waits until these bytes may be read. Once the region is given away, one may read on over another connection.
    pub async fn may_read(&self, offset: u64, length: u64) -> Result<()> {
        if let Err(error) = self.attempt() {
            let given = self.seed.given().filter(|vote| vote.ballot > LEGACY).ok_or(error)?;
            self.join(given)?;
        }
        self.attempt()?.may_read(offset, length).await
    }

    /// Goes on with a region that was given, unless it was asked for here and refused.
    fn join(&self, given: Vote) -> Result<()> {
        let mut asked = self.asked();
        if asked.attempt.is_none() && !asked.tracks {
            asked.attempt = Some(Attempt::new(&self.seed, Some(given))?);
        }
        Ok(())
    }

    /// Asks for the region; the blocks of it, of that length if one is said, that were written since tracking began.
    pub async fn sync(&self, block: Option<u64>) -> Result<Vec<i64>> {
        let attempt = self.attempt()?;
        if let Some(block) = block {
            attempt.reads().said = Some(block);
        }
        attempt.sync().await
    }

    /// Wants nothing more.
    pub async fn close(&self) -> Result<()> {
        let Some(attempt) = self.asked().attempt.clone() else { return Ok(()) };
        attempt.complete().await?;
        self.leave();
        Ok(())
    }

    /// Whoever asked is gone, or wants nothing more.
    pub fn leave(&self) {
        let attempt = self.asked().attempt.take();
        if let Some(attempt) = attempt {
            *attempt.gone() = true;
            // What was not given by now is not to be given.
            self.seed.leave(&attempt.peer, true);
        }
    }
}

/// What the source has said.
#[derive(Clone)]
enum Said {
    Nothing,
    Tracking,
    Given { vote: Vote, blocks: Arc<Vec<i64>> },
    Drained,
    Over(Error),
}

/// One session.
struct Attempt {
    seed: Arc<Driver>,
    /// Of the region, in bytes.
    size: u64,
    name: Identity,
    peer: Arc<Peer>,
    /// Whether it has left: it says nothing any more.
    gone: Mutex<bool>,
    said: watch::Sender<Said>,
    votes: Mutex<Votes>,
    /// How many calls of sync wait for their answer.
    waiting: AtomicU64,
    reads: Mutex<Reads>,
    /// The unit of what is said to be dirty, from when that is asked for.
    block: AtomicU64,
}

/// The votes of a session.
#[derive(Default)]
struct Votes {
    /// The one without an answer.
    open: Option<Vote>,
    /// The last one.
    last: u64,
    /// Why that was refused.
    refused: Option<Error>,
    /// What is voted on.
    session: Identity,
    epoch: u64,
}

impl Attempt {
    /// A session to begin, or the rest of one by whose vote the region was given.
    fn new(seed: &Arc<Driver>, given: Option<Vote>) -> Result<Arc<Attempt>> {
        let (name, client) = (socket::random()?, socket::random()?);
        let said = match given {
            Some(vote) => Said::Given { vote, blocks: Arc::default() },
            None => Said::Nothing,
        };
        let attempt = Arc::new_cyclic(|this: &Weak<Attempt>| Attempt {
            seed: seed.clone(),
            size: seed.truth().info().size,
            name,
            peer: Peer::behind(this.clone(), client),
            gone: Mutex::new(false),
            said: watch::Sender::new(said),
            votes: Mutex::default(),
            waiting: AtomicU64::new(0),
            reads: Mutex::default(),
            block: AtomicU64::new(PAGE),
        });
        if let Some(vote) = given {
            attempt.peer.join(vote.session);
        }
        seed.arrive(&attempt.peer);
        Ok(attempt)
    }

    fn votes(&self) -> MutexGuard<'_, Votes> {
        self.votes.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn reads(&self) -> MutexGuard<'_, Reads> {
        self.reads.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn gone(&self) -> MutexGuard<'_, bool> {
        self.gone.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Says a message to the source.
    fn say(&self, message: &Message) -> Result<()> {
        let gone = self.gone();
        if *gone {
            return Err(Error::new(Code::Closed, "the leecher has closed its session"));
        }
        self.seed.received(message.clone(), &self.peer);
        Ok(())
    }

    fn is_live(&self) -> bool {
        !matches!(*self.said.borrow(), Said::Over(_) | Said::Drained)
    }

    /// Says a message until `heard` finds its answer.
    async fn ask<T>(
        &self,
        what: &str,
        deadline: Option<Instant>,
        message: Message,
        heard: impl Fn(&Said) -> Option<Result<T>>,
    ) -> Result<T> {
        let mut said = self.said.subscribe();
        loop {
            self.say(&message)?;
            let answer = timeout(AGAIN, said.wait_for(|said| heard(said).is_some())).await;
            if let Ok(Ok(said)) = answer {
                if let Some(outcome) = heard(&said) {
                    return outcome;
                }
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Err(Error::new(Code::Timeout, format!("{what}: not within the deadline of the seeder")));
            }
        }
    }

    async fn track(&self) -> Result<()> {
        if matches!(*self.said.borrow(), Said::Given { .. }) {
            return Err(Error::new(Code::Fenced, "Track: the region was given away"));
        }
        let message = Message::Track { attempt: self.name, region: self.seed.region() };
        self.ask("Track", deadline_in(self.seed.deadline()), message, |said| match said {
            Said::Nothing => None,
            Said::Over(error) => Some(Err(error.clone())),
            _ => Some(Ok(())),
        })
        .await
    }

    async fn may_read(&self, offset: u64, length: u64) -> Result<()> {
        let mut said = self.said.subscribe();
        loop {
            let seen = said.borrow_and_update().clone();
            match self.seed.check_read(&self.peer) {
                Ok(()) => {
                    self.reads().note(offset, length, self.size);
                    return Ok(());
                }
                // Nothing is read in the moment in which the region changes hands.
                Err(_) if matches!(seen, Said::Tracking) && self.votes().open.is_some() => {
                    // That time is up is as good a reason as any to look again.
                    let _ = timeout(AGAIN, said.changed()).await;
                }
                Err(error) => return Err(if let Said::Over(over) = seen { over } else { error }),
            }
        }
    }

    async fn sync(self: &Arc<Self>) -> Result<Vec<i64>> {
        let _waiting = Waiting::new(self);
        let joined = self.votes().open.is_some();
        match self.vote().await {
            // That was the vote of a call that was given up.
            Err(error) if joined && error.code() == Code::Busy => self.vote().await,
            outcome => outcome,
        }
    }

    async fn vote(&self) -> Result<Vec<i64>> {
        let vote = {
            let seen = self.said.borrow().clone();
            let mut votes = self.votes();
            match seen {
                Said::Tracking => {
                    let (session, epoch, ballot) = (votes.session, votes.epoch, LEGACY.max(votes.last) + 1);
                    let vote = votes.open.unwrap_or(Vote { session, epoch, ballot });
                    (votes.open, votes.last) = (Some(vote), vote.ballot);
                    vote
                }
                Said::Given { vote, .. } if vote.ballot == votes.last => vote,
                Said::Over(error) => return Err(error),
                _ => {
                    let message = "Sync: the region was given away, and not on this connection";
                    return Err(Error::new(Code::Fenced, message));
                }
            }
        };
        // The app has its own deadline.
        self.ask("Sync", None, Message::Finalize { vote, acknowledged: 0 }, |said| match said {
            Said::Given { vote: given, blocks } if *given == vote => Some(Ok(blocks.to_vec())),
            Said::Over(error) => Some(Err(error.clone())),
            _ => {
                let votes = self.votes();
                votes.refused.clone().filter(|_| votes.open != Some(vote)).map(Err)
            }
        })
        .await
    }

    /// Says that all is here, if the region was given.
    async fn complete(&self) -> Result<()> {
        let Said::Given { vote, .. } = self.said.borrow().clone() else { return Ok(()) };
        self.ask("Close", deadline_in(self.seed.deadline()), Message::Complete { vote }, |said| match said {
            Said::Drained => Some(Ok(())),
            Said::Over(error) => Some(Err(error.clone())),
            _ => None,
        })
        .await
    }

    fn blocks(&self, dirty: &Dirty) -> Result<Vec<i64>> {
        blocks(dirty, self.size, self.block.load(Ordering::SeqCst))
    }
}

/// A call of sync that waits.
struct Waiting(Arc<Attempt>);

impl Waiting {
    fn new(attempt: &Arc<Attempt>) -> Waiting {
        attempt.waiting.fetch_add(1, Ordering::SeqCst);
        Waiting(attempt.clone())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Bridge for Attempt {
    fn hear(&self, message: &Message) {
        let said = match message {
            Message::Tracking { attempt, session, region } if *attempt == self.name => {
                let mut votes = self.votes();
                (votes.session, votes.epoch) = (*session, region.epoch + 1);
                Said::Tracking
            }
            Message::Refused { attempt, code, reason } if *attempt == self.name => {
                Said::Over(Error::new(*code, format!("Track: {reason}")))
            }
            Message::Given { vote, dirty, .. } => match self.blocks(dirty) {
                Ok(blocks) => Said::Given { vote: *vote, blocks: Arc::new(blocks) },
                Err(error) => Said::Over(error),
            },
            Message::Aborted { vote, tracking, reason, .. } => {
                let error = Error::new(Code::Busy, format!("Sync: the source goes on: {reason}"));
                if *tracking {
                    let mut votes = self.votes();
                    if votes.open.is_none_or(|open| open != *vote) {
                        return;
                    }
                    (votes.open, votes.refused) = (None, Some(error));
                    drop(votes);
                    // Those who wait look at the votes.
                    return self.said.send_modify(|_| {});
                }
                Said::Over(Error::new(Code::StaleEpoch, format!("the session is over: {reason}")))
            }
            Message::Drained { .. } => Said::Drained,
            _ => return,
        };
        self.said.send_replace(said);
    }

    fn check_take(&self, dirty: &Dirty) -> Result<()> {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            let message =
                "the leecher does not wait for the answer to its Sync any more: it is not given the region now";
            return Err(Error::new(Code::Disconnected, message));
        }
        let block = self.reads().block();
        self.block.store(block, Ordering::SeqCst);
        self.blocks(dirty).map(drop)
    }

    fn cut(&self) {
        self.said.send_replace(Said::Over(Error::new(Code::Closed, "the seeder is closed")));
    }
}

/// The lengths in which a leecher reads. The Go library's read whole blocks of one length, and look up what is dirty by
/// the offset of such a block, though the protocol has no word for that length.
#[derive(Clone, Copy, Default)]
struct Reads {
    /// Of those that do not end with the region.
    whole: Option<Whole>,
    /// Of those that do: offset and length.
    last: Option<(u64, u64)>,
    /// What it says itself.
    said: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Whole {
    Blocks(u64),
    Mixed,
}

impl Reads {
    fn note(&mut self, offset: u64, length: u64, size: u64) {
        if length == 0 {
            return;
        }
        if offset + length == size {
            self.last = match self.last {
                Some((begun, _)) if begun != offset => Some((1, 0)),
                _ => Some((offset, length)),
            };
            return;
        }
        let fits = offset % length == 0 && !matches!(self.whole, Some(whole) if whole != Whole::Blocks(length));
        self.whole = Some(if fits { Whole::Blocks(length) } else { Whole::Mixed });
    }

    /// The unit in which it can be told what is dirty: pages, where it reads no blocks.
    fn block(&self) -> u64 {
        if let Some(said) = self.said {
            return said;
        }
        match (self.whole, self.last) {
            (Some(Whole::Blocks(block)), None) => block,
            (Some(Whole::Blocks(block)), Some((offset, length))) if offset % block == 0 && length <= block => block,
            (None, Some((offset, length))) if length > 0 && offset % length == 0 => length,
            _ => PAGE,
        }
    }
}

/// Where the blocks begin that have any of these pages; an error where that is more than can be said.
fn blocks(dirty: &Dirty, size: u64, block: u64) -> Result<Vec<i64>> {
    let all = Runs::all(size.div_ceil(PAGE));
    let runs = match dirty {
        Dirty::All => &all,
        Dirty::Pages(runs) => runs,
    };
    let (mut found, mut next, mut length) = (Vec::new(), 0, 0);
    for run in runs.iter() {
        let end = (run.end * PAGE).min(size).div_ceil(block);
        for index in (run.start * PAGE / block).max(next)..end {
            let offset = index * block;
            length += (64 - (offset | 1).leading_zeros() as usize).div_ceil(7);
            if length > MOST {
                let message = format!(
                    "more than {} blocks of {block} bytes were written since Track, more than an answer to Sync can \
                     name: begin anew, or read in longer blocks",
                    found.len()
                );
                return Err(Error::new(Code::OutOfRange, message));
            }
            found.push(offset as i64);
        }
        next = next.max(end);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(reads: &[(u64, u64)], size: u64) -> u64 {
        let mut noted = Reads::default();
        reads.iter().for_each(|(offset, length)| noted.note(*offset, *length, size));
        noted.block()
    }

    #[test]
    fn what_is_dirty_is_told_in_the_blocks_that_were_read_and_in_pages_where_there_are_none() {
        let size = 10 << 20;
        assert_eq!(read(&[], size), PAGE);
        assert_eq!(read(&[(65536, 65536), (0, 65536), (0, 0)], size), 65536);
        assert_eq!(read(&[(65536, 65536), (size - 65536, 65536)], size), 65536);
        assert_eq!(read(&[(1000, 1000), (size - 760, 760)], size), 1000);
        assert_eq!(read(&[(size - 65536, 65536)], size), 65536);
        for mixed in [
            &[(0, 65536), (65536, 4096)][..],
            &[(100, 65536)],
            &[(0, 65536), (size - 100_000, 100_000)],
            &[(0, 65536), (size - 100, 100)],
            &[(size - 4096, 4096), (size - 65536, 65536)],
        ] {
            assert_eq!(read(mixed, size), PAGE, "{mixed:?}");
        }
    }

    #[test]
    fn every_page_is_in_a_block_that_is_named_once() {
        let pages = |runs: &[std::ops::Range<u64>]| {
            let mut all = Runs::default();
            runs.iter().cloned().for_each(|run| all.push(run));
            Dirty::Pages(all)
        };
        let some = pages(&[0..1, 3..4, 17..33]);
        assert_eq!(blocks(&some, 1 << 20, 65536).unwrap(), [0, 65536, 131_072]);
        assert_eq!(blocks(&pages(&[1..2]), 1 << 20, 1000).unwrap(), [4000, 5000, 6000, 7000, 8000]);
        assert_eq!(blocks(&Dirty::All, 3 * PAGE - 1, PAGE).unwrap(), [0, 4096, 8192]);
        assert_eq!(blocks(&Dirty::All, 4097, 1000).unwrap(), [0, 1000, 2000, 3000, 4000]);
        assert_eq!(blocks(&Dirty::All, 1 << 40, PAGE).unwrap_err().code(), Code::OutOfRange);
    }
}
