//! Figures of r3map, each a ratio to a floor or peer measured in the same run, in turn with it.
//!
//! `r3map-bench` runs all; words after it pick those whose names contain one of them.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

#[cfg(feature = "cassandra")]
mod cassandra;
mod copy;
mod fault;
mod floor;
mod fuse;
mod grpc;
mod handle;
mod migrate;
mod nbd;
mod nbd_wire;
mod slice;
mod state;
mod stores;
mod tls;
mod wan;

/// What a figure should be.
pub enum Goal {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
}

/// One line of the result.
pub struct Figure {
    name: &'static str,
    goal: Goal,
    measure: fn() -> Measured,
}

/// What was measured.
pub struct Measured {
    ratio: f64,
    detail: String,
}

impl Measured {
    /// Nothing, for want of something that this machine does not have.
    pub fn skipped(why: impl std::fmt::Display) -> Measured {
        Measured { ratio: f64::NAN, detail: format!("({why})") }
    }
}

/// Rounds of each figure that count; the median is told.
const ROUNDS: usize = 7;

const FIGURES: &[Figure] = &[
    Figure { name: "fault: userfaultfd 4 KiB p50 / bare loop", goal: Goal::AtMost(1.5), measure: fault::first_access },
    Figure { name: "read_at: 4 KiB hot page / memcpy", goal: Goal::AtMost(3.0), measure: handle::read_at },
    Figure { name: "read_at: from C / from Rust", goal: Goal::AtMost(1.2), measure: handle::read_at_from_c },
    Figure { name: "copy: 1 GiB tcp -> memory / bare pull", goal: Goal::AtLeast(0.8), measure: copy::over_tcp },
    Figure { name: "slice: direct, sequential, unix / bare pull", goal: Goal::AtLeast(0.6), measure: slice::direct },
    Figure { name: "slice: managed, sequential, unix / bare pull", goal: Goal::AtLeast(0.8), measure: slice::managed },
    Figure { name: "slice: write + sync, unix / bare push", goal: Goal::AtLeast(0.7), measure: slice::write },
    Figure { name: "slice: bytes pushed / dirtied", goal: Goal::AtMost(1.05), measure: slice::pushed },
    Figure { name: "slice: resident / plain memory", goal: Goal::AtLeast(0.95), measure: slice::resident },
    Figure { name: "slice: demand p99 under pull, ms", goal: Goal::AtMost(1.0), measure: slice::demand_p99 },
    Figure { name: "slice: demand p99 under pull / without", goal: Goal::AtMost(4.0), measure: slice::demand_ratio },
    Figure { name: "fuse: path, sequential / file directly", goal: Goal::AtLeast(0.2), measure: fuse::direct },
    Figure { name: "fuse: path, sequential / fuser pass-through", goal: Goal::AtLeast(1.0), measure: fuse::peer },
    Figure { name: "nbd: O_DIRECT / nbdkit memory", goal: Goal::AtLeast(1.0), measure: nbd::direct },
    Figure { name: "migrate: pause at 0 ms, ms", goal: Goal::AtMost(5.0), measure: migrate::pause_near },
    Figure { name: "migrate: pause at 30 ms beyond it, ms", goal: Goal::AtMost(10.0), measure: migrate::pause_far },
    Figure { name: "migrate: pause by rate of writes", goal: Goal::AtMost(1.5), measure: migrate::pause_by_rate },
    Figure { name: "migrate: pause on nbd, ms", goal: Goal::AtMost(15.0), measure: migrate::pause_nbd },
    Figure { name: "migrate: bytes sent / region", goal: Goal::AtMost(1.3), measure: migrate::sent },
    Figure { name: "migrate: total time / bare copy", goal: Goal::AtMost(1.5), measure: migrate::total },
    Figure { name: "migrate: writer slowed down, percent", goal: Goal::AtMost(20.0), measure: migrate::slow_down },
    Figure {
        name: "nbd server: nbdcopy 1 MiB / nbdkit, qemu-nbd",
        goal: Goal::AtLeast(1.0),
        measure: nbd_wire::server_long,
    },
    Figure {
        name: "nbd server: fio 4 KiB / nbdkit, qemu-nbd",
        goal: Goal::AtLeast(1.0),
        measure: nbd_wire::server_short,
    },
    Figure { name: "copy: nbd -> memory / nbdcopy", goal: Goal::AtLeast(0.9), measure: nbd_wire::client },
    Figure { name: "grpc: server / Go's grpc, 256 KiB", goal: Goal::AtLeast(1.5), measure: grpc::server },
    Figure { name: "native / grpc, 256 KiB", goal: Goal::AtLeast(1.3), measure: grpc::native },
    Figure { name: "redis: managed, sequential / redis-benchmark", goal: Goal::AtLeast(0.8), measure: stores::redis },
    #[cfg(feature = "cassandra")]
    Figure { name: "cassandra: managed, sequential / driver", goal: Goal::AtLeast(0.8), measure: cassandra::managed },
    Figure { name: "http: managed, sequential / curl", goal: Goal::AtLeast(0.8), measure: stores::http },
    Figure { name: "s3: managed, sequential / parallel curl", goal: Goal::AtLeast(0.8), measure: stores::s3 },
    Figure { name: "tls: 1 GiB tcp -> memory / in plain", goal: Goal::AtLeast(0.5), measure: tls::copied },
    Figure { name: "wan: read 256 MiB at 10 ms / at 0 ms", goal: Goal::AtLeast(0.9), measure: wan::read_10 },
    Figure { name: "wan: read 256 MiB at 30 ms / at 0 ms", goal: Goal::AtLeast(0.9), measure: wan::read_30 },
    Figure { name: "wan: read 1 GiB at 100 ms / at 0 ms", goal: Goal::AtLeast(0.85), measure: wan::read_100 },
    Figure { name: "wan: unshaped, time / allowed", goal: Goal::AtMost(1.0), measure: wan::unbounded },
    Figure { name: "wan: demand p99 under pull beyond RTT, ms", goal: Goal::AtMost(5.0), measure: wan::demand },
    Figure { name: "wan: first byte at 30 ms, ms", goal: Goal::AtMost(65.0), measure: wan::first_byte },
    Figure { name: "wan: write + sync at 30 ms / bare push", goal: Goal::AtLeast(0.8), measure: wan::write_speed },
    Figure { name: "wan: bytes pushed / dirtied", goal: Goal::AtMost(1.05), measure: wan::write_bytes },
    Figure { name: "wan: hot set with trace / without", goal: Goal::AtMost(0.2), measure: wan::trace },
    Figure { name: "wan: processor time of a pull / bare pull", goal: Goal::AtMost(2.0), measure: wan::processor_time },
    Figure { name: "state: KiB a GiB", goal: Goal::AtMost(160.0), measure: state::size },
    Figure { name: "open: 1 TiB / 1 GiB", goal: Goal::AtMost(1.2), measure: state::open },
];

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if wanted.first().is_some_and(|word| word == migrate::SOURCE) {
        return migrate::source_process(&wanted[1..]);
    }
    if let [grpc::SERVER, protocol] = wanted.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        return grpc::server_process(protocol);
    }
    let (mut missed, mut skipped) = (0, 0);
    println!("load {}", std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim());
    println!("{:<46} {:>9} {:>9}", "figure", "goal", "result");
    for figure in FIGURES {
        if !wanted.is_empty() && !wanted.iter().any(|word| figure.name.contains(word.as_str())) {
            continue;
        }
        let Measured { ratio, detail } = (figure.measure)();
        let (goal, met) = match figure.goal {
            Goal::AtMost(most) => (format!("<= {most}"), ratio <= most),
            Goal::AtLeast(least) => (format!(">= {least}"), ratio >= least),
        };
        let result = if ratio.is_nan() { "-".to_owned() } else { format!("{ratio:.2}") };
        let verdict = if ratio.is_nan() {
            skipped += 1;
            "SKIPPED"
        } else if met {
            "met    "
        } else {
            missed += 1;
            "NOT MET"
        };
        println!("{:<46} {goal:>9} {result:>9} {verdict} {detail}", figure.name);
    }
    println!("{missed} not met, {skipped} not measured");
}

/// The median.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Runs ours and the floor in turn, each first every other time, and compares their medians: `ours / floor`. The
/// first round warms up. Tells the medians as numbers of `unit`, and the least and greatest ratio of a round: far
/// apart where other programs take the processors.
pub fn ratio(mut ours: impl FnMut() -> f64, mut floor: impl FnMut() -> f64, unit: &str, scale: f64) -> Measured {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let (one, other) = if round % 2 == 0 {
            let one = ours();
            (one, floor())
        } else {
            let other = floor();
            (ours(), other)
        };
        if round > 0 {
            first.push(one);
            second.push(other);
        }
    }
    let rounds: Vec<f64> = first.iter().zip(&second).map(|(one, other)| one / other).collect();
    let least = rounds.iter().copied().fold(f64::INFINITY, f64::min);
    let greatest = rounds.iter().copied().fold(0.0, f64::max);
    let (ours, floor) = (median(first), median(second));
    let (shown, against) = (ours * scale, floor * scale);
    Measured {
        ratio: ours / floor,
        detail: format!("({shown:.1} against {against:.1} {unit}; rounds {least:.2} to {greatest:.2})"),
    }
}

/// The same as speeds of moving `bytes`: `floor time / our time`.
pub fn speed(bytes: u64, mut ours: impl FnMut() -> f64, mut floor: impl FnMut() -> f64) -> Measured {
    let size = bytes as f64 / (1 << 20) as f64;
    ratio(move || size / ours(), move || size / floor(), "MiB/s", 1.0)
}

/// A directory for what a figure needs, removed with all in it at the end.
pub struct Directory(PathBuf);

impl Directory {
    /// A new, empty one.
    pub fn fresh() -> Directory {
        Directory::at(&std::env::temp_dir())
    }

    /// One whose files are in memory, where the machine has such a place.
    pub fn in_memory() -> Directory {
        let memory = Path::new("/dev/shm");
        Directory::at(if memory.is_dir() { memory } else { Path::new("/tmp") })
    }

    fn at(parent: &Path) -> Directory {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("r3map-bench-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// How long it takes, in seconds.
pub fn time(body: impl FnOnce()) -> f64 {
    let start = Instant::now();
    body();
    start.elapsed().as_secs_f64()
}

/// The value that this share of the samples does not exceed.
pub fn percentile(mut samples: Vec<Duration>, share: f64) -> f64 {
    samples.sort();
    samples[((samples.len() - 1) as f64 * share) as usize].as_secs_f64()
}
