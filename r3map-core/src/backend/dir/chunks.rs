//! The chunk files of a directory: opened when they are needed, a bounded number of them kept open.
//!
//! Names change (create, remove) only under the lock, so that a chunk never has two files. Bytes are read and
//! written without it. A file that was written stays open until it is synced: the kernel tells of a failed
//! write-back only through descriptors that were open when it happened.

use std::collections::HashMap;
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::error::{Code, Error, Result};

/// How many files are kept open: a fair share of the 1,024 that a process may usually have.
const KEPT_OPEN: usize = 128;

/// The offset that a file's name stands for; only the one way to write a number counts.
pub fn offset_of_name(name: &str) -> Option<u64> {
    name.parse().ok().filter(|offset: &u64| offset.to_string() == name)
}

/// A chunk's open file.
pub struct Chunk {
    file: File,
    offset: u64,
    read_only: bool,
    /// Known to be as long as a chunk, as it must be to be written to.
    whole: AtomicBool,
    /// Written, or given another length, since it was last synced.
    written: AtomicBool,
}

impl Chunk {
    fn new(file: File, offset: u64, read_only: bool) -> Chunk {
        Chunk { file, offset, read_only, whole: false.into(), written: false.into() }
    }

    /// The file itself.
    pub fn as_file(&self) -> &File {
        &self.file
    }

    /// Says that it was changed, after it was and before anybody is told.
    pub fn mark_written(&self) {
        self.written.store(true, Ordering::Release);
    }
}

/// The chunk files of one directory.
pub struct Chunks {
    directory: File,
    /// For messages.
    name: String,
    size: u64,
    chunk: u64,
    read_only: bool,
    open: Mutex<Open>,
    /// Held by the one who syncs, so that a second one returns only when the first one's files are durable too.
    syncing: Mutex<Lost>,
}

#[derive(Default)]
struct Open {
    chunks: HashMap<u64, (Arc<Chunk>, u64)>,
    uses: u64,
    /// Files were created or removed since the directory was last synced.
    names_changed: bool,
    /// What a process before this one wrote is known to be durable: it may have died before it could sync.
    inherited_synced: bool,
}

/// The first failure to write back. The kernel drops such bytes and says so once: it stays.
type Lost = Option<Error>;

impl Chunks {
    /// The files of `directory` for a region of `size` bytes in chunks of `chunk`.
    pub fn new(directory: File, name: &str, size: u64, chunk: u64, read_only: bool) -> Chunks {
        let (open, syncing) = Default::default();
        Chunks { directory, name: name.to_owned(), size, chunk, read_only, open, syncing }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn is_last(&self, offset: u64) -> bool {
        self.size - offset <= self.chunk
    }

    /// The file of the chunk at `offset`, if it has one.
    pub fn existing(&self, offset: u64) -> Result<Option<Arc<Chunk>>> {
        let mut open = self.lock_with_room(offset)?;
        if let Some(chunk) = open.used(offset) {
            return Ok(Some(chunk));
        }
        let chunk = self.open_file(offset)?;
        Ok(chunk.map(|chunk| open.keep(chunk)))
    }

    /// The file of the chunk at `offset`, created if it has none, as long as a chunk.
    pub fn writable(&self, offset: u64) -> Result<Arc<Chunk>> {
        let mut open = self.lock_with_room(offset)?;
        let chunk = match open.used(offset) {
            Some(chunk) => chunk,
            None => {
                let chunk = match self.open_file(offset)? {
                    Some(chunk) => chunk,
                    None => {
                        open.names_changed = true;
                        self.create_file(offset)?
                    }
                };
                open.keep(chunk)
            }
        };
        if chunk.read_only {
            let message = format!("{}: this user may not write to its file {offset}", self.name);
            return Err(Error::new(Code::PermissionDenied, message));
        }
        if !chunk.whole.load(Ordering::Relaxed) {
            self.make_whole(&chunk)?;
        }
        Ok(chunk)
    }

    /// Gives a chunk's file its length, under the lock, so that no reader finds it written in part. Until then
    /// a fresh one is empty, which is zero as having none is: a crash between leaves nothing that reads wrong.
    fn make_whole(&self, chunk: &Chunk) -> Result<()> {
        let length = self.length(chunk)?;
        if length < self.chunk {
            self.check_short(chunk.offset, length)?;
            let grown = chunk.file.set_len(self.chunk);
            grown.map_err(|error| self.failed("give a whole chunk to", chunk.offset, error))?;
            chunk.mark_written();
        }
        chunk.whole.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Reads from a chunk's file.
    pub fn read(&self, chunk: &Chunk, buffer: &mut [u8], within: u64) -> Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            match chunk.file.read_at(&mut buffer[done..], within + done as u64) {
                Ok(0) => {
                    self.check_short(chunk.offset, self.length(chunk)?)?;
                    buffer[done..].fill(0);
                    return Ok(());
                }
                Ok(length) => done += length,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed("read", chunk.offset, error)),
            }
        }
        Ok(())
    }

    /// Writes to a chunk's file that is as long as a chunk.
    pub fn write(&self, chunk: &Chunk, data: &[u8], within: u64) -> Result<()> {
        let write = chunk.file.write_all_at(data, within);
        chunk.mark_written();
        write.map_err(|error| self.failed("write", chunk.offset, error))
    }

    /// Removes a chunk's file, if it has one: the chunk is zero.
    pub fn remove(&self, offset: u64) -> Result<()> {
        let mut open = self.lock();
        match unlinkat(self.directory.as_fd(), offset.to_string().as_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) => open.names_changed = true,
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(self.failed("remove", offset, errno.into())),
        }
        open.chunks.remove(&offset);
        Ok(())
    }

    /// Makes every write, creation and removal acknowledged before this call durable.
    pub fn sync(&self) -> Result<()> {
        let mut lost = self.syncing.lock().unwrap_or_else(|e| e.into_inner());
        let inherited = !self.read_only && !self.lock().inherited_synced;
        if inherited {
            let synced = nix::unistd::syncfs(self.directory.as_fd());
            let synced =
                synced.map_err(|errno| Error::io(format!("{}: sync its file system", self.name), errno.into()));
            synced.inspect_err(|error| *lost = Some(error.clone()))?;
            self.lock().inherited_synced = true;
        }
        self.sync_files(&mut lost)?;
        // After the files, so that no name stands for bytes that are not there yet.
        if std::mem::take(&mut self.lock().names_changed) {
            let synced = self.directory.sync_all();
            let synced = synced.map_err(|error| Error::io(format!("{}: sync the directory", self.name), error));
            return synced.inspect_err(|error| *lost = Some(error.clone()));
        }
        Ok(())
    }

    fn sync_files(&self, lost: &mut Lost) -> Result<()> {
        let written: Vec<_> = {
            let open = self.lock();
            let written = open.chunks.values().filter(|(chunk, _)| chunk.written.swap(false, Ordering::AcqRel));
            written.map(|(chunk, _)| chunk.clone()).collect()
        };
        // All on their way before the first is waited for: most then share one commit of a journal.
        for chunk in &written {
            let (file, begin) = (chunk.file.as_raw_fd(), libc::SYNC_FILE_RANGE_WRITE);
            // SAFETY: a plain system call on a descriptor that is open; should it fail, the sync below says why.
            unsafe { libc::sync_file_range(file, 0, 0, begin) };
        }
        for chunk in &written {
            if let Err(error) = chunk.file.sync_data() {
                lost.get_or_insert(self.failed("sync", chunk.offset, error));
            }
        }
        match lost {
            None => Ok(()),
            Some(error) => Err(error.clone()),
        }
    }

    /// The lock, with room for one more open file unless the chunk's is open: the one that was not used for
    /// longest is closed, and what was written is synced where there is no other.
    fn lock_with_room(&self, offset: u64) -> Result<MutexGuard<'_, Open>> {
        let mut open = self.lock();
        if open.has_room_for(offset) || open.close_one() {
            return Ok(open);
        }
        drop(open);
        let mut lost = self.syncing.lock().unwrap_or_else(|e| e.into_inner());
        self.sync_files(&mut lost)?;
        drop(lost);
        let mut open = self.lock();
        if !open.has_room_for(offset) {
            // Where all are in use at this moment there is one more for each thread that uses one.
            open.close_one();
        }
        Ok(open)
    }

    fn open_by_name(&self, offset: u64, flags: OFlag) -> nix::Result<File> {
        let mode = Mode::from_bits_truncate(0o666);
        openat(self.directory.as_fd(), offset.to_string().as_str(), flags, mode).map(File::from)
    }

    fn open_file(&self, offset: u64) -> Result<Option<Chunk>> {
        // Not to wait should somebody have put a pipe here; and a link that leads nowhere is no missing chunk.
        let flags = OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let access = |access| match self.open_by_name(offset, flags | access | OFlag::O_NOFOLLOW) {
            Err(Errno::ENOENT) => Ok(None),
            Err(Errno::ELOOP) => self.open_by_name(offset, flags | access).map(Some),
            opened => opened.map(Some),
        };
        let (opened, read_only) = match if self.read_only { Err(Errno::EROFS) } else { access(OFlag::O_RDWR) } {
            Err(Errno::EACCES | Errno::EPERM | Errno::EROFS) => (access(OFlag::O_RDONLY), true),
            opened => (opened, false),
        };
        let Some(file) = opened.map_err(|errno| self.failed("open", offset, errno.into()))? else { return Ok(None) };
        let metadata = file.metadata().map_err(|error| self.failed("look at", offset, error))?;
        let what = if !metadata.is_file() {
            "is no regular file"
        } else if metadata.len() > self.chunk {
            "is longer than a chunk: was it written with another chunk=…?"
        } else {
            return Ok(Some(Chunk::new(file, offset, read_only)));
        };
        Err(Error::new(Code::Corrupt, format!("{}: its file {offset} {what}", self.name)))
    }

    fn create_file(&self, offset: u64) -> Result<Chunk> {
        // Not exclusively: another process may share the store, and what it creates is as empty.
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = self.open_by_name(offset, flags);
        Ok(Chunk::new(file.map_err(|errno| self.failed("create", offset, errno.into()))?, offset, false))
    }

    fn length(&self, chunk: &Chunk) -> Result<u64> {
        let metadata = chunk.file.metadata().map_err(|error| self.failed("look at", chunk.offset, error))?;
        Ok(metadata.len())
    }

    /// An error if a file of that length, short of a chunk, has lost bytes.
    fn check_short(&self, offset: u64, length: u64) -> Result<()> {
        if length == 0 || self.is_last(offset) {
            return Ok(());
        }
        let message = format!("{}: its file {offset} ends after {length} of {} bytes", self.name, self.chunk);
        Err(Error::new(Code::Corrupt, format!("{message}: restore it, or make it that long if the rest is zero")))
    }

    fn failed(&self, what: &str, offset: u64, error: std::io::Error) -> Error {
        Error::io(format!("{}: {what} its file {offset}", self.name), error)
    }
}

impl Open {
    fn used(&mut self, offset: u64) -> Option<Arc<Chunk>> {
        self.uses += 1;
        let (chunk, used) = self.chunks.get_mut(&offset)?;
        *used = self.uses;
        Some(chunk.clone())
    }

    fn keep(&mut self, chunk: Chunk) -> Arc<Chunk> {
        let chunk = Arc::new(chunk);
        self.chunks.insert(chunk.offset, (chunk.clone(), self.uses));
        chunk
    }

    fn has_room_for(&self, offset: u64) -> bool {
        self.chunks.len() < KEPT_OPEN || self.chunks.contains_key(&offset)
    }

    /// Closes the file that was not used for longest, of those that nobody uses and that are synced.
    fn close_one(&mut self) -> bool {
        // Who uses one got it under the lock that is held here, and says that it was written before it lets go.
        let idle = self.chunks.iter().filter(|(_, (chunk, _))| Arc::strong_count(chunk) == 1);
        let synced = idle.filter(|(_, (chunk, _))| !chunk.written.load(Ordering::Acquire));
        let oldest = synced.min_by_key(|(_, (_, used))| *used).map(|(offset, _)| *offset);
        oldest.and_then(|offset| self.chunks.remove(&offset)).is_some()
    }
}
