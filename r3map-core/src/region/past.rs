//! Reads that go past a store which takes or gives no bytes: what is not here comes from the backend and is not kept.

use std::ops::Range;
use std::sync::Arc;

use crate::backend::{Completion, Operation, Priority, Reply, Request, short_reply};
use crate::buffer::Buffer;
use crate::error::Result;
use crate::page::{PAGE, Set, State};
use crate::region::{LONGEST_FETCH, Region, Wait};

/// What the backend has just as well.
const THERE: Set = Set::of(&[State::Absent, State::Fetching, State::Clean, State::Zero, State::Evicting]);

/// A read on its way, up to `at` done.
struct Past {
    buffer: Buffer,
    offset: u64,
    at: u64,
    wait: Wait,
}

impl Region {
    /// Reads what the store gives, and from the backend what it does not.
    pub(super) fn read_past(self: &Arc<Self>, buffer: Buffer, offset: u64, wait: Wait) {
        self.go_past(Past { buffer, offset, at: offset, wait });
    }

    fn go_past(self: &Arc<Self>, mut past: Past) {
        let end = past.offset + past.buffer.len() as u64;
        while past.at < end {
            let page = past.at / PAGE;
            let until = end.min((page + 1) * PAGE);
            let part = (past.at - past.offset) as usize..(until - past.offset) as usize;
            match self.try_read(&mut past.buffer[part], past.at) {
                Some(Ok(())) => past.at = until,
                Some(Err(error)) if !THERE.has(self.settled(page)) => {
                    return past.wait.completion.complete(Err(error));
                }
                _ => return self.ask_past(page..end.div_ceil(PAGE), past),
            }
        }
        past.wait.completion.complete(Ok(Reply::Data(past.buffer)));
    }

    /// Asks the backend for the first pages of a run as far as it has them as well.
    fn ask_past(self: &Arc<Self>, pages: Range<u64>, mut past: Past) {
        let longest = (u64::from(self.info.max_request.min(self.info.chunk_size)) / PAGE).clamp(1, LONGEST_FETCH);
        let stop = pages.end.min(pages.start + longest);
        let run = self.states.next_run(pages.start..stop, THERE).filter(|run| run.start == pages.start);
        let Some(run) = run else {
            // It was written meanwhile, and is here.
            return self.go_past(past);
        };
        let bytes = self.bytes_of(&run);
        let deadline = past.wait.deadline;
        let region = self.clone();
        let completion = Completion::new(move |outcome: Result<Reply>| {
            let end = (past.offset + past.buffer.len() as u64).min(bytes.end);
            let part = (past.at - past.offset) as usize..(end - past.offset) as usize;
            let skip = (past.at - bytes.start) as usize;
            match outcome {
                Ok(Reply::Data(data)) if data.len() as u64 == bytes.end - bytes.start => {
                    let length = part.len();
                    past.buffer[part].copy_from_slice(&data[skip..skip + length]);
                }
                Ok(Reply::Zeroes) => past.buffer[part].fill(0),
                Ok(_) => return past.wait.completion.complete(Err(short_reply(&region.info))),
                Err(error) => return past.wait.completion.complete(Err(error)),
            }
            past.at = end;
            region.go_past(past);
        });
        let buffer = Buffer::new((self.bytes_of(&run).end - run.start * PAGE) as usize);
        let operation = Operation::Read { offset: run.start * PAGE, buffer };
        self.backend.clone().submit(Request { operation, priority: Priority::Demand, deadline, completion });
    }
}
