//! 211: one writer a region in stores that many hosts reach, on their real servers.

#![cfg(all(feature = "redis", feature = "s3"))]

use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use r3map_core::cancel::Limit;
use r3map_core::{Backend, BackendOptions, Code, Mode, Mount};

mod backends;
#[cfg(feature = "cassandra")]
mod cassandra;
mod servers;
#[path = "../../tests/skip.rs"]
mod skip;

use backends::{all, open, read};
use servers::{Redis, RedisCluster, S3, SOON, signal};

/// Long enough for a machine that does other things, and waited for in full by some tests.
const TIME_TO_LIVE: Duration = Duration::from_secs(2);
const SIZE: usize = 300_000;
/// What another process of a test is told.
const URL: &str = "R3MAP_TEST_URL";
const ALONE: &str = "R3MAP_TEST_ALONE";

/// The URL of a region of that name, with these parameters besides.
type Place<'a> = &'a (dyn Fn(&str, &str) -> String + Sync);

fn here(place: Place, name: &str) -> String {
    place(name, &format!("size={SIZE}&chunk=4KiB&lease_ttl={}ms", TIME_TO_LIVE.as_millis()))
}

fn mount(url: &str) -> r3map_core::Result<Mount> {
    Mount::options().mode(Mode::Managed).deadline(SOON).open_url(url, &BackendOptions::default())
}

/// A process that has the region of a URL mounted, ended when this is dropped.
struct Writer {
    process: Child,
    told: Lines<BufReader<ChildStdout>>,
}

impl Writer {
    /// Starts one and waits until it has written.
    fn start(url: &str, part: &str) -> Writer {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["the_other_process", "--exact", "--nocapture"]).env(URL, url).env(ALONE, part);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let told = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut writer = Writer { process, told };
        assert_eq!(writer.hear(), "written");
        writer
    }

    /// The next line that it says.
    fn hear(&mut self) -> String {
        let line = self.told.by_ref().map_while(Result::ok).find_map(|line| line.strip_prefix("> ").map(str::to_owned));
        line.expect("the other process ended")
    }

    fn go_on(&mut self) {
        self.process.stdin.as_mut().unwrap().write_all(b"go on\n").unwrap();
    }

    fn name(&self) -> String {
        format!("[{}]@", self.process.id())
    }

    fn signal(&self, name: &str) {
        signal(self.process.id(), name);
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a [`Writer`] does; nothing where this is not one's process.
#[test]
fn the_other_process() {
    let (Ok(url), Ok(part)) = (std::env::var(URL), std::env::var(ALONE)) else { return };
    if part == "writes without end" {
        let backend = open(&url).unwrap();
        backend.write_at(&[b'a'; SIZE], 0).unwrap();
        println!("\n> written");
        let error = loop {
            if let Err(error) = backend.write_at(&[b'b'; SIZE], 0) {
                break error;
            }
        };
        println!("> {}", error.code().name());
        // It stays so.
        println!("> {}", backend.write_at(b"c", 5).unwrap_err().code().name());
    } else {
        let mount = mount(&url).unwrap();
        mount.write_at(b"first", 0).unwrap();
        mount.sync().unwrap();
        println!("\n> written");
        for line in std::io::stdin().lines() {
            line.unwrap();
            let outcome = mount.write_at(b"ghost", 0).and_then(|()| mount.sync());
            println!("> {}", outcome.err().map_or("done", |error| error.code().name()));
        }
    }
}

fn a_second_writer_is_busy_with_the_name_of_the_first_until_that_closes(place: Place) {
    let url = here(place, "second");
    let first = mount(&url).unwrap();
    let begin = Instant::now();
    let error = mount(&url).err().unwrap();
    assert_eq!(error.code(), Code::Busy, "{error}");
    assert!(error.message().contains(&format!("[{}]@", std::process::id())), "{error}");
    assert!(begin.elapsed() < SOON);
    // A first write without a mount is as much of a writer, and readers are none.
    let other = open(&url).unwrap();
    assert_eq!(other.write_at(b"x", 0).unwrap_err().code(), Code::Busy);
    let reader = Mount::options().read_only(true).open_url(&url, &BackendOptions::default()).unwrap();
    first.write_at(b"from the writer", 0).unwrap();
    first.close().unwrap();
    reader.close().unwrap();
    assert_eq!(read(&other, 0, 15), b"from the writer");
    // With a time to live of an hour nothing runs out here.
    let hour = |name| place(name, &format!("size={SIZE}&lease_ttl=1h"));
    for round in 0..3u8 {
        let next = mount(&hour("hour")).unwrap();
        next.write_at(&[round], 0).unwrap();
        next.close().unwrap();
    }
    let writer = open(&hour("hour")).unwrap();
    writer.write_at(b"y", 0).unwrap();
    writer.close().unwrap();
    open(&hour("hour")).unwrap().write_at(b"z", 0).unwrap();
}

fn a_dead_holder_runs_out(place: Place) {
    let url = here(place, "dead");
    let mut writer = Writer::start(&url, "once");
    let error = mount(&url).err().unwrap();
    assert!(error.code() == Code::Busy && error.message().contains(&writer.name()), "{error}");
    writer.kill();
    let begin = Instant::now();
    let next = mount(&url).unwrap();
    assert!(begin.elapsed() >= TIME_TO_LIVE, "it might have lived");
    next.write_at(b"after", 0).unwrap();
    next.close().unwrap();
    assert_eq!(read(&open(&url).unwrap(), 0, 5), b"after");
}

fn a_holder_that_was_paused_is_fenced_before_its_next_write_reaches_the_store(place: Place) {
    let url = here(place, "paused");
    let mut writer = Writer::start(&url, "once");
    writer.signal("STOP");
    let next = mount(&url).unwrap();
    next.write_at(b"other", 0).unwrap();
    next.sync().unwrap();
    writer.signal("CONT");
    for _ in 0..2 {
        writer.go_on();
        assert_eq!(writer.hear(), "stale_epoch");
    }
    next.close().unwrap();
    assert_eq!(read(&open(&url).unwrap(), 0, 5), b"other");

    // One whose place nobody took meanwhile goes on.
    let mut writer = Writer::start(&url, "once");
    writer.signal("STOP");
    std::thread::sleep(TIME_TO_LIVE);
    writer.signal("CONT");
    writer.go_on();
    assert_eq!(writer.hear(), "done");
    assert_eq!(read(&open(&url).unwrap(), 0, 5), b"ghost");
}

fn of_16_who_claim_at_once_one_wins(place: Place, rounds: usize) {
    let url = here(place, "race");
    let claimants: Vec<Arc<dyn Backend>> = (0..16).map(|_| open(&url).unwrap()).collect();
    let (begin, end) = (Barrier::new(16), Barrier::new(17));
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        for claimant in &claimants {
            let (begin, end, tell) = (&begin, &end, tell.clone());
            scope.spawn(move || {
                for _ in 0..rounds {
                    begin.wait();
                    let claimed = claimant.claim(&Limit::within(SOON)).map_err(|error| error.code());
                    tell.send(claimed).unwrap();
                    // Nobody lets go before all have tried.
                    end.wait();
                    claimant.release();
                }
            });
        }
        let mut failed = None;
        for round in 0..rounds {
            let outcomes: Vec<_> = (0..16).map(|_| told.recv_timeout(2 * SOON).unwrap()).collect();
            let won = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
            let busy = outcomes.iter().filter(|outcome| **outcome == Err(Code::Busy)).count();
            if (won, busy) != (1, 15) {
                failed = failed.or(Some(format!("round {round}: {outcomes:?}")));
            }
            end.wait();
        }
        assert_eq!(failed, None);
    });
}

macro_rules! redis_or_skip {
    () => {
        if !servers::is_here("redis-server") {
            return skip::skip("redis-server is not installed: scripts/setup test");
        }
    };
}

fn in_redis(part: impl Fn(Place)) {
    let redis = Redis::start(&[]);
    part(&|name, rest| redis.url(&format!("key={name}&{rest}")));
}

#[test]
fn redis_has_one_writer_a_region() {
    redis_or_skip!();
    in_redis(a_second_writer_is_busy_with_the_name_of_the_first_until_that_closes);
}

#[test]
fn a_dead_writer_of_redis_runs_out() {
    redis_or_skip!();
    in_redis(a_dead_holder_runs_out);
}

#[test]
fn a_paused_writer_of_redis_is_fenced() {
    redis_or_skip!();
    in_redis(a_holder_that_was_paused_is_fenced_before_its_next_write_reaches_the_store);
}

#[test]
fn of_16_claimants_in_redis_one_wins_each_round() {
    redis_or_skip!();
    in_redis(|place| of_16_who_claim_at_once_one_wins(place, 8));
}

#[test]
fn a_redis_cluster_has_one_writer_a_region() {
    redis_or_skip!();
    let cluster = RedisCluster::start();
    let place = |name: &str, rest: &str| cluster.url(&format!("key={name}&{rest}"));
    a_second_writer_is_busy_with_the_name_of_the_first_until_that_closes(&place);
    a_holder_that_was_paused_is_fenced_before_its_next_write_reaches_the_store(&place);
}

#[cfg(feature = "cassandra")]
#[test]
fn a_table_of_cassandra_has_one_writer_a_region() {
    if !cassandra::Cassandra::is_here() {
        return skip::skip("java and Cassandra are not installed: scripts/setup test");
    }
    let shared = cassandra::Cassandra::shared();
    let running = shared.read().unwrap();
    running.cql(&["CREATE TABLE regions.leases (key text PRIMARY KEY, data blob)"]);
    let place = |name: &str, rest: &str| running.url("leases", &format!("prefix={name}&{rest}"));
    a_second_writer_is_busy_with_the_name_of_the_first_until_that_closes(&place);
    a_holder_that_was_paused_is_fenced_before_its_next_write_reaches_the_store(&place);
    of_16_who_claim_at_once_one_wins(&place, 4);
}

#[test]
fn redis_itself_refuses_what_a_paused_writer_had_on_its_way() {
    redis_or_skip!();
    let redis = Redis::start(&[]);
    let place = |name: &str, rest: &str| redis.url(&format!("key={name}&{rest}"));
    let url = here(&place, "endless");
    for _ in 0..2 {
        let mut writer = Writer::start(&url, "writes without end");
        writer.signal("STOP");
        let next = open(&url).unwrap();
        next.claim(&Limit::within(SOON)).unwrap();
        next.write_at(&[b'n'; SIZE], 0).unwrap();
        writer.signal("CONT");
        assert_eq!((writer.hear(), writer.hear()), ("stale_epoch".to_owned(), "stale_epoch".to_owned()));
        assert!(all(&next) == [b'n'; SIZE]);
    }
}

#[test]
fn a_region_whose_redis_lost_all_keeps_its_writer_and_off_is_no_lease() {
    redis_or_skip!();
    let mut redis = Redis::start(&[]);
    let url = redis.url(&format!("size={SIZE}&lease_ttl={}ms", TIME_TO_LIVE.as_millis()));
    let writer = open(&url).unwrap();
    writer.write_at(b"before", 0).unwrap();
    redis.kill();
    redis.restart(&[]);
    let begin = Instant::now();
    // Before it has said again that it lives, another may come.
    while redis.cli(&["GET", "r3map-lease"]).is_empty() {
        assert!(begin.elapsed() < SOON);
        std::thread::sleep(Duration::from_millis(20));
    }
    writer.write_at(b"after", 0).unwrap();
    assert_eq!(open(&url).unwrap().write_at(b"x", 0).unwrap_err().code(), Code::Busy);
    let free = open(&redis.url(&format!("size={SIZE}&lease=off"))).unwrap();
    free.write_at(b"whoever", 0).unwrap();
    assert_eq!(read(&writer, 0, 7), b"whoever");
    // What is no record is never taken for one.
    redis.cli(&["SET", "x-r3map-lease", "mine"]);
    let error = open(&redis.url("size=10&key=x")).unwrap().write_at(b"x", 0).unwrap_err();
    assert_eq!(error.code(), Code::Corrupt, "{error}");
    for wrong in ["lease=maybe", "lease_ttl=1ms", "lease_ttl=2h", "lease_ttl=x"] {
        assert_eq!(open(&redis.url(&format!("size=10&{wrong}"))).err().unwrap().code(), Code::InvalidArgument);
    }
}

#[test]
fn s3_has_one_writer_a_region() {
    if !S3::is_alone("s3_has_one_writer_a_region", &S3::CREDENTIALS) {
        return;
    }
    let s3 = S3::start();
    let place = |name: &str, rest: &str| s3.url(&format!("store/{name}"), rest);
    open(&format!("{}&create=true", here(&place, "any"))).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| a_second_writer_is_busy_with_the_name_of_the_first_until_that_closes(&place));
        scope.spawn(|| a_dead_holder_runs_out(&place));
        scope.spawn(|| a_holder_that_was_paused_is_fenced_before_its_next_write_reaches_the_store(&place));
    });
    of_16_who_claim_at_once_one_wins(&place, 4);
    // Of the records only the newest stays.
    let records = std::fs::read_dir(s3.object("store", "race-lease")).unwrap().count();
    assert_eq!(records, 1);
}

/// A server before S3 that leaves out the condition under which objects are created.
fn that_ignores_conditions(port: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let found = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.unwrap();
            let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let (mut answers, mut back) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut answers, &mut back));
            std::thread::spawn(move || leave_out_conditions(client, server));
        }
    });
    found
}

fn leave_out_conditions(client: TcpStream, mut server: TcpStream) {
    let mut client = BufReader::new(client);
    let mut line = String::new();
    let mut length = 0;
    while client.read_line(&mut line).is_ok_and(|read| read > 0) {
        let small = line.to_ascii_lowercase();
        if let Some(value) = small.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if !small.starts_with("if-none-match:") {
            server.write_all(line.as_bytes()).unwrap();
        }
        if line == "\r\n" {
            let mut body = vec![0; std::mem::take(&mut length)];
            client.read_exact(&mut body).unwrap();
            server.write_all(&body).unwrap();
        }
        line.clear();
    }
    let _ = server.shutdown(std::net::Shutdown::Both);
}

#[test]
fn an_s3_that_decides_no_race_is_refused_for_writing() {
    if !S3::is_alone("an_s3_that_decides_no_race_is_refused_for_writing", &S3::CREDENTIALS) {
        return;
    }
    let s3 = S3::for_everyone();
    let port = that_ignores_conditions(s3.port);
    let url = |rest: &str| S3::url_at(port, "store/x", &format!("size={SIZE}&create=true{rest}"));
    let error = mount(&url("")).err().unwrap();
    assert_eq!(error.code(), Code::Unsupported, "{error}");
    assert!(error.message().contains("If-None-Match") && error.message().contains("lease=off"), "{error}");
    assert_eq!(open(&url("")).unwrap().write_at(b"x", 0).unwrap_err().code(), Code::Unsupported);
    assert_eq!(all(&open(&url("")).unwrap()), [0; SIZE]);
    let told_so = mount(&url("&lease=off")).unwrap();
    told_so.write_at(b"y", 0).unwrap();
    told_so.close().unwrap();
}
