//! One descriptor of `/dev/fuse`: requests come out of it, replies go into it whole.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::wire::{self, Attributes, Body, HEAD, Head};
use crate::error::{Code, Error, Result};

/// As much as the kernel moves in one request unless an administrator raised `fs.fuse.max_pages_limit`.
const LONGEST: usize = 1 << 20;
/// What a read of the device must have room for at least.
const SMALLEST_BUFFER: usize = 8192;
/// Read-ahead and write-back requests under way at once: enough to fill a long line, and with the buffers of the
/// serving threads no more of the longest than are kept for reuse.
pub const BACKGROUND: u16 = 30;

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// `FUSE_DEV_IOC_CLONE`
const CLONE_DEVICE: libc::Ioctl = 0x8004_e500u32 as libc::Ioctl;

/// A descriptor of `/dev/fuse`. A request is answered on the one it was read from.
pub struct Channel {
    device: File,
}

/// The body of a reply.
pub enum Answer<'a> {
    Nothing,
    Fields(Body),
    Bytes(&'a [u8]),
    Zeros(usize),
}

impl Channel {
    pub fn new(device: File) -> Channel {
        Channel { device }
    }

    /// Another queue of the same connection, for one more thread.
    pub fn duplicate(&self) -> io::Result<Channel> {
        let device = File::options().read(true).write(true).open("/dev/fuse")?;
        let mut original = self.device.as_raw_fd() as u32;
        // SAFETY: the ioctl reads one u32, which lives here; both descriptors are open.
        match unsafe { libc::ioctl(device.as_raw_fd(), CLONE_DEVICE, &raw mut original) } {
            0 => Ok(Channel { device }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Waits for a request: header and fixed part to `head`, the data of a WRITE to `data`. Tells how many
    /// bytes came.
    pub fn receive(&self, head: &mut [u8; HEAD], data: &mut [u8]) -> io::Result<usize> {
        (&self.device).read_vectored(&mut [IoSliceMut::new(head), IoSliceMut::new(data)])
    }

    /// Answers a request. One that the kernel gave up meanwhile needs no answer.
    pub fn reply(&self, unique: u64, outcome: Result<Answer<'_>, i32>) {
        let (errno, answer) = match outcome {
            Ok(answer) => (0, answer),
            Err(errno) => (errno, Answer::Nothing),
        };
        let sent = match answer {
            Answer::Nothing => self.send(unique, errno, &[]),
            Answer::Fields(body) => self.send(unique, 0, body.bytes()),
            Answer::Bytes(bytes) => self.send(unique, 0, bytes),
            Answer::Zeros(length) => self.send_zeros(unique, length),
        };
        match sent.as_ref().map_err(io::Error::raw_os_error) {
            Ok(_) | Err(Some(libc::ENOENT | libc::ENODEV | libc::EPERM | libc::ECONNABORTED)) => (),
            Err(_) => tracing::error!(?sent, unique, "fuse: the kernel refused a reply"),
        }
    }

    fn send(&self, unique: u64, errno: i32, body: &[u8]) -> io::Result<usize> {
        let header = wire::reply_header(unique, errno, body.len());
        (&self.device).write_vectored(&[IoSlice::new(&header), IoSlice::new(body)])
    }

    fn send_zeros(&self, unique: u64, length: usize) -> io::Result<usize> {
        let header = wire::reply_header(unique, 0, length);
        let mut parts = [IoSlice::new(&[]); 1 + LONGEST / ZEROS.len()];
        parts[0] = IoSlice::new(&header);
        let mut left = length;
        for part in &mut parts[1..] {
            let step = left.min(ZEROS.len());
            *part = IoSlice::new(&ZEROS[..step]);
            left -= step;
        }
        (&self.device).write_vectored(&parts)
    }

    /// Answers the kernel's first request and agrees on requests of at most `wanted` bytes. Tells how many
    /// it is. `write_back` lets the kernel keep writes in its cache for a while.
    pub fn shake_hands(&self, wanted: usize, read_ahead: u64, write_back: bool) -> Result<usize> {
        let mut head = [0; HEAD];
        let mut data = [0; SMALLEST_BUFFER];
        let mut waited = [PollFd::new(self.device.as_fd(), PollFlags::POLLIN)];
        match poll(&mut waited, PollTimeout::from(10_000u16)) {
            Ok(0) => return Err(Error::new(Code::Timeout, "fuse: the kernel did not greet within 10 s")),
            Ok(_) => (),
            Err(errno) => return Err(Error::io("fuse: wait for the kernel's greeting", errno.into())),
        }
        self.receive(&mut head, &mut data).map_err(|error| Error::io("fuse: read the kernel's greeting", error))?;
        let request = Head(&head);
        let (opcode, major, minor) = (request.opcode(), request.word(0), request.word(4));
        let (offered, flags) = (request.word(12), wanted_flags(write_back));
        if opcode != wire::INIT || major != wire::MAJOR || minor < wire::OLDEST_MINOR || offered & flags != flags {
            self.reply(request.unique(), Err(libc::EPROTO));
            let message =
                format!("fuse: this kernel speaks FUSE {major}.{minor}; 7.{} or later is needed", wire::OLDEST_MINOR);
            return Err(Error::new(Code::Unsupported, message));
        }
        let longest = (wanted.min(LONGEST) / 4096).max(1) * 4096;
        let read_ahead = u32::try_from(read_ahead).unwrap_or(u32::MAX);
        let body = Body::default().u32(wire::MAJOR).u32(minor.min(wire::NEWEST_MINOR)).u32(read_ahead);
        let body = body.u32(flags | offered & wire::ASYNC_DIO).u16(BACKGROUND).u16(BACKGROUND / 4 * 3);
        let body = body.u32(longest as u32).u32(1).u16((longest / 4096) as u16).u16(0).padded_to(64);
        self.reply(request.unique(), Ok(Answer::Fields(body)));
        Ok(longest)
    }
}

fn wanted_flags(write_back: bool) -> u32 {
    let flags = wire::ASYNC_READ | wire::BIG_WRITES | wire::MAX_PAGES | wire::EXPLICIT_INVAL_DATA;
    if write_back { flags | wire::WRITEBACK_CACHE } else { flags }
}

/// Room for the data of a request of at most `longest` bytes.
pub fn data_room(longest: usize) -> usize {
    longest.max(SMALLEST_BUFFER)
}

impl From<&Attributes> for Answer<'_> {
    fn from(attributes: &Attributes) -> Self {
        Answer::Fields(attributes.reply())
    }
}
