//! `seed` and `leech`: two real processes, between which a region moves while somebody writes it.
#![allow(missing_docs)]

mod support;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::sys::signal::Signal;
use support::{Directory, Running, r3map, same};

fn seed(arguments: &[&str]) -> (Running, String) {
    let mut seed = Running::start(&[&["seed", "--listen", "127.0.0.1:0"], arguments].concat());
    let url = seed.line();
    assert!(url.starts_with("r3map://127.0.0.1:"), "{url:?}: {}", seed.ended().err);
    (seed, url)
}

fn write_at(path: &Path, bytes: &[u8], offset: u64) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}

#[test]
fn a_region_moves_from_one_process_to_another_and_both_leave_with_0() {
    let directory = Directory::new();
    let (url, bytes) = directory.file("here", 3_000_001);
    let (seed, at) = seed(&[&url, "--name", "state"]);
    assert!(at.ends_with("/state"), "{at}");
    let outcome = r3map(&["leech", &at, &directory.url("there")]);
    assert_eq!((outcome.status, outcome.out.as_str()), (0, ""), "{}", outcome.err);
    let seeded = seed.ended();
    assert_eq!(seeded.status, 0, "{}", seeded.err);
    for said in ["a leecher pulls", "the region is the leecher's", "the leecher has every byte"] {
        assert!(seeded.err.contains(said), "{said}: {}", seeded.err);
    }
    assert!(outcome.err.contains("every byte is here"), "{}", outcome.err);
    assert!(same(&directory.path("there"), &bytes));

    let refused = r3map(&["mount", &url, "--device", "fuse", "--", "cat", "{}"]);
    assert_ne!(refused.status, 0, "the region is another's now");
}

#[test]
fn hooks_stop_the_app_and_a_payload_goes_with_the_region() {
    let directory = Directory::new();
    let (url, mut bytes) = directory.file("here", 200_000);
    let (payload, moved) = (directory.path("payload"), directory.path("moved"));
    // The app's last write, and what it says of itself, come as it stops.
    let here = directory.path("here");
    let hook = format!("printf registers > {}", payload.display());
    let arguments =
        [&url, "--on-suspend", &hook, "--on-resume", "exit 9", "--payload-file", payload.to_str().unwrap(), "--json"];
    let (seed, at) = seed(&arguments);
    write_at(&here, b"", 0);
    let local = directory.url("there");
    let leech = ["leech", &at, &local, "--finalize-when", "100%", "--payload-file", moved.to_str().unwrap()];
    let outcome = r3map(&leech);
    assert_eq!(outcome.status, 0, "{}", outcome.err);
    assert_eq!(std::fs::read_to_string(&moved).unwrap(), "registers");
    let seeded = seed.ended();
    assert_eq!(seeded.status, 0, "{}", seeded.err);
    let events: Vec<_> = ["\"event\":\"suspending\"", "\"event\":\"committed\"", "\"event\":\"drained\""]
        .map(|event| seeded.err.find(event))
        .into();
    assert!(events.iter().all(Option::is_some) && events.is_sorted(), "{events:?}: {}", seeded.err);
    bytes.truncate(200_000);
    assert!(same(&directory.path("there"), &bytes));
}

#[test]
fn an_app_that_does_not_stop_goes_on_and_the_leecher_says_why_it_failed() {
    let directory = Directory::new();
    let (url, bytes) = directory.file("here", 200_000);
    let (resumed, there) = (directory.path("resumed"), directory.url("there"));
    let hook = format!("touch {}", resumed.display());
    let (seed, at) = seed(&[&url, "--on-suspend", "exit 3", "--on-resume", &hook]);
    let outcome = r3map(&["leech", &at, &there]);
    assert_eq!(outcome.status, 1);
    assert!(outcome.err.contains("on_suspend"), "{}", outcome.err);
    seed.signal(Signal::SIGINT);
    let seeded = seed.ended();
    assert_eq!(seeded.status, 0, "{}", seeded.err);
    assert!(seeded.err.contains("refused: on_suspend: \"exit 3\" ended with"), "{}", seeded.err);
    assert!(resumed.exists(), "the app was not told to go on");
    assert!(same(&directory.path("here"), &bytes));
}

#[test]
fn a_signal_before_the_commit_ends_either_side_and_the_region_stays_with_its_seeder() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let directory = Directory::new();
        let (url, bytes) = directory.file("here", 500_000);
        let (seed, at) = seed(&[&url]);
        // It can never have this much: it waits until it is told to end.
        let never = ["leech", &at, &directory.url("there"), "--finalize-when", "pause<0ms"];
        let mut leech = Running::start(&never);
        leech.says("pulling");
        leech.signal(signal);
        let outcome = leech.ended();
        assert_eq!(outcome.status, 1, "{}", outcome.err);
        assert!(outcome.err.contains("cancelled"), "{}", outcome.err);
        seed.signal(signal);
        let seeded = seed.ended();
        assert_eq!(seeded.status, 0, "{}", seeded.err);
        assert!(same(&directory.path("here"), &bytes));
        let mounted =
            r3map(&["mount", &url, "--device", "fuse", "--", "cmp", "{}", directory.path("here").to_str().unwrap()]);
        assert_eq!(mounted.status, 0, "{}", mounted.err);
    }
}

#[test]
fn a_path_at_the_source_is_a_path_at_the_destination_with_all_that_was_written() {
    let directory = Directory::new();
    let (url, mut bytes) = directory.file("store", 1_000_001);
    let (here, there) = (directory.path("here"), directory.path("there"));
    let (seed, at) = seed(&[&url, "--at", here.to_str().unwrap(), "--device", "fuse"]);
    write_at(&here, b"written while it is seeded", 500_000);
    bytes[500_000..500_026].copy_from_slice(b"written while it is seeded");
    let local = directory.url("local");
    let mut leech = Running::start(&["leech", &at, &local, "--at", there.to_str().unwrap(), "--device", "fuse"]);
    assert_eq!(Path::new(&leech.line()), there);
    assert!(same(&there, &bytes), "the path shows other bytes");
    write_at(&there, b"and here", 1000);
    bytes[1000..1008].copy_from_slice(b"and here");
    leech.signal(Signal::SIGTERM);
    let outcome = leech.ended();
    assert_eq!(outcome.status, 0, "{}", outcome.err);
    assert!(same(&directory.path("local"), &bytes), "a write was lost");
    assert_eq!(seed.ended().status, 0);
}

#[test]
fn a_command_runs_on_the_region_that_came_and_its_status_passes_through() {
    let directory = Directory::new();
    let (url, bytes) = directory.file("here", 70_000);
    let (seed, at) = seed(&[&url]);
    let script = "sha256sum < $0 | cut -c1-64; sha256sum < $1 | cut -c1-64; exit 5";
    let local = directory.url("there");
    let here = directory.path("here");
    let leech = ["leech", &at, &local, "--device", "fuse", "--", "sh", "-c", script, "{}", here.to_str().unwrap()];
    let outcome = r3map(&leech);
    assert_eq!(outcome.status, 5, "{}", outcome.err);
    let sums: Vec<_> = outcome.out.lines().collect();
    assert!(sums.len() == 2 && sums[0] == sums[1], "{sums:?}");
    assert_eq!(seed.ended().status, 0);
    assert!(same(&directory.path("there"), &bytes));
}

#[test]
fn a_leecher_killed_before_the_commit_leaves_the_region_to_the_next_one() {
    let directory = Directory::new();
    let (url, bytes) = directory.file("here", 2_000_000);
    let (seed, at) = seed(&[&url]);
    let local = directory.url("there");
    let mut leech = Running::start(&["leech", &at, &local, "--finalize-when", "pause<0ms", "--json"]);
    leech.says("\"event\":\"pulling\"");
    leech.signal(Signal::SIGKILL);
    assert_eq!(leech.ended().status, -1);
    let outcome = r3map(&["leech", &at, &local]);
    assert_eq!(outcome.status, 0, "{}", outcome.err);
    assert_eq!(seed.ended().status, 0);
    assert!(same(&directory.path("there"), &bytes));
}

/// A leecher that has the region but not its bytes, and a path to it: it pulls what is touched.
fn owner(directory: &Directory, at: &str) -> Running {
    let (local, there) = (directory.url("local"), directory.path("there"));
    let there = there.to_str().unwrap();
    let when = ["--finalize-when", "0%", "--pull", "demand", "--device", "fuse"];
    let mut leech = Running::start(&[&["leech", at, &local, "--at", there][..], &when].concat());
    assert_eq!(leech.line(), there);
    leech
}

#[test]
fn a_seeder_that_is_told_to_end_while_bytes_are_needed_says_so_and_waits_for_the_last() {
    let directory = Directory::new();
    let (url, bytes) = directory.file("here", 40_000_000);
    let (mut seed, at) = seed(&[&url]);
    let leech = owner(&directory, &at);
    for _ in 0..2 {
        seed.signal(Signal::SIGINT);
        seed.says("still lacks bytes of it");
    }
    leech.signal(Signal::SIGTERM);
    let outcome = leech.ended();
    assert_eq!(outcome.status, 0, "{}", outcome.err);
    assert!(same(&directory.path("local"), &bytes));
    let seeded = seed.ended();
    assert_eq!(seeded.status, 0, "{}", seeded.err);
}

#[test]
fn a_seeder_killed_after_the_commit_serves_the_rest_once_it_is_started_again() {
    let directory = Directory::new();
    let (url, bytes) = directory.file("here", 40_000_000);
    let (killed, at) = seed(&[&url]);
    let leech = owner(&directory, &at);
    killed.signal(Signal::SIGKILL);
    assert_eq!(killed.ended().status, -1);
    let address = at.trim_start_matches("r3map://").trim_end_matches("/region");
    let mut again = Running::start(&["seed", &url, "--listen", address]);
    assert_eq!(again.line(), at);
    leech.signal(Signal::SIGTERM);
    let outcome = leech.ended();
    assert_eq!(outcome.status, 0, "{}", outcome.err);
    assert!(same(&directory.path("local"), &bytes));
    let seeded = again.ended();
    assert_eq!(seeded.status, 0, "{}", seeded.err);
}

#[test]
fn a_wrong_condition_and_a_place_that_is_taken_are_refused_with_what_is_wrong() {
    let directory = Directory::new();
    let (url, _) = directory.file("here", 10_000);
    let (there, kept) = directory.file("there", 10_000);
    let (seed, at) = seed(&[&url]);
    let outcome = r3map(&["leech", &at, "memory:", "--finalize-when", "soon"]);
    assert_eq!(outcome.status, 1);
    assert!(outcome.err.contains("\"soon\" is neither a share, such as 95%, nor a pause"), "{}", outcome.err);
    let outcome = r3map(&["leech", &at, &there]);
    assert_eq!(outcome.status, 1);
    assert!(outcome.err.contains("overwrite"), "{}", outcome.err);
    assert!(same(&directory.path("there"), &kept));
    let outcome = r3map(&["leech", &at, &there, "--overwrite"]);
    assert_eq!(outcome.status, 0, "{}", outcome.err);
    assert_eq!(seed.ended().status, 0);
    assert!(same(&directory.path("there"), &std::fs::read(directory.path("here")).unwrap()));
    assert_eq!(r3map(&["seed", &url]).status, 2, "--listen is missing");
}

#[test]
fn a_region_moves_over_grpc_where_both_processes_are_told_allow_legacy() {
    let directory = Directory::new();
    let (url, bytes) = directory.file("here", 300_001);
    let payload = directory.path("here");
    // What cannot be handed over so is refused, and the region stays.
    let (refusing, at) = seed(&[&url, "--allow-legacy", "--payload-file", payload.to_str().unwrap()]);
    let legacy = |at: &str| {
        format!("grpc{}?size=300001&chunk=4KiB", at.strip_prefix("r3map").unwrap().rsplit_once('/').unwrap().0)
    };
    let local = directory.url("there");
    let outcome = r3map(&["leech", &legacy(&at), &local, "--allow-legacy"]);
    assert!(outcome.status == 1 && outcome.err.contains("no payload"), "{}", outcome.err);
    refusing.signal(Signal::SIGTERM);
    assert_eq!(refusing.ended().status, 0);
    let (seed, at) = seed(&[&url, "--allow-legacy"]);
    let outcome = r3map(&["leech", &legacy(&at), &local, "--overwrite"]);
    assert!(outcome.status == 1 && outcome.err.contains("allow_legacy"), "{}", outcome.err);
    let outcome = r3map(&["leech", &legacy(&at), &local, "--overwrite", "--allow-legacy"]);
    assert_eq!(outcome.status, 0, "{}", outcome.err);
    assert_eq!(seed.ended().status, 0);
    assert!(same(&directory.path("there"), &bytes));
}
