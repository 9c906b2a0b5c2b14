//! Servers come and go under a client that stays.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use r3map_core::backend::memory::Memory;
use r3map_core::{Backend, Code, ExportOptions, Info, Result, Server, ServerOptions};

use crate::support::{authority, memory_server, network, open, pattern, read, server, tempdir};

/// Not a test: the process that serves a file until it is killed, started by the test below.
#[test]
#[ignore = "started by another test"]
fn serve_until_killed() {
    let Ok(url) = std::env::var("R3MAP_TEST_FILE") else { return };
    let server = Server::new(ServerOptions::default()).unwrap();
    server.export("region", open(&url).unwrap(), &ExportOptions::default()).unwrap();
    println!("\nserving {}", server.listen(&std::env::var("R3MAP_TEST_LISTEN").unwrap()).unwrap());
    loop {
        std::thread::park();
    }
}

struct Serving {
    child: Child,
    url: String,
}

impl Serving {
    fn start(file: &str, listen: &str) -> Serving {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["restarts::serve_until_killed", "--exact", "--ignored", "--nocapture"])
            .env("R3MAP_TEST_FILE", file)
            .env("R3MAP_TEST_LISTEN", listen)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let said = lines.map_while(|line| line.ok()).find_map(|line| Some(line.strip_prefix("serving ")?.to_owned()));
        Serving { child, url: said.expect("the server did not start") }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_client_goes_on_after_the_server_was_killed_and_started_again() {
    let directory = tempdir();
    let file = format!("file://{}/region?size=1234567", directory.path().display());
    for listen in ["127.0.0.1:0".to_owned(), format!("unix:{}/socket", directory.path().display())] {
        let first = Serving::start(&file, &listen);
        let url = match listen.starts_with("unix:") {
            true => format!("{}?name=region", first.url),
            false => format!("{}/region", first.url),
        };
        let listen = if listen.starts_with("unix:") { listen } else { authority(&first.url).to_owned() };
        let backend = open(&url).unwrap();
        let bytes = pattern(1_234_567, listen.len() as u64);
        backend.write_at(&bytes[..600_000], 0).unwrap();
        drop(first);
        let _second = Serving::start(&file, &listen);
        backend.write_at(&bytes[600_000..], 600_000).unwrap();
        // What the first acknowledged is in the kernel's keeping: the sync covers it.
        backend.sync().unwrap();
        assert!(read(&backend, 1_234_567, 0) == bytes);
        assert!(std::fs::read(directory.path().join("region")).unwrap() == bytes);
    }
}

#[test]
fn another_region_behind_the_same_url_is_corrupt_and_never_read() {
    let (_first, url, _) = memory_server("region", 1 << 20);
    let (_second, other, memory) = memory_server("region", 1 << 20);
    let (_third, longer, _) = memory_server("region", 1 << 21);
    memory.write_at(&[9; 4096], 0).unwrap();
    for (target, difference) in [(&other, "another identity"), (&longer, "2097152 bytes instead of 1048576")] {
        let proxy = network(&url);
        let backend = open(&proxy.url("region")).unwrap();
        assert_eq!(read(&backend, 10, 0), [0; 10]);
        proxy.lead_to(authority(target));
        for _ in 0..2 {
            let error = backend.read_at(&mut [0; 10], 0).unwrap_err();
            assert_eq!(error.code(), Code::Corrupt);
            assert!(error.message().contains(difference), "{error}");
        }
    }
}

#[test]
fn an_export_that_is_gone_after_a_restart_is_not_found() {
    let (_first, url, _) = memory_server("region", 1 << 20);
    let (_second, other, _) = memory_server("another", 1 << 20);
    let proxy = network(&url);
    let backend = open(&proxy.url("region")).unwrap();
    proxy.lead_to(authority(&other));
    let error = backend.read_at(&mut [0; 10], 0).unwrap_err();
    assert_eq!(error.code(), Code::NotFound, "{error}");
    proxy.lead_to(authority(&url));
    assert_eq!(read(&backend, 10, 0), [0; 10]);
}

/// A region that knows itself, kept by whoever serves it.
struct Known(Info, Memory);

impl Known {
    fn new() -> Arc<Known> {
        let memory = Memory::new(1 << 20).unwrap();
        let info = Info { local: false, identity: Some([5; 16]), ..memory.info().clone() };
        Arc::new(Known(info, memory))
    }
}

impl Backend for Known {
    fn info(&self) -> &Info {
        &self.0
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.1.read_at(buffer, offset)
    }
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.1.write_at(data, offset)
    }
    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

fn serve(backend: Arc<dyn Backend>) -> (Server, String) {
    let server = server();
    server.export("region", backend, &ExportOptions::default()).unwrap();
    let url = server.listen("127.0.0.1:0").unwrap();
    (server, url)
}

#[test]
fn a_sync_does_not_cover_up_writes_that_a_restarted_server_may_have_lost() {
    let region = Known::new();
    let (_first, url) = serve(region.clone());
    let (_second, other) = serve(region);
    let proxy = network(&url);
    let backend = open(&proxy.url("region")).unwrap();
    backend.write_at(&[1; 100], 0).unwrap();
    backend.sync().unwrap();
    proxy.lead_to(authority(&other));
    // Nothing was lost here: all was synced.
    backend.sync().unwrap();
    backend.write_at(&[2; 100], 0).unwrap();
    proxy.lead_to(authority(&url));
    for _ in 0..2 {
        let error = backend.sync().unwrap_err();
        assert_eq!(error.code(), Code::Io);
        assert!(error.message().contains("may have lost 1 writes"), "{error}");
    }
}

#[test]
fn a_server_that_closed_gracefully_lost_nothing() {
    let region = Known::new();
    let (first, url) = serve(region.clone());
    let (_second, other) = serve(region);
    let proxy = network(&url);
    let backend = open(&proxy.url("region")).unwrap();
    backend.write_at(&[1; 100], 0).unwrap();
    first.close().unwrap();
    proxy.lead_to(authority(&other));
    backend.sync().unwrap();
}
