//! Rows 1, 6 and 19: nobody answers, or so slowly that it comes to the same.

use std::sync::atomic::Ordering;
use std::time::Duration;

use r3map_chaos::Conditions;
use r3map_core::device::Kind;
use r3map_core::{BackendOptions, Code, Mount, MountOptions};

use crate::faults::{Directory, ServerProcess, assert_same, eventually};
use crate::store::bytes_of;
use crate::world::{SIGBUS, View, options_for, same};
use crate::{Way, World, by_every_way, expected, quiet};

/// What a silent remote costs by the deadline.
pub const AWAY: &[Code] = &[Code::Timeout, Code::Disconnected];
/// The deadline where it is to pass.
const SHORT: Duration = Duration::from_millis(300);
/// Words of a region of which a read at the front reads nothing ahead at the back.
const LARGE: usize = 1 << 20;
/// What is far enough behind.
const FAR: usize = LARGE - 100_000;

/// Something that is wrong with a world for a while, and how that shows.
pub struct Trouble<B, E> {
    pub begin: B,
    pub end: E,
    pub deadline: Duration,
    pub codes: &'static [Code],
    pub cause: &'static str,
}

/// While something is wrong: what is here is at hand, what is not is an error by the deadline that names the cause, and so
/// is a sync, again and again. Afterwards the same mount goes on.
pub fn shows_as_errors<B: Fn(&World), E: Fn(&World)>(way: Way, trouble: &Trouble<B, E>) {
    let mut world = World::new(way, LARGE, quiet().deadline(trouble.deadline));
    // A machine that stands still may make a deadline pass here as well.
    eventually("the front is here", || world.check(0..1000).is_ok());
    eventually("a sync", || world.mount.sync().is_ok());
    (trouble.begin)(&world);
    let name = world.network.url("region");
    let says_why = |error: r3map_core::Error| {
        assert!(trouble.codes.contains(&error.code()), "{error:?}");
        assert!(error.message().contains(&name) && error.message().contains(trouble.cause), "{error}");
    };
    let before = world.versions.clone();
    world.versions[7] += 1;
    let world_now = &world;
    std::thread::scope(|scope| {
        let view = world_now.view();
        let mut missing = vec![0xEE; 800];
        let touched = match view {
            View::Handle(mount) => {
                says_why(mount.read_at(&mut missing, FAR as u64 * 8).unwrap_err());
                None
            }
            View::File(_) => {
                let error = view.read(&mut missing, FAR as u64 * 8).unwrap_err();
                assert!(error.contains("os error 5"), "not EIO: {error}");
                None
            }
            View::Slice(_) => {
                let count = SIGBUS.load(Ordering::SeqCst);
                let touched = scope.spawn(move || view.read(&mut missing, FAR as u64 * 8).map(|()| missing));
                eventually("a SIGBUS", || SIGBUS.load(Ordering::SeqCst) > count);
                Some(touched)
            }
        };
        let mut here = vec![0; 8000];
        view.read(&mut here, 0).unwrap();
        same(&here, 0..1000, &before, "what is here");
        view.write(&expected(7..8, &world_now.versions), 56).unwrap();
        for _ in 0..2 {
            says_why(world_now.mount.sync().unwrap_err());
            if let View::File(file) = view {
                assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(libc::EIO));
            }
        }
        (trouble.end)(world_now);
        if let Some(touched) = touched {
            same(&touched.join().unwrap().unwrap(), FAR..FAR + 100, &before, "the touch that was a SIGBUS");
        }
    });
    eventually("reads go on", || world.check(FAR..FAR + 100).is_ok());
    if let View::File(file) = world.view() {
        eventually("an fsync gets through", || file.sync_all().is_ok());
    }
    world.finish();
}

by_every_way!(row_1_a_network_that_is_silent_past_the_deadline_is_an_error_and_then_goes_on, |way| {
    let begin = |world: &World| world.network.stall(true);
    let end = |world: &World| world.network.stall(false);
    shows_as_errors(way, &Trouble { begin, end, deadline: SHORT, codes: AWAY, cause: "" });
});

by_every_way!(row_1_a_network_that_is_back_within_the_deadline_does_not_show, |way| {
    let mut world = World::new(way, LARGE, quiet());
    world.check(0..1000).unwrap();
    world.write(0..10).unwrap();
    for round in 0..3 {
        world.network.stall(true);
        let read = world.store.read_bytes();
        std::thread::scope(|scope| {
            let (mount, view) = (&world.mount, world.view());
            let (at, versions) = (FAR - round * 100_000, &world.versions);
            let reading = scope.spawn(move || {
                let mut missing = vec![0xEE; 800];
                view.read(&mut missing, at as u64 * 8).unwrap();
                same(&missing, at..at + 100, versions, "what was read meanwhile");
            });
            let syncing = scope.spawn(move || mount.sync().unwrap());
            std::thread::sleep(Duration::from_millis(100));
            assert!(!reading.is_finished() && !syncing.is_finished());
            // What stood on the way is lost with its connections.
            world.network.cut();
            world.network.stall(false);
            reading.join().unwrap();
            syncing.join().unwrap();
        });
        // Not all of it again, but what was asked for, and what a device reads ahead.
        assert!(world.store.read_bytes() - read < 1 << 20);
        world.write(0..10).unwrap();
    }
    world.finish();
});

/// How long the server stands still: `make soak` says 60 s.
fn stop_time() -> Duration {
    let seconds = std::env::var("R3MAP_STOPPED").map_or(1, |seconds| seconds.parse().unwrap());
    Duration::from_secs(seconds)
}

by_every_way!(row_6_a_server_that_is_stopped_costs_deadlines_and_no_thread, |way: Way| {
    let directory = Directory::new();
    let file = directory.file("region");
    std::fs::write(&file, bytes_of(0..LARGE, |_| 1)).unwrap();
    let server = ServerProcess::unix(&file, &directory.file("socket"));
    let options = options_for(way, quiet().deadline(SHORT));
    let mount = options.open_url(&server.url(), &BackendOptions::default()).unwrap();
    let view = View::of(&mount, way);
    let read = |at: usize| {
        let mut found = vec![0xEE; 800];
        view.read(&mut found, at as u64 * 8)?;
        assert_same(&found, &bytes_of(at..at + 100, |_| 1), "by the view");
        Ok::<_, String>(())
    };
    eventually("the front is here", || read(0).is_ok());
    server.pause();
    let until = std::time::Instant::now() + stop_time();
    std::thread::scope(|scope| {
        // More of them than threads serve a device.
        let reading: Vec<_> = (0..24)
            .map(|number| {
                let (read, slice) = (&read, matches!(view, View::Slice(_)));
                scope.spawn(move || {
                    let outcome = read(FAR - number * 20_000);
                    assert!(slice == outcome.is_ok(), "{outcome:?}");
                })
            })
            .collect();
        while std::time::Instant::now() < until {
            read(0).unwrap();
            std::thread::sleep(Duration::from_millis(50));
        }
        if !matches!(view, View::Slice(_)) {
            // Each ends by itself, while the server stands still.
            eventually("the reads end", || reading.iter().all(|reading| reading.is_finished()));
        }
        read(0).unwrap();
        server.go_on();
        reading.into_iter().for_each(|reading| reading.join().unwrap());
    });
    for number in 0..24 {
        eventually("reads go on", || read(FAR - number * 20_000).is_ok());
    }
    drop(view);
    eventually("the mount closes", || mount.close().is_ok());
});

#[test]
fn row_19_a_byte_a_second_keeps_the_deadline_and_holds_nobody_else_up() {
    let begin = |world: &World| {
        world.network.set(Conditions::default().with_rate(1));
        // Another client of the same server, by a network of its own.
        let reader = MountOptions { read_only: true, ..Mount::options() };
        let other = reader.open_url(&world.url, &BackendOptions::default()).unwrap();
        let mut all = vec![0; other.size() as usize];
        other.read_at(&mut all, 0).unwrap();
        assert_same(&all, &world.store.bytes(), "by another client");
        other.close().unwrap();
    };
    let end = |world: &World| world.network.set(Conditions::default());
    shows_as_errors(None, &Trouble { begin, end, deadline: SHORT, codes: AWAY, cause: "" });
}
