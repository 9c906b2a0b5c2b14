//! Real servers of others, each on a free port with a directory of its own, ended by their process id.

#![allow(dead_code)] // No test file uses all of it.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::backends::Scratch;

/// Far more than anything here takes, and far less than for ever.
pub const SOON: Duration = Duration::from_secs(60);

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
    fn start(command: &[&str], prepare: impl Fn(&Path, u16), answers: fn(u16) -> bool) -> Server {
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
        while begin.elapsed() < SOON {
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

fn signal(process: u32, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &process.to_string()]).status().unwrap();
    assert!(sent.success());
}

fn spawn(command: &[String], directory: &Path) -> Child {
    let log = || std::fs::File::options().create(true).append(true).open(directory.join("log")).unwrap();
    let mut process = Command::new(&command[0]);
    process.args(&command[1..]).current_dir(directory).stdin(Stdio::null()).stdout(log()).stderr(log());
    process.spawn().unwrap_or_else(|error| panic!("{}: {error} (scripts/setup test installs it)", command[0]))
}

fn free_port() -> u16 {
    // Away from those that the kernel gives to clients, one of which could take it while its server is down.
    static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
    let first = 12_000 + (std::process::id() % 1500) as u16 * 10;
    loop {
        let next = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 10_000;
        let port = first + next;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn takes_connections(port: u16) -> bool {
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

impl std::ops::Deref for Redis {
    type Target = Server;
    fn deref(&self) -> &Server {
        &self.0
    }
}

impl std::ops::DerefMut for Redis {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.0
    }
}

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

/// A path in a server's directory.
pub fn in_directory(server: &Server, name: &str) -> PathBuf {
    server.path().join(name)
}
