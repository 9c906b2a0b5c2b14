//! Who is told what a region's store holds, where that outlives the region.

use std::ops::Range;
use std::sync::RwLockReadGuard;

use crate::error::{Error, Result};
use crate::region::Region;

/// While it lives a page that was dirtied does not count as pushed.
pub type Writing<'a> = Option<RwLockReadGuard<'a, ()>>;

/// Who is told which pages a place has.
pub trait Ledger: Send + Sync {
    /// What the place is called in messages.
    fn name(&self) -> String {
        "the local cache".to_owned()
    }

    /// The bytes of these pages are in the place. Told after they are and before anybody is told of them.
    fn here(&self, pages: Range<u64>);

    /// What is in the place of these pages is worth nothing. Told before they are asked for again.
    fn gone(&self, pages: Range<u64>);

    /// As `here`, of bytes that came from the backend, or of zeros.
    fn kept(&self, pages: Range<u64>, _bytes: Option<&[u8]>) {
        self.here(pages);
    }

    /// As `here`, of bytes that are newer than the backend's.
    fn written(&self, pages: Range<u64>) {
        self.here(pages);
    }

    /// Bytes of pages that are here are about to become newer than the backend's.
    fn writing(&self, _pages: Range<u64>) -> Writing<'_> {
        None
    }

    /// These pages are about to be sent to the backend.
    fn pushing(&self, _pages: Range<u64>) -> Result<()> {
        Ok(())
    }

    /// The checksums of a run of pages that is sent; `None` for zeros.
    fn checks(&self, _pages: &Range<u64>, _bytes: Option<&[u8]>) -> Vec<u32> {
        Vec::new()
    }

    /// The backend acknowledged what these pages were when the checksums were taken. Told before they count as pushed.
    fn pushed(&self, _pages: Range<u64>, _checks: &[u32]) {}

    /// Whether the bytes of all these pages, of which nothing was known yet, lie in the place and are right.
    fn recall(&self, _pages: Range<u64>) -> bool {
        false
    }

    /// The place did not take that many bytes, or did not give them.
    fn failed(&self, _length: u64, _error: &Error) {}

    /// Whether the place failed a moment ago, so that reads should not need it.
    fn is_failing(&self) -> bool {
        false
    }
}

impl Region {
    pub(super) fn is_kept(&self, pages: Range<u64>, bytes: Option<&[u8]>) {
        if let Some(ledger) = &self.ledger {
            ledger.kept(pages, bytes);
        }
    }

    pub(super) fn is_written(&self, pages: Range<u64>) {
        if let Some(ledger) = &self.ledger {
            ledger.written(pages);
        }
    }

    pub(super) fn is_written_to(&self, pages: Range<u64>) -> Writing<'_> {
        self.ledger.as_ref().and_then(|ledger| ledger.writing(pages))
    }

    pub(super) fn recalls(&self, pages: &Range<u64>) -> bool {
        self.ledger.as_ref().is_some_and(|ledger| ledger.recall(pages.clone()))
    }

    /// Whether the store failed a moment ago.
    pub(crate) fn is_failing(&self) -> bool {
        self.ledger.as_ref().is_some_and(|ledger| ledger.is_failing())
    }

    /// Notes how an access to the store ended, and names the store where it failed.
    pub(super) fn of_store<T>(&self, what: &str, length: usize, outcome: std::io::Result<T>) -> Result<T> {
        let name = || self.ledger.as_ref().map_or_else(|| "the local cache".to_owned(), |ledger| ledger.name());
        let outcome = outcome
            .map_err(|error| Error::io(format!("{}: {what} {length} bytes in {}", self.info.name, name()), error));
        if let (Some(ledger), Err(error)) = (&self.ledger, &outcome) {
            ledger.failed(length as u64, error);
        }
        outcome
    }
}
