//! The network between client and server fails: correct bytes, or a typed error by the deadline.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use r3map_core::backend::remote::Remote;
use r3map_core::backend::{BackendOptions, Operation, Priority, Reply};
use r3map_core::buffer::Buffer;
use r3map_core::{Backend, Code, ExportOptions};

use r3map_chaos::{Direction, Fault};

use crate::support::{SOON, memory_server, network, open, pattern, read, server, submit, wait};

const BRIEFLY: Duration = Duration::from_millis(200);

#[test]
fn a_client_reads_on_after_its_connection_was_cut() {
    let (_server, url, memory) = memory_server("region", 1 << 20);
    let bytes = pattern(1 << 20, 5);
    memory.write_at(&bytes, 0).unwrap();
    let proxy = network(&url);
    let backend = open(&proxy.url("region")).unwrap();
    for round in 0..20 {
        proxy.cut();
        let offset = round * 40_000;
        assert!(read(&backend, 100_000, offset)[..] == bytes[offset as usize..offset as usize + 100_000]);
    }
}

#[test]
fn cuts_in_the_middle_of_everything_lose_and_double_nothing() {
    let (_server, url, memory) = memory_server("region", 32 << 20);
    let proxy = Arc::new(network(&url));
    let backend = open(&proxy.url("region")).unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let cutter = std::thread::spawn({
        let (proxy, done) = (proxy.clone(), done.clone());
        move || {
            while !done.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(15));
                proxy.cut();
            }
        }
    });
    let block = 64 << 10;
    for round in 0..4_u64 {
        let flight: Vec<_> = (0..512_u64)
            .map(|index| {
                let data = Buffer::copy_of(&pattern(block, index + 1000 * round));
                let priority = if index % 2 == 0 { Priority::Demand } else { Priority::Bulk };
                submit(&backend, Operation::Write { offset: index * block as u64, data }, priority, SOON)
            })
            .collect();
        flight.into_iter().for_each(|waiter| drop(wait(waiter).unwrap()));
        backend.sync().unwrap();
        for index in 0..512_u64 {
            let expected = pattern(block, index + 1000 * round);
            assert!(read(&backend, block, index * block as u64) == expected, "block {index} of round {round}");
            let mut stored = vec![0; block];
            memory.read_at(&mut stored, index * block as u64).unwrap();
            assert!(stored == expected);
        }
    }
    done.store(true, Ordering::SeqCst);
    cutter.join().unwrap();
}

#[test]
fn a_bit_that_flips_on_the_way_is_noticed_and_the_bytes_are_fetched_again() {
    let (_server, url, memory) = memory_server("region", 1 << 20);
    let bytes = pattern(1 << 20, 9);
    memory.write_at(&bytes, 0).unwrap();
    let proxy = network(&url);
    let backend = open(&proxy.url("region")).unwrap();
    for round in 0..10 {
        let direction = if round % 2 == 0 { Direction::Down } else { Direction::Up };
        proxy.plan(direction, round * 37, Fault::Corrupt);
        assert!(read(&backend, 1 << 20, 0) == bytes);
        let changed = pattern(4096, round);
        backend.write_at(&changed, 0).unwrap();
        assert!(read(&backend, 4096, 0) == changed);
        assert_eq!(proxy.planned(), 0);
        backend.write_at(&bytes[..4096], 0).unwrap();
    }
}

#[test]
fn a_server_that_falls_silent_is_a_timeout_and_may_come_back() {
    let (_server, url, memory) = memory_server("region", 1 << 20);
    memory.write_at(&[7; 4096], 0).unwrap();
    let proxy = network(&url);
    let backend = open(&proxy.url("region")).unwrap();
    proxy.swallow(true);
    let operation = Operation::Read { offset: 0, buffer: Buffer::new(4096) };
    let error = wait(submit(&backend, operation, Priority::Demand, BRIEFLY)).err().unwrap();
    assert_eq!(error.code(), Code::Timeout, "{error}");
    assert!(error.message().contains("read 4096 bytes at 0"), "{error}");
    assert!(error.is_retryable());
    proxy.swallow(false);
    assert_eq!(read(&backend, 4096, 0), [7; 4096]);
}

#[test]
fn more_writes_than_a_silent_server_takes_block_nobody_past_their_deadline() {
    let (_server, url, _memory) = memory_server("region", 64 << 20);
    let proxy = network(&url);
    let backend = open(&proxy.url("region")).unwrap();
    // The proxy does not even read, so that the socket fills.
    proxy.stall(true);
    let data = pattern(1 << 20, 1);
    let flight: Vec<_> = (0..64_u64)
        .map(|index| {
            let operation = Operation::Write { offset: index << 20, data: Buffer::copy_of(&data) };
            submit(&backend, operation, Priority::Demand, BRIEFLY)
        })
        .collect();
    let outcomes: Vec<_> = flight.into_iter().map(wait).collect();
    let failed = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
    assert!(failed.clone().count() > 0);
    for error in failed {
        assert!(matches!(error.code(), Code::Timeout | Code::Disconnected), "{error}");
    }
    proxy.stall(false);
    backend.write_at(&data, 0).unwrap();
    assert!(read(&backend, 1 << 20, 0) == data);
}

#[test]
fn a_server_that_is_away_is_disconnected_at_the_deadline_and_says_why() {
    let (server, url, _memory) = memory_server("region", 1 << 20);
    let backend = open(&format!("{url}/region")).unwrap();
    server.close().unwrap();
    for operation in [
        Operation::Read { offset: 0, buffer: Buffer::new(10) },
        Operation::Write { offset: 0, data: Buffer::copy_of(&[1]) },
        Operation::Sync,
    ] {
        let error = wait(submit(&backend, operation, Priority::Demand, BRIEFLY)).err().unwrap();
        assert_eq!(error.code(), Code::Disconnected, "{error}");
        assert!(error.message().contains("refused"), "{error}");
    }
}

#[test]
fn opening_fails_at_once_where_nobody_listens() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = open(&format!("r3map://{address}/region")).err().unwrap();
    assert_eq!(error.code(), Code::Disconnected);
    assert!(error.message().starts_with(&format!("r3map://{address}/region: connect to {address}: ")), "{error}");
    let error = open("r3map+unix:///nowhere/at/all?name=region").err().unwrap();
    assert_eq!(error.code(), Code::NotFound, "{error}");
}

#[test]
fn a_lost_descriptor_is_disconnected_for_good() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let cut = theirs.try_clone().unwrap();
    let server = server();
    let memory = Arc::new(r3map_core::backend::memory::Memory::new(4096).unwrap());
    server.export("region", memory, &ExportOptions::default()).unwrap();
    server.handle(theirs.into()).unwrap();
    let remote = Remote::connect(ours.into(), "region", &BackendOptions::default()).unwrap();
    let backend: Arc<dyn Backend> = Arc::new(remote);
    assert_eq!(read(&backend, 10, 0), [0; 10]);
    cut.shutdown(std::net::Shutdown::Both).unwrap();
    for _ in 0..2 {
        let error = backend.read_at(&mut [0], 0).unwrap_err();
        assert_eq!(error.code(), Code::Disconnected, "{error}");
        assert!(!error.is_retryable());
    }
}

#[test]
fn bulk_traffic_in_flight_does_not_keep_demand_waiting() {
    let (_server, url, memory) = memory_server("region", 64 << 20);
    memory.write_at(&pattern(64 << 20, 2), 0).unwrap();
    let proxy = network(&url);
    let backend = open(&proxy.url("region")).unwrap();
    // The bulk connection is the second; it alone is stalled once it is there.
    let bulk = |offset| Operation::Read { offset, buffer: Buffer::new(1 << 20) };
    wait(submit(&backend, bulk(0), Priority::Bulk, SOON)).unwrap();
    proxy.stall_newest();
    let stalled: Vec<_> = (0..32).map(|index| submit(&backend, bulk(index << 20), Priority::Bulk, SOON)).collect();
    let operation = Operation::Read { offset: 1, buffer: Buffer::new(4096) };
    assert!(matches!(wait(submit(&backend, operation, Priority::Demand, SOON)), Ok(Reply::Data(_))));
    proxy.stall(false);
    stalled.into_iter().for_each(|waiter| drop(wait(waiter).unwrap()));
}
