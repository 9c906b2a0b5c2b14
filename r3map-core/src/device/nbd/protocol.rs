//! The part of the NBD protocol that the kernel speaks: simple requests and simple replies, big-endian, on a
//! connection without a handshake.

use crate::error::{Code, Error};

/// Bytes of a request before its payload.
pub const REQUEST_SIZE: usize = 28;
/// Bytes of a reply before its payload.
pub const REPLY_SIZE: usize = 16;
/// The longest payload a kernel sends or asks for: its `max_hw_sectors_kb`.
pub const MOST_PAYLOAD: usize = 32 << 20;

const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
const COMMAND_FUA: u16 = 1;

/// What the device can do, as the kernel is told.
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
    /// A flush on one connection covers what was answered on all.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Send bytes back.
    Read,
    /// Store the bytes that follow.
    Write,
    /// Close the connection.
    Disconnect,
    /// Make answered writes durable.
    Flush,
    /// Forget bytes; ours read as zeros afterwards.
    Trim,
    /// Make bytes zero.
    WriteZeroes,
}

impl Command {
    fn from_number(number: u16) -> Option<Command> {
        Some(match number {
            0 => Command::Read,
            1 => Command::Write,
            2 => Command::Disconnect,
            3 => Command::Flush,
            4 => Command::Trim,
            6 => Command::WriteZeroes,
            _ => return None,
        })
    }

    /// The word for messages.
    pub fn name(self) -> &'static str {
        match self {
            Command::Read => "read",
            Command::Write => "write",
            Command::Disconnect => "disconnect",
            Command::Flush => "flush",
            Command::Trim => "trim",
            Command::WriteZeroes => "write of zeros",
        }
    }
}

/// A request without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What to do; `None` is a command that we do not know.
    pub command: Option<Command>,
    /// Whether the answer means durable.
    pub fua: bool,
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
            fua: u16::from_be_bytes([f0, f1]) & COMMAND_FUA != 0,
            cookie: [k0, k1, k2, k3, k4, k5, k6, k7],
            offset: u64::from_be_bytes([o0, o1, o2, o3, o4, o5, o6, o7]),
            length: u32::from_be_bytes([l0, l1, l2, l3]),
        })
    }
}

/// The bytes of a reply before its payload; `error` is 0 or an NBD error number.
pub fn reply(cookie: [u8; 8], error: u32) -> [u8; REPLY_SIZE] {
    let mut bytes = [0; REPLY_SIZE];
    bytes[0..4].copy_from_slice(&REPLY_MAGIC.to_be_bytes());
    bytes[4..8].copy_from_slice(&error.to_be_bytes());
    bytes[8..16].copy_from_slice(&cookie);
    bytes
}

/// The NBD error number of an error. NBD knows only a few, and Linux shows a program EIO for most.
pub fn error_number(error: &Error) -> u32 {
    let number = match error.code() {
        Code::PermissionDenied | Code::ReadOnly => libc::EPERM,
        Code::InvalidArgument | Code::OutOfRange => libc::EINVAL,
        Code::Unsupported => 95,
        Code::Closed => 108,
        _ => libc::EIO,
    };
    number as u32
}

#[cfg(test)]
pub mod tests {
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
        assert_eq!((parsed.command, parsed.fua), (Some(Command::Write), true));
        assert_eq!((parsed.cookie, parsed.offset, parsed.length), (*b"cookie!!", 0x0102_0304_0506_0708, 4096));
    }

    #[test]
    fn a_wrong_magic_is_no_request_and_an_unknown_command_is_said() {
        assert_eq!(Request::parse(&[0; REQUEST_SIZE]), None);
        assert_eq!(Request::parse(&request(0, 77, [0; 8], 0, 0)).unwrap().command, None);
    }
}
