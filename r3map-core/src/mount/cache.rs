//! Where a managed mount keeps its pages: a file in memory, or one the app named.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::backend::memory::memory_file;
use crate::error::{Code, Error, Result};
use crate::page::PAGE;
use crate::url::Location;

/// A cache in a file. It cannot be resumed yet, so a mount that closes takes it away; after a crash, or a mount
/// that was dropped without close, it stays, for what was not pushed is in it.
pub struct CacheFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl CacheFile {
    /// Takes the file away, unless another took its place under the name.
    pub fn remove(&self) {
        let now = std::fs::symlink_metadata(&self.path).map(|found| (found.dev(), found.ino()));
        if !now.is_ok_and(|now| now == self.identity) {
            return;
        }
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a cache that is of no more use stays");
        }
    }
}

/// The file that keeps the pages of a region of `size` bytes: all holes, whole pages; and its name, where it has
/// one. A cache in a file is new at each mount, so an existing one is refused rather than overwritten.
pub fn open(url: Option<&str>, size: u64) -> Result<(File, Option<CacheFile>)> {
    let length = size.next_multiple_of(PAGE);
    let Some(url) = url else { return Ok((memory_file(c"r3map-pages", length)?, None)) };
    let location = Location::parse(url).map_err(|error| error.context("cache"))?;
    match location.scheme() {
        "memory" => {
            location.parameters(&[]).map_err(|error| error.context("cache"))?;
            Ok((memory_file(c"r3map-pages", length)?, None))
        }
        "file" => {
            location.parameters(&[]).map_err(|error| error.context("cache"))?;
            let path = location.file_path().map_err(|error| error.context("cache"))?;
            let created = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
            let file = created.map_err(|error| match error.kind() {
                std::io::ErrorKind::AlreadyExists => Error::new(
                    Code::Busy,
                    format!("cache: {url} exists: a cache cannot be resumed yet, so name a new file"),
                )
                .with_retryable(false),
                _ => Error::io(format!("cache: create {url}"), error),
            })?;
            let metadata = file.metadata().map_err(|error| Error::io(format!("cache: look at {url}"), error))?;
            let cache = CacheFile { path, identity: (metadata.dev(), metadata.ino()) };
            if let Err(error) = file.set_len(length) {
                cache.remove();
                return Err(Error::io(format!("cache: give {url} {length} bytes"), error));
            }
            Ok((file, Some(cache)))
        }
        other => Err(Error::new(
            Code::InvalidArgument,
            format!("cache: {other} is no local store that keeps pages: use memory: or file:"),
        )),
    }
}
