//! 193: NBD by TLS: our client at nbdkit, nbdinfo and nbdcopy at our server, and whoever would have it otherwise.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use r3map_core::backend::memory::Memory;
use r3map_core::{BackendOptions, Code, Credentials, ExportOptions, ServerOptions};

mod authority;
mod peers;

use authority::{Authority, denied, open};
use peers::{Ours, Peer, all, pattern, run, succeeds};

const SIZE: u64 = (2 << 20) + 512;

/// nbdkit that speaks TLS only, with the certificates of an authority.
fn nbdkit(authority: &Authority, more: &[&str]) -> Peer {
    let certificates = format!("--tls-certificates={}", authority.0.file("made").display());
    let size = SIZE.to_string();
    Peer::nbdkit(&[&["--tls=require", &certificates, "--tls-verify-peer"], more, &["memory", &size]].concat())
}

fn by_tls(peer: &Peer) -> String {
    peer.url().replace("nbd+unix", "nbds+unix")
}

fn ours(authority: &Authority, allow: &[&str]) -> Ours {
    let options = ServerOptions { credentials: authority.server(), ..ServerOptions::default() };
    let allow = allow.iter().map(|name| name.to_string()).collect();
    Ours::with(Arc::new(Memory::new(SIZE).unwrap()), options, &ExportOptions { allow, ..ExportOptions::default() })
}

#[test]
fn what_nbdkit_serves_by_tls_only_is_read_and_written_by_those_who_are_known() {
    let authority = Authority::new();
    let peer = nbdkit(&authority, &[]);
    let expected = pattern(SIZE as usize, 3);
    let backend = open(&by_tls(&peer), &authority.client("client")).unwrap();
    backend.write_at(&expected, 0).unwrap();
    backend.sync().unwrap();
    assert!(all(&backend) == expected);
    let by_pin = BackendOptions { tls_ca: None, tls_pin: Some(authority.pin("server")), ..authority.client("client") };
    assert!(all(&open(&by_tls(&peer), &by_pin).unwrap()) == expected);
    // In plain the server will not have it, and says why.
    let error = denied(&peer.url(), &BackendOptions::default());
    assert!(error.code() == Code::Unsupported && error.message().contains("write nbds://"), "{error}");
    // nbdkit closes without a word.
    let code = denied(&by_tls(&peer), &authority.stranger()).code();
    assert!(matches!(code, Code::NotAuthenticated | Code::Disconnected), "{code:?}");
    let wrong = BackendOptions { tls_pin: Some("00".repeat(32)), ..authority.client("client") };
    assert!(denied(&by_tls(&peer), &wrong).message().contains("another key"));
}

#[test]
fn what_we_serve_is_read_and_written_by_libnbd_with_certificates_and_by_nobody_without() {
    let authority = Authority::new();
    let ours = ours(&authority, &["ann"]);
    let file = ours.file("bytes");
    std::fs::write(&file, pattern(SIZE as usize, 5)).unwrap();
    let made = authority.0.file("made");
    for (scheme, url) in [("nbds", &ours.tcp), ("nbds+unix", &ours.unix)] {
        assert!(url.starts_with(&format!("{scheme}://")), "{url}");
        let with = |url: &str| {
            let joint = if url.contains('?') { '&' } else { '?' };
            format!("{url}{joint}tls-certificates={}", made.display()).replace("127.0.0.1", "localhost")
        };
        assert_eq!(succeeds(&["nbdinfo", "--size", &with(url)]).trim(), SIZE.to_string());
        succeeds(&["nbdcopy", file.to_str().unwrap(), &with(url)]);
        let copy = ours.file("copy");
        succeeds(&["nbdcopy", &with(url), copy.to_str().unwrap()]);
        assert!(std::fs::read(&file).unwrap() == std::fs::read(&copy).unwrap());
        let names = succeeds(&["nbdinfo", "--list", &with(url)]);
        assert!(names.contains("export=\"region\""), "{names}");
        // Ours as well.
        let backend = open(url, &authority.client("client")).unwrap();
        assert!(all(&backend) == std::fs::read(&file).unwrap());
        backend.close().unwrap();
        let plain = url.replace("nbds", "nbd");
        let (status, _, err) = run(&["nbdinfo", "--size", &plain]);
        assert!(status != Some(0) && err.contains("TLS"), "{err}");
    }
    let tcp = ours.tcp.clone();
    assert_eq!(denied(&tcp, &authority.stranger()).code(), Code::NotAuthenticated);
    authority.openssl("ben", Some("ca"), "30");
    assert_eq!(denied(&tcp, &authority.client("ben")).code(), Code::PermissionDenied);
}

#[test]
fn options_that_make_no_sense_with_nbd_are_refused() {
    let authority = Authority::new();
    let token = BackendOptions { token: Some("0123456789abcdef".into()), ..authority.client("client") };
    let error = denied("nbds://127.0.0.1/x", &token);
    assert!(error.code() == Code::InvalidArgument && error.message().contains("NBD knows no tokens"), "{error}");
    let credentials = Credentials { token: Some("0123456789abcdef".into()), ..authority.server() };
    let options = ServerOptions { credentials, protocol: r3map_core::Protocol::Nbd, ..ServerOptions::default() };
    assert_eq!(r3map_core::Server::new(options).err().unwrap().code(), Code::InvalidArgument);
}

const GREETING: &[u8] = b"NBDMAGICIHAVEOPT\0\x03";

/// A server that takes a client's flags and STARTTLS, says this, and shows what it was told then.
fn hostile(answer: &'static [u8]) -> (String, std::thread::JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("nbds://{}/region", listener.local_addr().unwrap());
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(GREETING).unwrap();
        let mut said = [0; 20];
        stream.read_exact(&mut said).unwrap();
        assert_eq!(said[4..], *b"IHAVEOPT\0\0\0\x05\0\0\0\0", "something comes before STARTTLS");
        stream.write_all(answer).unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        rest
    });
    (url, thread)
}

#[test]
fn a_client_says_nothing_in_plain_where_tls_is_taken_away_or_bytes_are_put_before_it() {
    let authority = Authority::new();
    let refuses = b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x05\x80\0\0\x01\0\0\0\0";
    let (url, server) = hostile(refuses);
    let error = denied(&url, &authority.client("client"));
    assert_eq!(error.code(), Code::NotAuthenticated, "{error}");
    assert!(error.message().contains("it speaks no TLS, or somebody in between hides that"), "{error}");
    assert_eq!(server.join().unwrap(), b"");
    // An acknowledgement with an answer behind it that was never asked for.
    let injects = b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x05\0\0\0\x01\0\0\0\0\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x07";
    let (url, server) = hostile(injects);
    let error = denied(&url, &authority.client("client"));
    // Found at once, or by TLS, which takes those bytes for its own.
    assert!(matches!(error.code(), Code::NotAuthenticated | Code::Corrupt), "{error}");
    let rest = server.join().unwrap();
    assert!(rest.is_empty() || rest[0] == 0x16 || rest[0] == 0x15, "{rest:?}");
    // A server so old that it knows no options.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("nbds://{}/region", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"NBDMAGICIHAVEOPT\0\0").unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        rest
    });
    assert_eq!(denied(&url, &authority.client("client")).code(), Code::NotAuthenticated);
    assert_eq!(server.join().unwrap(), b"\0\0\0\0");
}

#[test]
fn a_server_answers_nothing_before_tls_and_drops_what_was_put_before_it() {
    let authority = Authority::new();
    let ours = ours(&authority, &[]);
    let address = ours.tcp.trim_start_matches("nbds://").split('/').next().unwrap().to_owned();
    let begin = || {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(peers::SOON)).unwrap();
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).unwrap();
        assert_eq!(greeting, *GREETING);
        stream.write_all(&3u32.to_be_bytes()).unwrap();
        stream
    };
    let option =
        |option: u8, data: &[u8]| [b"IHAVEOPT\0\0\0", &[option][..], &(data.len() as u32).to_be_bytes(), data].concat();
    let mut stream = begin();
    // LIST, INFO and GO of what is there, GO of what is not, structured replies, metadata: all the same answer.
    let region = b"\0\0\0\x06region\0\0";
    for (number, data) in
        [(3, &b""[..]), (6, region), (7, region), (7, b"\0\0\0\x02no\0\0"), (8, b""), (10, b""), (99, b"x")]
    {
        stream.write_all(&option(number, data)).unwrap();
        let mut head = [0; 20];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(head[8..16], [&[0, 0, 0, number][..], &[0x80, 0, 0, 5]].concat(), "option {number}");
        let mut words = vec![0; u32::from_be_bytes(head[16..].try_into().unwrap()) as usize];
        stream.read_exact(&mut words).unwrap();
        assert!(!String::from_utf8_lossy(&words).contains("region"));
    }
    let ends = |mut stream: TcpStream| {
        let mut rest = Vec::new();
        // A reset is an end as well.
        let _ = stream.read_to_end(&mut rest);
        rest
    };
    // The old option ends it.
    stream.write_all(&option(1, b"region")).unwrap();
    assert_eq!(ends(stream), b"");
    // What comes behind STARTTLS in plain is not answered, in TLS or out of it.
    let mut stream = begin();
    stream.write_all(&[option(5, b""), option(7, region)].concat()).unwrap();
    let rest = ends(stream);
    assert!(!String::from_utf8_lossy(&rest).contains("region") && rest.len() <= 64, "{rest:?}");
    // All that is served is untouched, and still there for those who are known.
    assert!(all(&open(&ours.tcp, &authority.client("client")).unwrap()).iter().all(|byte| *byte == 0));
}
