//! Which state of a region is the one at hand: who wrote to it last, and how often writing began anew.
//!
//! Whoever kept bytes of a region from an earlier time knows by this whether they are still right. A version changes
//! with the first write after somebody else was told it, so two who were told the same version saw the same bytes.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::PathBuf;
use std::sync::Mutex;

use crate::error::{Code, Error, Result};
use crate::migration::fields::Fields;
use crate::migration::record::replace;
use crate::wire::Identity;

const MAGIC: [u8; 8] = *b"r3mV\x01\0\0\0";
const LENGTH: usize = 8 + 24 + 4;

/// A state of a region, told from every other that somebody was told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// Who wrote last, or zeros.
    pub writer: Identity,
    /// How often somebody began to write.
    pub count: u64,
}

impl Version {
    /// As it is sent and kept.
    pub fn encode(&self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..16].copy_from_slice(&self.writer);
        bytes[16..].copy_from_slice(&self.count.to_le_bytes());
        bytes
    }
}

/// A version, and as whose work the writes of whoever asked count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lineage {
    /// What is there now.
    pub version: Version,
    /// The writer of versions that come of one's own writes; `None` where they cannot be told from others'.
    pub own: Option<Identity>,
}

/// Where the version of one region is kept.
pub(crate) enum Store {
    /// For regions that die with the process.
    Memory(Mutex<Option<Version>>),
    /// In a file beside the region, replaced whole.
    Disk(PathBuf),
}

impl Store {
    /// In this process.
    pub fn memory() -> Store {
        Store::Memory(Mutex::new(None))
    }

    /// The version, if one was saved.
    pub fn load(&self) -> Result<Option<Version>> {
        let path = match self {
            Store::Memory(version) => return Ok(*version.lock().unwrap_or_else(|e| e.into_inner())),
            Store::Disk(path) => path,
        };
        let failed = |error| Error::io(format!("read {}", path.display()), error);
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut bytes = Vec::new();
        file.take(LENGTH as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
        decode(&bytes).map(Some).map_err(|error| error.context(path.display()))
    }

    /// Replaces it; durable when this returns.
    pub fn save(&self, version: Version) -> Result<()> {
        match self {
            Store::Memory(kept) => *kept.lock().unwrap_or_else(|e| e.into_inner()) = Some(version),
            Store::Disk(path) => {
                let mut bytes = MAGIC.to_vec();
                bytes.extend(version.encode());
                bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
                replace(path, &bytes)?;
            }
        }
        Ok(())
    }
}

/// The version that was read.
pub(crate) fn decode(bytes: &[u8]) -> Result<Version> {
    let mut fields = Fields::new(bytes, "a version");
    let magic = fields.bytes(8)? == MAGIC;
    let version = Version { writer: fields.identity()?, count: fields.u64()? };
    if !magic || bytes.len() != LENGTH || fields.u32()? != crc32c::crc32c(&bytes[..LENGTH - 4]) {
        let message =
            "it is damaged, so that no cache can be trusted: remove it together with the caches of this region";
        return Err(Error::new(Code::Corrupt, message));
    }
    Ok(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_as_it_was_saved_and_a_damaged_one_is_refused() {
        let path = std::env::temp_dir().join(format!("r3map-version-{}", std::process::id()));
        let version = Version { writer: [7; 16], count: 3 };
        for store in [Store::memory(), Store::Disk(path.clone())] {
            assert_eq!(store.load().unwrap(), None);
            for version in [version, Version { count: 4, ..version }] {
                store.save(version).unwrap();
                assert_eq!(store.load().unwrap(), Some(version));
            }
        }
        let golden = std::fs::read(&path).unwrap();
        for at in 0..golden.len() {
            let mut bytes = golden.clone();
            bytes[at] ^= 1;
            assert_eq!(decode(&bytes).unwrap_err().code(), Code::Corrupt);
            assert!(decode(&golden[..at]).is_err());
        }
        std::fs::remove_file(&path).unwrap();
    }
}
