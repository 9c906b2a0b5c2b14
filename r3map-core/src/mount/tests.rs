//! That a migration hears of every write, whichever way it comes.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use super::*;
use crate::backend::BackendOptions;
use crate::mount::seeding::Seeded;
use crate::options::{DeviceChoice, Mode};
use crate::page::PAGE;
use crate::skip;

/// Ten whole pages, as a block device wants it.
const SIZE: u64 = 10 * PAGE;

/// A mount and what tracks the writes to it. Nothing is pushed in the background.
struct Tracked {
    mount: Mount,
    seeded: Seeded,
    round: u64,
}

impl Tracked {
    fn new(mode: Mode, device: DeviceChoice) -> Tracked {
        let options = MountOptions { mode, device, push_interval: Duration::ZERO, ..MountOptions::default() };
        let mount = options.open_url(&format!("memory:?size={SIZE}"), &BackendOptions::default()).unwrap();
        let seeded = Seeded::take(&mount).unwrap();
        Tracked { mount, seeded, round: 0 }
    }

    fn arm(&mut self) {
        self.seeded.arm().unwrap();
        self.round = 0;
    }

    /// The pages written since it was last asked.
    fn written(&mut self) -> Vec<Range<u64>> {
        self.seeded.collect(&self.mount.limit()).unwrap();
        let (round, pages) = self.seeded.tracker().round(self.round).unwrap();
        self.round = round;
        pages.iter().cloned().collect()
    }

    fn close(self) {
        self.seeded.release();
        self.mount.close().unwrap();
    }
}

#[test]
fn writes_by_the_handle_are_marked_and_reads_are_not() {
    for mode in [Mode::Direct, Mode::Managed] {
        let mut tracked = Tracked::new(mode, DeviceChoice::Auto);
        tracked.mount.write_at(&[1; 5], 0).unwrap();
        tracked.arm();
        assert_eq!(tracked.written(), [], "{mode:?}");
        tracked.mount.write_at(&[1; 2], PAGE - 1).unwrap();
        tracked.mount.write_at(&[1; PAGE as usize], 5 * PAGE).unwrap();
        tracked.mount.write_at(&[1; 7], SIZE - 7).unwrap();
        assert_eq!(tracked.written(), [0..2, 5..6, 9..10], "{mode:?}");
        tracked.mount.read_at(&mut [0; SIZE as usize], 0).unwrap();
        tracked.mount.sync().unwrap();
        assert_eq!(tracked.written(), [], "{mode:?}");
        let region = tracked.mount.inner.region.clone();
        let limit = tracked.mount.limit();
        for operation in [
            Operation::Zero { offset: PAGE, length: 2 * PAGE },
            Operation::Write { offset: 4 * PAGE + 1, data: crate::buffer::Buffer::zeroed(9) },
            Operation::Sync,
        ] {
            backend::call(&region, operation, &limit, "test").unwrap();
        }
        assert_eq!(tracked.written(), [1..3, 4..5], "{mode:?}");
        region.write_at(&[2; 2], 7 * PAGE).unwrap();
        assert!(region.try_write_at(&[2; 2], 9 * PAGE).unwrap().is_ok());
        assert_eq!(tracked.written(), [7..8, 9..10], "{mode:?}");
        if mode == Mode::Direct {
            region.zero_at(3 * PAGE, 10).unwrap();
            assert_eq!(tracked.written(), std::slice::from_ref(&(3..4)));
        }
        tracked.close();
    }
}

#[test]
fn a_push_takes_no_mark_away() {
    let mut tracked = Tracked::new(Mode::Managed, DeviceChoice::Auto);
    tracked.arm();
    tracked.mount.write_at(&[1; 5], 3 * PAGE).unwrap();
    tracked.mount.sync().unwrap();
    assert_eq!(tracked.written(), std::slice::from_ref(&(3..4)));
    tracked.close();
}

#[test]
fn stores_into_a_slice_are_found_by_its_scan_and_a_sync_takes_none_away() {
    for mode in [Mode::Direct, Mode::Managed] {
        let mut tracked = Tracked::new(mode, DeviceChoice::UserfaultfdUserMode);
        let slice = match tracked.mount.slice() {
            Ok(slice) => slice,
            Err(error) => return skip::skip(error),
        };
        let store = |page: u64, value: u8| {
            // SAFETY: the page lies in the slice, which is attached, and nobody else looks at it.
            unsafe { slice.as_ptr().add((page * PAGE) as usize).write_volatile(value) }
        };
        // A page counts as written at its first scan after it came, which is one time too many but never one too few.
        tracked.mount.read_at(&mut [0; SIZE as usize], 0).unwrap();
        store(2, 1);
        tracked.mount.sync().unwrap();
        tracked.arm();
        store(4, 1);
        store(2, 2);
        tracked.mount.sync().unwrap();
        store(7, 1);
        assert_eq!(tracked.written(), [2..3, 4..5, 7..8], "{mode:?}");
        store(4, 2);
        assert_eq!(tracked.written(), std::slice::from_ref(&(4..5)), "{mode:?}");
        drop(slice);
        tracked.close();
    }
}

#[test]
fn a_store_after_the_app_said_that_it_stopped_is_noticed_and_one_by_the_handle_is_refused() {
    for mode in [Mode::Direct, Mode::Managed] {
        let mut tracked = Tracked::new(mode, DeviceChoice::UserfaultfdUserMode);
        let slice = match tracked.mount.slice() {
            Ok(slice) => slice,
            Err(error) => return skip::skip(error),
        };
        tracked.mount.pull(0, SIZE).unwrap();
        tracked.arm();
        let limit = tracked.mount.limit();
        tracked.seeded.suspend();
        tracked.seeded.settle(false, &limit).unwrap();
        assert_eq!(tracked.mount.write_at(&[1], 0).unwrap_err().code(), Code::Suspended);
        // SAFETY: the page lies in the slice, which is attached, and nobody else looks at it.
        unsafe { slice.as_ptr().add(PAGE as usize).write_volatile(1) };
        assert_eq!(tracked.seeded.verify(&limit).unwrap_err().code(), Code::Busy);
        tracked.seeded.reopen();
        tracked.mount.write_at(&[1], 5 * PAGE).unwrap();
        // Neither is forgotten.
        assert_eq!(tracked.written(), [1..2, 5..6], "{mode:?}");
        tracked.seeded.settle(false, &limit).unwrap();
        tracked.seeded.verify(&limit).unwrap();
        tracked.seeded.fence(&limit).unwrap();
        assert_eq!(tracked.mount.read_at(&mut [0], 0).unwrap_err().code(), Code::Fenced);
        let mut byte = [0];
        tracked.seeded.try_read(&mut byte, PAGE).unwrap().unwrap();
        assert_eq!(byte, [1]);
        drop(slice);
        tracked.close();
    }
}

#[test]
fn writes_to_a_file_of_fuse_are_marked_once_it_is_flushed() {
    let tracked = Tracked::new(Mode::Managed, DeviceChoice::Fuse);
    let path = match tracked.mount.path() {
        Ok(path) => path,
        Err(error) => return skip::skip(error),
    };
    writes_to_a_path_are_marked(tracked, &path);
}

#[test]
fn writes_to_a_block_device_are_marked_once_it_is_flushed() {
    if let Err(error) = Kind::Nbd.probe() {
        return skip::leave_to_guest(error);
    }
    let tracked = Tracked::new(Mode::Managed, DeviceChoice::Nbd(None));
    let path = tracked.mount.path().unwrap();
    writes_to_a_path_are_marked(tracked, &path);
}

fn writes_to_a_path_are_marked(mut tracked: Tracked, path: &std::path::Path) {
    tracked.arm();
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    file.write_all_at(&[1; 10], 4 * PAGE).unwrap();
    file.write_all_at(&[1; 2 * PAGE as usize], 6 * PAGE).unwrap();
    assert_eq!(tracked.written(), [4..5, 6..8]);
    drop(file);
    tracked.close();
}
