//! A mapping as userfaultfd shows it, without the kernel: pages are mapped or not, and the first store to one
//! after it was armed is noted.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use r3map_core::Result;
use r3map_core::cancel::{Limit, Waiter};
use r3map_core::page::{PAGE, Set};
use r3map_core::region::{Again, Region, Want, Window};

use crate::remote::turn;

#[derive(Clone, Copy, Default)]
struct Entry {
    mapped: bool,
    written: bool,
}

pub struct Mapping {
    store: File,
    /// What the kernel knows of each page. A store through the mapping and its note are one step.
    entries: Mutex<Vec<Entry>>,
    scanning: shuttle::sync::Mutex<()>,
}

impl Mapping {
    pub fn new(region: &Region) -> Arc<Mapping> {
        let entries = vec![Entry::default(); region.states().pages() as usize];
        let store = region.store().try_clone().unwrap();
        Arc::new(Mapping { store, entries: Mutex::new(entries), scanning: Default::default() })
    }

    /// Stores bytes of one page as an app does, through a fault if the page is not mapped.
    pub fn store(&self, region: &Arc<Region>, bytes: &[u8], offset: u64) -> Result<()> {
        let page = offset / PAGE;
        loop {
            let mut entries = self.entries.lock().unwrap();
            let entry = &mut entries[page as usize];
            if entry.mapped {
                self.store.write_all_at(bytes, offset).unwrap();
                entry.written = true;
                return Ok(());
            }
            drop(entries);
            turn();
            self.fault(region, page)?;
        }
    }

    /// Reads bytes of one page as an app does.
    pub fn load(&self, region: &Arc<Region>, bytes: &mut [u8], offset: u64) -> Result<()> {
        let page = offset / PAGE;
        loop {
            let entries = self.entries.lock().unwrap();
            if entries[page as usize].mapped {
                self.store.read_exact_at(bytes, offset).unwrap();
                return Ok(());
            }
            drop(entries);
            turn();
            self.fault(region, page)?;
        }
    }

    /// What the device does when a page is touched that is not mapped.
    fn fault(&self, region: &Arc<Region>, page: u64) -> Result<()> {
        loop {
            let state = region.settled(page);
            if Set::STORED.has(state) {
                turn();
                let mut entries = self.entries.lock().unwrap();
                // Mapped unprotected, which counts as written.
                if !entries[page as usize].mapped {
                    entries[page as usize] = Entry { mapped: true, written: true };
                }
                return Ok(());
            }
            if Set::ZERO.has(state) {
                region.fill_zero(page)?;
                continue;
            }
            let (waiter, notifier) = Waiter::new();
            let want = Want { again: Again::YES, ..Want::only(page..page + 1) };
            region.demand(page, want, None, Box::new(move |landed| notifier.notify(landed)));
            waiter.wait(&Limit::none(), "fault")??;
        }
    }
}

impl Window for Mapping {
    fn install(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        for (index, bytes) in bytes.chunks(PAGE as usize).enumerate() {
            turn();
            let page = offset / PAGE + index as u64;
            let mut entries = self.entries.lock().unwrap();
            assert!(!entries[page as usize].mapped, "page {page} is installed twice");
            self.store.write_all_at(bytes, page * PAGE).unwrap();
            entries[page as usize] = Entry { mapped: true, written: false };
        }
        turn();
        Ok(())
    }

    fn collect(&self, pages: Range<u64>, written: &mut dyn FnMut(Range<u64>)) -> Result<()> {
        let _scanning = self.scanning.lock().unwrap();
        for page in pages {
            turn();
            let found = std::mem::take(&mut self.entries.lock().unwrap()[page as usize].written);
            if found {
                turn();
                written(page..page + 1);
            }
        }
        Ok(())
    }

    fn forget(&self, pages: Range<u64>) -> Result<()> {
        for page in pages {
            turn();
            self.entries.lock().unwrap()[page as usize] = Entry { mapped: false, written: false };
        }
        Ok(())
    }

    fn finds_stored(&self) -> bool {
        true
    }
}
