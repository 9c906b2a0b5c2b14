//! 222: the order of first accesses is saved and pulled first by a later mount.

mod backends;
mod pulling;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use backends::Scratch;
use pulling::{LONG, PAGE, Told};
use r3map_core::backend::memory::Memory;
use r3map_core::options::PullRange;
use r3map_core::{Code, DeviceChoice, Mode, Mount, MountOptions, Pull};

const PAGES: u64 = 4096;
const SIZE: u64 = PAGES * PAGE - 100;

fn on_demand() -> MountOptions {
    MountOptions { pull: Pull::Demand, ..Mount::options().mode(Mode::Managed) }
}

fn backend() -> Arc<Told> {
    Told::new(SIZE, 64 << 10)
}

/// Touches these pages in a mount on demand and saves their order.
fn record(pages: &[u64], path: &Path) {
    let mount = on_demand().open(backend()).unwrap();
    for page in pages {
        mount.read_at(&mut [0; 10], page * PAGE).unwrap();
    }
    mount.trace_save(path).unwrap();
    mount.discard().unwrap();
}

fn scratch() -> (Scratch, PathBuf) {
    let scratch = Scratch::new();
    let path = scratch.path().join("trace");
    (scratch, path)
}

#[test]
fn the_order_of_first_accesses_is_saved_and_pulled_first_by_a_later_mount() {
    let (_scratch, path) = scratch();
    record(&[900, 17, 3000, 17, 18, 4095, 900, 5], &path);
    let backend = backend();
    let named = PullRange { offset: 1000 * PAGE, length: PAGE, priority: 0 };
    let options = MountOptions {
        max_in_flight: Some(1),
        pull_ranges: vec![named],
        ..Mount::options().mode(Mode::Managed).trace(&path)
    };
    let mount = options.open(backend.clone()).unwrap();
    let page = |page: u64| (page * PAGE, PAGE.min(SIZE - page * PAGE));
    let order: Vec<_> = (0..8).map(|_| backend.answer()).collect();
    assert_eq!(order[..6], [page(1000), page(900), page(17), page(3000), page(18), page(4095)]);
    assert_eq!(order[6..], [page(5), (0, 5 * PAGE)]);
    mount.discard().unwrap();
}

#[test]
fn a_mount_on_demand_pulls_the_trace_and_nothing_else() {
    let (_scratch, path) = scratch();
    record(&[1, 2000, 2001, 4095], &path);
    let backend = backend();
    let mount = on_demand().trace(&path).open(backend.clone()).unwrap();
    for _ in 0..3 {
        backend.answer();
    }
    let begun = Instant::now();
    while mount.stats().unwrap().get("local_bytes") != Some(4 * PAGE) {
        assert!(begun.elapsed() < LONG, "{:?}", mount.stats().unwrap());
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(mount.missing(0, PAGE).unwrap(), [0..PAGE]);
    assert_eq!(mount.stats().unwrap().get("pulled_bytes"), Some(4 * PAGE - 100));
    assert!(backend.demanded().is_empty());
    mount.close().unwrap();
}

#[test]
fn a_first_access_counts_also_where_the_background_was_faster_and_faults_of_a_slice_do() {
    let (_scratch, path) = scratch();
    let backend = backend();
    let mount = Mount::options().mode(Mode::Managed).open(backend.clone()).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| mount.wait_local(1.0, LONG).unwrap());
        let mut left = SIZE;
        while left > 0 {
            left -= backend.answer().1;
        }
    });
    [70, 7, 700].into_iter().for_each(|page| mount.read_at(&mut [0], page * PAGE).unwrap());
    mount.trace_save(&path).unwrap();
    mount.discard().unwrap();
    assert_eq!(pulled_by(&path, 3), [70, 7, 700]);

    let mount = on_demand().device(DeviceChoice::Userfaultfd).open(self::backend()).unwrap();
    if let Ok(slice) = mount.slice() {
        for page in [3000, 30, 300] {
            // SAFETY: inside the slice of an open mount.
            unsafe { slice.as_ptr().add(page * PAGE as usize).read_volatile() };
        }
        mount.trace_save(&path).unwrap();
        assert_eq!(pulled_by(&path, 3), [3000, 30, 300]);
    }
    mount.discard().unwrap();
}

/// The pages that a mount with this trace pulls first.
fn pulled_by(path: &Path, count: usize) -> Vec<u64> {
    let backend = backend();
    let options = MountOptions { max_in_flight: Some(1), ..on_demand().trace(path) };
    let mount = options.open(backend.clone()).unwrap();
    let pulled = (0..count).map(|_| backend.answer().0 / PAGE).collect();
    mount.discard().unwrap();
    pulled
}

#[test]
fn a_trace_that_cannot_be_used_is_an_error_that_names_it() {
    let (_scratch, path) = scratch();
    let open = |options: MountOptions| options.trace(&path).open(backend()).map(drop).unwrap_err();
    let error = open(on_demand());
    assert_eq!(error.code(), Code::NotFound);
    assert!(error.message().contains(path.to_str().unwrap()), "{error}");
    std::fs::write(&path, b"r3mtraceand something else, but no trace at all").unwrap();
    let error = open(on_demand());
    assert_eq!(error.code(), Code::Corrupt);
    assert!(error.message().contains(path.to_str().unwrap()), "{error}");

    let other = on_demand().open(Told::new(SIZE + PAGE, 64 << 10)).unwrap();
    other.trace_save(&path).unwrap();
    other.discard().unwrap();
    let error = open(on_demand());
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains(path.to_str().unwrap()), "{error}");

    assert_eq!(open(Mount::options().mode(Mode::Direct)).code(), Code::InvalidArgument);
    let direct = Mount::options().open(Arc::new(Memory::new(SIZE).unwrap())).unwrap();
    assert_eq!(direct.trace_save(&path).unwrap_err().code(), Code::Unsupported);
    let nowhere = on_demand().open(backend()).unwrap();
    assert_eq!(nowhere.trace_save("/nowhere/at/all").unwrap_err().code(), Code::NotFound);
}
