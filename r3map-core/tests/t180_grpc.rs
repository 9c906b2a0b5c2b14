//! 180: any gRPC peer of the published protocol mounts and serves.

#![cfg(feature = "grpc")]

use std::process::Command;

use r3map_core::{BackendOptions, Code, ExportOptions, Mode, Mount, Protocol};

mod backends;
mod rpc;
#[path = "../../tests/skip.rs"]
mod skip;

use backends::{Scratch, read};
use rpc::{ODD, Ours, Peer, go_peer, interop, memory, open, python, refused, succeeds};

const GRPC: Protocol = Protocol::Grpc;

#[test]
fn what_is_written_over_grpc_is_kept() {
    let ours = Ours::new(GRPC, memory(ODD));
    rpc::keeps_what_is_written(&ours.tcp);
    rpc::keeps_what_is_written(&format!("{}&chunk=4KiB&max_message=64KiB", ours.unix));
    let scratch = Scratch::new();
    let file = open(&format!("file://{}/disk?size={ODD}", scratch.path().display())).unwrap();
    rpc::keeps_what_is_written(&Ours::new(GRPC, file).tcp);
    // A server whose own store is far away.
    rpc::keeps_what_is_written(&Ours::new(GRPC, open(&ours.tcp).unwrap()).tcp);
}

#[test]
fn thousands_of_requests_are_under_way_over_grpc() {
    rpc::answers_thousands_at_once(&Ours::new(GRPC, memory(4 << 20)).tcp);
}

#[test]
fn an_export_over_grpc_has_one_writer() {
    rpc::has_one_writer(GRPC);
}

#[test]
fn a_grpc_server_that_comes_back_is_used_again() {
    rpc::comes_back(GRPC);
}

#[test]
fn what_cannot_be_is_refused_over_grpc() {
    rpc::refuses_what_cannot_be(GRPC);
    // A server that speaks something else.
    let nbd = Ours::new(Protocol::Nbd, memory(ODD));
    let address = nbd.tcp.split("://").nth(1).unwrap().split('/').next().unwrap();
    assert_eq!(refused(&format!("grpc://{address}?size=1")).code(), Code::Disconnected);
}

#[test]
fn a_mount_over_grpc_pulls_and_pushes() {
    let store = memory(2 << 20);
    store.write_at(&[7; 5000], 1 << 20).unwrap();
    let ours = Ours::new(GRPC, store.clone());
    let mount = Mount::options().mode(Mode::Managed).open_url(&ours.tcp, &BackendOptions::default()).unwrap();
    assert_eq!(read(&(std::sync::Arc::new(mount.clone()) as _), 1 << 20, 5000), [7; 5000]);
    mount.write_at(&[9; 70_000], 12_345).unwrap();
    mount.sync().unwrap();
    assert_eq!(read(&store, 12_345, 70_000), [9; 70_000]);
    mount.close().unwrap();
}

#[test]
fn grpcio_reads_and_writes_what_we_serve() {
    let python = match python() {
        Ok(python) => python,
        Err(why) => return skip::skip(why),
    };
    let peer = |what: &[&str]| {
        let mut command = Command::new(&python);
        command.arg(interop().join("grpc_peer.py")).args(what);
        command
    };
    let ours = Ours::new(GRPC, memory(ODD));
    succeeds(&mut peer(&["client", ours.address(), &ODD.to_string()]));
    ours.server.close().unwrap();
    let read_only =
        Ours::with(GRPC, memory(ODD), &ExportOptions { read_only: true, ..ExportOptions::default() }, "127.0.0.1:0");
    succeeds(&mut peer(&["refused", read_only.address(), "FAILED_PRECONDITION", "read-only"]));
    let busy = Ours::new(GRPC, memory(ODD));
    let writer = open(&busy.tcp).unwrap();
    writer.write_at(b"x", 0).unwrap();
    succeeds(&mut peer(&["refused", busy.address(), "ABORTED", "writes to this export"]));
}

#[test]
fn what_grpcio_serves_we_read_and_write_and_its_lies_are_refused() {
    let python = match python() {
        Ok(python) => python,
        Err(why) => return skip::skip(why),
    };
    let mut command = Command::new(&python);
    command.arg(interop().join("grpc_peer.py")).args(["server", &ODD.to_string()]);
    let mut peer = Peer::start(&mut command);
    let url = format!("grpc://127.0.0.1:{}?size={ODD}", peer.port);
    rpc::keeps_what_is_written(&url);
    let backend = open(&url).unwrap();
    for (mode, code, text) in [
        ("fail the disk is on fire", Code::Io, "the disk is on fire"),
        ("short", Code::Io, "99 bytes where 100"),
        ("long", Code::Corrupt, "answered with 101"),
        ("negative", Code::Corrupt, "said to be -1"),
    ] {
        peer.tell(mode);
        let error = backend.read_at(&mut [0; 100], 0).unwrap_err();
        assert_eq!((error.code(), error.is_retryable()), (code, false), "{mode}: {error:?}");
        assert!(error.message().contains(text), "{mode}: {error:?}");
    }
    peer.tell("none");
    assert_eq!(read(&backend, 0, 100).len(), 100);
    // A region that ends sooner than the URL says.
    let longer = open(&format!("grpc://127.0.0.1:{}?size={}", peer.port, 2 * ODD)).unwrap();
    assert_eq!(longer.read_at(&mut [0; 100], ODD - 1).unwrap_err().code(), Code::Io);
}

#[test]
fn go_grpc_reads_and_writes_what_we_serve_and_serves_us() {
    let program = match go_peer() {
        Ok(program) => program,
        Err(why) => return skip::skip(why),
    };
    let ours = Ours::new(GRPC, memory(ODD));
    succeeds(Command::new(&program).args(["client", ours.address(), &ODD.to_string()]));
    let peer = Peer::start(Command::new(&program).args(["server", &ODD.to_string()]));
    let url = format!("grpc://127.0.0.1:{}?size={ODD}", peer.port);
    rpc::keeps_what_is_written(&url);
    // It ends sooner than the URL says.
    let longer = open(&format!("{url}0")).unwrap();
    let error = longer.read_at(&mut [0; 100], ODD - 1).unwrap_err();
    assert_eq!(error.code(), Code::Io, "{error:?}");
}
