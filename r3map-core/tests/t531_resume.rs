//! 531: a cache goes on where it was: after close, after kill -9, and not where the region is another by now.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use r3map_core::backend::memory::Memory;
use r3map_core::{
    Backend, BackendOptions, Code, ExportOptions, Info, Mount, MountOptions, Pull, Result, Server, ServerOptions,
};

mod faults;

use faults::{Directory, Random, SOON, ServerProcess, again, assert_same, eventually, pattern};

const SIZE: usize = (4 << 20) + 1234;
const WORDS: u64 = SIZE as u64 / 8;

const URL: &str = "R3MAP_TEST_URL";
const CACHE: &str = "R3MAP_TEST_CACHE";
const SEED: &str = "R3MAP_TEST_SEED";

#[test]
#[ignore = "started by another test"]
fn serves_until_it_is_killed() {
    faults::serve();
}

fn options(cache: &Path) -> MountOptions {
    let options = Mount::options().cache(format!("file://{}", cache.display()));
    MountOptions { pull: Pull::Demand, push_interval: Duration::ZERO, ..options }
}

fn open(url: &str, options: MountOptions) -> Result<Mount> {
    options.open_url(url, &BackendOptions::default())
}

fn read(mount: &Mount, at: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    mount.read_at(&mut bytes, at).unwrap();
    bytes
}

/// A region in memory that counts the bytes that are read of it.
struct Counting {
    info: Info,
    inner: Memory,
    read: AtomicU64,
}

impl Counting {
    fn new(size: usize, seed: u64) -> Arc<Counting> {
        let inner = Memory::new(size as u64).unwrap();
        inner.write_at(&pattern(size, seed), 0).unwrap();
        Arc::new(Counting { info: inner.info().clone(), inner, read: AtomicU64::new(0) })
    }

    fn take_read(&self) -> u64 {
        self.read.swap(0, Ordering::SeqCst)
    }
}

impl Backend for Counting {
    fn info(&self) -> &Info {
        &self.info
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.read.fetch_add(buffer.len() as u64, Ordering::SeqCst);
        self.inner.read_at(buffer, offset)
    }
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.inner.write_at(data, offset)
    }
    fn sync(&self) -> Result<()> {
        self.inner.sync()
    }
}

/// A server in this process with a region of its own, and a place for caches.
struct Bed {
    directory: Directory,
    region: Arc<Counting>,
    _server: Server,
    url: String,
}

impl Bed {
    fn new() -> Bed {
        let (directory, region) = (Directory::new(), Counting::new(SIZE, 1));
        let server = Server::new(ServerOptions::default()).unwrap();
        let socket = server.listen(&format!("unix:{}", directory.file("socket").display())).unwrap();
        for (name, region) in [("region", region.clone()), ("other", Counting::new(SIZE, 2))] {
            server.export(name, region, &ExportOptions::default()).unwrap();
        }
        Bed { directory, region, _server: server, url: format!("{socket}?name=region") }
    }

    fn mount(&self, cache: &str) -> Result<Mount> {
        open(&self.url, options(&self.directory.file(cache)))
    }
}

#[test]
fn a_pull_that_goes_on_asks_for_what_is_missing_and_nothing_else() {
    let bed = Bed::new();
    let mount = bed.mount("cache").unwrap();
    mount.pull(0, 3 << 20).unwrap();
    mount.write_at(b"written", 2 << 20).unwrap();
    mount.close().unwrap();
    assert_eq!(bed.region.take_read(), 3 << 20);
    let background = MountOptions { pull: Pull::Background, ..options(&bed.directory.file("cache")) };
    let mount = open(&bed.url, background).unwrap();
    mount.wait_local(1.0, SOON).unwrap();
    assert_eq!(bed.region.take_read(), SIZE as u64 - (3 << 20));
    let mut twin = pattern(SIZE, 1);
    twin[2 << 20..][..7].copy_from_slice(b"written");
    assert_same(&read(&mount, 0, SIZE), &twin, "from two mounts");
    mount.close().unwrap();
    let mount = bed.mount("cache").unwrap();
    assert_eq!(mount.missing(0, SIZE as u64).unwrap(), []);
    assert_same(&read(&mount, 0, SIZE), &twin, "the third time");
    assert_eq!(bed.region.take_read(), 0);
    mount.close().unwrap();
}

#[test]
fn what_was_not_pushed_is_pushed_by_the_next_mount() {
    let bed = Bed::new();
    let mount = bed.mount("cache").unwrap();
    mount.pull(0, 8192).unwrap();
    mount.write_at(&[7; 5000], 3000).unwrap();
    mount.write_at(&[8; 4096], 1 << 20).unwrap();
    drop(mount);
    let mount = bed.mount("cache").unwrap();
    assert_eq!(mount.stats().unwrap().get("dirty_bytes"), Some(3 * 4096));
    mount.sync().unwrap();
    assert_eq!(mount.stats().unwrap().get("dirty_bytes"), Some(0));
    let mut twin = pattern(SIZE, 1);
    twin[3000..8000].fill(7);
    twin[1 << 20..][..4096].fill(8);
    let mut bytes = vec![0; SIZE];
    bed.region.read_at(&mut bytes, 0).unwrap();
    assert_same(&bytes, &twin, "at the backend");
    mount.close().unwrap();
}

#[test]
fn a_cache_of_another_region_is_refused() {
    let bed = Bed::new();
    bed.mount("cache").unwrap().close().unwrap();
    let error = open(&bed.url.replace("region", "other"), options(&bed.directory.file("cache"))).err().unwrap();
    assert_eq!(error.code(), Code::Corrupt);
    assert!(error.message().contains("another region"), "{error}");
    bed.mount("cache").unwrap().close().unwrap();
}

#[test]
fn what_is_kept_of_a_region_that_others_changed_is_dropped() {
    let bed = Bed::new();
    let mount = bed.mount("cache").unwrap();
    mount.pull(0, SIZE as u64).unwrap();
    mount.close().unwrap();
    let other = Mount::options().open_url(&bed.url, &BackendOptions::default()).unwrap();
    other.write_at(b"theirs", 100).unwrap();
    other.close().unwrap();
    let mount = bed.mount("cache").unwrap();
    assert_eq!(mount.missing(0, SIZE as u64).unwrap().first(), Some(&(0..SIZE as u64)));
    assert_eq!(read(&mount, 100, 6), b"theirs");
    mount.close().unwrap();
}

#[test]
fn a_reader_that_was_there_before_a_writer_drops_what_it_kept() {
    let bed = Bed::new();
    let reads = MountOptions { read_only: true, ..options(&bed.directory.file("cache")) };
    let other = Mount::options().open_url(&bed.url, &BackendOptions::default()).unwrap();
    other.write_at(b"first", 100).unwrap();
    other.sync().unwrap();
    let mount = open(&bed.url, reads.clone()).unwrap();
    assert_eq!(read(&mount, 100, 5), b"first");
    // The same writer goes on: what the reader was told is over all the same.
    other.write_at(b"later", 100).unwrap();
    other.sync().unwrap();
    mount.close().unwrap();
    let mount = open(&bed.url, reads).unwrap();
    assert_eq!(read(&mount, 100, 5), b"later");
    mount.close().unwrap();
    other.close().unwrap();
}

#[test]
fn what_was_not_pushed_never_goes_over_what_others_wrote() {
    let bed = Bed::new();
    let mount = bed.mount("cache").unwrap();
    mount.write_at(&[7; 4096], 0).unwrap();
    drop(mount);
    let other = Mount::options().open_url(&bed.url, &BackendOptions::default()).unwrap();
    other.write_at(b"theirs", 100).unwrap();
    other.close().unwrap();
    for _ in 0..2 {
        let error = bed.mount("cache").err().unwrap();
        assert_eq!(error.code(), Code::Corrupt);
        assert!(error.message().contains("4096 bytes here were never pushed"), "{error}");
    }
    let mut bytes = [0; 6];
    bed.region.read_at(&mut bytes, 100).unwrap();
    assert_eq!(&bytes, b"theirs");
}

#[test]
fn a_server_that_was_started_again_shows_the_same_version() {
    let directory = Directory::new();
    let (file, cache) = (directory.file("file"), directory.file("cache"));
    std::fs::write(&file, pattern(SIZE, 3)).unwrap();
    let mut server = ServerProcess::unix(&file, &directory.file("socket"));
    for round in 0..3u8 {
        let mount = open(&server.url(), options(&cache)).unwrap();
        assert_eq!(mount.missing(0, SIZE as u64).unwrap().is_empty(), round > 0, "round {round}");
        mount.pull(0, SIZE as u64).unwrap();
        mount.write_at(&[round; 100], 5000).unwrap();
        mount.close().unwrap();
        server.kill();
        server.restart();
    }
}

/// What the client writes in a round: the same for the same seed.
fn writes(seed: u64, round: u64) -> impl Iterator<Item = (u64, u64)> {
    let mut random = Random::new(seed ^ round.wrapping_mul(0x2545_f491_4f6c_dd1d));
    (0..16).map(move |_| (random.below(WORDS), random.next()))
}

/// Not a test: the process that mounts and writes until it is killed, saying each round that was written.
#[test]
#[ignore = "started by another test"]
fn writes_until_it_is_killed() {
    let Ok(url) = std::env::var(URL) else { return };
    let seed: u64 = std::env::var(SEED).unwrap().parse().unwrap();
    let cache = std::path::PathBuf::from(std::env::var_os(CACHE).unwrap());
    // By the seed: pushed all the time, or only by a sync now and then.
    let interval = if seed % 2 == 0 { Duration::from_millis(2) } else { Duration::ZERO };
    let pull = if seed % 3 == 0 { Pull::Demand } else { Pull::Background };
    let mount = open(&url, MountOptions { push_interval: interval, pull, ..options(&cache) }).unwrap();
    std::thread::spawn(|| {
        faults::until_the_parent_is_gone();
        std::process::exit(0);
    });
    for round in 1.. {
        for (word, value) in writes(seed, round) {
            mount.write_at(&value.to_le_bytes(), word * 8).unwrap();
        }
        println!("\nwrote {round}");
        if round % 7 == seed % 7 {
            mount.sync().unwrap();
        }
    }
}

fn is_kept_through_a_kill(server: &str, directory: &Directory, seed: u64) {
    eprintln!("{SEED}={seed}");
    let (url, cache) = (format!("{server}?name={seed}"), directory.file(&format!("cache-{seed}")));
    let mut command = again("writes_until_it_is_killed");
    command.env(URL, &url).env(CACHE, &cache).env(SEED, seed.to_string());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(std::result::Result::ok);
    let wrote = |line: String| line.strip_prefix("wrote ").and_then(|round| round.parse::<u64>().ok());
    let mut random = Random::new(seed);
    let (rounds, pause) = (1 + random.below(20), Duration::from_micros(random.below(20_000)));
    let mut last = 0;
    while last < rounds {
        last = lines.find_map(wrote).expect("it goes on until it is killed");
    }
    std::thread::sleep(pause);
    child.kill().unwrap();
    last = lines.filter_map(wrote).last().unwrap_or(last);
    eventually("the killed process is gone", || child.try_wait().unwrap().is_some());

    // Every write of the rounds it said is there, and of the one under way the first ones.
    let mut twin = pattern(SIZE, seed);
    let put = |twin: &mut [u8], (word, value): (u64, u64)| {
        twin[word as usize * 8..][..8].copy_from_slice(&value.to_le_bytes());
    };
    (1..=last).flat_map(|round| writes(seed, round)).for_each(|write| put(&mut twin, write));
    let mount = open(&url, options(&cache)).unwrap();
    let found = read(&mount, 0, SIZE);
    for write in writes(seed, last + 1).collect::<Vec<_>>() {
        if found == twin {
            break;
        }
        put(&mut twin, write);
    }
    assert_same(&found, &twin, &format!("seed {seed}, {last} rounds written"));
    mount.sync().unwrap();
    assert_same(&std::fs::read(directory.file(&seed.to_string())).unwrap(), &twin, "pushed by the next mount");
    mount.close().unwrap();
}

#[test]
fn what_a_killed_process_wrote_is_in_its_cache_and_is_pushed_by_the_next() {
    let first = std::env::var(SEED).map_or_else(|_| u64::from(std::process::id()) << 8, |seed| seed.parse().unwrap());
    let directory = Directory::new();
    let server = Server::new(ServerOptions::default()).unwrap();
    let socket = server.listen(&format!("unix:{}", directory.file("socket").display())).unwrap();
    std::thread::scope(|scope| {
        for seed in first..first + 6 {
            let file = directory.file(&seed.to_string());
            std::fs::write(&file, pattern(SIZE, seed)).unwrap();
            let url = format!("file://{}", file.display());
            let region = r3map_core::backend::open(&url, &BackendOptions::default()).unwrap();
            server.export(&seed.to_string(), region, &ExportOptions::default()).unwrap();
            let (socket, directory) = (&socket, &directory);
            scope.spawn(move || is_kept_through_a_kill(socket, directory, seed));
        }
    });
}
