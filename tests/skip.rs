//! How a Rust test says that it cannot run here (tests/README.md has the rules):
//! `if let Err(error) = Kind::Nbd.probe() { return skip::leave_to_guest(error); }`
//!
//! Integration tests take this file with `#[path = "../../tests/skip.rs"] mod skip;`, unit tests of the core as
//! `crate::skip`. The runner reads the line that a skip prints; a test that returns without one has passed.

#![allow(dead_code)] // No test file uses both functions.

use std::fmt::Display;

/// The test cannot run on this machine. In CI that is a failure: a test that never runs proves nothing.
#[track_caller]
pub fn skip(reason: impl Display) {
    assert!(std::env::var_os("CI").is_none() && !in_guest(), "skipped where it has to run: {reason}");
    eprintln!("SKIPPED: {}", one_line(&reason));
}

/// The test cannot run on this machine's kernel but in the guest of tests/kernel, where it then has to.
#[track_caller]
pub fn leave_to_guest(reason: impl Display) {
    assert!(!in_guest(), "skipped in the guest, which is there to run it: {reason}");
    eprintln!("LEFT TO THE GUEST: {}", one_line(&reason));
}

/// Whether this is the guest of tests/kernel.
pub fn in_guest() -> bool {
    std::env::var_os("R3MAP_IN_GUEST").is_some()
}

fn one_line(reason: &impl Display) -> String {
    reason.to_string().replace('\n', " ")
}
