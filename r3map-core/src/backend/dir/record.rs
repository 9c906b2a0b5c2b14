//! `.r3map`: what a directory of chunks says of itself, as lines of a word and a value. Lines of words not
//! known here are passed over.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;

use crate::backend::dir::CHUNKS;
use crate::error::{Code, Error, Result};

const NAME: &str = ".r3map";
/// Its name until it is whole.
pub const NAME_WHILE_WRITTEN: &str = ".r3map.new";
const LONGEST: u64 = 64 << 10;

/// The shape of a directory of chunks.
pub struct Record {
    /// Bytes of the region.
    pub size: u64,
    /// Bytes of a chunk.
    pub chunk: u64,
}

impl Record {
    /// Reads the record of a directory, if it has one; `name` is the directory's for messages.
    pub fn read(directory: &File, name: &str) -> Result<Option<Record>> {
        let file = match openat(directory.as_fd(), NAME, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(Error::io(format!("{name}: open {NAME}"), errno.into())),
        };
        let mut text = String::new();
        let read = file.take(LONGEST).read_to_string(&mut text);
        read.map_err(|error| Error::io(format!("{name}: read {NAME}"), error))?;
        Record::parse(&text, name).map(Some)
    }

    /// The record that says so.
    pub fn parse(text: &str, name: &str) -> Result<Record> {
        let number = |word: &str| -> Option<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(word)?.strip_prefix(' '));
            line?.trim().parse().ok()
        };
        match (number("size"), number("chunk")) {
            (Some(size), Some(chunk)) if size <= i64::MAX as u64 && CHUNKS.contains(&chunk) => {
                Ok(Record { size, chunk })
            }
            _ => {
                let message = format!("{name}: its record {NAME} says no size and chunk");
                Err(Error::new(Code::Corrupt, format!("{message}: restore it, or remove it and give both in the URL")))
            }
        }
    }

    /// Writes it so that after a crash it is there whole or not at all.
    pub fn write(&self, directory: &File, name: &str) -> Result<()> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_CLOEXEC;
        let mode = Mode::from_bits_truncate(0o666);
        let written =
            openat(directory.as_fd(), NAME_WHILE_WRITTEN, flags, mode).map_err(std::io::Error::from).and_then(|file| {
                let mut file = File::from(file);
                write!(file, "size {}\nchunk {}\n", self.size, self.chunk)?;
                file.sync_data()?;
                renameat(directory.as_fd(), NAME_WHILE_WRITTEN, directory.as_fd(), NAME)?;
                directory.sync_all()
            });
        written.map_err(|error| Error::io(format!("{name}: write {NAME}"), error))
    }
}
