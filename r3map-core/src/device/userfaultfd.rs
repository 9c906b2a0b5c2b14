//! A slice whose page faults are served in this process: no block device, no module.
//!
//! The app sees a shared mapping of the file in memory that keeps the region's pages. One thread takes the
//! faults. A page that is here is mapped; one that is not is asked for, and whoever brings it installs it
//! and wakes the app, so that no thread of ours ever waits for a miss. Writes are noted by the kernel and
//! found by a scan. Should a thread of ours panic the process aborts: a descriptor that is closed under a
//! mapping would turn missing pages into zeros.

use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::backend::{self, Backend};
use crate::buffer::Buffer;
use crate::cancel::Limit;
use crate::device::{Attach, Device, Kind};
use crate::error::{Code, Error, Result};
use crate::mount::managed::Managed;
use crate::page::{PAGE, Set, State};
use crate::region::{Region, Window};
use crate::thread;

mod kernel;

use kernel::{Descriptor, Message, PageMap, ScanRegion};

const FEATURES: u64 =
    kernel::MISSING_SHMEM | kernel::MINOR_SHMEM | kernel::WP_SHMEM | kernel::WP_ASYNC | kernel::POISON;
/// How long a page that could not be had stays a SIGBUS before it is asked for again.
const POISONED: Duration = Duration::from_secs(1);
/// Faults taken at once.
const BATCH: usize = 32;
/// How much is mapped around a fault on a page that is here.
const OPENED_AT_ONCE: u64 = (1 << 20) / PAGE;

/// Whether this process could attach one for reading and writing now.
pub fn probe() -> Result<()> {
    open(false, false).map(drop)
}

fn open(user_mode: bool, read_only: bool) -> Result<Descriptor> {
    let descriptor = Descriptor::open(user_mode, FEATURES).map_err(|error| match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => Error::new(
            Code::PermissionDenied,
            "this user may not serve faults of the kernel: run `setfacl -m u:$USER:rw /dev/userfaultfd` as root, or \
             `sysctl vm.unprivileged_userfaultfd=1`, or ask for device=userfaultfd:user-mode",
        ),
        Some(libc::ENOSYS) => Error::new(Code::NoDevice, "this kernel is built without userfaultfd"),
        _ => Error::io("open a userfaultfd", error),
    })?;
    let needs: &[(u64, &str)] = if read_only {
        &[(kernel::MINOR_SHMEM, "Linux 5.13")]
    } else {
        &[(kernel::MINOR_SHMEM, "Linux 5.13"), (kernel::WP_SHMEM | kernel::WP_ASYNC, "Linux 6.7")]
    };
    for (feature, since) in needs {
        if descriptor.features & feature != *feature {
            let hint = if read_only { "" } else { "; read_only=true needs less" };
            let message = format!("the userfaultfd of this kernel is too old: a slice needs {since}{hint}");
            return Err(Error::new(Code::NoDevice, message));
        }
    }
    Ok(descriptor)
}

/// A mapping whose faults are served.
pub struct Userfaultfd {
    served: Arc<Served>,
    /// The same region as handles read and write it.
    front: Arc<dyn Backend>,
    stop: Arc<EventFd>,
    handler: Mutex<Option<JoinHandle<()>>>,
    size: usize,
}

/// What the serving thread and those who install pages share.
struct Served {
    region: Arc<Managed>,
    descriptor: Descriptor,
    /// Present where writes are tracked.
    scanner: Option<Mutex<Scanner>>,
    mapping: Area,
    poisoned: Mutex<Vec<(u64, Instant)>>,
    /// Nobody may touch the mapping any more.
    ended: AtomicBool,
}

struct Scanner {
    page_map: PageMap,
    found: Vec<ScanRegion>,
}

/// A range of addresses of this process that is ours until it is dropped.
struct Area {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the range is shared memory; `Area` hands out addresses only.
unsafe impl Send for Area {}
// SAFETY: as above.
unsafe impl Sync for Area {}

impl Area {
    /// Maps a file, shared. A child made by fork does not get it: there nobody would serve its faults.
    fn map(file: &std::fs::File, length: usize, read_only: bool) -> Result<Area> {
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
        Ok(Area { start, length })
    }

    fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    /// Replaces the mapping by one that nobody may touch, at the same addresses.
    fn forbid(&self) -> Result<()> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
        // SAFETY: the range is ours; what looks at it afterwards faults, which is what close promises.
        let start = unsafe { libc::mmap(self.start.as_ptr().cast(), self.length, libc::PROT_NONE, flags, -1, 0) };
        if start == libc::MAP_FAILED { Err(Error::last_os("end a slice")) } else { Ok(()) }
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: the range is ours and nobody is handed it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// Attaches a slice to a region that keeps its pages in a file in memory.
pub fn attach(region: Arc<Managed>, user_mode: bool, how: &Attach) -> Result<Arc<dyn Device>> {
    let size = region.pages().info().size;
    if size == 0 {
        return Err(Error::new(Code::InvalidArgument, format!("{}: a slice of no bytes cannot be mapped", how.name)));
    }
    let descriptor = open(user_mode, how.read_only)?;
    let length = size.next_multiple_of(PAGE) as usize;
    let mapping = Area::map(region.pages().store(), length, how.read_only)?;
    let track = !how.read_only;
    descriptor
        .register(mapping.address(), length as u64, track)
        .map_err(|error| Error::io("register a slice with userfaultfd", error))?;
    let scanner = track.then(Scanner::new).transpose()?.map(Mutex::new);
    let served = Arc::new(Served {
        region,
        descriptor,
        scanner,
        mapping,
        poisoned: Mutex::default(),
        ended: AtomicBool::new(false),
    });
    served.region.pages().set_window(Some(served.clone()));
    served.open_stored(0..served.region.pages().states().pages());
    let stop = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
        .map_err(|errno| Error::io("make an eventfd", errno.into()))?;
    let stop = Arc::new(stop);
    let handler = thread::spawn("r3map-faults", {
        let (served, stop) = (served.clone(), stop.clone());
        move || served.serve(&stop)
    });
    let handler = handler.map_err(|error| Error::io("start the thread that serves faults", error))?;
    Ok(Arc::new(Userfaultfd {
        front: served.region.clone(),
        served,
        stop,
        handler: Mutex::new(Some(handler)),
        size: size as usize,
    }))
}

impl Scanner {
    fn new() -> Result<Scanner> {
        let page_map = PageMap::open().map_err(|error| Error::io("open /proc/self/pagemap", error))?;
        if !page_map.can_scan() {
            return Err(Error::new(Code::NoDevice, "this kernel has no PAGEMAP_SCAN: a slice needs Linux 6.7"));
        }
        Ok(Scanner { page_map, found: vec![ScanRegion::default(); 4096] })
    }
}

impl Served {
    fn pages(&self) -> &Arc<Region> {
        self.region.pages()
    }

    fn tracks_writes(&self) -> bool {
        self.scanner.is_some()
    }

    /// Takes faults until told to stop.
    fn serve(self: &Arc<Self>, stop: &EventFd) {
        let mut messages = [Message::default(); BATCH];
        let mut scratch = Buffer::zeroed(PAGE as usize);
        loop {
            // SAFETY: the descriptor lives as long as `self`.
            let faults = unsafe { std::os::fd::BorrowedFd::borrow_raw(self.descriptor.raw()) };
            let mut ready = [
                PollFd::new(faults, PollFlags::POLLIN),
                PollFd::new(std::os::fd::AsFd::as_fd(stop), PollFlags::POLLIN),
            ];
            let pause = if self.poisoned().is_empty() { PollTimeout::NONE } else { PollTimeout::from(200u8) };
            match poll(&mut ready, pause) {
                Err(nix::errno::Errno::EINTR) => continue,
                Err(errno) => panic!("poll the userfaultfd: {errno}"),
                Ok(_) => {}
            }
            if ready[1].revents().is_some_and(|events| events.contains(PollFlags::POLLIN)) {
                return;
            }
            self.unpoison();
            let count = self.descriptor.read(&mut messages).unwrap_or_else(|error| panic!("read faults: {error}"));
            for (address, flags) in messages[..count].iter().filter_map(Message::fault) {
                let page = (address - self.mapping.address()) / PAGE;
                self.pages().figures.faults.add(1);
                self.fault(page, flags & kernel::FAULT_MINOR != 0, &mut scratch);
            }
        }
    }

    /// Resolves one fault, or asks for its page and lets whoever brings it resolve the fault.
    fn fault(self: &Arc<Self>, page: u64, minor: bool, scratch: &mut [u8]) {
        let pages = self.pages();
        loop {
            let state = pages.settled(page);
            if Set::STORED.has(state) {
                return self.open(page, minor);
            }
            if Set::ZERO.has(state) {
                match pages.fill_zero(page) {
                    Ok(()) => continue,
                    Err(error) => return self.fail(page, &error),
                }
            }
            match if state == State::Absent { pages.fill_now(page, scratch) } else { None } {
                // Filling has mapped it and woken the app.
                Some(Ok(())) => return self.region.filled(page),
                Some(Err(error)) => return self.fail(page, &error),
                None if pages.info().local && pages.settled(page) != state => continue,
                None => {}
            }
            let served = self.clone();
            return self.region.demand(page, move |landed| match landed {
                // Mapped by whoever brought it, unless it turned out to be zero or changed again.
                Ok(()) => served.fault(page, false, &mut [0; PAGE as usize]),
                Err(error) => served.fail(page, &error),
            });
        }
    }

    /// Maps a page that is here. Every kept page was mapped when it was installed, so a fault on one means
    /// that the kernel has dropped its mapping (then it counts as written, which may be one push too many) or
    /// that it was mapped a moment ago.
    fn open(&self, page: u64, minor: bool) {
        let address = self.mapping.address() + page * PAGE;
        let (_, stopped) = self.descriptor.proceed(address, PAGE, false);
        match stopped.as_ref().and_then(io::Error::raw_os_error) {
            None => {}
            // A hole in the file: bytes that were trimmed while they were pushed. They are zero.
            Some(libc::EFAULT) if !minor => {
                if let (_, Some(error)) = self.descriptor.copy(address, &[0; PAGE as usize], false) {
                    tracing::debug!(%error, page, "a trimmed page was filled by another");
                    self.wake(page);
                }
            }
            _ => self.wake(page),
        }
    }

    fn wake(&self, page: u64) {
        if let Err(error) = self.descriptor.wake(self.mapping.address() + page * PAGE, PAGE) {
            tracing::error!(%error, page, "could not wake a thread that waits for a page");
        }
    }

    /// Maps all kept pages of a run, protected so that the next write is noted.
    fn open_stored(&self, pages: Range<u64>) {
        let mut at = pages.start;
        while let Some(run) = self.pages().states().next_run(at..pages.end, Set::STORED) {
            let end = run.end.min(run.start + OPENED_AT_ONCE);
            let mut start = run.start;
            while start < end {
                let address = self.mapping.address() + start * PAGE;
                let (done, stopped) = self.descriptor.proceed(address, (end - start) * PAGE, self.tracks_writes());
                // A page that cannot be mapped now will fault when it is touched.
                start += done / PAGE + u64::from(stopped.is_some());
            }
            at = end;
        }
    }

    /// A page cannot be had: whoever touches it gets SIGBUS, and it is asked for again a little later.
    fn fail(&self, page: u64, error: &Error) {
        if self.ended.load(Ordering::SeqCst) {
            return self.wake(page);
        }
        let name = &self.pages().info().name;
        tracing::error!(%error, page, name, "a page of a slice cannot be had: its readers get SIGBUS");
        let address = self.mapping.address() + page * PAGE;
        match self.descriptor.poison(address, PAGE) {
            Ok(()) => self.poisoned().push((page, Instant::now() + POISONED)),
            // It came after all.
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => self.wake(page),
            Err(error) => {
                // No way to say it to the thread that waits, and zeros would be a lie.
                tracing::error!(%error, page, "the page cannot be marked either: ending the process");
                std::process::abort();
            }
        }
    }

    fn poisoned(&self) -> std::sync::MutexGuard<'_, Vec<(u64, Instant)>> {
        self.poisoned.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Lets pages be asked for again that have been a SIGBUS long enough.
    fn unpoison(&self) {
        let mut poisoned = self.poisoned();
        if poisoned.is_empty() {
            return;
        }
        let now = Instant::now();
        poisoned.retain(|(page, until)| {
            if *until > now {
                return true;
            }
            self.forget_poison(*page);
            false
        });
    }

    fn forget_poison(&self, page: u64) {
        let address = self.mapping.address() + page * PAGE;
        // SAFETY: drops the page table entry of a page of our own range; the file keeps the bytes, if any.
        unsafe { libc::madvise(address as *mut libc::c_void, PAGE as usize, libc::MADV_DONTNEED) };
    }
}

impl Window for Served {
    fn install(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let whole = bytes.len() / PAGE as usize * PAGE as usize;
        let mut last = [0; PAGE as usize];
        last[..bytes.len() - whole].copy_from_slice(&bytes[whole..]);
        let parts = [(offset, &bytes[..whole]), (offset + whole as u64, &last[..])];
        for (start, part) in parts.into_iter().take(if whole < bytes.len() { 2 } else { 1 }) {
            let mut done = 0;
            while done < part.len() {
                let at = self.mapping.address() + start + done as u64;
                let (copied, stopped) = self.descriptor.copy(at, &part[done..], self.tracks_writes());
                done += copied as usize;
                let Some(error) = stopped else { continue };
                match error.raw_os_error() {
                    Some(libc::EAGAIN) => {}
                    Some(libc::EEXIST) => {
                        self.replace(start + done as u64, &part[done..done + PAGE as usize])?;
                        done += PAGE as usize;
                    }
                    _ => return Err(Error::io(format!("install {} bytes at {start}", part.len()), error)),
                }
            }
        }
        Ok(())
    }

    fn collect(&self, pages: Range<u64>, written: &mut dyn FnMut(Range<u64>)) -> Result<()> {
        let Some(scanner) = &self.scanner else { return Ok(()) };
        // One scan at a time: whoever comes second must find the first one's pages marked already.
        let mut scanner = scanner.lock().unwrap_or_else(|e| e.into_inner());
        let Scanner { page_map, found } = &mut *scanner;
        let base = self.mapping.address();
        let (mut at, end) = (base + pages.start * PAGE, base + pages.end * PAGE);
        while at < end {
            let (count, reached) =
                page_map.scan(at, end, found).map_err(|error| Error::io("scan a slice for writes", error))?;
            for run in &found[..count] {
                written((run.start - base) / PAGE..(run.end - base) / PAGE);
            }
            at = reached;
        }
        Ok(())
    }
}

impl Served {
    /// Stores a page where the file has one already (a poisoned one, or one left over from before a trim).
    fn replace(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        use std::os::unix::fs::FileExt;
        let page = offset / PAGE;
        let write = self.pages().store().write_all_at(bytes, offset);
        write.map_err(|error| Error::io(format!("keep a page at {offset}"), error))?;
        self.forget_poison(page);
        let (_, stopped) = self.descriptor.proceed(self.mapping.address() + offset, PAGE, self.tracks_writes());
        if stopped.is_some() {
            self.wake(page);
        }
        Ok(())
    }
}

impl Device for Userfaultfd {
    fn kind(&self) -> Kind {
        Kind::Userfaultfd
    }

    fn slice(&self) -> Result<(NonNull<u8>, usize)> {
        Ok((self.served.mapping.start, self.size))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64, limit: &Limit) -> Result<()> {
        backend::read(&self.front, buffer, offset, limit)
    }

    fn write_at(&self, data: &[u8], offset: u64, limit: &Limit) -> Result<()> {
        backend::write(&self.front, data, offset, limit)
    }

    fn flush(&self, limit: &Limit) -> Result<()> {
        self.served.region.push_all(limit)
    }

    fn detach(&self) -> Result<()> {
        if self.served.ended.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        // First nobody may touch it, then whoever waits in a fault is told to look again, and finds that.
        let forbidden = self.served.mapping.forbid();
        if let Err(error) =
            self.served.descriptor.wake(self.served.mapping.address(), self.served.mapping.length as u64)
        {
            tracing::warn!(%error, "could not wake the threads that wait in a slice");
        }
        if let Err(errno) = self.stop.write(1) {
            tracing::error!(%errno, "could not stop the thread that serves faults");
        }
        let handler = self.handler.lock().unwrap_or_else(|e| e.into_inner()).take();
        if let Some(handler) = handler {
            let _ = handler.join();
        }
        self.served.pages().set_window(None);
        forbidden
    }
}

impl Drop for Userfaultfd {
    fn drop(&mut self) {
        if let Err(error) = self.detach() {
            // The mapping cannot be dropped while it may read as zeros.
            tracing::error!(%error, "a slice could not be ended: ending the process");
            std::process::abort();
        }
    }
}
