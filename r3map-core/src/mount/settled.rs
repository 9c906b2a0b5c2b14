//! A managed mount over a cache in a file, as a device has it: a flush makes what was written durable here, where it is
//! pushed from. `sync` of the mount is what brings it to the backend.

use std::sync::Arc;

use crate::backend::{self, Backend, Extent, Info, Operation, Reply, Request};
use crate::error::Result;
use crate::mount::cache::Cache;
use crate::mount::managed::Managed;

/// The pages and the cache that keeps them.
pub struct Settled {
    managed: Arc<Managed>,
    cache: Arc<Cache>,
}

impl Settled {
    /// Over these pages, which that cache keeps.
    pub fn new(managed: Arc<Managed>, cache: Arc<Cache>) -> Settled {
        Settled { managed, cache }
    }
}

impl Backend for Settled {
    fn info(&self) -> &Info {
        self.managed.info()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.managed.read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.managed.write_at(data, offset)
    }

    fn zero_at(&self, offset: u64, length: u64) -> Result<()> {
        self.managed.zero_at(offset, length)
    }

    fn extents(&self, offset: u64, length: u64, most: usize) -> Result<Vec<Extent>> {
        self.managed.extents(offset, length, most)
    }

    fn prefetch(&self, offset: u64, length: u64) {
        Backend::prefetch(&*self.managed, offset, length);
    }

    fn sync(&self) -> Result<()> {
        self.cache.settle()
    }

    fn try_read_at(&self, buffer: &mut [u8], offset: u64) -> Option<Result<()>> {
        self.managed.try_read_at(buffer, offset)
    }

    fn try_write_at(&self, data: &[u8], offset: u64) -> Option<Result<()>> {
        self.managed.try_write_at(data, offset)
    }

    fn submit(self: Arc<Self>, request: Request) {
        match request.operation {
            // It waits for a disk, and whoever submits must not.
            Operation::Sync => backend::run_on_pool(move || {
                request.completion.complete(self.cache.settle().map(|()| Reply::Done));
            }),
            _ => self.managed.clone().submit(request),
        }
    }
}
