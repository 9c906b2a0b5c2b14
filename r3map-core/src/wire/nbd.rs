//! The NBD protocol, of which `doc/proto.md` of the NetworkBlockDevice project is the specification: requests and
//! replies as pure functions of bytes, all big-endian. What goes before them is in [`handshake`].
//!
//! The kernel's device speaks it too, without a handshake and with simple replies alone.

use std::error::Error as _;
use std::io;

use crate::error::{Code, Error};

pub mod handshake;

/// Bytes of a request before its payload.
pub const REQUEST_SIZE: usize = 28;
/// Bytes of a simple reply before its payload.
pub const REPLY_SIZE: usize = 16;
/// Bytes of a chunk of a structured reply before its content.
pub const CHUNK_SIZE: usize = 20;
/// The longest payload of a request or a reply: what every peer takes that says nothing else.
pub const MOST_PAYLOAD: usize = 32 << 20;
/// The port of a URL that names none.
pub const DEFAULT_PORT: u16 = 10809;
/// The longest name or message.
pub const MOST_TEXT: usize = 4096;

const REQUEST_MAGIC: u32 = 0x2560_9513;
/// The first bytes of a simple reply.
pub const REPLY_MAGIC: u32 = 0x6744_6698;
/// The first bytes of a chunk of a structured reply.
pub const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// What an export or a device can do, as its client is told.
pub mod flags {
    /// The other flags mean something.
    pub const HAS_FLAGS: u16 = 1;
    /// Writes fail.
    pub const READ_ONLY: u16 = 1 << 1;
    /// Takes FLUSH.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// Takes writes that are durable when answered.
    pub const SEND_FUA: u16 = 1 << 3;
    /// Takes TRIM.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// Takes WRITE_ZEROES; kernels before 6.12 ignore it and write zeros.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// Takes reads that are answered in one piece.
    pub const SEND_DF: u16 = 1 << 7;
    /// A flush on one connection covers what was answered on all.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// Takes CACHE.
    pub const SEND_CACHE: u16 = 1 << 10;
    /// Says at once when zeros would cost as much as writing them.
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
}

/// What a request says besides its command.
pub mod command_flags {
    /// The answer means durable.
    pub const FUA: u16 = 1;
    /// Zeros shall take the room that bytes would.
    pub const NO_HOLE: u16 = 1 << 1;
    /// A read shall be answered in one piece.
    pub const DF: u16 = 1 << 2;
    /// One extent is enough.
    pub const REQ_ONE: u16 = 1 << 3;
    /// Zeros that cost as much as writing them shall be refused.
    pub const FAST_ZERO: u16 = 1 << 4;
}

/// Error numbers that both sides know.
pub mod errors {
    /// Not allowed.
    pub const EPERM: u32 = 1;
    /// The store failed.
    pub const EIO: u32 = 5;
    /// Out of memory.
    pub const ENOMEM: u32 = 12;
    /// The request makes no sense.
    pub const EINVAL: u32 = 22;
    /// No room, or a write past the end.
    pub const ENOSPC: u32 = 28;
    /// The answer would not fit.
    pub const EOVERFLOW: u32 = 75;
    /// Not offered.
    pub const ENOTSUP: u32 = 95;
    /// The server is closing.
    pub const ESHUTDOWN: u32 = 108;
}

/// Kinds of chunks of a structured reply. Those that fail have the highest bit set.
pub mod chunks {
    /// Nothing: the request is done.
    pub const NONE: u16 = 0;
    /// Bytes of a read.
    pub const OFFSET_DATA: u16 = 1;
    /// Zeros of a read.
    pub const OFFSET_HOLE: u16 = 2;
    /// Extents of a range.
    pub const BLOCK_STATUS: u16 = 5;
    /// The request failed.
    pub const ERROR: u16 = 1 << 15 | 1;
    /// The request failed at that offset.
    pub const ERROR_OFFSET: u16 = 1 << 15 | 2;
    /// The flag of the last chunk of a reply.
    pub const DONE: u16 = 1;
}

/// What `base:allocation` says of an extent.
pub mod states {
    /// It takes no room.
    pub const HOLE: u32 = 1;
    /// It reads as zeros.
    pub const ZERO: u32 = 1 << 1;
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Send bytes back.
    Read = 0,
    /// Store the bytes that follow.
    Write = 1,
    /// Close the connection.
    Disconnect = 2,
    /// Make answered writes durable.
    Flush = 3,
    /// Forget bytes; ours read as zeros afterwards.
    Trim = 4,
    /// Bring bytes near, for a read to come.
    Cache = 5,
    /// Make bytes zero.
    WriteZeroes = 6,
    /// Say which bytes are zeros.
    BlockStatus = 7,
}

impl Command {
    const ALL: [Command; 8] = [
        Command::Read,
        Command::Write,
        Command::Disconnect,
        Command::Flush,
        Command::Trim,
        Command::Cache,
        Command::WriteZeroes,
        Command::BlockStatus,
    ];

    fn from_number(number: u16) -> Option<Command> {
        Command::ALL.get(usize::from(number)).copied()
    }

    /// The word for messages.
    pub fn name(self) -> &'static str {
        match self {
            Command::Read => "read",
            Command::Write => "write",
            Command::Disconnect => "disconnect",
            Command::Flush => "flush",
            Command::Trim => "trim",
            Command::Cache => "cache",
            Command::WriteZeroes => "write of zeros",
            Command::BlockStatus => "block status",
        }
    }
}

/// A request without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What to do; `None` is a command that we do not know.
    pub command: Option<Command>,
    /// How: [`command_flags`].
    pub flags: u16,
    /// Comes back in the reply.
    pub cookie: [u8; 8],
    /// Where, in bytes.
    pub offset: u64,
    /// How many bytes.
    pub length: u32,
}

impl Request {
    /// Takes a request apart; `None` if it does not begin as one.
    pub fn parse(bytes: &[u8; REQUEST_SIZE]) -> Option<Request> {
        let [m0, m1, m2, m3, f0, f1, c0, c1, rest @ ..] = *bytes;
        let [k0, k1, k2, k3, k4, k5, k6, k7, o0, o1, o2, o3, o4, o5, o6, o7, l0, l1, l2, l3] = rest;
        if u32::from_be_bytes([m0, m1, m2, m3]) != REQUEST_MAGIC {
            return None;
        }
        Some(Request {
            command: Command::from_number(u16::from_be_bytes([c0, c1])),
            flags: u16::from_be_bytes([f0, f1]),
            cookie: [k0, k1, k2, k3, k4, k5, k6, k7],
            offset: u64::from_be_bytes([o0, o1, o2, o3, o4, o5, o6, o7]),
            length: u32::from_be_bytes([l0, l1, l2, l3]),
        })
    }

    /// The bytes of a request; one without a command asks for what nobody knows.
    pub fn encode(&self) -> [u8; REQUEST_SIZE] {
        let mut bytes = [0; REQUEST_SIZE];
        bytes[0..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.flags.to_be_bytes());
        bytes[6..8].copy_from_slice(&self.command.map_or(u16::MAX, |command| command as u16).to_be_bytes());
        bytes[8..16].copy_from_slice(&self.cookie);
        bytes[16..24].copy_from_slice(&self.offset.to_be_bytes());
        bytes[24..28].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }

    /// Whether this flag is set.
    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// Whether the answer means durable.
    pub fn is_fua(&self) -> bool {
        self.has(command_flags::FUA)
    }

    /// The same request without that flag.
    pub fn without(self, flag: u16) -> Request {
        Request { flags: self.flags & !flag, ..self }
    }
}

/// The bytes of a simple reply before its payload; `error` is 0 or an NBD error number.
pub fn reply(cookie: [u8; 8], error: u32) -> [u8; REPLY_SIZE] {
    let mut bytes = [0; REPLY_SIZE];
    bytes[0..4].copy_from_slice(&REPLY_MAGIC.to_be_bytes());
    bytes[4..8].copy_from_slice(&error.to_be_bytes());
    bytes[8..16].copy_from_slice(&cookie);
    bytes
}

/// The head of a chunk of a structured reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Whether it is the last of its reply.
    pub done: bool,
    /// What it is: [`chunks`].
    pub kind: u16,
    /// Of the request.
    pub cookie: [u8; 8],
    /// Bytes behind the head.
    pub length: u32,
}

impl Chunk {
    /// Takes the head of a chunk apart; `None` if it does not begin as one.
    pub fn parse(bytes: &[u8; CHUNK_SIZE]) -> Option<Chunk> {
        let [m0, m1, m2, m3, f0, f1, t0, t1, k0, k1, k2, k3, k4, k5, k6, k7, l0, l1, l2, l3] = *bytes;
        if u32::from_be_bytes([m0, m1, m2, m3]) != CHUNK_MAGIC {
            return None;
        }
        Some(Chunk {
            done: u16::from_be_bytes([f0, f1]) & chunks::DONE != 0,
            kind: u16::from_be_bytes([t0, t1]),
            cookie: [k0, k1, k2, k3, k4, k5, k6, k7],
            length: u32::from_be_bytes([l0, l1, l2, l3]),
        })
    }

    /// The bytes of the head.
    pub fn encode(&self) -> [u8; CHUNK_SIZE] {
        let mut bytes = [0; CHUNK_SIZE];
        bytes[0..4].copy_from_slice(&CHUNK_MAGIC.to_be_bytes());
        bytes[4..6].copy_from_slice(&(if self.done { chunks::DONE } else { 0 }).to_be_bytes());
        bytes[6..8].copy_from_slice(&self.kind.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.cookie);
        bytes[16..20].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }
}

/// The NBD error number of an error. NBD knows only a few, and Linux shows a program EIO for most.
pub fn error_number(error: &Error) -> u32 {
    match error.code() {
        Code::PermissionDenied | Code::ReadOnly | Code::Busy | Code::Fenced => errors::EPERM,
        Code::InvalidArgument | Code::OutOfRange => errors::EINVAL,
        Code::Unsupported => errors::ENOTSUP,
        Code::Closed => errors::ESHUTDOWN,
        _ if is_out_of_room(error) => errors::ENOSPC,
        _ => errors::EIO,
    }
}

fn is_out_of_room(error: &Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        let number = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        if matches!(number, Some(libc::ENOSPC | libc::EDQUOT)) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The error that a server means by a number; `what` was asked of it, and `why` is what it says besides.
pub fn error_of(number: u32, what: impl std::fmt::Display, why: &str) -> Error {
    let why = if why.is_empty() { String::new() } else { format!(": {why}") };
    let (code, says) = match number {
        errors::EPERM => (Code::PermissionDenied, "the server does not allow it"),
        errors::ENOMEM => (Code::Io, "the server is out of memory"),
        errors::EINVAL => (Code::InvalidArgument, "the server says that the request makes no sense"),
        errors::ENOSPC => {
            let source = io::Error::from_raw_os_error(libc::ENOSPC);
            return Error::io(format!("{what}: the server has no room left{why}"), source);
        }
        errors::EOVERFLOW => (Code::InvalidArgument, "the server says that this is too much at once"),
        errors::ENOTSUP => (Code::Unsupported, "the server does not offer it"),
        errors::ESHUTDOWN => (Code::Disconnected, "the server is closing"),
        errors::EIO => (Code::Io, "the server's store failed"),
        _ => (Code::Io, "the server failed"),
    };
    let number = if code == Code::Io && number != errors::EIO { format!(" (error {number})") } else { String::new() };
    Error::new(code, format!("{what}: {says}{number}{why}"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The bytes of a request, as a kernel sends them.
    pub fn request(flags: u16, command: u16, cookie: [u8; 8], offset: u64, length: u32) -> [u8; REQUEST_SIZE] {
        let mut bytes = [0; REQUEST_SIZE];
        bytes[0..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        bytes[4..6].copy_from_slice(&flags.to_be_bytes());
        bytes[6..8].copy_from_slice(&command.to_be_bytes());
        bytes[8..16].copy_from_slice(&cookie);
        bytes[16..24].copy_from_slice(&offset.to_be_bytes());
        bytes[24..28].copy_from_slice(&length.to_be_bytes());
        bytes
    }

    #[test]
    fn a_request_comes_apart_as_it_was_put_together() {
        let bytes = request(1, 1, *b"cookie!!", 0x0102_0304_0506_0708, 4096);
        let parsed = Request::parse(&bytes).unwrap();
        assert_eq!((parsed.command, parsed.is_fua()), (Some(Command::Write), true));
        assert_eq!((parsed.cookie, parsed.offset, parsed.length), (*b"cookie!!", 0x0102_0304_0506_0708, 4096));
        assert_eq!(parsed.encode(), bytes);
        for (number, command) in Command::ALL.into_iter().enumerate() {
            assert_eq!(command as usize, number);
        }
    }

    #[test]
    fn a_wrong_magic_is_no_request_and_an_unknown_command_is_said() {
        assert_eq!(Request::parse(&[0; REQUEST_SIZE]), None);
        assert_eq!(Request::parse(&request(0, 77, [0; 8], 0, 0)).unwrap().command, None);
    }

    #[test]
    fn the_head_of_a_chunk_has_the_bytes_that_the_specification_says() {
        let chunk = Chunk { done: true, kind: chunks::OFFSET_HOLE, cookie: *b"cookie!!", length: 12 };
        assert_eq!(&chunk.encode(), b"\x66\x8e\x33\xef\x00\x01\x00\x02cookie!!\x00\x00\x00\x0c");
        assert_eq!(Chunk::parse(&chunk.encode()), Some(chunk));
        assert_eq!(Chunk::parse(&[0; CHUNK_SIZE]), None);
        assert_eq!(&reply(*b"cookie!!", 22), b"\x67\x44\x66\x98\x00\x00\x00\x16cookie!!");
    }

    #[test]
    fn errors_keep_their_meaning_on_the_way() {
        for code in [Code::PermissionDenied, Code::InvalidArgument, Code::Unsupported, Code::Io] {
            assert_eq!(error_of(error_number(&Error::new(code, "x")), "read", "y").code(), code);
        }
        let full = Error::io("write", io::Error::from_raw_os_error(libc::ENOSPC)).context("disk");
        let back = error_of(error_number(&full), "write", "");
        assert_eq!((back.code(), error_number(&back)), (Code::Io, errors::ENOSPC));
        assert!(error_of(77, "read", "").message().contains("77"));
    }
}
