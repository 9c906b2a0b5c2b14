//! `copy` and `info`, between files and memory.
#![allow(missing_docs)]

mod support;
use support::{Directory, r3map, same, succeeds};

#[test]
fn copy_creates_a_missing_target_of_the_same_bytes() {
    let directory = Directory::new();
    let (from, bytes) = directory.file("from", 3_000_001);
    let outcome = r3map(&["copy", &from, &directory.url("to")]);
    assert_eq!((outcome.status, outcome.out.as_str()), (0, ""), "{}", outcome.err);
    assert!(outcome.err.starts_with("r3map: copied 2.86 MiB in "), "{}", outcome.err);
    assert!(same(&directory.path("to"), &bytes));
}

#[test]
fn copy_creates_a_missing_directory_of_chunks_that_copies_back_whole() {
    let directory = Directory::new();
    let (from, bytes) = directory.file("from", 1_000_001);
    let chunks = format!("dir://{}", directory.path("chunks").display());
    succeeds(&["copy", &from, &format!("{chunks}?chunk=128KiB")]);
    assert_eq!(std::fs::metadata(directory.path("chunks").join("131072")).unwrap().len(), 131072);
    succeeds(&["copy", &chunks, &directory.url("back")]);
    assert!(same(&directory.path("back"), &bytes));
    succeeds(&["copy", &from, &chunks]);
}

#[test]
fn copy_overwrites_a_target_of_the_same_size_with_zeros_too() {
    let directory = Directory::new();
    std::fs::write(directory.path("from"), vec![0; 2_500_000]).unwrap();
    let (to, _) = directory.file("to", 2_500_000);
    succeeds(&["copy", &directory.url("from"), &to]);
    assert!(same(&directory.path("to"), &vec![0; 2_500_000]));
}

#[test]
fn copy_refuses_a_target_of_another_size_and_leaves_it_alone() {
    let directory = Directory::new();
    let (from, _) = directory.file("from", 1000);
    let (to, before) = directory.file("to", 999);
    let outcome = r3map(&["copy", &from, &to]);
    let message = format!("r3map: {from} has 1000 bytes but {to} has 999: a copy needs a target of the same size\n");
    assert_eq!((outcome.status, outcome.err), (1, message));
    assert!(same(&directory.path("to"), &before));

    let outcome = r3map(&["copy", &from, "memory:?size=1KiB"]);
    assert_eq!(outcome.status, 1);
    assert!(outcome.err.contains("but memory:?size=1KiB has 1024"), "{}", outcome.err);
}

#[test]
fn copy_of_a_missing_source_creates_no_target() {
    let directory = Directory::new();
    let outcome = r3map(&["copy", &directory.url("from"), &directory.url("to")]);
    assert_eq!(outcome.status, 1);
    let message = format!("r3map: open {}: No such file or directory (os error 2)\n", directory.url("from"));
    assert_eq!(outcome.err, message);
    assert!(!directory.path("to").exists());
}

#[test]
fn copy_tells_programs_in_json_what_it_did_and_quiet_says_nothing() {
    let directory = Directory::new();
    let (from, _) = directory.file("from", 5000);
    let outcome = r3map(&["copy", "--json", &from, "memory:"]);
    let last: serde_json::Value = serde_json::from_str(outcome.err.lines().last().unwrap()).unwrap();
    assert_eq!((&last["event"], &last["bytes"]), (&"copied".into(), &5000.into()));
    let outcome = r3map(&["copy", "--quiet", &from, "memory:"]);
    assert_eq!((outcome.status, outcome.out, outcome.err), (0, String::new(), String::new()));
}

#[test]
fn an_empty_file_is_copied_to_an_empty_file() {
    let directory = Directory::new();
    let (from, _) = directory.file("from", 0);
    succeeds(&["copy", &from, &directory.url("to")]);
    assert!(same(&directory.path("to"), b""));
}

#[test]
fn info_says_size_chunk_size_and_whether_writes_are_refused() {
    let directory = Directory::new();
    let (url, _) = directory.file("file", 5000);
    let text = succeeds(&["info", &url]);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], format!("name        {url}"));
    assert_eq!(lines[1], "size        5000 (4.88 KiB)");
    assert_eq!(lines[2], "chunk_size  65536 (64.00 KiB)");
    assert_eq!(lines[3], "read_only   false");

    let info: serde_json::Value = serde_json::from_str(&succeeds(&["info", "--json", &url])).unwrap();
    let expected = serde_json::json!({"name": url, "size": 5000, "chunk_size": 65536, "read_only": false});
    assert_eq!(info, expected);
}
