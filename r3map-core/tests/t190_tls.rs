//! 190: the native wire by TLS: who is let in, who is not and why, against openssl as a peer that knows nothing of us.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use r3map_core::backend::memory::Memory;
use r3map_core::migration::seeder::SeedState;
use r3map_core::server::named;
use r3map_core::{
    Backend, BackendOptions, Code, Credentials, ExportOptions, Leecher, Mount, MountOptions, SeedOptions, Server,
    ServerOptions,
};

mod authority;
mod peers;

use authority::{Authority, denied, open, replace};
use peers::{all, eventually, pattern};

const SIZE: u64 = (3 << 20) + 77;

fn serve(credentials: Credentials, allow: &[&str]) -> (Server, String) {
    let server = Server::new(ServerOptions { credentials, ..ServerOptions::default() }).unwrap();
    let memory = Arc::new(Memory::new(SIZE).unwrap());
    let allow = allow.iter().map(|name| name.to_string()).collect();
    server.export("region", memory, &ExportOptions { allow, ..ExportOptions::default() }).unwrap();
    let url = server.listen("127.0.0.1:0").unwrap();
    assert!(url.starts_with("r3maps://127.0.0.1:"), "{url}");
    (server, named(&url, "region"))
}

fn address(url: &str) -> String {
    url.trim_start_matches("r3maps://").split('/').next().unwrap().to_owned()
}

#[track_caller]
fn says(error: &r3map_core::Error, code: Code, words: &str) {
    assert_eq!(error.code(), code, "{error}");
    assert!(error.message().contains(words), "{error}\nlacks {words:?}");
}

#[test]
fn bytes_go_both_ways_between_sides_that_know_each_other_by_certificates_or_a_pin() {
    let authority = Authority::new();
    let (_server, url) = serve(authority.server(), &["ann"]);
    let by_pin = BackendOptions { tls_ca: None, tls_pin: Some(authority.pin("server")), ..authority.client("client") };
    let both = BackendOptions { tls_ca: Some(authority.file("ca-cert")), ..by_pin.clone() };
    for (seed, options) in [authority.client("client"), by_pin, both].iter().enumerate() {
        let backend = open(&url, options).unwrap();
        let expected = pattern(SIZE as usize, seed as u64);
        backend.write_at(&expected, 0).unwrap();
        backend.sync().unwrap();
        assert!(all(&backend) == expected);
        assert_eq!(backend.read_at(&mut [0], SIZE).unwrap_err().code(), Code::OutOfRange);
        backend.close().unwrap();
    }
    // By name as well as by address.
    open(&url.replace("127.0.0.1", "localhost"), &authority.client("client")).unwrap();
}

#[test]
fn a_region_moves_by_tls_while_it_is_written() {
    let authority = Authority::new();
    let store: Arc<dyn Backend> = Arc::new(Memory::new(SIZE).unwrap());
    let mount = Mount::options().open(store).unwrap();
    let options = SeedOptions {
        credentials: authority.server(),
        allow: vec!["ann".to_owned()],
        cache_trust: true,
        ..SeedOptions::default()
    };
    let seeder = mount.seed("127.0.0.1:0", &options).unwrap();
    let url = seeder.url().unwrap().to_owned();
    let leech = |who: BackendOptions| Leecher::open(&url, "memory:", MountOptions::default(), &who);
    says(&leech(authority.stranger()).err().unwrap(), Code::NotAuthenticated, "it wants a certificate");
    let leecher = leech(authority.client("client")).unwrap();
    let expected = pattern(SIZE as usize, 9);
    mount.write_at(&expected, 0).unwrap();
    let app = std::thread::spawn(move || {
        let mut after = 0;
        loop {
            let event = seeder.next(after, Duration::from_secs(60)).unwrap();
            after = event.sequence;
            match event.state {
                SeedState::Suspending => seeder.suspended(after, b"payload").unwrap(),
                SeedState::Drained => return seeder,
                _ => {}
            }
        }
    });
    let moved = leecher.finalize().unwrap();
    assert_eq!(moved.payload(), b"payload");
    let mut found = vec![0; SIZE as usize];
    moved.read_at(&mut found, 0).unwrap();
    assert!(found == expected);
    app.join().unwrap().close().unwrap();
    moved.close().unwrap();
}

#[test]
fn each_wrong_server_is_refused_by_an_error_that_says_what_is_wrong() {
    let authority = Authority::new();
    authority.openssl("good", Some("ca"), "30");
    for (credentials, words) in authority.wrong_servers() {
        let (_server, url) = serve(credentials, &[]);
        says(&denied(&url, &authority.client("client")), Code::NotAuthenticated, words);
    }
    let (_server, url) = serve(authority.server(), &[]);
    let other = authority.pin("good");
    let wrong_pin = BackendOptions { tls_pin: Some(other), ..authority.client("client") };
    says(&denied(&url, &wrong_pin), Code::NotAuthenticated, "another key than tls_pin says");
    says(&denied(&url, &BackendOptions::default()), Code::InvalidArgument, "give tls_ca, or tls_pin");
}

#[test]
fn a_server_reached_by_a_name_it_has_no_certificate_for_is_refused() {
    let authority = Authority::new();
    let (server, _) = serve(authority.server(), &[]);
    let port = server.listen("127.0.0.2:0").unwrap();
    let error = denied(&named(&port, "region"), &authority.client("client"));
    says(&error, Code::NotAuthenticated, "is for another name than it was reached by");
}

#[test]
fn each_wrong_client_is_refused_before_anything_changes_and_told_why() {
    let authority = Authority::new();
    let (_server, url) = serve(authority.server(), &[]);
    let writer = open(&url, &authority.client("client")).unwrap();
    writer.write_at(b"first", 0).unwrap();
    for (options, words) in authority.wrong_clients() {
        for export in ["region", "nothing", "../../etc/passwd"] {
            // Whether there is such an export is not for them to know.
            let error = denied(&url.replace("region", export), &options);
            says(&error, Code::NotAuthenticated, words);
        }
    }
    let mut found = [0; 5];
    writer.read_at(&mut found, 0).unwrap();
    assert_eq!(&found, b"first");
    // The lease stayed with its holder too.
    writer.write_at(b"again", 0).unwrap();
}

#[test]
fn an_export_is_for_those_it_names() {
    let authority = Authority::new();
    authority.openssl("ben", Some("ca"), "30");
    let (_server, url) = serve(authority.server(), &["cid", "ann"]);
    open(&url, &authority.client("client")).unwrap();
    says(&denied(&url, &authority.client("ben")), Code::PermissionDenied, "is not for this client");
}

#[test]
fn plain_and_tls_do_not_meet_and_both_sides_are_told() {
    let authority = Authority::new();
    let (_server, url) = serve(authority.server(), &[]);
    let plain = url.replace("r3maps", "r3map");
    says(&denied(&plain, &BackendOptions::default()), Code::NotAuthenticated, "this server speaks TLS only");
    let server = Server::new(ServerOptions::default()).unwrap();
    let url = server.listen("127.0.0.1:0").unwrap().replace("r3map", "r3maps");
    let error = denied(&named(&url, "region"), &authority.client("client"));
    says(&error, Code::NotAuthenticated, "the server speaks no TLS");
}

#[test]
fn openssl_gets_in_by_tls_1_3_and_a_certificate_and_in_no_other_way() {
    let authority = Authority::new();
    let (_server, url) = serve(authority.server(), &[]);
    let connect = |more: &[&str]| {
        let ca = authority.file("ca-cert");
        let base =
            ["openssl", "s_client", "-connect", &address(&url), "-CAfile", ca.to_str().unwrap()].map(str::to_owned);
        let more = more.iter().map(|word| word.to_string());
        let words: Vec<String> = base.into_iter().chain(more).collect();
        peers::run(&words.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let (cert, key) = (authority.file("client-cert"), authority.file("client-key"));
    let ann = ["-cert", cert.to_str().unwrap(), "-key", key.to_str().unwrap()];
    let (_, out, err) = connect(&[&ann[..], &["-alpn", "r3map/1", "-verify_return_error"]].concat());
    assert!(out.contains("Verify return code: 0 (ok)") && out.contains("TLSv1.3"), "{out}{err}");
    assert!(out.contains("ALPN protocol: r3map/1") && !err.contains("alert"), "{out}{err}");
    let (status, out, err) = connect(&[&ann[..], &["-tls1_2"]].concat());
    assert!(status != Some(0) && err.contains("alert protocol version"), "{out}{err}");
    let (status, out, err) = connect(&[&ann[..], &["-alpn", "http/1.1"]].concat());
    assert!(status != Some(0) && err.contains("alert no application protocol"), "{out}{err}");
}

#[test]
fn new_certificates_count_without_a_restart_and_broken_ones_do_not() {
    let authority = Authority::new();
    authority.openssl("good", Some("ca"), "30");
    let (cert, key) = (authority.file("server-cert"), authority.file("server-key"));
    let (_server, url) = serve(authority.server(), &[]);
    let pinned =
        |pin: &str| BackendOptions { tls_ca: None, tls_pin: Some(pin.to_owned()), ..authority.client("client") };
    let (old, new) = (authority.pin("server"), authority.pin("good"));
    let kept = open(&url, &pinned(&old)).unwrap();
    // A certificate whose key is still to come is no reason to turn anybody away.
    replace(&authority.file("good-cert"), &cert);
    open(&url, &pinned(&old)).unwrap();
    replace(&authority.file("good-key"), &key);
    open(&url, &pinned(&new)).unwrap();
    says(&denied(&url, &pinned(&old)), Code::NotAuthenticated, "another key than tls_pin says");
    // An authority is another one from the next connection on; who is in stays.
    authority.openssl("other", None, "30");
    replace(&authority.file("other-cert"), &authority.file("ca-cert"));
    assert_eq!(denied(&url, &pinned(&new)).code(), Code::NotAuthenticated);
    kept.read_at(&mut [0; 100], 0).unwrap();
}

#[test]
fn connections_that_never_say_who_they_are_keep_nobody_out() {
    let authority = Authority::new();
    let options = ServerOptions { credentials: authority.server(), max_connections: 8, ..ServerOptions::default() };
    let server = Server::new(options).unwrap();
    server.export("region", Arc::new(Memory::new(4096).unwrap()), &ExportOptions::default()).unwrap();
    let url = named(&server.listen("127.0.0.1:0").unwrap(), "region");
    let ann = open(&url, &authority.client("client")).unwrap();
    let mut idle: Vec<TcpStream> = Vec::new();
    for round in 0..10_000 {
        let mut stream = TcpStream::connect(address(&url)).unwrap();
        // Some stop within what they say first.
        if round % 3 == 0 {
            let _ = stream.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1]);
        }
        idle.push(stream);
        if idle.len() > 200 {
            idle.drain(..100);
        }
        if round % 2_500 == 0 {
            eventually("another client gets in", || match open(&url, &authority.client("client")) {
                Ok(backend) => backend.close().is_ok(),
                Err(error) => {
                    assert!(matches!(error.code(), Code::Busy | Code::Disconnected | Code::Timeout), "{error}");
                    false
                }
            });
        }
    }
    ann.write_at(b"still here", 0).unwrap();
    // A server that closes waits for none of them.
    server.close().unwrap();
    for stream in &mut idle {
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let read = stream.read(&mut [0; 4096]).map_err(|error| error.kind());
        assert_ne!(read, Err(std::io::ErrorKind::WouldBlock), "left open");
    }
}
