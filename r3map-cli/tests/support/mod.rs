//! The real command, run as a user runs it.
#![allow(dead_code, missing_docs)]

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub struct Outcome {
    pub status: i32,
    pub out: String,
    pub err: String,
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Outcome {
        Outcome {
            status: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

fn command<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_r3map"));
    command.args(arguments).env_remove("R3MAP_LOG").stdin(Stdio::null());
    command
}

/// Runs the command to its end.
pub fn r3map<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> Outcome {
    command(arguments).output().unwrap().into()
}

/// The same with that much of the library's log.
pub fn r3map_with_log<S: AsRef<std::ffi::OsStr>>(level: &str, arguments: &[S]) -> Outcome {
    command(arguments).env("R3MAP_LOG", level).output().unwrap().into()
}

/// Runs the command, which must succeed, and gives its standard output.
pub fn succeeds<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> String {
    let outcome = r3map(arguments);
    assert_eq!(outcome.status, 0, "{}", outcome.err);
    outcome.out
}

/// A verb that goes on until it is told to end; killed if the test fails.
pub struct Running {
    child: Child,
    out: BufReader<ChildStdout>,
    err: Option<BufReader<ChildStderr>>,
    /// What was read of standard error so far.
    said: String,
}

impl Running {
    pub fn start<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> Running {
        let mut command = command(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let err = child.stderr.take().map(BufReader::new);
        Running { child, out, err, said: String::new() }
    }

    /// The next line of standard output, without its end; empty if there is none.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.trim_end_matches('\n').to_owned()
    }

    /// Reads standard error no more.
    pub fn ignore_errors(&mut self) {
        self.err = None;
    }

    /// Waits until standard error says this.
    pub fn says(&mut self, text: &str) {
        let err = self.err.as_mut().unwrap();
        while !self.said.contains(text) {
            assert_ne!(err.read_line(&mut self.said).unwrap(), 0, "it never said {text:?}: {}", self.said);
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Waits for the end; `out` is what standard output said after the lines taken.
    pub fn ended(mut self) -> Outcome {
        let patience = Instant::now() + Duration::from_secs(60);
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None if Instant::now() > patience => panic!("the command did not end"),
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        let (mut out, mut err) = (String::new(), std::mem::take(&mut self.said));
        self.out.read_to_string(&mut out).unwrap();
        if let Some(mut stderr) = self.err.take() {
            stderr.read_to_string(&mut err).unwrap();
        }
        Outcome { status: status.code().unwrap_or(-1), out, err }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A directory of the test's own, removed with all that is in it.
pub struct Directory(tempfile::TempDir);

impl Directory {
    pub fn new() -> Directory {
        Directory(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn url(&self, name: &str) -> String {
        format!("file://{}", self.path(name).display())
    }

    /// A file of that many bytes, no two blocks alike; gives its URL and bytes.
    pub fn file(&self, name: &str, size: usize) -> (String, Vec<u8>) {
        let bytes: Vec<u8> = (0..size as u64).map(|at| ((at * 2654435761) >> 13) as u8).collect();
        std::fs::write(self.path(name), &bytes).unwrap();
        (self.url(name), bytes)
    }
}

pub fn same(path: &Path, bytes: &[u8]) -> bool {
    std::fs::read(path).unwrap() == bytes
}
