//! A client that comes back takes its old connection's place, and only once that is over.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use r3map_core::wire::{Header, Hello, Kind};
use r3map_core::{Backend, BackendOptions, Code, ExportOptions, Mode, Mount};

use crate::support::blocked::Blocked;
use crate::support::raw::{Raw, hello, welcome};
use crate::support::{authority, memory_server, server};

fn write(raw: &mut Raw, id: u64, offset: u64, data: &[u8]) {
    raw.send(Header::new(Kind::Write, id).about(offset, data.len() as u64), data);
}

#[test]
fn a_newer_connection_is_welcomed_only_when_nothing_of_the_older_is_under_way() {
    let region = Blocked::new(1 << 20);
    let server = server();
    server.export("region", region.clone(), &ExportOptions::default()).unwrap();
    let url = server.listen("127.0.0.1:0").unwrap();
    let mut old = Raw::welcomed(authority(&url), &hello("region"));
    region.shut(true);
    write(&mut old, 1, 0, &[1; 100]);
    region.wait_for(1);
    // This one is in the server's socket when the newer connection comes, or even in its hands.
    write(&mut old, 2, 0, &[2; 100]);
    let mut new = Raw::connect(authority(&url));
    new.hello(&Hello { generation: 2, ..hello("region") });
    new.0.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(new.0.peek(&mut [0]).is_err(), "welcomed while a write of the old connection was under way");
    new.0.set_read_timeout(Some(crate::support::SOON)).unwrap();
    region.shut(false);
    assert_eq!(new.receive().unwrap().0.kind, Kind::Welcome);
    write(&mut new, 3, 0, &[3; 100]);
    assert_eq!(new.receive().unwrap().0.kind, Kind::Done);
    // The old connection is over, and nothing of it lands any more.
    while old.receive().is_some() {}
    let mut stored = [0; 100];
    region.read_at(&mut stored, 0).unwrap();
    assert_eq!(stored, [3; 100]);
}

#[test]
fn an_older_connection_does_not_get_in_after_a_newer() {
    let (_server, url, _memory) = memory_server("region", 1 << 20);
    let mut new = Raw::welcomed(authority(&url), &Hello { generation: 7, ..hello("region") });
    for generation in [6, 7] {
        let mut old = Raw::connect(authority(&url));
        old.hello(&Hello { generation, ..hello("region") });
        old.expect_end(Code::StaleEpoch);
    }
    new.send(Header::new(Kind::Sync, 1), &[]);
    assert_eq!(new.receive().unwrap().0.kind, Kind::Done);
}

#[test]
fn connections_of_other_clients_roles_and_exports_are_left_alone() {
    let (server, url, memory) = memory_server("region", 1 << 20);
    server.export("another", memory as Arc<dyn Backend>, &ExportOptions::default()).unwrap();
    let mut connections: Vec<Raw> = [
        hello("region"),
        Hello { role: 1, generation: 2, ..hello("region") },
        Hello { client: [1; 16], generation: 3, write: false, ..hello("region") },
        Hello { generation: 4, ..hello("another") },
    ]
    .iter()
    .map(|hello| Raw::welcomed(authority(&url), hello))
    .collect();
    for raw in &mut connections {
        raw.send(Header::new(Kind::Sync, 1), &[]);
        assert_eq!(raw.receive().unwrap().0.kind, Kind::Done);
    }
}

#[test]
fn only_the_first_of_a_mounts_connections_says_that_it_will_write_so_that_no_late_one_takes_the_lease_again() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("r3map://{}/region", listener.local_addr().unwrap());
    let opening = std::thread::spawn(move || {
        Mount::options().mode(Mode::Managed).open_url(&url, &BackendOptions::default()).unwrap()
    });
    let greet = || {
        let mut raw = Raw::over(listener.accept().unwrap().0);
        let (header, hello) = raw.receive().unwrap();
        raw.send(Header::new(Kind::Welcome, header.id), &welcome().encode());
        (raw, Hello::decode(&hello).unwrap())
    };
    let ((demand, first), (bulk, second)) = (greet(), greet());
    assert_eq!([(first.role, first.write), (second.role, second.write)], [(0, true), (1, false)]);
    drop((demand, bulk, listener));
    opening.join().unwrap().discard().unwrap();
}
