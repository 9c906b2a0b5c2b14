//! How a Rust test says that it cannot run here (tests/README.md has the rules):
//! `if let Err(error) = Kind::Nbd.probe() { return skip::leave_to_guest(error); }`
//!
//! Integration tests take this file with `#[path = "../../tests/skip.rs"] mod skip;`, unit tests of the core as
//! `crate::skip`. The runner names a file in R3MAP_SKIPS, to which each skip is a line; a test that returns
//! without one has passed.

#![allow(dead_code)] // No test file uses both functions.

use std::fmt::Display;
use std::io::Write;

/// The test cannot run on this machine. In CI that is a failure: a test that never runs proves nothing.
#[track_caller]
pub fn skip(reason: impl Display) {
    assert!(std::env::var_os("CI").is_none() && !in_guest(), "skipped where it has to run: {reason}");
    record("skipped", &reason.to_string());
}

/// The test cannot run on this machine's kernel but in the guest of tests/kernel, where it then has to.
#[track_caller]
pub fn leave_to_guest(reason: impl Display) {
    assert!(!in_guest(), "skipped in the guest, which is there to run it: {reason}");
    record("guest", &reason.to_string());
}

/// Whether this is the guest of tests/kernel.
pub fn in_guest() -> bool {
    std::env::var_os("R3MAP_IN_GUEST").is_some()
}

fn record(kind: &str, reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().expect("the test runner names each test's thread");
    let reason = reason.replace(['\n', '\t'], " ");
    eprintln!("SKIPPED: {reason}");
    if let Some(path) = std::env::var_os("R3MAP_SKIPS") {
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
        // One write, so that lines of tests that run side by side do not mix.
        file.write_all(format!("{kind}\t{test}\t{reason}\n").as_bytes()).unwrap();
    }
}
