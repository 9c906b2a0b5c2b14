//! The two buffers of a serving thread: what came from the kernel, and what goes back to it.
//!
//! Both are mapped, touched and locked before the device exists: a serving thread that waited for memory
//! could wait for the kernel to write pages back through that very thread.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use memmap2::{MmapMut, MmapOptions};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};

use crate::wire::nbd::{REPLY_SIZE, REQUEST_SIZE, Request, reply};

/// Room for the longest request the kernel is set to make, and a batch of small ones besides.
const CAPACITY: usize = (1 << 20) + (256 << 10);

fn memory(length: usize) -> io::Result<MmapMut> {
    let memory = MmapOptions::new().len(length).populate().map_anon()?;
    // Without the right to lock this much it may be paged out, which costs a guarantee but works.
    let _ = memory.lock();
    Ok(memory)
}

/// Bytes received and not yet taken.
pub struct Input {
    memory: MmapMut,
    start: usize,
    end: usize,
}

impl Input {
    /// An empty one.
    pub fn new() -> io::Result<Input> {
        Ok(Input { memory: memory(CAPACITY)?, start: 0, end: 0 })
    }

    /// How many bytes are here.
    pub fn available(&self) -> usize {
        self.end - self.start
    }

    /// Receives until `length` bytes are here; `false` if the other side closed first.
    pub fn fill(&mut self, socket: &OwnedFd, length: usize) -> io::Result<bool> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if self.start + length > self.memory.len() {
            self.make_room(length)?;
        }
        while self.available() < length {
            // A header brings along whatever came behind it; a known remainder is waited for in one call.
            let (until, flags) = match self.available() {
                0 => (self.memory.len(), MsgFlags::empty()),
                _ => (self.start + length, MsgFlags::MSG_WAITALL),
            };
            match recv(socket.as_raw_fd(), &mut self.memory[self.end..until], flags) {
                Ok(0) => return Ok(false),
                Ok(count) => self.end += count,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(true)
    }

    fn make_room(&mut self, length: usize) -> io::Result<()> {
        if length > self.memory.len() {
            let mut larger = memory(length)?;
            larger[..self.available()].copy_from_slice(&self.memory[self.start..self.end]);
            self.memory = larger;
        } else {
            self.memory.copy_within(self.start..self.end, 0);
        }
        (self.start, self.end) = (0, self.end - self.start);
        Ok(())
    }

    /// Takes a request; fails if the bytes here are none. At least `REQUEST_SIZE` of them are.
    pub fn take_request(&mut self) -> io::Result<Request> {
        let mut bytes = [0; REQUEST_SIZE];
        bytes.copy_from_slice(self.bytes(REQUEST_SIZE));
        self.take(REQUEST_SIZE);
        Request::parse(&bytes).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no NBD request"))
    }

    /// The next `length` bytes, which are here.
    pub fn bytes(&self, length: usize) -> &[u8] {
        &self.memory[self.start..self.end][..length]
    }

    /// Done with `length` bytes.
    pub fn take(&mut self, length: usize) {
        self.start += length;
    }
}

/// Replies not yet sent.
pub struct Output {
    memory: MmapMut,
    used: usize,
}

impl Output {
    /// An empty one.
    pub fn new() -> io::Result<Output> {
        Ok(Output { memory: memory(CAPACITY)?, used: 0 })
    }

    /// Whether a reply with so much payload finds room.
    pub fn has_room(&self, payload: usize) -> bool {
        self.used + REPLY_SIZE + payload <= self.memory.len()
    }

    /// Makes room for a reply with so much payload in an empty buffer.
    pub fn grow(&mut self, payload: usize) -> io::Result<()> {
        if !self.has_room(payload) {
            self.memory = memory(REPLY_SIZE + payload)?;
        }
        Ok(())
    }

    /// Where the payload of the next reply goes; there is room for it.
    pub fn payload(&mut self, length: usize) -> &mut [u8] {
        &mut self.memory[self.used + REPLY_SIZE..][..length]
    }

    /// Adds a successful reply with the payload that was put in place.
    pub fn push(&mut self, cookie: [u8; 8], payload: usize) {
        self.memory[self.used..][..REPLY_SIZE].copy_from_slice(&reply(cookie, 0));
        self.used += REPLY_SIZE + payload;
    }

    /// What is to be sent.
    pub fn pending(&self) -> &[u8] {
        &self.memory[..self.used]
    }

    /// All of it was sent.
    pub fn clear(&mut self) {
        self.used = 0;
    }
}
