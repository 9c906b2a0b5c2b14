//! That a migration hears of every write, whichever way it comes.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use super::*;
use crate::backend::BackendOptions;
use crate::migration::tracker::Tracker;
use crate::page::PAGE;
use crate::region::Paged;
use crate::skip;

/// Ten whole pages, as a block device wants it.
const SIZE: u64 = 10 * PAGE;

/// A mount and what tracks the writes to it. Nothing is pushed in the background.
struct Tracked {
    mount: Mount,
    direct: Option<Arc<Direct>>,
    tracker: Option<Arc<Tracker>>,
    round: u64,
}

impl Tracked {
    fn new(mode: Mode, device: DeviceChoice) -> Tracked {
        let backend = backend::open(&format!("memory:?size={SIZE}"), &BackendOptions::default()).unwrap();
        // A mount does not say yet that it is seeded: what it writes through is made here to be asked later.
        let direct = (mode == Mode::Direct).then(|| Arc::new(Direct::new(backend.clone(), false)));
        let backend = direct.clone().map_or(backend, |direct| direct as Arc<dyn Backend>);
        let options = MountOptions { mode, device, push_interval: Duration::ZERO, ..MountOptions::default() };
        Tracked { mount: options.open(backend).unwrap(), direct, tracker: None, round: 0 }
    }

    fn arm(&mut self) {
        let pages = SIZE / PAGE;
        let tracker = match (self.mount.inner.kept(), &self.direct) {
            (Some(kept), _) => kept.pages().marks().tracker(pages),
            (None, Some(direct)) => direct.marks().tracker(pages),
            (None, None) => unreachable!(),
        };
        let tracker = tracker.unwrap();
        tracker.arm();
        (self.tracker, self.round) = (Some(tracker), 0);
    }

    /// The pages written since it was last asked, once no device holds any back.
    fn written(&mut self) -> Vec<Range<u64>> {
        if let Some(device) = self.mount.inner.device.get() {
            device.flush(&self.mount.limit()).unwrap();
        }
        if let Some(kept) = self.mount.inner.kept() {
            kept.pages().collect().unwrap();
        }
        let (round, pages) = self.tracker.as_ref().unwrap().round(self.round).unwrap();
        self.round = round;
        pages.iter().cloned().collect()
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
        let region = tracked.direct.clone().map_or(tracked.mount.inner.region.clone(), |direct| direct as _);
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
        tracked.mount.close().unwrap();
    }
}

#[test]
fn a_push_takes_no_mark_away() {
    let mut tracked = Tracked::new(Mode::Managed, DeviceChoice::Auto);
    tracked.arm();
    tracked.mount.write_at(&[1; 5], 3 * PAGE).unwrap();
    tracked.mount.sync().unwrap();
    assert_eq!(tracked.written(), std::slice::from_ref(&(3..4)));
    tracked.mount.close().unwrap();
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
        tracked.mount.close().unwrap();
    }
}

#[test]
fn writes_to_a_file_of_fuse_are_marked_once_it_is_flushed() {
    let mut tracked = Tracked::new(Mode::Managed, DeviceChoice::Fuse);
    let path = match tracked.mount.path() {
        Ok(path) => path,
        Err(error) => return skip::skip(error),
    };
    writes_to_a_path_are_marked(&mut tracked, &path);
}

#[test]
fn writes_to_a_block_device_are_marked_once_it_is_flushed() {
    if let Err(error) = Kind::Nbd.probe() {
        return skip::leave_to_guest(error);
    }
    let mut tracked = Tracked::new(Mode::Managed, DeviceChoice::Nbd(None));
    let path = tracked.mount.path().unwrap();
    writes_to_a_path_are_marked(&mut tracked, &path);
}

fn writes_to_a_path_are_marked(tracked: &mut Tracked, path: &std::path::Path) {
    tracked.arm();
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    file.write_all_at(&[1; 10], 4 * PAGE).unwrap();
    file.write_all_at(&[1; 2 * PAGE as usize], 6 * PAGE).unwrap();
    assert_eq!(tracked.written(), [4..5, 6..8]);
    drop(file);
    tracked.mount.close().unwrap();
}
