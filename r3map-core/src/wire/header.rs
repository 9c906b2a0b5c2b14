//! The header of a frame: what it is, what it is about, how long its payload is, and two checksums.

use crate::error::{Code, Error, Result};
use crate::wire::compress::Packing;
use crate::wire::greeting::MIGRATE;
use crate::wire::{HEADER_LENGTH, MAGIC, MAX_GREETING, MAX_MESSAGE, MAX_PAYLOAD};

/// What a frame is. Numbers not listed here are kept for later; `docs/wire.md` says which for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// Client: the first frame of a connection, which names the export.
    Hello = 0x01,
    /// Server: the connection is accepted.
    Welcome = 0x02,
    /// Server: a request failed or, with id 0, the connection did and ends.
    Error = 0x03,
    /// Either: no more from this side; what is under way is still answered.
    Close = 0x04,
    /// Client, before its HELLO and inside TLS only: the payload is its token.
    Token = 0x05,
    /// Client: `length` bytes at `offset`, please.
    Read = 0x10,
    /// Client: the payload belongs at `offset`.
    Write = 0x11,
    /// Client: `length` bytes at `offset` are to be zero.
    Zero = 0x12,
    /// Client: all that was acknowledged before this was sent is to be durable.
    Sync = 0x13,
    /// Client: it means to write, so it asks for the writer's lease.
    Claim = 0x30,
    /// Client: it writes no more, so it gives the writer's lease back.
    Release = 0x31,
    /// Server: the bytes read.
    Data = 0x20,
    /// Server: a write, zero or sync is done.
    Done = 0x21,
    /// Destination: hashes of `length` bytes at `offset`, please, a [`BLOCK`] each.
    Digest = 0x14,
    /// Source: those hashes.
    Digests = 0x22,
    /// Destination: writes are to be tracked.
    Track = 0x40,
    /// Destination: the pages written since a round, please.
    Round = 0x41,
    /// Destination: the region, please.
    Finalize = 0x42,
    /// Destination: what became of a vote?
    Status = 0x43,
    /// Destination: the region is taken.
    Taken = 0x44,
    /// Destination: all of it is there.
    Complete = 0x45,
    /// Source: writes are tracked.
    Tracking = 0x50,
    /// Source: the pages of a round.
    Dirty = 0x51,
    /// Source: a vote is being acted on.
    Pending = 0x52,
    /// Source: the region is the destination's.
    Given = 0x53,
    /// Source: a vote will never be acted on.
    Aborted = 0x54,
    /// Source: nothing is left here.
    Drained = 0x55,
    /// Source: an attempt is refused.
    Refused = 0x56,
}

impl Kind {
    /// Every kind, those of a migration last.
    pub(crate) const ALL: [Kind; 28] = [
        Kind::Hello,
        Kind::Welcome,
        Kind::Error,
        Kind::Close,
        Kind::Token,
        Kind::Read,
        Kind::Write,
        Kind::Zero,
        Kind::Sync,
        Kind::Claim,
        Kind::Release,
        Kind::Data,
        Kind::Done,
        Kind::Digest,
        Kind::Digests,
        Kind::Track,
        Kind::Round,
        Kind::Finalize,
        Kind::Status,
        Kind::Taken,
        Kind::Complete,
        Kind::Tracking,
        Kind::Dirty,
        Kind::Pending,
        Kind::Given,
        Kind::Aborted,
        Kind::Drained,
        Kind::Refused,
    ];

    fn from_number(number: u16) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| *kind as u16 == number)
    }

    /// Whether it is said only where both sides have agreed to migrate.
    pub fn is_of_migration(self) -> bool {
        matches!(self, Kind::Digest | Kind::Digests) || (0x40..0x60).contains(&(self as u16))
    }

    /// The flags that mean something in a frame of this kind where these features are used.
    fn known_flags(self, features: u64) -> u16 {
        match self {
            Kind::Data => ZEROES | Packing::flags(features),
            Kind::Write => Packing::flags(features),
            Kind::Error => RETRYABLE,
            Kind::Close => SYNCED,
            _ => 0,
        }
    }
}

/// Flag of DATA: the bytes are all zero and are not sent.
pub const ZEROES: u16 = 1 << 0;
/// Flag of ERROR: the same request may succeed later.
pub const RETRYABLE: u16 = 1 << 1;
/// Flag of CLOSE from a server: all that it acknowledged is durable.
pub const SYNCED: u16 = 1 << 2;

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the frame is.
    pub kind: Kind,
    /// Flags of its kind.
    pub flags: u16,
    /// The request it is or answers; 0 where it is about the connection.
    pub id: u64,
    /// Where the range begins, in bytes.
    pub offset: u64,
    /// How long the range is, in bytes.
    pub length: u64,
    /// Length of the payload that follows, in bytes.
    pub payload: u32,
    /// CRC32C of the payload as it travels.
    pub payload_crc: u32,
    /// CRC32C of the bytes that a packed payload stands for; 0 of any other frame.
    pub unpacked_crc: u32,
}

impl Header {
    /// The header of a frame without range or payload.
    pub fn new(kind: Kind, id: u64) -> Header {
        Header { kind, flags: 0, id, offset: 0, length: 0, payload: 0, payload_crc: 0, unpacked_crc: 0 }
    }

    /// The same about a range.
    pub fn about(self, offset: u64, length: u64) -> Header {
        Header { offset, length, ..self }
    }

    /// The same with these flags.
    pub fn with_flags(self, flags: u16) -> Header {
        Header { flags, ..self }
    }

    /// The same for a frame with this payload, whose length the caller has kept to what its kind allows.
    pub fn with_payload(self, payload: &[u8]) -> Header {
        Header { payload: payload.len() as u32, payload_crc: crc32c::crc32c(payload), ..self }
    }

    /// The same for bytes that were packed so into a payload of this length and CRC, with their own CRC.
    pub fn with_packed(self, packing: Packing, length: usize, payload_crc: u32, unpacked_crc: u32) -> Header {
        Header { flags: self.flags | packing.flag(), payload: length as u32, payload_crc, unpacked_crc, ..self }
    }

    /// How the payload is packed, if it is.
    pub fn packing(&self) -> Option<Packing> {
        matches!(self.kind, Kind::Data | Kind::Write).then(|| Packing::of(self.flags)).flatten()
    }

    /// The header as it is sent.
    pub fn encode(&self) -> [u8; HEADER_LENGTH] {
        let mut bytes = [0; HEADER_LENGTH];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&(self.kind as u16).to_le_bytes());
        bytes[6..8].copy_from_slice(&self.flags.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.id.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.offset.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.length.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.payload.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.payload_crc.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.unpacked_crc.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..44]);
        bytes[44..48].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The header that was received. It is intact, of a known kind, and its payload is no longer than that
    /// kind allows; whether the range lies inside a region is not known here. Frames that need a feature are unknown.
    pub fn decode(bytes: &[u8; HEADER_LENGTH]) -> Result<Header> {
        Header::decode_agreed(bytes, 0)
    }

    /// The same on a connection where both sides have agreed to migrate.
    pub fn decode_migrating(bytes: &[u8; HEADER_LENGTH]) -> Result<Header> {
        Header::decode_agreed(bytes, MIGRATE)
    }

    /// The same on a connection where both sides use these features.
    pub fn decode_agreed(bytes: &[u8; HEADER_LENGTH], features: u64) -> Result<Header> {
        let known = |kind: &Kind| features & MIGRATE != 0 || !kind.is_of_migration();
        if bytes[..4] != MAGIC {
            return Err(corrupt("it does not begin as a frame of r3map does: another protocol is spoken here"));
        }
        if crc32c::crc32c(&bytes[..44]) != u32_at(bytes, 44) {
            return Err(corrupt("its header fails the checksum"));
        }
        let number = u16_at(bytes, 4);
        let kind = Kind::from_number(number).filter(known).ok_or_else(|| {
            Error::new(Code::Unsupported, format!("a frame of the unknown type {number:#06x}: one side is too old"))
        })?;
        let mut header = Header {
            kind,
            flags: u16_at(bytes, 6),
            id: u64_at(bytes, 8),
            offset: u64_at(bytes, 16),
            length: u64_at(bytes, 24),
            payload: u32_at(bytes, 32),
            payload_crc: u32_at(bytes, 36),
            unpacked_crc: 0,
        };
        if header.flags & !kind.known_flags(features) != 0 {
            let message = format!("a frame {kind:?} with the unknown flags {:#06x}: one side is too old", header.flags);
            return Err(Error::new(Code::Unsupported, message));
        }
        header.check_payload()?;
        if header.packing().is_some() {
            header.unpacked_crc = u32_at(bytes, 40);
        }
        Ok(header)
    }

    fn check_payload(&self) -> Result<()> {
        let payload = self.payload;
        let fits = match self.kind {
            Kind::Data | Kind::Write if self.packing().is_some() => {
                let is_one = self.flags.count_ones() == 1 && (self.packing() != Some(Packing::Fill) || payload == 1);
                is_one && payload > 0 && u64::from(payload) < self.length && self.length <= u64::from(MAX_PAYLOAD)
            }
            Kind::Hello | Kind::Welcome => payload <= MAX_GREETING,
            Kind::Error => payload >= 4 && payload as usize <= 4 + MAX_MESSAGE,
            Kind::Write => payload <= MAX_PAYLOAD && u64::from(payload) == self.length,
            Kind::Data if self.flags & ZEROES != 0 => payload == 0,
            Kind::Data => payload <= MAX_PAYLOAD && u64::from(payload) == self.length,
            Kind::Close | Kind::Read | Kind::Zero | Kind::Sync | Kind::Claim | Kind::Release | Kind::Done => {
                payload == 0
            }
            Kind::Digest => payload == 0,
            Kind::Token => payload <= MAX_TOKEN,
            Kind::Digests => {
                self.length <= u64::from(MAX_PAYLOAD) && u64::from(payload) == self.length.div_ceil(BLOCK) * HASH
            }
            Kind::Given => payload <= MAX_PAYLOAD,
            Kind::Dirty => payload <= MAX_DIRTY,
            Kind::Aborted | Kind::Refused => payload as usize <= 64 + MAX_MESSAGE,
            Kind::Track | Kind::Round | Kind::Finalize | Kind::Status | Kind::Taken | Kind::Complete => payload <= 256,
            Kind::Tracking | Kind::Pending | Kind::Drained => payload <= 256,
        };
        if fits {
            return Ok(());
        }
        Err(corrupt(format!("a {:?} of {} bytes has a payload of {payload}", self.kind, self.length)))
    }
}

/// How many bytes one hash is of, in bytes; the last of a range may be of fewer.
pub const BLOCK: u64 = 64 << 10;
/// Length of a hash in bytes: BLAKE3.
pub const HASH: u64 = 32;
/// The longest token in bytes.
const MAX_TOKEN: u32 = 1024;
/// The longest DIRTY in bytes: a set of pages and a little more.
const MAX_DIRTY: u32 = (4 << 20) + 256;

fn corrupt(what: impl std::fmt::Display) -> Error {
    Error::new(Code::Corrupt, format!("a frame was refused: {what}"))
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
