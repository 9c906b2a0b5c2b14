//! A slice whose page faults are served in this process: no block device, no module.
//!
//! The app sees a shared mapping of the file in memory that keeps the region's pages. One thread takes the
//! faults. A page that is here is mapped; one that is not is asked for, and whoever brings it installs it
//! and wakes the app, so that no thread of ours ever waits for a miss. Writes are noted by the kernel and
//! found by a scan; on older kernels the first one to a page is a fault too. Should a thread of ours panic the process aborts: a descriptor that is closed under a
//! mapping would turn missing pages into zeros.

use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::backend::memory::punch;
use crate::backend::{self, Backend};
use crate::buffer::Buffer;
use crate::cancel::Limit;
use crate::device::{Attach, Device, Kind};
use crate::error::{Code, Error, Result};
use crate::page::{PAGE, Set, State};
use crate::region::{Paged, Region, Window};
use crate::thread;

mod area;
mod kernel;
mod writes;

use area::Area;
use kernel::{Descriptor, Message, PageMap};
use writes::{Writes, protect};

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

/// How stores are to be found.
#[derive(Clone, Copy, PartialEq)]
enum Find {
    Nothing,
    Noted,
    Faults,
}

impl Find {
    fn features(self) -> u64 {
        let always = kernel::MISSING_SHMEM | kernel::POISON;
        always
            | match self {
                Find::Nothing => kernel::MINOR_SHMEM,
                Find::Noted => kernel::MINOR_SHMEM | kernel::WP_SHMEM | kernel::WP_ASYNC,
                // Without faults on pages that are there but not mapped: before 6.4 such a fault could not be
                // answered by a protected page. The kernel maps them by itself, and keeps them protected.
                Find::Faults => kernel::WP_SHMEM,
            }
    }
}

fn open(user_mode: bool, read_only: bool) -> Result<(Descriptor, Find)> {
    let explain = |error: io::Error| match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => Error::new(
            Code::PermissionDenied,
            "this user may not serve faults of the kernel: run `setfacl -m u:$USER:rw /dev/userfaultfd` as root, or \
             `sysctl vm.unprivileged_userfaultfd=1`, or ask for device=userfaultfd:user-mode",
        ),
        Some(libc::ENOSYS) => Error::new(Code::NoDevice, "this kernel is built without userfaultfd"),
        _ => Error::io("open a userfaultfd", error),
    };
    let has = Descriptor::features(user_mode).map_err(explain)? & assumed_features();
    let find = find(has, read_only)?;
    Ok((Descriptor::open(user_mode, find.features() & has).map_err(explain)?, find))
}

/// The best way that a kernel with these features has.
fn find(has: u64, read_only: bool) -> Result<Find> {
    let noted = kernel::MINOR_SHMEM | kernel::WP_SHMEM | kernel::WP_ASYNC;
    let too_old = |message: &str| Err(Error::new(Code::NoDevice, format!("the userfaultfd of this kernel {message}")));
    match read_only {
        _ if has & kernel::MISSING_SHMEM == 0 => too_old("serves no shared memory: a slice needs Linux 4.11"),
        true => Ok(Find::Nothing),
        false if has & noted == noted && PageMap::can_scan() => Ok(Find::Noted),
        false if has & kernel::WP_SHMEM != 0 => Ok(Find::Faults),
        false => too_old(
            "cannot tell which pages of a slice were written: that needs Linux 5.19; read_only=true works here, and \
             so do read_at and write_at",
        ),
    }
}

/// The features that a kernel is taken to have: for tests of older ones than this.
fn assumed_features() -> u64 {
    let mask = if cfg!(debug_assertions) { std::env::var("R3MAP_USERFAULTFD_FEATURES").ok() } else { None };
    mask.map_or(u64::MAX, |mask| mask.parse().expect("R3MAP_USERFAULTFD_FEATURES is a number"))
}

/// A mapping whose faults are served.
pub struct Userfaultfd {
    served: Arc<Served>,
    /// The same region as handles read and write it.
    front: Arc<dyn Backend>,
    handler: Mutex<Option<JoinHandle<()>>>,
    size: usize,
}

/// What the serving thread and those who install pages share.
struct Served {
    region: Arc<dyn Paged>,
    descriptor: Descriptor,
    writes: Writes,
    mapping: Area,
    /// Pages whose touch is a SIGBUS, and until when. Held while a single page is mapped anew.
    poisoned: Mutex<Vec<(u64, Instant)>>,
    /// What was here when it was attached is mapped. Nobody has stored to it before, and a page that is not mapped
    /// yet would count as written.
    opened: AtomicBool,
    /// Nobody may touch the mapping any more.
    ended: AtomicBool,
    /// Tells the serving thread of pages that are a SIGBUS for a while, and of the end.
    told: EventFd,
}

/// Attaches a slice to a region that keeps its pages in a file in memory.
pub fn attach(region: Arc<dyn Paged>, user_mode: bool, how: &Attach) -> Result<Arc<dyn Device>> {
    let size = region.pages().info().size;
    if size == 0 {
        return Err(Error::new(Code::InvalidArgument, format!("{}: a slice of no bytes cannot be mapped", how.name)));
    }
    let (descriptor, find) = open(user_mode, how.read_only)?;
    let length = size.next_multiple_of(PAGE) as usize;
    let mapping = Area::map(region.pages().store(), length, how.read_only)?;
    let writes = match find {
        Find::Nothing => Writes::None,
        Find::Noted => Writes::noted()?,
        Find::Faults => Writes::faulted(region.pages().states().pages())?,
    };
    descriptor
        .register(mapping.address_of(0), length as u64, writes.are_found())
        .map_err(|error| Error::io("register a slice with userfaultfd", error))?;
    let told = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
        .map_err(|errno| Error::io("make an eventfd", errno.into()))?;
    let served = Arc::new(Served {
        region,
        descriptor,
        writes,
        mapping,
        poisoned: Mutex::default(),
        opened: false.into(),
        ended: false.into(),
        told,
    });
    served.pages().set_window(Some(served.clone()));
    let handler = served.begin().inspect_err(|_| served.pages().set_window(None))?;
    Ok(Arc::new(Userfaultfd {
        front: served.region.clone(),
        served,
        handler: Mutex::new(Some(handler)),
        size: size as usize,
    }))
}

impl Served {
    fn pages(&self) -> &Arc<Region> {
        self.region.pages()
    }

    /// Opens what is here and starts taking faults.
    fn begin(self: &Arc<Self>) -> Result<JoinHandle<()>> {
        self.settle();
        self.open_stored(0..self.pages().states().pages())?;
        self.opened.store(true, Ordering::SeqCst);
        let served = self.clone();
        let handler = thread::spawn("r3map-faults", move || served.serve());
        handler.map_err(|error| Error::io("start the thread that serves faults", error))
    }

    /// Takes faults until the end.
    fn serve(self: &Arc<Self>) {
        let mut messages = [Message::default(); BATCH];
        let mut scratch = Buffer::zeroed(PAGE as usize);
        loop {
            // SAFETY: the descriptor lives as long as `self`.
            let faults = unsafe { std::os::fd::BorrowedFd::borrow_raw(self.descriptor.raw()) };
            let mut ready = [
                PollFd::new(faults, PollFlags::POLLIN),
                PollFd::new(std::os::fd::AsFd::as_fd(&self.told), PollFlags::POLLIN),
            ];
            let pause = if self.poisoned().is_empty() { PollTimeout::NONE } else { PollTimeout::from(200u8) };
            match poll(&mut ready, pause) {
                Err(nix::errno::Errno::EINTR) => continue,
                Err(errno) => panic!("poll the userfaultfd: {errno}"),
                Ok(_) => {}
            }
            if ready[1].revents().is_some_and(|events| events.contains(PollFlags::POLLIN)) {
                if self.ended.load(Ordering::SeqCst) {
                    return;
                }
                // Read to reset it.
                let _ = self.told.read();
            }
            self.unpoison();
            let count = self.descriptor.read(&mut messages).unwrap_or_else(|error| panic!("read faults: {error}"));
            for (address, flags) in messages[..count].iter().filter_map(Message::fault) {
                let page = (address - self.mapping.address_of(0)) / PAGE;
                if flags & kernel::FAULT_WP != 0 {
                    self.allow_write(page);
                    continue;
                }
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
            let again = move |landed: Result<()>| match landed {
                // Mapped by whoever brought it, unless it turned out to be zero or changed again.
                Ok(()) => served.fault(page, false, &mut [0; PAGE as usize]),
                Err(error) => served.fail(page, &error),
            };
            return self.region.demand(page, Box::new(again));
        }
    }

    /// The first store to a protected page: marks it as written, lets it be written and wakes the app.
    fn allow_write(&self, page: u64) {
        let Writes::Faulted(faulted) = &self.writes else { return self.wake(page) };
        let allowed = faulted.allow(page, || protect(&self.descriptor, &self.mapping, &(page..page + 1), false));
        if let Err(error) = allowed {
            tracing::debug!(%error, page, "a page was protected anew before it was written");
            self.wake(page);
        }
    }

    /// Maps a page that is here. Every kept page was mapped when it was installed, so a fault on one means
    /// that the kernel has dropped its mapping (then it counts as written, which may be one push too many) or
    /// that it was mapped a moment ago.
    fn open(&self, page: u64, minor: bool) {
        if !self.descriptor.has(kernel::MINOR_SHMEM) {
            // The kernel maps what the file has, so the fault is older than the page, or there is a hole.
            return self.fill_hole(page);
        }
        let (_, stopped) = self.descriptor.proceed(self.mapping.address_of(page), PAGE, false);
        match stopped.as_ref().and_then(io::Error::raw_os_error) {
            None => {}
            Some(libc::EFAULT) if !minor => self.fill_hole(page),
            _ => self.wake(page),
        }
    }

    /// A page that counts as here and is a hole in the file: bytes that were trimmed while they were pushed.
    /// They are zero.
    fn fill_hole(&self, page: u64) {
        let protect = matches!(self.writes, Writes::Faulted(_));
        if let (_, Some(error)) = self.descriptor.copy(self.mapping.address_of(page), &[0; PAGE as usize], protect) {
            tracing::trace!(%error, page, "no hole, or filled by another");
            self.wake(page);
        }
    }

    fn wake(&self, page: u64) {
        if let Err(error) = self.descriptor.wake(self.mapping.address_of(page), PAGE) {
            tracing::error!(%error, page, "could not wake a thread that waits for a page");
        }
    }

    /// Waits out those who fill pages without the window, having looked before it was there: a touch must not
    /// find their bytes in part.
    fn settle(&self) {
        let states = self.pages().states();
        let mut at = 0;
        while let Some(run) = states.next_run(at..states.pages(), Set::of(&[State::Filling])) {
            self.pages().settled(run.start);
            at = run.start + 1;
        }
    }

    /// Maps all kept pages of a run, or has the kernel map them when they are touched; protected, so that the
    /// next write is found.
    fn open_stored(&self, pages: Range<u64>) -> Result<()> {
        let mut at = pages.start;
        while let Some(run) = self.pages().states().next_run(at..pages.end, Set::STORED) {
            at = run.end.min(run.start + OPENED_AT_ONCE);
            let run = run.start..at;
            match self.writes {
                Writes::Faulted(_) => protect(&self.descriptor, &self.mapping, &run, true)
                    .map_err(|error| Error::io("protect the pages of a slice", error))?,
                _ if self.descriptor.has(kernel::MINOR_SHMEM) => self.proceed(run),
                _ => {}
            }
        }
        Ok(())
    }

    fn proceed(&self, pages: Range<u64>) {
        let mut start = pages.start;
        while start < pages.end {
            let (address, length) = (self.mapping.address_of(start), (pages.end - start) * PAGE);
            let (done, stopped) = self.descriptor.proceed(address, length, self.writes.are_found());
            // A page that cannot be mapped now will fault when it is touched.
            start += done / PAGE + u64::from(stopped.is_some());
        }
    }

    /// A page cannot be had: whoever touches it gets SIGBUS, and it is asked for again a little later.
    fn fail(&self, page: u64, error: &Error) {
        if self.ended.load(Ordering::SeqCst) {
            return self.wake(page);
        }
        let name = &self.pages().info().name;
        tracing::error!(%error, page, name, "a page of a slice cannot be had: its readers get SIGBUS");
        let mut poisoned = self.poisoned();
        match self.poison(page) {
            Ok(true) => {
                poisoned.push((page, Instant::now() + POISONED));
                // Whoever serves faults may sleep until the next one, and only it lets the page be asked for again.
                let _ = self.told.write(1);
            }
            // It came after all, or the slice has ended.
            Ok(false) => self.wake(page),
            Err(error) => {
                // No way to say it to the thread that waits, and zeros would be a lie.
                tracing::error!(%error, page, "the page cannot be marked either: ending the process");
                std::process::abort();
            }
        }
    }

    /// Makes touches of a page a SIGBUS, unless it is here; the list of them is locked.
    fn poison(&self, page: u64) -> Result<bool> {
        if self.ended.load(Ordering::SeqCst) {
            return Ok(false);
        }
        if self.descriptor.has(kernel::POISON) {
            return match self.descriptor.poison(self.mapping.address_of(page), PAGE) {
                Ok(()) => Ok(true),
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
                Err(error) => Err(Error::io("poison a page of a slice", error)),
            };
        }
        if Set::STORED.has(self.pages().states().get(page)) {
            return Ok(false);
        }
        self.mapping.break_page(page)?;
        self.wake(page);
        Ok(true)
    }

    fn poisoned(&self) -> std::sync::MutexGuard<'_, Vec<(u64, Instant)>> {
        self.poisoned.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Lets pages be asked for again that have been a SIGBUS long enough.
    fn unpoison(&self) {
        let now = Instant::now();
        self.poisoned().retain(|(page, until)| *until > now || !self.mend(*page));
    }

    /// Lets the poisoned pages of a run be filled.
    fn mend_all(&self, pages: Range<u64>) {
        self.poisoned().retain(|(page, _)| !pages.contains(page) || !self.mend(*page));
    }

    /// Takes a page's poison away; the list of them is locked. Says whether it is gone.
    fn mend(&self, page: u64) -> bool {
        if self.descriptor.has(kernel::POISON) {
            self.mapping.unmap(page..page + 1);
            return true;
        }
        if self.ended.load(Ordering::SeqCst) {
            return true;
        }
        let served = |error| Error::io("register a page of a slice again", error);
        let mended = self.mapping.mend_page(page, self.pages().store()).and_then(|()| {
            self.descriptor.register(self.mapping.address_of(page), PAGE, self.writes.are_found()).map_err(served)?;
            if let Writes::Faulted(_) = self.writes {
                protect(&self.descriptor, &self.mapping, &(page..page + 1), true).map_err(served)?;
            }
            self.mapping.allow_page(page)
        });
        if let Err(error) = &mended {
            tracing::error!(%error, page, "a page of a slice stays a SIGBUS");
            let _ = self.mapping.break_page(page);
        }
        mended.is_ok()
    }
}

impl Window for Served {
    fn install(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let whole = bytes.len() / PAGE as usize * PAGE as usize;
        let mut last = [0; PAGE as usize];
        last[..bytes.len() - whole].copy_from_slice(&bytes[whole..]);
        let parts = [(offset, &bytes[..whole]), (offset + whole as u64, &last[..])];
        for (start, part) in parts.into_iter().take(if whole < bytes.len() { 2 } else { 1 }) {
            self.install_pages(start, part)?;
        }
        Ok(())
    }

    fn collect(&self, pages: Range<u64>, written: &mut dyn FnMut(Range<u64>)) -> Result<()> {
        if !self.opened.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.writes.collect(pages, &self.mapping, &self.descriptor, written)
    }

    fn forget(&self, pages: Range<u64>) -> Result<()> {
        if self.descriptor.has(kernel::MINOR_SHMEM) {
            self.mapping.unmap(pages);
            return Ok(());
        }
        // Here the kernel would map what the file has.
        punch(self.pages().store(), pages.start * PAGE, (pages.end - pages.start) * PAGE)
    }

    fn finds_stored(&self) -> bool {
        self.descriptor.has(kernel::MINOR_SHMEM)
    }
}

impl Served {
    fn install_pages(&self, start: u64, bytes: &[u8]) -> Result<()> {
        let (mut done, mut at_once, mut tries) = (0, bytes.len(), 0);
        while done < bytes.len() {
            let (offset, part) = (start + done as u64, &bytes[done..bytes.len().min(done + at_once)]);
            let at = self.mapping.address_of(0) + offset;
            let (copied, stopped) = self.descriptor.copy(at, part, self.writes.are_found());
            done += copied as usize;
            let Some(error) = stopped else { continue };
            match error.raw_os_error() {
                Some(libc::EAGAIN) => {}
                Some(libc::EEXIST) => {
                    self.replace(start + done as u64, &bytes[done..done + PAGE as usize])?;
                    done += PAGE as usize;
                }
                // A broken page is a mapping of its own, which no copy goes across.
                Some(libc::ENOENT) if tries < 10 => {
                    tries += 1;
                    at_once = PAGE as usize;
                    self.mend_all(start / PAGE..(start + bytes.len() as u64).div_ceil(PAGE));
                }
                _ => return Err(Error::io(format!("install {} bytes at {offset}", bytes.len()), error)),
            }
        }
        Ok(())
    }

    /// Stores a page where the file has one already (a poisoned one, or one left over from before a trim).
    fn replace(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        use std::os::unix::fs::FileExt;
        let page = offset / PAGE;
        let write = self.pages().store().write_all_at(bytes, offset);
        write.map_err(|error| Error::io(format!("keep a page at {offset}"), error))?;
        self.mapping.unmap(page..page + 1);
        if let Writes::Faulted(_) = self.writes {
            protect(&self.descriptor, &self.mapping, &(page..page + 1), true)
                .map_err(|error| Error::io("protect a page of a slice", error))?;
        }
        if self.descriptor.has(kernel::MINOR_SHMEM) {
            self.proceed(page..page + 1);
        }
        self.wake(page);
        Ok(())
    }
}

impl Device for Userfaultfd {
    fn kind(&self) -> Kind {
        Kind::Userfaultfd
    }

    fn slice(&self) -> Result<(NonNull<u8>, usize)> {
        Ok((self.served.mapping.start(), self.size))
    }

    fn reserve(&self) {
        self.served.mapping.reserve();
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
        let forbidden = {
            let _no_page_is_mapped_anew = self.served.poisoned();
            self.served.mapping.forbid()
        };
        let mapping = &self.served.mapping;
        if let Err(error) = self.served.descriptor.wake(mapping.address_of(0), mapping.length()) {
            tracing::warn!(%error, "could not wake the threads that wait in a slice");
        }
        if let Err(errno) = self.served.told.write(1) {
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
