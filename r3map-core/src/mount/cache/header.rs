//! What a cache says of itself in the first page of its journal: which region it is of, in which version.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::backend::Info;
use crate::backend::remote::Facts;
use crate::error::{Code, Error, Result};
use crate::migration::fields::Fields;
use crate::page::PAGE;
use crate::version::Version;
use crate::wire::Identity;

const MAGIC: [u8; 8] = *b"r3mC\x01\0\0\0";
const LENGTH: usize = 120;
/// Where it says who has it open, in the same page.
const HOLDER: u64 = 512;
const LONGEST_HOLDER: usize = 255;

const HAS_IDENTITY: u32 = 1;
const HAS_VERSION: u32 = 2;
const HAS_OWN: u32 = 4;
const READ_ONLY: u32 = 8;
const PUSHING: u32 = 16;

/// What is known of the region without asking for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its identity, where its backend has one.
    pub identity: Option<Identity>,
    /// The version that the pages are of, where its backend has one.
    pub version: Option<Version>,
    /// As whose work the pushes of the mount that has it, or had it last, count.
    pub own: Option<Identity>,
    /// The boot in which the tables were last right.
    pub boot: Identity,
    /// Size of the region in bytes.
    pub size: u64,
    /// The backend's unit of transfer in bytes.
    pub chunk_size: u32,
    /// Its alignment in bytes.
    pub alignment: u32,
    /// Its longest request in bytes.
    pub max_request: u32,
    /// Whether the backend refuses writes.
    pub read_only: bool,
    /// Whether pushes may have changed the version since, where they cannot be told from others' writes.
    pub pushing: bool,
}

impl Header {
    /// Of a new cache.
    pub fn new(info: &Info, boot: Identity) -> Header {
        Header {
            identity: info.identity,
            version: None,
            own: None,
            boot,
            size: info.size,
            chunk_size: info.chunk_size,
            alignment: info.alignment,
            max_request: info.max_request,
            read_only: info.read_only,
            pushing: false,
        }
    }

    /// What whoever speaks to the server while it is away must know.
    pub fn facts(&self, read_only: bool) -> Facts {
        Facts {
            identity: self.identity,
            version: self.version,
            own: self.own,
            size: self.size,
            chunk_size: self.chunk_size,
            alignment: self.alignment,
            max_request: self.max_request,
            read_only: self.read_only,
            will_write: !self.read_only && !read_only,
        }
    }

    /// As it is kept.
    pub fn encode(&self) -> Vec<u8> {
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        let flags = flag(self.identity.is_some(), HAS_IDENTITY)
            | flag(self.version.is_some(), HAS_VERSION)
            | flag(self.own.is_some(), HAS_OWN)
            | flag(self.read_only, READ_ONLY)
            | flag(self.pushing, PUSHING);
        let mut bytes = Vec::with_capacity(LENGTH);
        bytes.extend(MAGIC);
        bytes.extend(self.identity.unwrap_or_default());
        bytes.extend(self.version.unwrap_or_default().encode());
        bytes.extend(self.own.unwrap_or_default());
        bytes.extend(self.boot);
        bytes.extend(self.size.to_le_bytes());
        for number in [PAGE as u32, self.chunk_size, self.alignment, self.max_request, flags, 0, 0] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
        bytes
    }

    /// The header that was read.
    pub fn decode(bytes: &[u8]) -> Result<Header> {
        let wrong = |why| Error::new(Code::Corrupt, format!("the journal of a cache was refused: {why}"));
        let mut fields = Fields::new(bytes, "the journal of a cache");
        let magic = fields.bytes(8)?;
        if magic[..4] != MAGIC[..4] {
            return Err(wrong("it is none of r3map"));
        }
        if magic != MAGIC {
            return Err(Error::new(
                Code::Unsupported,
                "the journal of a cache is of a later version: r3map is too old",
            ));
        }
        let (identity, version) = (fields.identity()?, Version { writer: fields.identity()?, count: fields.u64()? });
        let (own, boot, size) = (fields.identity()?, fields.identity()?, fields.u64()?);
        let (page, chunk_size, alignment) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let (max_request, flags) = (fields.u32()?, fields.u32()?);
        fields.bytes(8)?;
        if fields.u32()? != crc32c::crc32c(&bytes[..LENGTH - 4]) {
            return Err(wrong("its head fails the checksum"));
        }
        let sound = u64::from(page) == PAGE
            && size <= i64::MAX as u64 - PAGE
            && chunk_size.is_power_of_two()
            && (4 << 10..=32 << 20).contains(&chunk_size)
            && alignment.is_power_of_two()
            && max_request > 0;
        if !sound {
            return Err(wrong("its sizes make no sense"));
        }
        Ok(Header {
            identity: (flags & HAS_IDENTITY != 0).then_some(identity),
            version: (flags & HAS_VERSION != 0).then_some(version),
            own: (flags & HAS_OWN != 0).then_some(own),
            boot,
            size,
            chunk_size,
            alignment,
            max_request,
            read_only: flags & READ_ONLY != 0,
            pushing: flags & PUSHING != 0,
        })
    }

    /// The header of a journal; `None` of one that has none yet.
    pub fn read(file: &File) -> Result<Option<Header>> {
        if file.metadata().is_ok_and(|metadata| metadata.len() == 0) {
            return Ok(None);
        }
        let mut bytes = [0; LENGTH];
        match file.read_exact_at(&mut bytes, 0) {
            Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => {
                Err(Error::io("read the journal of a cache", error))
            }
            // A crash while it was made: nothing was in it yet.
            _ if bytes == [0; LENGTH] => Ok(None),
            Err(_) => Err(Error::new(Code::Corrupt, "the journal of a cache was refused: it ends inside its head")),
            Ok(()) => Header::decode(&bytes).map(Some),
        }
    }

    /// Writes it, in one sector.
    pub fn write(&self, file: &File) -> Result<()> {
        file.write_all_at(&self.encode(), 0).map_err(|error| Error::io("write the journal of a cache", error))
    }

    /// Says who has the cache open, for people.
    pub fn write_holder(file: &File, holder: &str) {
        let text = &holder.as_bytes()[..holder.len().min(LONGEST_HOLDER)];
        let mut bytes = vec![text.len() as u8];
        bytes.extend(text);
        // It is told to nobody but whoever is refused.
        let _ = file.write_all_at(&bytes, HOLDER);
    }

    /// Who has the cache open, as it said.
    pub fn holder(file: &File) -> String {
        let mut bytes = [0; 1 + LONGEST_HOLDER];
        let read = file.read_exact_at(&mut bytes, HOLDER).is_ok();
        let text = String::from_utf8_lossy(&bytes[1..1 + usize::from(bytes[0])]).into_owned();
        match read && !text.is_empty() && text.chars().all(|letter| letter.is_ascii_graphic()) {
            true => text,
            false => "another process".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_as_it_was_written_and_any_damage_is_refused() {
        let header = Header {
            version: Some(Version { writer: [2; 16], count: 7 }),
            own: Some([3; 16]),
            pushing: true,
            ..Header::new(&Info { identity: Some([1; 16]), ..Info::local("x", 12345) }, [9; 16])
        };
        for header in [header.clone(), Header { identity: None, version: None, own: None, ..header.clone() }] {
            let bytes = header.encode();
            assert_eq!(bytes.len(), LENGTH);
            assert_eq!(Header::decode(&bytes).unwrap(), header);
        }
        let golden = header.encode();
        for at in 0..LENGTH {
            let mut bytes = golden.clone();
            bytes[at] ^= 4;
            let code = if (4..8).contains(&at) { Code::Unsupported } else { Code::Corrupt };
            assert_eq!(Header::decode(&bytes).unwrap_err().code(), code, "{at}");
            assert!(Header::decode(&golden[..at]).is_err());
        }
    }
}
