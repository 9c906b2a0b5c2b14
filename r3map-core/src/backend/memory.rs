//! `memory:?size=1GiB` — a region of this process's memory, gone when it is closed.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use nix::fcntl::FallocateFlags;
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::backend::{self, Backend, Extent, Info};
use crate::error::{Code, Error, Result};
use crate::mapping::Mapping;
use crate::migration::home::Home;
use crate::url::Location;

/// Accesses from this length on go through the descriptor: the kernel then need not zero a fresh page that is
/// wholly overwritten, nor map any, and a hole that is read stays one.
const LONG: usize = 64 << 10;

/// A region of memory that begins as zeros and takes memory only where it was written.
pub struct Memory {
    info: Info,
    // The same pages twice: a descriptor and a mapping of it.
    file: Arc<File>,
    mapping: Mapping,
    home: Arc<Home>,
}

/// A file in memory of that many bytes, all holes.
pub(crate) fn memory_file(name: &CStr, size: u64) -> Result<File> {
    let descriptor: OwnedFd = memfd_create(name, MFdFlags::MFD_CLOEXEC)
        .map_err(|errno| Error::io("create a file in memory", errno.into()))?;
    let file = File::from(descriptor);
    file.set_len(size).map_err(|error| Error::io(format!("give memory {size} bytes"), error))?;
    Ok(file)
}

/// Makes a range of a file a hole that reads as zeros.
pub(crate) fn punch(file: &File, offset: u64, length: u64) -> Result<()> {
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    nix::fcntl::fallocate(file, flags, offset as i64, length as i64)
        .map_err(|errno| Error::io(format!("punch {length} bytes at {offset}"), errno.into()))
}

impl Memory {
    /// Opens `memory:?size=`.
    pub fn open(location: &Location) -> Result<Memory> {
        let size = location
            .parameters(&["size"])?
            .size("size")?
            .ok_or_else(|| Error::new(Code::InvalidArgument, "memory: needs a size, such as memory:?size=1GiB"))?;
        Memory::new(size)
    }

    /// A region of `size` zero bytes.
    pub fn new(size: u64) -> Result<Memory> {
        let file = memory_file(c"r3map-memory", size)?;
        let mapping = Mapping::of_file(&file, size as usize)?;
        let info = Info::local("memory:", size);
        Ok(Memory { info, file: Arc::new(file), mapping, home: Home::memory() })
    }
}

impl Backend for Memory {
    fn info(&self) -> &Info {
        &self.info
    }

    #[inline]
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.info.check(offset, buffer.len() as u64)?;
        if buffer.len() < LONG {
            self.mapping.read(buffer, offset as usize);
            return Ok(());
        }
        let read = self.file.read_exact_at(buffer, offset);
        read.map_err(|error| Error::io(format!("memory: read {} bytes at {offset}", buffer.len()), error))
    }

    #[inline]
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.info.check(offset, data.len() as u64)?;
        if data.len() < LONG {
            self.mapping.write(data, offset as usize);
            return Ok(());
        }
        let write = self.file.write_all_at(data, offset);
        write.map_err(|error| Error::io(format!("memory: write {} bytes at {offset}", data.len()), error))
    }

    fn zero_at(&self, offset: u64, length: u64) -> Result<()> {
        self.info.check(offset, length)?;
        if length == 0 { Ok(()) } else { punch(&self.file, offset, length) }
    }

    fn file(&self) -> Option<Arc<File>> {
        Some(self.file.clone())
    }

    fn extents(&self, offset: u64, length: u64, most: usize) -> Result<Vec<Extent>> {
        self.info.check(offset, length)?;
        Ok(backend::file::File::extents_of(&self.file, offset, length, most))
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn home(&self) -> Option<Arc<Home>> {
        Some(self.home.clone())
    }

    #[inline]
    fn try_read_at(&self, buffer: &mut [u8], offset: u64) -> Option<Result<()>> {
        Some(self.read_at(buffer, offset))
    }

    #[inline]
    fn try_write_at(&self, data: &[u8], offset: u64) -> Option<Result<()>> {
        Some(self.write_at(data, offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_long_read_of_what_was_never_written_is_zeros_and_takes_no_memory() {
        let memory = Memory::new(4 << 20).unwrap();
        let mut bytes = vec![1; 4 << 20];
        memory.read_at(&mut bytes, 0).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 0));
        assert_eq!(memory.file.metadata().unwrap().blocks(), 0);
    }

    #[test]
    fn what_was_never_written_and_what_was_made_zero_are_known_to_be_zeros() {
        let memory = Memory::new(1 << 20).unwrap();
        let known = |offset, length, most| {
            let extents = memory.extents(offset, length, most).unwrap();
            extents.iter().map(|extent| (extent.length, extent.zero)).collect::<Vec<_>>()
        };
        assert_eq!(known(0, 1 << 20, 9), [(1 << 20, true)]);
        memory.write_at(&[1; 65536], 131072).unwrap();
        assert_eq!(known(0, 1 << 20, 9), [(131072, true), (65536, false), (851968, true)]);
        assert_eq!(known(131073, 10, 9), [(10, false)]);
        assert_eq!(known(0, 1 << 20, 2), [(131072, true), (65536, false)]);
        memory.zero_at(131072, 65536).unwrap();
        assert_eq!(known(100, 500_000, 9), [(500_000, true)]);
        assert!(memory.extents(1 << 20, 1, 9).is_err());
    }
}
