//! Rows 3 and 4: the store behind the server fails: tried again for as long as that is of use, then an error that
//! names the cause.

use std::time::Duration;

use r3map_core::Code;
use r3map_core::device::Kind;

use crate::faults::SOON;
use crate::silence::{AWAY, Trouble, shows_as_errors};
use crate::store::Failure;
use crate::{Way, World, by_every_way, quiet};

/// More calls than any test makes.
const ALL: u64 = u64::MAX;

/// A store that fails with this code until it is repaired.
fn broken(way: Way, code: Code, deadline: Duration, cause: &'static str) {
    let codes = match code {
        Code::Io => &[Code::Io],
        // A write that was given up ends its connection, so that it does not land later.
        _ => AWAY,
    };
    let begin = |world: &World| world.store.fail(Failure::Error(code), ALL);
    let end = |world: &World| world.store.fail(Failure::Error(code), 0);
    shows_as_errors(way, &Trouble { begin, end, deadline, codes, cause });
}

by_every_way!(row_3_a_store_that_fails_is_an_error_with_its_cause_and_then_goes_on, |way| {
    broken(way, Code::Io, SOON, "the disk is on fire");
});

by_every_way!(row_3_a_store_that_fails_for_a_moment_does_not_show, |way: Way| {
    for code in [Code::Io, Code::Timeout, Code::Disconnected, Code::Busy] {
        let mut world = World::new(way, 100_000, quiet());
        world.store.fail(Failure::Error(code), 2);
        world.check(50_000..60_000).unwrap();
        // The kernel may still read ahead.
        world.store.fail(Failure::Error(code), 0);
        world.write(0..512).unwrap();
        world.store.fail(Failure::Error(code), 1);
        world.mount.sync().unwrap();
        world.finish();
    }
});

#[test]
fn row_3_a_store_that_times_out_is_a_timeout_by_the_deadline() {
    broken(None, Code::Timeout, Duration::from_millis(300), "");
}

#[test]
fn row_4_a_store_that_gives_fewer_bytes_than_asked_for_is_an_error_and_never_zeros() {
    let world = World::new(None, 100_000, quiet());
    world.store.fail(Failure::Short, ALL);
    let error = world.mount.read_at(&mut [0; 80], 8000).unwrap_err();
    assert!(error.message().contains("another number of bytes"), "{error}");
    world.store.fail(Failure::Short, 0);
    world.check(1000..1010).unwrap();
    world.finish();
}
