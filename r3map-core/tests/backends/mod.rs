//! What the tests of backends share: a directory that goes away, and the kinds of store that are opened.

#![allow(dead_code)] // No test file uses all of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use r3map_core::{Backend, BackendOptions, Result, backend};

/// A directory of a test's own, removed with all in it at the end.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Scratch {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("r3map-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Scratch(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A kind of store: how its URL reads for a fresh region in a scratch directory, or one named like it, and whether
/// another opening finds its bytes.
pub struct Kind {
    pub name: String,
    pub url: Box<Named>,
    pub keeps: bool,
    /// By how much the long tests are shortened.
    pub slowness: u32,
}

type Named = dyn Fn(&Path, u64) -> String;

impl Kind {
    pub fn new(name: &str, keeps: bool, url: impl Fn(&Path, u64) -> String + 'static) -> Kind {
        Kind { name: name.to_owned(), url: Box::new(url), keeps, slowness: 1 }
    }

    /// A store whose every request costs so much that long tests do a share of what they do elsewhere.
    pub fn slow(self) -> Kind {
        Kind { slowness: 20, ..self }
    }
}

/// Every kind that runs without a server. A new backend joins by a line here.
pub fn local() -> Vec<Kind> {
    vec![
        Kind::new("memory", false, |_, size| format!("memory:?size={size}")),
        Kind::new("file", true, |at, size| format!("file://{}/file?size={size}", at.display())),
        Kind::new("dir", true, |at, size| format!("dir://{}/dir?size={size}", at.display())),
        Kind::new("dir of odd chunks", true, |at, size| format!("dir://{}/odd?size={size}&chunk=5000", at.display())),
        Kind { slowness: 4, ..Kind::new("tape", true, |at, size| format!("tape://{}/tape?size={size}", at.display())) },
        Kind::new("tape of odd chunks", true, |at, size| {
            format!("tape://{0}/odd-tape?size={size}&chunk=5000&index={0}/index", at.display())
        }),
    ]
}

pub fn open(url: &str) -> Result<Arc<dyn Backend>> {
    backend::open(url, &BackendOptions::default())
}

/// A store of one kind in a directory of its own.
pub struct Store<'a> {
    pub kind: &'a Kind,
    scratch: Scratch,
    size: u64,
}

/// A store of each kind and that size.
pub fn stores(kinds: &[Kind], size: u64) -> impl Iterator<Item = Store<'_>> {
    kinds.iter().map(move |kind| Store { kind, scratch: Scratch::new(), size })
}

impl Store<'_> {
    pub fn open(&self) -> Arc<dyn Backend> {
        open(&(self.kind.url)(self.scratch.path(), self.size)).unwrap()
    }
}

/// All bytes of a backend.
pub fn all(backend: &Arc<dyn Backend>) -> Vec<u8> {
    read(backend, 0, backend.info().size as usize)
}

/// Some bytes of a backend.
pub fn read(backend: &Arc<dyn Backend>, offset: u64, length: usize) -> Vec<u8> {
    // Not zeros to begin with: what a read leaves out would show.
    let mut bytes = vec![0xEE; length];
    backend.read_at(&mut bytes, offset).unwrap();
    bytes
}

/// Numbers that look random and are the same for the same seed.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % most.max(1)
    }
}
