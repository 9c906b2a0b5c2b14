//! 530: the pages of a managed mount in a file: new at each mount, gone when that is closed, never zeros when the
//! disk is full.

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use r3map_core::backend::memory::Memory;
use r3map_core::device::Kind;
use r3map_core::event;
use r3map_core::{Backend, Code, DeviceChoice, Error, Mode, Mount, MountOptions, Pull};

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

/// Reads, writes and syncs through each view a device gives; then the cache is gone and may be named again.
fn works_over_a_cache(device: DeviceChoice, kind: Option<Kind>) {
    let directory = Directory::new();
    let cache = directory.file("cache");
    let region = region();
    let mut twin = pattern(SIZE, 3);
    for round in 0..2u8 {
        let mount = options(&cache).device(device.clone()).open(region.clone()).unwrap();
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
        assert!(!cache.exists(), "a closed mount takes its cache away");
    }
}

#[test]
fn a_mount_without_a_device_keeps_its_pages_in_a_file_that_goes_with_it() {
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
    let message = format!("cache: {url} exists: a cache cannot be resumed yet, so name a new file");
    assert_eq!(error.message(), message);
    assert_eq!(std::fs::read(&cache).unwrap(), b"somebody's only copy");
}

#[test]
fn discard_takes_the_cache_away_and_a_drop_or_another_file_of_its_name_stays() {
    let directory = Directory::new();
    let cache = directory.file("cache");
    let mount = options(&cache).open(region()).unwrap();
    mount.write_at(b"never pushed", 0).unwrap();
    mount.discard().unwrap();
    assert!(!cache.exists());

    drop(options(&cache).open(region()).unwrap());
    assert!(cache.exists(), "a mount that was not closed may have something in it that was not pushed");
    std::fs::remove_file(&cache).unwrap();

    let mount = options(&cache).open(region()).unwrap();
    std::fs::remove_file(&cache).unwrap();
    std::fs::write(&cache, b"another").unwrap();
    mount.close().unwrap();
    assert_eq!(std::fs::read(&cache).unwrap(), b"another");
}

#[test]
fn a_mount_that_does_not_open_leaves_no_cache_behind() {
    let directory = Directory::new();
    let cache = directory.file("cache");
    let region = Arc::new(faults::Aligned::new(Memory::new(1 << 20).unwrap(), 8192));
    assert_eq!(options(&cache).open(region).err().unwrap().code(), Code::Unsupported);
    assert!(!cache.exists());
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
fn a_full_disk_is_an_error_that_says_so_and_never_zeros() {
    let directory = Directory::new();
    if let Err(error) = small_disk(directory.path(), 256 << 10) {
        return skip::skip(error);
    }
    let region = region();
    let mut twin = pattern(SIZE, 3);
    let quiet = MountOptions { pull: Pull::Demand, ..options(&directory.file("cache")) };
    let mount = MountOptions { push_interval: Duration::ZERO, ..quiet }.open(region.clone()).unwrap();
    mount.write_at(&[9; 4096], 0).unwrap();
    twin[..4096].fill(9);
    let (mut read, mut refused) = (0, 0);
    for at in (0..SIZE).step_by(4096) {
        let mut bytes = [0; 4096];
        match mount.read_at(&mut bytes, at as u64) {
            Ok(()) => {
                assert_same(&bytes, &twin[at..at + 4096], "on a disk that fills up");
                read += 1;
            }
            Err(error) => {
                assert_eq!(error.code(), Code::Io);
                assert!(error.message().starts_with("memory:: keep "), "{error}");
                assert!(error.message().ends_with(&format!(" bytes in the local cache: {NO_ROOM}")), "{error}");
                refused += 1;
            }
        }
    }
    assert!(read > 0 && refused > 0, "{read} pages read, {refused} refused");
    let error = mount.pull(0, SIZE as u64).unwrap_err();
    assert!(error.message().ends_with(NO_ROOM), "{error}");
    let error = mount.write_at(&[8; 4096], SIZE as u64 - 4096).unwrap_err();
    assert_eq!(error.message(), format!("memory:: keep 4096 bytes in the local cache: {NO_ROOM}"));
    // What was acknowledged before is not harmed, and the refused write is nowhere.
    mount.write_at(&[7; 100], 50).unwrap();
    twin[50..150].fill(7);
    mount.close().unwrap();
    let mut bytes = vec![0; SIZE];
    region.read_at(&mut bytes, 0).unwrap();
    assert_same(&bytes, &twin, "at the backend");
}

#[test]
fn a_full_disk_is_told_as_cache_full_by_a_mount_that_pulls_in_the_background() {
    let directory = Directory::new();
    if let Err(error) = small_disk(directory.path(), 256 << 10) {
        return skip::skip(error);
    }
    let mount = options(&directory.file("cache")).open(region()).unwrap();
    let first = mount.next(0, faults::SOON).unwrap();
    assert_eq!((first.sequence, first.kind), (1, event::Kind::CacheFull));
    assert!(first.cause.unwrap().message().ends_with(NO_ROOM));
    mount.close().unwrap();
}
