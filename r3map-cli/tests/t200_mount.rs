//! `mount`: the path, the command behind `--`, and how it ends. By fuse, which needs no kernel module.
#![allow(missing_docs)]

mod support;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::sys::signal::Signal;
use support::{Directory, Running, r3map, same};

fn write_at(path: &Path, bytes: &[u8], offset: u64) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}

#[test]
fn a_mount_prints_only_its_path_and_a_signal_syncs_detaches_and_leaves_with_0() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let directory = Directory::new();
        let (url, mut bytes) = directory.file("file", 1_000_001);
        let mut mount = Running::start(&["mount", &url, "--device", "fuse"]);
        let path = mount.line();
        assert!(same(Path::new(&path), &bytes), "the path shows other bytes");
        write_at(Path::new(&path), b"changed", 999_994);
        bytes[999_994..].copy_from_slice(b"changed");
        mount.signal(signal);
        let outcome = mount.ended();
        assert_eq!((outcome.status, outcome.out.as_str()), (0, ""), "{}", outcome.err);
        assert!(same(&directory.path("file"), &bytes), "{signal} lost a write");
        assert!(std::fs::metadata(&path).map_or(true, |file| file.len() == 0), "{path} is still mounted");
    }
}

#[test]
fn a_mount_whose_reports_nobody_reads_any_more_still_syncs() {
    let directory = Directory::new();
    let (url, mut bytes) = directory.file("file", 100_000);
    let mut mount = Running::start(&["mount", &url, "--device", "fuse"]);
    let path = mount.line();
    mount.ignore_errors();
    write_at(Path::new(&path), b"changed", 0);
    bytes[..7].copy_from_slice(b"changed");
    mount.signal(Signal::SIGTERM);
    assert_eq!(mount.ended().status, 0);
    assert!(same(&directory.path("file"), &bytes), "a write was lost");
}

#[test]
fn the_fuse_file_itself_is_where_at_says() {
    let directory = Directory::new();
    let (url, bytes) = directory.file("file", 10_000);
    let at = directory.path("here");
    let mut mount = Running::start(&["mount", &url, "--device=fuse", "--read-only", "--at", at.to_str().unwrap()]);
    assert_eq!(Path::new(&mount.line()), at);
    assert!(same(&at, &bytes));
    assert!(at.symlink_metadata().unwrap().is_file());
    mount.signal(Signal::SIGTERM);
    assert_eq!(mount.ended().status, 0);
}

#[test]
fn a_command_gets_the_path_its_output_is_its_own_and_its_status_passes_through() {
    let directory = Directory::new();
    let (url, mut bytes) = directory.file("file", 5000);
    let script = "cat $0 | wc -c; printf new | dd of=$0 bs=1 conv=notrunc status=none; exit 7";
    let outcome = r3map(&["mount", &url, "--device", "fuse", "--", "sh", "-c", script, "{}"]);
    assert_eq!((outcome.status, outcome.out.trim()), (7, "5000"), "{}", outcome.err);
    bytes[..3].copy_from_slice(b"new");
    assert!(same(&directory.path("file"), &bytes));
}

#[test]
fn the_order_of_first_accesses_is_kept_in_a_file_that_a_later_mount_of_the_same_size_takes() {
    let directory = Directory::new();
    let ((url, _), (other, _)) = (directory.file("file", 1_000_000), directory.file("other", 2_000_000));
    let trace = directory.path("trace");
    let trace = trace.to_str().unwrap();
    let mount = |url: &str, flag: &str| {
        let options = ["--quiet", "--device=fuse", "--mode=managed", "--pull=demand", flag, trace];
        let script = "dd if=$0 bs=4096 skip=200 count=1 status=none | wc -c";
        let outcome = r3map(&[&["mount", url][..], &options, &["--", "sh", "-c", script, "{}"]].concat());
        (outcome.status, outcome.out.trim().to_owned(), outcome.err)
    };
    let (status, out, error) = mount(&url, "--trace");
    assert!((status, out.as_str()) == (1, "") && error.contains(trace), "{status} {out}: {error}");
    for flag in ["--trace-save", "--trace"] {
        assert_eq!(mount(&url, flag), (0, "4096".to_owned(), String::new()), "{flag}");
    }
    let (status, out, error) = mount(&other, "--trace");
    assert!((status, out.as_str()) == (1, "") && error.contains(trace), "{status} {out}: {error}");
}

#[test]
fn a_signal_reaches_the_command_and_its_end_by_it_is_told_as_a_shell_tells_it() {
    let directory = Directory::new();
    let (url, _) = directory.file("file", 5000);
    let script = "echo ready; exec sleep 60";
    let mut mount = Running::start(&["mount", &url, "--device", "fuse", "--", "sh", "-c", script]);
    assert_eq!(mount.line(), "ready");
    mount.signal(Signal::SIGTERM);
    assert_eq!(mount.ended().status, 143);
}

#[test]
fn a_command_that_cannot_be_run_is_a_failure_that_says_so() {
    let directory = Directory::new();
    let (url, _) = directory.file("file", 5000);
    let outcome = r3map(&["mount", "--quiet", &url, "--device", "fuse", "--", "/no/such/command", "{}"]);
    let message = "r3map: run /no/such/command: No such file or directory (os error 2)\n";
    assert_eq!((outcome.status, outcome.err.as_str()), (1, message));
}

#[test]
fn a_mount_tells_programs_in_json_where_it_is() {
    let directory = Directory::new();
    let (url, _) = directory.file("file", 5000);
    let mut mount = Running::start(&["--json", "mount", &url, "--device", "fuse"]);
    let path = mount.line();
    mount.signal(Signal::SIGINT);
    let outcome = mount.ended();
    assert_eq!(outcome.status, 0);
    let lines: Vec<serde_json::Value> = outcome.err.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0], serde_json::json!({"event": "mounted", "path": path, "device": "fuse", "size": 5000}));
}

#[test]
fn a_mount_that_cannot_sync_is_detached_all_the_same_and_fails_with_the_cause() {
    let directory = Directory::new();
    let (url, _) = directory.file("file", 1_000_000);
    let mut server = Running::start(&["serve", &url, "--listen", "127.0.0.1:0"]);
    let address = server.line();
    let options = ["--device=fuse", "--mode=managed", "--push-interval=0", "--deadline=2"];
    let mut mount = Running::start(&[&["mount", &address][..], &options].concat());
    let path = mount.line();
    assert_eq!(std::fs::read(&path).unwrap().len(), 1_000_000);
    server.signal(Signal::SIGKILL);
    server.ended();
    write_at(Path::new(&path), b"lost", 0);
    mount.signal(Signal::SIGINT);
    let outcome = mount.ended();
    let last = outcome.err.lines().last().unwrap();
    let message = "r3map: unmounted without a complete sync, the last writes may be lost: ";
    assert!(outcome.status == 1 && last.starts_with(message), "{}: {}", outcome.status, outcome.err);
    assert!(std::fs::metadata(&path).map_or(true, |file| file.len() == 0), "{path} is still mounted");
}

#[test]
fn userfaultfd_gives_no_path_and_the_error_says_what_does() {
    let outcome = r3map(&["mount", "memory:?size=1MiB", "--device", "userfaultfd"]);
    let message = "r3map: a userfaultfd device gives memory of one process and no path for others: mount with \
                   --device fuse or nbd, or call the library for a slice\n";
    assert_eq!((outcome.status, outcome.err.as_str()), (1, message));
}
