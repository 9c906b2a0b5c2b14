//! NBD over a UNIX socket: our server beside nbdkit and qemu-nbd, our client beside nbdcopy.
//!
//! All serve the same bytes from memory and are asked by the same program.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use r3map_core::backend::memory::Memory;
use r3map_core::copy::Copy;
use r3map_core::server::named;
use r3map_core::{BackendOptions, ExportOptions, Protocol, Server, ServerOptions, backend};

use crate::{Directory, Measured, ratio, speed, time};

const SIZE: u64 = 1 << 30;
/// What fio goes about in.
const SMALL: u64 = 64 << 20;
const PROGRAMS: [&str; 4] = ["nbdkit", "qemu-nbd", "nbdcopy", "fio"];

/// The servers, all of the same bytes.
struct Servers {
    _server: Server,
    ours: String,
    nbdkit: Peer,
    qemu: Peer,
    _directory: Directory,
}

/// Somebody else's server.
struct Peer {
    child: Child,
    url: String,
}

impl Peer {
    fn start(directory: &Directory, name: &str, command: &[&str]) -> Peer {
        let socket = directory.path().join(name);
        let words = command.iter().map(|word| word.replace("SOCKET", socket.to_str().unwrap()));
        let words: Vec<String> = words.collect();
        let child = Command::new(&words[0]).args(&words[1..]).stdin(Stdio::null()).spawn().unwrap();
        while !socket.exists() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        Peer { child, url: format!("nbd+unix:///?socket={}", socket.display()) }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Servers {
    fn start(size: u64) -> Result<Servers, Measured> {
        for program in PROGRAMS {
            if Command::new(program).arg("--version").output().is_err() {
                return Err(Measured::skipped(format!("no {program}: see scripts/setup")));
            }
        }
        let directory = Directory::in_memory();
        let file = directory.path().join("bytes");
        let file = file.to_str().unwrap();
        let source = crate::slice::source(size);
        let target = backend::open(&format!("file://{file}?size={size}"), &BackendOptions::default()).unwrap();
        Copy::between(source.clone(), target).unwrap().run(None).unwrap();
        let server = Server::new(ServerOptions { protocol: Protocol::Nbd, ..ServerOptions::default() }).unwrap();
        server.export("region", source, &ExportOptions::default()).unwrap();
        let address = server.listen(&format!("unix:{}", directory.path().join("ours").display())).unwrap();
        let (size, allocator) = (size.to_string(), "allocator=malloc");
        let nbdkit = Peer::start(&directory, "nbdkit", &["nbdkit", "-f", "-U", "SOCKET", "memory", &size, allocator]);
        let qemu = ["qemu-nbd", "-t", "-e", "16", "-f", "raw", "--cache=writeback", "-k", "SOCKET", file];
        let qemu = Peer::start(&directory, "qemu", &qemu);
        run(&["nbdcopy", file, &nbdkit.url]);
        Ok(Servers { _server: server, ours: named(&address, "region"), nbdkit, qemu, _directory: directory })
    }

    fn peers(&self) -> [&str; 2] {
        [&self.nbdkit.url, &self.qemu.url]
    }
}

fn run(command: &[&str]) -> String {
    let output = Command::new(command[0]).args(&command[1..]).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// nbdcopy of 1 GiB by requests of 1 MiB to nowhere: ours against the better of the others.
pub fn server_long() -> Measured {
    let servers = match Servers::start(SIZE) {
        Ok(servers) => servers,
        Err(skipped) => return skipped,
    };
    let copy = |url: &str| time(|| drop(run(&["nbdcopy", "--request-size=1048576", url, "null:"])));
    speed(SIZE, || copy(&servers.ours), || servers.peers().map(copy).into_iter().fold(f64::INFINITY, f64::min))
}

/// fio at 4 KiB, 16 at once and one: the least of the ratios to the better of the others.
pub fn server_short() -> Measured {
    let servers = match Servers::start(SMALL) {
        Ok(servers) => servers,
        Err(skipped) => return skipped,
    };
    let mut all = Measured { ratio: f64::INFINITY, detail: String::new() };
    for (way, depth) in [("randread", "16"), ("randwrite", "16"), ("randread", "1"), ("randwrite", "1")] {
        let measure = |url: &str| requests(url, way, depth);
        let others = || servers.peers().map(measure).into_iter().fold(0.0, f64::max);
        let one = ratio(|| measure(&servers.ours), others, "thousand/s", 0.001);
        all.ratio = all.ratio.min(one.ratio);
        all.detail += &format!("\n    {:<24} {:>6.2} {}", format!("{way}, {depth} at once"), one.ratio, one.detail);
    }
    all
}

/// Requests of 4 KiB a second.
fn requests(url: &str, way: &str, depth: &str) -> f64 {
    let report = run(&[
        "fio",
        "--name=short",
        "--ioengine=nbd",
        &format!("--uri={url}"),
        &format!("--rw={way}"),
        &format!("--iodepth={depth}"),
        "--bs=4k",
        &format!("--size={SMALL}"),
        "--time_based",
        "--runtime=1",
        "--output-format=json",
    ]);
    let key = if way == "randread" { "\"read\" :" } else { "\"write\" :" };
    let figures = report.split(key).nth(1).and_then(|part| part.split("\"iops\" : ").nth(1)).unwrap();
    figures.split(',').next().unwrap().trim().parse().unwrap()
}

/// `nbd+unix:` of nbdkit to memory, against nbdcopy to a fresh file in memory.
pub fn client() -> Measured {
    let servers = match Servers::start(SIZE) {
        Ok(servers) => servers,
        Err(skipped) => return skipped,
    };
    let url = &servers.nbdkit.url;
    let ours = || {
        let mut kept = None;
        let seconds = time(|| {
            let source = backend::open(url, &BackendOptions::default()).unwrap();
            let target = Arc::new(Memory::new(SIZE).unwrap());
            kept = Some(target.clone());
            Copy::between(source, target).unwrap().run(None).unwrap();
        });
        // Freed after the time is taken, as theirs.
        drop(kept);
        seconds
    };
    let fresh = servers._directory.path().join("fresh");
    let theirs = || {
        let seconds = time(|| drop(run(&["nbdcopy", url, fresh.to_str().unwrap()])));
        std::fs::remove_file(Path::new(&fresh)).unwrap();
        seconds
    };
    speed(SIZE, ours, theirs)
}
