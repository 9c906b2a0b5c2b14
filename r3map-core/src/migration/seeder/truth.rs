//! The bytes of what is seeded: one region, or several that move as one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::backend::{self, Backend, Completion, Info, Operation, Priority, Reply, Request};
use crate::buffer::Buffer;
use crate::cancel::{Limit, Waiter};
use crate::error::{Code, Error, Result};
use crate::migration::{Dirty, Runs, runs::MAX_ENCODED};
use crate::mount::seeding::Seeded;
use crate::page::PAGE;
use crate::wire::greeting::Moving;

/// One region, and where it begins among all.
struct Part {
    seeded: Seeded,
    start: u64,
    size: u64,
}

/// All of them, one behind the other, each from a whole page on.
pub struct Truth {
    parts: Vec<Part>,
    info: Info,
    served: AtomicU64,
}

impl Truth {
    /// These regions, one or more, in this order.
    pub fn new(parts: Vec<Seeded>) -> Result<Truth> {
        let infos: Vec<_> = parts.iter().map(|part| part.mount().info().clone()).collect();
        let sizes: Vec<_> = infos.iter().map(|info| info.size).collect();
        let total = Moving { epoch: 0, parts: sizes.clone() }.size().filter(|size| *size <= i64::MAX as u64);
        let size = total.ok_or_else(|| Error::new(Code::InvalidArgument, "seed: more bytes than can be counted"))?;
        let alignment = infos.iter().map(|info| info.alignment).max().unwrap_or(1);
        if infos.len() > 1 && u64::from(alignment) > PAGE {
            let message = format!("seed: requests must be multiples of {alignment} bytes, and a part begins at a page");
            return Err(Error::new(Code::Unsupported, message));
        }
        let names: Vec<_> = infos.iter().map(|info| &*info.name).collect();
        let info = Info {
            local: infos.iter().all(|info| info.local),
            read_only: true,
            alignment,
            chunk_size: infos.iter().map(|info| info.chunk_size).max().unwrap_or(4096),
            max_request: infos.iter().map(|info| info.max_request).min().unwrap_or(4096),
            ..Info::local(names.join(" and "), size)
        };
        let mut start = 0;
        let mut placed = Vec::new();
        for (seeded, size) in parts.into_iter().zip(sizes) {
            placed.push(Part { seeded, start, size });
            start = Moving::after(start, size).unwrap_or(u64::MAX);
        }
        Ok(Truth { parts: placed, info, served: AtomicU64::new(0) })
    }

    /// The size of each region in bytes.
    pub fn sizes(&self) -> Vec<u64> {
        self.parts.iter().map(|part| part.size).collect()
    }

    /// The mounts.
    pub fn seeded(&self) -> impl Iterator<Item = &Seeded> {
        self.parts.iter().map(|part| &part.seeded)
    }

    /// Bytes that were read here.
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// The round after the one acknowledged, over all parts; `None` if the question came late.
    pub fn round(&self, acknowledged: u64) -> Option<(u64, Runs)> {
        let mut number = 0;
        let runs = self.gather(|part| {
            let (round, pages) = part.seeded.tracker().round(acknowledged)?;
            number = round;
            Some(pages)
        })?;
        Some((number, runs))
    }

    /// What a destination lacks that has taken these rounds into account: all, where nobody knows.
    pub fn rest(&self, acknowledged: u64) -> Dirty {
        self.gather(|part| part.seeded.tracker().rest(acknowledged)).map_or(Dirty::All, Dirty::Pages)
    }

    /// Pages newly marked since tracking began.
    pub fn marked(&self) -> u64 {
        self.seeded().map(|seeded| seeded.tracker().marked()).sum()
    }

    /// The pages of all parts, as they count through them.
    fn gather(&self, mut of: impl FnMut(&Part) -> Option<Runs>) -> Option<Runs> {
        let mut all = Runs::default();
        for part in &self.parts {
            let runs = of(part)?;
            let first = part.start / PAGE;
            runs.iter().for_each(|run| all.push(run.start + first..run.end + first));
        }
        Some(all.joined(MAX_ENCODED))
    }

    /// The part that a range begins in, if it begins in one rather than behind its end, and how many bytes until
    /// that changes.
    fn piece(&self, offset: u64) -> (Option<&Part>, u64) {
        let index = self.parts.partition_point(|part| part.start <= offset) - 1;
        let part = &self.parts[index];
        let within = offset - part.start;
        if within < part.size {
            return (Some(part), part.size - within);
        }
        (None, self.parts.get(index + 1).map_or(u64::MAX, |next| next.start - offset))
    }

    /// Cuts a range at the parts; what lies behind a part's end is zeros.
    fn each_piece(
        &self,
        mut buffer: &mut [u8],
        mut offset: u64,
        mut read: impl FnMut(&Part, &mut [u8], u64) -> Option<Result<()>>,
    ) -> Option<Result<()>> {
        while !buffer.is_empty() {
            let (part, left) = self.piece(offset);
            let (head, rest) = buffer.split_at_mut(left.min(buffer.len() as u64) as usize);
            let length = head.len() as u64;
            match part {
                None => head.fill(0),
                Some(part) => {
                    if let Err(error) = read(part, head, offset - part.start)? {
                        return Some(Err(error));
                    }
                }
            }
            (buffer, offset) = (rest, offset + length);
        }
        Some(Ok(()))
    }

    fn read_waiting(&self, buffer: &mut [u8], offset: u64, deadline: Option<Instant>) -> Result<()> {
        let limit = Limit { deadline, cancel: None };
        let read = |part: &Part, buffer: &mut [u8], offset: u64| {
            if let Some(outcome) = part.seeded.try_read(buffer, offset) {
                return outcome;
            }
            let (waiter, notifier) = Waiter::new();
            part.seeded.submit(Request {
                operation: Operation::Read { offset, buffer: Buffer::new(buffer.len()) },
                priority: Priority::Demand,
                deadline,
                completion: Completion::new(move |outcome| notifier.notify(outcome)),
            });
            match waiter.wait(&limit.and_a_moment(), "read")?? {
                Reply::Data(data) if data.len() == buffer.len() => buffer.copy_from_slice(&data),
                Reply::Zeroes => buffer.fill(0),
                _ => return Err(backend::short_reply(&self.info)),
            }
            Ok(())
        };
        self.each_piece(buffer, offset, |part, buffer, offset| Some(read(part, buffer, offset))).unwrap_or(Ok(()))
    }

    fn refused(&self) -> Error {
        Error::new(Code::ReadOnly, format!("{}: what is seeded is not written by its destination", self.info.name))
    }
}

impl Backend for Truth {
    fn info(&self) -> &Info {
        &self.info
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.served.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        self.read_waiting(buffer, offset, None)
    }

    fn write_at(&self, _data: &[u8], _offset: u64) -> Result<()> {
        Err(self.refused())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    #[inline]
    fn try_read_at(&self, buffer: &mut [u8], offset: u64) -> Option<Result<()>> {
        let length = buffer.len() as u64;
        let outcome = match &self.parts[..] {
            [only] => only.seeded.try_read(buffer, offset),
            _ => self.each_piece(buffer, offset, |part, buffer, offset| part.seeded.try_read(buffer, offset)),
        }?;
        self.served.fetch_add(length, Ordering::Relaxed);
        Some(outcome)
    }

    fn submit(self: Arc<Self>, request: Request) {
        let Request { operation: Operation::Read { offset, mut buffer }, priority, deadline, completion } = request
        else {
            return request.completion.complete(Err(self.refused()));
        };
        self.served.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        if let [only] = &self.parts[..] {
            let operation = Operation::Read { offset, buffer };
            return only.seeded.submit(Request { operation, priority, deadline, completion });
        }
        backend::run_on_pool(move || {
            let read = self.read_waiting(&mut buffer, offset, deadline);
            drop(self);
            completion.complete(read.map(|()| Reply::Data(buffer)));
        });
    }
}
