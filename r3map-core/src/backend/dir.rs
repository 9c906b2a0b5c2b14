//! `dir:///path?chunk=64KiB&size=…` — a directory of chunks, one file each, named by its offset in decimal.
//!
//! The layout is the Go library's: `0`, `65536`, `131072`, …, each a chunk long; the last may be shorter.
//! A chunk without a file, or with an empty one, is zero, and reading creates nothing. Every other file that
//! ends before its chunk does has lost bytes, and reading those is `corrupt`. Names that are no offset are
//! not looked at. A directory made here also holds `.r3map`, which says its size and chunk; one made by the
//! Go library says neither, so its URL must.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use crate::backend::file::File;
use crate::backend::memory::punch;
use crate::backend::parts::{CHUNKS, Part, parts, transfer_unit};
use crate::backend::{Backend, Info};
use crate::buffer::Buffer;
use crate::error::{Code, Error, Result};
use crate::migration::home::Home;
use crate::url::Location;
use chunks::{Chunk, Chunks};
use record::Record;

pub(crate) mod chunks;
pub(crate) mod record;

const DEFAULT_CHUNK: u64 = 64 << 10;
/// How many names of a directory without a record are looked at when it is opened.
const GLANCE: usize = 256;

/// A directory of this host. `sync` is fdatasync of each file written and fsync of the directory; the first one
/// after opening is syncfs too, for what a process that died had written.
pub struct Directory {
    info: Info,
    chunk: u64,
    chunks: Chunks,
    home: Arc<Home>,
}

/// What the URL asks for.
struct Wanted<'a> {
    name: &'a str,
    size: Option<u64>,
    chunk: Option<u64>,
}

impl Directory {
    /// Opens `dir:///path`. A directory that is missing is created, and an empty one given its record, only
    /// where the URL gives a size. A size or chunk that differs from the record's is refused. Without
    /// permission to write to the directory it is read-only.
    pub fn open(location: &Location) -> Result<Directory> {
        let path = location.file_path()?;
        let parameters = location.parameters(&["chunk", "size"])?;
        let name = location.as_str();
        let wanted = Wanted { name, size: parameters.size("size")?, chunk: parameters.size("chunk")? };
        if let Some(chunk) = wanted.chunk.filter(|chunk| !CHUNKS.contains(chunk)) {
            return Err(invalid(format!("{name}: a chunk is 512 bytes to 1 GiB long, not {chunk} bytes")));
        }
        if wanted.size.is_some() {
            make(&path, name)?;
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = match nix::fcntl::open(&path, flags, Mode::empty()) {
            Ok(directory) => std::fs::File::from(directory),
            Err(Errno::ENOTDIR) => return Err(invalid(format!("{name} is not a directory"))),
            Err(errno) => return Err(Error::io(format!("open {name}"), errno.into())),
        };
        let read_only = is_read_only(&directory, name)?;
        let Record { size, chunk } = match Record::read(&directory, name)? {
            Some(record) => wanted.agree(record)?,
            None => wanted.found(&path, &directory, read_only)?,
        };
        let chunk_size = transfer_unit(chunk);
        let identity = Some(File::identity_of(&directory, name)?);
        let info = Info { read_only, chunk_size, identity, ..Info::local(name, size) };
        Ok(Directory {
            chunks: Chunks::new(directory, name, size, chunk, read_only),
            home: Home::beside(&path),
            info,
            chunk,
        })
    }

    fn write_zeros(&self, file: &Chunk, within: u64, length: u64) -> Result<()> {
        let zeros = Buffer::zeroed(length.min(1 << 20) as usize);
        for begin in (0..length).step_by(1 << 20) {
            let part = &zeros[..(length - begin).min(1 << 20) as usize];
            self.chunks.write(file, part, within + begin)?;
        }
        Ok(())
    }

    fn check_write(&self, offset: u64, length: u64) -> Result<()> {
        if self.info.read_only {
            return Err(Error::new(Code::ReadOnly, format!("{}: this user may not write to it", self.info.name)));
        }
        self.info.check(offset, length)
    }
}

fn invalid(message: String) -> Error {
    Error::new(Code::InvalidArgument, message)
}

/// Creates the directory, if it is missing, so that it is still there after a crash.
fn make(path: &Path, name: &str) -> Result<()> {
    match std::fs::create_dir(path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
        // One that is there can be opened even where none could be made.
        Err(_) if path.is_dir() => return Ok(()),
        Err(error) => return Err(Error::io(format!("create {name}"), error)),
    }
    let parent = path.parent().unwrap_or(Path::new("/"));
    let synced = std::fs::File::open(parent).and_then(|parent| parent.sync_all());
    synced.map_err(|error| Error::io(format!("create {name}: sync {}", parent.display()), error))
}

fn is_read_only(directory: &std::fs::File, name: &str) -> Result<bool> {
    use nix::unistd::{AccessFlags, faccessat};
    let access = AccessFlags::W_OK | AccessFlags::X_OK;
    match faccessat(directory.as_fd(), ".", access, nix::fcntl::AtFlags::AT_EACCESS) {
        Ok(()) => Ok(false),
        Err(Errno::EACCES | Errno::EROFS | Errno::EPERM) => Ok(true),
        Err(errno) => Err(Error::io(format!("ask whether {name} may be written"), errno.into())),
    }
}

impl Wanted<'_> {
    /// The record, unless the URL says otherwise.
    fn agree(&self, record: Record) -> Result<Record> {
        let name = self.name;
        if self.size.is_some_and(|size| size != record.size) {
            return Err(invalid(format!("{name}: the directory was made for {} bytes", record.size)));
        }
        if self.chunk.is_some_and(|chunk| chunk != record.chunk) {
            return Err(invalid(format!("{name}: the directory was made with chunks of {} bytes", record.chunk)));
        }
        Ok(record)
    }

    /// The shape of a directory without a record, which is given one if there is nothing in it yet.
    fn found(&self, path: &Path, directory: &std::fs::File, read_only: bool) -> Result<Record> {
        let name = self.name;
        let Some(size) = self.size else {
            return Err(invalid(format!("{name}: the directory does not say its size: add size=… to the URL")));
        };
        let record = Record { size, chunk: self.chunk.unwrap_or(DEFAULT_CHUNK) };
        let entries = std::fs::read_dir(path).map_err(|error| Error::io(format!("list {name}"), error))?;
        let mut empty = true;
        for entry in entries.take(GLANCE) {
            let entry = entry.map_err(|error| Error::io(format!("list {name}"), error))?;
            let file = entry.file_name();
            // What a crash left of a first try to give it a record is nothing.
            empty &= file == record::NAME_WHILE_WRITTEN;
            let Some(offset) = file.to_str().and_then(chunks::offset_of_name) else { continue };
            if offset % record.chunk != 0 {
                let message = format!("{name}: no chunk of {} bytes begins at its file {offset}", record.chunk);
                return Err(invalid(format!("{message}: say with which chunk=… it was written")));
            }
            if offset >= size {
                let message = format!("{name}: the chunk at {offset} lies outside the {size} bytes that size= gives");
                return Err(invalid(message));
            }
        }
        if empty && !read_only {
            record.write(directory, name)?;
        }
        Ok(record)
    }
}

impl Backend for Directory {
    fn info(&self) -> &Info {
        &self.info
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.info.check(offset, buffer.len() as u64)?;
        let mut rest = buffer;
        for Part { chunk, within, length } in parts(self.chunk, offset, rest.len() as u64) {
            let (part, after) = rest.split_at_mut(length as usize);
            match self.chunks.existing(chunk)? {
                None => part.fill(0),
                Some(file) => self.chunks.read(&file, part, within)?,
            }
            rest = after;
        }
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.check_write(offset, data.len() as u64)?;
        let mut rest = data;
        for Part { chunk, within, length } in parts(self.chunk, offset, data.len() as u64) {
            let (part, after) = rest.split_at(length as usize);
            self.chunks.write(&*self.chunks.writable(chunk)?, part, within)?;
            rest = after;
        }
        Ok(())
    }

    fn zero_at(&self, offset: u64, length: u64) -> Result<()> {
        self.check_write(offset, length)?;
        for Part { chunk, within, length } in parts(self.chunk, offset, length) {
            if within == 0 && length == self.chunk.min(self.info.size - chunk) {
                self.chunks.remove(chunk)?;
            } else if self.chunks.existing(chunk)?.is_some() {
                let file = self.chunks.writable(chunk)?;
                match punch(file.as_file(), within, length) {
                    Ok(()) => file.mark_written(),
                    // A filesystem without holes: zeros it is.
                    Err(_) => self.write_zeros(&file, within, length)?,
                }
            }
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.chunks.sync()
    }

    fn home(&self) -> Option<Arc<Home>> {
        Some(self.home.clone())
    }

    fn try_read_at(&self, buffer: &mut [u8], offset: u64) -> Option<Result<()>> {
        Some(self.read_at(buffer, offset))
    }

    fn try_write_at(&self, data: &[u8], offset: u64) -> Option<Result<()>> {
        Some(self.write_at(data, offset))
    }
}
