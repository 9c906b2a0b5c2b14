//! The payloads that are more than bytes: HELLO, WELCOME and ERROR.

use crate::error::{Code, Error, Result};
use crate::page::PAGE;
use crate::version::Version;
use crate::wire::header::RETRYABLE;
use crate::wire::{Header, Identity, Kind, MAX_MESSAGE, MAX_NAME};

/// What a client says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The oldest and the newest version of the protocol that the client speaks.
    pub versions: (u16, u16),
    /// Features the client would use, but for [`MIGRATE`].
    pub features: u64,
    /// Of a client that would have the region moved to it: the session, or zeros where none has begun.
    pub session: Option<Identity>,
    /// Names the client for as long as it has the export open.
    pub client: Identity,
    /// Counts the connections the client made in this role: a newer one ends the older.
    pub generation: u64,
    /// Which of the client's connections this is: 0 for demand (or all) traffic, others for bulk.
    pub role: u16,
    /// Whether the client means to write.
    pub write: bool,
    /// The export wanted.
    pub export: String,
    /// Who the client is, for people; holds no secret.
    pub display: String,
}

/// What a server answers to a HELLO it accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The version of the protocol that is spoken from here on.
    pub version: u16,
    /// The features that are used from here on, but for [`MIGRATE`] and [`VERSIONED`].
    pub features: u64,
    /// Which version of the region this is, where the client asked for that.
    pub written: Option<Version>,
    /// Of a region that may be moved, where the client asked for that.
    pub moving: Option<Moving>,
    /// Size of the region in bytes.
    pub size: u64,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Default unit of transfer in bytes: a power of two.
    pub chunk_size: u32,
    /// What offsets and lengths must be multiples of, but for the region's end: a power of two.
    pub alignment: u32,
    /// The longest read or write in bytes.
    pub max_request: u32,
    /// The same for as long as it is the same region.
    pub identity: Identity,
    /// The same for as long as what was acknowledged is kept without a sync.
    pub keeper: Identity,
}

/// A region that may be moved to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moving {
    /// How often the region has changed hands.
    pub epoch: u64,
    /// Sizes in bytes of the regions that move as one, each of which begins at a whole page: one or more.
    pub parts: Vec<u64>,
}

impl Moving {
    /// Where the next part begins, given where this one of `size` bytes does; `None` past all that can be.
    pub fn after(start: u64, size: u64) -> Option<u64> {
        start.checked_add(size.checked_next_multiple_of(PAGE)?)
    }

    /// How many bytes all parts have: the last page may be short.
    pub fn size(&self) -> Option<u64> {
        let (last, before) = self.parts.split_last()?;
        before.iter().try_fold(0, |start, size| Moving::after(start, *size))?.checked_add(*last)
    }
}

/// Feature: frames of a migration are spoken, and the greetings say what that needs.
pub const MIGRATE: u64 = 1;
/// Feature: the server says which version of the region it shows. Bits 2 to 5 are those of
/// [`compress`](crate::wire::compress).
pub const VERSIONED: u64 = 2;
/// The most regions that move as one.
pub const MAX_PARTS: usize = 256;
const READ_ONLY: u32 = 1;
const WRITE: u16 = 1;

impl Hello {
    /// The payload as it is sent.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64 + self.export.len() + self.display.len());
        bytes.extend(self.versions.0.to_le_bytes());
        bytes.extend(self.versions.1.to_le_bytes());
        bytes.extend(self.role.to_le_bytes());
        bytes.extend((if self.write { WRITE } else { 0 }).to_le_bytes());
        bytes.extend((self.features | if self.session.is_some() { MIGRATE } else { 0 }).to_le_bytes());
        bytes.extend(self.client);
        bytes.extend(self.generation.to_le_bytes());
        bytes.extend((self.export.len() as u16).to_le_bytes());
        bytes.extend((self.display.len() as u16).to_le_bytes());
        bytes.extend(self.export.as_bytes());
        bytes.extend(self.display.as_bytes());
        bytes.extend(self.session.iter().flatten());
        bytes
    }

    /// The payload that was received. Bytes after the known fields belong to later versions.
    pub fn decode(bytes: &[u8]) -> Result<Hello> {
        let mut fields = Fields { rest: bytes };
        let versions = (fields.u16()?, fields.u16()?);
        let (role, intent) = (fields.u16()?, fields.u16()?);
        let (features, client, generation) = (fields.u64()?, fields.identity()?, fields.u64()?);
        let (export, display) = (fields.u16()? as usize, fields.u16()? as usize);
        if export > MAX_NAME || display > MAX_NAME {
            return Err(Error::new(Code::InvalidArgument, format!("a name has at most {MAX_NAME} bytes")));
        }
        let export = fields.text(export)?;
        let display = fields.text(display)?;
        check_name(&export)?;
        let session = if features & MIGRATE != 0 { Some(fields.identity()?) } else { None };
        let features = features & !MIGRATE;
        Ok(Hello { versions, features, session, client, generation, role, write: intent & WRITE != 0, export, display })
    }
}

impl Welcome {
    /// The payload as it is sent.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(72);
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(0_u16.to_le_bytes());
        bytes.extend((if self.read_only { READ_ONLY } else { 0 }).to_le_bytes());
        let moving = if self.moving.is_some() { MIGRATE } else { 0 };
        let written = if self.written.is_some() { VERSIONED } else { 0 };
        bytes.extend((self.features | moving | written).to_le_bytes());
        bytes.extend(self.size.to_le_bytes());
        bytes.extend(self.chunk_size.to_le_bytes());
        bytes.extend(self.alignment.to_le_bytes());
        bytes.extend(self.max_request.to_le_bytes());
        bytes.extend(0_u32.to_le_bytes());
        bytes.extend(self.identity);
        bytes.extend(self.keeper);
        if let Some(Moving { epoch, parts }) = &self.moving {
            bytes.extend(epoch.to_le_bytes());
            bytes.extend((parts.len() as u32).to_le_bytes());
            parts.iter().for_each(|size| bytes.extend(size.to_le_bytes()));
        }
        bytes.extend(self.written.iter().flat_map(Version::encode));
        bytes
    }

    /// The payload that was received. Bytes after the known fields belong to later versions.
    pub fn decode(bytes: &[u8]) -> Result<Welcome> {
        let mut fields = Fields { rest: bytes };
        let (version, _) = (fields.u16()?, fields.u16()?);
        let flags = fields.u32()?;
        let (features, size) = (fields.u64()?, fields.u64()?);
        let (chunk_size, alignment, max_request, _) = (fields.u32()?, fields.u32()?, fields.u32()?, fields.u32()?);
        let (identity, keeper) = (fields.identity()?, fields.identity()?);
        let moving = if features & MIGRATE != 0 { Some(Moving::take(&mut fields)?) } else { None };
        let written = match features & VERSIONED {
            0 => None,
            _ => Some(Version { writer: fields.identity()?, count: fields.u64()? }),
        };
        let features = features & !(MIGRATE | VERSIONED);
        let chunk = (4 << 10)..=(32 << 20);
        let sound = chunk_size.is_power_of_two()
            && chunk.contains(&chunk_size)
            && alignment.is_power_of_two()
            && max_request > 0
            && max_request <= crate::wire::MAX_PAYLOAD
            && alignment <= max_request
            && size <= i64::MAX as u64
            && moving.as_ref().is_none_or(|moving| moving.size() == Some(size));
        if !sound {
            return Err(Error::new(Code::Corrupt, "a WELCOME was refused: its sizes make no sense"));
        }
        let read_only = flags & READ_ONLY != 0;
        let welcome = Welcome {
            version,
            features,
            written,
            moving,
            size,
            read_only,
            chunk_size,
            alignment,
            max_request,
            identity,
            keeper,
        };
        Ok(welcome)
    }
}

impl Moving {
    fn take(fields: &mut Fields<'_>) -> Result<Moving> {
        let (epoch, count) = (fields.u64()?, fields.u32()? as usize);
        if !(1..=MAX_PARTS).contains(&count) {
            let message = format!("a WELCOME was refused: {count} regions that move as one");
            return Err(Error::new(Code::Corrupt, message));
        }
        let parts = (0..count).map(|_| fields.u64()).collect::<Result<_>>()?;
        Ok(Moving { epoch, parts })
    }
}

/// An error unless this may name an export.
pub fn check_name(name: &str) -> Result<()> {
    let wrong = match name {
        "" => "is empty",
        _ if name.len() > MAX_NAME => "has more than 255 bytes",
        _ if name.contains('\0') => "holds a NUL",
        _ => return Ok(()),
    };
    let start: String = name.chars().take(64).collect();
    Err(Error::new(Code::InvalidArgument, format!("the name {start:?} of an export {wrong}")))
}

/// The header and payload of an error about request `id`, or about the connection where that is 0.
pub fn encode_error(id: u64, error: &Error) -> (Header, Vec<u8>) {
    let message = error.message();
    let mut end = message.len().min(MAX_MESSAGE);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    let mut payload = (error.code() as u32).to_le_bytes().to_vec();
    payload.extend(&message.as_bytes()[..end]);
    let flags = if error.is_retryable() { RETRYABLE } else { 0 };
    (Header::new(Kind::Error, id).with_flags(flags).with_payload(&payload), payload)
}

/// The error that came in an ERROR frame. A code that this build does not know is `internal`.
pub fn decode_error(header: &Header, payload: &[u8]) -> Error {
    let mut fields = Fields { rest: payload };
    let code = fields.u32().ok().and_then(Code::from_number).unwrap_or(Code::Internal);
    // What a peer says ends up in logs: one line, nothing that moves a cursor.
    let message: String = String::from_utf8_lossy(fields.rest)
        .chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect();
    Error::new(code, message).with_retryable(header.flags & RETRYABLE != 0)
}

struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        if length > self.rest.len() {
            return Err(Error::new(Code::Corrupt, "a greeting was refused: it ends inside a field"));
        }
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(taken)
    }

    fn u16(&mut self) -> Result<u16> {
        Ok(super::header::u16_at(self.take(2)?, 0))
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(super::header::u32_at(self.take(4)?, 0))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(super::header::u64_at(self.take(8)?, 0))
    }

    fn identity(&mut self) -> Result<Identity> {
        let mut identity = Identity::default();
        identity.copy_from_slice(self.take(16)?);
        Ok(identity)
    }

    fn text(&mut self, length: usize) -> Result<String> {
        String::from_utf8(self.take(length)?.to_vec())
            .map_err(|_| Error::new(Code::InvalidArgument, "a greeting was refused: a name is not UTF-8"))
    }
}
