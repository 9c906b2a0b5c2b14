//! The receiving side of a connection: frames out of a stream of bytes.

use std::io::IoSliceMut;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};

use crate::buffer::Buffer;
use crate::cancel::deadline_in;
use crate::error::{Code, Error, Result};
use crate::wire::channel::{Channel, ended};
use crate::wire::compress::unpack;
use crate::wire::{HEADER_LENGTH, Header};

/// Room for what arrives behind a frame: many small frames then cost one system call.
const AHEAD: usize = 16 << 10;
/// A checksum is taken over pieces that are still in the processor's cache when they arrived.
const PIECE: usize = 256 << 10;
/// From this length on a payload is waited for inside one system call.
const LONG: usize = 64 << 10;

/// What was received and not yet looked at.
pub struct Incoming {
    ahead: Box<[u8]>,
    start: usize,
    end: usize,
    /// When the frame that is being received must be complete.
    deadline: Option<Instant>,
    /// Which features both sides use: what is known here of frames that need one.
    features: u64,
}

impl Incoming {
    /// Nothing received yet.
    pub fn new() -> Incoming {
        Incoming { ahead: vec![0; AHEAD].into_boxed_slice(), start: 0, end: 0, deadline: None, features: 0 }
    }

    /// From here on frames of these features are known: both sides have agreed to them.
    pub fn agree(&mut self, features: u64) {
        self.features |= features;
    }

    /// The next header, or `None` when the peer ended its side between frames or the channel was stopped.
    /// The peer may be silent until `silence`; once a frame has begun, all of it must come `within` that
    /// time (zero: for ever).
    pub fn header(&mut self, channel: &Channel, silence: Option<Instant>, within: Duration) -> Result<Option<Header>> {
        let Some(bytes) = self.head::<HEADER_LENGTH>(channel, silence, within)? else { return Ok(None) };
        Header::decode_agreed(&bytes, self.features).map(Some)
    }

    /// The first `N` bytes of the next message of any protocol, otherwise as [`header`](Incoming::header).
    pub fn head<const N: usize>(
        &mut self,
        channel: &Channel,
        silence: Option<Instant>,
        within: Duration,
    ) -> Result<Option<[u8; N]>> {
        self.deadline = silence;
        let mut begun = false;
        loop {
            if channel.is_stopped() {
                return Ok(None);
            }
            if self.end > self.start && !begun {
                begun = true;
                let end = deadline_in(within);
                self.deadline = [silence, end].into_iter().flatten().min();
            }
            if let Some(bytes) = self.ahead[self.start..self.end].first_chunk::<N>() {
                self.start += N;
                return Ok(Some(*bytes));
            }
            self.ahead.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.receive(channel, &mut [])?.is_none() {
                return if begun { Err(ended()) } else { Ok(None) };
            }
        }
    }

    /// The next line, its end with it, no longer than `most`; otherwise as [`header`](Incoming::header).
    #[cfg(feature = "panrpc")]
    pub fn line(&mut self, channel: &Channel, most: usize, within: Duration) -> Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        self.deadline = None;
        while !channel.is_stopped() {
            let here = &self.ahead[self.start..self.end];
            if !here.is_empty() && line.is_empty() {
                self.deadline = deadline_in(within);
            }
            let end = here.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(here.len(), |end| end + 1);
            if line.len() + taken > most {
                return Err(Error::new(Code::InvalidArgument, format!("a line of more than {most} bytes")));
            }
            line.extend_from_slice(&here[..taken]);
            self.start += taken;
            if end.is_some() {
                return Ok(Some(line));
            }
            (self.start, self.end) = (0, 0);
            if self.receive(channel, &mut [])?.is_none() {
                return if line.is_empty() { Ok(None) } else { Err(ended()) };
            }
        }
        Ok(None)
    }

    /// Fills `into` with the payload of a frame, which is as long, and checks it.
    pub fn payload(&mut self, channel: &Channel, header: &Header, into: &mut [u8]) -> Result<()> {
        debug_assert_eq!(header.payload as usize, into.len());
        let mut crc = 0;
        self.fill_in_pieces(channel, into, |piece| crc = crc32c::crc32c_append(crc, piece))?;
        if crc != header.payload_crc {
            let message = format!("a frame was refused: the payload of {:?} fails the checksum", header.kind);
            return Err(Error::new(Code::Corrupt, message));
        }
        Ok(())
    }

    /// Fills `into` with what the payload of a frame stands for, which is as long as the frame's range, and checks it.
    pub fn unpacked(&mut self, channel: &Channel, header: &Header, into: &mut [u8]) -> Result<()> {
        let Some(packing) = header.packing() else { return self.payload(channel, header, into) };
        let mut packed = Buffer::new(header.payload as usize);
        self.payload(channel, header, &mut packed)?;
        unpack(packing, &packed, into, header.unpacked_crc)
    }

    /// Whether so many bytes are here already.
    pub fn has(&self, length: usize) -> bool {
        self.end - self.start >= length
    }

    /// Fills `into` with what comes next of a message.
    pub fn fill(&mut self, channel: &Channel, into: &mut [u8]) -> Result<()> {
        self.fill_in_pieces(channel, into, |_| {})
    }

    /// Fills `into` and shows each piece of it as soon as it is there.
    fn fill_in_pieces(&mut self, channel: &Channel, into: &mut [u8], mut seen: impl FnMut(&[u8])) -> Result<()> {
        let ahead = into.len().min(self.end - self.start);
        into[..ahead].copy_from_slice(&self.ahead[self.start..self.start + ahead]);
        self.start += ahead;
        let (mut filled, mut shown) = (ahead, 0);
        while filled < into.len() {
            if channel.is_stopped() {
                return Err(stopped());
            }
            let rest = &mut into[filled..];
            let may_sleep = self.deadline.is_none() && channel.secure().is_none() && !channel.is_backed_up();
            let count = if rest.len() >= LONG && may_sleep {
                let piece = rest.len().min(PIECE);
                receive_all(channel, &mut rest[..piece])?
            } else {
                self.receive(channel, rest)?
            };
            filled += count.ok_or_else(ended)?;
            if filled - shown >= PIECE {
                seen(&into[shown..filled]);
                shown = filled;
            }
        }
        seen(&into[shown..]);
        Ok(())
    }

    /// Throws the payload of a frame away.
    pub fn skip(&mut self, channel: &Channel, header: &Header) -> Result<()> {
        self.skip_bytes(channel, header.payload as usize)
    }

    /// Throws so many bytes away.
    pub fn skip_bytes(&mut self, channel: &Channel, mut left: usize) -> Result<()> {
        loop {
            let ahead = left.min(self.end - self.start);
            self.start += ahead;
            left -= ahead;
            if left == 0 {
                return Ok(());
            }
            if channel.is_stopped() {
                return Err(stopped());
            }
            (self.start, self.end) = (0, 0);
            self.receive(channel, &mut [])?.ok_or_else(ended)?;
        }
    }

    /// Receives into `into`, and what comes behind it into the buffer ahead, which is empty unless `into`
    /// is. Says how much of `into` was filled, or `None` at the end of the stream.
    fn receive(&mut self, channel: &Channel, into: &mut [u8]) -> Result<Option<usize>> {
        if !into.is_empty() {
            (self.start, self.end) = (0, 0);
        }
        loop {
            let wanted = into.len();
            let mut pieces = [IoSliceMut::new(into), IoSliceMut::new(&mut self.ahead[self.end..])];
            match channel.receive(&mut pieces)? {
                Some(0) => return Ok(None),
                Some(count) => {
                    self.end += count.saturating_sub(wanted);
                    return Ok(Some(count.min(wanted)));
                }
                None => {
                    channel.wait(true, self.deadline)?;
                    if channel.is_stopped() && into.is_empty() {
                        // The caller looks at what stopped it.
                        return Ok(Some(0));
                    }
                }
            }
        }
    }
}

/// Fills `into` and sleeps in the kernel until it has, where there is no deadline to keep and nothing to send
/// meanwhile: a thread that is woken for every piece of a payload spends as much on that as on the bytes. A
/// shutdown ends it. What another thread queues now goes out after at most this piece.
fn receive_all(channel: &Channel, into: &mut [u8]) -> Result<Option<usize>> {
    match recv(channel.socket().as_raw_fd(), into, MsgFlags::MSG_WAITALL) {
        Ok(0) => Ok(None),
        Ok(count) => {
            channel.received(count);
            Ok(Some(count))
        }
        Err(Errno::EINTR) => Ok(Some(0)),
        // A socket that was brought here may be one that does not block.
        Err(Errno::EAGAIN) => channel.wait(true, None).map(|()| Some(0)),
        Err(errno) => Err(Error::io("receive", errno.into())),
    }
}

fn stopped() -> Error {
    Error::new(Code::Closed, "the connection is closing")
}
