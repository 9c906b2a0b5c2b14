//! What a server offers, refuses, and keeps when it closes.

use std::io::Write;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use r3map_core::backend::Operation;
use r3map_core::backend::Priority;
use r3map_core::backend::memory::Memory;
use r3map_core::buffer::Buffer;
use r3map_core::wire::{Header, Hello, Kind};
use r3map_core::{Backend, Code, ExportOptions, Server, ServerOptions};

use crate::support::blocked::Blocked;
use crate::support::raw::{Raw, frame, hello};
use crate::support::{SOON, authority, memory_server, open, pattern, read, server, submit, tempdir, wait};

#[test]
fn an_export_that_is_not_there_is_not_found_by_name() {
    let (_server, url, _memory) = memory_server("region", 4096);
    let error = open(&format!("{url}/regoin")).err().unwrap();
    assert_eq!(error.code(), Code::NotFound);
    assert_eq!(error.message(), format!("{url}/regoin: nothing is exported as \"regoin\""));
}

#[test]
fn a_read_only_export_refuses_every_change() {
    let server = server();
    let memory = Arc::new(Memory::new(4096).unwrap());
    server.export("region", memory.clone(), &ExportOptions { read_only: true, ..ExportOptions::default() }).unwrap();
    let url = server.listen("127.0.0.1:0").unwrap();
    let backend = open(&format!("{url}/region")).unwrap();
    assert!(backend.info().read_only);
    assert_eq!(backend.write_at(&[1], 0).unwrap_err().code(), Code::ReadOnly);
    assert_eq!(backend.zero_at(0, 10).unwrap_err().code(), Code::ReadOnly);
    // A client that does not care what it was told meets the same.
    let mut raw = Raw::welcomed(authority(&url), &hello("region"));
    raw.send(Header::new(Kind::Write, 1).about(0, 3), b"abc");
    raw.send(Header::new(Kind::Zero, 2).about(0, 3), &[]);
    for id in [1, 2] {
        let (answered, error) = raw.refusal();
        assert_eq!((answered, error.code()), (id, Code::ReadOnly));
    }
    assert_eq!(read(&backend, 4096, 0), [0; 4096]);
}

#[test]
fn names_are_keys_and_never_paths() {
    let server = server();
    let memory: Arc<dyn Backend> = Arc::new(Memory::new(4096).unwrap());
    let long = "x".repeat(256);
    for name in ["", "a\0b", &long] {
        let error = server.export(name, memory.clone(), &ExportOptions::default()).unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{name:?}");
    }
    let url = server.listen("127.0.0.1:0").unwrap();
    for name in ["../etc/passwd", "/etc/passwd", "..", "%2e%2e%2fetc%2fpasswd", "etc/passwd"] {
        let mut raw = Raw::connect(authority(&url));
        raw.hello(&hello(name));
        raw.expect_end(Code::NotFound);
    }
    for name in ["".to_owned(), "a\0b".to_owned(), long.clone(), "x".repeat(3900)] {
        let mut raw = Raw::connect(authority(&url));
        raw.hello(&hello(&name));
        raw.expect_end(Code::InvalidArgument);
    }
    for (name, export) in [("", ""), ("/a%00b", "a\0b"), ("/", "")] {
        let error = open(&format!("{url}{name}")).err().unwrap();
        assert_eq!(error.code(), Code::InvalidArgument, "{export:?}");
    }
    // What looks like a path is a name like any other once somebody exports it.
    server.export("../etc/passwd", memory.clone(), &ExportOptions::default()).unwrap();
    Raw::welcomed(authority(&url), &hello("../etc/passwd"));
    let error = server.export("../etc/passwd", memory, &ExportOptions::default()).unwrap_err();
    assert_eq!(error.code(), Code::Busy);
}

#[test]
fn plain_tcp_off_loopback_is_refused_on_both_sides_unless_it_is_asked_for() {
    // With TLS a server makes what it needs for it: t191.
    for address in if cfg!(feature = "tls") { [].as_slice() } else { &["0.0.0.0:0", "[::]:0"] } {
        let error = server().listen(address).unwrap_err();
        assert_eq!(error.code(), Code::PermissionDenied, "{address}");
        assert!(error.message().contains("insecure"), "{error}");
    }
    let insecure = Server::new(ServerOptions { insecure: true, ..ServerOptions::default() }).unwrap();
    let url = insecure.listen("0.0.0.0:0").unwrap();
    assert!(url.starts_with("r3map://0.0.0.0:"), "{url}");
    let error = open("r3map://192.0.2.1/region").err().unwrap();
    assert_eq!(error.code(), Code::PermissionDenied);
    assert!(error.message().contains("insecure"), "{error}");
}

#[test]
fn an_address_that_is_none_is_refused() {
    for address in
        ["", "localhost", "127.0.0.1", "127.0.0.1:x", ":80", "127.0.0.1:70000", "http://127.0.0.1:1", "unix:"]
    {
        assert_eq!(server().listen(address).unwrap_err().code(), Code::InvalidArgument, "{address:?}");
    }
    let long = format!("unix:/{}", "x".repeat(200));
    assert_eq!(server().listen(&long).unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(server().listen("unix:relative").unwrap_err().code(), Code::InvalidArgument);
}

#[test]
fn a_stale_socket_file_is_replaced_and_a_served_one_is_busy() {
    let directory = tempdir();
    let path = directory.path().join("socket");
    let address = format!("unix:{}", path.display());
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let first = server();
    first.listen(&address).unwrap();
    let error = server().listen(&address).unwrap_err();
    assert_eq!(error.code(), Code::Busy, "{error}");
    first.close().unwrap();
    assert!(!path.exists(), "the socket's file is left behind");
    std::fs::write(&path, b"precious").unwrap();
    assert_eq!(server().listen(&address).unwrap_err().code(), Code::Busy);
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    let (one, _, _) = memory_server("region", 4096);
    let url = one.listen("127.0.0.1:0").unwrap();
    assert_eq!(server().listen(authority(&url)).unwrap_err().code(), Code::Busy);
}

#[test]
fn connections_beyond_the_most_are_told_busy_and_get_in_when_another_leaves() {
    let server = Server::new(ServerOptions { max_connections: 2, ..ServerOptions::default() }).unwrap();
    server.export("region", Arc::new(Memory::new(4096).unwrap()), &ExportOptions::default()).unwrap();
    let url = format!("{}/region", server.listen("127.0.0.1:0").unwrap());
    let clients = [open(&url).unwrap(), open(&url).unwrap()];
    let error = open(&url).err().unwrap();
    assert_eq!(error.code(), Code::Busy, "{error}");
    assert!(error.is_retryable());
    drop(clients);
    // The server learns of it when it learns of it.
    while let Err(error) = open(&url) {
        assert_eq!(error.code(), Code::Busy);
    }
}

#[test]
fn a_client_that_stops_inside_a_message_is_cut_and_one_that_is_idle_between_them_is_not() {
    let options = ServerOptions { deadline: Duration::from_millis(200), ..ServerOptions::default() };
    let server = Server::new(options).unwrap();
    server.export("region", Arc::new(Memory::new(4096).unwrap()), &ExportOptions::default()).unwrap();
    let url = server.listen("127.0.0.1:0").unwrap();
    let idle = open(&format!("{url}/region")).unwrap();
    let write = frame(Header::new(Kind::Write, 1).about(0, 100), &[1; 100]);
    for length in [1, 47, 48, 147] {
        let mut raw = Raw::welcomed(authority(&url), &Hello { client: [length as u8; 16], ..hello("region") });
        raw.bytes(&write[..length]);
        let error = raw.expect_end(Code::Timeout);
        assert!(error.message().contains("silent"), "{error}");
    }
    // One byte at a time is no way around it.
    let mut slow = Raw::welcomed(authority(&url), &hello("region"));
    for byte in &write {
        if slow.0.write_all(&[*byte]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    slow.expect_end(Code::Timeout);
    assert_eq!(read(&idle, 4096, 0), [0; 4096]);
}

#[test]
fn a_client_that_does_not_take_its_answers_is_cut() {
    let deadline = Duration::from_millis(500);
    let server = Server::new(ServerOptions { deadline, max_connections: 1, ..ServerOptions::default() }).unwrap();
    let memory = Memory::new(32 << 20).unwrap();
    memory.write_at(&pattern(32 << 20, 1), 0).unwrap();
    server.export("region", Arc::new(memory), &ExportOptions::default()).unwrap();
    let url = server.listen("127.0.0.1:0").unwrap();
    let mut raw = Raw::welcomed(authority(&url), &hello("region"));
    let asked: Vec<u8> = (1..=1000).flat_map(|id| frame(Header::new(Kind::Read, id).about(0, 32 << 20), &[])).collect();
    raw.bytes(&asked);
    // The server ends the connection by itself: then there is room for another. It ends others too that a busy machine
    // keeps from speaking in time.
    let until = Instant::now() + SOON;
    let other = loop {
        match open(&format!("{url}/region")) {
            Ok(other) => break other,
            Err(error) => assert!(error.is_retryable() && Instant::now() < until, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(read(&other, 10, 0), pattern(10, 1));
    let mut taken = 0;
    let mut bytes = vec![0; 1 << 20];
    while let Ok(count @ 1..) = std::io::Read::read(&mut raw.0, &mut bytes) {
        taken += count as u64;
    }
    assert!(taken < 32 << 20, "the server sent {taken} bytes to somebody who did not take them");
}

#[test]
fn a_sync_reaches_the_backend() {
    let region = Blocked::new(4096);
    let server = server();
    server.export("region", region.clone(), &ExportOptions::default()).unwrap();
    let backend = open(&format!("{}/region", server.listen("127.0.0.1:0").unwrap())).unwrap();
    backend.write_at(&[1; 10], 0).unwrap();
    assert_eq!(region.syncs(), 0);
    backend.sync().unwrap();
    assert_eq!(region.syncs(), 1);
    server.close().unwrap();
    assert_eq!(region.syncs(), 2, "closing syncs what was written");
    assert_eq!(server.close().unwrap_err().code(), Code::Closed);
    assert_eq!(server.listen("127.0.0.1:0").unwrap_err().code(), Code::Closed);
}

#[test]
fn closing_answers_what_is_under_way() {
    let region = Blocked::new(4096);
    let server = server();
    server.export("region", region.clone(), &ExportOptions::default()).unwrap();
    let backend = open(&format!("{}/region", server.listen("127.0.0.1:0").unwrap())).unwrap();
    region.shut(true);
    let operation = Operation::Write { offset: 0, data: Buffer::copy_of(&[4; 100]) };
    let waiter = submit(&backend, operation, Priority::Demand, SOON);
    region.wait_for(1);
    let closing = std::thread::spawn(move || server.close());
    std::thread::sleep(Duration::from_millis(50));
    assert!(!closing.is_finished());
    region.shut(false);
    wait(waiter).unwrap();
    closing.join().unwrap().unwrap();
    assert_eq!(region.syncs(), 1);
}

#[test]
fn closing_under_load_loses_no_acknowledged_write() {
    let (server, url, memory) = memory_server("region", 8 << 20);
    let acknowledged: Arc<Vec<AtomicU64>> = Arc::new((0..8).map(|_| AtomicU64::new(0)).collect());
    let begun = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..8_u64)
        .map(|number| {
            let (url, acknowledged, begun) = (format!("{url}/region"), acknowledged.clone(), begun.clone());
            std::thread::spawn(move || {
                let backend = open(&url).unwrap();
                for value in 1.. {
                    let data = Buffer::copy_of(&u64::to_le_bytes(value));
                    let operation = Operation::Write { offset: (number << 20) + value % 1000 * 8, data };
                    let waiter = submit(&backend, operation, Priority::Demand, Duration::from_millis(300));
                    if wait(waiter).is_err() {
                        return;
                    }
                    acknowledged[number as usize].store(value, Ordering::SeqCst);
                    begun.store(begun.load(Ordering::SeqCst) || value > 100, Ordering::SeqCst);
                }
            })
        })
        .collect();
    while !begun.load(Ordering::SeqCst) {
        std::thread::yield_now();
    }
    server.close().unwrap();
    for (number, writer) in writers.into_iter().enumerate() {
        writer.join().unwrap();
        let last = acknowledged[number].load(Ordering::SeqCst);
        for value in last.saturating_sub(999).max(1)..=last {
            let mut stored = [0; 8];
            memory.read_at(&mut stored, (number << 20) as u64 + value % 1000 * 8).unwrap();
            assert!(u64::from_le_bytes(stored) >= value, "write {value} of {last} by {number} is lost");
        }
    }
}
