//! The backends a model test mounts, and a look at what is really stored.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use r3map_core::backend::memory::Memory;
use r3map_core::{Backend, BackendOptions, Code, Error, ExportOptions, Info, Result, Server, ServerOptions};

use crate::random::Random;

#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Memory,
    File,
    /// One file a chunk, of an odd size now and then.
    Directory,
    /// Slow, in any order, and now and then away for a moment.
    Slow,
    /// The same, and a write may be refused for good; the next one may not.
    Failing,
    /// Over the wire.
    Remote,
}

/// A store of some bytes, opened as often as one likes.
pub struct Store {
    kind: Kind,
    size: u64,
    memory: Arc<Memory>,
    file: PathBuf,
    served: Option<(Server, String)>,
}

impl Store {
    /// A store that holds these bytes.
    pub fn new(kind: Kind, bytes: &[u8], seed: u64) -> Store {
        let size = bytes.len() as u64;
        let memory = Arc::new(Memory::new(size).unwrap());
        memory.write_at(bytes, 0).unwrap();
        // Tests beside this one have stores of the same seed.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let file = std::env::temp_dir().join(format!("r3map-model-{}-{number}", std::process::id()));
        if matches!(kind, Kind::File) {
            std::fs::write(&file, bytes).unwrap();
        }
        if matches!(kind, Kind::Directory) {
            // Not thousands of files: each sync makes every one of them durable.
            let chunk = Random::new(seed).one_of(&[4096, 5000, 65_536, 1 << 20]).max(size / 200);
            let url = format!("dir://{}?size={size}&chunk={chunk}", file.display());
            r3map_core::backend::open(&url, &BackendOptions::default()).unwrap().write_at(bytes, 0).unwrap();
        }
        let served = matches!(kind, Kind::Remote).then(|| {
            let server = Server::new(ServerOptions::default()).unwrap();
            server.export("model", memory.clone(), &ExportOptions::default()).unwrap();
            let url = server.listen("127.0.0.1:0").unwrap();
            (server, format!("{url}/model"))
        });
        Store { kind, size, memory, file, served }
    }

    pub fn open(&self, random: &mut Random) -> Arc<dyn Backend> {
        let open = |url: &str| r3map_core::backend::open(url, &BackendOptions::default()).unwrap();
        let mut slow = |refuses| {
            let info = Info { local: false, concurrency: 8, ..Info::local("slow", self.size) };
            Arc::new(Slow { info, memory: self.memory.clone(), state: AtomicU64::new(random.next() | 1), refuses })
        };
        match self.kind {
            Kind::Memory => self.memory.clone(),
            Kind::File => open(&format!("file://{}", self.file.display())),
            Kind::Directory => open(&format!("dir://{}", self.file.display())),
            Kind::Slow => slow(false),
            Kind::Failing => slow(true),
            Kind::Remote => open(&self.served.as_ref().unwrap().1),
        }
    }

    /// Where a mount of it may keep its pages.
    pub fn cache(&self) -> String {
        format!("file://{}.cache", self.file.display())
    }

    /// What is stored.
    pub fn bytes(&self) -> Vec<u8> {
        if matches!(self.kind, Kind::File) {
            return std::fs::read(&self.file).unwrap();
        }
        let mut bytes = vec![0; self.size as usize];
        match self.kind {
            Kind::Directory => self.open(&mut Random::new(1)).read_at(&mut bytes, 0).unwrap(),
            _ => self.memory.read_at(&mut bytes, 0).unwrap(),
        }
        bytes
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Some((server, _)) = &self.served {
            let _ = server.close();
        }
        let _ = std::fs::remove_file(&self.file);
        let _ = std::fs::remove_dir_all(&self.file);
        let cache = self.cache();
        for ending in ["", ".r3map-cache"] {
            let _ = std::fs::remove_file(format!("{}{ending}", &cache["file://".len()..]));
        }
    }
}

struct Slow {
    info: Info,
    memory: Arc<Memory>,
    state: AtomicU64,
    refuses: bool,
}

impl Slow {
    /// Takes a while, and may fail so that trying again helps; one write in eight so that it does not.
    fn delay(&self, writes: bool) -> Result<()> {
        let seed = self.state.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let mut random = Random::new(seed);
        std::thread::sleep(Duration::from_micros(random.below(400)));
        match random.below(40) {
            0 => Err(Error::new(Code::Disconnected, "the slow store is away for a moment").with_retryable(true)),
            1..6 if writes && self.refuses => Err(Error::new(Code::Io, "the slow store refused a write")),
            _ => Ok(()),
        }
    }
}

impl Backend for Slow {
    fn info(&self) -> &Info {
        &self.info
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.delay(false)?;
        self.memory.read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.delay(true)?;
        self.memory.write_at(data, offset)
    }

    fn zero_at(&self, offset: u64, length: u64) -> Result<()> {
        self.delay(true)?;
        self.memory.zero_at(offset, length)
    }

    fn sync(&self) -> Result<()> {
        self.delay(false)
    }
}
