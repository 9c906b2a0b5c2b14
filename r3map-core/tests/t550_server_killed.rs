//! 550: the server is killed, or stops, under a running mount, which goes on without being mounted anew.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use r3map_core::device::Kind;
use r3map_core::{BackendOptions, Code, DeviceChoice, Mode, Mount, MountOptions, Pull, Slice};

mod faults;
#[path = "../../tests/skip.rs"]
mod skip;

use faults::{Directory, Random, ServerProcess, assert_same, eventually, pattern};

/// No multiple of a page.
const SIZE: usize = (12 << 20) + 1234;
const WORDS: u64 = SIZE as u64 / 8;

#[test]
#[ignore = "started by another test"]
fn serves_until_it_is_killed() {
    faults::serve();
}

/// One way to read and write a mount.
enum View {
    Slice(Slice),
    File(File),
    Handle(Mount),
}

impl View {
    fn write(&self, word: u64, value: u64) {
        let bytes = value.to_le_bytes();
        match self {
            // SAFETY: the word lies inside the slice, whose mount is open, and nobody else writes it now.
            View::Slice(slice) => unsafe { slice.as_ptr().cast::<u64>().add(word as usize).write_volatile(value) },
            View::File(file) => file.write_all_at(&bytes, word * 8).unwrap(),
            View::Handle(mount) => mount.write_at(&bytes, word * 8).unwrap(),
        }
    }

    fn read(&self, word: u64) -> u64 {
        let mut bytes = [0; 8];
        match self {
            // SAFETY: as in `write`.
            View::Slice(slice) => return unsafe { slice.as_ptr().cast::<u64>().add(word as usize).read_volatile() },
            View::File(file) => file.read_exact_at(&mut bytes, word * 8).unwrap(),
            View::Handle(mount) => mount.read_at(&mut bytes, word * 8).unwrap(),
        }
        u64::from_le_bytes(bytes)
    }
}

/// An app that goes on writing, reading what it wrote, and syncing by the mount or the descriptor in turn.
struct Writer<'a> {
    mount: &'a Mount,
    view: View,
    file: &'a Path,
    twin: Vec<u8>,
    random: Random,
}

impl Writer<'_> {
    fn round(&mut self, number: u64) {
        for _ in 0..32 {
            let (word, value) = (self.random.below(WORDS), self.random.next());
            self.view.write(word, value);
            self.twin[word as usize * 8..][..8].copy_from_slice(&value.to_le_bytes());
            let word = self.random.below(WORDS);
            let expected = u64::from_le_bytes(self.twin[word as usize * 8..][..8].try_into().unwrap());
            assert_eq!(self.view.read(word), expected, "round {number}, word {word}");
        }
        match &self.view {
            View::File(file) if number % 2 == 0 => file.sync_all().unwrap(),
            _ => self.mount.sync().unwrap(),
        }
        assert_same(&std::fs::read(self.file).unwrap(), &self.twin, &format!("after sync {number}"));
    }
}

struct Place {
    file: PathBuf,
    directory: Directory,
}

impl Place {
    fn new() -> Place {
        let directory = Directory::new();
        let file = directory.file("region");
        std::fs::write(&file, pattern(SIZE, 1)).unwrap();
        Place { file, directory }
    }

    fn unix(&self) -> ServerProcess {
        ServerProcess::unix(&self.file, &self.directory.file("socket"))
    }
}

/// Writes and syncs all the time while the server is killed and started again four times: no call fails, each
/// successful sync left the file as it should be, and so does the end.
fn outlives_its_server(mut server: ServerProcess, place: &Place, mode: Mode, device: Option<Kind>) {
    let choice = match device {
        Some(Kind::Userfaultfd) => DeviceChoice::Userfaultfd,
        Some(Kind::Fuse) => DeviceChoice::Fuse,
        Some(Kind::Nbd) => DeviceChoice::Nbd(None),
        None => DeviceChoice::Auto,
    };
    let options = Mount::options().mode(mode).device(choice);
    let options = MountOptions { push_interval: Duration::from_millis(10), ..options };
    let mount = options.open_url(&server.url(), &BackendOptions::default()).unwrap();
    let view = match device {
        Some(Kind::Userfaultfd) => View::Slice(mount.slice().unwrap()),
        Some(_) => View::File(mount.file().unwrap()),
        None => View::Handle(mount.clone()),
    };
    let twin = pattern(SIZE, 1);
    let mut writer = Writer { mount: &mount, view, file: &place.file, twin, random: Random::new(7) };
    let (stop, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    let twin = std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            // Also when it fails, so that nobody waits for its next round.
            while !stop.load(Ordering::SeqCst) {
                writer.round(rounds.load(Ordering::SeqCst));
                rounds.fetch_add(1, Ordering::SeqCst);
            }
            writer.twin
        });
        for pause in [0, 3, 20, 60] {
            let before = rounds.load(Ordering::SeqCst);
            let came_on = || rounds.load(Ordering::SeqCst) > before + 1 || writing.is_finished();
            eventually("the writer goes on", came_on);
            server.kill();
            std::thread::sleep(Duration::from_millis(pause));
            server.restart();
        }
        let before = rounds.load(Ordering::SeqCst);
        eventually("the writer goes on", || rounds.load(Ordering::SeqCst) > before + 1 || writing.is_finished());
        stop.store(true, Ordering::SeqCst);
        writing.join().unwrap()
    });
    let mut bytes = vec![0; SIZE];
    mount.read_at(&mut bytes, 0).unwrap();
    assert_same(&bytes, &twin, "through the mount at the end");
    mount.close().unwrap();
    assert_same(&std::fs::read(&place.file).unwrap(), &twin, "after close");
}

#[test]
fn a_managed_slice_goes_on_while_its_server_is_killed_and_started_again() {
    if let Err(error) = Kind::Userfaultfd.probe() {
        return skip::skip(error);
    }
    let place = Place::new();
    outlives_its_server(place.unix(), &place, Mode::Managed, Some(Kind::Userfaultfd));
    let place = Place::new();
    outlives_its_server(ServerProcess::tcp(&place.file), &place, Mode::Managed, Some(Kind::Userfaultfd));
}

#[test]
fn a_managed_file_of_fuse_goes_on_while_its_server_is_killed_and_started_again() {
    if let Err(error) = Kind::Fuse.probe() {
        return skip::skip(error);
    }
    let place = Place::new();
    outlives_its_server(place.unix(), &place, Mode::Managed, Some(Kind::Fuse));
}

#[test]
fn a_managed_block_device_goes_on_while_its_server_is_killed_and_started_again() {
    if let Err(error) = Kind::Nbd.probe() {
        return skip::leave_to_guest(error);
    }
    let place = Place::new();
    outlives_its_server(place.unix(), &place, Mode::Managed, Some(Kind::Nbd));
}

#[test]
fn the_handle_of_a_managed_mount_goes_on_while_its_server_is_killed_and_started_again() {
    let place = Place::new();
    outlives_its_server(ServerProcess::tcp(&place.file), &place, Mode::Managed, None);
}

#[test]
fn the_handle_of_a_direct_mount_goes_on_while_its_server_is_killed_and_started_again() {
    let place = Place::new();
    outlives_its_server(place.unix(), &place, Mode::Direct, None);
}

/// Whether an error is one that a server may cause by being away.
fn is_away(code: Code) -> bool {
    matches!(code, Code::Timeout | Code::Disconnected)
}

#[test]
fn a_server_that_stops_costs_deadlines_and_no_thread() {
    for mode in [Mode::Direct, Mode::Managed] {
        let place = Place::new();
        let server = place.unix();
        let options = MountOptions {
            pull: Pull::Demand,
            push_interval: Duration::from_millis(10),
            ..Mount::options().mode(mode).deadline(Duration::from_millis(300))
        };
        let mount = options.open_url(&server.url(), &BackendOptions::default()).unwrap();
        let mut twin = pattern(SIZE, 1);
        let mut page = vec![0; 4096];
        mount.read_at(&mut page, 0).unwrap();
        server.pause();
        std::thread::scope(|scope| {
            for reader in 1..=4 {
                let (mount, twin) = (&mount, &twin);
                scope.spawn(move || {
                    for page in 0..3 {
                        let (mut bytes, at) = (vec![0; 4096], (reader * 8 + page) << 16);
                        let error = mount.read_at(&mut bytes, at as u64).unwrap_err();
                        assert!(is_away(error.code()), "{mode:?}: {error:?}");
                    }
                    if mode == Mode::Managed {
                        let mut here = vec![0; 4096];
                        mount.read_at(&mut here, 0).unwrap();
                        assert_same(&here, &twin[..4096], "a page that is here");
                    }
                });
            }
        });
        let wrote = mount.write_at(&[7; 4096], 0);
        twin[..4096].fill(7);
        match mode {
            Mode::Managed => wrote.unwrap(),
            _ => assert!(is_away(wrote.unwrap_err().code())),
        }
        let error = mount.sync().unwrap_err();
        assert!(is_away(error.code()) && error.is_retryable() == (mode == Mode::Managed), "{mode:?}: {error:?}");
        server.go_on();
        let mut bytes = vec![0; SIZE];
        eventually("reads go on", || mount.read_at(&mut bytes[..4096], 8 << 16).is_ok());
        if mode == Mode::Managed {
            eventually("the sync gets through", || mount.sync().is_ok());
            eventually("all of it comes", || mount.read_at(&mut bytes, 0).is_ok());
            assert_same(&bytes, &twin, "through the mount");
            mount.close().unwrap();
            assert_same(&std::fs::read(&place.file).unwrap(), &twin, "after close");
        } else {
            // A write that failed is lost, and no later sync may hide that.
            let error = mount.sync().unwrap_err();
            assert!(error.message().starts_with("an earlier write did not reach the backend: "), "{error}");
            assert!(mount.close().is_err());
            mount.discard().unwrap();
        }
    }
}

#[test]
fn a_touch_of_a_slice_waits_for_a_server_that_stopped_and_goes_on_with_it() {
    if let Err(error) = Kind::Userfaultfd.probe() {
        return skip::skip(error);
    }
    let place = Place::new();
    let server = place.unix();
    let options = MountOptions { pull: Pull::Demand, ..Mount::options().device(DeviceChoice::Userfaultfd) };
    let mount = options.open_url(&server.url(), &BackendOptions::default()).unwrap();
    let slice = mount.slice().unwrap();
    let twin = pattern(SIZE, 1);
    // SAFETY: the offsets lie inside the slice, whose mount is open.
    let read = |at: usize| unsafe { slice.as_ptr().add(at).read_volatile() };
    assert_eq!(read(0), twin[0]);
    server.pause();
    std::thread::scope(|scope| {
        let touching: Vec<_> = (1..5).map(|index| scope.spawn(move || (index, read(index << 20)))).collect();
        let waiting = || mount.stats().unwrap().get("faults").unwrap() >= 5;
        eventually("the touches are asked for", waiting);
        // What is here is at hand meanwhile.
        assert_eq!(read(1), twin[1]);
        assert!(touching.iter().all(|touch| !touch.is_finished()), "bytes came from a server that stands still");
        server.go_on();
        for touch in touching {
            let (index, byte) = touch.join().unwrap();
            assert_eq!(byte, twin[index << 20]);
        }
    });
    mount.close().unwrap();
}
