//! 420: the page states under every order of readers, writers, trimmers, puller, pusher, scanner and sync.
//!
//! This runs the code that ships, on primitives of a scheduler that follows a seed (`r3map-core/src/sync.rs`),
//! over a remote that answers in any order and fails. A failure prints its seed; `R3MAP_SEED=n` runs the schedules
//! of that seed alone, `R3MAP_MODEL_SECONDS` says for how long each test tries new ones.
//!
//! That it can fail was tried by breaking the code by hand, one line at a time, for five seconds a test. `rows` are
//! the tests of `r3map-core/src/region/tests.rs`, whose names say the row.
//!
//! | Broken | Seen by |
//! |---|---|
//! | ABSENT → FETCHING not marked, so that it is asked for twice | rows, this |
//! | a landing fetch takes CLEAN and DIRTY pages too | rows, this |
//! | a landing fetch does not look at what is lost; a writer or trim does not lose it | rows |
//! | FILLING → CLEAN before the bytes | this |
//! | FILLING → ZERO never; a failed FETCHING page never ABSENT | rows, this |
//! | a whole page written is left CLEAN | rows, this |
//! | a writer marks before its bytes; no CLEAN → DIRTY; no PUSHING → REDIRTIED | this, the last two also rows (hang) |
//! | no EVICTING → DIRTY, no QUIET → DIRTY | rows (hang) |
//! | DIRTY → PUSHING leaves it to be pushed again at once | rows, this |
//! | a push counts as begun after its pages are taken | this |
//! | a push acknowledged makes REDIRTIED CLEAN; one that failed makes PUSHING CLEAN or is forgotten | rows |
//! | a page being filled when its push ends is passed over; so by a sync or the scanner | this |
//! | a trim of a page being pushed does not mark it; one that finds it DIRTY passes it over | rows |
//! | a sync goes one round | rows |
//! | a run of no pages from `next_run` | this |

use std::fs::File;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};
use r3map_core::Result;
use r3map_core::backend::{Completion, Reply};
use r3map_core::buffer::Buffer;
use r3map_core::cancel::{Limit, Waiter};
use r3map_core::page::{PAGE, Set, State};
use r3map_core::region::{Again, Ahead, Region, Wait, Want};
use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, Runner, thread};

mod history;
mod mapping;
mod remote;

use history::History;
use mapping::Mapping;
use remote::Remote;

/// The unit of what the test reads and writes: half a page, so that pages are written in part.
const CELL: u64 = PAGE / 2;
/// Four pages, the last one short.
const SIZE: u64 = 3 * PAGE + CELL + 52;
const CELLS: usize = SIZE.div_ceil(CELL) as usize;
/// Schedules of one seed.
const SCHEDULES: usize = 40;

fn bytes_of(cells: &Range<usize>) -> Range<u64> {
    cells.start as u64 * CELL..(cells.end as u64 * CELL).min(SIZE)
}

/// A region over a remote, and everything that was ever written to it.
struct World {
    region: Arc<Region>,
    remote: Arc<Remote>,
    mapping: Option<Arc<Mapping>>,
    history: History,
    next: std::sync::Mutex<u8>,
}

#[derive(Clone, Copy, Debug)]
enum Actor {
    Reader,
    Writer,
    Trimmer,
    Puller,
    Pusher,
    Syncer,
    Loader,
    Storer,
}

impl World {
    fn new(mapped: bool) -> Arc<World> {
        let mut random = thread_rng();
        // Zero pages come without bytes; no other value is zero.
        let zero_page = random.gen_range(0..6);
        let value = |cell: usize| if cell / 2 == zero_page { 0 } else { cell as u8 + 1 };
        let bytes: Vec<u8> = (0..SIZE).map(|at| value((at / CELL) as usize)).collect();
        let chunk_size = if random.gen_bool(0.5) { 2 * PAGE } else { PAGE };
        let remote = Remote::new(bytes, chunk_size as u32, random.gen_bool(0.5));
        let store = File::from(memfd_create(c"pages", MFdFlags::MFD_CLOEXEC).unwrap());
        store.set_len(SIZE.next_multiple_of(PAGE)).unwrap();
        let region = Arc::new(Region::new(remote.clone(), store, None).unwrap());
        let mapping = mapped.then(|| Mapping::new(&region));
        if let Some(mapping) = &mapping {
            region.set_window(Some(mapping.clone()));
        }
        let history = History::new((0..CELLS).map(value));
        Arc::new(World { region, remote, mapping, history, next: std::sync::Mutex::new(CELLS as u8 + 1) })
    }

    fn value(&self) -> u8 {
        let mut next = self.next.lock().unwrap();
        *next += 1;
        *next
    }

    fn ahead(&self) -> Ahead {
        let again = thread_rng().gen_bool(0.5);
        Arc::new(move |pages| {
            let page = pages.start;
            let again = if again { Again::YES } else { Again::No };
            Want { asked: page..page + 1, pages: page / 2 * 2..page + 1, apart: thread_rng().gen_bool(0.5), again }
        })
    }

    fn expect(&self, what: &str, bytes: &[u8], cells: Range<usize>, since: u64) {
        let start = bytes_of(&cells).start;
        for cell in cells {
            let range = bytes_of(&(cell..cell + 1));
            let seen = &bytes[(range.start - start) as usize..(range.end - start) as usize];
            let value = seen[0];
            assert!(seen.iter().all(|byte| *byte == value), "{what}: a torn cell {cell}");
            let told = || self.history.tell(cell);
            assert!(self.history.allows(cell, value, since), "{what}: {value} in {cell} at {since}: {}", told());
        }
    }

    fn wait(&self, begin: impl FnOnce(Wait)) -> Result<Reply> {
        let (waiter, notifier) = Waiter::new();
        begin(Wait { completion: Completion::new(move |outcome| notifier.notify(outcome)), deadline: None });
        let outcome = waiter.wait(&Limit::none(), "test").unwrap();
        assert!(outcome.is_ok() || self.remote.failures() > 0, "an error though nothing failed");
        outcome
    }

    fn act(&self, actor: Actor) {
        let most = thread_rng().gen_range(1..4);
        for _ in 0..most {
            let start = thread_rng().gen_range(0..CELLS);
            let cells = start..thread_rng().gen_range(start + 1..=CELLS.min(start + 4));
            let bytes = bytes_of(&cells);
            match actor {
                Actor::Reader => {
                    let since = self.history.now();
                    let buffer = Buffer::new((bytes.end - bytes.start) as usize);
                    if let Ok(Reply::Data(seen)) =
                        self.wait(|wait| self.region.read(buffer, bytes.start, wait, self.ahead()))
                    {
                        self.expect("read", &seen, cells, since);
                    }
                }
                Actor::Writer => {
                    let value = self.value();
                    let mut data = Buffer::new((bytes.end - bytes.start) as usize);
                    data.fill(value);
                    let begun = self.history.begin(cells, value);
                    if self.wait(|wait| self.region.write(data, bytes.start, wait, self.ahead())).is_ok() {
                        self.history.acknowledge(begun);
                    }
                }
                Actor::Trimmer => {
                    let begun = self.history.begin(cells, 0);
                    let length = bytes.end - bytes.start;
                    if self.wait(|wait| self.region.zero(bytes.start, length, wait, self.ahead())).is_ok() {
                        self.history.acknowledge(begun);
                    }
                }
                Actor::Puller => drop(self.region.fetch(bytes.start / PAGE..SIZE.div_ceil(PAGE), None)),
                Actor::Pusher => {
                    self.region.collect().unwrap();
                    let mut from = 0;
                    if thread_rng().gen_bool(0.5) {
                        let shortest = thread_rng().gen_range(1..3);
                        while let Some(runs) = self.region.push_quiet(from, shortest, None) {
                            from = runs.last().map_or(from, |run| run.end);
                        }
                        let left = thread_rng().gen_range(0..5);
                        self.region.quieten(|page| page == left);
                        continue;
                    }
                    while let Some(next) = self.region.push_next(from, None) {
                        from = next;
                    }
                }
                Actor::Syncer => self.sync(),
                Actor::Loader => {
                    let cell = cells.start..cells.start + 1;
                    let mut seen = vec![0; (bytes_of(&cell).end - bytes.start) as usize];
                    let since = self.history.now();
                    if self.mapping().load(&self.region, &mut seen, bytes.start).is_ok() {
                        self.expect("load", &seen, cell, since);
                    }
                }
                Actor::Storer => {
                    let (value, cell) = (self.value(), cells.start..cells.start + 1);
                    let data = vec![value; (bytes_of(&cell).end - bytes.start) as usize];
                    let begun = self.history.begin(cell, value);
                    if self.mapping().store(&self.region, &data, bytes.start).is_ok() {
                        self.history.acknowledge(begun);
                    }
                }
            }
        }
    }

    fn mapping(&self) -> &Mapping {
        self.mapping.as_ref().unwrap()
    }

    /// What was acknowledged before a sync that succeeds is at the remote; one fails only if a push failed.
    fn sync(&self) {
        let since = self.history.now();
        let failed = self.remote.told_pushes();
        let window = thread_rng().gen_range(1..4) * PAGE;
        match self.region.push_all(window, &Limit::none()) {
            Ok(()) => self.expect("synced", &self.remote.bytes(), 0..CELLS, since),
            Err(error) => assert!(self.remote.failed_pushes() > failed, "{error}, but no push failed since"),
        }
    }

    /// After everybody is done nothing is under way, and the remote has everything.
    fn expect_quiet(&self) {
        let states = self.region.states();
        let at_rest = Set::of(&[State::Absent, State::Clean, State::Zero]);
        for page in 0..states.pages() {
            assert!(at_rest.has(states.get(page)), "page {page} is left {:?}", states.get(page));
        }
        assert_eq!((self.region.fetching_bytes(), self.region.pushing_bytes(), self.region.dirty_bytes()), (0, 0, 0));
        let here = (0..states.pages()).filter(|page| states.get(*page) != State::Absent).count() as u64;
        assert_eq!(states.count(Set::LOCAL), here);
        let remote = self.remote.bytes();
        self.expect("left at the remote", &remote, 0..CELLS, self.history.now());
        for page in 0..states.pages() {
            let bytes = self.region.bytes_of(&(page..page + 1));
            let mut seen = vec![0; (bytes.end - bytes.start) as usize];
            if let Some(read) = self.region.try_read(&mut seen, bytes.start) {
                read.unwrap();
                assert!(
                    seen == remote[bytes.start as usize..bytes.end as usize],
                    "page {page} differs from the remote"
                );
            }
        }
    }
}

fn run(actors: &'static [Actor], mapped: bool) {
    let world = World::new(mapped);
    let servers: Vec<_> = (0..2)
        .map(|_| {
            let remote = world.remote.clone();
            thread::spawn(move || remote.serve())
        })
        .collect();
    // Few at once, or the orders of any two of them are seldom the interesting ones.
    let threads: Vec<_> = (0..thread_rng().gen_range(2..6))
        .map(|_| {
            let (world, actor) = (world.clone(), actors[thread_rng().gen_range(0..actors.len())]);
            thread::spawn(move || world.act(actor))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    world.remote.repair();
    let since = world.history.now();
    // Requests from before the repair may still fail, each but once.
    while let Err(error) = world.region.push_all(SIZE, &Limit::none()) {
        assert!(world.remote.failed_pushes() > 0, "{error}");
    }
    world.expect("synced at last", &world.remote.bytes(), 0..CELLS, since);
    world.remote.end();
    servers.into_iter().for_each(|thread| thread.join().unwrap());
    world.region.set_window(None);
    world.expect_quiet();
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is not a number: {value}")))
}

/// Runs the schedules of one seed after the other.
fn explore<S: Scheduler + 'static>(scheduler: impl Fn(u64) -> S, body: impl Fn() + Clone + Send + Sync + 'static) {
    let mut config = Config::new();
    config.stack_size = 256 << 10;
    config.silence_warnings = true;
    config.failure_persistence = shuttle::FailurePersistence::None;
    let until = Instant::now() + Duration::from_secs(number("R3MAP_MODEL_SECONDS").unwrap_or(4));
    let (first, only) = number("R3MAP_SEED").map_or((1, false), |seed| (seed, true));
    let mut seed = first;
    loop {
        let runner = Runner::new(scheduler(seed), config.clone());
        let body = body.clone();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| runner.run(body))) {
            eprintln!("a schedule of this seed failed: R3MAP_SEED={seed} runs them again");
            resume_unwind(panic);
        }
        if only || Instant::now() > until {
            println!("{} schedules", (seed - first + 1) * SCHEDULES as u64);
            return;
        }
        seed += 1;
    }
}

const HANDLES: &[Actor] =
    &[Actor::Reader, Actor::Writer, Actor::Writer, Actor::Trimmer, Actor::Puller, Actor::Pusher, Actor::Syncer];
const MAPPED: &[Actor] = &[
    Actor::Reader,
    Actor::Writer,
    Actor::Puller,
    Actor::Pusher,
    Actor::Syncer,
    Actor::Loader,
    Actor::Storer,
    Actor::Storer,
];

#[test]
fn no_order_of_reads_writes_trims_pulls_and_pushes_loses_or_ages_a_byte() {
    explore(|seed| RandomScheduler::new_from_seed(seed, SCHEDULES), || run(HANDLES, false));
}

#[test]
fn few_changes_of_turn_at_the_worst_moments_lose_or_age_no_byte() {
    explore(|seed| PctScheduler::new_from_seed(seed, 4, SCHEDULES), || run(HANDLES, false));
}

#[test]
fn stores_through_a_mapping_are_never_lost_and_no_page_is_installed_twice() {
    explore(|seed| RandomScheduler::new_from_seed(seed, SCHEDULES), || run(MAPPED, true));
}

#[test]
fn stores_through_a_mapping_survive_few_changes_of_turn_at_the_worst_moments() {
    explore(|seed| PctScheduler::new_from_seed(seed, 4, SCHEDULES), || run(MAPPED, true));
}
