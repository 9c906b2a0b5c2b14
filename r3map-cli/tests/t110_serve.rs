//! `serve`, and other verbs as its clients.
#![allow(missing_docs)]

mod support;
use nix::sys::signal::Signal;
use support::{Directory, Running, r3map, same, succeeds};

#[test]
fn what_is_served_over_tcp_is_copied_whole_and_back() {
    let directory = Directory::new();
    let (url, bytes) = directory.file("from", 5_000_003);
    let (kept, _) = directory.file("kept", 5_000_003);
    let export = format!("kept={kept}");
    let mut server = Running::start(&["serve", &url, "--listen", "127.0.0.1:0", "--name", "x y", "--export", &export]);
    let first = server.line();
    assert!(first.starts_with("r3map://127.0.0.1:") && first.ends_with("/x%20y"), "{first}");
    let second = server.line();
    assert_eq!(second, first.replace("/x%20y", "/kept"));

    succeeds(&["copy", &first, &directory.url("here")]);
    assert!(same(&directory.path("here"), &bytes));
    succeeds(&["copy", &directory.url("here"), &second]);
    assert!(same(&directory.path("kept"), &bytes));
    let info: serde_json::Value = serde_json::from_str(&succeeds(&["info", "--json", &first])).unwrap();
    assert_eq!(info["size"], 5_000_003);

    server.signal(Signal::SIGINT);
    let outcome = server.ended();
    assert_eq!((outcome.status, outcome.out.as_str()), (0, ""), "{}", outcome.err);
}

#[test]
fn what_is_served_on_a_unix_socket_is_copied_whole_and_the_socket_goes_with_the_server() {
    let directory = Directory::new();
    let (url, bytes) = directory.file("from", 1_000_001);
    let listen = format!("unix:{}", directory.path("socket").display());
    let mut server = Running::start(&["serve", &url, "--listen", &listen]);
    let address = server.line();
    assert_eq!(address, format!("r3map+unix://{}?name=from", directory.path("socket").display()));
    succeeds(&["copy", &address, &directory.url("here")]);
    assert!(same(&directory.path("here"), &bytes));
    server.signal(Signal::SIGTERM);
    assert_eq!(server.ended().status, 0);
    assert!(!directory.path("socket").exists());
}

#[test]
fn what_is_served_over_nbd_is_copied_by_the_urls_that_are_printed_and_by_nbdcopy() {
    let directory = Directory::new();
    let (url, bytes) = directory.file("from", 1_000_448);
    let listen = format!("unix:{}", directory.path("socket").display());
    let arguments =
        ["serve", &url, "--protocol", "nbd", "--name", "x y", "--listen", &listen, "--listen", "127.0.0.1:0"];
    let mut server = Running::start(&arguments);
    let (unix, tcp) = (server.line(), server.line());
    assert_eq!(unix, format!("nbd+unix:///x%20y?socket={}", directory.path("socket").display()));
    assert!(tcp.starts_with("nbd://127.0.0.1:") && tcp.ends_with("/x%20y"), "{tcp}");
    for (number, address) in [unix, tcp].iter().enumerate() {
        let (here, there) = (format!("here{number}"), format!("there{number}"));
        succeeds(&["copy", address, &directory.url(&here)]);
        assert!(same(&directory.path(&here), &bytes), "{address}");
        let copied = std::process::Command::new("nbdcopy").arg(address).arg(directory.path(&there)).output().unwrap();
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        assert!(same(&directory.path(&there), &bytes), "{address}");
    }
    server.signal(Signal::SIGTERM);
    assert_eq!(server.ended().status, 0);
    let outcome = r3map(&["serve", &url, "--protocol", "ndb"]);
    assert_eq!(outcome.status, 1);
    assert!(outcome.err.contains("known: r3map nbd"), "{}", outcome.err);
}

#[test]
fn an_export_that_is_read_only_or_not_there_is_refused_to_the_client() {
    let directory = Directory::new();
    let (url, bytes) = directory.file("from", 100_000);
    let mut server = Running::start(&["serve", &url, "--listen", "127.0.0.1:0", "--read-only"]);
    let address = server.line();
    let outcome = r3map(&["copy", "memory:?size=100000", &address]);
    assert_eq!(outcome.status, 1);
    assert!(outcome.err.contains("read-only"), "{}", outcome.err);
    assert!(same(&directory.path("from"), &bytes));

    let outcome = r3map(&["info", &address.replace("/from", "/form")]);
    assert_eq!(outcome.status, 1);
    assert_eq!(outcome.err.lines().count(), 1, "{}", outcome.err);
    assert!(outcome.err.contains("form"), "{}", outcome.err);
}

#[test]
fn a_client_of_a_server_that_is_not_there_fails_with_the_address() {
    let mut server = Running::start(&["serve", "memory:?size=1", "--listen", "127.0.0.1:0"]);
    let address = server.line();
    server.signal(Signal::SIGTERM);
    assert_eq!(server.ended().status, 0);
    let outcome = r3map(&["info", &address]);
    assert_eq!(outcome.status, 1);
    assert!(outcome.err.contains(address.strip_suffix("/memory").unwrap()), "{}", outcome.err);
}

#[test]
#[cfg(not(feature = "tls"))]
fn plain_tcp_off_loopback_needs_insecure() {
    let outcome = r3map(&["serve", "memory:?size=1", "--listen", "0.0.0.0:0"]);
    assert_eq!(outcome.status, 1);
    assert_eq!(outcome.err.lines().count(), 1, "{}", outcome.err);
    assert!(outcome.err.contains("insecure"), "{}", outcome.err);
}
