//! Bringing pages from the backend: who waits for which request, and what a writer overtook.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backend::{Completion, Operation, Priority, Reply, Request, run_on_pool, short_reply};
use crate::buffer::Buffer;
use crate::error::{Code, Error, Result};
use crate::page::{Change, PAGE, Set, State};
use crate::region::{LONGEST_FETCH, Region, Wait};
use crate::sync::MutexGuard;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::wire::socket;

/// What a demand asks for again when bulk already has it under way: 64 KiB.
const ASKED_AGAIN: u64 = (64 << 10) / PAGE;

/// How often a fetch that somebody waits for is tried again after a store elsewhere failed, and the pause before the
/// first time; each further one doubles it.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(20);

const FETCH: Change = Change::of(&[(State::Absent, State::Fetching)]);
const LAND: Change = Change::of(&[(State::Fetching, State::Filling)]);
const FILLED: Change = Change::of(&[(State::Filling, State::Clean)]);
const FILLED_ZERO: Change = Change::of(&[(State::Filling, State::Zero)]);
const UNFILLED: Change = Change::of(&[(State::Filling, State::Absent)]);
const GIVE_UP: Change = Change::of(&[(State::Fetching, State::Absent)]);
const FETCH_AGAIN: Change = Change::of(&[(State::Filling, State::Fetching)]);

/// What to fetch for pages that were missed.
pub struct Want {
    /// Those that somebody waits for.
    pub asked: Range<u64>,
    /// The same and what belongs with them.
    pub pages: Range<u64>,
    /// Whether those waited for are asked for by themselves, ahead of what belongs with them.
    pub apart: bool,
    /// What to do about a page that bulk has under way.
    pub again: Again,
}

impl Want {
    /// Only these, and to wait for bulk where that brings them.
    pub fn only(pages: Range<u64>) -> Want {
        Want { asked: pages.clone(), pages, apart: false, again: Again::No }
    }
}

/// Whether to ask again for a page that bulk has under way.
#[derive(Clone, Debug)]
pub enum Again {
    /// No: to wait for that.
    No,
    /// Yes, unless it has been under way for as long as this: then it is about to come.
    Unless(Range<Duration>),
}

impl Again {
    /// Whatever happens.
    pub const YES: Again = Again::Unless(Duration::ZERO..Duration::ZERO);
}

/// Says what to fetch for missed pages: the puller.
pub type Ahead = Arc<dyn Fn(Range<u64>) -> Want + Send + Sync>;

/// Called once when a fetch has landed; it looks again at what it waited for.
pub type Waiting = Box<dyn FnOnce(Result<()>) + Send>;

/// What a fetch brought.
#[derive(Clone, Copy)]
enum Landed<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// Zeros.
    Zeroes,
    /// Word that what lies in the region's own place is right as it is.
    AsKept,
}

/// A request for a run of pages that is under way.
struct Fetch {
    pages: Range<u64>,
    priority: Priority,
    /// When it was asked for.
    at: Instant,
    /// Pages that a writer overtook: what the request brings for them is old.
    lost: Vec<Range<u64>>,
    waiting: Vec<Waiting>,
}

/// A fetch by its first page and its number.
type Key = (u64, u64);

/// Bytes of background fetches since the beginning.
#[derive(Default)]
pub(super) struct Bulk {
    asked: AtomicU64,
    landed: AtomicU64,
}

/// Fetches under way.
#[derive(Default)]
pub(super) struct Fetches {
    next: u64,
    by_page: BTreeMap<Key, Fetch>,
}

impl Fetches {
    fn start(&mut self, pages: Range<u64>, priority: Priority) -> Key {
        self.next += 1;
        let key = (pages.start, self.next);
        let at = Instant::now();
        self.by_page.insert(key, Fetch { pages, priority, at, lost: Vec::new(), waiting: Vec::new() });
        key
    }

    /// Every fetch under way that brings some page of the range.
    fn covering(&mut self, pages: Range<u64>) -> impl Iterator<Item = (&Key, &mut Fetch)> {
        let first = (pages.start.saturating_sub(LONGEST_FETCH), 0);
        self.by_page.range_mut(first..(pages.end, 0)).filter(move |(_, fetch)| fetch.pages.end > pages.start)
    }
}

impl Region {
    fn lock(&self) -> MutexGuard<'_, Fetches> {
        self.fetches.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Tells fetches under way that what they bring for these pages is old.
    pub(super) fn lose(&self, pages: Range<u64>) {
        for (_, fetch) in self.lock().covering(pages.clone()) {
            fetch.lost.push(pages.clone());
        }
    }

    /// Starts fetching what is missing of `pages`, and runs `again` when the first of it has landed, or, where it
    /// may go past a store that takes no bytes, when that is so.
    pub(super) fn bring(
        self: &Arc<Self>,
        pages: Range<u64>,
        wait: Wait,
        ahead: Ahead,
        may_go_past: bool,
        again: impl FnOnce(&Arc<Region>, Wait, Ahead) + Send + 'static,
    ) {
        let Some(missing) = self.states.next_run(pages.clone(), Set::MISSING) else {
            return again(self, wait, ahead);
        };
        let region = self.clone();
        let (first, deadline) = (missing.start, wait.deadline);
        let want = ahead(first..pages.end);
        let waiting: Waiting = Box::new(move |landed| match landed {
            Ok(()) => again(&region, wait, ahead),
            Err(_) if may_go_past && region.is_failing() => again(&region, wait, ahead),
            // Somebody else's deadline is not ours.
            Err(error) if error.code() == Code::Timeout && deadline.is_none_or(|d| Instant::now() < d) => {
                again(&region, wait, ahead)
            }
            Err(error) => wait.completion.complete(Err(error)),
        });
        let want = Want { pages: want.pages.start.min(first)..want.pages.end.max(pages.end), ..want };
        self.demand(first, want, deadline, waiting);
    }

    /// Asks for a page that somebody waits for, and parks `waiting` in the fetch that brings it.
    pub fn demand(self: &Arc<Self>, page: u64, want: Want, deadline: Option<Instant>, waiting: Waiting) {
        let mut started = Vec::new();
        let mut waiting = Some(waiting);
        {
            let mut fetches = self.lock();
            if want.apart {
                self.start(&mut fetches, want.asked.clone(), Priority::Demand, &mut started);
            }
            self.start(&mut fetches, want.pages.clone(), Priority::Demand, &mut started);
            // Looked at under the lock: a page on its way has a fetch to park in.
            if self.states.get(page) == State::Fetching {
                let key = self.fetch_for(&mut fetches, page, &want.again, &mut started);
                if let Some(fetch) = fetches.by_page.get_mut(&key) {
                    fetch.waiting.extend(waiting.take());
                }
            }
        }
        if let Some(waiting) = waiting {
            waiting(Ok(()));
        }
        self.count_ahead(&started, want.asked);
        self.request_all(started, Priority::Demand, deadline);
    }

    /// Asks for every absent page of the run in the background; says how many bytes that are.
    pub fn fetch(self: &Arc<Self>, pages: Range<u64>, deadline: Option<Instant>) -> u64 {
        let mut started = Vec::new();
        self.start(&mut self.lock(), pages, Priority::Bulk, &mut started);
        let bytes = started.iter().map(|(_, run)| (run.end - run.start) * PAGE).sum();
        self.bulk.asked.fetch_add(bytes, Ordering::SeqCst);
        self.count_ahead(&started, 0..0);
        self.request_all(started, Priority::Bulk, deadline);
        bytes
    }

    /// Whether nothing is on its way here.
    pub fn is_idle(&self) -> bool {
        self.lock().by_page.is_empty()
    }

    /// Bytes of background fetches under way.
    pub fn fetching_bytes(&self) -> u64 {
        let (asked, landed) = self.bulk_bytes();
        asked - landed
    }

    /// Bytes that the background has asked for since the beginning, and how many of them have landed, well or not.
    pub fn bulk_bytes(&self) -> (u64, u64) {
        // In this order, so that the second is never more than the first.
        let landed = self.bulk.landed.load(Ordering::SeqCst);
        (self.bulk.asked.load(Ordering::SeqCst), landed)
    }

    /// Counts what is asked for beyond what somebody waits for.
    fn count_ahead(&self, started: &[(Key, Range<u64>)], asked: Range<u64>) {
        for (_, run) in started {
            let waited_for = run.end.min(asked.end).saturating_sub(run.start.max(asked.start)) * PAGE;
            let bytes = self.bytes_of(run);
            self.figures.ahead.add((bytes.end - bytes.start).saturating_sub(waited_for));
        }
    }

    fn start(
        &self,
        fetches: &mut Fetches,
        pages: Range<u64>,
        priority: Priority,
        started: &mut Vec<(Key, Range<u64>)>,
    ) {
        let longest = u64::from(self.info.max_request.min(self.info.chunk_size)) / PAGE;
        let longest = longest.clamp(1, LONGEST_FETCH);
        self.states.change(pages.start..pages.end.min(self.states.pages()), &FETCH, |run, _, _| {
            let mut start = run.start;
            while start < run.end {
                // Cut where chunks are cut, so that whole chunks stay whole.
                let end = run.end.min((start / longest + 1) * longest);
                started.push((fetches.start(start..end, priority), start..end));
                start = end;
            }
        });
    }

    /// The fetch to wait in for a page on its way. A demand that should not queue behind bulk asks again for a
    /// little around the page.
    fn fetch_for(&self, fetches: &mut Fetches, page: u64, again: &Again, started: &mut Vec<(Key, Range<u64>)>) -> Key {
        let mut bulk = None;
        for (key, fetch) in fetches.covering(page..page + 1) {
            if fetch.priority == Priority::Demand {
                return *key;
            }
            let is_coming = match again {
                Again::No => true,
                Again::Unless(soon) => soon.contains(&fetch.at.elapsed()),
            };
            bulk = bulk.or(is_coming.then_some(*key));
        }
        if let Some(key) = bulk {
            return key;
        }
        let end = (page / ASKED_AGAIN + 1) * ASKED_AGAIN;
        let fetching = self.states.next_run(page..end.min(self.states.pages()), Set::of(&[State::Fetching]));
        let run = fetching.filter(|run| run.start == page).unwrap_or(page..page + 1);
        let key = fetches.start(run.clone(), Priority::Demand);
        started.push((key, run));
        key
    }

    fn request_all(self: &Arc<Self>, started: Vec<(Key, Range<u64>)>, priority: Priority, deadline: Option<Instant>) {
        for (key, run) in started {
            self.request(key, run, priority, deadline, 0);
        }
    }

    fn request(
        self: &Arc<Self>,
        key: Key,
        pages: Range<u64>,
        priority: Priority,
        deadline: Option<Instant>,
        tried: u32,
    ) {
        if self.recalls(&pages) {
            return self.land(key, Ok(Reply::Done));
        }
        let bytes = self.bytes_of(&pages);
        // What is under way at a server that is away must not keep a region that nobody holds any more.
        let region = Arc::downgrade(self);
        self.backend.clone().submit(Request {
            operation: Operation::Read { offset: bytes.start, buffer: Buffer::new((bytes.end - bytes.start) as usize) },
            priority,
            deadline,
            completion: Completion::new(move |outcome| {
                let Some(region) = region.upgrade() else { return };
                let pause = outcome.as_ref().err().and_then(|error| region.pause_after(error, key, deadline, tried));
                let Some(pause) = pause else { return region.land(key, outcome) };
                run_on_pool(move || {
                    std::thread::sleep(pause);
                    region.request(key, pages, priority, deadline, tried + 1);
                });
            }),
        });
    }

    /// How long to wait before what failed so is asked for again, if that may help and there is time. A store of the
    /// app's own decides that by itself, and what nobody waits for its puller.
    fn pause_after(&self, error: &Error, key: Key, deadline: Option<Instant>, tried: u32) -> Option<Duration> {
        let may_pass = error.is_retryable() || error.code() == Code::Io;
        if !may_pass || tried == TRIES || !self.backend.info().managed_by_default {
            return None;
        }
        let is_wanted = |fetch: &Fetch| fetch.priority == Priority::Demand || !fetch.waiting.is_empty();
        self.lock().by_page.get(&key).filter(|fetch| is_wanted(fetch))?;
        // Between half of the time and all of it, so that many who failed together do not come back so.
        let (most, random) = (PAUSE * 2_u32.pow(tried), socket::random().map_or(0, |bytes| bytes[0]));
        let pause = most / 2 + most / 2 * u32::from(random) / 256;
        deadline.is_none_or(|deadline| Instant::now() + pause < deadline).then_some(pause)
    }

    /// Takes what a fetch brought.
    fn land(&self, key: Key, outcome: Result<Reply>) {
        let Some(pages) = self.lock().by_page.get(&key).map(|fetch| fetch.pages.clone()) else { return };
        let bytes = self.bytes_of(&pages);
        let landed = match outcome {
            Ok(Reply::Data(data)) if data.len() as u64 == bytes.end - bytes.start => {
                self.figures.pulled.add(data.len() as u64);
                self.fill_landed(key, pages.clone(), Landed::Bytes(&data))
            }
            Ok(Reply::Zeroes) => self.fill_landed(key, pages.clone(), Landed::Zeroes),
            Ok(Reply::Done) if self.ledger.is_some() => self.fill_landed(key, pages.clone(), Landed::AsKept),
            Ok(_) => Err(short_reply(&self.info)),
            Err(error) => Err(error),
        };
        let waiting = {
            let mut fetches = self.lock();
            let fetch = fetches.by_page.remove(&key);
            // Also after success: a page may have become absent and been asked for again under this fetch.
            self.give_up(&mut fetches, pages.clone());
            if let Err(error) = &landed {
                self.figures.fetch_failed(error);
            }
            let fetch = fetch.map(|fetch| {
                if fetch.priority == Priority::Bulk {
                    self.bulk.landed.fetch_add((fetch.pages.end - fetch.pages.start) * PAGE, Ordering::SeqCst);
                }
                fetch.waiting
            });
            fetch.unwrap_or_default()
        };
        self.figures.landed.signal();
        // What was asked for twice came by the other way: then a failure is nobody's.
        let came = landed.is_err() && self.states.next_run(pages, Set::MISSING).is_none();
        for waiting in waiting {
            waiting(if came { Ok(()) } else { landed.clone() });
        }
    }

    /// Puts what came into those pages of a fetch that still wait for it and were not overtaken.
    fn fill_landed(&self, key: Key, pages: Range<u64>, landed: Landed<'_>) -> Result<()> {
        let mut runs = Vec::new();
        self.states.change(pages.clone(), &LAND, |run, _, _| runs.push(run));
        // Looked at after the pages are ours: whoever overtook one had it before us and said so first.
        let lost = self.lock().by_page.get(&key).map_or(Vec::new(), |fetch| fetch.lost.clone());
        let mut outcome = Ok(());
        for run in runs.iter().flat_map(|run| split(run.clone(), &lost)) {
            let (run, is_lost) = run;
            if is_lost {
                let mut fetches = self.lock();
                let others = fetches.covering(run.clone()).any(|(other, _)| *other != key);
                self.states.change(run, if others { &FETCH_AGAIN } else { &UNFILLED }, |_, _, _| {});
                continue;
            }
            let part = self.bytes_of(&run);
            let base = pages.start * PAGE;
            let mut came = None;
            let (filled, after) = match landed {
                Landed::Bytes(data) => {
                    let data = &data[(part.start - base) as usize..(part.end - base) as usize];
                    came = Some(data);
                    (self.fill(data, part.start), &FILLED)
                }
                Landed::Zeroes if self.ledger.is_some() => (self.punch_store(&run), &FILLED_ZERO),
                Landed::Zeroes => (Ok(()), &FILLED_ZERO),
                Landed::AsKept => (Ok(()), &FILLED),
            };
            if filled.is_ok() && !matches!(landed, Landed::AsKept if !self.is_own) {
                self.is_kept(run.clone(), came);
            }
            self.states.change(run, if filled.is_ok() { after } else { &UNFILLED }, |_, _, _| {});
            outcome = outcome.and(filled);
        }
        outcome
    }

    /// After a fetch: pages still asked for that no other fetch brings are absent again.
    fn give_up(&self, fetches: &mut Fetches, pages: Range<u64>) {
        let brought: Vec<_> = fetches.covering(pages.clone()).map(|(_, fetch)| fetch.pages.clone()).collect();
        for (run, others) in split(pages, &brought) {
            if !others {
                self.states.change(run, &GIVE_UP, |_, _, _| {});
            }
        }
    }
}

/// Splits a run at the edges of the marked ranges and says of each piece whether it is marked.
fn split(run: Range<u64>, marks: &[Range<u64>]) -> Vec<(Range<u64>, bool)> {
    if marks.is_empty() {
        return vec![(run, false)];
    }
    let mut edges = vec![run.start, run.end];
    let inside = |edge: &u64| *edge > run.start && *edge < run.end;
    edges.extend(marks.iter().flat_map(|mark| [mark.start, mark.end]).filter(inside));
    edges.sort_unstable();
    edges.dedup();
    let marked = |piece: &Range<u64>| marks.iter().any(|mark| mark.start <= piece.start && piece.end <= mark.end);
    edges.windows(2).map(|pair| pair[0]..pair[1]).map(|piece| (piece.clone(), marked(&piece))).collect()
}
