//! 221: the background pulls in the order of need.

mod pulling;

use std::sync::Arc;
use std::time::Duration;

use pulling::{PAGE, Told};
use r3map_core::options::PullRange;
use r3map_core::{Mode, Mount, MountOptions};

const CHUNK: u64 = 64 << 10;
const CHUNKS: u64 = 64;

/// One chunk at a time is under way in the background.
fn mount(backend: &Arc<Told>, change: impl FnOnce(&mut MountOptions)) -> Mount {
    let mut options = MountOptions { max_in_flight: Some(1), ..Mount::options().mode(Mode::Managed) };
    change(&mut options);
    options.open(backend.clone()).unwrap()
}

fn backend() -> Arc<Told> {
    Told::new(CHUNKS * CHUNK, CHUNK as u32)
}

/// The next `count` chunks that the background asks for, each of them whole.
fn chunks(backend: &Told, count: usize) -> Vec<u64> {
    let chunk = |(offset, length)| {
        assert_eq!((offset % CHUNK, length), (0, CHUNK));
        offset / CHUNK
    };
    (0..count).map(|_| chunk(backend.answer())).collect()
}

fn touch(mount: &Mount, chunk: u64) {
    let mut byte = [0];
    mount.read_at(&mut byte, chunk * CHUNK).unwrap();
    assert_eq!(byte[0], (chunk * CHUNK / PAGE) as u8 | 1);
}

#[test]
fn named_ranges_come_first_by_priority_and_then_the_rest_from_the_beginning() {
    let backend = backend();
    let range = |chunk, chunks, priority| PullRange { offset: chunk * CHUNK, length: chunks * CHUNK, priority };
    let mount = mount(&backend, |options| options.pull_ranges = vec![range(2, 1, 1), range(8, 2, 5), range(5, 1, 3)]);
    assert_eq!(chunks(&backend, 8), [8, 9, 5, 2, 0, 1, 3, 4]);
    mount.discard().unwrap();
}

#[test]
fn the_rest_goes_on_behind_the_newest_miss_to_the_end_and_then_from_the_beginning() {
    let backend = backend();
    let mount = mount(&backend, |_| {});
    assert_eq!(chunks(&backend, 2), [0, 1]);
    backend.wait_asked();
    touch(&mount, 40);
    touch(&mount, 60);
    assert_eq!(backend.demanded(), [(40 * CHUNK, CHUNK), (60 * CHUNK, CHUNK)]);
    assert_eq!(chunks(&backend, 6), [2, 61, 62, 63, 3, 4]);
    mount.discard().unwrap();
}

#[test]
fn over_a_long_way_what_was_missed_is_asked_for_ahead_of_what_lies_around_it() {
    let backend = Told::at(Some(Duration::from_millis(30)), CHUNKS * CHUNK, CHUNK as u32);
    let mount = mount(&backend, |_| {});
    backend.wait_asked();
    let at = 40 * CHUNK;
    mount.read_at(&mut [0], at + 3 * PAGE).unwrap();
    assert_eq!(backend.demanded(), [(at + 3 * PAGE, PAGE), (at, 3 * PAGE), (at + 4 * PAGE, CHUNK - 4 * PAGE)]);
    mount.discard().unwrap();
}

#[test]
fn what_readers_with_a_stride_will_want_comes_before_the_rest_forward_and_backward() {
    let backend = backend();
    let mount = mount(&backend, |_| {});
    backend.wait_asked();
    [10, 17, 24].into_iter().for_each(|chunk| touch(&mount, chunk));
    assert_eq!(chunks(&backend, 4), [0, 31, 38, 25]);
    backend.wait_asked();
    [60, 57, 54].into_iter().for_each(|chunk| touch(&mount, chunk));
    assert_eq!(chunks(&backend, 4), [26, 51, 48, 55]);
    mount.discard().unwrap();
}

#[test]
fn what_the_app_waits_for_is_asked_for_again_in_a_little_around_it_though_bulk_has_it_under_way() {
    let backend = Told::new(4 << 20, 1 << 20);
    let mount = mount(&backend, |_| {});
    backend.wait_asked();
    touch(&mount, 1);
    mount.read_at(&mut [0; 10], 300_000).unwrap();
    let around = 300_000 / PAGE * PAGE;
    assert_eq!(backend.demanded(), [(CHUNK, CHUNK), (around, 327_680 - around)]);
    assert_eq!(backend.answer(), (0, 1 << 20));
    mount.discard().unwrap();
}
