//! The guard: a small process that outlives the one that serves, and cleans up after it.
//!
//! A process that dies while pages of a file it serves itself are dirty waits in its own exit for answers that
//! only it could give, and cannot be killed further. Neither its pipes nor its `pidfd` tell of its end then, but
//! the threads that wait for nothing do end: the guard waits for the end of one of them (see [`life`]). It
//! then ends the connection, which lets the process go, and unmounts.

use std::ffi::CStr;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;

use super::mounting::{abort, c_path, detach, fusermount};
use super::place::Place;
use crate::error::{Code, Error, Result};
use crate::thread;

mod life;
mod memory;

use life::Life;

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
        // The guard has nothing to do then but to leave.
        if self.sentinel.take().is_some_and(|sentinel| sentinel.join().is_err()) {
            tracing::error!("fuse: the thread that stands for this process is gone");
        }
    }
}

/// The thread that stands for the process: it waits for nothing but its dismissal.
fn sentinel(orders: &Orders, tell: &Sender<i32>, dismissed: &Receiver<()>) {
    let failed = |error: std::io::Error| error.raw_os_error().unwrap_or(libc::ENOMEM);
    let life = match Life::new() {
        Ok(life) => life,
        Err(error) => {
            let _ = tell.send(failed(error));
            return;
        }
    };
    life.begin();
    // SAFETY: the child calls only what it may.
    let child = unsafe { fork() };
    if child == 0 {
        // SAFETY: this is the forked child.
        unsafe { guard(orders, life) };
    }
    let _ = tell.send(if child < 0 { failed(std::io::Error::last_os_error()) } else { 0 });
    if child > 0 {
        // Ends when the other side is dropped.
        let _ = dismissed.recv();
    }
    life.dismiss();
    // SAFETY: the guard, if there is one, is a child of this process that nobody else waits for; once it has
    // ended, the word has no other user.
    unsafe {
        if child > 0 {
            wait(child);
        }
        life.free();
    }
}

/// Waits for a child that [`fork`] made.
///
/// # Safety
/// Nobody else waits for it.
unsafe fn wait(child: libc::pid_t) {
    // SAFETY: a plain call; no status is asked for.
    unsafe {
        while libc::waitpid(child, std::ptr::null_mut(), libc::__WALL) < 0 && *libc::__errno_location() == libc::EINTR {
        }
    }
}

/// Forks without the hooks that the application registered. The child's end sends no signal, and a plain
/// `wait` of the application does not see it.
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
unsafe fn guard(orders: &Orders, life: Life) -> ! {
    // SAFETY: async-signal-safe calls only, on memory of this stack, which is kept.
    unsafe {
        // Volatile, so that it is a copy on this stack indeed: what it came from is about to go.
        let orders = std::ptr::read_volatile(orders);
        libc::prctl(libc::PR_SET_NAME, c"r3map-guard".as_ptr());
        libc::setsid();
        libc::chdir(c"/".as_ptr());
        libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0);
        memory::let_go(life.address());
        if life.wait() {
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
                    wait(child);
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
