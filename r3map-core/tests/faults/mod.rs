//! What the tests of dying processes share: a server in a process of its own, and bytes to compare.

#![allow(dead_code)] // No test file uses all of it.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use r3map_core::{Backend, BackendOptions, ExportOptions, Info, Result, Server, ServerOptions, backend};

/// Far more than anything here takes, and far less than for ever.
pub const SOON: Duration = Duration::from_secs(30);

/// The variables by which a server's process is told what to do.
const SERVE: &str = "R3MAP_TEST_SERVE";
const LISTEN: &str = "R3MAP_TEST_LISTEN";
const SLOW: &str = "R3MAP_TEST_SLOW";

/// A directory that is gone when dropped.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new() -> Directory {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("r3map-faults-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A small generator: the same numbers for the same seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 8) % end
    }
}

/// Bytes that differ from place to place and from seed to seed.
pub fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    (0..length.div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).take(length).collect()
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

/// Where the first byte differs, for a message that can be read.
#[track_caller]
pub fn assert_same(found: &[u8], expected: &[u8], when: &str) {
    assert_eq!(found.len(), expected.len(), "{when}");
    if let Some(at) = (0..found.len()).find(|at| found[*at] != expected[*at]) {
        let end = found.len().min(at + 16);
        panic!("{when}: at {at} there is {:02x?}, not {:02x?}", &found[at..end], &expected[at..end]);
    }
}

/// A server of one file, as `region`, in a process of its own that can be killed and started again. It ends with
/// this one.
pub struct ServerProcess {
    file: PathBuf,
    listen: String,
    child: Child,
    url: String,
}

impl ServerProcess {
    /// Serves at a UNIX socket.
    pub fn unix(file: &Path, socket: &Path) -> ServerProcess {
        ServerProcess::start(file, format!("unix:{}", socket.display()), None)
    }

    /// Serves at a port of loopback, one that no client is given by chance while nobody listens there.
    pub fn tcp(file: &Path) -> ServerProcess {
        let first = 10_000 + std::process::id() % 10_000;
        let free = |port: &u32| std::net::TcpListener::bind(("127.0.0.1", *port as u16)).is_ok();
        let port = (first..first + 1000).find(free).expect("a free port");
        ServerProcess::start(file, format!("127.0.0.1:{port}"), None)
    }

    /// Serves at a UNIX socket, each read taking that long until the server is started again.
    pub fn slow(file: &Path, socket: &Path, read: Duration) -> ServerProcess {
        ServerProcess::start(file, format!("unix:{}", socket.display()), Some(read))
    }

    fn start(file: &Path, listen: String, slow: Option<Duration>) -> ServerProcess {
        let (child, url) = spawn(file, &listen, slow);
        ServerProcess { file: file.to_owned(), listen, child, url }
    }

    /// Where clients find it.
    pub fn url(&self) -> String {
        match self.url.starts_with("r3map+unix") {
            true => format!("{}?name=region", self.url),
            false => format!("{}/region", self.url),
        }
    }

    /// Ends it by SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again, at the same address over the same file.
    pub fn restart(&mut self) {
        let (child, url) = spawn(&self.file, &self.listen, None);
        assert_eq!(url, self.url);
        self.child = child;
    }

    /// Stops it with SIGSTOP and waits until each of its threads stands still.
    pub fn pause(&self) {
        self.signal(libc::SIGSTOP);
        let tasks =
            || std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap().map_while(std::result::Result::ok);
        let is_still = |task: std::fs::DirEntry| {
            let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
            status.lines().any(|line| line.starts_with("State:\tT"))
        };
        eventually("the server stands still", || tasks().all(is_still));
    }

    /// Lets it go on with SIGCONT.
    pub fn go_on(&self) {
        self.signal(libc::SIGCONT);
    }

    fn signal(&self, signal: i32) {
        // SAFETY: a plain call about a process that is ours and not waited for yet.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(file: &Path, listen: &str, slow: Option<Duration>) -> (Child, String) {
    let mut child = again("serves_until_it_is_killed")
        .env(SERVE, file)
        .env(LISTEN, listen)
        .env(SLOW, slow.map_or(0, |slow| slow.as_millis()).to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(std::result::Result::ok);
    let url = lines.find_map(|line| line.split_once("listening at ").map(|(_, url)| url.to_owned()));
    (child, url.expect("the server's process says where it listens"))
}

/// A command that runs one test of this executable, which is no test but a process of one.
pub fn again(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"]);
    command
}

/// The body of the test `serves_until_it_is_killed`: serves until its standard input ends.
pub fn serve() {
    let Some(file) = std::env::var_os(SERVE) else { return };
    let slow = std::env::var(SLOW).unwrap().parse().unwrap();
    let url = format!("file://{}", file.to_str().unwrap());
    let region = backend::open(&url, &BackendOptions::default()).unwrap();
    let region = if slow == 0 { region } else { Slow::over(region, Duration::from_millis(slow)) };
    let server = Server::new(ServerOptions::default()).unwrap();
    server.export("region", region, &ExportOptions::default()).unwrap();
    println!("listening at {}", server.listen(&std::env::var(LISTEN).unwrap()).unwrap());
    until_the_parent_is_gone();
}

/// Returns when the process that started this one is gone or has let go of it.
pub fn until_the_parent_is_gone() {
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

/// A store that takes only requests of whole blocks.
pub struct Aligned<B> {
    info: Info,
    inner: B,
}

impl<B: Backend> Aligned<B> {
    pub fn new(inner: B, alignment: u32) -> Aligned<B> {
        Aligned { info: Info { alignment, ..inner.info().clone() }, inner }
    }
}

impl<B: Backend> Backend for Aligned<B> {
    fn info(&self) -> &Info {
        &self.info
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.inner.read_at(buffer, offset)
    }
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.inner.write_at(data, offset)
    }
    fn sync(&self) -> Result<()> {
        self.inner.sync()
    }
}

/// A store that takes its time to read.
struct Slow {
    info: Info,
    inner: Arc<dyn Backend>,
    read: Duration,
}

impl Slow {
    fn over(inner: Arc<dyn Backend>, read: Duration) -> Arc<dyn Backend> {
        let info = Info { local: false, ..inner.info().clone() };
        Arc::new(Slow { info, inner, read })
    }
}

impl Backend for Slow {
    fn info(&self) -> &Info {
        &self.info
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        std::thread::sleep(self.read);
        self.inner.read_at(buffer, offset)
    }
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.inner.write_at(data, offset)
    }
    fn sync(&self) -> Result<()> {
        self.inner.sync()
    }
}
