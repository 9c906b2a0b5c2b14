//! Managed mounts of a region that is far away, over a network one can shape: 1 Gbit/s each way unless said.

use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use r3map_chaos::{Conditions, GIGABIT, Network};
use r3map_core::{BackendOptions, DeviceChoice, ExportOptions, Mount, MountOptions, Server, ServerOptions};

use crate::slice::source;
use crate::{Directory, Measured, floor, median, percentile, time};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Far more than any of this takes.
const SOON: Duration = Duration::from_secs(120);

/// Rounds of which the median is told; fewer while one tries something out, by `ROUNDS=1`.
fn rounds() -> usize {
    std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(5)
}

fn milliseconds(time: u64) -> Duration {
    Duration::from_millis(time)
}

fn gigabit(round_trip: u64) -> Conditions {
    Conditions::round_trip(milliseconds(round_trip)).with_rate(GIGABIT)
}

fn unshaped(round_trip: u64) -> Conditions {
    Conditions::round_trip(milliseconds(round_trip))
}

/// A region at a server.
struct Far {
    server: Server,
    address: String,
    size: u64,
}

impl Far {
    fn new(size: u64) -> Far {
        let server = Server::new(ServerOptions::default()).unwrap();
        server.export("source", source(size), &ExportOptions::default()).unwrap();
        let url = server.listen("127.0.0.1:0").unwrap();
        Far { server, address: url.trim_start_matches("r3map://").to_owned(), size }
    }

    fn network(&self, conditions: &Conditions) -> Network {
        Network::to(&self.address, conditions.clone()).unwrap()
    }

    /// Reads all of it in order by the handle of a fresh mount: the time from opening to the last byte.
    fn read(&self, conditions: &Conditions) -> f64 {
        let network = self.network(conditions);
        let begun = Instant::now();
        let mount = open(&network, MountOptions::default());
        let mut piece = vec![0; MIB as usize];
        for offset in (0..self.size).step_by(MIB as usize) {
            mount.read_at(&mut piece, offset).unwrap();
        }
        let seconds = begun.elapsed().as_secs_f64();
        mount.discard().unwrap();
        seconds
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        self.server.close().unwrap();
    }
}

fn open(network: &Network, options: MountOptions) -> Mount {
    options.open_url(&network.url("source"), &BackendOptions::default()).unwrap()
}

/// Numbers that follow from a seed.
fn random(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

/// The medians of two ways in turn, each first every other time.
fn in_turn(mut one: impl FnMut() -> f64, mut other: impl FnMut() -> f64) -> (f64, f64) {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for round in 0..rounds() {
        if round % 2 == 0 {
            first.push(one());
            second.push(other());
        } else {
            second.push(other());
            first.push(one());
        }
    }
    (median(first), median(second))
}

fn medians(mut body: impl FnMut() -> f64) -> f64 {
    median((0..rounds()).map(|_| body()).collect())
}

fn read_far(size: u64, round_trip: u64) -> Measured {
    let far = Far::new(size);
    let (there, here) = in_turn(|| far.read(&gigabit(round_trip)), || far.read(&gigabit(0)));
    Measured { ratio: here / there, detail: format!("({there:.2} against {here:.2} s)") }
}

/// 256 MiB at 10 ms by the same at 0 ms.
pub fn read_10() -> Measured {
    read_far(256 * MIB, 10)
}

/// 256 MiB at 30 ms by the same at 0 ms.
pub fn read_30() -> Measured {
    read_far(256 * MIB, 30)
}

/// 1 GiB at 100 ms by the same at 0 ms.
pub fn read_100() -> Measured {
    read_far(GIB, 100)
}

/// The time of 512 MiB over a network as fast as the machine, at three round trips: the worst by what it may take.
pub fn unbounded() -> Measured {
    let far = Far::new(512 * MIB);
    let near = medians(|| far.read(&unshaped(0)));
    let bare = medians(|| floor::pull_through(far.size, &unshaped(0)));
    let mut worst = 0.0f64;
    let mut detail = format!("(bare {bare:.2} s; at 0 ms {near:.2}");
    for round_trip in [10, 30, 100] {
        let there = medians(|| far.read(&unshaped(round_trip)));
        worst = worst.max(there / (near / 0.8 + 8.0 * round_trip as f64 / 1e3));
        detail += &format!(", {round_trip} ms {there:.2}");
    }
    Measured { ratio: worst, detail: detail + " s)" }
}

/// The 99th percentile of first touches of a slice while the background pulls at full speed, beyond the round
/// trip of 30 ms, in milliseconds.
pub fn demand() -> Measured {
    const TOUCHERS: u64 = 4;
    let far = Far::new(GIB);
    let beyond = medians(|| {
        let network = far.network(&gigabit(30));
        let mount = open(&network, MountOptions::default().device(DeviceChoice::Userfaultfd));
        let slice = mount.slice().unwrap();
        let samples: Vec<Duration> = std::thread::scope(|scope| {
            let touch = |number: u64| {
                let (mount, slice) = (mount.clone(), slice.clone());
                scope.spawn(move || {
                    let (mut seed, mut samples) = (88172645463325252 + number, Vec::new());
                    while !mount.missing(0, far.size).unwrap().is_empty() {
                        let at = random(&mut seed) % (far.size / 4096) * 4096;
                        if mount.missing(at, 4096).unwrap().is_empty() {
                            continue;
                        }
                        let begin = Instant::now();
                        // SAFETY: inside the slice of an open mount, which nobody writes to.
                        unsafe { slice.as_ptr().add(at as usize).read_volatile() };
                        samples.push(begin.elapsed());
                    }
                    samples
                })
            };
            let threads: Vec<_> = (0..TOUCHERS).map(touch).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        mount.discard().unwrap();
        percentile(samples, 0.99) * 1e3 - 30.0
    });
    Measured { ratio: beyond, detail: String::new() }
}

/// From opening a mount that may write to its first bytes, at 30 ms, in milliseconds: greeting and lease are part of
/// that, and the proxy answers the connection itself at once.
pub fn first_byte() -> Measured {
    let far = Far::new(64 * MIB);
    let ratio = medians(|| {
        let network = far.network(&gigabit(30));
        let begun = Instant::now();
        let mount = open(&network, MountOptions::default());
        mount.read_at(&mut [0; 4096], far.size / 2).unwrap();
        let milliseconds = begun.elapsed().as_secs_f64() * 1e3;
        mount.discard().unwrap();
        milliseconds
    });
    Measured { ratio, detail: String::new() }
}

/// Writes 256 MiB at 30 ms and syncs: seconds, and bytes pushed by bytes dirtied.
fn write(far: &Far) -> (f64, f64) {
    let network = far.network(&gigabit(30));
    let options = MountOptions { pull: r3map_core::Pull::Demand, ..MountOptions::default() };
    let mount = open(&network, options);
    let piece = vec![7; MIB as usize];
    let seconds = time(|| {
        (0..far.size).step_by(MIB as usize).for_each(|offset| mount.write_at(&piece, offset).unwrap());
        mount.sync().unwrap();
    });
    let pushed = mount.stats().unwrap().get("pushed_bytes").unwrap();
    mount.close().unwrap();
    (seconds, pushed as f64 / far.size as f64)
}

/// 256 MiB written and synced at 30 ms, against a bare push over the same network.
pub fn write_speed() -> Measured {
    let far = Far::new(256 * MIB);
    let (ours, bare) = in_turn(|| write(&far).0, || floor::push_through(far.size, &gigabit(30)));
    Measured { ratio: bare / ours, detail: format!("({ours:.2} against {bare:.2} s)") }
}

/// Bytes pushed by bytes dirtied in that.
pub fn write_bytes() -> Measured {
    let far = Far::new(256 * MIB);
    Measured { ratio: medians(|| write(&far).1), detail: String::new() }
}

/// Random 4 KiB reads of a tenth of the region's pages: the time of a mount that is given the order of an earlier
/// one's first accesses, by that one's.
pub fn trace() -> Measured {
    const READS: usize = 20_000;
    let far = Far::new(256 * MIB);
    let directory = Directory::fresh();
    let file = directory.path().join("trace");
    let mut seed = 88172645463325252;
    let pages = far.size / 4096;
    let hot: Vec<u64> = (0..pages / 10).map(|_| random(&mut seed) % pages).collect();
    let run = |trace: Option<&std::path::Path>| {
        let network = far.network(&gigabit(30));
        let begun = Instant::now();
        let mount = open(&network, MountOptions { trace: trace.map(Into::into), ..MountOptions::default() });
        let mut seed = 88172645463325252;
        let mut page = [0; 4096];
        for _ in 0..READS {
            let at = hot[random(&mut seed) as usize % hot.len()] * 4096;
            mount.read_at(&mut page, at).unwrap();
        }
        let seconds = begun.elapsed().as_secs_f64();
        mount.trace_save(&file).unwrap();
        mount.discard().unwrap();
        seconds
    };
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for _ in 0..rounds() {
        first.push(run(None));
        second.push(run(Some(&file)));
    }
    let (first, second) = (median(first), median(second));
    Measured { ratio: second / first, detail: format!("({second:.2} against {first:.2} s)") }
}

/// Processor seconds of this process, in which both ends are.
fn processor(body: impl FnOnce()) -> f64 {
    let now = || {
        let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
        let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
        seconds(usage.user_time()) + seconds(usage.system_time())
    };
    let before = now();
    body();
    now() - before
}

/// Processor time of both ends for 1 GiB pulled into a slice, against a bare pull of the same.
pub fn processor_time() -> Measured {
    let far = Far::new(GIB);
    let url = format!("r3map://{}/source", far.address);
    let ours = || {
        processor(|| {
            let options = MountOptions::default().device(DeviceChoice::Userfaultfd);
            let mount = options.open_url(&url, &BackendOptions::default()).unwrap();
            mount.slice().unwrap();
            mount.wait_local(1.0, SOON).unwrap();
            mount.discard().unwrap();
        })
    };
    let bare = || {
        processor(|| {
            floor::pull_tcp(far.size);
        })
    };
    bare();
    let (ours, bare) = in_turn(ours, bare);
    Measured { ratio: ours / bare, detail: format!("({ours:.2} against {bare:.2} s)") }
}
