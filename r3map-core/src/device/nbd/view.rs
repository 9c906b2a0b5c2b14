//! The device as memory of this process.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};
use crate::thread::Process;

/// A shared mapping of a device, unmapped when dropped unless it is reserved. Not inherited by a forked child.
pub struct View {
    start: NonNull<u8>,
    length: usize,
    fenced: AtomicBool,
    reserved: AtomicBool,
    process: Process,
}

// SAFETY: the mapping belongs to the process, not to a thread, and only raw pointers to it are given out.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl View {
    /// Maps the first `length` bytes of a device. A length of zero maps nothing.
    pub fn of_device(file: &File, length: usize, read_only: bool) -> Result<View> {
        let (fenced, reserved) = (AtomicBool::new(false), AtomicBool::new(false));
        let view = |start| View { start, length, fenced, reserved, process: Process::current() };
        if length == 0 {
            return Ok(view(NonNull::dangling()));
        }
        let protection = if read_only { libc::PROT_READ } else { libc::PROT_READ | libc::PROT_WRITE };
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(Error::last_os(format!("map {length} bytes of a device")));
        }
        // SAFETY: the range is the mapping just made, by nobody else known.
        if unsafe { libc::madvise(start, length, libc::MADV_DONTFORK) } != 0 {
            let error = Error::last_os("keep a mapping from forked children");
            // SAFETY: as above.
            unsafe { libc::munmap(start, length) };
            return Err(error);
        }
        NonNull::new(start.cast()).map(view).ok_or_else(|| Error::last_os("map a device"))
    }

    /// The first byte.
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Keeps the addresses out of use once this is dropped.
    pub fn reserve(&self) {
        self.reserved.store(true, Ordering::Relaxed);
    }

    /// Takes the bytes away but keeps the range: whoever touches it from now on gets a SIGSEGV, never
    /// another mapping that happened to come to lie there.
    pub fn fence(&self) -> Result<()> {
        if self.length == 0 || !self.process.is_current() || self.fenced.load(Ordering::Acquire) {
            return Ok(());
        }
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
        // SAFETY: replaces a mapping that is ours until drop, by one that nobody can read or write.
        let start = unsafe { libc::mmap(self.start.as_ptr().cast(), self.length, libc::PROT_NONE, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(Error::last_os("fence the mapping of a device"));
        }
        self.fenced.store(true, Ordering::Release);
        Ok(())
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if self.reserved.load(Ordering::Relaxed) && self.fence().is_ok() {
            return;
        }
        if self.length > 0 && self.process.is_current() {
            // SAFETY: the range is ours, and whoever was given its address held the device, hence `self`.
            unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
        }
    }
}
