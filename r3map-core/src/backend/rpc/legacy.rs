//! `grpc://host:port?size=…&chunk=…` — a region that a seeder of the Go library moves away, as a leecher sees the source of
//! the native protocol.
//!
//! That protocol has neither sessions nor votes nor rounds: a session is the life of one connection, a round is always
//! empty, and the one answer to `Sync` stands for the commit. Where that answer is lost nobody knows what the source did, and
//! the region is not taken.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use tokio::runtime::Handle as Runtime;
use tokio::time::timeout;

use super::grpc::seeder::{Seeder, Synced};
use super::kept::Kept;
use super::link::Watch;
use super::{CHUNK_SIZE, GREETING_TIME, Rpc, Served};
use crate::backend::remote::leech::{Heard, Leech};
use crate::backend::{BackendOptions, Info, Request};
use crate::error::{Code, Error, Result};
use crate::migration::{Dirty, Message, Moved, Runs, Vote};
use crate::page::PAGE;
use crate::url::Location;
use crate::wire::{Identity, socket};

/// How long the last call may take: some servers end with it.
const GOODBYE_TIME: Duration = Duration::from_secs(5);

/// A seeder of the Go library.
pub struct Legacy {
    rpc: Rpc,
    bridge: Arc<Bridge>,
}

struct Bridge {
    leech: Leech,
    seeder: Arc<Seeder>,
    runtime: Runtime,
    size: u64,
    /// The unit in which the source says what is dirty.
    chunk: u64,
    /// The number of the newest connection.
    newest: AtomicU64,
    state: Mutex<State>,
    /// Held while the source is told that all is here.
    goodbye: Arc<Goodbye>,
}

type Goodbye = tokio::sync::Mutex<()>;

#[derive(Default)]
struct State {
    /// The number of the newest connection that was lost.
    lost: u64,
    /// Whether the source is being asked to track.
    asking: bool,
    tracked: Option<Tracked>,
    voted: Option<(Vote, Outcome)>,
    /// Whether the source was told that all is here.
    closing: bool,
    /// Whether the region is here: from then on a connection is as good as another.
    given: bool,
}

/// What is tracked, on the connection of that number.
#[derive(Clone, Copy)]
struct Tracked {
    connection: u64,
    attempt: Identity,
    session: Identity,
}

/// What came of a vote.
#[derive(Clone)]
enum Outcome {
    Asking,
    Answered(Message),
}

impl Legacy {
    /// Connects to the seeder that the location names.
    pub fn open(location: &Location, options: &BackendOptions, leech: Leech) -> Result<Legacy> {
        let served = Served::parse(location, options)?;
        let (url, size, chunk) = (location.as_str(), served.info.size, u64::from(served.info.chunk_size));
        if !served.has_chunk {
            let message = format!(
                "{url}: no chunk, and the protocol cannot ask for it: write &chunk=4KiB, the chunk size of the seeder, \
                 which is that by default, or more"
            );
            return Err(Error::new(Code::InvalidArgument, message));
        }
        let name = named(url, size);
        let known = leech.known().filter(|known| !known.independent && known.identity[..8] == name);
        let identity = match known {
            Some(known) => known.identity,
            None => {
                let mut identity = socket::random()?;
                identity[..8].copy_from_slice(&name);
                identity
            }
        };
        let goes_on = known.is_some();
        let info = Info {
            identity: Some(identity),
            read_only: true,
            chunk_size: served.info.chunk_size.max(CHUNK_SIZE),
            ..served.info
        };
        let runtime = crate::runtime::handle()?;
        let bridge = Arc::new_cyclic(|this: &Weak<Bridge>| Bridge {
            leech,
            seeder: Arc::new(Seeder::new(served.dial, Arc::new(Tie(this.clone())), served.message)),
            runtime: runtime.clone(),
            size,
            chunk,
            newest: AtomicU64::new(0),
            state: Mutex::default(),
            goodbye: Arc::default(),
        });
        let rpc = Rpc::over(info, Box::new(bridge.seeder.clone()), Arc::new(Kept::new(url)))?;
        let seeder = bridge.seeder.clone();
        let greeted = runtime.block_on(async move { timeout(GREETING_TIME, seeder.greet()).await });
        match greeted.unwrap_or_else(|_| Err(Error::new(Code::Timeout, "connect: no answer"))) {
            Err(error) if !goes_on => return Err(error.context(url)),
            Err(error) => bridge.leech.hear(Heard::Lost(error)),
            Ok(()) => {}
        }
        Ok(Legacy { rpc, bridge })
    }

    /// What is known of the region.
    pub fn info(&self) -> &Info {
        &self.rpc.handle.client.info
    }

    /// Asks for bytes.
    pub fn submit(&self, request: Request) {
        self.rpc.handle.client.submit(request);
    }

    /// Says as much of a message as the source would understand.
    pub fn say(&self, message: &Message) {
        match message {
            Message::Track { attempt, region } => self.bridge.track(*attempt, *region),
            Message::Round { session, acknowledged } => {
                let (session, round) = (*session, acknowledged + 1);
                self.bridge.hear(Message::Dirty { session, round, pages: Runs::default() });
            }
            Message::Finalize { vote, .. } => self.bridge.vote(*vote),
            // The answer was lost with the process that waited for it.
            Message::Status { vote } => self.bridge.hear(aborted(*vote, false, "nobody knows what came of Sync")),
            Message::Taken { .. } => self.bridge.state().given = true,
            Message::Complete { vote } => self.bridge.complete(*vote),
            _ => {}
        }
    }

    /// Ends the connection, once what is being said last is answered.
    pub fn close(&self) {
        let handle = &self.rpc.handle;
        handle.client.closed.send_replace(true);
        let (seeder, goodbye) = (self.bridge.seeder.clone(), self.bridge.goodbye.clone());
        self.bridge.runtime.spawn(async move {
            let _said = goodbye.lock().await;
            seeder.end().await
        });
    }
}

impl Bridge {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn hear(&self, message: Message) {
        self.leech.hear(Heard::Message(message));
    }

    /// Has the source track, unless it is being asked.
    fn track(self: &Arc<Self>, attempt: Identity, region: Moved) {
        {
            let mut state = self.state();
            if let Some(tracked) = state.tracked.filter(|tracked| tracked.attempt == attempt) {
                drop(state);
                return self.hear(Message::Tracking { attempt, session: tracked.session, region });
            }
            if std::mem::replace(&mut state.asking, true) {
                return;
            }
        }
        let bridge = self.clone();
        self.runtime.spawn(async move {
            let tracked = bridge.seeder.track().await.and_then(|connection| Ok((connection, socket::random()?)));
            let mut state = bridge.state();
            state.asking = false;
            let message = match tracked {
                // It was lost again already: the answer is no more than that.
                Ok((connection, _)) if connection <= state.lost => return,
                Ok((connection, session)) => {
                    state.tracked = Some(Tracked { connection, attempt, session });
                    Message::Tracking { attempt, session, region }
                }
                Err(error) if error.code() == Code::Disconnected => return,
                Err(error) => Message::Refused { attempt, code: error.code(), reason: error.message().to_owned() },
            };
            drop(state);
            bridge.hear(message);
        });
    }

    /// Asks for the region; for each vote once.
    fn vote(self: &Arc<Self>, vote: Vote) {
        let tracked = {
            let mut state = self.state();
            let tracked = state.tracked.filter(|tracked| tracked.session == vote.session);
            let said = match (&state.voted, tracked) {
                (Some((voted, Outcome::Asking)), _) if *voted == vote => Some(Message::Pending { vote }),
                (Some((voted, Outcome::Answered(message))), _) if *voted == vote => Some(message.clone()),
                (_, None) => Some(aborted(vote, false, "the connection broke, and with it what was tracked")),
                _ => None,
            };
            match (said, tracked) {
                (Some(said), _) => {
                    drop(state);
                    return self.hear(said);
                }
                (None, Some(tracked)) => {
                    state.voted = Some((vote, Outcome::Asking));
                    tracked
                }
                (None, None) => return,
            }
        };
        let bridge = self.clone();
        self.runtime.spawn(async move {
            let message = match bridge.seeder.sync(tracked.connection, bridge.chunk).await {
                Synced::Given(offsets) => match dirty(&offsets, bridge.chunk, bridge.size) {
                    Ok(pages) => Message::Given { vote, dirty: Dirty::Pages(pages), payload: Vec::new() },
                    Err(error) => aborted(vote, false, error.message()),
                },
                Synced::Refused(error) => aborted(vote, true, error.message()),
                Synced::Unknown(error) => {
                    let reason = format!(
                        "what came of Sync is not known, so that the region is not taken: its app may have been stopped \
                         ({})",
                        error.message()
                    );
                    aborted(vote, false, &reason)
                }
            };
            {
                let mut state = bridge.state();
                match message {
                    Message::Given { .. } => state.given = true,
                    Message::Aborted { tracking: false, .. } => state.tracked = None,
                    _ => {}
                }
                state.voted = Some((vote, Outcome::Answered(message.clone())));
            }
            bridge.hear(message);
        });
    }

    /// Tells the source that all is here. What it says to that changes nothing: it keeps no record.
    fn complete(self: &Arc<Self>, vote: Vote) {
        if std::mem::replace(&mut self.state().closing, true) {
            return;
        }
        let (bridge, saying) = (self.clone(), self.goodbye.clone().try_lock_owned());
        self.runtime.spawn(async move {
            let _saying = saying;
            let closed = timeout(GOODBYE_TIME, bridge.seeder.close()).await;
            if !matches!(closed, Ok(Ok(()))) {
                tracing::warn!("the source did not say that it heard that its leecher has every byte");
            }
            bridge.hear(Message::Drained { vote });
        });
    }
}

/// Tells a bridge of its connection.
struct Tie(Weak<Bridge>);

impl Watch for Tie {
    fn connected(&self) -> u64 {
        let Some(bridge) = self.0.upgrade() else { return 0 };
        bridge.leech.hear(Heard::Connected);
        bridge.newest.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn lost(&self, connection: u64) {
        let Some(bridge) = self.0.upgrade() else { return };
        let ended = {
            let mut state = bridge.state();
            if connection <= state.lost {
                return;
            }
            state.lost = connection;
            // Whether what was written since is remembered nobody knows.
            let given = state.given;
            state.tracked.take_if(|tracked| !given && tracked.connection <= connection)
        };
        bridge.leech.hear(Heard::Lost(Error::new(Code::Disconnected, "the connection to the seeder was lost")));
        if let Some(Tracked { session, .. }) = ended {
            let vote = Vote { session, epoch: 0, ballot: 0 };
            bridge.hear(aborted(vote, false, "the connection broke, and with it what was tracked"));
        }
    }
}

fn aborted(vote: Vote, tracking: bool, reason: &str) -> Message {
    Message::Aborted { vote, epoch: 0, tracking, reason: reason.to_owned() }
}

/// What the identity of a region begins with that came from there: so another is not taken for it.
fn named(url: &str, size: u64) -> [u8; 8] {
    let place = url.split('?').next().unwrap_or(url);
    let mut name = [0; 8];
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"r3map legacy").update(place.as_bytes()).update(&size.to_le_bytes());
    hasher.finalize_xof().fill(&mut name);
    name
}

/// The pages of the blocks that begin at these offsets, in whatever order and however often they are named.
fn dirty(offsets: &[i64], chunk: u64, size: u64) -> Result<Runs> {
    let mut starts = Vec::with_capacity(offsets.len());
    for offset in offsets {
        let start = u64::try_from(*offset).ok().filter(|start| *start < size).ok_or_else(|| {
            let message = format!("the source says that it wrote a block at {offset}, and the region has {size} bytes");
            Error::new(Code::Corrupt, message)
        })?;
        starts.push(start / chunk * chunk);
    }
    starts.sort_unstable();
    starts.dedup();
    let mut runs = Runs::default();
    for start in starts {
        runs.push(start / PAGE..(start + chunk).min(size).div_ceil(PAGE));
    }
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_block_has_is_dirty_and_a_block_outside_is_no_answer() {
        let pages =
            |offsets: &[i64]| dirty(offsets, 65536, 100_000).map(|runs| runs.iter().cloned().collect::<Vec<_>>());
        assert_eq!(pages(&[]).unwrap(), []);
        assert_eq!(pages(&[4096, 0, 65535, 4096]).unwrap(), [0..16]);
        assert_eq!(pages(&[99_999, 0]).unwrap(), [0..25]);
        for wrong in [-1, 100_000, i64::MIN, i64::MAX] {
            assert_eq!(pages(&[0, wrong]).unwrap_err().code(), Code::Corrupt, "{wrong}");
        }
    }

    #[test]
    fn a_region_is_known_by_where_it_came_from() {
        assert_eq!(named("grpc://a:1?size=1&chunk=4KiB", 9), named("grpc://a:1?chunk=8KiB&size=1", 9));
        assert_ne!(named("grpc://a:1?size=1", 9), named("grpc://a:2?size=1", 9));
        assert_ne!(named("grpc://a:1?size=1", 9), named("grpc://a:1?size=1", 8));
    }
}
