//! How the kernel shows a region: as a path, a file or a slice of memory.
//!
//! A device serves a [`Backend`](crate::Backend) (what stands between it and the store is of no concern to it), one file a
//! kind. It is attached at the first call that needs it and kept until the mount closes.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::time::Duration;

use crate::cancel::Limit;
use crate::error::{Code, Error, Result};

pub mod fuse;
pub mod nbd;
pub mod userfaultfd;

/// The kinds of device there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A kernel NBD block device: path, file and slice.
    Nbd,
    /// Page faults served in this process: slice.
    Userfaultfd,
    /// A regular file by FUSE: path and file.
    Fuse,
}

impl Kind {
    /// All kinds, in the order in which `auto` tries those that give the view. For a slice nbd comes last: when
    /// memory is short, a process that serves its own mapping of a block device can come to wait for itself.
    pub const ALL: [Kind; 3] = [Kind::Userfaultfd, Kind::Nbd, Kind::Fuse];

    /// The name an option takes.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Nbd => "nbd",
            Kind::Userfaultfd => "userfaultfd",
            Kind::Fuse => "fuse",
        }
    }

    /// Whether it shows a region in this way.
    pub fn gives(self, view: View) -> bool {
        match self {
            Kind::Nbd => true,
            Kind::Userfaultfd => view == View::Slice,
            Kind::Fuse => view != View::Slice,
        }
    }

    /// Whether this process could attach one now; the error says what is missing and how to get it.
    pub fn probe(self) -> Result<()> {
        match self {
            Kind::Nbd => nbd::probe(),
            Kind::Userfaultfd => userfaultfd::probe(),
            Kind::Fuse => fuse::probe(),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a caller wants to see of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// A path that other programs open.
    Path,
    /// A descriptor.
    File,
    /// Memory of this process.
    Slice,
}

impl View {
    /// All views.
    pub const ALL: [View; 3] = [View::Path, View::File, View::Slice];
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            View::Path => "path",
            View::File => "file",
            View::Slice => "slice",
        })
    }
}

/// How a device is attached.
#[derive(Clone, Debug)]
pub struct Attach {
    /// What the region is, for messages.
    pub name: String,
    /// Show it read-only.
    pub read_only: bool,
    /// The nbd device to take, or the file to mount fuse over, where one was named.
    pub path: Option<PathBuf>,
    /// Read-ahead in bytes; `None` is the device's own choice.
    pub read_ahead: Option<u64>,
    /// How long a request may take before it fails; zero is for ever. The kernel's own bound is longer.
    pub deadline: Duration,
}

/// A region shown by the kernel. Methods may be called from many threads.
pub trait Device: Send + Sync {
    /// Which kind.
    fn kind(&self) -> Kind;

    /// Where other programs find it.
    fn path(&self) -> Result<&Path> {
        Err(cannot_give(self.kind(), View::Path))
    }

    /// A new descriptor of it, for the caller to own.
    fn file(&self) -> Result<File> {
        Err(cannot_give(self.kind(), View::File))
    }

    /// Where it lies in this process, and its length: the region's size, the mapping reaching to the end of
    /// the last page. The memory is valid until `detach`.
    fn slice(&self) -> Result<(NonNull<u8>, usize)> {
        Err(cannot_give(self.kind(), View::Slice))
    }

    /// Keeps the addresses of a slice that was handed out from being used for anything else, also after the device is gone.
    fn reserve(&self) {}

    /// Reads as its other views see it. The range lies inside the region.
    fn read_at(&self, buffer: &mut [u8], offset: u64, limit: &Limit) -> Result<()>;

    /// Writes so that its other views see it. The range lies inside the region.
    fn write_at(&self, data: &[u8], offset: u64, limit: &Limit) -> Result<()>;

    /// Brings every write that the kernel still holds to the backend it serves, which may not have synced.
    fn flush(&self, limit: &Limit) -> Result<()>;

    /// Ends it: path and descriptors fail, the slice's memory can no longer be touched. Writes that were not
    /// flushed may be lost. Safe to call twice.
    fn detach(&self) -> Result<()>;
}

/// The error for a view that a device does not give; it names the devices that could.
pub fn cannot_give(kind: Kind, view: View) -> Error {
    let able = match view {
        View::Path | View::File => "nbd or fuse",
        View::Slice => "nbd or userfaultfd",
    };
    Error::new(
        Code::Unsupported,
        format!("a {kind} device gives no {view}, and a mount keeps the device it has: open it with device={able}"),
    )
}
