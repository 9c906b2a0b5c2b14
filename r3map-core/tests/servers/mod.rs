//! Real servers of others, each on a free port with a directory of its own, ended by their process id.

#![allow(dead_code)] // No test file uses all of it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::backends::Scratch;

/// Far more than anything here takes, and far less than for ever.
pub const SOON: Duration = Duration::from_secs(60);

/// The same of starting: Java takes a while where much else runs.
const STARTING: Duration = Duration::from_secs(180);

/// A server's process.
pub struct Server {
    pub port: u16,
    command: Vec<String>,
    child: Child,
    scratch: Scratch,
    answers: fn(u16) -> bool,
}

impl Server {
    /// Starts a program; `PORT` and `DIRECTORY` in its words stand for where it is. Waits until it `answers` there.
    pub fn start(command: &[&str], prepare: impl Fn(&Path, u16), answers: fn(u16) -> bool) -> Server {
        // Another process may take the port that was free.
        for _ in 0..5 {
            let port = free_port();
            let scratch = Scratch::new();
            prepare(scratch.path(), port);
            let place = |word: &&str| {
                word.replace("PORT", &port.to_string()).replace("DIRECTORY", scratch.path().to_str().unwrap())
            };
            let command: Vec<String> = command.iter().map(place).collect();
            let child = spawn(&command, scratch.path());
            let mut server = Server { port, command, child, scratch, answers };
            if server.wait_until_it_answers() {
                return server;
            }
        }
        panic!("{} does not start", command[0]);
    }

    fn wait_until_it_answers(&mut self) -> bool {
        let begin = Instant::now();
        while begin.elapsed() < STARTING {
            if (self.answers)(self.port) {
                return true;
            }
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{} does not answer: {}", self.command[0], self.log());
    }

    pub fn path(&self) -> &Path {
        self.scratch.path()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path().join("log")).unwrap_or_default()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again where it was, with these words added to its command.
    pub fn restart(&mut self, more: &[&str]) {
        let mut command = self.command.clone();
        command.extend(more.iter().map(|word| word.to_string()));
        let begin = Instant::now();
        // Until the kernel gives the port back.
        loop {
            self.child = spawn(&command, self.scratch.path());
            if self.wait_until_it_answers() {
                return;
            }
            assert!(begin.elapsed() < SOON, "{} does not start again: {}", command[0], self.log());
        }
    }

    /// SIGSTOP, until what is given back is dropped.
    pub fn stopped(&self) -> Stopped {
        signal(self.child.id(), "STOP");
        Stopped(self.child.id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server that does not run until this is dropped.
pub struct Stopped(u32);

impl Drop for Stopped {
    fn drop(&mut self) {
        signal(self.0, "CONT");
    }
}

/// Sends a process that signal.
pub fn signal(process: u32, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &process.to_string()]).status().unwrap();
    assert!(sent.success());
}

fn spawn(command: &[String], directory: &Path) -> Child {
    let log = || std::fs::File::options().create(true).append(true).open(directory.join("log")).unwrap();
    let mut process = Command::new(&command[0]);
    process.args(&command[1..]).current_dir(directory).stdin(Stdio::null()).stdout(log()).stderr(log());
    process.spawn().unwrap_or_else(|error| panic!("{}: {error} (scripts/setup test installs it)", command[0]))
}

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    // Away from those that the kernel gives to clients, one of which could take it while its server is down.
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 12_000 + (std::process::id() % 1500) as u16 * 10;
    loop {
        let next = NEXT.fetch_add(1, Ordering::Relaxed) % 10_000;
        let port = first + next;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Whether somebody listens on a port.
pub fn takes_connections(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

/// Whether a program is here; a test that needs it then skips.
pub fn is_here(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
    std::env::split_paths(&path).any(|at| at.join(program).exists())
}

/// A Redis server.
pub struct Redis(Server);

impl Redis {
    /// One with these words of configuration besides the usual.
    pub fn start(more: &[&str]) -> Redis {
        let mut command = vec!["redis-server", "--port", "PORT", "--bind", "127.0.0.1", "--dir", "DIRECTORY"];
        command.extend(["--save", "", "--logfile", "DIRECTORY/log"]);
        command.extend(more);
        Redis(Server::start(&command, |_, _| {}, answers_ping))
    }

    /// One whose acknowledged writes are on disk.
    pub fn durable() -> Redis {
        Redis::start(&["--appendonly", "yes", "--appendfsync", "always"])
    }

    pub fn url(&self, rest: &str) -> String {
        format!("redis://127.0.0.1:{}/0?{rest}", self.port)
    }

    /// What redis-cli says.
    pub fn cli(&self, words: &[&str]) -> String {
        cli(self.port, words)
    }
}

/// What each kind of server has in common.
macro_rules! is_a_server {
    ($($kind:ty)*) => { $(
        impl std::ops::Deref for $kind {
            type Target = Server;
            fn deref(&self) -> &Server {
                &self.0
            }
        }

        impl std::ops::DerefMut for $kind {
            fn deref_mut(&mut self) -> &mut Server {
                &mut self.0
            }
        }
    )* };
}

is_a_server!(Redis Nginx S3);

fn cli(port: u16, words: &[&str]) -> String {
    let output = Command::new("redis-cli").args(["-p", &port.to_string()]).args(words).output().unwrap();
    text(output)
}

fn text(output: Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn answers_ping(port: u16) -> bool {
    // One that asks for a password, or still loads, answers too.
    takes_connections(port) && !cli(port, &["PING"]).is_empty()
}

/// Three Redis servers that are a cluster.
pub struct RedisCluster(Vec<Redis>);

impl RedisCluster {
    pub fn start() -> RedisCluster {
        let servers: Vec<Redis> = (0..3).map(|_| Redis::start(&["--cluster-enabled", "yes"])).collect();
        let mut create = vec!["--cluster".to_owned(), "create".to_owned()];
        create.extend(servers.iter().map(|server| format!("127.0.0.1:{}", server.port)));
        create.extend(["--cluster-replicas", "0", "--cluster-yes"].map(str::to_owned));
        let made = Command::new("redis-cli").args(&create).output().unwrap();
        assert!(made.status.success(), "{}", text(made));
        let begin = Instant::now();
        while !servers.iter().all(|server| server.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok")) {
            assert!(begin.elapsed() < SOON, "no cluster");
            std::thread::sleep(Duration::from_millis(50));
        }
        RedisCluster(servers)
    }

    pub fn url(&self, rest: &str) -> String {
        format!("redis+cluster://127.0.0.1:{}?{rest}", self.0[0].port)
    }

    pub fn servers(&mut self) -> &mut [Redis] {
        &mut self.0
    }
}

/// nginx with the files that a test puts into [`Nginx::file`].
pub struct Nginx(Server);

impl Nginx {
    pub fn start() -> Nginx {
        let prepare = |at: &Path, port: u16| {
            std::fs::create_dir(at.join("www")).unwrap();
            let at = at.display();
            let locations = format!(
                "location /whole/ {{ max_ranges 0; alias {at}/www/; }} location /moved/ {{ return 302 /file; }} \
                 location /circle/ {{ return 302 /circle/; }} location /secret/ {{ return 401; }} \
                 location /busy/ {{ return 503; }}"
            );
            let conf = format!(
                "master_process off; daemon off; pid {at}/pid; events {{}} \
                 http {{ access_log off; server {{ listen 127.0.0.1:{port}; root {at}/www; {locations} }} }}"
            );
            std::fs::write(format!("{at}/conf"), conf).unwrap();
        };
        let command = ["nginx", "-p", "DIRECTORY", "-c", "DIRECTORY/conf", "-e", "DIRECTORY/log"];
        Nginx(Server::start(&command, prepare, takes_connections))
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    /// Where the file of that name lies.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join("www").join(name)
    }
}

/// s3proxy, which speaks S3 over a directory. Its clients have [`S3::CREDENTIALS`] in their environment.
pub struct S3(Server);

impl S3 {
    pub const CREDENTIALS: [(&str, &str); 3] =
        [("AWS_ACCESS_KEY_ID", "someone"), ("AWS_SECRET_ACCESS_KEY", "the-right-one"), ("AWS_REGION", "us-east-1")];

    /// Where scripts/setup puts it.
    fn jar() -> PathBuf {
        Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("servers").join("s3proxy-4.1.0.jar")
    }

    pub fn is_here() -> bool {
        is_here("java") && S3::jar().exists()
    }

    /// Whether this is the process of a test's own; else that is started, with this environment, and has to succeed.
    pub fn is_alone(test: &str, environment: &[(&str, &str)]) -> bool {
        /// Says which test a process is there for.
        const ALONE: &str = "R3MAP_TEST_ALONE";
        if std::env::var(ALONE).is_ok_and(|alone| alone == test) {
            return true;
        }
        if !S3::is_here() {
            crate::skip::skip("java and s3proxy are not installed: scripts/setup test");
            return false;
        }
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([test, "--exact", "--nocapture"]).env(ALONE, test).env_remove("AWS_PROFILE");
        let output = command.envs(environment.iter().copied()).output().unwrap();
        let told = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&told));
        false
    }

    pub fn start() -> S3 {
        S3::with("aws-v2-or-v4")
    }

    /// One that looks at nobody's signature.
    pub fn for_everyone() -> S3 {
        S3::with("none")
    }

    fn with(authorization: &str) -> S3 {
        let prepare = |at: &Path, port: u16| {
            std::fs::create_dir(at.join("data")).unwrap();
            let at = at.display();
            let [(_, identity), (_, credential), _] = S3::CREDENTIALS;
            let conf = format!(
                "s3proxy.endpoint=http://127.0.0.1:{port}\ns3proxy.authorization={authorization}\n\
                 s3proxy.identity={identity}\ns3proxy.credential={credential}\n\
                 jclouds.provider=filesystem-nio2\njclouds.filesystem.basedir={at}/data\n\
                 jclouds.identity=x\njclouds.credential=x\n"
            );
            std::fs::write(format!("{at}/conf"), conf).unwrap();
        };
        let jar = S3::jar();
        let jar = jar.to_str().unwrap();
        let java = ["java", "-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-jar", jar];
        let command = [&java[..], &["--properties", "DIRECTORY/conf"]].concat();
        S3(Server::start(&command, prepare, takes_connections))
    }

    pub fn url(&self, bucket_and_prefix: &str, rest: &str) -> String {
        S3::url_at(self.port, bucket_and_prefix, rest)
    }

    /// The same by another port, where a proxy may listen.
    pub fn url_at(port: u16, bucket_and_prefix: &str, rest: &str) -> String {
        format!("s3://{bucket_and_prefix}?endpoint=http://127.0.0.1:{port}&{rest}")
    }

    /// The file in which it keeps an object.
    pub fn object(&self, bucket: &str, key: &str) -> PathBuf {
        self.path().join("data").join(bucket).join(key)
    }
}

/// A server that answers as many connections with 503 as `refused` says, and hands the others through.
pub fn that_throttles(port: u16, refused: Arc<AtomicUsize>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let found = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let fewer = |count: usize| count.checked_sub(1);
            if refused.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer).is_ok() {
                let body = "<Error><Code>SlowDown</Code></Error>";
                let _ = client.read(&mut [0; 65536]);
                let head = format!("HTTP/1.1 503 Slow Down\r\nConnection: close\r\nContent-Length: {}", body.len());
                let _ = write!(client, "{head}\r\n\r\n{body}");
                continue;
            }
            let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
            for (mut from, mut to) in [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)] {
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Both);
                });
            }
        }
    });
    found
}
