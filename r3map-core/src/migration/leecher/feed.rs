//! What a region that moves here is fed from: its source, or what lies here already where the source's hashes say
//! that it is the same.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::backend::remote::leech::Seed;
use crate::backend::{self, Backend, Completion, Info, Operation, Priority, Reply, Request};
use crate::buffer::Buffer;
use crate::error::{Code, Error, Result};
use crate::mapping::Words;
use crate::migration::home::Home;
use crate::migration::leecher::place::Place;
use crate::wire::header::{BLOCK, HASH};

/// The source's bytes of one part.
pub struct Feed {
    info: Info,
    seed: Arc<Seed>,
    place: Arc<Place>,
    /// Where the part begins among all parts, in bytes.
    start: u64,
    /// Blocks of which something lies here that may be alike: a bit each.
    candidates: Words,
    /// What came.
    pub figures: Figures,
}

/// What came from the source, in bytes.
#[derive(Default)]
pub struct Figures {
    /// Over the network.
    pub received: AtomicU64,
    /// Found to be here already.
    pub matched: AtomicU64,
    /// Whatever way, zeros too.
    pub landed: AtomicU64,
}

impl Feed {
    /// The bytes of a part of `size` bytes that begins at `start` among all parts.
    pub fn new(seed: Arc<Seed>, place: Arc<Place>, start: u64, size: u64) -> Result<Feed> {
        let info = Info { size, read_only: false, ..seed.info().clone() };
        let candidates = Words::zeroed(size.div_ceil(BLOCK).div_ceil(64) as usize)?;
        Ok(Feed { info, seed, place, start, candidates, figures: Figures::default() })
    }

    /// What lies here of these bytes may be alike: their hashes are asked for before they are.
    pub fn propose(&self, bytes: Range<u64>) {
        // A hash is of a whole block among all parts.
        if self.start % BLOCK == 0 {
            for block in bytes.start / BLOCK..bytes.end.div_ceil(BLOCK) {
                self.candidates[(block / 64) as usize].fetch_or(1 << (block % 64), Ordering::SeqCst);
            }
        }
    }

    fn is_proposed(&self, block: u64) -> bool {
        self.candidates[(block / 64) as usize].load(Ordering::SeqCst) >> (block % 64) & 1 == 1
    }

    /// Whether hashes are worth asking for; what is asked about is no candidate any more.
    fn take_proposed(&self, bytes: &Range<u64>) -> Vec<bool> {
        let whole = bytes.start % BLOCK == 0 && (bytes.end % BLOCK == 0 || bytes.end == self.info.size);
        let blocks = bytes.start / BLOCK..bytes.end.div_ceil(BLOCK);
        if !whole || !blocks.clone().any(|block| self.is_proposed(block)) {
            return Vec::new();
        }
        let take = |block: u64| {
            let bit = 1 << (block % 64);
            self.candidates[(block / 64) as usize].fetch_and(!bit, Ordering::SeqCst) & bit != 0
        };
        blocks.map(take).collect()
    }

    fn fetch(
        self: Arc<Self>,
        offset: u64,
        buffer: Buffer,
        priority: Priority,
        until: Option<Instant>,
        then: Completion,
    ) {
        let length = buffer.len() as u64;
        let operation = Operation::Read { offset: self.start + offset, buffer };
        let feed = self.clone();
        let completion = Completion::new(move |outcome| {
            if let Ok(reply) = &outcome {
                feed.figures.landed.fetch_add(length, Ordering::Relaxed);
                if matches!(reply, Reply::Data(_)) {
                    feed.figures.received.fetch_add(length, Ordering::Relaxed);
                }
            }
            then.complete(outcome);
        });
        self.seed.read(operation, priority, until, completion);
    }

    /// Compares what lies here with the source's hashes and asks for what differs.
    fn compared(self: Arc<Self>, asked: Asked, hashes: &[u8]) {
        let Asked { offset, mut buffer, proposed, priority, deadline, completion } = asked;
        if let Err(error) = self.place.read(&mut buffer, offset) {
            return completion.complete(Err(error));
        }
        let differs: Vec<bool> = buffer
            .chunks(BLOCK as usize)
            .zip(hashes.chunks(HASH as usize))
            .zip(&proposed)
            .map(|((bytes, hash), proposed)| !proposed || blake3::hash(bytes).as_bytes() != hash)
            .collect();
        let length = buffer.len() as u64;
        let (first, last) = (differs.iter().position(|differs| *differs), differs.iter().rposition(|differs| *differs));
        let (Some(first), Some(last)) = (first, last) else {
            self.figures.matched.fetch_add(length, Ordering::Relaxed);
            self.figures.landed.fetch_add(length, Ordering::Relaxed);
            return completion.complete(Ok(Reply::Done));
        };
        let span = first as u64 * BLOCK..((last as u64 + 1) * BLOCK).min(length);
        let alike = length - (span.end - span.start);
        let room = Buffer::new((span.end - span.start) as usize);
        let feed = self.clone();
        let assembled = Completion::new(move |outcome| {
            let part = &mut buffer[span.start as usize..span.end as usize];
            let filled = outcome.and_then(|reply| match reply {
                Reply::Data(data) if data.len() == part.len() => {
                    part.copy_from_slice(&data);
                    Ok(())
                }
                Reply::Zeroes => {
                    part.fill(0);
                    Ok(())
                }
                _ => Err(backend::short_reply(&feed.info)),
            });
            if filled.is_ok() {
                feed.figures.matched.fetch_add(alike, Ordering::Relaxed);
                feed.figures.landed.fetch_add(alike, Ordering::Relaxed);
            }
            completion.complete(filled.map(|()| Reply::Data(buffer)));
        });
        self.fetch(offset + first as u64 * BLOCK, room, priority, deadline, assembled);
    }
}

/// A range whose hashes were asked for.
struct Asked {
    offset: u64,
    buffer: Buffer,
    /// Which of its blocks may be alike.
    proposed: Vec<bool>,
    priority: Priority,
    deadline: Option<Instant>,
    completion: Completion,
}

impl Backend for Feed {
    fn info(&self) -> &Info {
        &self.info
    }

    fn read_at(&self, _buffer: &mut [u8], _offset: u64) -> Result<()> {
        Err(self.unused("read in place"))
    }

    fn write_at(&self, _data: &[u8], _offset: u64) -> Result<()> {
        Err(self.unused("written to"))
    }

    fn sync(&self) -> Result<()> {
        Err(self.unused("synced"))
    }

    fn submit(self: Arc<Self>, request: Request) {
        let Request { operation, priority, deadline, completion } = request;
        let Operation::Read { offset, buffer } = operation else {
            return completion.complete(Err(self.unused("written to")));
        };
        let length = buffer.len() as u64;
        let proposed = self.take_proposed(&(offset..offset + length));
        if proposed.is_empty() {
            return self.fetch(offset, buffer, priority, deadline, completion);
        }
        let (feed, range) = (self.clone(), (self.start + offset, length));
        let asked = Asked { offset, buffer, proposed, priority, deadline, completion };
        let compare = Completion::new(move |outcome| match outcome {
            // Hashing takes its time, which the thread that receives has not.
            Ok(Reply::Data(hashes)) => backend::run_on_pool(move || feed.compared(asked, &hashes)),
            Ok(_) => asked.completion.complete(Err(backend::short_reply(&feed.info))),
            Err(error) => {
                feed.propose(offset..offset + length);
                asked.completion.complete(Err(error));
            }
        });
        self.seed.digest(range, priority, deadline, compare);
    }

    fn home(&self) -> Option<Arc<Home>> {
        Some(self.place.home().clone())
    }
}

impl Feed {
    fn unused(&self, how: &str) -> Error {
        Error::new(Code::Internal, format!("{}: the source of a region is not {how}", self.info.name))
    }
}
