//! `file:///path[?size=…]` — a regular file or a block device of this host.

use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::sync::{Arc, Mutex};
use std::time::UNIX_EPOCH;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use crate::backend::memory::punch;
use crate::backend::{Backend, Extent, Info};
use crate::cancel::Limit;
use crate::error::{Code, Error, Result};
use crate::migration::home::Home;
use crate::url::Location;
use crate::version::{Lineage, Version};

/// A file of this host. `sync` is fdatasync.
pub struct File {
    info: Info,
    file: Arc<std::fs::File>,
    /// None of a block device, beside which nothing lasts.
    home: Option<Arc<Home>>,
    /// The first sync that failed.
    lost: Mutex<Option<Error>>,
}

impl File {
    /// Opens `file:///path`. A file that is missing is created only where the URL gives a size; a size
    /// that differs from an existing file's is refused. Without permission to write it is read-only.
    pub fn open(location: &Location) -> Result<File> {
        let path = location.file_path()?;
        let wanted = location.parameters(&["size"])?.size("size")?;
        let name = location.as_str();
        let open = |write, create| OpenOptions::new().read(true).write(write).create_new(create).open(&path);
        let (file, read_only, fresh) = match open(true, false) {
            Ok(file) => (file, false, false),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && wanted.is_some() => {
                (open(true, true).map_err(|error| Error::io(format!("create {name}"), error))?, false, true)
            }
            Err(error) if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EROFS | libc::EPERM)) => {
                (open(false, false).map_err(|error| Error::io(format!("open {name}"), error))?, true, false)
            }
            Err(error) if error.raw_os_error() == Some(libc::EISDIR) => {
                return Err(Error::new(Code::InvalidArgument, format!("{name} is a directory, not a file")));
            }
            Err(error) => return Err(Error::io(format!("open {name}"), error)),
        };
        let size = match wanted {
            Some(size) if fresh => {
                file.set_len(size).map_err(|error| Error::io(format!("give {name} {size} bytes"), error))?;
                size
            }
            _ => File::size_of(&file, name)?,
        };
        if wanted.is_some_and(|wanted| wanted != size) {
            let message = format!("{name}: the file has {size} bytes");
            return Err(Error::new(Code::InvalidArgument, message));
        }
        let identity = Some(File::identity_of(&file, name)?);
        let is_regular = file.metadata().is_ok_and(|metadata| metadata.is_file());
        let home = is_regular.then(|| Home::beside(&path));
        let info = Info { read_only, identity, ..Info::local(name, size) };
        Ok(File { info, file: Arc::new(file), home, lost: Mutex::default() })
    }

    /// The same for one file (or directory) at every opening, also after a restart of the host, and another for a file that
    /// took its place under the same path.
    pub(crate) fn identity_of(file: &std::fs::File, name: &str) -> Result<[u8; 16]> {
        let metadata = file.metadata().map_err(|error| Error::io(format!("look at {name}"), error))?;
        let born = metadata.created().ok().and_then(|born| born.duration_since(UNIX_EPOCH).ok());
        // Device numbers move at a reboot: they stand in only where no time of birth tells two inodes apart.
        let apart = born.map_or(metadata.dev(), |born| born.as_nanos() as u64);
        let mut identity = [0; 16];
        identity[..8].copy_from_slice(&metadata.ino().to_le_bytes());
        identity[8..].copy_from_slice(&(apart ^ metadata.rdev()).to_le_bytes());
        Ok(identity)
    }

    /// The version of a file (or directory) by when it was written last, by whomever, and of what a server wrote down.
    /// Block devices know nothing.
    pub(crate) fn lineage_of(file: &std::fs::File, home: Option<&Home>, name: &str) -> Result<Option<Lineage>> {
        let Some(home) = home else { return Ok(None) };
        let metadata = file.metadata().map_err(|error| Error::io(format!("look at {name}"), error))?;
        let mut writer = [0; 16];
        writer[..8].copy_from_slice(&metadata.mtime().to_le_bytes());
        writer[8..].copy_from_slice(&((metadata.mtime_nsec() as u64) << 32 ^ metadata.len()).to_le_bytes());
        let count = home.version()?.map_or(0, |version| version.count);
        Ok(Some(Lineage { version: Version { writer, count }, own: None }))
    }

    /// What the filesystem knows of a range of a file: its holes read as zeros. Block devices know nothing.
    pub(crate) fn extents_of(file: &std::fs::File, offset: u64, length: u64, most: usize) -> Vec<Extent> {
        let end = offset + length;
        // The next byte that is in a hole, or in none; past the last byte in none there is a hole to the end.
        let next = |whence, at: u64| match lseek(file, at as i64, whence) {
            Ok(found) => Some((found as u64).min(end)),
            Err(Errno::ENXIO) => Some(end),
            Err(_) => None,
        };
        let (mut extents, mut at) = (Vec::new(), offset);
        while at < end && extents.len() < most {
            let Some(data) = next(Whence::SeekData, at) else { break };
            let (until, zero) =
                if data > at { (data, true) } else { (next(Whence::SeekHole, at).unwrap_or(end), false) };
            // A file that others change may have become another one in between.
            if until <= at {
                break;
            }
            extents.push(Extent { length: until - at, zero });
            at = until;
        }
        if extents.is_empty() {
            extents.push(Extent { length, zero: false });
        }
        extents
    }

    fn size_of(mut file: &std::fs::File, name: &str) -> Result<u64> {
        let metadata = file.metadata().map_err(|error| Error::io(format!("look at {name}"), error))?;
        if metadata.is_file() {
            return Ok(metadata.len());
        }
        if metadata.file_type().is_block_device() {
            return file.seek(SeekFrom::End(0)).map_err(|error| Error::io(format!("ask {name} for its size"), error));
        }
        Err(Error::new(Code::InvalidArgument, format!("{name} is neither a regular file nor a block device")))
    }
}

impl Backend for File {
    fn info(&self) -> &Info {
        &self.info
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.info.check(offset, buffer.len() as u64)?;
        self.file.read_exact_at(buffer, offset).map_err(|error| {
            let what = format!("{}: read {} bytes at {offset}", self.info.name, buffer.len());
            match error.kind() {
                std::io::ErrorKind::UnexpectedEof => {
                    Error::new(Code::Io, format!("{what}: the file was cut short while open"))
                }
                _ => Error::io(what, error),
            }
        })
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.info.check(offset, data.len() as u64)?;
        self.file
            .write_all_at(data, offset)
            .map_err(|error| Error::io(format!("{}: write {} bytes at {offset}", self.info.name, data.len()), error))
    }

    fn zero_at(&self, offset: u64, length: u64) -> Result<()> {
        self.info.check(offset, length)?;
        if length == 0 || punch(&self.file, offset, length).is_ok() {
            return Ok(());
        }
        // A filesystem without holes: zeros it is.
        let zeros = vec![0; length.min(1 << 20) as usize];
        let mut done = 0;
        while done < length {
            let step = (length - done).min(zeros.len() as u64);
            self.write_at(&zeros[..step as usize], offset + done)?;
            done += step;
        }
        Ok(())
    }

    fn file(&self) -> Option<Arc<std::fs::File>> {
        Some(self.file.clone())
    }

    fn extents(&self, offset: u64, length: u64, most: usize) -> Result<Vec<Extent>> {
        self.info.check(offset, length)?;
        Ok(File::extents_of(&self.file, offset, length, most))
    }

    fn sync(&self) -> Result<()> {
        // The kernel says once that it lost a write, and next time that all is well.
        let mut lost = self.lost.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(error) = &*lost {
            return Err(error.clone().context("an earlier sync failed"));
        }
        self.file.sync_data().map_err(|error| {
            let error = Error::io(format!("{}: sync", self.info.name), error);
            *lost = Some(error.clone());
            error
        })
    }

    fn home(&self) -> Option<Arc<Home>> {
        self.home.clone()
    }

    fn lineage(&self, _limit: &Limit) -> Result<Option<Lineage>> {
        File::lineage_of(&self.file, self.home.as_deref(), &self.info.name)
    }

    fn try_read_at(&self, buffer: &mut [u8], offset: u64) -> Option<Result<()>> {
        Some(self.read_at(buffer, offset))
    }

    fn try_write_at(&self, data: &[u8], offset: u64) -> Option<Result<()>> {
        Some(self.write_at(data, offset))
    }
}
