//! The NBD device against nbdkit's memory plugin attached with nbd-client, on the same kernel, by turns.
//!
//! Needs root, nbd.ko, nbdkit and nbd-client. On a machine without NBD: in the guest of `tests/kernel`.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use memmap2::MmapMut;
use r3map_core::backend::memory::Memory;
use r3map_core::device::Kind;
use r3map_core::{DeviceChoice, Mode, Mount};

use crate::{Measured, ratio};

/// How long each turn of each pattern takes.
const TURN: Duration = Duration::from_millis(400);
const SIZE: u64 = 64 << 20;

/// A way to access the device.
struct Pattern {
    name: &'static str,
    block: usize,
    write: bool,
    random: bool,
}

const PATTERNS: [Pattern; 6] = [
    Pattern { name: "1 MiB read", block: 1 << 20, write: false, random: false },
    Pattern { name: "1 MiB write", block: 1 << 20, write: true, random: false },
    Pattern { name: "64 KiB read", block: 64 << 10, write: false, random: false },
    Pattern { name: "64 KiB write", block: 64 << 10, write: true, random: false },
    Pattern { name: "4 KiB random read", block: 4 << 10, write: false, random: true },
    Pattern { name: "4 KiB random write", block: 4 << 10, write: true, random: true },
];

/// MiB a second of one pattern on a device for a while.
fn measure(device: &File, pattern: &Pattern, memory: &mut MmapMut) -> f64 {
    let buffer = &mut memory[..pattern.block];
    let blocks = SIZE / pattern.block as u64;
    let (begun, mut state, mut count) = (Instant::now(), 1u64, 0u64);
    while begun.elapsed() < TURN {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let block = if pattern.random { (state >> 33) % blocks } else { count % blocks };
        let offset = block * pattern.block as u64;
        match pattern.write {
            true => device.write_all_at(buffer, offset).unwrap(),
            false => device.read_exact_at(buffer, offset).unwrap(),
        }
        count += 1;
    }
    (count * pattern.block as u64) as f64 / f64::from(1 << 20) / begun.elapsed().as_secs_f64()
}

fn open(path: &Path) -> File {
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path).unwrap();
    // Every page of the store exists and was touched before anything is timed.
    let memory = MmapMut::map_anon(4 << 10).unwrap();
    for offset in (0..SIZE).step_by(4 << 10) {
        file.write_all_at(&memory, offset).unwrap();
    }
    file
}

/// nbdkit's memory plugin on the last device there is.
struct Peer {
    server: Child,
    device: String,
    socket: String,
}

impl Peer {
    fn start() -> Peer {
        let count = std::fs::read_dir("/sys/block").unwrap().flatten();
        let count = count.filter(|entry| entry.file_name().to_string_lossy().starts_with("nbd")).count();
        let device = format!("/dev/nbd{}", count - 1);
        let socket = format!("{}/r3map-bench-{}.sock", std::env::temp_dir().display(), std::process::id());
        let size = SIZE.to_string();
        let server = Command::new("nbdkit").args(["-f", "-U", &socket, "memory", &size]).spawn().unwrap();
        while !Path::new(&socket).exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let attach = Command::new("nbd-client").args(["-unix", &socket, &device, "-N", ""]).output().unwrap();
        assert!(attach.status.success(), "nbd-client: {}", String::from_utf8_lossy(&attach.stderr));
        Peer { server, device, socket }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = Command::new("nbd-client").args(["-d", &self.device]).output();
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// O_DIRECT, one access at a time: the least of the ratios of all patterns.
pub fn direct() -> Measured {
    if let Err(error) = Kind::Nbd.probe() {
        return Measured::skipped(error);
    }
    let peer = Peer::start();
    let theirs = open(Path::new(&peer.device));
    let options = Mount::options().device(DeviceChoice::Nbd(None)).mode(Mode::Direct);
    let mount = options.open(Arc::new(Memory::new(SIZE).unwrap())).unwrap();
    let ours = open(&mount.path().unwrap());

    let (mut memory, mut other) = (MmapMut::map_anon(1 << 20).unwrap(), MmapMut::map_anon(1 << 20).unwrap());
    memory.fill(1);
    other.fill(1);
    let mut all = Measured { ratio: f64::INFINITY, detail: String::new() };
    for pattern in &PATTERNS {
        let one =
            ratio(|| measure(&ours, pattern, &mut memory), || measure(&theirs, pattern, &mut other), "MiB/s", 1.0);
        all.ratio = all.ratio.min(one.ratio);
        all.detail += &format!("\n    {:<24} {:>6.2} {}", pattern.name, one.ratio, one.detail);
    }
    drop((ours, theirs));
    mount.close().unwrap();
    all
}
