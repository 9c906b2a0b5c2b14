//! 115: regions lie in tables of a real Cassandra.

#![cfg(feature = "cassandra")]

use std::path::Path;
use std::sync::RwLockReadGuard;
use std::time::Duration;

use r3map_core::backend::{self, Completion, Operation, Priority, Reply, Request};
use r3map_core::buffer::Buffer;
use r3map_core::cancel::Limit;
use r3map_core::{Backend, BackendOptions, Code, Mount};

mod backends;
mod cassandra;
mod conformance;
mod servers;
#[path = "../../tests/skip.rs"]
mod skip;

use backends::{Kind, all, open, read};
use cassandra::Cassandra;
use servers::SOON;

const MIB: u64 = 1 << 20;

/// Leaves a test whose server is not installed.
macro_rules! needs_cassandra {
    () => {
        if !Cassandra::is_here() {
            return skip::skip("java and Cassandra are not installed: scripts/setup test");
        }
    };
}

fn running(shared: &std::sync::RwLock<Cassandra>) -> RwLockReadGuard<'_, Cassandra> {
    shared.read().unwrap_or_else(|e| e.into_inner())
}

fn pattern(length: u64) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8 | 1).collect()
}

/// Submits a request and waits for its outcome.
fn ask(backend: &std::sync::Arc<dyn Backend>, operation: Operation, patience: Duration) -> r3map_core::Result<Reply> {
    backend::call(backend, operation, &Limit::within(patience), "ask")
}

fn asked_to_read(offset: u64, length: usize) -> Operation {
    Operation::Read { offset, buffer: Buffer::new(length) }
}

#[test]
fn a_table_passes_the_suite() {
    needs_cassandra!();
    let shared = Cassandra::shared();
    let cassandra = running(&shared);
    cassandra.cql(&["CREATE TABLE regions.suite (key text PRIMARY KEY, data blob)"]);
    let url = |rest: &str| {
        let url = cassandra.url("suite", rest);
        move |at: &Path, size: u64| format!("{url}&size={size}&prefix={}", at.file_name().unwrap().to_str().unwrap())
    };
    let kinds = [
        Kind::new("cassandra", true, url("chunk=64KiB")).slow(),
        Kind::new("cassandra of odd chunks", true, url("chunk=5000")).slow(),
    ];
    conformance::a_fresh_region_is_zeros_of_exactly_the_size_asked_for(&kinds);
    conformance::what_a_backend_says_of_itself_is_within_bounds_and_names_no_secret(&kinds);
    conformance::random_writes_zeroes_and_reads_agree_with_a_plain_array_at_every_offset_and_length(&kinds);
    conformance::what_was_synced_is_there_when_it_is_opened_again(&kinds);
    conformance::an_access_outside_the_region_is_refused_and_changes_nothing(&kinds);
    conformance::threads_that_write_disjoint_ranges_of_the_same_pages_and_chunks_lose_nothing(&kinds);
    conformance::each_byte_of_overlapping_writes_zeroes_and_reads_is_one_that_somebody_wrote(&kinds);
    conformance::requests_and_calls_do_the_same(&kinds);
}

#[test]
fn a_table_of_the_go_library_opens_unchanged() {
    needs_cassandra!();
    let shared = Cassandra::shared();
    let cassandra = running(&shared);
    // As its backend inserts them, keys being text or, as its command makes the table, blobs.
    for (table, kind, key) in [("texts", "text", "'go-4096'"), ("blobs", "blob", "textAsBlob('go-4096')")] {
        cassandra.cql(&[
            &format!("CREATE TABLE regions.{table} (key {kind} PRIMARY KEY, data blob)"),
            &format!("INSERT INTO regions.{table} (key, data) VALUES ({key}, 0x{})", "61".repeat(4096)),
            &format!("INSERT INTO regions.{table} (key, data) VALUES ({}, 0x656e64)", key.replace("4096", "8192")),
        ]);
        let url = cassandra.url(table, "size=8200&chunk=4KiB&prefix=go");
        let backend = open(&url).unwrap();
        let mut expected = vec![0; 4096];
        expected.resize(8192, b'a');
        expected.extend(b"end\0\0\0\0\0");
        assert_eq!(all(&backend), expected);
        // And what is written here is there in the same way.
        let row = |offset: &str| {
            let key = key.replace("4096", offset);
            cassandra.bytes(&format!("SELECT data FROM regions.{table} WHERE key = {key}"))
        };
        backend.write_at(b"cc", 4095).unwrap();
        assert_eq!(row("0").unwrap(), [&[0; 4095][..], b"c"].concat());
        assert_eq!(row("4096").unwrap()[..2], *b"ca");
        backend.zero_at(0, 8192).unwrap();
        assert_eq!((row("0"), row("4096"), row("8192").unwrap()), (None, None, b"end".to_vec()));

        // A chunk that lost its end is not filled up with zeros.
        cassandra.cql(&[&format!("INSERT INTO regions.{table} (key, data) VALUES ({key}, 0x61)")]);
        assert_eq!(backend.read_at(&mut [0; 10], 5000).unwrap_err().code(), Code::Corrupt);
    }
}

#[test]
fn what_another_host_with_a_clock_ahead_wrote_is_overwritten_all_the_same() {
    needs_cassandra!();
    let shared = Cassandra::shared();
    let cassandra = running(&shared);
    let backend = open(&cassandra.url("ahead", "size=64KiB&create=true")).unwrap();
    let ahead = std::time::UNIX_EPOCH.elapsed().unwrap().as_micros() + 3_600_000_000;
    let row = format!("(textAsBlob('-0'), 0x{}) USING TIMESTAMP {ahead}", "61".repeat(65536));
    cassandra.cql(&[&format!("INSERT INTO regions.ahead (key, data) VALUES {row}")]);
    assert_eq!(read(&backend, 0, 2), b"aa");
    backend.write_at(&[b'b'; 65536], 0).unwrap();
    assert_eq!(read(&backend, 65534, 2), b"bb");
}

#[test]
fn a_missing_table_is_made_where_told_and_what_is_wrong_is_named() {
    needs_cassandra!();
    let shared = Cassandra::shared();
    let cassandra = running(&shared);
    let refused = |url: &str, code: Code, word: &str| {
        let error = open(url).err().unwrap_or_else(|| panic!("{url} opens"));
        assert!(error.code() == code && error.message().contains(word), "{url}: {error}");
    };
    let url = cassandra.url("made", "size=1MiB");
    refused(&url, Code::NotFound, "create=true");
    let backend = open(&format!("{url}&create=true")).unwrap();
    backend.write_at(&pattern(MIB), 0).unwrap();
    backend.sync().unwrap();
    assert!(all(&open(&url).unwrap()) == pattern(MIB));
    assert!(all(&open(&format!("{url}&create=true&consistency=ALL")).unwrap()) == pattern(MIB));

    refused(&url.replace("/regions/", "/nowhere/"), Code::NotFound, "CREATE KEYSPACE");
    refused(&format!("{url}&consistency=quorun"), Code::InvalidArgument, "\"quorum\"");
    // One replica is not two.
    refused(&format!("{url}&consistency=two"), Code::Disconnected, "1 of 2");
    refused(&format!("{url}&datacentre=x"), Code::InvalidArgument, "datacenter");
    refused(&url.replace("size=1MiB", "chunk=4KiB"), Code::InvalidArgument, "size=");
    refused(&format!("{url}&chunk=9MiB"), Code::InvalidArgument, "8 MiB");
    refused(&url.replace("/made", ""), Code::InvalidArgument, "table");
    refused(&url.replace("/made", "/ma\"de"), Code::InvalidArgument, "table");
    refused(&url.replace("127.0.0.1:", "me:secret@127.0.0.1:"), Code::InvalidArgument, "password");
    refused(&url.replace("127.0.0.1:", "me@127.0.0.1:"), Code::InvalidArgument, "token");
    cassandra.cql(&["CREATE TABLE regions.other (key int PRIMARY KEY, data blob)"]);
    refused(&cassandra.url("other", "size=1MiB"), Code::Unsupported, "text or a blob");
    cassandra.cql(&["CREATE TABLE regions.another (id text PRIMARY KEY, data blob)"]);
    refused(&cassandra.url("another", "size=1MiB"), Code::InvalidArgument, "key");
    let certificate = BackendOptions { tls_ca: Some("ca.pem".into()), ..BackendOptions::default() };
    assert_eq!(backend::open(&url, &certificate).err().unwrap().code(), Code::Unsupported);

    // A table that goes away under way.
    cassandra.cql(&["DROP TABLE regions.made"]);
    let error = ask(&backend, asked_to_read(0, 10), SOON).err().unwrap();
    assert_eq!(error.code(), Code::NotFound, "{error}");
}

#[test]
fn thousands_of_chunks_are_under_way_without_a_thread_for_each() {
    needs_cassandra!();
    let shared = Cassandra::shared();
    let cassandra = running(&shared);
    let backend = open(&cassandra.url("many", "size=8MiB&chunk=2KiB&create=true")).unwrap();
    let expected = pattern(8 * MIB);
    backend.write_at(&expected, 0).unwrap();
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let before = threads();
    let stopped = cassandra.server.stopped();
    let (tell, told) = std::sync::mpsc::channel();
    for chunk in 0..4096u64 {
        let tell = tell.clone();
        let completion = Completion::new(move |outcome| tell.send((chunk, outcome)).unwrap());
        let operation = asked_to_read(chunk * 2048, 2048);
        backend.clone().submit(Request { operation, priority: Priority::Bulk, deadline: None, completion });
    }
    // Other tests of this process start threads too, but not thousands.
    assert!(threads() < before + 200, "{} threads, {before} before", threads());
    // And none of them is told anything while the server stands still: a deadline ends a wait, and a write that is
    // given up overtakes no later one.
    let write = |byte| Operation::Write { offset: 0, data: Buffer::copy_of(&[byte; 2048]) };
    let error = ask(&backend, write(2), Duration::from_millis(300)).err().unwrap();
    assert_eq!(error.code(), Code::Timeout, "{error}");
    drop(stopped);
    for _ in 0..4096 {
        let (chunk, outcome) = told.recv_timeout(SOON).unwrap();
        let at = chunk as usize * 2048;
        let Reply::Data(data) = outcome.unwrap() else { panic!("chunk {chunk} is not there") };
        assert!(data[..] == expected[at..at + 2048] || chunk == 0 && data.iter().all(|byte| *byte == 2));
    }
    ask(&backend, write(4), SOON).unwrap();
    assert!(read(&backend, 0, 2048).iter().all(|byte| *byte == 4));
}

#[test]
fn a_mount_goes_on_when_its_server_is_killed_and_where_that_may_lose_writes_a_sync_fails() {
    needs_cassandra!();
    let shared = Cassandra::shared();
    let url = running(&shared).url("killed", "size=4MiB&create=true");
    let backend = open(&url).unwrap();
    let reader = open(&url).unwrap();
    let mount = Mount::options().deadline(3 * SOON).open(backend).unwrap();
    let mut expected = vec![0; 4 * MIB as usize];
    let mut write = |round: u64| {
        for page in (round..1024).step_by(7) {
            let at = page as usize * 4096;
            expected[at..at + 4096].fill((page + round) as u8 | 1);
            mount.write_at(&expected[at..at + 4096], page * 4096).unwrap();
        }
        expected.clone()
    };
    write(0);
    mount.sync().unwrap();
    let mut cassandra = shared.write().unwrap_or_else(|e| e.into_inner());
    write(1);
    cassandra.server.kill();
    // By a handle of its own, in whose way no push stands.
    let error = ask(&reader, asked_to_read(0, 65536), Duration::from_secs(2)).err().unwrap();
    assert!(error.code() == Code::Disconnected && error.is_retryable(), "{error}");
    assert_eq!(open(&url).err().unwrap().code(), Code::Disconnected);
    let expected = write(2);
    // A request that waits for it goes on when it is back.
    let waiting = std::thread::spawn(move || ask(&reader, asked_to_read(0, 4096), 3 * SOON));
    cassandra.writes_its_log("periodic\ncommitlog_sync_period: 10s");
    cassandra.server.restart(&[]);
    assert!(matches!(waiting.join().unwrap().unwrap(), Reply::Data(_)));
    mount.sync().unwrap();
    mount.close().unwrap();
    let backend = open(&url).unwrap();
    assert!(all(&backend) == expected);

    // It acknowledges now what is not on disk yet.
    backend.write_at(b"x", 0).unwrap();
    backend.sync().unwrap();
    backend.write_at(b"y", 0).unwrap();
    cassandra.server.kill();
    cassandra.writes_its_log("batch");
    cassandra.server.restart(&[]);
    let error = ask(&backend, Operation::Sync, 3 * SOON).err().unwrap();
    assert!(error.code() == Code::Io && error.message().contains("started anew"), "{error}");
}
