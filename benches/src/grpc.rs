//! gRPC over TCP: our server beside Go's grpc of the same `.proto`, and the native protocol beside gRPC. Each server is a
//! process of its own that serves the same bytes from memory; our client reads them at 256 KiB.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use r3map_core::copy::Copy;
use r3map_core::server::located;
use r3map_core::{Backend, BackendOptions, ExportOptions, Protocol, Server, ServerOptions, backend};

use crate::{Directory, Measured, speed, time};

const SIZE: u64 = 256 << 20;
/// The word that makes this program a server.
pub const SERVER: &str = "serve-from-memory";

/// A server in a process of its own, which ends with its standard input.
struct Peer {
    child: Child,
    backend: Arc<dyn Backend>,
}

impl Peer {
    fn start(command: &mut Command, url: impl Fn(&str) -> String) -> Peer {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        let backend = backend::open(&url(said.trim()), &BackendOptions::default()).unwrap();
        Copy::between(crate::slice::source(SIZE), backend.clone()).unwrap().run(None).unwrap();
        Peer { child, backend }
    }

    fn ours(protocol: &str) -> Peer {
        let program = std::env::current_exe().unwrap();
        Peer::start(Command::new(program).args([SERVER, protocol]), str::to_owned)
    }

    /// How long it takes to read all of it into fresh memory.
    fn read(&self) -> f64 {
        let mut bytes = vec![0; SIZE as usize];
        time(|| self.backend.read_at(&mut bytes, 0).unwrap())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves memory by the protocol of that name until standard input ends.
pub fn server_process(protocol: &str) {
    let options = ServerOptions { protocol: protocol.parse::<Protocol>().unwrap(), ..ServerOptions::default() };
    let server = Server::new(options).unwrap();
    let memory = backend::open(&format!("memory:?size={SIZE}"), &BackendOptions::default()).unwrap();
    server.export("region", memory, &ExportOptions::default()).unwrap();
    println!("{}", located(&server.listen("127.0.0.1:0").unwrap(), "region", SIZE));
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

/// Our server against Go's.
pub fn server() -> Measured {
    let directory = Directory::fresh();
    let program = directory.path().join("peer");
    let source = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/interop/go"));
    let built = Command::new("go").current_dir(source).args(["build", "-o"]).arg(&program).arg(".").output();
    match built {
        Err(error) => return Measured::skipped(format!("go: {error}")),
        Ok(built) if !built.status.success() => return Measured::skipped("the peer in Go does not build"),
        Ok(_) => {}
    }
    let url = |port: &str| format!("grpc://127.0.0.1:{port}?size={SIZE}");
    let go = Peer::start(Command::new(&program).args(["server", &SIZE.to_string()]), url);
    let ours = Peer::ours("grpc");
    speed(SIZE, || ours.read(), || go.read())
}

/// The native protocol against gRPC.
pub fn native() -> Measured {
    let (native, grpc) = (Peer::ours("r3map"), Peer::ours("grpc"));
    speed(SIZE, || native.read(), || grpc.read())
}
