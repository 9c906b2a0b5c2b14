//! 113: files of web servers, read by ranges from a real nginx.

#![cfg(feature = "http")]

use std::time::Duration;

use r3map_core::backend::{self, Operation};
use r3map_core::buffer::Buffer;
use r3map_core::cancel::Limit;
use r3map_core::{Code, Mount};

mod backends;
mod servers;
#[path = "../../tests/skip.rs"]
mod skip;

use backends::{Random, all, open, read};
use servers::{Nginx, SOON};

/// No multiple of anything, and several units of transfer.
const SIZE: usize = 3 * (1 << 20) + 4097;

fn content() -> Vec<u8> {
    let mut random = Random(7);
    (0..SIZE).map(|_| random.below(256) as u8).collect()
}

/// nginx with that content as `file`.
fn nginx() -> Option<Nginx> {
    if !servers::is_here("nginx") {
        skip::skip("nginx is not installed: scripts/setup test");
        return None;
    }
    let nginx = Nginx::start();
    std::fs::write(nginx.file("file"), content()).unwrap();
    Some(nginx)
}

#[test]
fn every_range_of_a_file_is_what_the_file_has_and_writes_are_refused() {
    let Some(nginx) = nginx() else { return };
    let (backend, expected) = (open(&nginx.url("file")).unwrap(), content());
    assert!(backend.info().size == SIZE as u64 && backend.info().read_only && backend.info().identity.is_some());
    assert!(all(&backend) == expected);
    let mut random = Random(11);
    for _ in 0..100 {
        let offset = random.below(SIZE as u64);
        let most = [10, 5000, SIZE as u64][random.below(3) as usize].min(SIZE as u64 - offset);
        let length = random.below(most + 1);
        let range = offset as usize..(offset + length) as usize;
        assert!(read(&backend, offset, length as usize) == expected[range], "{length} at {offset}");
    }
    assert_eq!(backend.write_at(b"x", 0).unwrap_err().code(), Code::ReadOnly);
    assert_eq!(backend.zero_at(0, 1 << 20).unwrap_err().code(), Code::ReadOnly);
    assert_eq!(backend.read_at(&mut [0; 2], SIZE as u64 - 1).unwrap_err().code(), Code::OutOfRange);
    // By way of a redirect, and a file with nothing in it.
    assert!(read(&open(&nginx.url("moved/")).unwrap(), 5, 100) == expected[5..105]);
    std::fs::write(nginx.file("empty"), b"").unwrap();
    assert_eq!(open(&nginx.url("empty")).unwrap().info().size, 0);
    // And as a mount.
    let mount = Mount::options().read_only(true).open(backend).unwrap();
    mount.wait_local(1.0, SOON).unwrap();
    let mut bytes = vec![0; SIZE];
    mount.read_at(&mut bytes, 0).unwrap();
    assert!(bytes == expected);
}

#[test]
fn what_cannot_be_read_by_ranges_is_refused_with_why() {
    let Some(nginx) = nginx() else { return };
    for (path, code, words) in [
        ("whole/file", Code::Unsupported, "whole file"),
        ("nothing", Code::NotFound, "404"),
        ("secret/", Code::NotAuthenticated, "401"),
        ("busy/", Code::Busy, "503"),
        ("circle/", Code::Unsupported, "too often"),
    ] {
        let error = open(&format!("{}?signature=hidden", nginx.url(path))).err().unwrap();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.message().contains(words) && !error.message().contains("hidden"), "{error}");
    }
}

#[test]
fn a_file_that_changes_under_way_is_corrupt_and_never_mixed() {
    let Some(nginx) = nginx() else { return };
    let backend = open(&nginx.url("file")).unwrap();
    assert_eq!(read(&backend, 0, 10), content()[..10]);
    let mut other = content();
    other.push(0);
    std::fs::write(nginx.file("file"), other).unwrap();
    for (offset, length) in [(0, 10), (0, SIZE)] {
        let error = backend.read_at(&mut vec![0; length], offset).unwrap_err();
        assert_eq!(error.code(), Code::Corrupt, "{error}");
    }
}

#[test]
fn a_web_server_that_is_away_gives_an_error_with_its_cause_and_is_read_when_it_is_back() {
    let Some(mut nginx) = nginx() else { return };
    let backend = open(&nginx.url("file")).unwrap();
    nginx.kill();
    let ask = || Operation::Read { offset: 0, buffer: Buffer::new(4096) };
    let error = backend::call(&backend, ask(), &Limit::within(Duration::from_millis(300)), "read").err().unwrap();
    assert_eq!(error.code(), Code::Disconnected, "{error}");
    assert!(error.message().contains("refused"), "{error}");
    let waiting = backend.clone();
    let reader = std::thread::spawn(move || backend::call(&waiting, ask(), &Limit::within(SOON), "read").map(drop));
    nginx.restart(&[]);
    reader.join().unwrap().unwrap();
    let stopped = nginx.stopped();
    let error = backend::call(&backend, ask(), &Limit::within(Duration::from_millis(300)), "read").err().unwrap();
    assert_eq!(error.code(), Code::Timeout, "{error}");
    drop(stopped);
    assert!(all(&backend) == content());
}
