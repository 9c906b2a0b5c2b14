//! 630: a region moves here while its app writes: every byte of it, whoever looks and wherever it is kept.

use r3map_core::event::Kind as Told;
use r3map_core::{LeechState, Mount, SeedState};

mod leeching;
mod seeding;

use leeching::{App, SIZE, Writer, code, hand_over, leech, read_all, same, wait_for};
use seeding::{Directory, SOON, mount, pattern, seed};

/// A mount of a region with a pattern in it.
fn filled(size: u64) -> (Mount, Vec<u8>) {
    let mount = mount(&format!("memory:?size={size}"));
    let bytes = pattern(size as usize, 3);
    mount.write_at(&bytes, 0).unwrap();
    (mount, bytes)
}

fn wait_told(mount: &Mount, kind: Told) {
    let mut after = 0;
    loop {
        let event = mount.next(after, SOON).unwrap();
        if event.kind == kind {
            return;
        }
        after = event.sequence;
    }
}

fn moves_under_a_writer(local: &str) {
    let (source, bytes) = filled(SIZE);
    let seeder = seed(&source);
    let app = App::start(&seeder, Writer::start(source.clone(), bytes, 5), b"registers");
    let leecher = leech(&seeder, local);
    leecher.wait_local(0.5, SOON).unwrap();
    assert!(matches!(leecher.state().unwrap(), LeechState::Pulling | LeechState::Outpaced));
    let here = leecher.finalize().unwrap();
    assert_eq!(here.payload(), b"registers");
    let bytes = app.bytes();
    let writer = Writer::start(here.clone(), bytes, 9);
    here.wait_local(1.0, SOON).unwrap();
    seeder.wait_drained(SOON).unwrap();
    let bytes = writer.stop();
    same(&read_all(&here), &bytes);
    wait_told(&here, Told::Local);
    wait_told(&here, Told::Drained);
    app.join();
    assert_eq!(leecher.stats().unwrap().get("missing_bytes"), Some(0));
    seeder.close().unwrap();
    here.sync().unwrap();
    same(&read_all(&here), &bytes);
    here.close().unwrap();
    leecher.close().unwrap();
    assert_eq!(code(leecher.finalize().map(drop)), r3map_core::Code::Closed);
}

#[test]
fn every_byte_that_a_running_app_wrote_arrives_in_memory() {
    moves_under_a_writer("memory:");
}

#[test]
fn every_byte_that_a_running_app_wrote_arrives_in_a_file_which_then_is_the_region() {
    let directory = Directory::new();
    moves_under_a_writer(&directory.url("region"));
    assert!(!directory.file("region.r3map.pages").exists());
    // It belongs here now: anybody may open it.
    let plain = mount(&directory.url("region"));
    assert_eq!(plain.size(), SIZE);
    plain.close().unwrap();
}

#[test]
fn what_was_not_pulled_before_comes_when_it_is_missed() {
    let (source, bytes) = filled(SIZE);
    let seeder = seed(&source);
    let options = leeching::options().deadline(SOON);
    let options = r3map_core::MountOptions { pull: r3map_core::Pull::Demand, ..options };
    let leecher = leeching::leech_with(&seeder, "memory:", options).unwrap();
    let taken = std::thread::spawn({
        let leecher = leecher.clone();
        move || leecher.finalize().unwrap()
    });
    hand_over(&seeder, b"");
    let here = taken.join().unwrap();
    assert_eq!(leecher.state().unwrap(), LeechState::Owner);
    assert!(!here.missing(0, SIZE).unwrap().is_empty());
    let mut some = vec![0; 70_000];
    here.read_at(&mut some, 1_000_000).unwrap();
    same(&some, &bytes[1_000_000..1_070_000]);
    here.write_at(b"written here", 3_000_000).unwrap();
    // In memory it would be lost for good.
    assert_eq!(code(here.close()), r3map_core::Code::Busy);
    let mut expected = bytes;
    expected[3_000_000..3_000_012].copy_from_slice(b"written here");
    same(&read_all(&here), &expected);
    seeder.wait_drained(SOON).unwrap();
    wait_for(&seeder, &mut 0, SeedState::Drained);
    here.close().unwrap();
}
