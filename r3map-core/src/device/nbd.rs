//! A region as a real `/dev/nbdN`, served by threads of this process over a socketpair a queue.
//!
//! One thread sets the device up and stays in the kernel for as long as it runs: when this process dies, so
//! does that call, and the kernel fails what is under way and frees the device. A queue has a thread that
//! serves it, and the device one that cares for requests which fail.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};
use once_cell::sync::OnceCell;

use crate::backend::Backend;
use crate::cancel::{Limit, Waiter};
use crate::device::{Attach, Device, Kind};
use crate::error::{Code, Error, Result};
use crate::thread::{self, Process};
use crate::wire::nbd::flags;

mod buffer;
mod care;
mod kernel;
mod queue;
mod view;

pub use kernel::probe;

use buffer::{Input, Output};
use care::Care;
use kernel::{BLOCK, Candidate, Settings};
use queue::{Queue, Service};
use view::View;

/// More connections than this only cost memory.
const MOST_QUEUES: usize = 8;
/// The longest read or write the kernel is asked to make.
const LARGEST_REQUEST: u64 = 1 << 20;
/// Read-ahead where nobody says: random faults still cost little, and sequential reads come in few requests.
const READ_AHEAD: u64 = 256 << 10;
/// What a socket holds: the reply to a long read, so that sending it does not wait for the kernel to take it.
const SOCKET_BUFFER: usize = 4 << 20;
/// How much later than we the kernel gives a request up.
const KERNEL_GRACE: Duration = Duration::from_secs(10);
/// How long the kernel may take to start or end a device, and detaching where requests may take for ever.
const PATIENCE: Duration = Duration::from_secs(30);

/// An attached device.
struct Nbd {
    candidate: Candidate,
    service: Arc<Service>,
    queues: Vec<Arc<Queue>>,
    read_only: bool,
    deadline: Duration,
    process: Process,
    /// Held from before the first request, so that every lost write shows in an fsync of it. `None` until the
    /// device is claimed and once it is detached.
    file: RwLock<Option<Arc<File>>>,
    slice: OnceCell<View>,
    /// The first fsync that failed: the kernel says it once, we for ever.
    lost: Arc<Mutex<Option<Error>>>,
    threads: Mutex<Threads>,
}

struct Threads {
    handles: Vec<JoinHandle<()>>,
    /// Disconnected when the last of them has ended.
    ended: mpsc::Receiver<()>,
}

/// Attaches the device that was named, or the first that is free.
pub fn attach(region: Arc<dyn Backend>, how: &Attach) -> Result<Arc<dyn Device>> {
    if let Some(path) = &how.path {
        let candidate = kernel::named(path)?;
        if candidate.is_attached() {
            return Err(kernel::in_use(&candidate));
        }
        return attach_to(candidate, region, how).map(|nbd| nbd as Arc<dyn Device>);
    }
    let candidates = kernel::candidates()?;
    let count = candidates.len();
    for candidate in candidates.into_iter().filter(|candidate| !candidate.is_attached()) {
        match attach_to(candidate, region.clone(), how) {
            // Somebody was faster.
            Err(error) if error.code() == Code::Busy => {}
            other => return other.map(|nbd| nbd as Arc<dyn Device>),
        }
    }
    Err(kernel::all_busy(count))
}

fn attach_to(candidate: Candidate, region: Arc<dyn Backend>, how: &Attach) -> Result<Arc<Nbd>> {
    let info = region.info().clone();
    let read_only = how.read_only || info.read_only;
    let file = Arc::new(candidate.open(read_only)?);
    let service = Arc::new(Service { region, care: Care::new(info.name, how.deadline) });

    let count = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_QUEUES);
    let (mut queues, mut kernel_ends, mut buffers) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..count {
        let (ours, theirs) = connection()?;
        queues.push(Arc::new(Queue::new(ours, service.clone())));
        kernel_ends.push(theirs);
        let memory = Input::new().and_then(|input| Ok((input, Output::new()?)));
        buffers.push(memory.map_err(|error| Error::io("get memory for an NBD connection", error))?);
    }

    let (alive, ended) = mpsc::channel();
    let nbd = Arc::new(Nbd {
        service: service.clone(),
        queues,
        read_only,
        deadline: how.deadline,
        process: Process::current(),
        file: RwLock::new(None),
        slice: OnceCell::new(),
        lost: Arc::default(),
        threads: Mutex::new(Threads { handles: Vec::new(), ended }),
        candidate: candidate.clone(),
    });
    let settings = Settings {
        blocks: service.device_size() / BLOCK,
        flags: flags_for(read_only),
        timeout: if how.deadline.is_zero() { 0 } else { (how.deadline + KERNEL_GRACE).as_secs() + 1 },
    };
    nbd.run(&file, kernel_ends, buffers, settings, alive)?;

    let largest = LARGEST_REQUEST.min(info.max_request.into());
    candidate.tune(&file, how.read_ahead.unwrap_or(READ_AHEAD), largest);
    Ok(nbd)
}

fn flags_for(read_only: bool) -> u16 {
    let write = flags::SEND_FUA | flags::SEND_TRIM | flags::SEND_WRITE_ZEROES;
    let kind = if read_only { flags::READ_ONLY } else { write };
    flags::HAS_FLAGS | flags::SEND_FLUSH | flags::CAN_MULTI_CONN | kind
}

/// Our end and the kernel's.
fn connection() -> Result<(OwnedFd, OwnedFd)> {
    let pair = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC);
    let (ours, theirs) = pair.map_err(|errno| Error::io("make a socket for the kernel", errno.into()))?;
    for socket in [&ours, &theirs] {
        // Needs a capability that a container's root may lack; smaller buffers are slower, no more.
        let _ = setsockopt(socket, sockopt::SndBufForce, &SOCKET_BUFFER);
    }
    Ok((ours, theirs))
}

impl Nbd {
    fn threads(&self) -> MutexGuard<'_, Threads> {
        self.threads.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Claims the device, starts its threads and waits until it runs. Each thread holds `alive`.
    fn run(
        &self,
        file: &Arc<File>,
        sockets: Vec<OwnedFd>,
        buffers: Vec<(Input, Output)>,
        settings: Settings,
        alive: mpsc::Sender<()>,
    ) -> Result<()> {
        let running = self.start_device(file.clone(), sockets, settings, &alive)?;
        // Ours from here on, and to be detached if anything fails.
        *self.file.write().unwrap_or_else(|e| e.into_inner()) = Some(file.clone());
        for (queue, (input, output)) in self.queues.iter().cloned().zip(buffers) {
            self.start("r3map-nbd", &alive, move || queue.serve(input, output))?;
        }
        let service = self.service.clone();
        self.start("r3map-nbd-care", &alive, move || service.care.run())?;
        self.wait_until_live(file, settings, running)
    }

    /// Starts a thread of the device, which holds `alive` until it ends.
    fn start(&self, name: &str, alive: &mpsc::Sender<()>, body: impl FnOnce() + Send + 'static) -> Result<()> {
        let alive = alive.clone();
        let started = thread::spawn(name, move || {
            body();
            drop(alive);
        });
        let handle = started.map_err(|error| Error::io(format!("start the thread {name}"), error))?;
        self.threads().handles.push(handle);
        Ok(())
    }

    /// Claims the device and lets it run. What comes back brings the outcome once it no longer does.
    fn start_device(
        &self,
        file: Arc<File>,
        sockets: Vec<OwnedFd>,
        settings: Settings,
        alive: &mpsc::Sender<()>,
    ) -> Result<mpsc::Receiver<Result<()>>> {
        let candidate = self.candidate.clone();
        let (claimed, claim) = Waiter::new();
        let (ended, running) = mpsc::channel();
        self.start("r3map-nbd-run", alive, move || {
            // The kernel keeps its ends; ours of them must go, or no end would ever be noticed.
            let outcome = kernel::claim(&candidate, &file, sockets, settings);
            let ours = outcome.is_ok();
            claim.notify(outcome);
            if ours {
                let _ = ended.send(kernel::hold(&candidate, &file));
            }
        })?;
        claimed.wait(&Limit::within(PATIENCE), "claim an NBD device")??;
        Ok(running)
    }

    fn wait_until_live(&self, file: &File, settings: Settings, running: mpsc::Receiver<Result<()>>) -> Result<()> {
        let what = format!("start {}", self.candidate.path.display());
        let limit = Limit::within(PATIENCE);
        loop {
            if self.candidate.is_attached() && kernel::size(file) == settings.blocks * BLOCK {
                return Ok(());
            }
            match running.recv_timeout(Duration::from_micros(200)) {
                Ok(outcome) => {
                    outcome?;
                    return Err(Error::new(Code::Io, format!("{what}: somebody disconnected it at once")));
                }
                Err(_) => limit.check(&what)?,
            }
        }
    }

    fn held(&self) -> Result<Arc<File>> {
        let file = self.file.read().unwrap_or_else(|e| e.into_inner());
        file.clone().ok_or_else(|| Error::new(Code::Closed, format!("{} is detached", self.candidate.path.display())))
    }

    /// The error of an access to the device; the kernel says EIO whatever it was, we know the cause.
    fn cause(&self, what: &str, error: std::io::Error) -> Error {
        let path = self.candidate.path.display();
        match self.service.care.latest_failure() {
            Some(cause) if error.raw_os_error() == Some(libc::EIO) => cause.context(format!("{what} {path}")),
            _ => Error::io(format!("{what} {path}"), error),
        }
    }

    /// Ends the threads, within a bound.
    fn join(&self, bound: Duration) -> Result<()> {
        let mut threads = self.threads();
        match threads.ended.recv_timeout(bound) {
            Err(RecvTimeoutError::Disconnected) => {
                for handle in threads.handles.drain(..) {
                    // Cannot have failed: a panic in it would have ended the process.
                    let _ = handle.join();
                }
                Ok(())
            }
            _ => Err(Error::new(
                Code::Timeout,
                format!("detach {}: a call of its backend does not return", self.candidate.path.display()),
            )),
        }
    }
}

impl Device for Nbd {
    fn kind(&self) -> Kind {
        Kind::Nbd
    }

    fn path(&self) -> Result<&Path> {
        self.held()?;
        Ok(&self.candidate.path)
    }

    fn file(&self) -> Result<File> {
        self.held()?;
        self.candidate.open(self.read_only)
    }

    fn slice(&self) -> Result<(NonNull<u8>, usize)> {
        let view = self
            .slice
            .get_or_try_init(|| View::of_device(&*self.held()?, self.service.device_size() as usize, self.read_only))?;
        Ok((view.start(), self.service.region.info().size as usize))
    }

    fn reserve(&self) {
        if let Some(view) = self.slice.get() {
            view.reserve();
        }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64, limit: &Limit) -> Result<()> {
        limit.check("read")?;
        self.held()?.read_exact_at(buffer, offset).map_err(|error| self.cause("read", error))
    }

    fn write_at(&self, data: &[u8], offset: u64, limit: &Limit) -> Result<()> {
        limit.check("write")?;
        self.held()?.write_all_at(data, offset).map_err(|error| self.cause("write", error))
    }

    fn flush(&self, limit: &Limit) -> Result<()> {
        let file = self.held()?;
        let (lost, service) = (self.lost.clone(), self.service.clone());
        let (waiter, notifier) = Waiter::new();
        // On a thread of its own, because fsync has no deadline and takes no cancel.
        let started = thread::spawn("r3map-nbd-flush", move || {
            // Held across the fsync: of two at once the kernel tells only one.
            let mut lost = lost.lock().unwrap_or_else(|e| e.into_inner());
            let failed = if lost.is_none() { file.sync_all().err() } else { None };
            let passing = failed.as_ref().and_then(|_| service.care.passing_failure());
            if let Some(error) = failed.filter(|_| passing.is_none()) {
                *lost = Some(service.care.latest_failure().unwrap_or_else(|| Error::io("fsync", error)));
            }
            drop(file);
            notifier.notify((passing, lost.clone()));
        });
        started.map_err(|error| Error::io("start the thread r3map-nbd-flush", error))?;
        let what = format!("flush {}", self.candidate.path.display());
        let flushed = waiter
            .wait(&limit.and_a_moment(), "wait for the kernel")
            .map_err(|error| error.context(format!("{what} of {}", self.service.region.info().name)));
        match flushed? {
            (None, None) => Ok(()),
            (Some(passing), _) => Err(passing.context(what)),
            (_, Some(lost)) => Err(lost.context(format!("{what}: writes to it were lost")).with_retryable(false)),
        }
    }

    fn detach(&self) -> Result<()> {
        let bound = if self.deadline.is_zero() { PATIENCE } else { self.deadline };
        if let Some(view) = self.slice.get() {
            view.fence()?;
        }
        if let Some(file) = self.file.write().unwrap_or_else(|e| e.into_inner()).take() {
            self.service.care.close_by(Instant::now().checked_add(bound));
            if self.read_only || kernel::drop_cache(&file).is_ok() {
                kernel::disconnect(&file);
            }
            for queue in &self.queues {
                queue.shut();
            }
            self.service.care.end();
        }
        self.join(bound + KERNEL_GRACE)
    }
}

impl Drop for Nbd {
    fn drop(&mut self) {
        // In a forked child all of it is the parent's.
        if self.process.is_current() {
            if let Err(error) = self.detach() {
                tracing::warn!(%error, "an NBD device was dropped and did not detach cleanly");
            }
        }
    }
}
