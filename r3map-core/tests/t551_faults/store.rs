//! The store behind the server: words that say which they are and how often they were written, so that it and every
//! reader know zeros, other words, and old ones.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use r3map_core::backend::{Reply, Request, perform_on_pool};
use r3map_core::buffer::Buffer;
use r3map_core::{Backend, Code, Error, Info, Result};

/// The word at a place, written for the nth time.
pub fn word(at: usize, version: u32) -> u64 {
    u64::from(version) << 32 | at as u64
}

/// A run of words as bytes.
pub fn bytes_of(words: Range<usize>, version: impl Fn(usize) -> u32) -> Vec<u8> {
    words.flat_map(|at| word(at, version(at)).to_le_bytes()).collect()
}

/// How the store fails.
#[derive(Clone, Copy, Debug)]
pub enum Failure {
    /// With an error of this code.
    Error(Code),
    /// By half of the bytes.
    Short,
}

/// The store.
pub struct Store {
    info: Info,
    bytes: Mutex<Vec<u8>>,
    read: AtomicU64,
    /// What fails, and how many calls still do.
    failing: Mutex<Option<(Failure, u64)>>,
}

impl Store {
    /// That many words, each written once.
    pub fn new(words: usize) -> Arc<Store> {
        let bytes = bytes_of(0..words, |_| 1);
        let info = Info { local: false, chunk_size: 64 << 10, ..Info::local("store", bytes.len() as u64) };
        Arc::new(Store { info, bytes: Mutex::new(bytes), read: AtomicU64::new(0), failing: Mutex::default() })
    }

    pub fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap()
    }

    /// How many bytes were read from it so far.
    pub fn read_bytes(&self) -> u64 {
        self.read.load(Ordering::SeqCst)
    }

    /// So many of the next calls fail.
    pub fn fail(&self, failure: Failure, calls: u64) {
        *self.failing.lock().unwrap() = (calls > 0).then_some((failure, calls));
    }

    fn fails(&self) -> Option<Failure> {
        let mut failing = self.failing.lock().unwrap();
        let (failure, calls) = (*failing)?;
        *failing = (calls > 1).then_some((failure, calls - 1));
        Some(failure)
    }

    fn check(&self) -> Result<bool> {
        match self.fails() {
            None => Ok(true),
            Some(Failure::Short) => Ok(false),
            Some(Failure::Error(code)) => Err(Error::new(code, "the disk is on fire")),
        }
    }
}

impl Backend for Store {
    fn info(&self) -> &Info {
        &self.info
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.check()?;
        self.read.fetch_add(buffer.len() as u64, Ordering::SeqCst);
        buffer.copy_from_slice(&self.bytes()[offset as usize..][..buffer.len()]);
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.check()?;
        let mut bytes = self.bytes();
        let stored = &mut bytes[offset as usize..][..data.len()];
        for (index, (old, new)) in stored.chunks(8).zip(data.chunks(8)).enumerate() {
            let at = offset as usize / 8 + index;
            let [old, new] = [old, new].map(|word| u64::from_le_bytes(word.try_into().unwrap()));
            assert_eq!(new as u32 as usize, at, "word {at} became {new:#x}");
            assert!(new >= old, "an older write of word {at} was applied over a newer one: {old:#x} became {new:#x}");
        }
        stored.copy_from_slice(data);
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.check().map(drop)
    }

    fn submit(self: Arc<Self>, request: Request) {
        use r3map_core::backend::Operation;
        let Operation::Read { buffer, .. } = &request.operation else { return perform_on_pool(self, request) };
        let length = buffer.len();
        let short = matches!(*self.failing.lock().unwrap(), Some((Failure::Short, _)));
        if short {
            self.fails();
            return request.completion.complete(Ok(Reply::Data(Buffer::new(length / 2))));
        }
        perform_on_pool(self, request);
    }
}
