//! A slice of a region at a server on a UNIX socket.

use std::sync::Arc;
use std::time::{Duration, Instant};

use r3map_core::backend::memory::Memory;
use r3map_core::{
    Backend, BackendOptions, DeviceChoice, ExportOptions, Mode, Mount, MountOptions, Pull, Server, ServerOptions, Slice,
};

use crate::{Directory, Measured, floor, median, percentile, ratio, speed, time};

const SIZE: u64 = 512 << 20;

/// A memory backend full of bytes of which none is zero.
pub fn source(size: u64) -> Arc<Memory> {
    let memory = Arc::new(Memory::new(size).unwrap());
    for offset in (0..size).step_by(1 << 20) {
        let chunk: Vec<u8> = (0..1 << 20).map(|at: u64| ((offset + at) >> 6) as u8 | 1).collect();
        memory.write_at(&chunk, offset).unwrap();
    }
    memory
}

struct Remote {
    server: Server,
    url: String,
    _directory: Directory,
}

impl Remote {
    fn new(size: u64) -> Remote {
        let directory = Directory::fresh();
        let path = directory.path().join("socket");
        let server = Server::new(ServerOptions::default()).unwrap();
        server.export("source", source(size), &ExportOptions::default()).unwrap();
        server.listen(&format!("unix:{}", path.display())).unwrap();
        let url = format!("r3map+unix://{}?name=source", path.display());
        Remote { server, url, _directory: directory }
    }

    fn mount(&self, mode: Mode, change: impl FnOnce(&mut MountOptions)) -> (Mount, Slice) {
        let mut options = Mount::options().device(DeviceChoice::Userfaultfd).mode(mode);
        change(&mut options);
        let mount = options.open_url(&self.url, &BackendOptions::default()).unwrap();
        let slice = mount.slice().unwrap();
        (mount, slice)
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.server.close().unwrap();
    }
}

/// Reads a word of every cache line.
fn read_all(slice: &Slice) -> u64 {
    // SAFETY: nobody writes while it is read, and the mount is open.
    let bytes = unsafe { slice.as_slice() };
    sum(bytes)
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.chunks_exact(64).map(|line| u64::from_le_bytes(line[..8].try_into().unwrap())).fold(0, u64::wrapping_add)
}

fn sequential(mode: Mode) -> Measured {
    let remote = Remote::new(SIZE);
    let ours = || {
        // With the opening, since a managed mount pulls from then on.
        let begun = Instant::now();
        let (mount, slice) = remote.mount(mode, |_| {});
        assert_ne!(std::hint::black_box(read_all(&slice)), 0);
        let seconds = begun.elapsed().as_secs_f64();
        mount.discard().unwrap();
        seconds
    };
    speed(SIZE, ours, || floor::pull_unix(SIZE))
}

/// Sequential read of a fresh slice of a direct mount.
pub fn direct() -> Measured {
    sequential(Mode::Direct)
}

/// Sequential read of a fresh slice of a managed mount.
pub fn managed() -> Measured {
    sequential(Mode::Managed)
}

/// Writing a whole slice that is here, then sync, against a bare push of the same bytes.
pub fn write() -> Measured {
    let remote = Remote::new(SIZE);
    let mut writing = Vec::new();
    let ours = || {
        let (mount, slice) = remote.mount(Mode::Managed, |_| {});
        mount.pull(0, SIZE).unwrap();
        let writes = time(|| {
            for at in (0..SIZE as usize).step_by(4096) {
                // SAFETY: inside the slice of an open mount that nobody else touches.
                unsafe { std::ptr::write_bytes(slice.as_ptr().add(at), (at >> 12) as u8 | 1, 4096) };
            }
        });
        let sync = time(|| mount.sync().unwrap());
        mount.discard().unwrap();
        writing.push(writes);
        writes + sync
    };
    let mut measured = speed(SIZE, ours, || floor::push_unix(SIZE));
    measured.detail += &format!(" (the writing alone: {:.0} ms)", median(writing) * 1e3);
    measured
}

/// What is pushed of what was dirtied, in 4 KiB pages of which every third is written.
pub fn pushed() -> Measured {
    let remote = Remote::new(64 << 20);
    let (mount, slice) = remote.mount(Mode::Managed, |options| options.push_interval = Duration::ZERO);
    mount.wait_local(1.0, Duration::from_secs(60)).unwrap();
    let mut dirtied = 0;
    for at in (0..64 << 20).step_by(3 * 4096) {
        // SAFETY: as above.
        unsafe { slice.as_ptr().add(at).write_volatile(7) };
        dirtied += 4096;
    }
    mount.sync().unwrap();
    let pushed = mount.stats().unwrap().get("pushed_bytes").unwrap();
    mount.discard().unwrap();
    Measured { ratio: pushed as f64 / dirtied as f64, detail: format!("({pushed} of {dirtied} bytes)") }
}

/// Reading a slice that is wholly here, against an array of the process.
pub fn resident() -> Measured {
    let remote = Remote::new(SIZE);
    let (mount, slice) = remote.mount(Mode::Managed, |_| {});
    mount.pull(0, SIZE).unwrap();
    let plain = vec![3u8; SIZE as usize];
    let read = || time(|| assert_ne!(std::hint::black_box(read_all(&slice)), 0));
    let floor = || time(|| assert_ne!(std::hint::black_box(sum(&plain)), 0));
    let measured = speed(SIZE, read, floor);
    mount.discard().unwrap();
    measured
}

/// The 99th percentile of first accesses to random pages, with or without the background pull, in seconds.
fn demand(remote: &Remote, pull: Pull) -> f64 {
    let (mount, slice) = remote.mount(Mode::Managed, |options| options.pull = pull);
    let mut samples = Vec::new();
    let mut seed = 88172645463325252u64;
    while samples.len() < 2000 {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let page = seed % (SIZE / 4096);
        if mount.missing(page * 4096, 4096).unwrap().is_empty() {
            if mount.missing(0, SIZE).unwrap().is_empty() {
                break;
            }
            continue;
        }
        let begin = Instant::now();
        // SAFETY: as above.
        unsafe { slice.as_ptr().add(page as usize * 4096).read_volatile() };
        samples.push(begin.elapsed());
    }
    mount.discard().unwrap();
    percentile(samples, 0.99)
}

/// The 99th percentile in milliseconds while the background pull runs.
pub fn demand_p99() -> Measured {
    let remote = Remote::new(SIZE);
    let samples: Vec<f64> = (0..=crate::ROUNDS).map(|_| demand(&remote, Pull::Background) * 1e3).skip(1).collect();
    let least = samples.iter().copied().fold(f64::INFINITY, f64::min);
    let greatest = samples.iter().copied().fold(0.0, f64::max);
    Measured { ratio: median(samples), detail: format!("(rounds {least:.2} to {greatest:.2})") }
}

/// The same as a ratio to the percentile without it.
pub fn demand_ratio() -> Measured {
    let remote = Remote::new(SIZE);
    ratio(|| demand(&remote, Pull::Background), || demand(&remote, Pull::Demand), "us", 1e6)
}
