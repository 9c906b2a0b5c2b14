//! How stores to a slice are found: noted by the kernel and scanned for, or taken as faults.

use std::io;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard};

use crate::device::userfaultfd::area::Area;
use crate::device::userfaultfd::kernel::{Descriptor, PageMap, ScanRegion};
use crate::error::{Error, Result};
use crate::mapping::Words;
use crate::page::PAGE;

/// The longest run protected again at once, so that a fault does not wait long for it.
const LONGEST_RUN: u64 = 1024;

/// How stores to a slice are found.
pub enum Writes {
    /// Not at all: the slice is read-only.
    None,
    /// The kernel notes them and lets them through (6.7).
    Noted(Mutex<Scanner>),
    /// The first one to each page is a fault, which marks the page and lets it through (5.19).
    Faulted(Faulted),
}

/// Asks the kernel what it noted.
pub struct Scanner {
    page_map: PageMap,
    found: Vec<ScanRegion>,
}

/// The pages that may be written without a fault.
pub struct Faulted {
    /// A bit a page. It changes with the page's protection, under the lock; a bit too many costs a push, one
    /// too few would lose a store.
    writable: Mutex<Words>,
    /// Held by the one who collects: whoever comes second must find the first one's pages marked already.
    collecting: Mutex<()>,
}

impl Writes {
    /// Stores are noted by the kernel.
    pub fn noted() -> Result<Writes> {
        let page_map = PageMap::open().map_err(|error| Error::io("open /proc/self/pagemap", error))?;
        Ok(Writes::Noted(Mutex::new(Scanner { page_map, found: vec![ScanRegion::default(); 4096] })))
    }

    /// Stores to a slice of that many pages are faults.
    pub fn faulted(pages: u64) -> Result<Writes> {
        let writable = Mutex::new(Words::zeroed(pages.div_ceil(64) as usize)?);
        Ok(Writes::Faulted(Faulted { writable, collecting: Mutex::default() }))
    }

    /// Whether pages are to be mapped protected, so that stores to them are found.
    pub fn are_found(&self) -> bool {
        !matches!(self, Writes::None)
    }

    /// Tells of every page of the range that was written since the last time, protected again before.
    pub fn collect(
        &self,
        pages: Range<u64>,
        area: &Area,
        descriptor: &Descriptor,
        written: &mut dyn FnMut(Range<u64>),
    ) -> Result<()> {
        match self {
            Writes::None => Ok(()),
            Writes::Noted(scanner) => {
                // One scan at a time, as `Faulted::collecting` says.
                scanner.lock().unwrap_or_else(|e| e.into_inner()).collect(pages, area, written)
            }
            Writes::Faulted(faulted) => faulted.collect(pages, |run| protect(descriptor, area, run, true), written),
        }
    }
}

/// Protects a run of pages or lets them be written. A page whose mapping is broken is left out: it can neither
/// be read nor written.
pub fn protect(descriptor: &Descriptor, area: &Area, pages: &Range<u64>, protect: bool) -> io::Result<()> {
    let part = |pages: Range<u64>| loop {
        let start = area.address_of(pages.start);
        match descriptor.protect(start, (pages.end - pages.start) * PAGE, protect) {
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
            outcome => return outcome,
        }
    };
    let is_broken = |error: &io::Error| error.raw_os_error() == Some(libc::ENOENT);
    match part(pages.clone()) {
        Err(error) if is_broken(&error) => {}
        outcome => return outcome,
    }
    for page in pages.clone() {
        match part(page..page + 1) {
            Err(error) if is_broken(&error) => {}
            outcome => outcome?,
        }
    }
    Ok(())
}

impl Scanner {
    fn collect(&mut self, pages: Range<u64>, area: &Area, written: &mut dyn FnMut(Range<u64>)) -> Result<()> {
        let base = area.address_of(0);
        let (mut at, end) = (area.address_of(pages.start), area.address_of(pages.end));
        while at < end {
            let scanned = self.page_map.scan(at, end, &mut self.found);
            let (count, reached) = scanned.map_err(|error| Error::io("scan a slice for writes", error))?;
            for run in &self.found[..count] {
                written((run.start - base) / PAGE..(run.end - base) / PAGE);
            }
            at = reached;
        }
        Ok(())
    }
}

impl Faulted {
    fn lock(&self) -> MutexGuard<'_, Words> {
        self.writable.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// A page is about to be written: marks it, then lets it be written by `unprotect`.
    pub fn allow(&self, page: u64, unprotect: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let writable = self.lock();
        writable.set(page..page + 1);
        unprotect()
    }

    fn collect(
        &self,
        pages: Range<u64>,
        protect: impl Fn(&Range<u64>) -> io::Result<()>,
        written: &mut dyn FnMut(Range<u64>),
    ) -> Result<()> {
        let _one = self.collecting.lock().unwrap_or_else(|e| e.into_inner());
        let mut at = pages.start;
        loop {
            let run = {
                let writable = self.lock();
                let Some(run) = take_run(&writable, at..pages.end) else { return Ok(()) };
                if let Err(error) = protect(&run) {
                    writable.set(run);
                    return Err(Error::io("protect pages of a slice again", error));
                }
                run
            };
            // Without the lock: it may wait for the thread that takes faults.
            at = run.end;
            written(run);
        }
    }
}

/// Clears the first run of bits in a range and says where it was.
fn take_run(words: &Words, pages: Range<u64>) -> Option<Range<u64>> {
    use std::sync::atomic::Ordering::Relaxed;
    let mut first = pages.start;
    loop {
        if first >= pages.end {
            return None;
        }
        match words[(first / 64) as usize].load(Relaxed) >> (first % 64) {
            0 => first = (first / 64 + 1) * 64,
            rest => {
                first += u64::from(rest.trailing_zeros());
                break;
            }
        }
    }
    let mut end = first;
    while end < pages.end.min(first + LONGEST_RUN) {
        let bit = 1 << (end % 64);
        if words[(end / 64) as usize].fetch_and(!bit, Relaxed) & bit == 0 {
            break;
        }
        end += 1;
    }
    (end > first).then_some(first..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_page_that_was_allowed_is_told_once_and_only_within_the_range() {
        let Writes::Faulted(faulted) = Writes::faulted(5000).unwrap() else { panic!() };
        for page in [0, 1, 63, 64, 65, 200, 4999].into_iter().chain(1000..3500) {
            faulted.allow(page, || Ok(())).unwrap();
        }
        let collect = |pages| {
            let mut runs = Vec::new();
            faulted.collect(pages, |_| Ok(()), &mut |run| runs.push(run)).unwrap();
            runs
        };
        assert_eq!(collect(1..65), [1..2, 63..65]);
        assert_eq!(collect(0..5000), [0..1, 65..66, 200..201, 1000..2024, 2024..3048, 3048..3500, 4999..5000]);
        assert!(collect(0..5000).is_empty());
    }

    #[test]
    fn a_page_that_could_not_be_protected_again_is_told_the_next_time() {
        let Writes::Faulted(faulted) = Writes::faulted(100).unwrap() else { panic!() };
        faulted.allow(7, || Ok(())).unwrap();
        let broken = |_: &Range<u64>| Err(io::Error::from_raw_os_error(libc::ENOMEM));
        assert!(faulted.collect(0..100, broken, &mut |run| panic!("told {run:?}")).is_err());
        let mut told = Vec::new();
        faulted.collect(0..100, |_| Ok(()), &mut |run| told.push(run)).unwrap();
        assert!(matches!(&told[..], [run] if *run == (7..8)));
    }
}
