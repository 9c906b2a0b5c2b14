//! 520: the process that mounts is killed at any moment: what its sync returned for is there, nothing of it stays
//! behind, and the next one mounts.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use r3map_core::device::Kind;
use r3map_core::{
    BackendOptions, Code, DeviceChoice, ExportOptions, Mode, Mount, MountOptions, Server, ServerOptions, backend,
};

mod faults;
#[path = "../../tests/skip.rs"]
mod skip;

use faults::{Directory, Random, again, eventually, pattern};

const SIZE: usize = (2 << 20) + 1234;
const WORDS: u64 = SIZE as u64 / 8;
/// Runs of each kind of client; one more waits for the lease of the last.
const RUNS: u64 = 4;

const URL: &str = "R3MAP_TEST_URL";
const CLIENT: &str = "R3MAP_TEST_CLIENT";
const SEED: &str = "R3MAP_TEST_SEED";

/// What the client writes in a round: the same for the same seed.
fn writes(seed: u64, round: u64) -> impl Iterator<Item = (u64, u64)> {
    let mut random = Random::new(seed ^ round.wrapping_mul(0x2545_f491_4f6c_dd1d));
    (0..64).map(move |_| (random.below(WORDS), random.next()))
}

/// Not a test: the process that mounts, writes and syncs until it is killed, saying each round that is synced.
#[test]
#[ignore = "started by another test"]
fn writes_until_it_is_killed() {
    let Ok(url) = std::env::var(URL) else { return };
    let seed = std::env::var(SEED).unwrap().parse().unwrap();
    let client = std::env::var(CLIENT).unwrap();
    let (mode, device) = match client.as_str() {
        "managed slice" => (Mode::Managed, DeviceChoice::Userfaultfd),
        "direct slice" => (Mode::Direct, DeviceChoice::Userfaultfd),
        "managed file" => (Mode::Managed, DeviceChoice::Fuse),
        "direct file" => (Mode::Direct, DeviceChoice::Fuse),
        _ => (Mode::Direct, DeviceChoice::Auto),
    };
    let options = Mount::options().mode(mode).device(device);
    let options = MountOptions { push_interval: Duration::from_millis(3), ..options };
    let mount = options.open_url(&url, &BackendOptions::default()).unwrap();
    let slice = client.ends_with("slice").then(|| mount.slice().unwrap());
    let file = client.ends_with("file").then(|| mount.file().unwrap());
    println!("\nmounted {}", mount.path().unwrap_or_default().display());
    std::thread::spawn(|| {
        faults::until_the_parent_is_gone();
        std::process::exit(0);
    });
    for round in 1.. {
        for (word, value) in writes(seed, round) {
            match (&slice, &file) {
                // SAFETY: the word lies inside the slice, whose mount is open, and nobody else writes it.
                (Some(slice), _) => unsafe { slice.as_ptr().cast::<u64>().add(word as usize).write_volatile(value) },
                (_, Some(file)) => file.write_all_at(&value.to_le_bytes(), word * 8).unwrap(),
                _ => mount.write_at(&value.to_le_bytes(), word * 8).unwrap(),
            }
        }
        match &file {
            Some(file) if round % 2 == 0 => file.sync_all().unwrap(),
            _ => mount.sync().unwrap(),
        }
        println!("synced {round}");
    }
}

fn start(client: &str, url: &str, seed: u64) -> Child {
    let mut command = again("writes_until_it_is_killed");
    command.env(URL, url).env(CLIENT, client).env(SEED, seed.to_string());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

/// Kills a client at a moment that follows from the seed; says which round it said last to be synced, and the path
/// of its mount.
fn kill_somewhere(client: &str, url: &str, seed: u64) -> (u64, String) {
    let mut child = start(client, url, seed);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let path = lines.find_map(|line| line.strip_prefix("mounted ").map(str::to_owned)).expect("it mounts");
    let mut random = Random::new(seed);
    let (rounds, pause) = (1 + random.below(4), Duration::from_micros(random.below(20_000)));
    let synced = |line: String| line.strip_prefix("synced ").and_then(|round| round.parse::<u64>().ok());
    let mut last = 0;
    while last < rounds {
        last = lines.find_map(synced).expect("it goes on until it is killed");
    }
    std::thread::sleep(pause);
    child.kill().unwrap();
    last = lines.filter_map(synced).last().unwrap_or(last);
    eventually("the killed process is gone", || child.try_wait().unwrap().is_some());
    (last, path)
}

/// Every word is as the synced rounds left it, or as the round under way was to leave it.
fn check(file: &Path, before: &[u8], seed: u64, synced: u64) {
    let mut expected = before.to_vec();
    for round in 1..=synced {
        for (word, value) in writes(seed, round) {
            expected[word as usize * 8..][..8].copy_from_slice(&value.to_le_bytes());
        }
    }
    let found = std::fs::read(file).unwrap();
    assert_eq!(found.len(), expected.len());
    let under_way: Vec<(u64, u64)> = writes(seed, synced + 1).collect();
    for word in 0..WORDS {
        let at = word as usize * 8..word as usize * 8 + 8;
        let is_under_way = |(other, value): &(u64, u64)| *other == word && found[at.clone()] == value.to_le_bytes();
        assert!(
            found[at.clone()] == expected[at.clone()] || under_way.iter().any(is_under_way),
            "seed {seed}, round {synced} synced: word {word} is {:02x?}, not {:02x?}",
            &found[at.clone()],
            &expected[at.clone()]
        );
    }
    assert_eq!(found[WORDS as usize * 8..], expected[WORDS as usize * 8..]);
}

fn survives_its_client(client: &str) {
    let first = std::env::var(SEED).map_or_else(|_| u64::from(std::process::id()) << 8, |seed| seed.parse().unwrap());
    let directory = Directory::new();
    let server = Server::new(ServerOptions::default()).unwrap();
    let address = server.listen(&format!("unix:{}", directory.file("socket").display())).unwrap();
    let (mut file, mut url) = Default::default();
    for run in 0..RUNS {
        // An export of its own has a lease of its own: only after the last run the next client waits for it. And a
        // file of its own: what the server still writes for a killed client is seen by nobody else.
        let (name, seed) = (format!("run-{run}"), first + run);
        eprintln!("{client}: {name} has {SEED}={seed}");
        file = directory.file(&name);
        let before = pattern(SIZE, seed);
        std::fs::write(&file, &before).unwrap();
        let region = backend::open(&format!("file://{}", file.display()), &BackendOptions::default()).unwrap();
        server.export(&name, region, &ExportOptions::default()).unwrap();
        url = format!("{address}?name={name}");
        let (synced, path) = kill_somewhere(client, &url, seed);
        check(&file, &before, seed, synced);
        eventually("the mount of the killed process is gone", || path.is_empty() || !is_mounted(&path));
    }
    // The server may take a moment to see that the killed one is gone, and says busy until then.
    let mut next = None;
    eventually("the next mount", || {
        match Mount::options().open_url(&url, &BackendOptions::default()) {
            Ok(mount) => next = Some(mount),
            Err(error) => assert_eq!(error.code(), Code::Busy, "{error}"),
        }
        next.is_some()
    });
    let next = next.unwrap();
    let mut bytes = vec![0; SIZE];
    next.read_at(&mut bytes, 0).unwrap();
    faults::assert_same(&bytes, &std::fs::read(&file).unwrap(), "the next mount");
    next.write_at(b"the next writer", 5).unwrap();
    next.close().unwrap();
    assert_eq!(&std::fs::read(&file).unwrap()[5..20], b"the next writer");
    server.close().unwrap();
}

fn is_mounted(path: &str) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    mounts.lines().any(|line| line.split(' ').nth(1) == Some(path))
}

#[test]
fn what_a_killed_client_synced_by_a_managed_slice_is_there() {
    if let Err(error) = Kind::Userfaultfd.probe() {
        return skip::skip(error);
    }
    survives_its_client("managed slice");
}

#[test]
fn what_a_killed_client_synced_by_the_slice_of_a_direct_mount_is_there() {
    if let Err(error) = Kind::Userfaultfd.probe() {
        return skip::skip(error);
    }
    survives_its_client("direct slice");
}

#[test]
fn what_a_killed_client_synced_by_a_managed_file_of_fuse_is_there() {
    if let Err(error) = Kind::Fuse.probe() {
        return skip::skip(error);
    }
    survives_its_client("managed file");
}

#[test]
fn what_a_killed_client_synced_by_a_direct_file_of_fuse_is_there() {
    if let Err(error) = Kind::Fuse.probe() {
        return skip::skip(error);
    }
    survives_its_client("direct file");
}

#[test]
fn what_a_killed_client_synced_by_the_handle_of_a_direct_mount_is_there() {
    survives_its_client("direct handle");
}
