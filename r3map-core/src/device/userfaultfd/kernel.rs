//! The kernel's userfaultfd and PAGEMAP_SCAN, as far as they are used here (linux/userfaultfd.h and
//! linux/fs.h; the numbers are ABI).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::page::PAGE;

const API: u64 = 0xAA;
/// Faults on pages of shared memory that were never there are told.
pub const MISSING_SHMEM: u64 = 1 << 5;
/// Faults on pages of shared memory that are there but not mapped are told (5.13).
pub const MINOR_SHMEM: u64 = 1 << 10;
/// Write protection on shared memory (5.19).
pub const WP_SHMEM: u64 = 1 << 12;
/// A page can be made to fault with SIGBUS (6.6).
pub const POISON: u64 = 1 << 14;
/// Write-protect faults are resolved by the kernel and only noted (6.7).
pub const WP_ASYNC: u64 = 1 << 15;

/// The fault is a store to a page that is protected.
pub const FAULT_WP: u64 = 1 << 1;
/// The fault is on a page that is there but not mapped.
pub const FAULT_MINOR: u64 = 1 << 2;
const EVENT_PAGEFAULT: u8 = 0x12;

const REGISTER_MISSING: u64 = 1 << 0;
const REGISTER_WP: u64 = 1 << 1;
const REGISTER_MINOR: u64 = 1 << 2;
const MODE_WP: u64 = 1 << 1;
const PROTECT: u64 = 1 << 0;
const USER_MODE_ONLY: libc::c_int = 1;

const fn ioctl(direction: u64, kind: u64, number: u64, size: usize) -> libc::c_ulong {
    direction << 30 | (size as u64) << 16 | kind << 8 | number
}
const READ_WRITE: u64 = 3;
const READ: u64 = 2;
const IOC_NEW: libc::c_ulong = ioctl(0, API, 0x00, 0);
const IOC_API: libc::c_ulong = ioctl(READ_WRITE, API, 0x3F, size_of::<ApiArgument>());
const IOC_REGISTER: libc::c_ulong = ioctl(READ_WRITE, API, 0x00, size_of::<RegisterArgument>());
const IOC_WAKE: libc::c_ulong = ioctl(READ, API, 0x02, size_of::<Span>());
const IOC_COPY: libc::c_ulong = ioctl(READ_WRITE, API, 0x03, size_of::<CopyArgument>());
const IOC_WRITEPROTECT: libc::c_ulong = ioctl(READ_WRITE, API, 0x06, size_of::<ProtectArgument>());
const IOC_CONTINUE: libc::c_ulong = ioctl(READ_WRITE, API, 0x07, size_of::<SpanArgument>());
const IOC_POISON: libc::c_ulong = ioctl(READ_WRITE, API, 0x08, size_of::<SpanArgument>());
const IOC_PAGEMAP_SCAN: libc::c_ulong = ioctl(READ_WRITE, b'f' as u64, 16, size_of::<ScanArgument>());

#[repr(C)]
struct ApiArgument {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Span {
    start: u64,
    length: u64,
}

#[repr(C)]
struct RegisterArgument {
    span: Span,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct CopyArgument {
    to: u64,
    from: u64,
    length: u64,
    mode: u64,
    copied: i64,
}

#[repr(C)]
struct ProtectArgument {
    span: Span,
    mode: u64,
}

#[repr(C)]
struct SpanArgument {
    span: Span,
    mode: u64,
    done: i64,
}

#[repr(C)]
struct ScanArgument {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    regions: u64,
    regions_length: u64,
    most_pages: u64,
    inverted: u64,
    mask: u64,
    any_of: u64,
    returned: u64,
}

/// A run of addresses that a scan found.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct ScanRegion {
    /// First address.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    categories: u64,
}

const WRITTEN: u64 = 1 << 1;
const SCAN_AND_PROTECT: u64 = 1 << 0;
const SCAN_NEEDS_WP_ASYNC: u64 = 1 << 1;

/// A message of the kernel: one fault.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Message {
    event: u8,
    reserved: [u8; 7],
    flags: u64,
    address: u64,
    thread: u64,
}

impl Message {
    /// Address and flags, if it is a page fault.
    pub fn fault(&self) -> Option<(u64, u64)> {
        (self.event == EVENT_PAGEFAULT).then_some((self.address, self.flags))
    }
}

/// A userfaultfd.
pub struct Descriptor {
    descriptor: OwnedFd,
    features: u64,
}

/// What came of an attempt to resolve a range: how many bytes, and why it stopped before the end.
pub type Progress = (u64, Option<io::Error>);

impl Descriptor {
    /// What the userfaultfd of this kernel can do for this user.
    pub fn features(user_mode: bool) -> io::Result<u64> {
        // They are only told by a descriptor that has then been set up for none of them.
        Ok(Descriptor::set_up(user_mode, 0)?.1)
    }

    /// Opens one that serves the faults of this process: those of the kernel too unless `user_mode` alone is
    /// wanted. The features must be some that the kernel has.
    pub fn open(user_mode: bool, features: u64) -> io::Result<Descriptor> {
        let (descriptor, _) = Descriptor::set_up(user_mode, features)?;
        Ok(Descriptor { descriptor, features })
    }

    fn set_up(user_mode: bool, features: u64) -> io::Result<(OwnedFd, u64)> {
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | if user_mode { USER_MODE_ONLY } else { 0 };
        // SAFETY: plain system calls; a descriptor that was returned is owned from here on.
        let descriptor = unsafe {
            match libc::syscall(libc::SYS_userfaultfd, flags) {
                // Only a privileged process may use the call itself; the device file has permissions.
                -1 if io::Error::last_os_error().raw_os_error() == Some(libc::EPERM) && !user_mode => {
                    let device = OpenOptions::new().read(true).write(true).open("/dev/userfaultfd")?;
                    match libc::ioctl(device.as_raw_fd(), IOC_NEW, flags) {
                        -1 => return Err(io::Error::last_os_error()),
                        descriptor => OwnedFd::from_raw_fd(descriptor),
                    }
                }
                -1 => return Err(io::Error::last_os_error()),
                descriptor => OwnedFd::from_raw_fd(descriptor as RawFd),
            }
        };
        let mut argument = ApiArgument { api: API, features, ioctls: 0 };
        // SAFETY: the argument is what this request reads and writes.
        check(unsafe { libc::ioctl(descriptor.as_raw_fd(), IOC_API, &mut argument) })?;
        Ok((descriptor, argument.features))
    }

    /// The descriptor, to be polled.
    pub fn raw(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }

    /// Whether it was opened with this feature.
    pub fn has(&self, feature: u64) -> bool {
        self.features & feature == feature
    }

    /// Asks to be told of faults on pages of a mapping that are missing (or not mapped, with that feature), and
    /// of stores to protected ones if writes are to be found.
    pub fn register(&self, start: u64, length: u64, find_writes: bool) -> io::Result<()> {
        let minor = if self.has(MINOR_SHMEM) { REGISTER_MINOR } else { 0 };
        let mode = REGISTER_MISSING | minor | if find_writes { REGISTER_WP } else { 0 };
        let mut argument = RegisterArgument { span: Span { start, length }, mode, ioctls: 0 };
        // SAFETY: as above; registering changes no bytes.
        check(unsafe { libc::ioctl(self.raw(), IOC_REGISTER, &mut argument) })
    }

    /// Reads messages that are there; none if none are.
    pub fn read(&self, messages: &mut [Message]) -> io::Result<usize> {
        let length = size_of_val(messages);
        // SAFETY: the kernel writes whole messages of plain integers into memory that is ours.
        let read = unsafe { libc::read(self.raw(), messages.as_mut_ptr().cast(), length) };
        match read {
            -1 if io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock => Ok(0),
            -1 => Err(io::Error::last_os_error()),
            read => Ok(read as usize / size_of::<Message>()),
        }
    }

    /// Stores whole pages where none are, mapped (and write-protected if writes are tracked), and wakes.
    pub fn copy(&self, to: u64, bytes: &[u8], protect: bool) -> Progress {
        let mode = if protect { MODE_WP } else { 0 };
        let (from, length) = (bytes.as_ptr() as u64, bytes.len() as u64);
        let mut argument = CopyArgument { to, from, length, mode, copied: 0 };
        // SAFETY: the kernel reads `bytes` and writes to fresh pages of a range registered with it.
        let outcome = check(unsafe { libc::ioctl(self.raw(), IOC_COPY, &mut argument) });
        progress(outcome, argument.copied, length)
    }

    /// Maps pages that are there but not mapped, and wakes.
    pub fn proceed(&self, start: u64, length: u64, protect: bool) -> Progress {
        let mode = if protect { MODE_WP } else { 0 };
        let mut argument = SpanArgument { span: Span { start, length }, mode, done: 0 };
        // SAFETY: the argument is what this request reads and writes; it maps pages of the registered range.
        let outcome = check(unsafe { libc::ioctl(self.raw(), IOC_CONTINUE, &mut argument) });
        progress(outcome, argument.done, length)
    }

    /// Protects pages, so that stores to them are told (those not mapped yet too), or lets them be written and
    /// wakes.
    pub fn protect(&self, start: u64, length: u64, protect: bool) -> io::Result<()> {
        let mode = if protect { PROTECT } else { 0 };
        let mut argument = ProtectArgument { span: Span { start, length }, mode };
        // SAFETY: as above; no bytes change.
        check(unsafe { libc::ioctl(self.raw(), IOC_WRITEPROTECT, &mut argument) })
    }

    /// Makes touches of missing pages a SIGBUS, and wakes.
    pub fn poison(&self, start: u64, length: u64) -> io::Result<()> {
        let mut argument = SpanArgument { span: Span { start, length }, mode: 0, done: 0 };
        // SAFETY: as above.
        check(unsafe { libc::ioctl(self.raw(), IOC_POISON, &mut argument) })
    }

    /// Lets every thread that waits for a page of the range look again.
    pub fn wake(&self, start: u64, length: u64) -> io::Result<()> {
        let argument = Span { start, length };
        // SAFETY: as above.
        check(unsafe { libc::ioctl(self.raw(), IOC_WAKE, &argument) })
    }
}

/// What the process wrote to its own pages since they were protected.
pub struct PageMap(File);

impl PageMap {
    /// The page map of this process.
    pub fn open() -> io::Result<PageMap> {
        Ok(PageMap(File::open("/proc/self/pagemap")?))
    }

    /// Finds pages written in a range of addresses and protects them again in the same step. Returns how many
    /// runs were found and where the search came to.
    pub fn scan(&self, start: u64, end: u64, found: &mut [ScanRegion]) -> io::Result<(usize, u64)> {
        let mut argument = ScanArgument {
            size: size_of::<ScanArgument>() as u64,
            flags: SCAN_AND_PROTECT | SCAN_NEEDS_WP_ASYNC,
            start,
            end,
            walk_end: 0,
            regions: found.as_mut_ptr() as u64,
            regions_length: found.len() as u64,
            most_pages: 0,
            inverted: 0,
            mask: WRITTEN,
            any_of: 0,
            returned: WRITTEN,
        };
        // SAFETY: the kernel writes at most `found.len()` regions of plain integers into `found`.
        let runs = unsafe { libc::ioctl(self.0.as_raw_fd(), IOC_PAGEMAP_SCAN, &mut argument) };
        if runs < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((runs as usize, argument.walk_end))
    }

    /// Whether this process may scan, and the kernel has the call (6.7).
    pub fn can_scan() -> bool {
        let mut found = [ScanRegion::default()];
        // An empty range is fine where the call is known, and ENOTTY where it is not.
        let scan = PageMap::open().and_then(|page_map| page_map.scan(PAGE, PAGE, &mut found));
        scan.is_ok()
    }
}

fn check(outcome: libc::c_int) -> io::Result<()> {
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The kernel reports an error or, after some pages, how far it came; then trying again tells the error.
fn progress(outcome: io::Result<()>, done: i64, length: u64) -> Progress {
    match outcome {
        Ok(()) => (length, None),
        Err(error) => (done.max(0) as u64, Some(error)),
    }
}
