//! What works when nothing goes wrong.

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use r3map_core::backend::memory::Memory;
use r3map_core::backend::remote::Remote;
use r3map_core::backend::{BackendOptions, Operation, Priority, Reply};
use r3map_core::buffer::Buffer;
use r3map_core::{Backend, Code, ExportOptions};

use crate::support::{SOON, memory_server, open, pattern, read, server, submit, tempdir, wait};

fn check_round_trip(backend: &Arc<dyn Backend>, memory: &Memory) {
    let size = backend.info().size;
    assert_eq!(size, memory.info().size);
    let bytes = pattern(size as usize, 7);
    backend.write_at(&bytes, 0).unwrap();
    backend.sync().unwrap();
    let mut stored = vec![0; size as usize];
    memory.read_at(&mut stored, 0).unwrap();
    assert!(stored == bytes);
    assert!(read(backend, size as usize, 0) == bytes);
    for (offset, length) in [(0, 1), (1, 4095), (4097, 70_001), (size - 1, 1), (size, 0)] {
        let range = offset as usize..offset as usize + length;
        assert!(read(backend, length, offset) == bytes[range], "{length} bytes at {offset}");
    }
    backend.zero_at(5, 100_000).unwrap();
    assert_eq!(read(backend, 100_002, 4), [&bytes[4..5], &[0; 100_000][..], &bytes[100_005..100_006]].concat());
    assert_eq!(backend.read_at(&mut [0; 2], size - 1).unwrap_err().code(), Code::OutOfRange);
    assert_eq!(backend.write_at(&[0; 2], u64::MAX).unwrap_err().code(), Code::OutOfRange);
}

#[test]
fn bytes_written_over_tcp_are_the_bytes_read() {
    for size in [1 << 20, 1_234_567, 3 << 20] {
        let (_server, url, memory) = memory_server("region", size);
        check_round_trip(&open(&format!("{url}/region")).unwrap(), &memory);
    }
}

#[test]
fn bytes_written_over_a_unix_socket_are_the_bytes_read() {
    let directory = tempdir();
    let server = server();
    let memory = Arc::new(Memory::new(1_234_567).unwrap());
    server.export("a name/with ünusual letters", memory.clone(), &ExportOptions::default()).unwrap();
    let url = server.listen(&format!("unix:{}/a socket", directory.path().display())).unwrap();
    let backend = open(&format!("{url}?name=a%20name%2Fwith%20%C3%BCnusual%20letters")).unwrap();
    check_round_trip(&backend, &memory);
}

#[test]
fn a_connected_descriptor_carries_demand_and_bulk() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let server = server();
    let memory = Arc::new(Memory::new(1_234_567).unwrap());
    server.export("region", memory.clone(), &ExportOptions::default()).unwrap();
    server.handle(theirs.into()).unwrap();
    let remote = Remote::connect(ours.into(), "region", &BackendOptions::default()).unwrap();
    let backend: Arc<dyn Backend> = Arc::new(remote);
    check_round_trip(&backend, &memory);
    let data = Buffer::copy_of(&[3; 100]);
    wait(submit(&backend, Operation::Write { offset: 10, data }, Priority::Bulk, SOON)).unwrap();
    assert_eq!(read(&backend, 100, 10), [3; 100]);
}

#[test]
fn a_region_of_no_bytes_can_be_opened() {
    let (_server, url, _memory) = memory_server("empty", 0);
    let backend = open(&format!("{url}/empty")).unwrap();
    assert_eq!(backend.info().size, 0);
    backend.read_at(&mut [], 0).unwrap();
    backend.sync().unwrap();
    assert_eq!(backend.read_at(&mut [0], 0).unwrap_err().code(), Code::OutOfRange);
}

#[test]
fn zeros_travel_as_a_bit_in_both_directions() {
    let (_server, url, memory) = memory_server("region", 1 << 20);
    memory.write_at(&pattern(1 << 20, 1), 0).unwrap();
    let backend = open(&format!("{url}/region")).unwrap();
    backend.write_at(&[0; 256 << 10], 0).unwrap();
    let mut stored = vec![1; 256 << 10];
    memory.read_at(&mut stored, 0).unwrap();
    assert!(stored.iter().all(|byte| *byte == 0));
    let operation = Operation::Read { offset: 0, buffer: Buffer::new(256 << 10) };
    assert!(matches!(wait(submit(&backend, operation, Priority::Demand, SOON)), Ok(Reply::Zeroes)));
}

#[test]
fn many_requests_in_flight_on_both_connections_are_each_answered_with_their_own_bytes() {
    let (_server, url, memory) = memory_server("region", 64 << 20);
    let bytes = pattern(64 << 20, 3);
    memory.write_at(&bytes, 0).unwrap();
    let backend = open(&format!("{url}/region")).unwrap();
    let flight: Vec<_> = (0..2000_u64)
        .map(|index| {
            let (offset, length) = (index * 33_331 % (60 << 20), (index * 7919 % 100_000) as usize + 1);
            let priority = if index % 2 == 0 { Priority::Demand } else { Priority::Bulk };
            let operation = Operation::Read { offset, buffer: Buffer::new(length) };
            (submit(&backend, operation, priority, SOON), offset as usize, length)
        })
        .collect();
    for (waiter, offset, length) in flight {
        let Ok(Reply::Data(data)) = wait(waiter) else { panic!("no data") };
        assert!(data[..] == bytes[offset..offset + length]);
    }
}

#[test]
fn many_clients_use_one_export_at_once() {
    let (_server, url, memory) = memory_server("region", 1 << 20);
    for number in 0..16_u8 {
        memory.write_at(&[number; 60_000], u64::from(number) * 65_536).unwrap();
    }
    // One of them writes, as one may; all of them read.
    let clients: Vec<_> = (0..16_u8)
        .map(|number| {
            let url = format!("{url}/region");
            std::thread::spawn(move || {
                let backend = open(&url).unwrap();
                let offset = u64::from(number) * 65_536;
                for round in 1..=20 {
                    let expected = if number == 15 { number ^ round } else { number };
                    if number == 15 {
                        backend.write_at(&[expected; 60_000], offset).unwrap();
                    }
                    assert_eq!(read(&backend, 60_000, offset), vec![expected; 60_000]);
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    let mut last = [0; 1];
    memory.read_at(&mut last, 15 * 65_536).unwrap();
    assert_eq!(last, [15 ^ 20]);
}

#[test]
fn a_request_longer_than_the_longest_is_refused_without_being_sent() {
    let (_server, url, _memory) = memory_server("region", 64 << 20);
    let backend = open(&format!("{url}/region")).unwrap();
    let longest = backend.info().max_request as usize;
    for operation in [
        Operation::Read { offset: 0, buffer: Buffer::new(longest + 1) },
        Operation::Write { offset: 0, data: Buffer::zeroed(longest + 1) },
    ] {
        let error = wait(submit(&backend, operation, Priority::Demand, SOON)).err().unwrap();
        assert_eq!(error.code(), Code::InvalidArgument);
    }
    assert_eq!(read(&backend, longest + 1, 1).len(), longest + 1);
}

#[test]
fn a_closed_backend_fails_every_call_with_closed() {
    let (_server, url, _memory) = memory_server("region", 4096);
    let backend = open(&format!("{url}/region")).unwrap();
    backend.close().unwrap();
    assert_eq!(backend.read_at(&mut [0], 0).unwrap_err().code(), Code::Closed);
    assert_eq!(backend.sync().unwrap_err().code(), Code::Closed);
    assert_eq!(backend.close().unwrap_err().code(), Code::Closed);
}

#[test]
fn an_export_of_an_export_is_the_same_region() {
    let (_first, url, memory) = memory_server("region", 1_234_567);
    let near = open(&format!("{url}/region")).unwrap();
    let second = server();
    second.export("again", near.clone(), &ExportOptions::default()).unwrap();
    let url = second.listen("127.0.0.1:0").unwrap();
    let far = open(&format!("{url}/again")).unwrap();
    assert_eq!(far.info().identity, near.info().identity);
    check_round_trip(&far, &memory);
}
