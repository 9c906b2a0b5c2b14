//! A region whose store is a place of its own rather than a cache: what is written there stays, what is zero is zero
//! there, and what its source has since written is forgotten.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::backend::Backend;
use crate::cancel::Signal;
use crate::error::{Error, Result};
use crate::page::{Change, Set, State};
use crate::region::{LONGEST_FETCH, Ledger, Region};

/// What can be forgotten at once.
const KNOWN: Set = Set::of(&[
    State::Fetching,
    State::Clean,
    State::Zero,
    State::Dirty,
    State::Quiet,
    State::ZeroDirty,
    State::Evicting,
]);
/// A page that is being filled is nobody else's: neither a fetch under way nor a writer has it meanwhile.
const TAKE: Change = Change::of(&[
    (State::Fetching, State::Filling),
    (State::Clean, State::Filling),
    (State::Zero, State::Filling),
    (State::Dirty, State::Filling),
    (State::Quiet, State::Filling),
    (State::ZeroDirty, State::Filling),
    (State::Evicting, State::Filling),
]);
const FORGOTTEN: Change = Change::of(&[(State::Filling, State::Absent)]);
const FOUND: Change = Change::of(&[(State::Absent, State::Clean)]);
const FOUND_DIRTY: Change = Change::of(&[(State::Absent, State::Dirty)]);
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

impl Region {
    /// A region that is moved to `place`, a file as long as its pages or as its bytes, from `backend`. Nothing is
    /// pushed. `landed` is signalled whenever something came.
    pub(crate) fn owning(
        backend: Arc<dyn Backend>,
        place: File,
        chunk_size: Option<u32>,
        ledger: Arc<dyn Ledger>,
        landed: Arc<Signal>,
    ) -> Result<Region> {
        let mut region = Region::with(backend, place, chunk_size, Some(ledger))?;
        region.figures.landed = landed;
        region.is_own = true;
        Ok(region)
    }

    /// A region over `backend` whose pages are kept in a store that outlives it, of which `ledger` knows.
    pub(crate) fn caching(
        backend: Arc<dyn Backend>,
        store: File,
        chunk_size: Option<u32>,
        ledger: Arc<dyn Ledger>,
    ) -> Result<Region> {
        Region::with(backend, store, chunk_size, Some(ledger))
    }

    /// As [`found`](Region::found), of pages that are newer here than at the backend.
    pub(crate) fn found_dirty(&self, pages: Range<u64>) {
        self.states().change(pages, &FOUND_DIRTY, |_, _, _| {});
    }

    /// The place has these pages already, from before this process began.
    pub fn found(&self, pages: Range<u64>) {
        self.states().change(pages, &FOUND, |_, _, _| {});
        self.figures.landed.signal();
    }

    /// Makes pages absent, whatever is here of them: it is old, and so is what is on its way.
    pub fn forget(&self, pages: Range<u64>) -> Result<()> {
        let mut outcome = Ok(());
        let mut page = pages.start;
        while let Some(known) = self.states().next_run(page..pages.end, Set::of(&[State::Absent]).complement()) {
            page = known.start;
            if !KNOWN.has(self.settled(page)) {
                // Absent by now, or a push, which there is none of here.
                page += 1;
                continue;
            }
            let stop = pages.end.min(page + LONGEST_FETCH);
            let Some(run) = self.states().next_run(page..stop, KNOWN).filter(|run| run.start == page) else { continue };
            let mut took = Vec::new();
            self.states().change(run.clone(), &TAKE, |run, from, _| took.push((run, from)));
            let mut reached = page;
            for (run, from) in took {
                if run.start == reached {
                    reached = run.end;
                }
                if from == State::Fetching {
                    self.lose(run.clone());
                } else if let Some(window) = self.window() {
                    outcome = outcome.and(window.forget(run.clone()));
                }
                if let Some(ledger) = &self.ledger {
                    ledger.gone(run.clone());
                }
                self.states().change(run, &FORGOTTEN, |_, _, _| {});
            }
            page = reached;
        }
        self.figures.landed.signal();
        outcome
    }

    pub(super) fn write_zeros(&self, bytes: Range<u64>) -> Result<()> {
        let mut at = bytes.start;
        while at < bytes.end {
            let length = (bytes.end - at).min(ZEROS.len() as u64);
            let written = self.store().write_all_at(&ZEROS[..length as usize], at);
            written.map_err(|error| Error::io(format!("{}: write {length} zeros", self.info().name), error))?;
            at += length;
        }
        Ok(())
    }
}
