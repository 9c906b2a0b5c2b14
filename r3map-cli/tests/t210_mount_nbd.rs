//! `mount` on a real `/dev/nbdX`.
#![allow(missing_docs)]

#[path = "../../tests/skip.rs"]
mod skip;
mod support;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::sys::signal::Signal;
use r3map_core::device::Kind;
use support::{Directory, Running, r3map, same};

#[test]
fn at_is_a_link_to_the_device_that_goes_with_the_mount() {
    if let Err(error) = Kind::Nbd.probe() {
        return skip::leave_to_guest(error);
    }
    let directory = Directory::new();
    let (url, mut bytes) = directory.file("file", 40 * 4096);
    let at = directory.path("link");
    let mut mount = Running::start(&["mount", &url, "--device", "nbd", "--at", at.to_str().unwrap()]);
    assert_eq!(Path::new(&mount.line()), at);
    let device = std::fs::read_link(&at).unwrap();
    assert!(device.starts_with("/dev/") && same(&device, &bytes), "{}", device.display());
    OpenOptions::new().write(true).open(&at).unwrap().write_all_at(b"changed", 5000).unwrap();
    bytes[5000..5007].copy_from_slice(b"changed");
    mount.signal(Signal::SIGTERM);
    let outcome = mount.ended();
    assert_eq!(outcome.status, 0, "{}", outcome.err);
    assert!(same(&directory.path("file"), &bytes), "a write was lost");
    assert!(at.symlink_metadata().is_err(), "the link is still there");
}

#[test]
fn a_file_where_the_link_would_be_is_left_alone_and_the_device_detached() {
    if let Err(error) = Kind::Nbd.probe() {
        return skip::leave_to_guest(error);
    }
    let directory = Directory::new();
    let (url, _) = directory.file("file", 4096);
    std::fs::write(directory.path("link"), "mine").unwrap();
    let outcome = r3map(&["mount", &url, "--device", "nbd", "--at", directory.path("link").to_str().unwrap()]);
    assert_eq!((outcome.status, outcome.out.as_str()), (1, ""));
    let message = format!(" at {}: File exists (os error 17)\n", directory.path("link").display());
    assert!(
        outcome.err.starts_with("r3map: put a link to /dev/nbd") && outcome.err.ends_with(&message),
        "{}",
        outcome.err
    );
    assert!(same(&directory.path("link"), b"mine"));
}
