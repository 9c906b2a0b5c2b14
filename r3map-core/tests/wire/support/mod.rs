//! What the tests share: servers, clients, patterns, and backends that misbehave on demand.

use std::sync::Arc;
use std::time::{Duration, Instant};

use r3map_chaos::{Conditions, Network};
use r3map_core::backend::memory::Memory;
use r3map_core::backend::{self, Backend, BackendOptions, Completion, Operation, Priority, Reply, Request};
use r3map_core::cancel::{Limit, Waiter};
use r3map_core::{ExportOptions, Result, Server, ServerOptions};

pub mod blocked;
pub mod raw;

/// Far more than anything here takes, and far less than for ever.
pub const SOON: Duration = Duration::from_secs(20);

/// A server with short patience.
pub fn server() -> Server {
    Server::new(ServerOptions { deadline: Duration::from_secs(5), ..ServerOptions::default() }).unwrap()
}

/// A network in front of the server at this URL that is told when to fail.
pub fn network(url: &str) -> Network {
    Network::to(authority(url), Conditions::default()).unwrap()
}

/// A server of one region of memory, as `name`, on TCP; and its address.
pub fn memory_server(name: &str, size: u64) -> (Server, String, Arc<Memory>) {
    let server = server();
    let memory = Arc::new(Memory::new(size).unwrap());
    server.export(name, memory.clone(), &ExportOptions::default()).unwrap();
    let url = server.listen("127.0.0.1:0").unwrap();
    (server, url, memory)
}

pub fn open(url: &str) -> Result<Arc<dyn Backend>> {
    backend::open(url, &BackendOptions::default())
}

/// The `host:port` of a URL.
pub fn authority(url: &str) -> &str {
    url.strip_prefix("r3map://").unwrap()
}

/// Bytes that differ from place to place and from seed to seed.
pub fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = vec![0; length];
    for byte in &mut bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = state as u8;
    }
    bytes
}

/// Submits an operation whose outcome is waited for later.
pub fn submit(
    backend: &Arc<dyn Backend>,
    operation: Operation,
    priority: Priority,
    within: Duration,
) -> Waiter<Result<Reply>> {
    let (waiter, notifier) = Waiter::new();
    backend.clone().submit(Request {
        operation,
        priority,
        deadline: Some(Instant::now() + within),
        completion: Completion::new(move |outcome| notifier.notify(outcome)),
    });
    waiter
}

pub fn wait(waiter: Waiter<Result<Reply>>) -> Result<Reply> {
    waiter.wait(&Limit::within(SOON), "test").expect("a request was never completed")
}

pub fn read(backend: &Arc<dyn Backend>, length: usize, offset: u64) -> Vec<u8> {
    let mut bytes = vec![0xee; length];
    backend.read_at(&mut bytes, offset).unwrap();
    bytes
}

/// A directory that is gone when dropped.
pub struct Directory(std::path::PathBuf);

impl Directory {
    pub fn path(&self) -> &std::path::Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn tempdir() -> Directory {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("r3map-wire-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    Directory(path)
}
