//! 530: the pages of a managed mount in a file: under every view, and who may have it.

use r3map_core::backend::memory::Memory;
use r3map_core::device::Kind;
use r3map_core::{Backend, Code, DeviceChoice, Mode, Mount, MountOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

mod faults;
#[path = "../../tests/skip.rs"]
mod skip;

use faults::{Directory, assert_same, pattern};

/// Whole pages, so that nbd shows exactly these bytes.
const SIZE: usize = 2 << 20;

fn region() -> Arc<Memory> {
    let region = Arc::new(Memory::new(SIZE as u64).unwrap());
    region.write_at(&pattern(SIZE, 3), 0).unwrap();
    region
}

fn options(cache: &Path) -> MountOptions {
    Mount::options().mode(Mode::Managed).cache(format!("file://{}", cache.display()))
}

/// Reads, writes and syncs through each view a device gives; the next mount goes on with the cache.
fn works_over_a_cache(device: DeviceChoice, kind: Option<Kind>) {
    let directory = Directory::new();
    let cache = directory.file("cache");
    let region = region();
    let mut twin = pattern(SIZE, 3);
    for round in 0..2u8 {
        // Memory has no identity by which a cache could know it.
        let trusting = MountOptions { cache_trust: true, ..options(&cache) };
        let mount = trusting.device(device.clone()).open(region.clone()).unwrap();
        assert!(round == 0 || mount.missing(0, SIZE as u64).unwrap().is_empty(), "the first mount read all of it");
        assert_eq!(std::fs::metadata(&cache).unwrap().len(), SIZE as u64);
        let at = 70_000 + usize::from(round) * 5000;
        match kind {
            None => mount.write_at(b"by the handle", at as u64).unwrap(),
            Some(kind) if kind.gives(r3map_core::device::View::File) => {
                mount.file().unwrap().write_all_at(b"by the handle", at as u64).unwrap();
            }
            Some(_) => {
                let slice = mount.slice().unwrap();
                // SAFETY: the range lies inside the slice, whose mount is open, and nobody else uses it now.
                unsafe { std::ptr::copy(b"by the handle".as_ptr(), slice.as_ptr().add(at), 13) };
            }
        }
        assert_eq!(mount.device(), kind);
        twin[at..at + 13].copy_from_slice(b"by the handle");
        let mut bytes = vec![0; SIZE];
        mount.read_at(&mut bytes, 0).unwrap();
        assert_same(&bytes, &twin, "through the mount");
        assert!(std::fs::metadata(&cache).unwrap().blocks() > 0, "what was read is kept in the file");
        mount.sync().unwrap();
        region.read_at(&mut bytes, 0).unwrap();
        assert_same(&bytes, &twin, "at the backend after sync");
        mount.close().unwrap();
        assert!(cache.exists() && directory.file("cache.r3map-cache").exists(), "it is kept");
    }
    let error = options(&cache).open(region.clone()).err().unwrap();
    assert_eq!(error.code(), Code::Unsupported);
    assert!(error.message().contains("say cache_trust"), "{error}");
}

#[test]
fn a_mount_without_a_device_keeps_its_pages_in_a_file() {
    works_over_a_cache(DeviceChoice::Auto, None);
}

#[test]
fn a_slice_lies_over_a_cache_in_a_file() {
    if let Err(error) = Kind::Userfaultfd.probe() {
        return skip::skip(error);
    }
    works_over_a_cache(DeviceChoice::Userfaultfd, Some(Kind::Userfaultfd));
}

#[test]
fn a_file_of_fuse_lies_over_a_cache_in_a_file() {
    if let Err(error) = Kind::Fuse.probe() {
        return skip::skip(error);
    }
    works_over_a_cache(DeviceChoice::Fuse, Some(Kind::Fuse));
}

#[test]
fn a_block_device_lies_over_a_cache_in_a_file() {
    if let Err(error) = Kind::Nbd.probe() {
        return skip::leave_to_guest(error);
    }
    works_over_a_cache(DeviceChoice::Nbd(None), Some(Kind::Nbd));
}

#[test]
fn an_existing_file_is_refused_as_a_cache_and_left_as_it_is() {
    let directory = Directory::new();
    let cache = directory.file("precious");
    std::fs::write(&cache, b"somebody's only copy").unwrap();
    let error = options(&cache).open(region()).err().unwrap();
    assert_eq!(error.code(), Code::Busy);
    assert!(!error.is_retryable());
    let url = format!("file://{}", cache.display());
    let message = format!("cache: {url}: something is there that is no cache: name another file");
    assert_eq!(error.message(), message);
    assert!(!directory.file("precious.r3map-cache").exists());
    assert_eq!(std::fs::read(&cache).unwrap(), b"somebody's only copy");
}

#[test]
fn discard_takes_the_cache_away_and_what_took_its_name_stays() {
    let directory = Directory::new();
    let cache = directory.file("cache");
    let mount = options(&cache).open(region()).unwrap();
    mount.write_at(b"never pushed", 0).unwrap();
    mount.discard().unwrap();
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);

    let mount = options(&cache).open(region()).unwrap();
    std::fs::remove_file(&cache).unwrap();
    std::fs::write(&cache, b"another").unwrap();
    mount.discard().unwrap();
    assert_eq!(std::fs::read(&cache).unwrap(), b"another");
}

#[test]
fn a_second_mount_of_a_cache_is_busy_and_names_who_has_it() {
    let directory = Directory::new();
    let cache = directory.file("cache");
    let mount = options(&cache).open(region()).unwrap();
    let error = options(&cache).open(region()).err().unwrap();
    assert_eq!(error.code(), Code::Busy);
    let us = format!("[{}]@", std::process::id());
    assert!(error.message().contains(&us) && error.message().contains(" has this cache open"), "{error}");
    mount.close().unwrap();
    let trusting = MountOptions { cache_trust: true, ..options(&cache) };
    trusting.open(region()).unwrap().close().unwrap();
    assert!(cache.exists(), "the closed mount lets go of it while its handle lives");
}

#[test]
fn a_mount_that_does_not_open_leaves_no_cache_behind() {
    let directory = Directory::new();
    let cache = directory.file("cache");
    let region = Arc::new(faults::Aligned::new(Memory::new(1 << 20).unwrap(), 8192));
    assert_eq!(options(&cache).open(region).err().unwrap().code(), Code::Unsupported);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}
