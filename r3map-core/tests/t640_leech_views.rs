//! 640: a region moves from slice to slice, on in chains, in groups, and over a connection that somebody else made.
#![allow(clippy::undocumented_unsafe_blocks)] // They touch the slice of the test's own mount, as its app would.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use r3map_core::device::{Kind, View};
use r3map_core::{
    BackendOptions, Code, DeviceChoice, Error, Group, Leecher, Mount, MountOptions, Result, SeedOptions, Server,
    ServerOptions, Slice,
};

mod leeching;
mod seeding;
#[path = "../../tests/skip.rs"]
mod skip;

use leeching::{App, Bytes, SIZE, Writer, code, hand_over, leech, leech_with, options, read_all, same};
use seeding::{Directory, SOON, mount, pattern, seed};

impl Bytes for Slice {
    fn write(&self, bytes: &[u8], offset: u64) -> Result<()> {
        unsafe { self.as_ptr().add(offset as usize).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }
    fn read(&self, bytes: &mut [u8], offset: u64) {
        unsafe { bytes.as_mut_ptr().copy_from_nonoverlapping(self.as_ptr().add(offset as usize), bytes.len()) };
    }
}

fn all_of(slice: &Slice) -> Vec<u8> {
    let mut bytes = vec![0; slice.len()];
    slice.read(&mut bytes, 0);
    bytes
}

fn sliced() -> MountOptions {
    MountOptions { prepare: Some(View::Slice), device: DeviceChoice::Userfaultfd, ..options() }
}

fn moves_from_slice_to_slice(local: &str) {
    if let Err(error) = r3map_core::device::userfaultfd::probe() {
        return skip::skip(format!("no userfaultfd: {error}"));
    }
    let source = MountOptions { device: DeviceChoice::Userfaultfd, ..options() }
        .open_url(&format!("memory:?size={SIZE}"), &BackendOptions::default())
        .unwrap();
    let bytes = pattern(SIZE as usize, 4);
    source.write_at(&bytes, 0).unwrap();
    let there = source.slice().unwrap();
    let seeder = seed(&source);
    let app = App::start(&seeder, Writer::start(there, bytes, 6), b"");
    let leecher = leech_with(&seeder, local, sliced()).unwrap();
    leecher.wait_local(0.8, SOON).unwrap();
    let here = leecher.finalize().unwrap();
    let slice = here.slice().unwrap();
    let writer = Writer::start(slice.clone(), app.bytes(), 7);
    here.wait_local(1.0, SOON).unwrap();
    seeder.wait_drained(SOON).unwrap();
    let bytes = writer.stop();
    same(&all_of(&slice), &bytes);
    app.join();
    seeder.close().unwrap();
    source.close().unwrap();

    // And on from here, back to a handle.
    let seeder = seed(&here);
    let app = App::start(&seeder, Writer::start(slice, bytes, 8), b"");
    let leecher = leech(&seeder, "memory:");
    let back = leecher.finalize().unwrap();
    back.wait_local(1.0, SOON).unwrap();
    same(&read_all(&back), &app.bytes());
    app.join();
    assert_eq!(code(here.read_at(&mut [0], 0)), Code::Fenced);
    seeder.close().unwrap();
    here.close().unwrap();
    back.close().unwrap();
}

#[test]
fn a_slice_that_was_prepared_shows_the_region_in_memory_and_is_seeded_again() {
    moves_from_slice_to_slice("memory:");
}

#[test]
fn a_slice_that_was_prepared_shows_the_region_in_a_file_and_is_seeded_again() {
    let directory = Directory::new();
    moves_from_slice_to_slice(&directory.url("region"));
}

/// A file as an app has it.
struct Opened(std::fs::File);

impl Bytes for Opened {
    fn write(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.0.write_all_at(bytes, offset).map_err(|error| Error::io("write to a file", error))
    }
    fn read(&self, bytes: &mut [u8], offset: u64) {
        self.0.read_exact_at(bytes, offset).unwrap();
    }
}

fn opened(mount: &Mount, view: View) -> Opened {
    Opened(match view {
        View::File => mount.file().unwrap(),
        _ => File::options().read(true).write(true).open(mount.path().unwrap()).unwrap(),
    })
}

fn moves_from_device_to_device(device: DeviceChoice, view: View) {
    let options = MountOptions { device, ..options() };
    let size = 2 << 20;
    let source = options.clone().open_url(&format!("memory:?size={size}"), &BackendOptions::default()).unwrap();
    let bytes = pattern(size, 4);
    source.write_at(&bytes, 0).unwrap();
    let there = opened(&source, view);
    let seeder = seed(&source);
    let app = App::start(&seeder, Writer::start(there, bytes, 6), b"");
    let leecher = leech_with(&seeder, "memory:", MountOptions { prepare: Some(view), ..options }).unwrap();
    leecher.wait_local(0.5, SOON).unwrap();
    let here = leecher.finalize().unwrap();
    // The app there let go of its file when it stopped.
    let writer = Writer::start(opened(&here, view), app.bytes(), 7);
    here.wait_local(1.0, SOON).unwrap();
    seeder.wait_drained(SOON).unwrap();
    let bytes = writer.stop();
    let file = opened(&here, view);
    let mut found = vec![0; size];
    file.read(&mut found, 0);
    same(&found, &bytes);
    file.0.sync_all().unwrap();
    same(&read_all(&here), &bytes);
    drop(file);
    app.join();
    seeder.close().unwrap();
    source.close().unwrap();
    here.close().unwrap();
}

#[test]
fn a_path_of_fuse_that_was_prepared_shows_the_region_under_a_writer() {
    if let Err(error) = Kind::Fuse.probe() {
        return skip::skip(error);
    }
    moves_from_device_to_device(DeviceChoice::Fuse, View::Path);
}

#[test]
fn a_file_of_fuse_that_was_prepared_shows_the_region_under_a_writer() {
    if let Err(error) = Kind::Fuse.probe() {
        return skip::skip(error);
    }
    moves_from_device_to_device(DeviceChoice::Fuse, View::File);
}

#[test]
fn a_block_device_that_was_prepared_shows_the_region_under_a_writer() {
    if let Err(error) = Kind::Nbd.probe() {
        return skip::leave_to_guest(error);
    }
    moves_from_device_to_device(DeviceChoice::Nbd(None), View::Path);
    moves_from_device_to_device(DeviceChoice::Nbd(None), View::File);
}

#[test]
fn a_region_goes_round_and_what_is_unchanged_since_its_last_stay_is_not_sent_again() {
    let directory = Directory::new();
    let names = ["a", "b", "c"];
    std::fs::write(directory.file("a"), pattern(SIZE as usize, 5)).unwrap();
    let mut bytes = pattern(SIZE as usize, 5);
    let mut here = mount(&directory.url("a"));
    for hop in 1..=7u64 {
        let seeder = seed(&here);
        // One page of each hundred changes at each stay.
        for at in (hop as usize * 4096..SIZE as usize - 8).step_by(100 * 4096) {
            bytes[at..at + 8].copy_from_slice(&hop.to_le_bytes());
            here.write_at(&hop.to_le_bytes(), at as u64).unwrap();
        }
        let leecher = leech(&seeder, &directory.url(names[hop as usize % 3]));
        leecher.wait_local(1.0, SOON).unwrap();
        let taken = std::thread::spawn({
            let leecher = leecher.clone();
            move || leecher.finalize().unwrap()
        });
        hand_over(&seeder, b"");
        let next = taken.join().unwrap();
        next.wait_local(1.0, SOON).unwrap();
        seeder.wait_drained(SOON).unwrap();
        same(&read_all(&next), &bytes);
        let stats = leecher.stats().unwrap();
        let (pulled, matched) = (stats.get("pulled_bytes").unwrap(), stats.get("matched_bytes").unwrap());
        match hop {
            1 | 2 => assert_eq!((pulled, matched), (SIZE, 0)),
            _ => assert!(pulled < SIZE && matched > 0 && pulled + matched == SIZE, "{pulled} and {matched}"),
        }
        assert_eq!(stats.get("epoch"), Some(hop + 1));
        seeder.close().unwrap();
        here.close().unwrap();
        here = next;
    }
    here.close().unwrap();
}

#[test]
fn several_regions_move_as_one_with_one_commit() {
    let directory = Directory::new();
    let sizes = [3 << 20, (1 << 20) + 5, 100_000];
    let mounts: Vec<_> = sizes.iter().map(|size| mount(&format!("memory:?size={size}"))).collect();
    let mut bytes: Vec<_> = sizes.iter().map(|size| pattern(*size as usize, *size)).collect();
    let group = Group::new();
    for (mount, bytes) in mounts.iter().zip(&bytes) {
        mount.write_at(bytes, 0).unwrap();
        group.add(mount).unwrap();
    }
    let seeder = group.seed("127.0.0.1:0", &SeedOptions::default()).unwrap();
    let locals = ["memory:".to_owned(), directory.url("two"), "memory:".to_owned()];
    let url = seeder.url().unwrap();
    let alone = Leecher::open(url, "memory:", options(), &BackendOptions::default());
    assert_eq!(code(alone.map(drop)), Code::InvalidArgument);
    let leecher = Leecher::open_group(url, &locals, options(), &BackendOptions::default()).unwrap();
    leecher.wait_local(1.0, SOON).unwrap();
    for (index, mount) in mounts.iter().enumerate() {
        mount.write_at(b"at last", 90_000).unwrap();
        bytes[index][90_000..90_007].copy_from_slice(b"at last");
    }
    let taken = std::thread::spawn({
        let leecher = leecher.clone();
        move || {
            assert_eq!(code(leecher.finalize().map(drop)), Code::InvalidArgument);
            leecher.finalize_group().unwrap()
        }
    });
    hand_over(&seeder, b"for all");
    let here = taken.join().unwrap();
    seeder.wait_drained(SOON).unwrap();
    for (mount, bytes) in here.iter().zip(&bytes) {
        same(&read_all(mount), bytes);
        assert_eq!(mount.payload(), b"for all");
    }
    for mount in &mounts {
        assert_eq!(code(mount.write_at(b"x", 0)), Code::Fenced);
    }
    seeder.close().unwrap();
    here.iter().for_each(|mount| mount.close().unwrap());
}

#[test]
fn one_connection_that_somebody_else_made_carries_all_of_it() {
    let source = mount(&format!("memory:?size={SIZE}"));
    let bytes = pattern(SIZE as usize, 8);
    source.write_at(&bytes, 0).unwrap();
    let server = Server::new(ServerOptions::default()).unwrap();
    let seeder = server.seed("moved", &source, &SeedOptions::default()).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    server.handle(theirs.into()).unwrap();
    let leecher =
        Leecher::connect(OwnedFd::from(ours), "moved", "memory:", options(), &BackendOptions::default()).unwrap();
    leecher.wait_local(1.0, SOON).unwrap();
    source.write_at(b"late", 5000).unwrap();
    let taken = std::thread::spawn({
        let leecher = leecher.clone();
        move || leecher.finalize().unwrap()
    });
    hand_over(&seeder, b"");
    let here = taken.join().unwrap();
    seeder.wait_drained(SOON).unwrap();
    let mut expected = bytes;
    expected[5000..5004].copy_from_slice(b"late");
    same(&read_all(&here), &expected);
    seeder.close().unwrap();
    here.close().unwrap();
    server.close().unwrap();
}
