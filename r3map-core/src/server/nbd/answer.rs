//! The replies to a client.

use std::ops::Range;
use std::sync::Arc;

use super::negotiation::ALLOCATION_ID;
use super::transmission::Connection;
use crate::backend::{Extent, Reply};
use crate::buffer::{Buffer, is_zero};
use crate::error::{Code, Error, Result};
use crate::wire::channel::{Packet, Payload};
use crate::wire::nbd::{
    CHUNK_SIZE, Chunk, Command, Request, chunks, command_flags, error_number, errors, reply, states,
};

/// Zeros in a reply that go as a hole begin and end at multiples of this.
const HOLE: usize = 64 << 10;
/// The longest message of an error.
const MOST_MESSAGE: usize = 1024;

impl Connection {
    /// Answers any request but for block status.
    pub(super) fn answer(&self, request: &Request, outcome: Result<Reply>) -> Result<()> {
        let data = match (request.command, outcome) {
            (_, Err(error)) => return self.refuse(request, &error),
            (Some(Command::Read), Ok(Reply::Data(data))) if data.len() == request.length as usize => Some(data),
            (Some(Command::Read), Ok(Reply::Zeroes)) => None,
            (Some(Command::Read), Ok(_)) => {
                let error = Error::new(Code::Internal, "a read was answered with another number of bytes");
                return self.refuse(request, &error);
            }
            (_, Ok(_)) => return self.channel.send(Packet::raw(&reply(request.cookie, 0), Payload::Empty)),
        };
        if self.structured {
            return self.answer_in_chunks(request, data);
        }
        let data = data.unwrap_or_else(|| Buffer::zeroed(request.length as usize));
        self.channel.send(Packet::raw(&reply(request.cookie, 0), Payload::Owned(data)))
    }

    fn refuse(&self, request: &Request, error: &Error) -> Result<()> {
        let number = match (request.command, error.code()) {
            (Some(Command::Write | Command::WriteZeroes), Code::OutOfRange) => errors::ENOSPC,
            _ => error_number(error),
        };
        if !self.structured {
            return self.channel.send(Packet::raw(&reply(request.cookie, number), Payload::Empty));
        }
        let message = error.message();
        let end = (0..=message.len().min(MOST_MESSAGE)).rev().find(|end| message.is_char_boundary(*end));
        let message = &message.as_bytes()[..end.unwrap_or(0)];
        let about = [&number.to_be_bytes()[..], &(message.len() as u16).to_be_bytes()].concat();
        self.send_chunk(request, chunks::ERROR, true, &about, Payload::Owned(Buffer::copy_of(message)), message.len())
    }

    /// Sends a chunk of a reply: its head, what it is about, and `length` bytes besides.
    fn send_chunk(
        &self,
        request: &Request,
        kind: u16,
        done: bool,
        about: &[u8],
        payload: Payload,
        length: usize,
    ) -> Result<()> {
        let chunk = Chunk { done, kind, cookie: request.cookie, length: (about.len() + length) as u32 };
        let mut head = [0; CHUNK_SIZE + 12];
        head[..CHUNK_SIZE].copy_from_slice(&chunk.encode());
        head[CHUNK_SIZE..CHUNK_SIZE + about.len()].copy_from_slice(about);
        self.channel.send(Packet::raw(&head[..CHUNK_SIZE + about.len()], payload))
    }

    /// Answers a read with bytes that nobody looks at on their way.
    pub(super) fn answer_from_file(&self, request: &Request) -> Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let range = request.offset..request.offset + u64::from(request.length);
        let payload = Payload::File(file.clone(), range);
        if !self.structured {
            return self.channel.send(Packet::raw(&reply(request.cookie, 0), payload));
        }
        let about = request.offset.to_be_bytes();
        self.send_chunk(request, chunks::OFFSET_DATA, true, &about, payload, request.length as usize)
    }

    /// Answers a read; no bytes are zeros.
    fn answer_in_chunks(&self, request: &Request, data: Option<Buffer>) -> Result<()> {
        let length = request.length as usize;
        let Some(data) = data.filter(|data| !is_zero(data)) else {
            return match length {
                0 => self.send_chunk(request, chunks::NONE, true, &[], Payload::Empty, 0),
                _ => self.send_hole(request, 0..length, true),
            };
        };
        let one_piece = length <= HOLE || request.has(command_flags::DF);
        let runs = if one_piece { Vec::new() } else { runs(&data, request.offset) };
        if runs.len() <= 1 {
            let about = request.offset.to_be_bytes();
            return self.send_chunk(request, chunks::OFFSET_DATA, true, &about, Payload::Owned(data), length);
        }
        let data = Arc::new(data);
        for (range, zero) in runs {
            let done = range.end == length;
            if zero {
                self.send_hole(request, range, done)?;
                continue;
            }
            let about = (request.offset + range.start as u64).to_be_bytes();
            let count = range.len();
            let payload = Payload::Part(data.clone(), range);
            self.send_chunk(request, chunks::OFFSET_DATA, done, &about, payload, count)?;
        }
        Ok(())
    }

    fn send_hole(&self, request: &Request, range: Range<usize>, done: bool) -> Result<()> {
        let mut about = [0; 12];
        about[..8].copy_from_slice(&(request.offset + range.start as u64).to_be_bytes());
        about[8..].copy_from_slice(&(range.len() as u32).to_be_bytes());
        self.send_chunk(request, chunks::OFFSET_HOLE, done, &about, Payload::Empty, 0)
    }

    /// Answers block status.
    pub(super) fn answer_extents(&self, request: &Request, outcome: Result<Vec<Extent>>) -> Result<()> {
        let extents = match outcome {
            Ok(extents) => extents,
            Err(error) => return self.refuse(request, &error),
        };
        let mut data = Vec::with_capacity(extents.len() * 8);
        for extent in extents {
            data.extend((extent.length as u32).to_be_bytes());
            data.extend((if extent.zero { states::ZERO | states::HOLE } else { 0 }).to_be_bytes());
        }
        let (about, count) = (ALLOCATION_ID.to_be_bytes(), data.len());
        self.send_chunk(request, chunks::BLOCK_STATUS, true, &about, Payload::Owned(Buffer::copy_of(&data)), count)
    }
}

/// The bytes of a read at `offset` as runs that are zeros or not.
fn runs(data: &[u8], offset: u64) -> Vec<(Range<usize>, bool)> {
    let mut runs: Vec<(Range<usize>, bool)> = Vec::new();
    let mut at = 0;
    while at < data.len() {
        let end = (at + HOLE - (offset as usize + at) % HOLE).min(data.len());
        let zero = is_zero(&data[at..end]);
        match runs.last_mut() {
            Some((run, kind)) if *kind == zero => run.end = end,
            _ => runs.push((at..end, zero)),
        }
        at = end;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_of_whole_blocks_of_the_region_are_runs_of_their_own() {
        let mut data = vec![1; 5 * HOLE];
        let start = HOLE / 2;
        data[..2 * HOLE - start].fill(0);
        data[3 * HOLE..].fill(0);
        let found = runs(&data, start as u64);
        let block = |number: usize| number * HOLE - start;
        assert_eq!(found, [(0..block(2), true), (block(2)..block(4), false), (block(4)..5 * HOLE, true)]);
        assert_eq!(runs(&[1; 100], 7), [(0..100, false)]);
        assert_eq!(runs(&[], 7), []);
    }
}
