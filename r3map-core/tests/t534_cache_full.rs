//! 534: a cache whose disk is full takes no more writes, and reads go past it.

use std::fs::OpenOptions;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use r3map_core::backend::memory::Memory;
use r3map_core::event::Kind;
use r3map_core::{Backend, Code, Error, Mode, Mount, MountOptions, Pull};

mod faults;
#[path = "../../tests/skip.rs"]
mod skip;

use faults::{Directory, SOON, assert_same, eventually, pattern};

const SIZE: usize = 2 << 20;

fn region() -> Arc<Memory> {
    let region = Arc::new(Memory::new(SIZE as u64).unwrap());
    region.write_at(&pattern(SIZE, 3), 0).unwrap();
    region
}

fn options(cache: &Path) -> MountOptions {
    let options = Mount::options().mode(Mode::Managed).cache(format!("file://{}", cache.display()));
    MountOptions { pull: Pull::Demand, push_interval: Duration::ZERO, ..options }
}

/// A disk of that many bytes that only this thread and those it starts can see, and that goes with them.
fn small_disk(place: &Path, bytes: u64) -> Result<(), Error> {
    let place = std::ffi::CString::new(place.to_str().unwrap()).unwrap();
    let size = std::ffi::CString::new(format!("size={bytes}")).unwrap();
    let (none, root) = (std::ptr::null(), c"/".as_ptr());
    let private = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: plain calls; the strings outlive them.
    let made = unsafe {
        libc::unshare(libc::CLONE_NEWNS) == 0
            && libc::mount(none, root, none, private, std::ptr::null()) == 0
            && libc::mount(c"small".as_ptr(), place.as_ptr(), c"tmpfs".as_ptr(), 0, size.as_ptr().cast()) == 0
    };
    if made { Ok(()) } else { Err(Error::last_os("a small disk needs root: mount a tmpfs")) }
}

const NO_ROOM: &str = "No space left on device (os error 28)";

#[test]
fn reads_go_past_a_full_disk_and_writes_fail_and_nothing_acknowledged_is_lost() {
    let directory = Directory::new();
    if let Err(error) = small_disk(directory.path(), 256 << 10) {
        return skip::skip(error);
    }
    let region = region();
    let mut twin = pattern(SIZE, 3);
    let cache = directory.file("cache");
    let mount = options(&cache).open(region.clone()).unwrap();
    mount.write_at(&[9; 4096], 0).unwrap();
    twin[..4096].fill(9);
    for at in (0..SIZE).step_by(4096) {
        let mut bytes = [0; 4096];
        mount.read_at(&mut bytes, at as u64).unwrap();
        assert_same(&bytes, &twin[at..at + 4096], "on a disk that fills up");
    }
    let mut bytes = vec![0; SIZE - 777];
    mount.read_at(&mut bytes, 777).unwrap();
    assert_same(&bytes, &twin[777..], "what is here and what is not in one read");
    let error = mount.write_at(&[8; 4096], SIZE as u64 - 4096).unwrap_err();
    let message = format!("memory:: keep 4096 bytes in the cache file://{}: {NO_ROOM}", cache.display());
    assert_eq!((error.code(), error.message()), (Code::Io, &*message));
    assert!(mount.pull(0, SIZE as u64).unwrap_err().message().ends_with(NO_ROOM));
    // What was acknowledged before is not harmed, and the refused write is nowhere.
    mount.write_at(&[7; 100], 50).unwrap();
    twin[50..150].fill(7);
    mount.sync().unwrap();
    let mut bytes = vec![0; SIZE];
    region.read_at(&mut bytes, 0).unwrap();
    assert_same(&bytes, &twin, "at the backend");
    mount.read_at(&mut bytes, 0).unwrap();
    assert_same(&bytes, &twin, "by the mount");
    let first = mount.next(0, SOON).unwrap();
    assert_eq!((first.sequence, first.kind), (1, Kind::CacheFull));
    assert!(first.cause.unwrap().message().ends_with(NO_ROOM));
    if let Ok(second) = mount.next(1, Duration::from_millis(1)) {
        assert_eq!(second.kind, Kind::Recovered, "told once until there is room again");
    }
    mount.close().unwrap();
}

#[test]
fn a_cache_that_has_room_again_is_told_and_used() {
    let directory = Directory::new();
    if let Err(error) = small_disk(directory.path(), 2 * SIZE as u64) {
        return skip::skip(error);
    }
    let ballast = directory.file("ballast");
    std::fs::write(&ballast, vec![1; SIZE + SIZE / 2]).unwrap();
    let background = MountOptions { pull: Pull::Background, ..options(&directory.file("cache")) };
    let mount = background.open(region()).unwrap();
    let first = mount.next(0, SOON).unwrap();
    assert_eq!((first.sequence, first.kind), (1, Kind::CacheFull));
    std::fs::remove_file(&ballast).unwrap();
    let second = mount.next(1, SOON).unwrap();
    assert_eq!((second.sequence, second.kind), (2, Kind::Recovered));
    mount.wait_local(1.0, SOON).unwrap();
    mount.close().unwrap();
}

#[test]
fn reads_go_past_a_cache_that_gives_no_bytes() {
    let directory = Directory::new();
    let cache = directory.file("cache");
    let mount = options(&cache).open(region()).unwrap();
    mount.pull(0, SIZE as u64).unwrap();
    mount.write_at(&[5; 4096], 0).unwrap();
    // What a disk with bad sectors does to all but the first pages.
    OpenOptions::new().write(true).open(&cache).unwrap().set_len(64 << 10).unwrap();
    let mut twin = pattern(SIZE, 3);
    twin[..4096].fill(5);
    let mut bytes = vec![0; SIZE];
    eventually("it is read past the cache", || mount.read_at(&mut bytes, 0).is_ok());
    assert_same(&bytes, &twin, "past the cache");
    assert_eq!(mount.next(0, SOON).unwrap().kind, Kind::CacheFull);
    mount.discard().unwrap();
}
