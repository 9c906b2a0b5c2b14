//! 532: a mount that begins with its cache while the remote is away, and what becomes of it.

use std::path::Path;
use std::time::Duration;

use r3map_core::event::{Event, Kind};
use r3map_core::{BackendOptions, Code, Mount, MountOptions, Pull, Result};

mod faults;

use faults::{Directory, SOON, ServerProcess, assert_same, eventually, pattern};

const SIZE: usize = 1 << 20;
const HERE: u64 = 512 << 10;

#[test]
#[ignore = "started by another test"]
fn serves_until_it_is_killed() {
    faults::serve();
}

/// A server and a cache that has the first half of its region.
struct Bed {
    directory: Directory,
    server: ServerProcess,
}

impl Bed {
    fn new() -> Bed {
        let directory = Directory::new();
        let file = directory.file("file");
        std::fs::write(&file, pattern(SIZE, 4)).unwrap();
        let server = ServerProcess::unix(&file, &directory.file("socket"));
        let bed = Bed { directory, server };
        let mount = bed.mount(false).unwrap();
        mount.pull(0, HERE).unwrap();
        mount.close().unwrap();
        bed
    }

    fn options(&self) -> MountOptions {
        let cache = format!("file://{}", self.directory.file("cache").display());
        let options = Mount::options().cache(cache).deadline(Duration::from_secs(1));
        MountOptions { pull: Pull::Demand, push_interval: Duration::from_millis(20), ..options }
    }

    fn mount(&self, offline: bool) -> Result<Mount> {
        let options = MountOptions { offline, ..self.options() };
        options.open_url(&self.server.url(), &BackendOptions::default())
    }

    fn file(&self) -> Vec<u8> {
        std::fs::read(self.directory.file("file")).unwrap()
    }
}

/// The next event of one of these kinds, whatever is told between.
#[track_caller]
fn next(mount: &Mount, after: &mut u64, kind: Kind) -> Event {
    loop {
        let event = mount.next(*after, SOON).unwrap();
        *after = event.sequence;
        if event.kind == kind {
            return event;
        }
        assert_eq!(event.kind, Kind::PushFailed, "before {kind:?}");
    }
}

#[test]
fn it_reads_and_writes_what_is_here_and_pushes_when_the_remote_is_back() {
    let mut bed = Bed::new();
    bed.server.kill();
    let error = bed.mount(false).err().unwrap();
    assert!(matches!(error.code(), Code::Disconnected | Code::NotFound | Code::Io), "{error:?}");
    let mut twin = pattern(SIZE, 4);
    for round in 0..2 {
        let mount = bed.mount(true).unwrap();
        let away = mount.next(0, SOON).unwrap();
        assert_eq!((away.sequence, away.kind), (1, Kind::Disconnected));
        assert!(away.cause.is_some());
        let mut bytes = vec![0; HERE as usize];
        mount.read_at(&mut bytes, 0).unwrap();
        assert_same(&bytes, &twin[..HERE as usize], "what is here");
        let error = mount.read_at(&mut bytes[..100], HERE).unwrap_err();
        assert_eq!(error.code(), Code::Disconnected);
        let at = 1000 + round * 9000;
        mount.write_at(b"kept", at as u64).unwrap();
        twin[at..at + 4].copy_from_slice(b"kept");
        assert_eq!(mount.sync().unwrap_err().code(), Code::Disconnected);
        // Closed or dropped, it keeps what it could not push.
        if round == 0 {
            mount.close().unwrap();
        }
    }
    let mount = bed.mount(true).unwrap();
    let mut after = 0;
    next(&mount, &mut after, Kind::Disconnected);
    bed.server.restart();
    assert!(next(&mount, &mut after, Kind::Recovered).cause.is_none());
    eventually("a sync gets through", || mount.sync().is_ok());
    assert_same(&bed.file(), &twin, "at the backend");
    let mut bytes = vec![0; SIZE];
    mount.read_at(&mut bytes, 0).unwrap();
    assert_same(&bytes, &twin, "with what was missing");
    mount.close().unwrap();
    let mount = bed.mount(false).unwrap();
    assert_eq!(mount.missing(0, SIZE as u64).unwrap(), [], "what it pushed while offline was its own");
    mount.close().unwrap();
}

fn write_as_another(url: &str) {
    let other = Mount::options().open_url(url, &BackendOptions::default()).unwrap();
    other.write_at(b"theirs", 1000).unwrap();
    other.close().unwrap();
}

#[test]
fn it_pushes_nothing_over_what_others_wrote_meanwhile() {
    let mut bed = Bed::new();
    bed.server.kill();
    let mount = bed.mount(true).unwrap();
    mount.write_at(b"kept", 1000).unwrap();
    mount.close().unwrap();
    bed.server.restart();
    write_as_another(&bed.server.url());
    bed.server.kill();
    let mount = bed.mount(true).unwrap();
    let mut after = 0;
    next(&mount, &mut after, Kind::Disconnected);
    bed.server.restart();
    let refused = loop {
        let cause = next(&mount, &mut after, Kind::PushFailed).cause.unwrap();
        if cause.code() != Code::Disconnected {
            break cause;
        }
    };
    assert_eq!(refused.code(), Code::Corrupt);
    assert!(refused.message().contains("somebody else wrote"), "{refused}");
    let error = mount.sync().unwrap_err();
    assert_eq!(error.code(), Code::Corrupt);
    let mut bytes = [0; 4];
    mount.read_at(&mut bytes, 1000).unwrap();
    assert_eq!(&bytes, b"kept", "it can still be read");
    assert_eq!(mount.close().unwrap_err().code(), Code::Corrupt);
    mount.discard().unwrap();
    let mut twin = pattern(SIZE, 4);
    twin[1000..1006].copy_from_slice(b"theirs");
    assert_same(&bed.file(), &twin, "at the backend");
}

fn refused(cache: Option<&Path>, url: &str) -> String {
    let cache = cache.map(|cache| format!("file://{}", cache.display()));
    let options = MountOptions { offline: true, cache, ..Mount::options() };
    let error = options.open_url(url, &BackendOptions::default()).err().unwrap();
    assert_eq!(error.code(), Code::InvalidArgument);
    error.message().to_owned()
}

#[test]
fn without_a_cache_of_before_it_is_refused() {
    let directory = Directory::new();
    let url = format!("r3map+unix://{}?name=region", directory.file("socket").display());
    assert!(refused(None, &url).starts_with("offline: needs a cache in a file"));
    assert!(refused(Some(&directory.file("cache")), &url).starts_with("offline: needs a cache in a file"));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}
