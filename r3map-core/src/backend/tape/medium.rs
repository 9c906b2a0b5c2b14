//! What records lie on: a medium that is read anywhere and written at its end.

use std::fs::File;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::record::Label;
use crate::error::{Code, Error, Result};
use crate::wire::socket;

/// What lies at an address.
pub(super) enum Found {
    /// A record.
    Record,
    /// A mark, which takes one address: all before it is durable.
    Mark,
    /// Something that cannot be read, and why.
    Unreadable(Error),
    /// Nothing: here the medium ends.
    End,
}

/// Where records lie. What was appended is read by any thread; one at a time appends, syncs and cuts.
pub(super) trait Medium: Send + Sync {
    /// The address of the first record.
    fn first(&self) -> u64;

    /// From one record's address to the next.
    fn step(&self) -> u64;

    /// Up to which address everything is known to be durable, but for what [marks](Found::Mark) say.
    fn durable(&self) -> u64;

    /// Fills `record` with the record at that address, or as much of it as it takes.
    fn look(&self, address: u64, record: &mut [u8]) -> Result<Found>;

    /// Appends a record, which may be shorter than the others are: it is filled up.
    fn append(&self, address: u64, record: &[u8]) -> Result<()>;

    /// Makes all before that address durable; tells the address at which the next record goes.
    fn sync(&self, end: u64) -> Result<u64>;

    /// Drops all from that address on, for good.
    fn cut(&self, end: u64) -> Result<()>;

    /// Whether an append that failed leaves those before it in doubt.
    fn buffers(&self) -> bool;
}

/// What an URL asks of a tape.
pub(super) struct Wanted<'a> {
    /// The URL.
    pub name: &'a str,
    pub size: Option<u64>,
    pub chunk: Option<u64>,
}

const DEFAULT_CHUNK: u64 = 64 << 10;

impl Wanted<'_> {
    /// The label of a fresh tape; `None` where the URL gives no size, and so none is to be made.
    pub fn fresh(&self, block: u32) -> Result<Option<Label>> {
        let Some(size) = self.size else { return Ok(None) };
        let label = Label { id: socket::random()?, size, chunk: self.chunk.unwrap_or(DEFAULT_CHUNK), block };
        if !label.chunk_fits() {
            let message = format!("{}: a chunk of a tape is 512 bytes to 16 MiB long, not {}", self.name, label.chunk);
            return Err(Error::new(Code::InvalidArgument, message));
        }
        Ok(Some(label))
    }

    /// The error of a tape without a label that is not to be given one.
    pub fn blank(&self) -> Error {
        let message = format!("{} is blank: add size=… to the URL to make it a tape", self.name);
        Error::new(Code::InvalidArgument, message)
    }

    /// The label that is there, unless the URL says otherwise.
    pub fn agree(&self, bytes: &[u8]) -> Result<Label> {
        let label = Label::decode(bytes).map_err(|error| {
            let todo = "restore it, or, if it is no tape of r3map's, erase it or name another";
            Error::new(Code::Corrupt, format!("{}: {}: {todo}", self.name, error.message()))
        })?;
        let other = |what, bytes| {
            let message = format!("{}: the tape was made with {what} of {bytes} bytes", self.name);
            Err(Error::new(Code::InvalidArgument, message))
        };
        match (self.size, self.chunk) {
            (Some(size), _) if size != label.size => other("a region", label.size),
            (_, Some(chunk)) if chunk != label.chunk => other("chunks", label.chunk),
            _ => Ok(label),
        }
    }
}

/// Takes the one place at a tape; readers who may not write share theirs.
pub(super) fn lock(file: File, read_only: bool, name: &str) -> Result<Flock<File>> {
    let how = if read_only { FlockArg::LockSharedNonblock } else { FlockArg::LockExclusiveNonblock };
    Flock::lock(file, how).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => Error::new(Code::Busy, format!("{name}: another has this tape open: one at a time may")),
        errno => Error::io(format!("lock {name}"), errno.into()),
    })
}
