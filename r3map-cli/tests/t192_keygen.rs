//! 192: `keygen`, and what is served by TLS with it and without it.
#![cfg(feature = "tls")]
#![allow(missing_docs)]

mod support;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use nix::sys::signal::Signal;
use support::{Directory, Running, r3map, same, succeeds};

const MADE: [&str; 6] = ["ca-cert", "ca-key", "server-cert", "server-key", "client-cert", "client-key"];

fn file(directory: &Directory, name: &str) -> String {
    directory.path("keys").join(format!("{name}.pem")).display().to_string()
}

fn openssl(arguments: &[&str]) -> String {
    let output = Command::new("openssl").args(arguments).output().expect("openssl: see scripts/setup");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn keygen_makes_certificates_that_openssl_accepts_and_overwrites_none() {
    let directory = Directory::new();
    let keys = directory.path("keys").display().to_string();
    succeeds(&["keygen", &keys, "--name", "server.example", "--name", "192.0.2.7", "--client", "ann"]);
    for name in MADE {
        let mode = std::fs::metadata(file(&directory, name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let ca = file(&directory, "ca-cert");
    for (name, purpose, names) in [
        ("server-cert", "sslserver", "DNS:server.example, IP Address:192.0.2.7"),
        ("client-cert", "sslclient", "DNS:ann"),
    ] {
        let certificate = file(&directory, name);
        let verified = openssl(&["verify", "-CAfile", &ca, "-purpose", purpose, "-x509_strict", &certificate]);
        assert!(verified.ends_with(": OK\n"), "{verified}");
        let shown = openssl(&["x509", "-in", &certificate, "-noout", "-ext", "subjectAltName"]);
        assert!(shown.contains(names), "{shown}");
    }
    let outcome = r3map(&["keygen", &keys]);
    assert_eq!(outcome.status, 1);
    assert!(outcome.err.contains("server-cert.pem is there already"), "{}", outcome.err);
    // Renewed: the authority stays, and so does all that was not moved away.
    let before = MADE.map(|name| std::fs::read(file(&directory, name)).unwrap());
    for name in &MADE[2..4] {
        std::fs::rename(file(&directory, name), file(&directory, &format!("old-{name}"))).unwrap();
    }
    succeeds(&["keygen", &keys, "--name", "server.example"]);
    let after = MADE.map(|name| std::fs::read(file(&directory, name)).unwrap());
    let changed: Vec<_> = (0..MADE.len()).filter(|at| before[*at] != after[*at]).map(|at| MADE[at]).collect();
    assert_eq!(changed, ["server-cert", "server-key"]);
    let verified = openssl(&["verify", "-CAfile", &ca, "-purpose", "sslserver", &file(&directory, "server-cert")]);
    assert!(verified.ends_with(": OK\n"), "{verified}");
}

#[test]
fn what_is_served_with_certificates_is_copied_by_whom_it_allows() {
    let directory = Directory::new();
    let keys = directory.path("keys").display().to_string();
    succeeds(&["keygen", &keys, "--client", "ann"]);
    let (url, bytes) = directory.file("from", 1_000_003);
    let path = |name: &str| file(&directory, name);
    let (ca, cert, key) = (path("ca-cert"), path("server-cert"), path("server-key"));
    let tls = ["--tls-ca", &ca, "--tls-cert", &cert, "--tls-key", &key];
    for (allow, is_let_in) in [("ann", true), ("ben", false)] {
        let serve = ["serve", &url, "--listen", "127.0.0.1:0", "--allow", allow];
        let mut server = Running::start(&[&serve[..], &tls].concat());
        let address = server.line();
        assert!(address.starts_with("r3maps://127.0.0.1:"), "{address}");
        let (cert, key, to) = (path("client-cert"), path("client-key"), directory.url(allow));
        let copy = ["copy", &address, &to, "--tls-ca", &ca];
        let outcome = r3map(&[&copy[..], &["--tls-cert", &cert, "--tls-key", &key]].concat());
        assert_eq!(outcome.status == 0, is_let_in, "{}", outcome.err);
        assert!(is_let_in || outcome.err.contains("is not for this client"), "{}", outcome.err);
        let outcome = r3map(&copy);
        assert_eq!(outcome.status, 1);
        assert!(outcome.err.contains("give tls_cert and tls_key"), "{}", outcome.err);
        server.signal(Signal::SIGTERM);
        assert_eq!(server.ended().status, 0);
    }
    assert!(same(&directory.path("ann"), &bytes));
}

#[test]
fn what_is_served_beyond_this_host_is_reached_by_the_line_that_is_printed() {
    let directory = Directory::new();
    let (url, bytes) = directory.file("from", 1_000_003);
    let state = directory.path("state").display().to_string();
    let mut server = Running::start(&["serve", &url, "--listen", "0.0.0.0:0", "--state", &state]);
    let address = server.line().replace("0.0.0.0", "127.0.0.1");
    server.signal(Signal::SIGTERM);
    let said = server.ended().err;
    let line = said.lines().find_map(|line| line.split_once("a client connects by: ")).unwrap().1.to_owned();
    let words: Vec<&str> = line.split(' ').collect();
    assert!(words[0].starts_with("R3MAP_TOKEN=") && words[1..4] == ["r3map", "mount", "--tls-pin"], "{line}");
    // It is the same in its next life.
    let port = address.trim_end_matches("/from").rsplit_once(':').unwrap().1.to_owned();
    let listen = format!("0.0.0.0:{port}");
    let mut server = Running::start(&["serve", &url, "--listen", &listen, "--state", &state]);
    server.line();
    let to = directory.url("to");
    let with_token = |token: Option<&str>| {
        let mut copy = Command::new(env!("CARGO_BIN_EXE_r3map"));
        copy.args(["copy", &address, &to, "--tls-pin", words[4]]).env_remove("R3MAP_TOKEN");
        token.map(|token| copy.env("R3MAP_TOKEN", token));
        let output = copy.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (status, err) = with_token(None);
    assert!(status == Some(1) && err.contains("the server wants a token"), "{err}");
    let (status, err) = with_token(Some("0123456789abcdef0123456789abcdef"));
    assert!(status == Some(1) && err.contains("does not know this token") && !err.contains("0123456789"), "{err}");
    let (status, err) = with_token(words[0].strip_prefix("R3MAP_TOKEN="));
    assert!(status == Some(0), "{err}");
    assert!(same(&directory.path("to"), &bytes));
    // The file that the server keeps is one that a client may have.
    let token = directory.path("state").join("token").display().to_string();
    succeeds(&["info", &address, "--tls-pin", words[4], "--token-file", &token]);
    server.signal(Signal::SIGTERM);
    assert_eq!(server.ended().status, 0);
}
