//! 191: tokens: a client that shows no certificate is known by a secret that is said only inside verified TLS; and a
//! server that is given nothing makes what it needs.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::Arc;

use r3map_core::backend::memory::Memory;
use r3map_core::server::named;
use r3map_core::wire::greeting::decode_error;
use r3map_core::wire::{Header, Hello, Kind};
use r3map_core::{
    BackendOptions, Code, Credentials, ExportOptions, Leecher, Mount, MountOptions, SeedOptions, Server, ServerOptions,
    log,
};

mod authority;
mod peers;

use authority::{Authority, denied, open};
use peers::Directory;

const ANN: &str = "ann-0123456789abcdef";
const BEN: &str = "ben-0123456789abcdef";

fn serve(credentials: Credentials, address: &str) -> (Server, String) {
    let server = Server::new(ServerOptions { credentials, ..ServerOptions::default() }).unwrap();
    let memory = Arc::new(Memory::new(65536).unwrap());
    server.export("open", memory.clone(), &ExportOptions::default()).unwrap();
    let allow = vec!["ann".to_owned()];
    server.export("ann's", memory, &ExportOptions { allow, ..ExportOptions::default() }).unwrap();
    let url = server.listen(address).unwrap();
    (server, url)
}

fn with_token(options: BackendOptions, token: &str) -> BackendOptions {
    BackendOptions { token: Some(token.into()), ..options }
}

/// What a client is told by the line that a server gives.
fn by_line(line: &str) -> (BackendOptions, String) {
    let words: Vec<&str> = line.split(' ').collect();
    let [token, "r3map", "mount", "--tls-pin", pin, url] = words[..] else { panic!("{line}") };
    let token = token.strip_prefix("R3MAP_TOKEN=").unwrap();
    let options = BackendOptions { tls_pin: Some(pin.to_owned()), ..BackendOptions::default() };
    (with_token(options, token), url.to_owned())
}

#[test]
fn a_client_is_known_by_its_token_and_exports_are_for_the_names_of_tokens() {
    let authority = Authority::new();
    let file = authority.file("tokens");
    std::fs::write(&file, format!("# of friends\n\nann:{ANN}\nben:{BEN}\n")).unwrap();
    let credentials = Credentials { tls_ca: None, token_file: Some(file.clone()), ..authority.server() };
    let (_server, url) = serve(credentials, "127.0.0.1:0");
    let stranger = authority.stranger();
    let ann = open(&named(&url, "ann's"), &with_token(stranger.clone(), ANN)).unwrap();
    ann.write_at(b"hello", 0).unwrap();
    open(&named(&url, "open"), &with_token(stranger.clone(), BEN)).unwrap();
    let error = denied(&named(&url, "ann's"), &with_token(stranger.clone(), BEN));
    assert_eq!(error.code(), Code::PermissionDenied, "{error}");
    // What a client without a token learns is the same, whatever it asks for.
    for name in ["open", "ann's", "nothing"] {
        let error = denied(&named(&url, name), &stranger);
        assert_eq!(error.code(), Code::NotAuthenticated, "{error}");
        assert!(error.message().contains("wants a token"), "{error}");
        for wrong in [&ANN[..ANN.len() - 1], &format!("{ANN}0"), &ANN.to_uppercase(), "", &"x".repeat(1024)] {
            let error = denied(&named(&url, name), &with_token(stranger.clone(), wrong));
            assert_eq!(error.code(), Code::NotAuthenticated, "{error}");
            assert!(error.message().contains("does not know this token"), "{error}");
            assert!(wrong.is_empty() || !error.message().contains(wrong), "{error}");
        }
    }
    // Ben's token is taken back, cid gets one; nobody restarts anything.
    std::fs::write(&file, format!("ann:{ANN}\ncid:cid-0123456789abcdef\n")).unwrap();
    open(&named(&url, "open"), &with_token(stranger.clone(), "cid-0123456789abcdef")).unwrap();
    assert_eq!(denied(&named(&url, "open"), &with_token(stranger, BEN)).code(), Code::NotAuthenticated);
}

/// What the server answers to this inside TLS, before it ends the connection.
fn said_by_openssl(authority: &Authority, url: &str, bytes: &[u8]) -> Vec<u8> {
    let mut client = Command::new("openssl")
        .args(["s_client", "-quiet", "-connect", url.trim_start_matches("r3maps://"), "-CAfile"])
        .arg(authority.file("ca-cert"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl: see scripts/setup");
    let mut input = client.stdin.take().unwrap();
    input.write_all(bytes).unwrap();
    // Its input stays open, so that it is the server who ends it.
    let mut answer = Vec::new();
    client.stdout.take().unwrap().read_to_end(&mut answer).unwrap();
    drop(input);
    client.wait().unwrap();
    answer
}

#[test]
fn whatever_is_said_without_a_token_is_answered_by_not_authenticated_alone() {
    let authority = Authority::new();
    let credentials = Credentials { tls_ca: None, token: Some(ANN.into()), ..authority.server() };
    let (_server, url) = serve(credentials, "127.0.0.1:0");
    let ann = open(&named(&url, "open"), &with_token(authority.stranger(), ANN)).unwrap();
    ann.write_at(b"untouched", 0).unwrap();
    let hello = |export: &str| {
        let hello = Hello {
            versions: (1, 1),
            features: 0,
            session: None,
            client: [7; 16],
            generation: 1,
            role: 0,
            write: true,
            export: export.to_owned(),
            display: "stranger".to_owned(),
        };
        let payload = hello.encode();
        [&Header::new(Kind::Hello, 1).with_payload(&payload).encode()[..], &payload].concat()
    };
    let frame = |kind| Header::new(kind, 1).about(0, 4096).encode().to_vec();
    let frames = [Kind::Track, Kind::Sync, Kind::Close, Kind::Zero, Kind::Claim, Kind::Read].map(frame);
    let long = [b'x'; 200].to_vec();
    let mut answers = Vec::new();
    for bytes in frames.into_iter().chain([hello("open"), hello("nothing"), hello("../../etc/passwd"), long]) {
        let answer = said_by_openssl(&authority, &url, &bytes);
        let header = Header::decode(answer.first_chunk().unwrap()).unwrap();
        let error = decode_error(&header, &answer[48..]);
        assert_eq!((header.kind, error.code()), (Kind::Error, Code::NotAuthenticated), "{error}");
        answers.push(answer);
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "answers differ by what was asked");
    let mut found = [0; 9];
    ann.read_at(&mut found, 0).unwrap();
    assert_eq!(&found, b"untouched");
}

#[test]
fn a_certificate_or_a_token_will_do_where_the_server_takes_both() {
    let authority = Authority::new();
    let (_server, url) = serve(Credentials { token: Some(BEN.into()), ..authority.server() }, "127.0.0.1:0");
    open(&named(&url, "ann's"), &authority.client("client")).unwrap();
    open(&named(&url, "open"), &with_token(authority.stranger(), BEN)).unwrap();
    // The option's token is of "client", for whom this one is not.
    let error = denied(&named(&url, "ann's"), &with_token(authority.stranger(), BEN));
    assert_eq!(error.code(), Code::PermissionDenied, "{error}");
    let error = denied(&named(&url, "open"), &authority.stranger());
    assert!(error.message().contains("a certificate or a token"), "{error}");
    // A token that is wrong is not made good by a certificate.
    let error = denied(&named(&url, "open"), &with_token(authority.client("client"), ANN));
    assert_eq!(error.code(), Code::NotAuthenticated, "{error}");
}

#[test]
fn a_token_is_not_sent_in_plain_nor_to_a_server_that_is_not_known() {
    let authority = Authority::new();
    let (_server, url) = serve(Credentials { token: Some(BEN.into()), ..authority.server() }, "127.0.0.1:0");
    for scheme in ["r3map", "r3maps"] {
        let url = named(&url.replace("r3maps", scheme), "open");
        let error = denied(&url, &with_token(BackendOptions::default(), BEN));
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    }
    let pin = Some("00".repeat(32));
    let error = denied(&named(&url, "open"), &BackendOptions { tls_pin: pin, ..with_token(Default::default(), BEN) });
    assert!(error.message().contains("another key"), "{error}");
}

#[test]
fn credentials_that_would_let_nobody_or_anybody_in_are_refused() {
    let authority = Authority::new();
    let file = authority.file("tokens");
    let refused = |credentials: Credentials, words: &str| {
        let error = Server::new(ServerOptions { credentials, ..ServerOptions::default() }).err().unwrap();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        assert!(error.message().contains(words) && !error.message().contains("secret"), "{error}");
    };
    refused(Credentials { tls_ca: None, ..authority.server() }, "nothing says by what to know clients");
    refused(Credentials { tls_key: None, ..authority.server() }, "needs both");
    refused(
        Credentials { tls_key: Some(authority.file("client-key")), ..authority.server() },
        "do not belong together",
    );
    refused(Credentials { token: Some("secret".into()), ..authority.server() }, "could be guessed");
    for (text, words) in [
        ("ann", "line 1: write NAME:TOKEN"),
        ("\n:secret-0123456789abcdef", "line 2: write NAME:TOKEN"),
        ("ann:secret", "line 1: the token of \"ann\" has fewer than 16 bytes"),
        ("ann:secret-0123456789abcdef\nann:secret-0123456789abcdef", "line 2: the token of \"ann\" is named twice"),
    ] {
        std::fs::write(&file, text).unwrap();
        refused(Credentials { token_file: Some(file.clone()), ..authority.server() }, words);
    }
    refused(Credentials { tls_cert: Some(file), ..authority.server() }, "no certificates in PEM");
}

#[test]
fn a_server_beyond_this_host_that_is_given_nothing_makes_what_it_needs_and_keeps_it() {
    let directory = Directory::new();
    let state = directory.file("state");
    let credentials = Credentials { state: Some(state.clone()), ..Credentials::default() };
    let mut lines = Vec::new();
    for _ in 0..2 {
        let (server, url) = serve(credentials.clone(), "0.0.0.0:0");
        assert!(url.starts_with("r3maps://0.0.0.0:"), "{url}");
        let url = named(&url.replace("0.0.0.0", "127.0.0.1"), "open");
        let line = server.client_line(&url).unwrap();
        let (options, there) = by_line(&line);
        assert_eq!(there, url);
        let backend = open(&url, &options).unwrap();
        backend.write_at(b"by a line", 0).unwrap();
        backend.close().unwrap();
        let guessed = BackendOptions { token: Some("0".repeat(32).into()), ..options.clone() };
        assert_eq!(denied(&url, &guessed).code(), Code::NotAuthenticated);
        assert_eq!(denied(&url.replace("r3maps", "r3map"), &Default::default()).code(), Code::NotAuthenticated);
        lines.push(line.replace(&url, ""));
        server.close().unwrap();
    }
    assert_eq!(lines[0], lines[1], "the next life of the server is another");
    for file in ["server-key.pem", "server-cert.pem", "token"] {
        let mode = std::fs::metadata(state.join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    // A seeder that listens by itself is reached in the same way.
    let mount = Mount::options().open_url("memory:?size=65536", &BackendOptions::default()).unwrap();
    let options = SeedOptions { credentials: credentials.clone(), ..SeedOptions::default() };
    let seeder = mount.seed("0.0.0.0:0", &options).unwrap();
    let line = seeder.client_line().unwrap().replace(" leech ", " mount ");
    let (options, _) = by_line(line.strip_suffix(" LOCAL").unwrap());
    let url = seeder.url().unwrap().replace("0.0.0.0", "127.0.0.1");
    let leecher = Leecher::open(&url, "memory:", MountOptions::default(), &options).unwrap();
    leecher.close().unwrap();
    seeder.close().unwrap();
    // On this host nothing of it is needed.
    let (server, url) = serve(credentials, "127.0.0.1:0");
    assert!(url.starts_with("r3map://") && server.client_line(&url).is_none(), "{url}");
}

#[test]
fn secrets_stand_in_no_debug_output_and_no_log() {
    let authority = Authority::new();
    let credentials = Credentials { token: Some(ANN.into()), ..authority.server() };
    let options = with_token(authority.stranger(), ANN);
    for shown in [format!("{credentials:?}"), format!("{options:?}")] {
        assert!(shown.contains("(secret)") && !shown.contains(ANN), "{shown}");
    }
    let path = authority.file("log");
    log::to(std::fs::File::create(&path).unwrap().as_fd(), log::Level::Trace).unwrap();
    let (_server, url) = serve(credentials, "127.0.0.1:0");
    open(&named(&url, "open"), &options).unwrap().close().unwrap();
    denied(&named(&url, "open"), &with_token(authority.stranger(), BEN));
    log::off();
    let logged = std::fs::read_to_string(&path).unwrap();
    assert!(!logged.contains(ANN) && !logged.contains(BEN), "{logged}");
}
