//! The guard: a small process that outlives the one that serves, and cleans up after it.
//!
//! A process that dies while pages of a file it serves itself are dirty waits in its own exit for answers that
//! only it could give, and cannot be killed further. Its descriptors are not closed by then, so the guard
//! cannot wait for the end of a pipe that the process holds. It waits for one that a single thread of the
//! process holds in a descriptor table of its own: that thread dies at once, and its table with it. The
//! guard then ends the connection, which lets the process go, and unmounts. The private table also means
//! that no child the application forks keeps the pipe open.

use std::ffi::CStr;
use std::os::fd::RawFd;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use super::mounting::{abort, c_path, detach, fusermount};
use super::place::Place;
use crate::error::{Code, Error, Result};
use crate::thread;

mod memory;

/// How long a guard that is dismissed may take to be gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// A guard at work. Dropping it sends it home without cleaning up.
pub struct Guard {
    // Dropped to dismiss it.
    dismiss: Option<Sender<()>>,
    sentinel: Option<JoinHandle<()>>,
}

/// What the guard has to do, in memory that it keeps. A path that is empty is not removed.
#[derive(Clone, Copy)]
struct Orders {
    mounted: Text,
    file: Text,
    directory: Text,
    helper: Text,
}

#[derive(Clone, Copy)]
struct Text([u8; libc::PATH_MAX as usize]);

impl Text {
    fn of(path: Option<&Path>) -> Result<Text> {
        let mut text = Text([0; libc::PATH_MAX as usize]);
        let Some(path) = path else { return Ok(text) };
        let path = c_path(path)?;
        let bytes = path.to_bytes_with_nul();
        let room = text.0.get_mut(..bytes.len()).ok_or_else(|| {
            Error::new(Code::InvalidArgument, format!("fuse: a path of {} bytes is too long", bytes.len()))
        })?;
        room.copy_from_slice(bytes);
        Ok(text)
    }

    fn get(&self) -> Option<&CStr> {
        CStr::from_bytes_until_nul(&self.0).ok().filter(|text| !text.is_empty())
    }
}

impl Guard {
    /// Starts a guard for what will be mounted at this place.
    pub fn start(place: &Place) -> Result<Guard> {
        let orders = Orders {
            mounted: Text::of(Some(place.path()))?,
            file: Text::of(place.own_file())?,
            directory: Text::of(place.own_directory())?,
            helper: Text::of(fusermount().as_deref())?,
        };
        let (dismiss, dismissed) = mpsc::channel();
        let (tell, started) = mpsc::channel();
        let what = "fuse: start the guard process";
        let sentinel = thread::spawn("r3map-fuse-life", move || sentinel(&orders, &tell, &dismissed));
        let sentinel = sentinel.map_err(|error| Error::io(what, error))?;
        match started.recv() {
            Ok(0) => Ok(Guard { dismiss: Some(dismiss), sentinel: Some(sentinel) }),
            Ok(errno) => Err(Error::io(what, std::io::Error::from_raw_os_error(errno))),
            Err(_) => Err(Error::new(Code::Internal, format!("{what}: its thread is gone"))),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.dismiss.take());
        // Bounded: the thread waits for the guard no longer than its patience.
        if self.sentinel.take().is_some_and(|sentinel| sentinel.join().is_err()) {
            tracing::error!("fuse: the thread that stands for this process is gone");
        }
    }
}

/// The thread that stands for the process. It has no descriptors but its own, so it logs nothing.
fn sentinel(orders: &Orders, tell: &Sender<i32>, dismissed: &Receiver<()>) {
    match start_guard(orders) {
        Err(errno) => {
            let _ = tell.send(errno);
        }
        Ok((life, gone)) => {
            let _ = tell.send(0);
            // Ends when the other side is dropped.
            let _ = dismissed.recv();
            // SAFETY: both descriptors belong to this thread's own table.
            unsafe {
                libc::write(life, c"q".as_ptr().cast(), 1);
                let mut gone = libc::pollfd { fd: gone, events: libc::POLLIN, revents: 0 };
                libc::poll(&mut gone, 1, PATIENCE.as_millis() as i32);
            }
        }
    }
}

/// Gives this thread a descriptor table of its own and forks the guard, which inherits no other. Gives the
/// end whose closing means this process died, and the end that closes when the guard is gone.
fn start_guard(orders: &Orders) -> Result<(RawFd, RawFd), i32> {
    // SAFETY: system calls on integers and on memory that lives here; this thread opened nothing before, and
    // what other threads have open stays open in their table.
    unsafe {
        let errno = || *libc::__errno_location();
        if libc::syscall(libc::SYS_close_range, 0, u32::MAX, libc::CLOSE_RANGE_UNSHARE) != 0 {
            return Err(errno());
        }
        let (mut life, mut gone) = ([0; 2], [0; 2]);
        if libc::pipe(life.as_mut_ptr()) != 0 || libc::pipe(gone.as_mut_ptr()) != 0 {
            return Err(errno());
        }
        let child = fork();
        if child == 0 {
            // The child of a child that ends at once is nobody's zombie.
            libc::setsid();
            if fork() == 0 {
                libc::close(life[1]);
                libc::close(gone[0]);
                guard(orders, life[0]);
            }
            libc::_exit(0);
        }
        if child < 0 {
            return Err(errno());
        }
        while libc::waitpid(child, std::ptr::null_mut(), libc::__WALL) < 0 && errno() == libc::EINTR {}
        libc::close(life[0]);
        libc::close(gone[1]);
        Ok((life[1], gone[0]))
    }
}

/// Forks without the hooks that the application registered, and without a signal to it at the child's end.
///
/// # Safety
/// In the child only what a signal handler may call may be called.
unsafe fn fork() -> libc::pid_t {
    // SAFETY: without flags it copies the process as fork does; the argument order, which differs among
    // processors, does not matter for zeros.
    unsafe { libc::syscall(libc::SYS_clone, 0usize, 0usize, 0usize, 0usize, 0usize) as libc::pid_t }
}

/// The guard's life. Every signal is blocked, as in the thread that forked it.
///
/// # Safety
/// Called in a forked child that has only this thread.
unsafe fn guard(orders: &Orders, life: RawFd) -> ! {
    // SAFETY: async-signal-safe calls only, on memory of this stack, which is kept.
    unsafe {
        // Volatile, so that it is a copy on this stack indeed: what it came from is about to go.
        let orders = std::ptr::read_volatile(orders);
        libc::prctl(libc::PR_SET_NAME, c"r3map-guard".as_ptr());
        libc::chdir(c"/".as_ptr());
        memory::let_go();
        let mut byte = 0u8;
        let read = loop {
            let read = libc::read(life, (&raw mut byte).cast(), 1);
            if read >= 0 || *libc::__errno_location() != libc::EINTR {
                break read;
            }
        };
        if read != 1 {
            clean_up(&orders);
        }
        libc::_exit(0);
    }
}

/// # Safety
/// Called in a forked child that has only this thread.
unsafe fn clean_up(orders: &Orders) {
    // SAFETY: async-signal-safe calls only.
    unsafe {
        if let Some(mounted) = orders.mounted.get() {
            if !detach(mounted) {
                abort(mounted);
                if let Some(helper) = orders.helper.get() {
                    let child = fork();
                    if child == 0 {
                        let (flag, lazy, end) = (c"-u", c"-z", c"--");
                        let arguments = [helper, flag, lazy, end, mounted].map(CStr::as_ptr);
                        let [a, b, c, d, e] = arguments;
                        let arguments = [a, b, c, d, e, std::ptr::null()];
                        libc::execve(helper.as_ptr(), arguments.as_ptr(), [std::ptr::null()].as_ptr());
                        libc::_exit(1);
                    }
                    libc::waitpid(child, std::ptr::null_mut(), libc::__WALL);
                }
            }
        }
        if let Some(file) = orders.file.get() {
            libc::unlink(file.as_ptr());
        }
        if let Some(directory) = orders.directory.get() {
            libc::rmdir(directory.as_ptr());
        }
    }
}
