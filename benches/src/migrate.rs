//! A region that is written all the time and moves to another mount over a network one can shape.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use r3map_chaos::{Conditions, Direction, GIGABIT, Network};
use r3map_core::device::View;
use r3map_core::{BackendOptions, DeviceChoice, Leecher, MountOptions, SeedOptions, SeedState, Slice};

use crate::slice::source;
use crate::{Measured, floor, median};

const PAGE: usize = 4096;
const GIB: u64 = 1 << 30;
/// What the writer goes round in.
const HOT: usize = 64 << 20;
/// Far more than any of this takes.
const SOON: Duration = Duration::from_secs(120);
/// Migrations of which the median is told.
const ROUNDS: usize = 5;

/// One migration.
#[derive(Clone)]
struct Plan {
    size: u64,
    device: DeviceChoice,
    network: Conditions,
    /// Bytes a second that the app writes; `None` is as fast as it can.
    writes: Option<u64>,
    /// When it is finalized.
    when: &'static str,
}

impl Plan {
    fn new(network: Conditions, writes: Option<u64>) -> Plan {
        Plan { size: GIB, device: DeviceChoice::Userfaultfd, network, writes, when: "90%" }
    }
}

/// What came of it.
struct Outcome {
    /// From the app's last write at the source to its first at the destination.
    pause: f64,
    /// From connecting to the last byte.
    total: f64,
    /// Bytes that went to the destination.
    sent: u64,
    /// Pages written a second, before and while it was tracked.
    before: f64,
    during: f64,
}

/// An app that writes a page after the other of its hot set.
struct Writer {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    thread: JoinHandle<u64>,
}

fn write(slice: &Slice, page: u64) {
    let at = page as usize * PAGE % HOT.min(slice.len());
    // SAFETY: inside the slice of an open mount, which nobody else touches.
    unsafe { std::ptr::write_bytes(slice.as_ptr().add(at), page as u8 | 1, PAGE) };
}

impl Writer {
    fn start(slice: Slice, rate: Option<u64>) -> Writer {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (asked, count) = (stop.clone(), written.clone());
        let thread = std::thread::spawn(move || {
            let begun = Instant::now();
            let mut page = 0;
            while !asked.load(Ordering::Relaxed) {
                let due =
                    rate.map_or(u64::MAX, |rate| (begun.elapsed().as_secs_f64() * rate as f64) as u64 / PAGE as u64);
                if page >= due {
                    std::thread::sleep(Duration::from_micros(200));
                    continue;
                }
                write(&slice, page);
                page += 1;
                count.store(page, Ordering::Relaxed);
            }
            // Also one that hardly writes has a last word.
            write(&slice, page);
            count.store(page + 1, Ordering::Relaxed);
            now()
        });
        Writer { stop, written, thread }
    }

    /// Pages a second over the time that `body` takes.
    fn speed<T>(&self, body: impl FnOnce() -> T) -> (T, f64) {
        let (begun, before) = (Instant::now(), self.written.load(Ordering::Relaxed));
        let result = body();
        let pages = self.written.load(Ordering::Relaxed) - before;
        (result, pages as f64 / begun.elapsed().as_secs_f64())
    }

    /// Stops it; says how far it came and when it wrote last.
    fn stop(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        let last = self.thread.join().unwrap();
        (self.written.load(Ordering::Relaxed), last)
    }
}

/// Nanoseconds of a clock that all processes of this host share.
fn now() -> u64 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}

/// The word with which this program is started as the source of a migration: a process of its own, since what one
/// does to its address space would hold up the other's faults.
pub const SOURCE: &str = "--source-of-a-migration";

/// The app at the source: it writes until it is asked to stop, hands over how far it came and when it wrote last, and
/// says how fast it was.
pub fn source_process(words: &[String]) {
    let [size, device, rate] = words else { panic!("SIZE DEVICE RATE") };
    let (size, rate) = (size.parse().unwrap(), rate.parse().ok());
    let mount = MountOptions::default().device(device.parse().unwrap()).open(source(size)).unwrap();
    let slice = mount.slice().unwrap();
    if device == "userfaultfd" {
        mount.pull(0, size).unwrap();
    }
    let writer = Writer::start(slice, rate);
    let pause = Duration::from_millis(if rate.is_none() { 1000 } else { 100 });
    let ((), before) = writer.speed(|| std::thread::sleep(pause));
    let seeder = mount.seed("127.0.0.1:0", &SeedOptions::default()).unwrap();
    println!("{}", seeder.url().unwrap());
    let mut after = 0;
    let mut until = |state| loop {
        let event = seeder.next(after, SOON).unwrap();
        after = event.sequence;
        if event.state == state {
            return after;
        }
    };
    until(SeedState::Tracking);
    let (sequence, during) = writer.speed(|| until(SeedState::Suspending));
    let (page, last) = writer.stop();
    seeder.suspended(sequence, &[page.to_le_bytes(), last.to_le_bytes()].concat()).unwrap();
    seeder.wait_drained(SOON).unwrap();
    println!("{before} {during}");
    seeder.close().unwrap();
    mount.discard().unwrap();
}

fn migrate(plan: &Plan) -> Outcome {
    let device = match plan.device {
        DeviceChoice::Userfaultfd => "userfaultfd",
        _ => "nbd",
    };
    let rate = plan.writes.map_or("any".to_owned(), |rate| rate.to_string());
    let mut source = Command::new(std::env::current_exe().unwrap())
        .args([SOURCE, &plan.size.to_string(), device, &rate])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(source.stdout.take().unwrap()).lines();
    let url = said.next().expect("the source's URL").unwrap();
    let network = Network::to(url.split('/').nth(2).unwrap(), plan.network.clone()).unwrap();

    let begun = Instant::now();
    let options = MountOptions { prepare: Some(View::Slice), ..MountOptions::default().device(plan.device.clone()) };
    let leecher = Leecher::open(&network.url("region"), "memory:", options, &BackendOptions::default()).unwrap();
    let arrived = leecher.finalize_when(plan.when, SOON).unwrap();
    let slice = arrived.slice().unwrap();
    let (page, last) = arrived.payload().split_at(8);
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
    write(&slice, number(page));
    let pause = now() - number(last);
    let speeds = said.next().expect("the source's speeds").unwrap();
    let total = begun.elapsed().as_secs_f64();
    let (before, during) = speeds.split_once(' ').unwrap();
    let sent = network.passed(Direction::Down);
    arrived.close().unwrap();
    leecher.close().unwrap();
    assert!(source.wait().unwrap().success());
    Outcome { pause: pause as f64 / 1e9, total, sent, before: before.parse().unwrap(), during: during.parse().unwrap() }
}

fn outcomes(plan: &Plan) -> Vec<Outcome> {
    (0..=ROUNDS).map(|_| migrate(plan)).skip(1).collect()
}

fn pause(plan: &Plan) -> (f64, String) {
    let pauses: Vec<f64> = outcomes(plan).iter().map(|outcome| outcome.pause * 1e3).collect();
    let least = pauses.iter().copied().fold(f64::INFINITY, f64::min);
    let greatest = pauses.iter().copied().fold(0.0, f64::max);
    (median(pauses), format!("{least:.2} to {greatest:.2} ms"))
}

fn gigabit() -> Conditions {
    Conditions::default().with_rate(GIGABIT)
}

/// Milliseconds without a network's delay, at 200 MB/s.
pub fn pause_near() -> Measured {
    let (ratio, detail) = pause(&Plan::new(Conditions::default(), Some(200_000_000)));
    Measured { ratio, detail: format!("({detail})") }
}

/// Milliseconds beyond a round trip of 30 ms.
pub fn pause_far() -> Measured {
    let (pause, detail) = pause(&Plan::new(Conditions::round_trip(Duration::from_millis(30)), Some(200_000_000)));
    Measured { ratio: pause - 30.0, detail: format!("({detail} with the round trip)") }
}

/// The longest median of three rates of writing by the shortest.
pub fn pause_by_rate() -> Measured {
    let rates = [50_000_000, 200_000_000, 800_000_000];
    let pauses: Vec<_> = rates.iter().map(|rate| pause(&Plan::new(Conditions::default(), Some(*rate)))).collect();
    let least = pauses.iter().map(|(pause, _)| *pause).fold(f64::INFINITY, f64::min);
    let greatest = pauses.iter().map(|(pause, _)| *pause).fold(0.0, f64::max);
    let shown: Vec<String> = pauses.iter().map(|(pause, _)| format!("{pause:.2}")).collect();
    Measured { ratio: greatest / least, detail: format!("({} ms at 50, 200, 800 MB/s)", shown.join(", ")) }
}

/// Milliseconds on nbd, where nobody writes but the last page.
pub fn pause_nbd() -> Measured {
    if let Err(error) = r3map_core::device::Kind::Nbd.probe() {
        return Measured::skipped(error.message());
    }
    let plan = Plan {
        size: 256 << 20,
        device: DeviceChoice::Nbd(None),
        when: "100%",
        ..Plan::new(Conditions::default(), Some(1))
    };
    let (ratio, detail) = pause(&plan);
    Measured { ratio, detail: format!("({detail})") }
}

/// Bytes sent by the region's, written at 50 MB/s, over a gigabit.
pub fn sent() -> Measured {
    let plan = Plan::new(gigabit(), Some(50_000_000));
    let sent = migrate(&plan).sent;
    Measured { ratio: sent as f64 / plan.size as f64, detail: format!("({} MiB)", sent >> 20) }
}

/// The time that took by the time of a bare pull over the same link.
pub fn total() -> Measured {
    let plan = Plan::new(gigabit(), Some(50_000_000));
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        ours.push(migrate(&plan).total);
        bare.push(floor::pull_through(plan.size, &plan.network));
    }
    let (ours, bare) = (median(ours), median(bare));
    Measured { ratio: ours / bare, detail: format!("({ours:.1} against {bare:.1} s)") }
}

/// How much slower an app writes that is tracked and pulled over a gigabit, of its speed before, in percent.
pub fn slow_down() -> Measured {
    let plan = Plan::new(gigabit(), None);
    let mut slower = Vec::new();
    let mut detail = String::new();
    for _ in 0..3 {
        let Outcome { before, during, .. } = migrate(&Plan { when: "75%", ..plan.clone() });
        slower.push((1.0 - during / before) * 100.0);
        detail = format!("({:.0} thousand pages a second before, {:.0} during)", before / 1e3, during / 1e3);
    }
    Measured { ratio: median(slower), detail }
}
