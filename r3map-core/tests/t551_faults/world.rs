//! A server, a network in front of it, a managed mount behind that, and the words that it should hold.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once, OnceLock};
use std::time::Duration;

use r3map_chaos::{Conditions, Network};
use r3map_core::device::Kind;
use r3map_core::server::named;
use r3map_core::{
    BackendOptions, DeviceChoice, ExportOptions, Mode, Mount, MountOptions, Server, ServerOptions, Slice,
};

use crate::Way;
use crate::faults::{Directory, Random, eventually};
use crate::store::{Store, bytes_of};

/// What a view shows, or why not.
pub type Seen<T> = Result<T, String>;

/// One way to the bytes.
pub enum View {
    Handle(Mount),
    Slice(Slice),
    File(File),
}

impl View {
    /// Of a mount that was opened with [`options_for`] this way.
    pub fn of(mount: &Mount, way: Way) -> View {
        match way {
            None => View::Handle(mount.clone()),
            Some(Kind::Userfaultfd) => {
                count_sigbus();
                View::Slice(mount.slice().unwrap())
            }
            Some(_) => View::File(mount.file().unwrap()),
        }
    }

    /// By a slice this never fails: a touch that is a SIGBUS is tried again.
    pub fn read(&self, bytes: &mut [u8], offset: u64) -> Seen<()> {
        match self {
            View::Handle(mount) => mount.read_at(bytes, offset).map_err(|error| error.to_string()),
            View::File(file) => file.read_exact_at(bytes, offset).map_err(|error| error.to_string()),
            View::Slice(slice) => {
                for (index, byte) in bytes.iter_mut().enumerate() {
                    // SAFETY: the caller stays inside the slice, whose mount is open.
                    *byte = unsafe { slice.as_ptr().add(offset as usize + index).read_volatile() };
                }
                Ok(())
            }
        }
    }

    pub fn write(&self, bytes: &[u8], offset: u64) -> Seen<()> {
        match self {
            View::Handle(mount) => mount.write_at(bytes, offset).map_err(|error| error.to_string()),
            View::File(file) => file.write_all_at(bytes, offset).map_err(|error| error.to_string()),
            View::Slice(slice) => {
                for (index, byte) in bytes.chunks(8).enumerate() {
                    let value = u64::from_le_bytes(byte.try_into().unwrap());
                    // SAFETY: as in `read`; offsets are those of words.
                    unsafe { slice.as_ptr().add(offset as usize + index * 8).cast::<u64>().write_volatile(value) };
                }
                Ok(())
            }
        }
    }
}

/// How often a touch of this process was a SIGBUS.
pub static SIGBUS: AtomicU64 = AtomicU64::new(0);

/// From now on a SIGBUS is counted, and the touch tried again a moment later.
fn count_sigbus() {
    extern "C" fn counted(_: libc::c_int) {
        // A test that waits for ever would not say why.
        if SIGBUS.fetch_add(1, Ordering::SeqCst) > 5000 {
            // SAFETY: may be called in a handler.
            unsafe { libc::abort() };
        }
        let moment = libc::timespec { tv_sec: 0, tv_nsec: 10_000_000 };
        // SAFETY: may be called in a handler, with a time that lives here.
        unsafe { libc::nanosleep(&moment, std::ptr::null_mut()) };
    }
    static ONCE: Once = Once::new();
    // SAFETY: the handler does only what a handler may.
    ONCE.call_once(|| unsafe {
        libc::signal(libc::SIGBUS, counted as extern "C" fn(libc::c_int) as libc::sighandler_t);
    });
}

/// The options of a managed mount that is reached this way.
pub fn options_for(way: Way, options: MountOptions) -> MountOptions {
    let device = match way {
        Some(Kind::Userfaultfd) => DeviceChoice::Userfaultfd,
        Some(Kind::Fuse) => DeviceChoice::Fuse,
        Some(Kind::Nbd) => DeviceChoice::Nbd(None),
        None => DeviceChoice::Auto,
    };
    options.mode(Mode::Managed).device(device)
}

pub struct World {
    pub way: Way,
    pub mount: Mount,
    pub network: Network,
    pub store: Arc<Store>,
    pub server: Server,
    /// Where clients find it without the network between.
    pub url: String,
    /// How often each word was written.
    pub versions: Vec<u32>,
    view: OnceLock<View>,
    _directory: Directory,
}

/// The bytes of words that were written so often.
pub fn expected(words: std::ops::Range<usize>, versions: &[u32]) -> Vec<u8> {
    bytes_of(words, |at| versions[at])
}

impl World {
    pub fn new(way: Way, words: usize, options: MountOptions) -> World {
        let directory = Directory::new();
        let store = Store::new(words);
        // A client that comes back waits until what its connection before had under way is over.
        let patience = ServerOptions { deadline: Duration::from_secs(2), ..ServerOptions::default() };
        let server = Server::new(patience).unwrap();
        server.export("region", store.clone(), &ExportOptions::default()).unwrap();
        let socket = format!("unix:{}", directory.file("socket").display());
        let url = named(&server.listen(&socket).unwrap(), "region");
        let network = Network::to(&socket, Conditions::default()).unwrap();
        let options = options_for(way, options);
        let mount = options.open_url(&network.url("region"), &BackendOptions::default()).unwrap();
        World {
            way,
            mount,
            network,
            store,
            server,
            url,
            versions: vec![1; words],
            view: OnceLock::new(),
            _directory: directory,
        }
    }

    pub fn view(&self) -> &View {
        self.view.get_or_init(|| View::of(&self.mount, self.way))
    }

    pub fn words(&self) -> usize {
        self.versions.len()
    }

    /// Writes some words anew.
    pub fn write(&mut self, words: std::ops::Range<usize>) -> Seen<()> {
        self.versions[words.clone()].iter_mut().for_each(|version| *version += 1);
        let bytes = expected(words.clone(), &self.versions);
        self.view().write(&bytes, words.start as u64 * 8)
    }

    /// Reads some words and compares them.
    pub fn check(&self, words: std::ops::Range<usize>) -> Seen<()> {
        let mut found = vec![0xEE; words.len() * 8];
        self.view().read(&mut found, words.start as u64 * 8)?;
        same(&found, words, &self.versions, "by the view");
        Ok(())
    }

    /// Some words at random.
    pub fn some(&self, random: &mut Random) -> std::ops::Range<usize> {
        let start = random.below(self.words() as u64 - 1) as usize;
        start..self.words().min(start + 1 + random.below(700) as usize)
    }

    /// The end of each test: all that was written is there, by the view, at the store, and after closing.
    pub fn finish(mut self) {
        eventually("a sync gets through", || self.mount.sync().is_ok());
        self.check_store("after the sync");
        let (all, mut at) = (self.words(), 0);
        while at < all {
            let piece = at..all.min(at + (64 << 10));
            eventually("all of it is read", || self.check(piece.clone()).is_ok());
            at = piece.end;
        }
        drop(self.view.take());
        eventually("the mount closes", || self.mount.close().is_ok());
        self.check_store("after closing");
        self.server.close().unwrap();
    }

    fn check_store(&self, when: &str) {
        same(&self.store.bytes(), 0..self.words(), &self.versions, when);
    }
}

/// That these are the bytes of those words.
#[track_caller]
pub fn same(found: &[u8], words: std::ops::Range<usize>, versions: &[u32], when: &str) {
    let wanted = expected(words.clone(), versions);
    if found != wanted {
        let index = (0..words.len()).find(|at| found[at * 8..][..8] != wanted[at * 8..][..8]).unwrap();
        let [found, wanted] =
            [found, &wanted].map(|bytes| u64::from_le_bytes(bytes[index * 8..][..8].try_into().unwrap()));
        panic!("{when}: word {} is {found:#x}, not {wanted:#x}", words.start + index);
    }
}
