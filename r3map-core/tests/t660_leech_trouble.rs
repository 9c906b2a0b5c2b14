//! 660: what a leecher does when somebody says no, goes away, or takes the region back.

use std::thread::JoinHandle;
use std::time::Duration;

use r3map_chaos::{Conditions, Network};
use r3map_core::event::Kind as Told;
use r3map_core::{
    BackendOptions, Cancel, Code, LeechState, Leecher, Mount, MountOptions, Pull, SeedOptions, SeedState, Seeder,
};

mod leeching;
mod seeding;

use leeching::{SIZE, code, hand_over, leech, leech_with, options, read_all, same, wait_for};
use seeding::{Directory, SOON, mount, pattern};

/// A region in a file and its seeder, which can go away and come back at the same place.
struct Source {
    directory: Directory,
    mount: Mount,
    seeder: Seeder,
    bytes: Vec<u8>,
}

impl Source {
    fn new() -> Source {
        let directory = Directory::new();
        let bytes = pattern(SIZE as usize, 11);
        std::fs::write(directory.file("source"), &bytes).unwrap();
        let mount = mount(&directory.url("source"));
        let seeder = Source::seed(&directory, &mount);
        Source { directory, mount, seeder, bytes }
    }

    fn seed(directory: &Directory, mount: &Mount) -> Seeder {
        let listen = format!("unix:{}", directory.file("socket").display());
        mount.seed(&listen, &SeedOptions::default()).unwrap()
    }

    /// Takes the seeder away as its death would, does something, and starts it anew.
    fn away<T>(&mut self, meanwhile: impl FnOnce(&Directory) -> T) -> T {
        let other = mount("memory:?size=4096").seed("127.0.0.1:0", &SeedOptions::default()).unwrap();
        drop(std::mem::replace(&mut self.seeder, other));
        self.mount.discard().unwrap();
        let done = meanwhile(&self.directory);
        self.mount = mount(&self.directory.url("source"));
        self.seeder = Source::seed(&self.directory, &self.mount);
        done
    }

    fn local(&self) -> String {
        self.directory.url("local")
    }
}

/// Finalizes on a thread of its own.
fn finalizing(leecher: &Leecher) -> JoinHandle<r3map_core::Result<Mount>> {
    let leecher = leecher.clone();
    std::thread::spawn(move || leecher.finalize())
}

fn on_demand() -> MountOptions {
    MountOptions { pull: Pull::Demand, ..options() }
}

fn wait_told(mount: &Mount, kind: Told) {
    let mut after = 0;
    loop {
        let event = mount.next(after, SOON).unwrap();
        if event.kind == kind {
            return;
        }
        after = event.sequence;
    }
}

#[test]
fn finalize_gives_the_same_mount_as_often_as_it_is_called() {
    let source = Source::new();
    let leecher = leech(&source.seeder, &source.local());
    let threads = [finalizing(&leecher), finalizing(&leecher)];
    hand_over(&source.seeder, b"once");
    let [one, other] = threads.map(|thread| thread.join().unwrap().unwrap());
    one.write_at(b"by the one", 5000).unwrap();
    let mut found = [0; 10];
    leecher.finalize().unwrap().read_at(&mut found, 5000).unwrap();
    assert_eq!((&found, other.payload()), (b"by the one", &b"once"[..]));
    // The leecher is no longer needed.
    leecher.close().unwrap();
    drop(leecher);
    other.wait_local(1.0, SOON).unwrap();
    source.seeder.wait_drained(SOON).unwrap();
    one.close().unwrap();
}

#[test]
fn an_app_that_would_not_stop_is_asked_again_once_for_each_call() {
    const ROUNDS: u8 = 20;
    let source = Source::new();
    let leecher = leech(&source.seeder, "memory:");
    let mut after = 0;
    for round in 0..=ROUNDS {
        let asked = finalizing(&leecher);
        let event = wait_for(&source.seeder, &mut after, SeedState::Suspending);
        source.seeder.refuse(event.sequence, "in the middle of something").unwrap();
        let error = asked.join().unwrap().err().unwrap();
        assert_eq!((error.code(), error.is_retryable()), (Code::Busy, true));
        assert!(error.message().contains("in the middle of something"), "{error}");
        wait_for(&source.seeder, &mut after, SeedState::Resumed);
        let more = source.seeder.next(after, Duration::from_millis(20));
        assert_eq!(code(more), Code::Timeout, "the app was asked though nobody waits");
        source.mount.write_at(&[round; 100], 77_777).unwrap();
    }
    leecher.wait_local(1.0, SOON).unwrap();
    let asked = finalizing(&leecher);
    let event = wait_for(&source.seeder, &mut after, SeedState::Suspending);
    source.seeder.suspended(event.sequence, b"").unwrap();
    let here = asked.join().unwrap().unwrap();
    let mut bytes = source.bytes.clone();
    bytes[77_777..77_877].fill(20);
    same(&read_all(&here), &bytes);
    source.seeder.wait_drained(SOON).unwrap();
    here.close().unwrap();
}

#[test]
fn a_second_leecher_is_busy_and_leaves_nothing_behind() {
    let source = Source::new();
    let leecher = leech(&source.seeder, "memory:");
    let error = leech_with(&source.seeder, &source.local(), options()).map(drop).unwrap_err();
    assert_eq!(error.code(), Code::Busy);
    assert!(!source.directory.file("local").exists() && !source.directory.file("local.r3map").exists());
    // Once the first is gone there is room for another.
    leecher.close().unwrap();
    let leecher = leech(&source.seeder, &source.local());
    leecher.wait_local(1.0, SOON).unwrap();
    // And one place is one leecher's.
    assert_eq!(code(leech_with(&source.seeder, &source.local(), options()).map(drop)), Code::Busy);
    leecher.close().unwrap();
}

#[test]
fn what_is_in_the_way_is_named_and_not_touched() {
    let source = Source::new();
    let local = source.directory.file("local");
    std::fs::write(&local, b"something else").unwrap();
    let error = leech_with(&source.seeder, &source.local(), options()).map(drop).unwrap_err();
    assert_eq!(error.code(), Code::Busy);
    assert!(error.message().contains("overwrite"), "{error}");
    assert_eq!(std::fs::read(&local).unwrap(), b"something else");
    let overwrite = MountOptions { overwrite: true, ..options() };
    let leecher = leech_with(&source.seeder, &source.local(), overwrite).unwrap();
    leecher.wait_local(1.0, SOON).unwrap();
    leecher.close().unwrap();
    assert_eq!(code(leecher.wait_local(1.0, SOON)), Code::Closed);
    same(&std::fs::read(&local).unwrap(), &source.bytes);
    // Not the region yet: nobody opens it by mistake.
    let plain = Mount::options().open_url(&source.local(), &BackendOptions::default());
    assert_eq!(code(plain.map(drop)), Code::Fenced);

    let refused = |local: &str, options| code(leech_with(&source.seeder, local, options).map(drop));
    assert_eq!(refused("memory:?size=5", options()), Code::InvalidArgument);
    assert_eq!(refused("dir:///tmp/r3map-nowhere", options()), Code::Unsupported);
    assert_eq!(refused(&source.directory.url("source"), options()), Code::Busy);
    let cached = MountOptions { cache: Some("memory:".to_owned()), ..options() };
    assert_eq!(refused("memory:", cached), Code::InvalidArgument);
    let backend = BackendOptions::default();
    assert_eq!(code(Leecher::open("file:///tmp/x", "memory:", options(), &backend).map(drop)), Code::Unsupported);
    assert_eq!(code(overwriting_mount(&source)), Code::InvalidArgument);
}

fn overwriting_mount(source: &Source) -> r3map_core::Result<()> {
    let options = MountOptions { overwrite: true, ..options() };
    options.open_url(&source.directory.url("source"), &BackendOptions::default()).map(drop)
}

#[test]
fn an_export_that_is_not_seeded_cannot_be_leeched_and_a_seed_not_mounted() {
    let source = Source::new();
    let server = r3map_core::Server::new(Default::default()).unwrap();
    let region = r3map_core::backend::open("memory:?size=8192", &BackendOptions::default()).unwrap();
    server.export("plain", region, &Default::default()).unwrap();
    let url = format!("{}/plain", server.listen("127.0.0.1:0").unwrap());
    let error = Leecher::open(&url, "memory:", options(), &BackendOptions::default()).map(drop).unwrap_err();
    assert_eq!(error.code(), Code::Unsupported);
    assert!(error.message().contains("not being seeded"), "{error}");
    let mounted = Mount::options().open_url(source.seeder.url().unwrap(), &BackendOptions::default());
    assert_eq!(code(mounted.map(drop)), Code::Unsupported);
}

#[test]
fn a_finalize_that_ran_out_of_time_or_was_cancelled_may_be_called_again() {
    let source = Source::new();
    let leecher = leech_with(&source.seeder, "memory:", options().deadline(Duration::from_millis(300))).unwrap();
    leecher.wait_local(1.0, SOON).unwrap();
    assert_eq!(code(leecher.finalize().map(drop)), Code::Timeout);
    assert_eq!(leecher.state().unwrap(), LeechState::Finalizing);
    // The app there has been asked: whose the region will be, only it knows.
    assert_eq!(code(leecher.close()), Code::Busy);
    let cancel = Cancel::new();
    cancel.trigger();
    assert_eq!(code(leecher.with_cancel(cancel).finalize().map(drop)), Code::Cancelled);
    hand_over(&source.seeder, b"");
    let here = loop {
        match leecher.finalize() {
            Ok(mount) => break mount,
            Err(error) => assert_eq!(error.code(), Code::Timeout),
        }
    };
    same(&read_all(&here), &source.bytes);
    source.seeder.wait_drained(SOON).unwrap();
    here.close().unwrap();
}

#[test]
fn a_region_whose_source_is_away_is_here_but_for_what_is_listed_as_missing_and_goes_on_when_it_is_back() {
    let mut source = Source::new();
    let local = source.local();
    let url = source.seeder.url().unwrap().to_owned();
    let short = || on_demand().deadline(Duration::from_secs(1));
    let leecher = Leecher::open(&url, &local, short(), &BackendOptions::default()).unwrap();
    let asked = finalizing(&leecher);
    hand_over(&source.seeder, b"state");
    let here = asked.join().unwrap().unwrap();
    let mut some = vec![0; 100_000];
    here.read_at(&mut some, 50_000).unwrap();
    here.write_at(b"written here", 60_000).unwrap();
    let mut bytes = source.bytes.clone();
    bytes[60_000..60_012].copy_from_slice(b"written here");
    let again = source.away(|_| {
        wait_told(&here, Told::Disconnected);
        here.read_at(&mut some, 50_000).unwrap();
        same(&some, &bytes[50_000..150_000]);
        let error = here.read_at(&mut some, 3_000_000).unwrap_err();
        assert!(matches!(error.code(), Code::Disconnected | Code::Timeout), "{error}");
        let missing = here.missing(0, SIZE).unwrap();
        assert!(missing.iter().any(|range| range.contains(&3_000_000)) && !missing[0].contains(&60_000));
        // Closed and opened again by itself it has what it had.
        here.close().unwrap();
        leecher.close().unwrap();
        let leecher = Leecher::open(&url, &local, short(), &BackendOptions::default()).unwrap();
        assert_eq!(leecher.state().unwrap(), LeechState::Owner);
        let here = leecher.finalize().unwrap();
        assert_eq!(here.payload(), b"state");
        here.read_at(&mut some, 50_000).unwrap();
        same(&some, &bytes[50_000..150_000]);
        assert_eq!(here.missing(0, SIZE).unwrap(), missing);
        assert!(here.read_at(&mut some, 3_000_000).is_err());
        here
    });
    wait_told(&again, Told::Recovered);
    same(&read_all(&again), &bytes);
    source.seeder.wait_drained(SOON).unwrap();
    again.close().unwrap();
    same(&std::fs::read(source.directory.file("local")).unwrap(), &bytes);
}

#[test]
fn a_mount_that_closes_while_its_source_is_coming_back_says_that_all_is_here() {
    let mut source = Source::new();
    let leecher = leech_with(&source.seeder, &source.local(), on_demand()).unwrap();
    let asked = finalizing(&leecher);
    hand_over(&source.seeder, b"");
    let here = asked.join().unwrap().unwrap();
    let bytes = pattern(SIZE as usize, 12);
    let closing = source.away(|_| {
        wait_told(&here, Told::Disconnected);
        // Whole pages need nothing from there: so all of it is here, and nobody there knows.
        here.write_at(&bytes, 0).unwrap();
        wait_told(&here, Told::Local);
        std::thread::spawn(move || here.close())
    });
    closing.join().unwrap().unwrap();
    source.seeder.wait_drained(SOON).unwrap();
    leecher.close().unwrap();
    let here = mount(&source.local());
    same(&read_all(&here), &bytes);
    here.close().unwrap();
}

#[test]
fn a_leecher_that_closes_unheard_before_the_commit_is_in_nobodys_way() {
    let source = Source::new();
    let (address, name) = source.seeder.url().unwrap().split_once("?name=").unwrap();
    let network = Network::to(&address.replace("r3map+unix://", "unix:"), Conditions::default()).unwrap();
    let leecher = Leecher::open(&network.url(name), "memory:", options(), &BackendOptions::default()).unwrap();
    leecher.wait_local(1.0, SOON).unwrap();
    network.lead_to("unix:/nowhere");
    leecher.close().unwrap();
    // The source takes it for gone once somebody else asks.
    let other = leech(&source.seeder, &source.local());
    other.wait_local(1.0, SOON).unwrap();
    source.mount.write_at(b"it goes on here", 4000).unwrap();
    other.close().unwrap();
}

#[test]
fn a_source_that_ends_before_the_commit_is_pulled_from_anew_without_what_is_here_already() {
    let mut source = Source::new();
    let leecher = leech(&source.seeder, &source.local());
    leecher.wait_local(1.0, SOON).unwrap();
    source.away(|directory| {
        let mut changed = std::fs::read(directory.file("source")).unwrap();
        changed[1_000_000..1_000_005].copy_from_slice(b"newer");
        std::fs::write(directory.file("source"), changed).unwrap();
    });
    source.bytes[1_000_000..1_000_005].copy_from_slice(b"newer");
    let mut after = 0;
    wait_for(&source.seeder, &mut after, SeedState::Tracking);
    leecher.wait_local(1.0, SOON).unwrap();
    let asked = finalizing(&leecher);
    let event = wait_for(&source.seeder, &mut after, SeedState::Suspending);
    source.seeder.suspended(event.sequence, b"").unwrap();
    let here = asked.join().unwrap().unwrap();
    same(&read_all(&here), &source.bytes);
    assert!(leecher.stats().unwrap().get("matched_bytes").unwrap() > SIZE / 2);
    source.seeder.wait_drained(SOON).unwrap();
    here.close().unwrap();
}

#[test]
fn a_region_that_is_taken_back_is_fenced_here() {
    let source = Source::new();
    let leecher = leech_with(&source.seeder, &source.local(), on_demand()).unwrap();
    let asked = finalizing(&leecher);
    hand_over(&source.seeder, b"");
    let here = asked.join().unwrap().unwrap();
    wait_for(&source.seeder, &mut 0, SeedState::Committed);
    source.seeder.reclaim().unwrap();
    wait_told(&here, Told::Fenced);
    assert_eq!(code(here.read_at(&mut [0], 0)), Code::Fenced);
    assert_eq!(code(here.write_at(&[0], 0)), Code::Fenced);
    assert_eq!(leecher.state().unwrap(), LeechState::Fenced);
    here.close().unwrap();
    // What is here is an older copy from now on, and may be leeched to again.
    drop(leecher);
    let leecher = leech(&source.seeder, &source.local());
    leecher.wait_local(1.0, SOON).unwrap();
    leecher.close().unwrap();
}

#[test]
fn what_its_source_gave_up_is_told_and_never_comes() {
    let source = Source::new();
    let options = on_demand().deadline(Duration::from_secs(1));
    let leecher = leech_with(&source.seeder, "memory:", options).unwrap();
    let asked = finalizing(&leecher);
    hand_over(&source.seeder, b"");
    let here = asked.join().unwrap().unwrap();
    wait_for(&source.seeder, &mut 0, SeedState::Committed);
    source.seeder.abandon().unwrap();
    wait_told(&here, Told::Abandoned);
    assert!(here.read_at(&mut [0; 10], 2_000_000).is_err());
    // A whole page needs nothing of what it was.
    here.write_at(&[7; 4096], 4096).unwrap();
    here.discard().unwrap();
}
