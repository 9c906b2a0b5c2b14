//! The behaviours that every language has, by the numbers of the table in tests/README.md: in Rust, and as small as in C.
#![allow(clippy::undocumented_unsafe_blocks)] // They touch the slice of the test's own mount, where nobody else does.

use std::sync::Arc;
use std::time::Duration;

use r3map_core::{Backend, BackendOptions, Code, Mount, MountOptions, Result, backend};

#[path = "../seeding/mod.rs"]
mod seeding;
#[path = "../../../tests/skip.rs"]
mod skip;

mod moving;
mod own;
mod t100_open;
mod t101_read_write;
mod t102_own;
mod t103_own_errors;
mod t106_remote;
mod t107_connect;
mod t108_export;
mod t109_wrong_url;
mod t200_open;
mod t201_options;
mod t202_stats;
mod t203_read_only;
mod t204_missing;
mod t205_events;
mod t300_slice;
mod t301_path;
mod t302_file;
mod t303_refused_view;
mod t400_odd_sizes;
mod t401_threads;
mod t402_read;
mod t403_write;
mod t500_sync;
mod t501_sticky_failure;
mod t601_leech;
mod t602_finalize;
mod t603_fenced;
mod t604_chain;
mod t605_payload;
mod t606_refuse;
mod t702_closed;
mod t704_errors;
mod t705_cancel;
mod t706_deadline;
mod t710_close_twice;
mod t711_remote_gone;
mod t712_wrong_numbers;

fn open(url: &str) -> Result<Arc<dyn Backend>> {
    backend::open(url, &BackendOptions::default())
}

fn mount(url: &str) -> Mount {
    mount_with(url, "deadline", "30s")
}

fn mount_with(url: &str, option: &str, value: &str) -> Mount {
    let mut options = MountOptions::default();
    options.set(option, value).unwrap();
    options.open_url(url, &BackendOptions::default()).unwrap()
}

/// The call failed with that code, and its message holds that text.
#[track_caller]
fn fails<T>(outcome: Result<T>, code: Code, text: &str) {
    let error = outcome.err().unwrap_or_else(|| panic!("it succeeded, and {} was expected", code.name()));
    assert_eq!(error.code(), code, "{error}");
    assert!(error.message().contains(text), "{error}: says nothing of {text:?}");
}

/// Whether an error says that this machine has no such device.
fn is_missing(error: &r3map_core::Error) -> bool {
    matches!(error.code(), Code::NoDevice | Code::Unsupported | Code::PermissionDenied)
}

fn pattern(length: usize, seed: u32) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + at / 4096 + seed as usize) as u8).collect()
}

const SOON: Duration = Duration::from_secs(30);
