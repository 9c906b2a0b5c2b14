//! What a server answers.

use super::client::Client;
use super::link::{Asked, Body};
use crate::backend::link::{Asked as _, Link, Protocol, Sent};
use crate::backend::{Extent, Reply};
use crate::buffer::Buffer;
use crate::error::{Code, Error, Result};
use crate::wire::channel::Channel;
use crate::wire::incoming::Incoming;
use crate::wire::nbd::handshake::{self, Fields};
use crate::wire::nbd::{
    CHUNK_MAGIC, CHUNK_SIZE, Chunk, Command, MOST_PAYLOAD, MOST_TEXT, REPLY_MAGIC, REPLY_SIZE, chunks, error_of,
    errors, states,
};
use std::time::Duration;

/// The most pieces of a read that may be here while others between them are not.
const MOST_GAPS: usize = 4096;
/// The longest answer to block status.
const MOST_STATUS: u32 = 1 << 20;

/// Which bytes of a read are here: ranges in order that do not touch.
#[derive(Default)]
pub struct Filled {
    ranges: Vec<(u32, u32)>,
    /// Whether some of them are not zeros.
    has_data: bool,
}

impl Filled {
    /// Bytes arrived; none of them may have before.
    fn add(&mut self, start: u32, length: u32) -> Result<()> {
        let end = start + length;
        // The first that is not wholly before it.
        let at = self.ranges.partition_point(|range| range.1 <= start);
        let next = self.ranges.get(at).map(|range| range.0);
        if next.is_some_and(|next| next < end) {
            return Err(corrupt("the same bytes twice"));
        }
        match (at > 0 && self.ranges[at - 1].1 == start, next == Some(end)) {
            (true, true) => self.ranges[at - 1].1 = self.ranges.remove(at).1,
            (true, false) => self.ranges[at - 1].1 = end,
            (false, true) => self.ranges[at].0 = start,
            _ if self.ranges.len() == MOST_GAPS => return Err(corrupt("a read in too many pieces")),
            _ => self.ranges.insert(at, (start, end)),
        }
        Ok(())
    }

    /// The reply, if all of the bytes are here.
    pub fn reply(self, buffer: Option<Buffer>, length: u32) -> Result<Reply> {
        if self.ranges != [(0, length)] {
            return Err(corrupt("a read with some of its bytes missing"));
        }
        match buffer {
            Some(buffer) if self.has_data => Ok(Reply::Data(buffer)),
            _ => Ok(Reply::Zeroes),
        }
    }
}

fn corrupt(what: &str) -> Error {
    Error::new(Code::Corrupt, format!("the server answered what makes no sense: {what}"))
}

impl Link<Client> {
    /// Receives a reply or a chunk of one.
    pub(super) fn receive(&self, client: &Client, channel: &Channel, incoming: &mut Incoming) -> Result<()> {
        let head = incoming.head::<REPLY_SIZE>(channel, None, Duration::ZERO)?;
        let head = head.ok_or_else(|| Error::new(Code::Disconnected, "the connection was closed"))?;
        let mut fields = Fields(&head);
        match (fields.u32()?, client.agreed().structured) {
            (REPLY_MAGIC, _) => {
                let (error, number) = (fields.u32()?, fields.u64()?);
                self.take_simple(client, channel, incoming, (number, error))
            }
            (CHUNK_MAGIC, true) => {
                let mut whole = [0; CHUNK_SIZE];
                whole[..REPLY_SIZE].copy_from_slice(&head);
                incoming.fill(channel, &mut whole[REPLY_SIZE..])?;
                let chunk = Chunk::parse(&whole).ok_or_else(|| corrupt("another magic"))?;
                let number = u64::from_be_bytes(chunk.cookie);
                self.take_chunk(channel, incoming, number, &chunk)?;
                if chunk.done { self.finish(client, number) } else { Ok(()) }
            }
            _ => Err(corrupt("something that begins as no reply does")),
        }
    }

    fn take_simple(
        &self,
        client: &Client,
        channel: &Channel,
        incoming: &mut Incoming,
        (number, error): (u64, u32),
    ) -> Result<()> {
        if error == errors::ESHUTDOWN {
            return Err(error_of(error, "the server", ""));
        }
        let length = self.with(number, |asked| {
            if error != 0 {
                asked.failure = Some(error_of(error, asked.what(), ""));
            }
            if asked.command == Command::Read { Some(asked.length) } else { None }
        });
        match length {
            // Requests that were given up and whose replies have bytes end the connection.
            None => Ok(()),
            Some(Some(_)) if client.agreed().structured && error == 0 => Err(corrupt("a read without chunks")),
            Some(Some(length)) if error == 0 => {
                self.take_data(channel, incoming, number, 0..length)?;
                self.finish(client, number)
            }
            Some(_) => self.finish(client, number),
        }
    }

    fn take_chunk(&self, channel: &Channel, incoming: &mut Incoming, number: u64, chunk: &Chunk) -> Result<()> {
        if chunk.length as usize > MOST_PAYLOAD + 8 {
            return Err(corrupt("a chunk of more bytes than anybody asks for"));
        }
        let known = self.with(number, |asked| (asked.command, asked.offset, asked.length));
        // Nobody waits for the answer to a request that was given up.
        let Some((command, offset, length)) = known else {
            return incoming.skip_bytes(channel, chunk.length as usize);
        };
        match (chunk.kind, command) {
            (chunks::NONE, _) if chunk.done && chunk.length == 0 => Ok(()),
            (chunks::OFFSET_DATA, Command::Read) if chunk.length > 8 => {
                let at = read_u64(channel, incoming)?;
                let range = inside(at, chunk.length - 8, offset, length)?;
                self.take_data(channel, incoming, number, range)
            }
            (chunks::OFFSET_HOLE, Command::Read) if chunk.length == 12 => {
                let at = read_u64(channel, incoming)?;
                let mut count = [0; 4];
                incoming.fill(channel, &mut count)?;
                let range = inside(at, u32::from_be_bytes(count), offset, length)?;
                self.with(number, |asked| take_hole(asked, range)).unwrap_or(Ok(()))
            }
            (chunks::BLOCK_STATUS, Command::BlockStatus) if chunk.length <= MOST_STATUS => {
                let mut bytes = vec![0; chunk.length as usize];
                incoming.fill(channel, &mut bytes)?;
                let extents = parse_extents(&bytes, length.into())?;
                self.with(number, |asked| {
                    if let Body::Status(found) = &asked.body {
                        *found.lock().unwrap_or_else(|e| e.into_inner()) = extents;
                    }
                });
                Ok(())
            }
            (kind, _) if kind & chunks::ERROR >= 1 << 15 => {
                if chunk.length as usize > MOST_TEXT + 14 {
                    return Err(corrupt("an error with an endless message"));
                }
                let mut bytes = vec![0; chunk.length as usize];
                incoming.fill(channel, &mut bytes)?;
                let (error, why) = parse_error(&bytes)?;
                if error == errors::ESHUTDOWN {
                    return Err(error_of(error, "the server", why));
                }
                self.with(number, |asked| {
                    let error = error_of(error, asked.what(), why);
                    asked.failure.get_or_insert(error);
                });
                Ok(())
            }
            (kind, command) => Err(corrupt(&format!("a chunk of kind {kind} for a {}", command.name()))),
        }
    }

    /// Receives some bytes of a read.
    fn take_data(
        &self,
        channel: &Channel,
        incoming: &mut Incoming,
        number: u64,
        range: std::ops::Range<u32>,
    ) -> Result<()> {
        let room = self.with(number, |asked| match &mut asked.body {
            Body::Read(room, filled) => {
                filled.add(range.start, range.end - range.start)?;
                filled.has_data = true;
                Ok(room.take())
            }
            _ => Ok(None),
        });
        let Some(mut buffer) = room.transpose()?.flatten() else {
            return incoming.skip_bytes(channel, (range.end - range.start) as usize);
        };
        let received = incoming.fill(channel, &mut buffer[range.start as usize..range.end as usize]);
        // Back for the next piece, or for the next connection.
        self.with(number, |asked| {
            if let Body::Read(room, _) = &mut asked.body {
                *room = Some(buffer);
            }
        });
        received
    }

    /// Completes a request, if somebody still waits for it.
    fn finish(&self, client: &Client, number: u64) -> Result<()> {
        let Some(Sent { mut asked, completion, .. }) = self.answered(number) else { return Ok(()) };
        let acknowledged = match asked.failure.take() {
            Some(error) => Err(error),
            None => client.acknowledged((asked.command, &asked.body)),
        };
        let outcome = acknowledged.and_then(|()| match asked.body {
            Body::Read(buffer, filled) => filled.reply(buffer, asked.length),
            Body::Status(ref found) if found.lock().unwrap_or_else(|e| e.into_inner()).is_empty() => {
                Err(Error::new(Code::Corrupt, "the server answered block status with nothing"))
            }
            _ => Ok(Reply::Done),
        });
        let broken = outcome.as_ref().err().filter(|error| error.code() == Code::Corrupt).cloned();
        completion.complete(outcome.map_err(|error| error.context(&client.info().name)));
        // Whoever answers so is not to be trusted with what comes next.
        broken.map_or(Ok(()), Err)
    }
}

fn take_hole(asked: &mut Asked, range: std::ops::Range<u32>) -> Result<()> {
    let Body::Read(Some(buffer), filled) = &mut asked.body else { return Ok(()) };
    filled.add(range.start, range.end - range.start)?;
    // All of it being a hole, none of it need be touched.
    if range.end - range.start < asked.length {
        buffer[range.start as usize..range.end as usize].fill(0);
        filled.has_data = true;
    }
    Ok(())
}

fn read_u64(channel: &Channel, incoming: &mut Incoming) -> Result<u64> {
    let mut bytes = [0; 8];
    incoming.fill(channel, &mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}

/// Where bytes at an offset lie in a request.
fn inside(at: u64, count: u32, offset: u64, length: u32) -> Result<std::ops::Range<u32>> {
    let start = at.checked_sub(offset).filter(|start| *start < u64::from(length));
    let start = start.ok_or_else(|| corrupt("bytes that were not asked for"))? as u32;
    match start.checked_add(count) {
        Some(end) if count > 0 && end <= length => Ok(start..end),
        _ => Err(corrupt("more bytes than were asked for")),
    }
}

/// What a server says of a range of so many bytes.
fn parse_extents(bytes: &[u8], length: u64) -> Result<Vec<Extent>> {
    let mut fields = Fields(bytes);
    let wrong = |_| corrupt("block status that is cut short");
    fields.u32().map_err(wrong)?;
    let (mut extents, mut left) = (Vec::new(), length);
    while !fields.0.is_empty() {
        let (count, flags) = (fields.u32().map_err(wrong)?, fields.u32().map_err(wrong)?);
        if count == 0 {
            return Err(corrupt("an extent of no bytes"));
        }
        // The last may reach past what was asked for.
        let count = u64::from(count).min(left);
        if count > 0 {
            extents.push(Extent { length: count, zero: flags & states::ZERO != 0 });
        }
        left -= count;
    }
    Ok(extents)
}

/// The number and the message of an error.
fn parse_error(bytes: &[u8]) -> Result<(u32, &str)> {
    let mut fields = Fields(bytes);
    let wrong = |_| corrupt("an error that is cut short");
    let (number, length) = (fields.u32().map_err(wrong)?, fields.u16().map_err(wrong)?);
    if number == 0 {
        return Err(corrupt("an error that is none"));
    }
    let message = fields.take(length.into()).map_err(wrong)?;
    Ok((number, handshake::text(message).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pieces_of_a_read_come_in_any_order_and_none_twice() {
        let mut filled = Filled::default();
        for (start, length) in [(30, 10), (0, 10), (50, 50), (10, 20), (40, 10)] {
            filled.add(start, length).unwrap();
        }
        assert_eq!(filled.ranges, [(0, 100)]);
        for (start, length) in [(0, 1), (99, 1), (0, 100), (50, 100), (20, 5)] {
            assert!(filled.add(start, length).is_err(), "{start} {length}");
        }
        let mut gaps = Filled::default();
        gaps.add(10, 10).unwrap();
        gaps.add(30, 10).unwrap();
        assert!(gaps.add(5, 10).is_err() && gaps.add(15, 1).is_err() && gaps.add(15, 20).is_err());
        assert!(gaps.add(20, 11).is_err() && gaps.add(0, 100).is_err());
        assert!(gaps.reply(None, 40).is_err());
    }

    #[test]
    fn any_set_of_pieces_ends_as_a_plain_map_of_bytes_would() {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut random = |most: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) % most
        };
        for _ in 0..2000 {
            let (mut filled, mut plain) = (Filled::default(), [false; 64]);
            for _ in 0..random(40) {
                let start = random(64);
                let length = 1 + random(64 - start).min(1 + random(8));
                let range = start as usize..(start + length) as usize;
                let free = plain[range.clone()].iter().all(|taken| !taken);
                assert_eq!(filled.add(start as u32, length as u32).is_ok(), free);
                if free {
                    plain[range].fill(true);
                }
            }
            let mut bytes = [false; 64];
            filled.ranges.iter().for_each(|(start, end)| bytes[*start as usize..*end as usize].fill(true));
            assert_eq!(bytes, plain);
            assert!(filled.ranges.windows(2).all(|pair| pair[0].1 < pair[1].0));
        }
    }

    #[test]
    fn bytes_outside_of_what_was_asked_for_are_refused() {
        assert_eq!(inside(1000, 24, 1000, 24).unwrap(), 0..24);
        assert_eq!(inside(1010, 4, 1000, 24).unwrap(), 10..14);
        for (at, count) in [(999, 1), (1000, 25), (1024, 1), (1010, 0), (u64::MAX, 1), (1023, u32::MAX)] {
            assert!(inside(at, count, 1000, 24).is_err(), "{at} {count}");
        }
    }

    #[test]
    fn extents_are_cut_at_the_end_of_the_range_and_lies_are_refused() {
        let status = |extents: &[[u32; 2]]| {
            let mut bytes = vec![0, 0, 0, 1];
            extents.iter().flatten().for_each(|number| bytes.extend(number.to_be_bytes()));
            bytes
        };
        let found = parse_extents(&status(&[[10, 3], [20, 0], [u32::MAX, 2]]), 40).unwrap();
        let found: Vec<_> = found.iter().map(|extent| (extent.length, extent.zero)).collect();
        assert_eq!(found, [(10, true), (20, false), (10, true)]);
        assert!(parse_extents(&status(&[[0, 0]]), 40).is_err());
        let good = status(&[[10, 0]]);
        assert!((0..good.len()).all(|end| end == 4 || parse_extents(&good[..end], 40).is_err()));
        assert!(parse_error(b"\0\0\0\x05\0\x04oops").is_ok());
        for wrong in [&b"\0\0\0\x05\0\x09oops"[..], b"\0\0\0\0\0\0", b"\0\0"] {
            assert!(parse_error(wrong).is_err());
        }
    }
}
