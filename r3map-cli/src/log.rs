//! What the library logs, on standard error: warnings unless `R3MAP_LOG` says otherwise.
//!
//! The library never waits for the reader of its log, since what it serves may wait for it. So a thread of
//! the command takes the lines, and that one waits for the terminal.

use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread;

use r3map_core::log::{self, Level};
use r3map_core::{Error, Result};

use crate::progress::Progress;

/// Runs `work` and meanwhile reports what the library logs.
pub fn reported<T>(progress: &Progress, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let level = match std::env::var("R3MAP_LOG") {
        Ok(level) => level.parse().map_err(|error: Error| error.context("R3MAP_LOG"))?,
        Err(_) => Level::Warn,
    };
    let (lines, library) = UnixStream::pair().map_err(|error| Error::io("make a socket for the log", error))?;
    log::to(library.as_fd(), level)?;
    // It has its own: ours would keep the reader waiting after the end.
    drop(library);
    thread::scope(|scope| {
        scope.spawn(|| BufReader::new(lines).lines().map_while(|line| line.ok()).for_each(|line| progress.log(&line)));
        let _off = Off;
        work()
    })
}

/// Ends the log when the work ends, also by a panic.
struct Off;

impl Drop for Off {
    fn drop(&mut self) {
        log::off();
    }
}
