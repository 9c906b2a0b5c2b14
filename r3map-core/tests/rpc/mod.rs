//! What the tests of the Go library's protocols share: our own server, and what each protocol has to keep to.

#![allow(dead_code)] // No test file uses all of it.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use r3map_core::backend::memory::Memory;
use r3map_core::backend::{self, Completion, Operation, Priority, Reply, Request};
use r3map_core::buffer::Buffer;
use r3map_core::server::located;
use r3map_core::{Backend, BackendOptions, Code, Error, ExportOptions, Protocol, Result, Server, ServerOptions};

use crate::backends::{Random, Scratch, all, read};

/// Far more than anything here takes, and far less than for ever.
pub const SOON: Duration = Duration::from_secs(60);

/// No multiple of a page, a chunk or a word.
pub const ODD: u64 = 7 * 65536 + 4097;

pub fn memory(size: u64) -> Arc<dyn Backend> {
    Arc::new(Memory::new(size).unwrap())
}

pub fn open(url: &str) -> Result<Arc<dyn Backend>> {
    backend::open(url, &BackendOptions::default())
}

/// The error of an opening that must fail.
#[track_caller]
pub fn refused(url: &str) -> Error {
    open(url).err().unwrap_or_else(|| panic!("{url} was opened"))
}

/// Our own server of one backend, at a UNIX socket and a port of loopback.
pub struct Ours {
    pub server: Server,
    pub unix: String,
    pub tcp: String,
    _scratch: Scratch,
}

impl Ours {
    pub fn new(protocol: Protocol, backend: Arc<dyn Backend>) -> Ours {
        Ours::with(protocol, backend, &ExportOptions::default(), "127.0.0.1:0")
    }

    pub fn with(protocol: Protocol, backend: Arc<dyn Backend>, export: &ExportOptions, listen: &str) -> Ours {
        let scratch = Scratch::new();
        let server = Server::new(ServerOptions { protocol, ..ServerOptions::default() }).unwrap();
        let size = backend.info().size;
        server.export("region", backend, export).unwrap();
        let unix = server.listen(&format!("unix:{}/socket", scratch.path().display())).unwrap();
        let tcp = server.listen(listen).unwrap();
        let (unix, tcp) = (located(&unix, "region", size), located(&tcp, "region", size));
        Ours { server, unix, tcp, _scratch: scratch }
    }

    /// Where it listens: host and port.
    pub fn address(&self) -> &str {
        self.tcp.split("://").nth(1).unwrap().split('?').next().unwrap()
    }
}

/// Writes, zeros and reads at random, short and long, agree with a plain array.
pub fn keeps_what_is_written(url: &str) {
    keeps_what_is_written_by(url, &BackendOptions::default());
}

/// The same for a client with these options.
pub fn keeps_what_is_written_by(url: &str, options: &BackendOptions) {
    let open = |url: &str| backend::open(url, options);
    let backend = open(url).unwrap();
    let size = backend.info().size;
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let mut expected = all(&backend);
    for step in 0..400u32 {
        let offset = random.below(size + 1);
        let most = [64, 9000, 150_000, size][random.below(4) as usize].min(size - offset);
        let length = random.below(most + 1);
        let range = offset as usize..(offset + length) as usize;
        let what = format!("{url}, step {step}: {length} bytes at {offset}");
        match random.below(10) {
            0..4 => {
                expected[range.clone()].fill(step as u8 | 1);
                backend.write_at(&expected[range], offset).expect(&what);
            }
            4..6 => {
                expected[range].fill(0);
                backend.zero_at(offset, length).expect(&what);
            }
            6..9 => assert!(read(&backend, offset, length as usize) == expected[range], "{what}"),
            _ => backend.sync().expect(&what),
        }
    }
    for (offset, length) in [(size - 9, 10), (size, 1), (u64::MAX, 1), (1 << 62, 10)] {
        assert_eq!(backend.read_at(&mut vec![0; length], offset).unwrap_err().code(), Code::OutOfRange);
        assert_eq!(backend.write_at(&vec![0; length], offset).unwrap_err().code(), Code::OutOfRange);
    }
    assert!(all(&backend) == expected, "{url}");
    // Another connection sees the same, and a closed backend nothing.
    assert!(all(&open(url).unwrap()) == expected, "{url}");
    backend.close().unwrap();
    assert_eq!(backend.read_at(&mut [0], 0).unwrap_err().code(), Code::Closed);
    assert_eq!(backend.close().unwrap_err().code(), Code::Closed);
}

/// Thousands of requests are under way at once, and each is answered with its own bytes.
pub fn answers_thousands_at_once(url: &str) {
    const EACH: u64 = 512;
    let backend = open(url).unwrap();
    let count = backend.info().size / EACH;
    assert!(count >= 4000, "{count} pieces");
    for at in 0..count / 64 {
        let piece: Vec<u8> = (0..64 * EACH).map(|byte| ((at * 64 + byte / EACH) % 251) as u8).collect();
        backend.write_at(&piece, at * 64 * EACH).unwrap();
    }
    let (tell, told) = mpsc::channel();
    for at in 0..count {
        let tell = tell.clone();
        let operation = Operation::Read { offset: at * EACH, buffer: Buffer::new(EACH as usize) };
        let completion = Completion::new(move |outcome| tell.send((at, outcome)).unwrap());
        let priority = if at % 2 == 0 { Priority::Demand } else { Priority::Bulk };
        backend.clone().submit(Request { operation, priority, deadline: Some(Instant::now() + SOON), completion });
    }
    for _ in 0..count {
        let (at, outcome) = told.recv_timeout(SOON).unwrap();
        let Reply::Data(data) = outcome.unwrap() else { panic!("no bytes") };
        assert!(data.iter().all(|byte| *byte == (at % 251) as u8), "{at}");
    }
}

/// One writes, many read; the lease is free when the writer is gone; read-only is read-only.
pub fn has_one_writer(protocol: Protocol) {
    let ours = Ours::new(protocol, memory(ODD));
    let (one, two) = (open(&ours.tcp).unwrap(), open(&ours.tcp).unwrap());
    one.write_at(b"one", 0).unwrap();
    let error = two.write_at(b"two", 0).unwrap_err();
    assert_eq!(error.code(), if protocol == Protocol::Grpc { Code::Busy } else { Code::Io }, "{error:?}");
    assert!(error.message().contains("writes to this export"), "{error:?}");
    assert_eq!(read(&two, 0, 3), b"one");
    one.close().unwrap();
    drop(one);
    eventually("the lease is free", || two.write_at(b"two", 0).is_ok());
    let read_only = Ours::with(
        protocol,
        memory(ODD),
        &ExportOptions { read_only: true, ..ExportOptions::default() },
        "127.0.0.1:0",
    );
    let backend = open(&read_only.unix).unwrap();
    let error = backend.write_at(b"x", 0).unwrap_err();
    assert!(error.message().contains("read-only"), "{error:?}");
    assert_eq!(read(&backend, 0, 1), [0]);
}

/// Requests wait while the server is away, and are answered by the next one; a sync says that writes may be lost.
pub fn comes_back(protocol: Protocol) {
    let memory = memory(ODD);
    let ours = Ours::new(protocol, memory.clone());
    let (address, url) = (ours.address().to_owned(), ours.tcp.clone());
    let backend = open(&url).unwrap();
    backend.write_at(b"kept", 0).unwrap();
    backend.sync().unwrap();
    ours.server.close().unwrap();
    drop(ours);
    let waiting = std::thread::spawn({
        let backend = backend.clone();
        move || read(&backend, 0, 4)
    });
    let (tell, told) = mpsc::channel();
    backend.clone().submit(Request {
        operation: Operation::Read { offset: 0, buffer: Buffer::new(1) },
        priority: Priority::Demand,
        deadline: Some(Instant::now() + Duration::from_millis(300)),
        completion: Completion::new(move |outcome| tell.send(outcome.err().unwrap().code()).unwrap()),
    });
    assert_eq!(told.recv_timeout(SOON).unwrap(), Code::Disconnected);
    let ours = Ours::with(protocol, memory.clone(), &ExportOptions::default(), &address);
    assert_eq!(waiting.join().unwrap(), b"kept");
    // All of this was synced, so nothing is lost.
    backend.sync().unwrap();
    backend.write_at(b"lost", 0).unwrap();
    ours.server.close().unwrap();
    drop(ours);
    let _ours = Ours::with(protocol, memory, &ExportOptions::default(), &address);
    assert_eq!(read(&backend, 0, 4), b"lost");
    let error = backend.sync().unwrap_err();
    assert_eq!(error.code(), Code::Io);
    assert!(error.message().contains("not synced"), "{error:?}");
}

/// What cannot be is refused where it is asked for.
pub fn refuses_what_cannot_be(protocol: Protocol) {
    let name = protocol.name();
    let ours = Ours::new(protocol, memory(ODD));
    let address = ours.address();
    for (url, why) in [
        (format!("{name}://{address}"), "no size"),
        (format!("{name}://{address}/model?size=1"), "no names"),
        (format!("{name}://{address}?size=1&chunk=3KiB"), "chunk"),
        (format!("{name}://{address}?size=1&max_message=1"), "max_message"),
        (format!("{name}://{address}?size=1&cunk=1"), "did you mean \"chunk\""),
    ] {
        let error = refused(&url);
        assert_eq!(error.code(), Code::InvalidArgument, "{url}");
        assert!(error.message().contains(why), "{error:?}");
    }
    assert_eq!(refused(&format!("{name}://203.0.113.1:1?size=1")).code(), Code::PermissionDenied);
    assert_eq!(refused(&format!("{name}://127.0.0.1:1?size=1")).code(), Code::Disconnected);
    let error = ours.server.export("other", memory(1), &ExportOptions::default()).unwrap_err();
    assert_eq!(error.code(), Code::Unsupported, "{error:?}");
    let empty = Server::new(ServerOptions { protocol, ..ServerOptions::default() }).unwrap();
    let url = located(&empty.listen("127.0.0.1:0").unwrap(), "", 1);
    assert!(refused(&url).message().contains("nothing is exported"));
    // A region that is shorter than the URL says.
    let longer = open(&format!("{name}://{address}?size={}", ODD * 2)).unwrap();
    let error = longer.read_at(&mut [0; 10], ODD - 5).unwrap_err();
    assert!(matches!(error.code(), Code::OutOfRange | Code::Io), "{error:?}");
    assert!(error.message().contains("outside"), "{error:?}");
}

/// Waits for what another process or thread brings about; fails after a time no healthy machine takes.
#[track_caller]
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < until, "{what}: not within {SOON:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The folder with programs of other implementations.
pub fn interop() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/interop"))
}

/// The Python that scripts/setup python made, if it did.
pub fn python() -> Result<PathBuf, String> {
    let target = std::env::current_exe().unwrap();
    let target = target.ancestors().nth(3).unwrap();
    let python = target.join("python/environment/bin/python");
    let probe = Command::new(&python).args(["-c", "import grpc_tools"]).stderr(Stdio::null()).status();
    match probe {
        Ok(status) if status.success() => Ok(python),
        _ => Err(format!("{} has no grpcio: scripts/setup python", python.display())),
    }
}

/// The peer in tests/interop/go, built if there is a Go.
pub fn go_peer() -> Result<PathBuf, String> {
    let target = std::env::current_exe().unwrap();
    let peer = target.ancestors().nth(3).unwrap().join("interop/peer");
    let path = format!("{}:/usr/local/go/bin", std::env::var("PATH").unwrap_or_default());
    let mut build = Command::new("go");
    build.env("PATH", path).current_dir(interop().join("go")).args(["build", "-o"]).arg(&peer).arg(".");
    match build.output() {
        Ok(built) if built.status.success() => Ok(peer),
        Ok(built) => Err(format!("the peer in Go does not build: {}", String::from_utf8_lossy(&built.stderr))),
        Err(error) => Err(format!("go: {error}: scripts/setup test")),
    }
}

/// A server of somebody else's, which says where it listens and then does as it is told.
pub struct Peer {
    child: Child,
    told: ChildStdin,
    says: BufReader<std::process::ChildStdout>,
    pub port: String,
}

impl Peer {
    pub fn start(command: &mut Command) -> Peer {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let told = child.stdin.take().unwrap();
        let mut says = BufReader::new(child.stdout.take().unwrap());
        let mut port = String::new();
        says.read_line(&mut port).unwrap();
        assert!(port.trim().parse::<u16>().is_ok(), "{command:?} said {port:?}");
        Peer { child, told, says, port: port.trim().to_owned() }
    }

    pub fn tell(&mut self, what: &str) {
        assert_eq!(self.ask(what), "ok", "{what}");
    }

    /// Tells it something; what it says to that.
    pub fn ask(&mut self, what: &str) -> String {
        writeln!(self.told, "{what}").unwrap();
        let mut line = String::new();
        self.says.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program to its end, which must be a good one.
#[track_caller]
pub fn succeeds(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
}
