//! 112: every kind of store passes the same suite, on its real server.

#![cfg(feature = "redis")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use r3map_core::backend::{self, Completion, Operation, Priority, Reply, Request};
use r3map_core::buffer::Buffer;
use r3map_core::cancel::{Cancel, Limit};
use r3map_core::server::named;
use r3map_core::{Backend, BackendOptions, Code, ExportOptions, Mount, Protocol, Server, ServerOptions};

mod backends;
mod conformance;
mod servers;
#[path = "../../tests/skip.rs"]
mod skip;

use backends::{Kind, all, open, read};
use servers::{Redis, RedisCluster, SOON};

const MIB: u64 = 1 << 20;

/// Leaves a test whose server is not installed.
macro_rules! needs {
    ($program:literal) => {
        if !servers::is_here($program) {
            return skip::skip(concat!($program, " is not installed: scripts/setup test"));
        }
    };
}

/// The last part of a scratch directory's name: one's own for each region.
fn name_of(at: &std::path::Path) -> String {
    at.file_name().unwrap().to_str().unwrap().to_owned()
}

fn suite(kinds: &[Kind]) {
    conformance::a_fresh_region_is_zeros_of_exactly_the_size_asked_for(kinds);
    conformance::what_a_backend_says_of_itself_is_within_bounds_and_names_no_secret(kinds);
    conformance::random_writes_zeroes_and_reads_agree_with_a_plain_array_at_every_offset_and_length(kinds);
    conformance::what_was_synced_is_there_when_it_is_opened_again(kinds);
    conformance::an_access_outside_the_region_is_refused_and_changes_nothing(kinds);
    conformance::threads_that_write_disjoint_ranges_of_the_same_pages_and_chunks_lose_nothing(kinds);
    conformance::each_byte_of_overlapping_writes_zeroes_and_reads_is_one_that_somebody_wrote(kinds);
    conformance::requests_and_calls_do_the_same(kinds);
}

#[test]
fn redis_passes_the_suite() {
    needs!("redis-server");
    let redis = Arc::new(Redis::start(&[]));
    let (plain, odd) = (redis.clone(), redis.clone());
    suite(&[
        Kind::new("redis", true, move |at, size| plain.url(&format!("size={size}&key={}", name_of(at)))),
        Kind::new("redis of odd chunks", true, move |at, size| {
            odd.url(&format!("size={size}&chunk=5000&key={}", name_of(at)))
        }),
    ]);
}

#[test]
fn a_redis_cluster_passes_the_suite() {
    needs!("redis-server");
    let cluster = RedisCluster::start();
    suite(&[Kind::new("redis cluster", true, move |at, size| {
        cluster.url(&format!("size={size}&key={}", name_of(at)))
    })]);
}

/// Submits a request and waits for its outcome.
fn ask(backend: &Arc<dyn Backend>, operation: Operation, patience: Duration) -> r3map_core::Result<Reply> {
    backend::call(backend, operation, &Limit::within(patience), "ask")
}

fn asked_to_read(offset: u64, length: usize) -> Operation {
    Operation::Read { offset, buffer: Buffer::new(length) }
}

fn pattern(length: u64) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8 | 1).collect()
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

#[test]
fn a_redis_store_of_the_go_library_opens_unchanged() {
    needs!("redis-server");
    let redis = Redis::start(&[]);
    // What its backend sets: the chunk at its offset in decimal.
    redis.cli(&["SET", "0", &"a".repeat(4096)]);
    redis.cli(&["SET", "8192", "end"]);
    let url = redis.url("size=8200&chunk=4KiB");
    let backend = open(&url).unwrap();
    let mut expected = vec![b'a'; 4096];
    expected.resize(8192, 0);
    expected.extend(b"end\0\0\0\0\0");
    assert_eq!(all(&backend), expected);
    // And what is written here is there in the same way.
    backend.write_at(&[b'b'; 4096], 4096).unwrap();
    backend.write_at(b"c", 4095).unwrap();
    assert_eq!(redis.cli(&["GET", "4096"]), "b".repeat(4096));
    assert_eq!(redis.cli(&["GETRANGE", "0", "4094", "-1"]), "ac");
    backend.zero_at(0, 8192).unwrap();
    assert_eq!(redis.cli(&["KEYS", "[0-9]*"]), "8192");

    // A chunk that lost its end is not filled up with zeros.
    redis.cli(&["SET", "4096", "short"]);
    let error = backend.read_at(&mut [0; 10], 5000).unwrap_err();
    assert_eq!(error.code(), Code::Corrupt, "{error}");
    redis.cli(&["RPUSH", "0", "no chunk"]);
    assert_eq!(backend.read_at(&mut [0; 10], 0).unwrap_err().code(), Code::Corrupt);
}

#[test]
fn thousands_of_chunks_are_under_way_without_a_thread_for_each() {
    needs!("redis-server");
    let redis = Redis::start(&[]);
    let backend = open(&redis.url("size=16MiB&chunk=4KiB")).unwrap();
    backend.write_at(&pattern(16 * MIB), 0).unwrap();
    let before = threads();
    let stopped = redis.stopped();
    let (tell, told) = std::sync::mpsc::channel();
    for chunk in 0..4096u64 {
        let tell = tell.clone();
        let completion = Completion::new(move |outcome| tell.send((chunk, outcome)).unwrap());
        let operation = asked_to_read(chunk * 4096, 4096);
        backend.clone().submit(Request { operation, priority: Priority::Bulk, deadline: None, completion });
    }
    // Other tests of this process start threads too, but not thousands.
    assert!(threads() < before + 200, "{} threads, {before} before", threads());
    drop(stopped);
    let expected = pattern(16 * MIB);
    for _ in 0..4096 {
        let (chunk, outcome) = told.recv_timeout(SOON).unwrap();
        let at = chunk as usize * 4096;
        assert!(matches!(outcome.unwrap(), Reply::Data(data) if data[..] == expected[at..at + 4096]));
    }
}

#[test]
fn a_server_that_is_away_gives_an_error_with_its_cause_and_never_zeros() {
    needs!("redis-server");
    let mut redis = Redis::durable();
    let url = redis.url("size=1MiB");
    let backend = open(&url).unwrap();
    backend.write_at(&pattern(MIB), 0).unwrap();
    backend.sync().unwrap();
    redis.kill();
    for operation in [asked_to_read(0, 65536), asked_to_read(5, 10), Operation::Zero { offset: 1, length: 5 }] {
        let error = ask(&backend, operation, Duration::from_millis(500)).err().unwrap();
        assert_eq!(error.code(), Code::Disconnected, "{error}");
        assert!(error.is_retryable() && error.message().contains("refused"), "{error}");
    }
    assert_eq!(open(&url).err().unwrap().code(), Code::Disconnected);
    // A request that waits for it goes on when it is back.
    let (waiting, whole) = (backend.clone(), pattern(MIB));
    let reader = std::thread::spawn(move || ask(&waiting, asked_to_read(0, 65536), SOON));
    redis.restart(&[]);
    assert!(matches!(reader.join().unwrap().unwrap(), Reply::Data(data) if data[..] == whole[..65536]));
    assert!(all(&backend) == whole, "what was synced is there after a kill");
    backend.sync().unwrap();
}

#[test]
fn a_server_that_lost_what_it_acknowledged_fails_the_next_sync() {
    needs!("redis-server");
    let mut redis = Redis::start(&[]);
    let backend = open(&redis.url("size=1MiB")).unwrap();
    backend.write_at(&pattern(MIB), 0).unwrap();
    redis.kill();
    redis.restart(&[]);
    let error = backend.sync().unwrap_err();
    assert_eq!(error.code(), Code::Io);
    assert!(error.message().contains("started anew"), "{error}");
    // Written again it is as good as before.
    backend.write_at(&pattern(MIB), 0).unwrap();
    backend.sync().unwrap();
}

#[test]
fn a_stopped_server_ends_in_a_deadline_or_a_cancel_and_late_writes_overtake_none() {
    needs!("redis-server");
    let redis = Redis::start(&[]);
    let backend = open(&redis.url("size=1MiB")).unwrap();
    backend.write_at(&[1; 65536], 0).unwrap();
    let stopped = redis.stopped();
    let begin = Instant::now();
    let error = ask(&backend, asked_to_read(0, 65536), Duration::from_millis(300)).err().unwrap();
    assert_eq!(error.code(), Code::Timeout, "{error}");
    let write = |byte| Operation::Write { offset: 0, data: Buffer::copy_of(&[byte; 65536]) };
    for byte in [2, 3] {
        let error = ask(&backend, write(byte), Duration::from_millis(300)).err().unwrap();
        assert_eq!(error.code(), Code::Timeout, "{error}");
    }
    let cancel = Cancel::new();
    let limit = Limit::none().with_cancel(Some(cancel.clone()));
    let canceller = std::thread::spawn(move || cancel.trigger());
    let error = backend::call(&backend, asked_to_read(0, 4096), &limit, "read").err().unwrap();
    assert_eq!(error.code(), Code::Cancelled);
    canceller.join().unwrap();
    assert!(begin.elapsed() < SOON);
    drop(stopped);
    // The first write given up may arrive; what is acknowledged comes after it, always.
    ask(&backend, write(4), SOON).unwrap();
    assert!(read(&backend, 0, 65536).iter().all(|byte| *byte == 4));
}

#[test]
fn wrong_credentials_are_named_and_never_shown() {
    needs!("redis-server");
    let redis = Redis::start(&["--requirepass", "right-one"]);
    let with = |user: &str| redis.url("size=1MiB").replace("redis://", &format!("redis://{user}@"));
    for url in [redis.url("size=1MiB"), with(":wrong-one"), with("nobody:wrong-one")] {
        let error = open(&url).err().unwrap();
        assert_eq!(error.code(), Code::NotAuthenticated, "{error}");
        assert!(!error.message().contains("wrong-one"), "{error}");
    }
    let backend = open(&with(":right-one")).unwrap();
    backend.write_at(b"x", 7).unwrap();
    assert!(!backend.info().name.contains("right-one"), "{}", backend.info().name);
    let options = BackendOptions { token: Some("right-one".into()), ..BackendOptions::default() };
    let by_token = backend::open(&redis.url("size=1MiB"), &options).unwrap();
    assert_eq!(read(&by_token, 7, 1), b"x");
    // A password that is taken back while the region is open: connections that are made anew hear of it.
    redis.cli(&["-a", "right-one", "CONFIG", "SET", "requirepass", "another"]);
    redis.cli(&["-a", "another", "CLIENT", "KILL", "TYPE", "normal"]);
    let error = ask(&backend, asked_to_read(0, 10), SOON).err().unwrap();
    assert_eq!(error.code(), Code::NotAuthenticated, "{error}");
}

#[test]
fn a_redis_that_is_busy_or_loading_is_waited_for_and_one_that_forgets_is_refused() {
    needs!("redis-server");
    let mut redis = Redis::start(&["--busy-reply-threshold", "50"]);
    let backend = open(&redis.url("size=1MiB&chunk=4KiB")).unwrap();
    backend.write_at(&pattern(MIB), 0).unwrap();
    let port = redis.port.to_string();
    let script = std::thread::spawn(move || {
        let endless = ["-p", &port, "EVAL", "while true do end", "0"];
        std::process::Command::new("redis-cli").args(endless).output().unwrap();
    });
    let error = loop {
        // Until the script has begun.
        if let Err(error) = ask(&backend, asked_to_read(0, 4096), Duration::from_secs(1)) {
            break error;
        }
    };
    assert_eq!(error.code(), Code::Busy, "{error}");
    assert!(error.message().contains("BUSY"), "{error}");
    let waiting = backend.clone();
    let reader = std::thread::spawn(move || ask(&waiting, asked_to_read(0, 4096), SOON));
    redis.cli(&["SCRIPT", "KILL"]);
    reader.join().unwrap().unwrap();
    script.join().unwrap();

    redis.cli(&["SAVE"]);
    redis.kill();
    // A fiftieth of a second each key.
    redis.restart(&["--key-load-delay", "20000", "--loading-process-events-interval-bytes", "1024"]);
    assert_eq!(all(&open(&redis.url("size=1MiB&chunk=4KiB")).unwrap()), pattern(MIB));

    redis.cli(&["CONFIG", "SET", "maxmemory", "100mb"]);
    redis.cli(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let error = open(&redis.url("size=1MiB&chunk=4KiB")).err().unwrap();
    assert_eq!(error.code(), Code::Unsupported, "{error}");
    assert!(error.message().contains("noeviction"), "{error}");
}

#[test]
fn a_managed_mount_goes_on_when_its_server_is_killed_and_started_again() {
    needs!("redis-server");
    let mut redis = Redis::durable();
    let backend = open(&redis.url("size=4MiB")).unwrap();
    let mount = Mount::options().deadline(SOON).open(backend).unwrap();
    let mut expected = vec![0; 4 * MIB as usize];
    for round in 0..3u64 {
        for page in (round..1024).step_by(7) {
            let at = page as usize * 4096;
            expected[at..at + 4096].fill(page as u8 | 1);
            mount.write_at(&expected[at..at + 4096], page * 4096).unwrap();
            if page == 512 + round {
                redis.kill();
                redis.restart(&[]);
            }
        }
        mount.sync().unwrap();
    }
    mount.close().unwrap();
    assert!(all(&open(&redis.url("size=4MiB")).unwrap()) == expected);
}

#[test]
fn a_cluster_that_lost_a_server_says_so_and_the_rest_is_read() {
    needs!("redis-server");
    let mut cluster = RedisCluster::start();
    let backend = open(&cluster.url("size=1MiB&chunk=4KiB")).unwrap();
    backend.write_at(&pattern(MIB), 0).unwrap();
    let with = open(&cluster.servers()[1].url("size=1MiB")).err().unwrap();
    assert!(with.code() == Code::Unsupported && with.message().contains("cluster=true"), "{with}");
    cluster.servers()[2].kill();
    let mut lost = 0;
    for chunk in 0..256 {
        match ask(&backend, asked_to_read(chunk * 4096, 4096), Duration::from_millis(50)) {
            Ok(Reply::Data(data)) => assert!(data[..] == pattern(MIB)[chunk as usize * 4096..][..4096]),
            Ok(_) => panic!("chunk {chunk}: zeros stand for bytes that could not be had"),
            Err(_) => lost += 1,
        }
    }
    assert!(lost > 0);
}

#[test]
fn our_own_servers_pass_the_suite() {
    let serve = |protocol| {
        let server = Server::new(ServerOptions { protocol, ..ServerOptions::default() }).unwrap();
        let address = server.listen("127.0.0.1:0").unwrap();
        move |at: &std::path::Path, size| {
            let memory = open(&format!("memory:?size={size}")).unwrap();
            // Exported already where it is opened again.
            let _ = server.export(&name_of(at), memory, &ExportOptions::default());
            named(&address, &name_of(at))
        }
    };
    suite(&[Kind::new("r3map", false, serve(Protocol::R3map))]);
}
