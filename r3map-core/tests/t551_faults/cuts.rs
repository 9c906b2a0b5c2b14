//! Rows 1 and 2: a connection that is cut or reset, also at every byte of a conversation.

use r3map_chaos::{Direction, Fault};
use r3map_core::device::Kind;
use r3map_core::{MountOptions, Pull};

use crate::faults::{Random, SOON};
use crate::{Way, World, by_every_way, quiet};

const DIRECTIONS: [Direction; 2] = [Direction::Up, Direction::Down];

#[test]
fn row_1_a_pull_that_is_cut_again_and_again_brings_only_what_is_missing() {
    const WINDOW: u64 = 256 << 10;
    const CUTS: u64 = 10;
    let options = MountOptions { pull: Pull::Background, max_in_flight: Some(WINDOW), ..quiet() };
    // The first pieces may be here before anything is planned.
    let world = World::new(None, 1 << 20, options);
    for number in 0..CUTS {
        let fault = if number % 2 == 0 { Fault::Cut } else { Fault::Reset };
        world.network.plan(Direction::Down, 1000 + number * 600_000, fault);
    }
    world.mount.wait_local(1.0, SOON).unwrap();
    assert_eq!(world.network.planned(), 0);
    let size = world.mount.size();
    assert_eq!(world.mount.stats().unwrap().get("pulled_bytes"), Some(size), "something came twice");
    // At each cut only what was under way is asked for again.
    let read = world.store.read_bytes();
    assert!(read <= size + CUTS * (WINDOW + (64 << 10)), "{read} bytes were read of {size}");
    let all = 0..world.words();
    world.check(all).unwrap();
    world.finish();
}

/// A mount that reads, writes, syncs and closes while something happens to its connection at each byte of that, from
/// the greeting on: nobody notices.
pub fn at_every_byte(fault: Fault) {
    const WORDS: usize = 9;
    let talk = |plan: Option<(Direction, u64)>| {
        let mut world = World::new(None, WORDS, quiet());
        // What comes next is greeted again first.
        world.network.cut();
        let before = DIRECTIONS.map(|direction| world.network.passed(direction));
        if let Some((direction, byte)) = plan {
            world.network.plan(direction, byte, fault);
        }
        let outcome = world.check(0..WORDS).and_then(|()| world.write(2..5));
        outcome.unwrap_or_else(|error| panic!("{fault:?} at {plan:?}: {error}"));
        world.mount.sync().unwrap_or_else(|error| panic!("{fault:?} at {plan:?}: {error}"));
        let after = DIRECTIONS.map(|direction| world.network.passed(direction));
        world.finish();
        [after[0] - before[0], after[1] - before[1]]
    };
    let lengths = talk(None);
    let points = DIRECTIONS.iter().zip(lengths);
    let points: Vec<_> = points.flat_map(|(way, length)| (0..length).map(move |byte| (*way, byte))).collect();
    assert!(points.len() > 500, "{lengths:?}");
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let Some(point) = points.get(next.fetch_add(1, std::sync::atomic::Ordering::SeqCst)) {
                    talk(Some(*point));
                }
            });
        }
    });
}

#[test]
fn row_2_a_cut_at_every_byte_of_a_conversation_loses_nothing_and_applies_nothing_twice() {
    at_every_byte(Fault::Cut);
}

/// Reads and writes at random, each round with a fault at a byte of it.
pub fn at_chosen_bytes(way: Way, faults: &[Fault]) {
    let mut random = Random::new(51);
    let mut world = World::new(way, 64 << 10, quiet());
    for round in 0..30 {
        let (direction, fault) = (DIRECTIONS[round % 2], faults[round / 2 % faults.len()]);
        world.network.plan(direction, random.below(20_000), fault);
        for _ in 0..4 {
            let words = world.some(&mut random);
            world.write(words).unwrap();
            let words = world.some(&mut random);
            world.check(words).unwrap();
        }
        world.mount.sync().unwrap();
    }
    world.finish();
}

by_every_way!(row_2_cuts_amid_reads_writes_and_syncs_do_not_show, |way| {
    at_chosen_bytes(way, &[Fault::Cut, Fault::Reset]);
});
