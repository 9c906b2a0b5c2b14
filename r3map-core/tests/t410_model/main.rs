//! 410: random reads, writes, zeroes, syncs and reopenings against a plain array of bytes, on every device and in
//! both modes.
//!
//! A failure prints its seed; `R3MAP_SEED=n` runs that case alone, `R3MAP_MODEL_SECONDS` says for how long each
//! test tries new ones.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use r3map_core::backend::memory::Memory;
use r3map_core::{Code, DeviceChoice, Mode, Mount, MountOptions, Pull};

mod random;
#[path = "../../../tests/skip.rs"]
mod skip;
mod store;
mod view;

use random::Random;
use store::{Kind, Store};
use view::{Shape, View};

const THREADS: u64 = 3;

/// What one seed tries.
#[derive(Debug)]
struct Case {
    shape: Shape,
    kind: Kind,
    size: u64,
    /// Whether pages are kept in a file, which the next mount goes on with.
    cached: bool,
    options: MountOptions,
}

impl Case {
    fn of(seed: u64, shape: Shape) -> (Case, Random) {
        let mut random = Random::new(seed);
        let odd = random.below(9 << 20) + 1;
        let sizes = [1, 4095, 4096, 4097, 65_535, 65_537, (1 << 20) + 1234, 2 << 20, (4 << 20) + 1, odd];
        let mode = random.one_of(&[Mode::Direct, Mode::Managed, Mode::Managed]);
        // A write that a direct mount or a file's descriptor was refused is lost, and they say so for ever.
        let keeps = mode == Mode::Managed && matches!(shape, Shape::Handle | Shape::Userfaultfd);
        let kind = random.one_of(&[Kind::Memory, Kind::File, Kind::Directory, Kind::Slow, Kind::Failing, Kind::Remote]);
        let kind = if matches!(kind, Kind::Failing) && !keeps { Kind::Slow } else { kind };
        let options = MountOptions {
            mode,
            device: shape.device().map_or(DeviceChoice::Auto, |(_, choice)| choice),
            chunk_size: Some(4096 << random.below(11)),
            pull: random.one_of(&[Pull::Background, Pull::Demand]),
            push_interval: Duration::from_millis(random.one_of(&[0, 1, 5, 1000])),
            max_in_flight: random.one_of(&[None, Some(4096), Some(1 << 20)]),
            deadline: Duration::from_secs(20),
            ..MountOptions::default()
        };
        let cached = mode == Mode::Managed && shape == Shape::Handle && random.below(2) == 0;
        let options = MountOptions { cache_trust: cached, ..options };
        (Case { shape, kind, size: random.one_of(&sizes), cached, options }, random)
    }
}

/// A case under way.
struct Run {
    case: Case,
    store: Store,
    random: Random,
    mount: Mount,
    view: View,
    /// What the region holds.
    model: Vec<u8>,
}

impl Run {
    fn new(seed: u64, shape: Shape) -> Run {
        let (mut case, mut random) = Case::of(seed, shape);
        // Stretches of bytes and of nothing: a backend may tell zeroes without sending them.
        let mut model = vec![0; case.size as usize];
        for _ in 0..random.below(20) {
            let range = random.range(case.size, 1 << 20);
            let mut value = random.next() as u8;
            for byte in &mut model[range.start as usize..range.end as usize] {
                *byte = value;
                value = value.wrapping_add(1);
            }
        }
        let store = Store::new(case.kind, &model, seed);
        case.options.cache = case.cached.then(|| store.cache());
        let mount = case.options.clone().open(store.open(&mut random)).unwrap();
        let view = View::of(&mount, shape);
        Run { case, store, random, mount, view, model }
    }

    fn expect(&self, what: &str, seen: &[u8], offset: u64) {
        let wanted = &self.model[offset as usize..offset as usize + seen.len()];
        if let Some(at) = seen.iter().zip(wanted).position(|(seen, wanted)| seen != wanted) {
            let (place, length) = (offset as usize + at, seen.len());
            panic!("{what} of {length} at {offset}: {} at {place}, not {}", seen[at], wanted[at]);
        }
    }

    /// One step of an app that is alone.
    fn step(&mut self) {
        let range = self.random.range(self.case.size, 1 << 20);
        let (offset, length) = (range.start, range.end - range.start);
        let place = range.start as usize..range.end as usize;
        // Now and then by the handle beside the view: they are to agree.
        let handle = View::Handle(self.mount.clone());
        let view = if self.random.below(6) == 0 { &handle } else { &self.view };
        match self.random.below(100) {
            0..40 => {
                let mut seen = vec![0xA5; length as usize];
                view.read(&mut seen, offset);
                self.expect("a read", &seen, offset);
            }
            40..80 => {
                let value = self.random.next() as u8;
                let data: Vec<u8> = (0..length).map(|at| value.wrapping_add((at % 251) as u8)).collect();
                view.write(&data, offset);
                self.model[place].copy_from_slice(&data);
            }
            80..88 => {
                view.zero(offset, length);
                self.model[place].fill(0);
            }
            88..94 => self.sync(),
            94..96 if self.case.options.mode == Mode::Managed => self.mount.pull(offset, length).unwrap(),
            96..98 if self.case.options.mode == Mode::Managed => self.mount.prefetch(offset, length).unwrap(),
            98..100 => {
                drop(handle);
                self.reopen();
            }
            _ => {}
        }
    }

    /// Until it succeeds where the store refuses writes: every failure is one, and none is for ever.
    fn insist(&self, what: &str, attempt: impl Fn() -> r3map_core::Result<()>) {
        for _ in 0..500 {
            match attempt() {
                Ok(()) => return,
                Err(error) => assert!(matches!(self.case.kind, Kind::Failing), "{what}: {error}"),
            }
        }
        panic!("{what} failed 500 times over");
    }

    fn sync(&mut self) {
        self.insist("sync", || self.mount.sync());
        self.expect("after sync the store", &self.store.bytes(), 0);
    }

    /// Dropped as it is: the next mount has its cache, and pushes what this one did not.
    fn drop_and_reopen(&mut self) {
        self.mount = MountOptions::default().open(Arc::new(Memory::new(1).unwrap())).unwrap();
        self.view = View::Handle(self.mount.clone());
        let until = Instant::now() + self.case.options.deadline;
        self.mount = loop {
            match self.case.options.clone().open(self.store.open(&mut self.random)) {
                // A push of the last one may be on its way still.
                Err(error) if error.code() == Code::Busy && Instant::now() < until => {}
                mount => break mount.unwrap(),
            }
        };
        self.view = View::of(&self.mount, self.case.shape);
    }

    fn reopen(&mut self) {
        if self.case.cached && self.random.below(2) == 0 {
            return self.drop_and_reopen();
        }
        self.view = View::Handle(self.mount.clone());
        self.insist("close", || self.mount.close());
        self.expect("after close the store", &self.store.bytes(), 0);
        self.mount = self.case.options.clone().open(self.store.open(&mut self.random)).unwrap();
        self.view = View::of(&self.mount, self.case.shape);
    }

    fn expect_all(&mut self) {
        let mut seen = vec![0xA5; self.model.len()];
        self.view.read(&mut seen, 0);
        self.expect("a read of all", &seen, 0);
    }

    /// Threads that each write bytes of their own, at every third place of odd pieces.
    fn disjoint(&mut self) {
        let (size, view) = (self.case.size, &self.view);
        let piece = 1 + self.random.below(9000);
        let seeds: Vec<u64> = (0..THREADS).map(|_| self.random.next()).collect();
        let body = |thread: u64| {
            let mut random = Random::new(seeds[thread as usize]);
            let mut wrote = Vec::new();
            let pieces = (size / piece + 1).saturating_sub(thread).div_ceil(THREADS);
            for _ in 0..if pieces == 0 { 0 } else { 60 } {
                let start = (random.below(pieces) * THREADS + thread) * piece;
                if start >= size {
                    continue;
                }
                let within = random.range(size.min(start + piece) - start, piece);
                let (start, end) = (start + within.start, start + within.end);
                let data = vec![random.next() as u8; (end - start) as usize];
                view.write(&data, start);
                let mut seen = vec![0; data.len()];
                view.read(&mut seen, start);
                assert!(seen == data, "a thread's own bytes at {start} changed under it");
                wrote.push((start as usize, data));
            }
            wrote
        };
        let wrote = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || body(thread))).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        for (start, data) in wrote {
            self.model[start..start + data.len()].copy_from_slice(&data);
        }
        self.expect_all();
    }

    /// Threads that write over each other: each byte ends as one of the values written to it at the same time.
    fn overlapping(&mut self) {
        for _ in 0..8 {
            let middle = self.random.below(self.case.size);
            let writes: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let range = self.random.range(self.case.size, 200_000);
                    let far = range.start.abs_diff(middle) / 2;
                    let start = if range.start < middle { range.start + far } else { range.start - far };
                    let end = self.case.size.min(start + (range.end - range.start));
                    (start, vec![(thread + 1) as u8 * 50 + self.random.below(40) as u8; (end - start) as usize])
                })
                .collect();
            let barrier = Barrier::new(writes.len());
            std::thread::scope(|scope| {
                for (start, data) in &writes {
                    let (view, barrier) = (&self.view, &barrier);
                    scope.spawn(move || {
                        barrier.wait();
                        view.write(data, *start);
                    });
                }
            });
            let mut seen = vec![0; self.model.len()];
            self.view.read(&mut seen, 0);
            for (start, data) in &writes {
                let place = *start as usize..*start as usize + data.len();
                for (at, value) in place.clone().zip(&seen[place.clone()]) {
                    let wrote = |(start, data): &(u64, Vec<u8>)| {
                        (*start as usize..*start as usize + data.len()).contains(&at) && data[0] == *value
                    };
                    assert!(writes.iter().any(wrote), "{value} at {at} was written by nobody");
                }
                self.model[place.clone()].copy_from_slice(&seen[place]);
            }
            self.expect("a read of all", &seen, 0);
        }
    }
}

fn run(seed: u64, shape: Shape) {
    let mut run = Run::new(seed, shape);
    for _ in 0..60 {
        run.step();
    }
    run.disjoint();
    run.overlapping();
    for _ in 0..10 {
        run.step();
    }
    run.reopen();
    run.expect_all();
    run.view = View::Handle(run.mount.clone());
    run.insist("close", || run.mount.close());
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is not a number: {value}")))
}

fn explore(shape: Shape) {
    if let Some((kind, _)) = shape.device() {
        if let Err(error) = kind.probe() {
            let reason = format!("{shape:?}: {error}");
            return if kind == r3map_core::device::Kind::Nbd {
                skip::leave_to_guest(reason)
            } else {
                skip::skip(reason)
            };
        }
    }
    let until = Instant::now() + Duration::from_secs(number("R3MAP_MODEL_SECONDS").unwrap_or(4));
    let (first, only) = number("R3MAP_SEED").map_or((1, false), |seed| (seed, true));
    let mut seed = first;
    loop {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(seed, shape))) {
            eprintln!("R3MAP_SEED={seed} runs this again: {:?}", Case::of(seed, shape).0);
            resume_unwind(panic);
        }
        if only || Instant::now() > until {
            println!("{shape:?}: {} cases", seed - first + 1);
            return;
        }
        seed += 1;
    }
}

#[test]
fn a_handle_agrees_with_a_plain_array() {
    explore(Shape::Handle);
}

#[test]
fn a_slice_of_userfaultfd_agrees_with_a_plain_array() {
    explore(Shape::Userfaultfd);
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "only debug builds can be told what a kernel lacks")]
fn a_slice_of_userfaultfd_agrees_with_it_where_writes_are_found_by_faults() {
    // Linux 6.1: missing and minor faults and write protection of shared memory, none of what came later.
    let features = (1 << 5 | 1 << 10 | 1 << 12).to_string();
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", "a_slice_of_userfaultfd_agrees_with_a_plain_array", "--nocapture"]);
    let output = again.env("R3MAP_USERFAULTFD_FEATURES", features).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    println!("{said}");
}

#[test]
fn a_file_of_fuse_agrees_with_a_plain_array() {
    explore(Shape::Fuse);
}

#[test]
fn a_file_of_nbd_agrees_with_a_plain_array() {
    explore(Shape::NbdFile);
}

#[test]
fn a_slice_of_nbd_agrees_with_a_plain_array() {
    explore(Shape::NbdSlice);
}
