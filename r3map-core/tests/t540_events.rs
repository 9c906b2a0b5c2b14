//! 540: what happens in the background is told in order, with its cause.

use std::sync::Arc;
use std::time::Duration;

use r3map_core::backend::memory::Memory;
use r3map_core::event::{Event, Kind};
use r3map_core::{BackendOptions, Code, Mode, Mount, MountOptions, Pull};

mod faults;

use faults::{Directory, SOON, ServerProcess, assert_same, eventually, pattern};

const SIZE: usize = 8 << 20;

#[test]
#[ignore = "started by another test"]
fn serves_until_it_is_killed() {
    faults::serve();
}

/// The cause of an event by which the remote went away.
#[track_caller]
fn assert_away(event: &Event, url: &str) {
    let cause = event.cause.as_ref().expect("there is a why");
    assert!(matches!(cause.code(), Code::Disconnected | Code::Timeout), "{cause:?}");
    assert!(cause.message().starts_with(&format!("{url}: ")) && cause.is_retryable(), "{cause:?}");
}

#[test]
fn a_region_that_is_here_is_told_as_local_and_nothing_else_follows() {
    let region = Arc::new(Memory::new(1 << 20).unwrap());
    let mount = Mount::options().mode(Mode::Managed).open(region).unwrap();
    let first = mount.next(0, SOON).unwrap();
    assert_eq!((first.sequence, first.kind), (1, Kind::Local));
    assert!(first.cause.is_none());
    assert_eq!(mount.missing(0, 1 << 20).unwrap(), []);
    assert_eq!(mount.next(0, SOON).unwrap().sequence, 1, "an event can be taken again");
    let error = mount.next(1, Duration::from_millis(20)).unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::Timeout, "next event: the deadline passed"));
    mount.close().unwrap();
}

#[test]
fn a_pull_that_loses_its_server_tells_disconnected_recovered_and_local_in_order() {
    let directory = Directory::new();
    let file = directory.file("region");
    std::fs::write(&file, pattern(SIZE, 5)).unwrap();
    // Slow, so that the region is not here before the server is killed.
    let mut server = ServerProcess::slow(&file, &directory.file("socket"), Duration::from_millis(50));
    let options = Mount::options().mode(Mode::Managed).deadline(Duration::from_secs(1));
    let options = MountOptions { max_in_flight: Some(4096), chunk_size: Some(64 << 10), ..options };
    let mount = options.open_url(&server.url(), &BackendOptions::default()).unwrap();
    server.kill();
    let first = mount.next(0, SOON).unwrap();
    assert_eq!((first.sequence, first.kind), (1, Kind::Disconnected));
    assert_away(&first, &server.url());
    server.restart();
    let mut events = vec![first];
    while events[events.len() - 1].kind != Kind::Local {
        events.push(mount.next(events.len() as u64, SOON).unwrap());
    }
    // A machine that stands still may make a deadline pass once more.
    for (index, event) in events[..events.len() - 1].iter().enumerate() {
        let kind = if index % 2 == 0 { Kind::Disconnected } else { Kind::Recovered };
        assert_eq!((event.sequence, event.kind), (index as u64 + 1, kind));
        assert_eq!(event.cause.is_some(), kind == Kind::Disconnected);
    }
    assert!(events.len() % 2 == 1 && events.len() >= 3, "{events:?}");
    let mut bytes = vec![0; SIZE];
    mount.read_at(&mut bytes, 0).unwrap();
    assert_same(&bytes, &pattern(SIZE, 5), "all here");
    mount.close().unwrap();
}

#[test]
fn a_push_without_a_server_tells_push_failed_until_it_gets_through() {
    let directory = Directory::new();
    let file = directory.file("region");
    std::fs::write(&file, pattern(SIZE, 6)).unwrap();
    let mut server = ServerProcess::unix(&file, &directory.file("socket"));
    let options = Mount::options().mode(Mode::Managed).deadline(Duration::from_secs(1));
    let options = MountOptions { pull: Pull::Demand, push_interval: Duration::from_millis(10), ..options };
    let mount = options.open_url(&server.url(), &BackendOptions::default()).unwrap();
    server.kill();
    mount.write_at(&[1; 8192], 4096).unwrap();
    let first = mount.next(0, SOON).unwrap();
    assert_eq!((first.sequence, first.kind), (1, Kind::PushFailed));
    assert_away(&first, &server.url());
    assert_eq!(mount.stats().unwrap().get("dirty_bytes"), Some(8192), "it stays dirty");
    let error = mount.sync().unwrap_err();
    assert!(matches!(error.code(), Code::Disconnected | Code::Timeout), "{error:?}");
    let second = mount.next(1, SOON).unwrap();
    assert_eq!((second.sequence, second.kind), (2, Kind::PushFailed), "the sync that failed");
    assert!(second.cause.is_some());
    server.restart();
    let third = mount.next(2, SOON).unwrap();
    assert_eq!((third.sequence, third.kind), (3, Kind::Recovered));
    assert!(third.cause.is_none());
    eventually("a sync gets through", || mount.sync().is_ok());
    let mut twin = pattern(SIZE, 6);
    twin[4096..12288].fill(1);
    assert_same(&std::fs::read(&file).unwrap(), &twin, "after sync");
    mount.close().unwrap();
}
