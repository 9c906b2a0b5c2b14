//! The part of a region that is kept here: its pages, their states, and what is under way between them and
//! the backend.
//!
//! Nothing here decides what to fetch or push when: that is the puller's and the pusher's. A read or write
//! that finds its pages here takes no lock and no allocation; one that does not is parked in the fetch that
//! brings them and tried again when that has landed.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Instant;

use crate::backend::memory::punch;
use crate::backend::{Backend, Completion, Info, Reply};
use crate::buffer::Buffer;
use crate::cancel::Limit;
use crate::error::{Code, Error, Result};
use crate::migration::tracker::Marks;
use crate::page::{Change, PAGE, PageStates, Set, State};
use crate::region::fetch::{Bulk, Fetches};
use crate::region::push::Pushes;
use crate::stats::Figures;
use crate::sync::atomic::{Ordering, fence};
use crate::sync::{Mutex, RwLock, pause, point};

pub mod fetch;
mod ledger;
pub mod own;
mod past;
pub mod push;
#[cfg(all(test, not(feature = "shuttle")))]
mod tests;

pub use fetch::{Again, Ahead, Waiting, Want};
pub use ledger::{Ledger, Writing};

/// The most pages one request moves: 32 MiB, as long as a request may be.
const LONGEST_FETCH: u64 = (32 << 20) / PAGE;

/// A mapping of the kept pages whose faults are served by a device.
pub trait Window: Send + Sync {
    /// Stores whole pages (the region's last may be short) where none are, opens them and wakes who waits.
    fn install(&self, offset: u64, bytes: &[u8]) -> Result<()>;

    /// Tells of every run of pages written through the mapping since it was last asked, and re-arms them
    /// first, so that a write after that is told the next time. Only looks at these pages.
    fn collect(&self, pages: Range<u64>, written: &mut dyn FnMut(Range<u64>)) -> Result<()>;

    /// Closes pages, so that the next touch of each is a fault again.
    fn forget(&self, pages: Range<u64>) -> Result<()>;

    /// Whether pages that were stored without it are found when they are touched, and are faults until then.
    fn finds_stored(&self) -> bool;
}

/// A region together with who decides what to fetch and push when: what a device serves that maps its pages.
pub trait Paged: Backend {
    /// The pages.
    fn pages(&self) -> &Arc<Region>;

    /// Asks for a page that a mapping was touched at; `landed` looks again.
    fn demand(&self, page: u64, landed: Waiting);

    /// A page that was touched is filled already: time to fetch what a sequential reader will touch next.
    fn filled(&self, page: u64);

    /// Pushes what is dirty now and waits until the backend has it; it may not be durable there yet.
    fn push_all(&self, limit: &Limit) -> Result<()>;
}

/// The kept part of a region over its backend.
pub struct Region {
    info: Info,
    backend: Arc<dyn Backend>,
    /// Holds the bytes of pages in a stored state; a hole elsewhere.
    store: File,
    states: PageStates,
    fetches: Mutex<Fetches>,
    window: RwLock<Option<Arc<dyn Window>>>,
    /// A window that nobody looks through yet.
    closed_window: Mutex<Option<Arc<dyn Window>>>,
    bulk: Bulk,
    pushes: Pushes,
    marks: Marks,
    /// Who is told what is here, where the store outlives the region.
    ledger: Option<Arc<dyn Ledger>>,
    /// Whether the store is a place of the region's own, and its backend only where it came from.
    is_own: bool,
    /// What moved and why.
    pub(crate) figures: Figures,
}

const FILLED_DIRTY: Change = Change::of(&[(State::Filling, State::Dirty)]);
/// A write to stored bytes, after the bytes.
const WRITTEN: Change = Change::of(&[
    (State::Clean, State::Dirty),
    (State::Quiet, State::Dirty),
    (State::Pushing, State::Redirtied),
    (State::Evicting, State::Dirty),
]);
/// What a writer may take for itself when it brings the whole page.
const TAKE_WHOLE: Set = Set::of(&[State::Absent, State::Fetching, State::Zero, State::ZeroDirty]);
/// Trims that need no bytes touched, and those that do.
const TRIM: Change = Change::of(&[
    (State::Absent, State::ZeroDirty),
    (State::Fetching, State::ZeroDirty),
    (State::Clean, State::Filling),
    (State::Dirty, State::Filling),
    (State::Quiet, State::Filling),
]);
/// What those begin with.
const FREE: Set = Set::of(&[State::Absent, State::Fetching, State::Clean, State::Dirty, State::Quiet]);
const TRIMMED: Change = Change::of(&[(State::Filling, State::ZeroDirty)]);
const UNTRIMMED: Change = Change::of(&[(State::Filling, State::Absent)]);
/// Where old bytes may lie behind a page that is not here, they go before it counts as zero.
const TRIM_OWN: Change = Change::of(&[
    (State::Absent, State::Filling),
    (State::Fetching, State::Filling),
    (State::Clean, State::Filling),
    (State::Dirty, State::Filling),
    (State::Quiet, State::Filling),
]);

impl Region {
    /// A region over `backend` of which nothing is here yet, to be kept in `store`, a file of holes, and fetched
    /// in chunks of `chunk_size` bytes if given, else of the backend's.
    pub fn new(backend: Arc<dyn Backend>, store: File, chunk_size: Option<u32>) -> Result<Region> {
        Region::with(backend, store, chunk_size, None)
    }

    fn with(
        backend: Arc<dyn Backend>,
        store: File,
        chunk_size: Option<u32>,
        ledger: Option<Arc<dyn Ledger>>,
    ) -> Result<Region> {
        let info = backend.info().clone();
        let info = Info { chunk_size: chunk_size.unwrap_or(info.chunk_size), ..info };
        if u64::from(info.alignment) > PAGE {
            let message = format!(
                "{}: requests must be multiples of {} bytes, and pages of 4096 are kept here: use mode=direct",
                info.name, info.alignment
            );
            return Err(Error::new(Code::Unsupported, message));
        }
        let states = PageStates::new(info.size.div_ceil(PAGE))?;
        Ok(Region {
            info,
            backend,
            store,
            states,
            fetches: Mutex::default(),
            window: RwLock::default(),
            closed_window: Mutex::default(),
            bulk: Bulk::default(),
            pushes: Pushes::default(),
            marks: Marks::default(),
            ledger,
            is_own: false,
            figures: Figures::default(),
        })
    }

    /// What the region is: its backend's word.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Where the bytes live.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    /// The file that keeps the pages.
    pub fn store(&self) -> &File {
        &self.store
    }

    /// Who is told of every write to these pages; of those through a mapping by [`collect`](Region::collect).
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// The states of the pages.
    pub fn states(&self) -> &PageStates {
        &self.states
    }

    /// From now on pages are installed through this mapping, or through none.
    pub fn set_window(&self, window: Option<Arc<dyn Window>>) {
        *self.window.write().unwrap_or_else(|e| e.into_inner()) = window;
    }

    /// Stores pages without the mapping, which nobody touches, until [`open_window`](Region::open_window): what was
    /// never mapped need not be closed when it turns out to be old.
    pub fn close_window(&self) {
        let mut window = self.window.write().unwrap_or_else(|e| e.into_inner());
        if let Some(closed) = window.take_if(|window| window.finds_stored()) {
            *self.closed_window.lock().unwrap_or_else(|e| e.into_inner()) = Some(closed);
        }
    }

    /// The mapping may be touched from now on.
    pub fn open_window(&self) {
        if let Some(closed) = self.closed_window.lock().unwrap_or_else(|e| e.into_inner()).take() {
            self.set_window(Some(closed));
        }
    }

    fn window(&self) -> Option<Arc<dyn Window>> {
        self.window.read().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// The pages that a range of bytes touches.
    pub fn pages_of(&self, offset: u64, length: u64) -> Range<u64> {
        offset / PAGE..(offset + length).div_ceil(PAGE)
    }

    /// The bytes of a run of pages, cut at the region's end.
    pub fn bytes_of(&self, pages: &Range<u64>) -> Range<u64> {
        pages.start * PAGE..(pages.end * PAGE).min(self.info.size)
    }

    /// The state of a page once nobody is filling it; filling never waits for anything remote.
    pub fn settled(&self, page: u64) -> State {
        let mut looks = 0u32;
        loop {
            match self.states.get(page) {
                State::Filling => pause(looks),
                state => return state,
            }
            looks = looks.saturating_add(1);
        }
    }

    /// Reads if all of it is here.
    pub fn try_read(&self, buffer: &mut [u8], offset: u64) -> Option<Result<()>> {
        let pages = self.pages_of(offset, buffer.len() as u64);
        if self.states.all(pages.clone(), Set::STORED) {
            return Some(self.read_store(buffer, offset));
        }
        let mut page = pages.start;
        while page < pages.end {
            let state = self.settled(page);
            let set = if Set::ZERO.has(state) { Set::ZERO } else { Set::STORED };
            if !set.has(state) {
                return None;
            }
            let run = self.states.next_run(page..pages.end, set).filter(|run| run.start == page);
            let Some(run) = run else { continue };
            let start = (run.start * PAGE).max(offset);
            let end = (run.end * PAGE).min(offset + buffer.len() as u64);
            let part = &mut buffer[(start - offset) as usize..(end - offset) as usize];
            if set == Set::ZERO {
                part.fill(0);
            } else if let Err(error) = self.read_store(part, start) {
                return Some(Err(error));
            }
            page = run.end;
        }
        Some(Ok(()))
    }

    fn read_store(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        point();
        let read = self.store.read_exact_at(buffer, offset);
        point();
        self.of_store("read", buffer.len(), read)
    }

    fn write_store(&self, data: &[u8], offset: u64) -> Result<()> {
        point();
        let write = self.store.write_all_at(data, offset);
        point();
        self.of_store("keep", data.len(), write)
    }

    /// Stores bytes of pages that this thread is filling.
    fn fill(&self, data: &[u8], offset: u64) -> Result<()> {
        match self.window() {
            Some(window) => window.install(offset, data),
            None => self.write_store(data, offset),
        }
    }

    /// Reads, bringing what is missing first. `ahead` says what to fetch for a miss at a page.
    pub fn read(self: &Arc<Self>, mut buffer: Buffer, offset: u64, wait: Wait, ahead: Ahead) {
        match self.try_read(&mut buffer, offset) {
            Some(Err(_)) if self.ledger.is_some() && !self.is_own => self.read_past(buffer, offset, wait),
            Some(outcome) => wait.completion.complete(outcome.map(|()| Reply::Data(buffer))),
            None if self.is_failing() => self.read_past(buffer, offset, wait),
            None => {
                let pages = self.pages_of(offset, buffer.len() as u64);
                let again = move |region: &Arc<Region>, wait, ahead| region.read(buffer, offset, wait, ahead);
                self.bring(pages, wait, ahead, true, again);
            }
        }
    }

    /// Writes if that needs nothing brought first: `None` when a page written in part is not here.
    pub fn try_write(&self, data: &[u8], offset: u64) -> Option<Result<()>> {
        let end = offset + data.len() as u64;
        let missing_edge = self.partial_edges(offset, end).any(|page| Set::MISSING.has(self.settled(page)));
        if missing_edge {
            return None;
        }
        let mut at = offset;
        while at < end {
            let page = at / PAGE;
            let state = self.settled(page);
            let wrote = if Set::STORED.has(state) {
                self.write_stored(data, offset, at)
            } else {
                self.write_fresh(data, offset, at, state)
            };
            match wrote {
                Ok(Some(next)) => at = next,
                // The page changed under us, or an edge went missing: look again.
                Ok(None) if Set::MISSING.has(state) && self.is_edge(page, offset, end) => return None,
                Ok(None) => {}
                Err(error) => return Some(Err(error)),
            }
        }
        Some(Ok(()))
    }

    /// Writes the longest run of stored pages from `at` and says where it ends; `None` to look again.
    fn write_stored(&self, data: &[u8], offset: u64, at: u64) -> Result<Option<u64>> {
        let end = offset + data.len() as u64;
        let pages = at / PAGE..end.div_ceil(PAGE);
        let Some(run) = self.states.next_run(pages.clone(), Set::STORED).filter(|run| run.start == pages.start) else {
            return Ok(None);
        };
        let until = end.min(run.end * PAGE);
        let _writing = self.is_written_to(run.clone());
        let stored = self.write_store(&data[(at - offset) as usize..(until - offset) as usize], at);
        self.marks.mark(run.clone());
        stored?;
        // After the bytes, before anybody is told. A trim that came between is settled by writing again; a push
        // that took the page before has old bytes, one that takes it after has these.
        fence(Ordering::SeqCst);
        const MARKED: Set = Set::of(&[State::Dirty, State::Redirtied]);
        let left = self.states.change(run, &WRITTEN, |_, _, _| {});
        if left.within(MARKED) { Ok(Some(until)) } else { Ok(None) }
    }

    /// Writes one page that has no bytes here, if it can be had without its old bytes.
    fn write_fresh(&self, data: &[u8], offset: u64, at: u64, state: State) -> Result<Option<u64>> {
        let page = at / PAGE;
        let end = offset + data.len() as u64;
        let (begin, until) = (at - page * PAGE, end.min((page + 1) * PAGE));
        let bytes = self.bytes_of(&(page..page + 1));
        let whole = begin == 0 && until == bytes.end;
        let after = if state == State::ZeroPushing { State::Redirtied } else { State::Dirty };
        if !(Set::ZERO.has(state) || whole && TAKE_WHOLE.has(state)) {
            return Ok(None);
        }
        // The caller's bytes may themselves lie behind a fault that waits for this page: copy them before.
        let mut content = Buffer::new((bytes.end - bytes.start) as usize);
        if !whole {
            content.fill(0);
        }
        content[begin as usize..(until - page * PAGE) as usize]
            .copy_from_slice(&data[(at - offset) as usize..(until - offset) as usize]);
        if !self.states.step(page, state, State::Filling) {
            return Ok(None);
        }
        if state == State::Fetching {
            self.lose(page..page + 1);
        }
        // Zeros that are here are a page as good as any; where nothing is, nothing may count as newer before it is.
        let _writing = Set::ZERO.has(state).then(|| self.is_written_to(page..page + 1));
        let filled = self.fill(&content, bytes.start);
        if filled.is_ok() {
            self.is_written(page..page + 1);
        }
        self.marks.mark(page..page + 1);
        self.states.step(page, State::Filling, if filled.is_ok() { after } else { state_after_failure(state) });
        self.figures.landed.signal();
        filled.map(|()| Some(until))
    }

    fn partial_edges(&self, offset: u64, end: u64) -> impl Iterator<Item = u64> + '_ {
        let first = (offset % PAGE != 0).then_some(offset / PAGE);
        let last = (end % PAGE != 0 && end != self.info.size).then_some(end / PAGE);
        first.into_iter().chain(last).filter(move |_| end > offset)
    }

    fn is_edge(&self, page: u64, offset: u64, end: u64) -> bool {
        self.partial_edges(offset, end).any(|edge| edge == page)
    }

    /// Writes, bringing the pages written in part first.
    pub fn write(self: &Arc<Self>, data: Buffer, offset: u64, wait: Wait, ahead: Ahead) {
        match self.try_write(&data, offset) {
            Some(outcome) => wait.completion.complete(outcome.map(|()| Reply::Done)),
            None => {
                let end = offset + data.len() as u64;
                let edge = self.partial_edges(offset, end).find(|page| Set::MISSING.has(self.states.get(*page)));
                let page = edge.unwrap_or(offset / PAGE);
                let again = move |region: &Arc<Region>, wait, ahead| region.write(data, offset, wait, ahead);
                self.bring(page..page + 1, wait, ahead, false, again);
            }
        }
    }

    /// Makes a range zero, bringing the pages zeroed in part first.
    pub fn zero(self: &Arc<Self>, offset: u64, length: u64, wait: Wait, ahead: Ahead) {
        let end = offset + length;
        let whole = offset.div_ceil(PAGE)..if end == self.info.size { end.div_ceil(PAGE) } else { end / PAGE };
        if whole.start >= whole.end {
            return self.write(Buffer::zeroed(length as usize), offset, wait, ahead);
        }
        let (head, tail) = (whole.start * PAGE - offset, end.saturating_sub(whole.end * PAGE));
        if let Err(error) = self.trim(whole.clone()) {
            return wait.completion.complete(Err(error));
        }
        // The pages at the edges are written like any bytes, one after the other.
        let Wait { completion, deadline } = wait;
        let region = self.clone();
        let ahead_of_tail = ahead.clone();
        let rest = Completion::new(move |outcome| match outcome {
            Ok(_) if tail > 0 => {
                let wait = Wait { completion, deadline };
                region.write(Buffer::zeroed(tail as usize), whole.end * PAGE, wait, ahead_of_tail)
            }
            outcome => completion.complete(outcome),
        });
        match head {
            0 => rest.complete(Ok(Reply::Done)),
            head => self.write(Buffer::zeroed(head as usize), offset, Wait { completion: rest, deadline }, ahead),
        }
    }

    /// Makes whole pages zero without moving bytes.
    fn trim(&self, pages: Range<u64>) -> Result<()> {
        let trimmed = self.trim_each(pages.clone());
        self.marks.mark(pages);
        trimmed
    }

    fn trim_each(&self, pages: Range<u64>) -> Result<()> {
        let mut page = pages.start;
        while page < pages.end {
            let state = self.settled(page);
            if FREE.has(state) {
                let stop = pages.end.min(page + LONGEST_FETCH);
                let run = self.states.next_run(page..stop, FREE).filter(|run| run.start == page);
                page = run.map_or(Ok(page), |run| self.trim_free(run))?;
            } else if Set::ZERO.has(state) {
                page += 1;
            } else {
                self.trim_pushing(page)?;
                page += 1;
            }
        }
        // Some of it may be local now that was not.
        self.figures.landed.signal();
        Ok(())
    }

    /// Trims the pages of a run that nobody is sending, up to the first that changed under us.
    fn trim_free(&self, run: Range<u64>) -> Result<u64> {
        let mut reached = run.start;
        let mut outcome = Ok(());
        let mut took = Vec::new();
        let trim = if self.ledger.is_some() { &TRIM_OWN } else { &TRIM };
        self.states.change(run, trim, |run, from, to| took.push((run, from, to)));
        for (run, from, to) in took {
            if from == State::Fetching {
                self.lose(run.clone());
            }
            if run.start == reached {
                reached = run.end;
            }
            if to == State::Filling {
                let _writing = Set::STORED.has(from).then(|| self.is_written_to(run.clone()));
                let punched = self.punch_store(&run);
                let after = match punched {
                    Ok(()) => &TRIMMED,
                    Err(_) if Set::MISSING.has(from) => &UNTRIMMED,
                    // The old bytes, newer than remote.
                    Err(_) => &FILLED_DIRTY,
                };
                if punched.is_ok() {
                    self.is_written(run.clone());
                }
                self.states.change(run, after, |_, _, _| {});
                outcome = outcome.and(punched);
            }
        }
        outcome.map(|()| reached)
    }

    /// Trims a page that is being sent: it keeps its stored state, its bytes become a hole, then it is dirty.
    fn trim_pushing(&self, page: u64) -> Result<()> {
        let _writing = self.is_written_to(page..page + 1);
        self.punch_store(&(page..page + 1))?;
        self.states.change(page..page + 1, &WRITTEN, |_, _, _| {});
        Ok(())
    }

    fn punch_store(&self, pages: &Range<u64>) -> Result<()> {
        point();
        let bytes = self.bytes_of(pages);
        let punched = match punch(&self.store, pages.start * PAGE, (pages.end - pages.start) * PAGE) {
            // A filesystem without holes: zeros it is.
            Err(_) if self.ledger.is_some() => self.write_zeros(bytes),
            punched => punched,
        };
        fence(Ordering::SeqCst);
        point();
        punched
    }

    /// Fills a page from a local backend at once, without a fetch: `None` if it must be fetched or another
    /// thread was faster.
    pub fn fill_now(&self, page: u64, scratch: &mut [u8]) -> Option<Result<()>> {
        if !self.info.local || !self.states.step(page, State::Absent, State::Filling) {
            return None;
        }
        let bytes = self.bytes_of(&(page..page + 1));
        let scratch = &mut scratch[..(bytes.end - bytes.start) as usize];
        let read = self.backend.try_read_at(scratch, bytes.start);
        let filled = read.map(|read| read.and_then(|()| self.fill(scratch, bytes.start)));
        let to = if matches!(filled, Some(Ok(()))) { State::Clean } else { State::Absent };
        self.states.step(page, State::Filling, to);
        self.figures.landed.signal();
        if to == State::Clean {
            self.figures.pulled.add(scratch.len() as u64);
        }
        filled
    }

    /// Gives a page that is known to be zero its bytes, for a mapping that was touched there.
    pub fn fill_zero(&self, page: u64) -> Result<()> {
        for (from, to) in
            [(State::Zero, State::Clean), (State::ZeroDirty, State::Dirty), (State::ZeroPushing, State::Pushing)]
        {
            if self.states.step(page, from, State::Filling) {
                let bytes = self.bytes_of(&(page..page + 1));
                let filled = self.fill(&[0; PAGE as usize][..(bytes.end - bytes.start) as usize], bytes.start);
                self.states.step(page, State::Filling, if filled.is_ok() { to } else { from });
                self.figures.landed.signal();
                return filled;
            }
        }
        Ok(())
    }

    /// Marks what was written through the mapping since the last time, and says how many pages that are.
    pub fn collect(&self) -> Result<u64> {
        let Some(window) = self.window() else { return Ok(0) };
        let mut found = 0;
        // Pages being filled may have been opened and written already.
        const OPEN: Set = Set::STORED.with(State::Filling);
        let mut at = 0;
        while let Some(mut run) = self.states.next_run(at..self.states.pages(), OPEN) {
            // A look at a few pages too many is cheaper than another call.
            while let Some(next) = self.states.next_run(run.end..self.states.pages().min(run.end + 32), OPEN) {
                run.end = self.states.next_run(next.start..self.states.pages(), OPEN).map_or(next.end, |run| run.end);
            }
            window.collect(run.clone(), &mut |written| {
                for page in written.clone() {
                    if self.states.get(page) == State::Filling {
                        self.settled(page);
                    }
                }
                found += written.end - written.start;
                self.marks.mark(written.clone());
                self.states.change(written, &WRITTEN, |_, _, _| {});
            })?;
            at = run.end;
        }
        Ok(found)
    }

    /// Bytes that are here or known to be zero.
    pub fn local_bytes(&self) -> u64 {
        (self.states.count(Set::LOCAL) * PAGE).min(self.info.size)
    }
}

/// What a fresh write leaves when its bytes could not be kept: the page as it was, or to be asked for anew.
fn state_after_failure(before: State) -> State {
    if before == State::Fetching { State::Absent } else { before }
}

/// Whom a read or write tells, and until when it waits.
pub struct Wait {
    /// Whom to tell.
    pub completion: Completion,
    /// When to give up.
    pub deadline: Option<Instant>,
}
