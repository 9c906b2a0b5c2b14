//! Where a managed mount keeps its pages: a file in memory, or one the app named.

use std::fs::{File, OpenOptions};

use crate::backend::memory::memory_file;
use crate::error::{Code, Error, Result};
use crate::page::PAGE;
use crate::url::Location;

/// Opens the file that keeps the pages of a region of `size` bytes: all holes, whole pages. A cache in a file
/// is new at each mount for now, so an existing one is refused rather than overwritten.
pub fn open(url: Option<&str>, size: u64) -> Result<File> {
    let length = size.next_multiple_of(PAGE);
    let Some(url) = url else { return memory_file(c"r3map-pages", length) };
    let location = Location::parse(url).map_err(|error| error.context("cache"))?;
    match location.scheme() {
        "memory" => memory_file(c"r3map-pages", length),
        "file" => {
            location.parameters(&[])?;
            let path = location.file_path()?;
            let file =
                OpenOptions::new().read(true).write(true).create_new(true).open(&path).map_err(|error| match error
                    .kind()
                {
                    std::io::ErrorKind::AlreadyExists => Error::new(
                        Code::Busy,
                        format!("cache: {url} exists: a cache cannot be resumed yet, so name a new file"),
                    ),
                    _ => Error::io(format!("cache: create {url}"), error),
                })?;
            file.set_len(length).map_err(|error| Error::io(format!("cache: give {url} {length} bytes"), error))?;
            Ok(file)
        }
        other => Err(Error::new(
            Code::InvalidArgument,
            format!("cache: {other} is no local store that keeps pages: use memory: or file:"),
        )),
    }
}
