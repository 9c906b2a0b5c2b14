//! 194: gRPC by TLS: who is let in, who is not and why, and any gRPC peer's TLS against ours, both ways.

use std::process::Command;
use std::sync::Arc;

use r3map_core::backend::memory::Memory;
use r3map_core::server::located;
use r3map_core::{BackendOptions, Code, Credentials, Error, ExportOptions, Protocol, Server, ServerOptions};

mod authority;
mod backends;
mod peers;
mod rpc;
#[path = "../../tests/skip.rs"]
mod skip;

use authority::{Authority, denied, open};
use rpc::{ODD, Peer, interop, python, succeeds};

const ANN: &str = "ann-0123456789abcdef";
const BEN: &str = "ben-0123456789abcdef";

fn options(credentials: Credentials) -> ServerOptions {
    ServerOptions { protocol: Protocol::Grpc, credentials, ..ServerOptions::default() }
}

fn serve_at(address: &str, credentials: Credentials, allow: &[&str]) -> (Server, String) {
    let server = Server::new(options(credentials)).unwrap();
    let allow = allow.iter().map(|name| name.to_string()).collect();
    let export = ExportOptions { allow, ..ExportOptions::default() };
    server.export("region", Arc::new(Memory::new(ODD).unwrap()), &export).unwrap();
    let url = located(&server.listen(address).unwrap(), "region", ODD);
    assert!(url.starts_with("grpcs://"), "{url}");
    (server, url)
}

fn serve(credentials: Credentials, allow: &[&str]) -> (Server, String) {
    serve_at("127.0.0.1:0", credentials, allow)
}

fn with_token(options: BackendOptions, token: &str) -> BackendOptions {
    BackendOptions { token: Some(token.into()), ..options }
}

#[track_caller]
fn says(error: &Error, code: Code, words: &str) {
    assert_eq!(error.code(), code, "{error}");
    assert!(error.message().contains(words), "{error}\nlacks {words:?}");
}

#[test]
fn bytes_go_both_ways_between_sides_that_know_each_other() {
    let authority = Authority::new();
    let (_server, url) = serve(authority.server(), &["ann"]);
    let ann = authority.client("client");
    rpc::keeps_what_is_written_by(&url, &ann);
    let by_pin = BackendOptions { tls_ca: None, tls_pin: Some(authority.pin("server")), ..ann.clone() };
    open(&url, &by_pin).unwrap();
    open(&url.replace("127.0.0.1", "localhost"), &ann).unwrap();
    // An export is for those it names.
    authority.openssl("ben", Some("ca"), "30");
    says(&denied(&url, &authority.client("ben")), Code::PermissionDenied, "is not for this client");
}

#[test]
fn each_wrong_server_is_refused_by_an_error_that_says_what_is_wrong() {
    let authority = Authority::new();
    for (credentials, words) in authority.wrong_servers() {
        let (_server, url) = serve(credentials, &[]);
        says(&denied(&url, &authority.client("client")), Code::NotAuthenticated, words);
    }
    let (_server, url) = serve(authority.server(), &[]);
    let wrong_pin = BackendOptions { tls_pin: Some(authority.pin("foreign")), ..authority.client("client") };
    says(&denied(&url, &wrong_pin), Code::NotAuthenticated, "another key than tls_pin says");
    says(&denied(&url, &BackendOptions::default()), Code::InvalidArgument, "give tls_ca, or tls_pin");
}

#[test]
fn each_wrong_client_is_refused_and_told_why() {
    let authority = Authority::new();
    let (_server, url) = serve(authority.server(), &[]);
    let writer = open(&url, &authority.client("client")).unwrap();
    writer.write_at(b"first", 0).unwrap();
    for (options, words) in authority.wrong_clients() {
        says(&denied(&url, &options), Code::NotAuthenticated, words);
    }
    // The lease stayed with its holder.
    writer.write_at(b"again", 0).unwrap();
}

#[test]
fn a_client_is_known_by_its_token_and_an_export_is_for_the_names_of_tokens() {
    let authority = Authority::new();
    let file = authority.file("tokens");
    std::fs::write(&file, format!("ann:{ANN}\nben:{BEN}\n")).unwrap();
    let credentials = Credentials { tls_ca: None, token_file: Some(file), ..authority.server() };
    let (_server, url) = serve(credentials, &["ann"]);
    let stranger = authority.stranger();
    rpc::keeps_what_is_written_by(&url, &with_token(stranger.clone(), ANN));
    says(&denied(&url, &with_token(stranger.clone(), BEN)), Code::PermissionDenied, "is not for this client");
    says(&denied(&url, &stranger), Code::NotAuthenticated, "wants a token");
    for wrong in [&ANN[..ANN.len() - 1], &format!("{ANN}0"), &"x".repeat(1024)] {
        let error = denied(&url, &with_token(stranger.clone(), wrong));
        says(&error, Code::NotAuthenticated, "does not know this token");
        assert!(!error.message().contains(wrong), "{error}");
    }
    says(&denied(&url, &with_token(stranger, "tök\u{1}en-0123456789")), Code::InvalidArgument, "visible ASCII");
}

#[test]
fn plain_and_tls_do_not_meet_and_off_loopback_a_server_speaks_tls() {
    let authority = Authority::new();
    let (_server, url) = serve(authority.server(), &[]);
    assert!(denied(&url.replace("grpcs", "grpc"), &BackendOptions::default()).message().contains("grpc"));
    let plain = Server::new(options(Credentials::default())).unwrap();
    plain.export("region", Arc::new(Memory::new(ODD).unwrap()), &ExportOptions::default()).unwrap();
    let url = located(&plain.listen("127.0.0.1:0").unwrap(), "region", ODD).replace("grpc:", "grpcs:");
    says(&denied(&url, &authority.client("client")), Code::Corrupt, "speaks no TLS");
    // A token is not for a wire that others read.
    let error = denied(&url.replace("grpcs:", "grpc:"), &with_token(BackendOptions::default(), ANN));
    says(&error, Code::InvalidArgument, "needs TLS");
    // A client goes to no other host in plain, and a server that is given nothing makes what it needs.
    let elsewhere = "grpc://192.0.2.1:7?size=1";
    says(&denied(elsewhere, &BackendOptions::default()), Code::PermissionDenied, "not loopback");
    let state = Some(authority.file("state"));
    let (server, url) = serve_at("0.0.0.0:0", Credentials { state, ..Credentials::default() }, &[]);
    let line = server.client_line(&url).unwrap();
    let words: Vec<&str> = line.split(' ').collect();
    let [token, "r3map", "mount", "--tls-pin", pin, _] = words[..] else { panic!("{line}") };
    let known = BackendOptions { tls_pin: Some(pin.to_owned()), ..BackendOptions::default() };
    let here = url.replace("0.0.0.0", "127.0.0.1");
    open(&here, &with_token(known.clone(), token.strip_prefix("R3MAP_TOKEN=").unwrap())).unwrap();
    says(&denied(&here, &known), Code::NotAuthenticated, "wants a token");
}

#[test]
fn grpcio_meets_us_by_tls_both_ways_with_certificates_and_with_tokens() {
    let python = match python() {
        Ok(python) => python,
        Err(why) => return skip::skip(why),
    };
    let authority = Authority::new();
    let peer = |what: &[&str], who: &str| {
        let mut command = Command::new(&python);
        command
            .arg(interop().join("grpc_peer.py"))
            .args(what)
            .env("R3MAP_PEER_TLS", authority.file("x").parent().unwrap());
        command.env("R3MAP_PEER_NAME", who);
        command
    };
    let size = ODD.to_string();
    let address = |url: &str| url.replace("grpcs://", "").split('?').next().unwrap().to_owned();
    let (server, url) = serve(authority.server(), &["ann"]);
    succeeds(&mut peer(&["client", &address(&url), &size], "client"));
    succeeds(&mut peer(&["denied", &address(&url), "UNAVAILABLE"], ""));
    server.close().unwrap();
    let credentials = Credentials { tls_ca: None, token: Some(ANN.into()), ..authority.server() };
    let (_server, url) = serve(credentials, &[]);
    succeeds(peer(&["client", &address(&url), &size], "").env("R3MAP_PEER_TOKEN", ANN));
    succeeds(peer(&["denied", &address(&url), "UNAUTHENTICATED"], "").env("R3MAP_PEER_TOKEN", BEN));
    succeeds(&mut peer(&["denied", &address(&url), "UNAUTHENTICATED"], ""));
    let theirs = Peer::start(&mut peer(&["server", &size], "server"));
    let url = format!("grpcs://localhost:{}?size={ODD}", theirs.port);
    rpc::keeps_what_is_written_by(&url, &authority.client("client"));
    // It may hang up without a word of why.
    let error = denied(&url, &authority.stranger());
    assert!(matches!(error.code(), Code::NotAuthenticated | Code::Disconnected), "{error}");
}
