//! What the tests of NBD share: servers of others in processes of their own, programs that are run to their end, and
//! our own server.

#![allow(dead_code)] // No test file uses all of it.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use r3map_core::server::named;
use r3map_core::{Backend, BackendOptions, Error, ExportOptions, Protocol, Result, Server, ServerOptions, backend};

/// Far more than anything here takes, and far less than for ever.
pub const SOON: Duration = Duration::from_secs(60);

/// A directory that is gone when dropped.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new() -> Directory {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("r3map-nbd-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A server of somebody else's at a UNIX socket of its own.
pub struct Peer {
    command: Vec<String>,
    child: Child,
    socket: PathBuf,
    directory: Directory,
}

impl Peer {
    /// nbdkit with these arguments.
    pub fn nbdkit(arguments: &[&str]) -> Peer {
        Peer::start(&["nbdkit", "--foreground", "--exit-with-parent", "--unix", "SOCKET"], arguments)
    }

    /// qemu-nbd with these arguments.
    pub fn qemu(arguments: &[&str]) -> Peer {
        Peer::start(&["qemu-nbd", "--persistent", "--shared=8", "--socket", "SOCKET"], arguments)
    }

    /// In both `SOCKET` and `DIRECTORY` stand for where they are.
    fn start(program: &[&str], arguments: &[&str]) -> Peer {
        let directory = Directory::new();
        let socket = directory.file("socket");
        let places = |word: &&str| {
            let word = word.replace("SOCKET", socket.to_str().unwrap());
            word.replace("DIRECTORY", directory.0.to_str().unwrap())
        };
        let command: Vec<String> = program.iter().chain(arguments).map(places).collect();
        for word in &command {
            // A file that is served and does not exist yet.
            if let Some((path, size)) = word.rsplit_once("#") {
                std::fs::File::create(path.trim_start_matches("file="))
                    .unwrap()
                    .set_len(size.parse().unwrap())
                    .unwrap();
            }
        }
        let command: Vec<String> =
            command.iter().map(|word| word.split('#').next().unwrap_or_default().to_owned()).collect();
        let child = spawn(&command, &socket);
        Peer { command, child, socket, directory }
    }

    /// Where clients find it.
    pub fn url(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket.display())
    }

    pub fn open(&self) -> Arc<dyn Backend> {
        open(&self.url()).unwrap()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.file(name)
    }

    /// Ends it by SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let _ = std::fs::remove_file(&self.socket);
    }

    /// Starts it again, at the same address, with one word of its command another.
    pub fn restart(&mut self, word: &str, other: &str) {
        self.command.iter_mut().filter(|one| *one == word).for_each(|one| *one = other.to_owned());
        self.child = spawn(&self.command, &self.socket);
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(command: &[String], socket: &Path) -> Child {
    let started = Command::new(&command[0]).args(&command[1..]).stdin(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut child = started.unwrap_or_else(|error| panic!("{}: {error}: see scripts/setup", command[0]));
    eventually("the server listens", || {
        assert!(child.try_wait().unwrap().is_none(), "{command:?} ended at once");
        UnixStream::connect(socket).is_ok()
    });
    child
}

pub fn open(url: &str) -> Result<Arc<dyn Backend>> {
    backend::open(url, &BackendOptions::default())
}

/// The error of an opening that must fail.
#[track_caller]
pub fn refused(url: &str) -> Error {
    match open(url) {
        Ok(_) => panic!("{url} was opened"),
        Err(error) => error,
    }
}

/// Our own server of one backend as `region`, at a UNIX socket and a port of loopback.
pub struct Ours {
    pub server: Server,
    pub unix: String,
    pub tcp: String,
    directory: Directory,
}

impl Ours {
    pub fn new(backend: Arc<dyn Backend>) -> Ours {
        Ours::with(backend, ServerOptions::default(), &ExportOptions::default())
    }

    pub fn with(backend: Arc<dyn Backend>, options: ServerOptions, export: &ExportOptions) -> Ours {
        let directory = Directory::new();
        let server = Server::new(ServerOptions { protocol: Protocol::Nbd, ..options }).unwrap();
        server.export("region", backend, export).unwrap();
        let unix = server.listen(&format!("unix:{}", directory.file("socket").display())).unwrap();
        let tcp = server.listen("127.0.0.1:0").unwrap();
        Ours { unix: named(&unix, "region"), tcp: named(&tcp, "region"), server, directory }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.file(name)
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.file("socket")
    }
}

/// Runs a program that must succeed, with a bound, and gives its standard output.
#[track_caller]
pub fn succeeds(command: &[&str]) -> String {
    let (status, out, err) = run(command);
    assert_eq!(status, Some(0), "{command:?}\n{out}\n{err}");
    out
}

/// Runs a program to its end: its status, standard output and standard error.
#[track_caller]
pub fn run(command: &[&str]) -> (Option<i32>, String, String) {
    let bounded = ["timeout", "120"].iter().chain(command);
    let mut words = bounded.map(|word| word.to_string());
    let program = words.next().unwrap();
    let output = Command::new(program).args(words).stdin(Stdio::null()).output().unwrap();
    assert_ne!(output.status.code(), Some(127), "{}: not found: see scripts/setup", command[0]);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
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

/// Numbers that look random and are the same for the same seed.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }

    pub fn below(&mut self, most: u64) -> u64 {
        self.next() % most.max(1)
    }
}

/// Bytes that differ from place to place and from seed to seed.
pub fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    (0..length.div_ceil(4)).flat_map(|_| (random.next() as u32).to_le_bytes()).take(length).collect()
}

/// All bytes of a backend.
pub fn all(backend: &Arc<dyn Backend>) -> Vec<u8> {
    let mut bytes = vec![0xEE; backend.info().size as usize];
    backend.read_at(&mut bytes, 0).unwrap();
    bytes
}
