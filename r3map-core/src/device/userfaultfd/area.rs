//! The addresses of a slice, and what lies behind them at each moment.

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::backend::memory::memory_file;
use crate::error::{Code, Error, Result};
use crate::page::PAGE;

/// A range of addresses of this process that is ours until it is dropped, or for good if it is reserved.
pub struct Area {
    start: NonNull<u8>,
    length: usize,
    protection: libc::c_int,
    reserved: AtomicBool,
}

// SAFETY: the range is shared memory; `Area` hands out addresses only.
unsafe impl Send for Area {}
// SAFETY: as above.
unsafe impl Sync for Area {}

impl Area {
    /// Maps a file, shared. A child made by fork does not get it: there nobody would serve its faults.
    pub fn map(file: &File, length: usize, read_only: bool) -> Result<Area> {
        let protection = libc::PROT_READ | if read_only { 0 } else { libc::PROT_WRITE };
        let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, file.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(Error::last_os(format!("map a slice of {length} bytes")));
        }
        // SAFETY: the range was mapped just now.
        unsafe { libc::madvise(start, length, libc::MADV_DONTFORK) };
        let start = NonNull::new(start.cast()).ok_or_else(|| Error::new(Code::Internal, "a mapping at NULL"))?;
        Ok(Area { start, length, protection, reserved: AtomicBool::new(false) })
    }

    /// Where it begins.
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Its length in bytes.
    pub fn length(&self) -> u64 {
        self.length as u64
    }

    /// The address of a page.
    pub fn address_of(&self, page: u64) -> u64 {
        self.start.as_ptr() as u64 + page * PAGE
    }

    /// Replaces the mapping by one that nobody may touch, at the same addresses.
    pub fn forbid(&self) -> Result<()> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
        // SAFETY: the range is ours; what looks at it afterwards faults, which is what close promises.
        let start = unsafe { libc::mmap(self.start.as_ptr().cast(), self.length, libc::PROT_NONE, flags, -1, 0) };
        if start == libc::MAP_FAILED { Err(Error::last_os("end a slice")) } else { Ok(()) }
    }

    /// Keeps the addresses out of use once this is dropped.
    pub fn reserve(&self) {
        self.reserved.store(true, Ordering::Relaxed);
    }

    /// Makes touches of a page a SIGBUS, where the kernel has no call for it: a page behind a file's end.
    pub fn break_page(&self, page: u64) -> Result<()> {
        let nothing = memory_file(c"r3map-broken-page", 0)?;
        self.replace_page(page, &nothing, 0, self.protection)
    }

    /// Maps a page of the file again that was broken; until [`allow_page`](Area::allow_page) a touch of it is
    /// a SIGSEGV, since nobody serves its faults yet and it would be zeros.
    pub fn mend_page(&self, page: u64, file: &File) -> Result<()> {
        self.replace_page(page, file, page * PAGE, libc::PROT_NONE)
    }

    /// Lets a mended page be touched.
    pub fn allow_page(&self, page: u64) -> Result<()> {
        let address = self.checked(page);
        // SAFETY: the page is ours, and the protection is what the rest of the range has.
        match unsafe { libc::mprotect(address, PAGE as usize, self.protection) } {
            0 => Ok(()),
            _ => Err(Error::last_os("open a page of a slice again")),
        }
    }

    /// Drops the page table entries of a run of pages; the file keeps the bytes, if any.
    pub fn unmap(&self, pages: Range<u64>) {
        assert!(pages.start < pages.end && pages.end <= self.length() / PAGE);
        let (address, length) = (self.checked(pages.start), (pages.end - pages.start) * PAGE);
        // SAFETY: the pages are ours and shared with their file, so that no bytes are lost.
        unsafe { libc::madvise(address, length as usize, libc::MADV_DONTNEED) };
    }

    fn replace_page(&self, page: u64, file: &File, offset: u64, protection: libc::c_int) -> Result<()> {
        let address = self.checked(page);
        let flags = libc::MAP_SHARED | libc::MAP_NORESERVE | libc::MAP_FIXED;
        // SAFETY: the page is ours, and its bytes live in the region's file, not in the mapping.
        unsafe {
            let mapped = libc::mmap(address, PAGE as usize, protection, flags, file.as_raw_fd(), offset as libc::off_t);
            if mapped == libc::MAP_FAILED {
                return Err(Error::last_os("replace a page of a slice"));
            }
            libc::madvise(address, PAGE as usize, libc::MADV_DONTFORK);
        }
        Ok(())
    }

    fn checked(&self, page: u64) -> *mut libc::c_void {
        assert!(page < self.length() / PAGE);
        self.address_of(page) as *mut libc::c_void
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        if self.reserved.load(Ordering::Relaxed) && self.forbid().is_ok() {
            return;
        }
        // SAFETY: the range is ours and nobody is handed it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}
