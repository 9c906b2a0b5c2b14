//! A mounted region as an app reads and writes it: by its handle, as memory or as a file.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use r3map_core::backend::{self, Operation};
use r3map_core::cancel::Limit;
use r3map_core::device::Kind;
use r3map_core::{Backend, DeviceChoice, Mount, Slice};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Handle,
    Userfaultfd,
    Fuse,
    NbdFile,
    NbdSlice,
}

impl Shape {
    pub fn device(self) -> Option<(Kind, DeviceChoice)> {
        match self {
            Shape::Handle => None,
            Shape::Userfaultfd => Some((Kind::Userfaultfd, DeviceChoice::Userfaultfd)),
            Shape::Fuse => Some((Kind::Fuse, DeviceChoice::Fuse)),
            Shape::NbdFile | Shape::NbdSlice => Some((Kind::Nbd, DeviceChoice::Nbd(None))),
        }
    }
}

pub enum View {
    Handle(Mount),
    Slice(Slice),
    File(File),
}

impl View {
    pub fn of(mount: &Mount, shape: Shape) -> View {
        match shape {
            Shape::Handle => View::Handle(mount.clone()),
            Shape::Userfaultfd | Shape::NbdSlice => View::Slice(mount.slice().unwrap()),
            Shape::Fuse | Shape::NbdFile => View::File(mount.file().unwrap()),
        }
    }

    pub fn read(&self, buffer: &mut [u8], offset: u64) {
        match self {
            View::Handle(mount) => mount.read_at(buffer, offset).unwrap(),
            View::File(file) => file.read_exact_at(buffer, offset).unwrap(),
            View::Slice(slice) => {
                assert!(offset as usize + buffer.len() <= slice.len());
                // SAFETY: inside the slice, and its mount is open; threads that write at the same time are the test.
                unsafe { slice.as_ptr().add(offset as usize).copy_to(buffer.as_mut_ptr(), buffer.len()) }
            }
        }
    }

    pub fn write(&self, data: &[u8], offset: u64) {
        match self {
            View::Handle(mount) => mount.write_at(data, offset).unwrap(),
            View::File(file) => file.write_all_at(data, offset).unwrap(),
            View::Slice(slice) => {
                assert!(offset as usize + data.len() <= slice.len());
                // SAFETY: as in `read`.
                unsafe { slice.as_ptr().add(offset as usize).copy_from(data.as_ptr(), data.len()) }
            }
        }
    }

    /// Makes a range zero by what this view has for it.
    pub fn zero(&self, offset: u64, length: u64) {
        match self {
            View::Handle(mount) => {
                let mount: Arc<dyn Backend> = Arc::new(mount.clone());
                let limit = Limit::within(Duration::from_secs(20));
                backend::call(&mount, Operation::Zero { offset, length }, &limit, "zero").unwrap();
            }
            View::File(file) => {
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                // SAFETY: a plain call on a descriptor that lives here.
                let punched = unsafe { libc::fallocate(file.as_raw_fd(), mode, offset as i64, length as i64) };
                if punched != 0 {
                    // A block device punches whole sectors alone.
                    file.write_all_at(&vec![0; length as usize], offset).unwrap();
                }
            }
            View::Slice(_) => self.write(&vec![0; length as usize], offset),
        }
    }
}
