//! 680: a region moves over a network that cuts, resets, falls silent, doubles and is too slow, while its app writes at
//! whichever side has it. It moves once, or its source goes on; every byte is looked at afterwards.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use r3map_chaos::{Conditions, Direction, Fault, Network};
use r3map_core::migration::{Message, Moved};
use r3map_core::{
    BackendOptions, Code, LeechState, Leecher, Mount, MountOptions, Pull, Result, SeedOptions, SeedState, Seeder,
};

mod leeching;
mod seeding;

use Direction::{Down, Up};
use leeching::{Writer, code, hand_over, options, read_all, same, wait_for};
use seeding::{Directory, SOON, Taker, mount, pattern, seed};

/// Whole pages and a part of one, little enough to be moved a hundred times.
const SIZE: u64 = (160 << 10) + 321;

/// An app that stops when it is asked to, and goes on when nothing came of it.
struct App(JoinHandle<(Vec<u8>, usize)>);

impl App {
    fn start(seeder: &Seeder, region: &Mount, bytes: Vec<u8>) -> App {
        let (seeder, region) = (seeder.clone(), region.clone());
        App(std::thread::spawn(move || {
            let mut writer = Some(Writer::start(region.clone(), bytes, 1));
            let (mut left, mut after, mut committed) = (Vec::new(), 0, 0);
            while let Ok(event) = seeder.next(after, Duration::ZERO) {
                after = event.sequence;
                match event.state {
                    SeedState::Suspending => {
                        if let Some(writer) = writer.take() {
                            left = writer.stop();
                        }
                        let _ = seeder.suspended(event.sequence, b"payload");
                    }
                    SeedState::Resumed => {
                        assert_eq!(committed, 0, "the app goes on here though the region is there");
                        let goes_on = || Writer::start(region.clone(), left.clone(), event.sequence);
                        writer = Some(writer.take().unwrap_or_else(goes_on));
                    }
                    SeedState::Committed => committed += 1,
                    SeedState::Drained => break,
                    _ => {}
                }
            }
            if let Some(writer) = writer {
                left = writer.stop();
            }
            (left, committed)
        }))
    }

    /// What it left, and how often the region was given away; once the seeder is drained or closed.
    fn join(self) -> (Vec<u8>, usize) {
        self.0.join().expect("the app at the source failed")
    }
}

/// A region with an app, and a network before it.
struct Source {
    mount: Mount,
    seeder: Seeder,
    network: Network,
    app: App,
}

impl Source {
    fn new(size: u64) -> Source {
        let mount = mount(&format!("memory:?size={size}"));
        let bytes = pattern(size as usize, 3);
        mount.write_at(&bytes, 0).unwrap();
        let seeder = seed(&mount);
        let network = network(&seeder);
        let app = App::start(&seeder, &mount, bytes);
        Source { mount, seeder, network, app }
    }

    fn leech(&self, options: MountOptions) -> Result<Leecher> {
        Leecher::open(&self.network.url("region"), "memory:", options, &BackendOptions::default())
    }

    /// That the region has moved here, once and as a whole.
    fn check(self, here: &Mount) {
        assert_eq!(here.payload(), b"payload");
        here.wait_local(1.0, SOON).unwrap();
        let found = read_all(here);
        self.seeder.wait_drained(SOON).unwrap();
        let (left, committed) = self.app.join();
        assert_eq!(committed, 1);
        same(&found, &left);
        // And on with it, by an app here alone.
        assert_eq!(code(self.mount.write_at(&[1], 0)), Code::Fenced);
        let writer = Writer::start(here.clone(), left, 2);
        let left = writer.stop();
        same(&read_all(here), &left);
        here.close().unwrap();
        self.seeder.close().unwrap();
    }
}

fn network(seeder: &Seeder) -> Network {
    let url = seeder.url().unwrap();
    let authority = url.strip_prefix("r3map://").and_then(|rest| rest.split('/').next()).unwrap();
    Network::to(authority, Conditions::default()).unwrap()
}

/// Reads everything; a read may end early where a connection fell silent.
fn eventually_reads(here: &Mount) {
    let until = Instant::now() + SOON;
    let mut bytes = vec![0; here.size() as usize];
    while let Err(error) = here.read_at(&mut bytes, 0) {
        assert!(error.is_retryable() && Instant::now() < until, "{error}");
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    /// Greetings, TRACK, the first pull and the rounds.
    Opening,
    /// FINALIZE until GIVEN, and what follows with little to fetch.
    Finalizing,
    /// GIVEN, TAKEN, the pull after the switch and COMPLETE.
    Arriving,
}

/// Moves a region; at that step this happens to a byte in that direction. Whether it did.
fn moves(step: Step, direction: Direction, byte: u64, fault: Fault) -> bool {
    let source = Source::new(SIZE);
    let plan = |now| {
        if now == step {
            source.network.plan(direction, byte, fault);
        }
    };
    let options = match (step, fault) {
        (_, Fault::Stall) => options().deadline(Duration::from_secs(1)),
        (Step::Arriving, _) if direction == Down => MountOptions { pull: Pull::Demand, ..options() },
        _ => options(),
    };
    if step == Step::Arriving {
        source.network.set(slow());
    }
    plan(Step::Opening);
    let until = Instant::now() + SOON;
    let here = loop {
        // The first connection may be the one that is cut, and the seeder may not have noticed that yet.
        let leecher = match source.leech(options.clone()) {
            Ok(leecher) => leecher,
            Err(error) => {
                assert!(error.is_retryable() && Instant::now() < until, "{step:?} {direction:?} {byte}: {error}");
                std::thread::sleep(Duration::from_millis(10));
                continue;
            }
        };
        if step != Step::Arriving {
            leecher.wait_local(0.8, SOON).unwrap();
        }
        plan(Step::Finalizing);
        plan(Step::Arriving);
        let outcome = loop {
            match leecher.finalize() {
                Err(error) if error.is_retryable() && Instant::now() < until => {}
                outcome => break outcome,
            }
        };
        match outcome {
            Ok(here) => break here,
            // The source went on, and the session is over.
            Err(error) => assert!(
                leecher.state().unwrap() == LeechState::Ended && Instant::now() < until,
                "{step:?} {direction:?} {byte}: {error}"
            ),
        }
        leecher.close().unwrap();
    };
    // Without deadlines of a second, and whatever is pulled by itself.
    eventually_reads(&here);
    let happened = source.network.planned() == 0;
    source.check(&here);
    happened
}

/// Moves once for each byte, four at a time; most of them must have come by.
fn cut_at(step: Step, direction: Direction, bytes: &[u64]) {
    let (next, happened) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::SeqCst);
                    let Some(byte) = bytes.get(index) else { break };
                    let fault = if index % 3 == 2 { Fault::Reset } else { Fault::Cut };
                    happened.fetch_add(moves(step, direction, *byte, fault).into(), Ordering::SeqCst);
                }
            });
        }
    });
    let happened = happened.into_inner();
    println!("{step:?} {direction:?}: {happened} of {} happened", bytes.len());
    assert!(happened * 2 > bytes.len(), "{step:?} {direction:?}: only {happened} cuts happened");
}

/// Few bytes apart first, ever more later on.
fn spread(count: u64, power: u32, scale: u64) -> Vec<u64> {
    (0..count).map(|index| index.pow(power) * scale).collect()
}

#[test]
fn a_cut_anywhere_in_greeting_tracking_and_pulling_moves_the_region_once_all_the_same() {
    cut_at(Step::Opening, Up, &spread(12, 2, 9));
    cut_at(Step::Opening, Down, &spread(12, 3, 90));
}

#[test]
fn a_cut_anywhere_in_finalizing_moves_the_region_once_all_the_same() {
    cut_at(Step::Finalizing, Up, &spread(14, 1, 14));
    cut_at(Step::Finalizing, Down, &spread(14, 2, 5));
}

#[test]
fn a_cut_anywhere_after_the_switch_moves_the_region_once_all_the_same() {
    cut_at(Step::Arriving, Up, &spread(12, 2, 7));
    cut_at(Step::Arriving, Down, &spread(12, 3, 90));
}

#[test]
fn a_connection_that_falls_silent_moves_the_region_once_all_the_same() {
    std::thread::scope(|scope| {
        for (step, direction, byte) in [
            (Step::Opening, Up, 250),
            (Step::Opening, Down, 20_000),
            (Step::Finalizing, Up, 30),
            (Step::Finalizing, Down, 60),
            (Step::Arriving, Down, 50_000),
        ] {
            scope.spawn(move || assert!(moves(step, direction, byte, Fault::Stall), "{step:?} {direction:?}"));
        }
    });
}

#[test]
fn what_arrives_twice_is_done_once() {
    let source = Source::new(SIZE);
    source.network.double(true);
    let until = Instant::now() + SOON;
    // Of two connections that say the same the second is stale, and may be the leecher's own.
    let leecher = loop {
        match source.leech(options()) {
            Ok(leecher) => break leecher,
            Err(error) => {
                assert!(matches!(error.code(), Code::StaleEpoch | Code::Busy) && Instant::now() < until, "{error}")
            }
        }
    };
    leecher.wait_local(0.8, SOON).unwrap();
    let here = leecher.finalize().unwrap();
    source.check(&here);
}

fn until_not_busy<T>(mut act: impl FnMut() -> Result<T>) -> T {
    let until = Instant::now() + SOON;
    loop {
        match act() {
            Ok(done) => return done,
            Err(error) => assert!(error.code() == Code::Busy && Instant::now() < until, "{error}"),
        }
    }
}

#[test]
fn what_was_said_before_the_region_moved_away_and_back_does_nothing_when_it_is_said_again() {
    let directory = Directory::new();
    std::fs::write(directory.file("a"), pattern(SIZE as usize, 6)).unwrap();
    let mut here = mount(&directory.url("a"));
    let mut seeder = seed(&here);
    let mut first = Taker::connect(&seeder, 1);
    let before = first.region;
    let session = first.track(1);
    let vote = first.vote(session);
    drop(first);
    for place in ["b", "a"] {
        // The one that tracked before has a moment to come back.
        let leecher = until_not_busy(|| leeching::leech_with(&seeder, &directory.url(place), options()));
        let asked = std::thread::spawn({
            let leecher = leecher.clone();
            move || leecher.finalize().unwrap()
        });
        hand_over(&seeder, b"");
        let next = asked.join().unwrap();
        next.wait_local(1.0, SOON).unwrap();
        seeder.wait_drained(SOON).unwrap();
        seeder.close().unwrap();
        here.close().unwrap();
        here = next;
        seeder = seed(&here);
    }
    // As a later process would have it.
    seeder.close().unwrap();
    here.close().unwrap();
    let here = mount(&directory.url("a"));
    let seeder = until_not_busy(|| here.seed("127.0.0.1:0", &SeedOptions::default()));
    let mut late = Taker::connect(&seeder, 1);
    assert_eq!(late.region, Moved { epoch: before.epoch + 2, ..before });
    for message in [Message::Finalize { vote, acknowledged: 0 }, Message::Status { vote }, Message::Complete { vote }] {
        let answer = late.ask(&message);
        assert!(matches!(answer, Message::Aborted { epoch, .. } if epoch == late.region.epoch), "{answer:?}");
    }
    let round = late.ask(&Message::Round { session, acknowledged: 0 });
    assert!(matches!(round, Message::Aborted { tracking: false, .. }), "{round:?}");
    assert_eq!(late.read(0, 1).unwrap_err().code(), Code::StaleEpoch);
    // Neither was the app asked for anything, nor is anything in the way of one who comes with a right.
    here.write_at(b"goes on", 9).unwrap();
    late.track(2);
    let mut after = 0;
    seeding::expect(&seeder, &mut after, &[SeedState::Waiting, SeedState::Tracking]);
}

#[test]
fn a_network_that_is_silent_before_the_question_leaves_the_app_at_its_source() {
    let source = Source::new(SIZE);
    let short = options().deadline(Duration::from_millis(500));
    let leecher = source.leech(short).unwrap();
    leecher.wait_local(0.8, SOON).unwrap();
    source.network.stall(true);
    assert_eq!(code(leecher.finalize().map(drop)), Code::Timeout);
    // It was never asked, and nobody else has the region.
    assert_eq!(source.seeder.stats().unwrap().get("committed").unwrap_or(0), 0);
    source.mount.read_at(&mut [0], 0).unwrap();
    source.network.stall(false);
    let here = until_it_is_here(&leecher);
    source.check(&here);
}

#[test]
fn an_answer_that_is_lost_is_given_again_the_same() {
    let mount = mount(&format!("memory:?size={SIZE}"));
    let bytes = pattern(SIZE as usize, 8);
    mount.write_at(&bytes, 0).unwrap();
    let seeder = seed(&mount);
    let network = network(&seeder);
    let short = options().deadline(Duration::from_millis(500));
    let leecher = Leecher::open(&network.url("region"), "memory:", short, &BackendOptions::default()).unwrap();
    leecher.wait_local(1.0, SOON).unwrap();
    mount.write_at(b"dirty", 70_000).unwrap();
    let asked = std::thread::spawn({
        let leecher = leecher.clone();
        move || leecher.finalize()
    });
    let mut after = 0;
    let event = wait_for(&seeder, &mut after, SeedState::Suspending);
    // Nothing passes from here on, GIVEN least of all.
    network.stall(true);
    seeder.suspended(event.sequence, b"lost and found").unwrap();
    wait_for(&seeder, &mut after, SeedState::Committed);
    let first = asked.join().unwrap();
    assert_eq!(code(first.map(drop)), Code::Timeout);
    assert_eq!(leecher.state().unwrap(), LeechState::Finalizing);
    assert_eq!(code(mount.read_at(&mut [0], 0)), Code::Fenced);
    assert_eq!(code(leecher.close()), Code::Busy);
    network.reset();
    network.stall(false);
    let here = until_it_is_here(&leecher);
    assert_eq!(here.payload(), b"lost and found");
    let mut expected = bytes;
    expected[70_000..70_005].copy_from_slice(b"dirty");
    same(&read_all(&here), &expected);
    here.wait_local(1.0, SOON).unwrap();
    seeder.wait_drained(SOON).unwrap();
    here.close().unwrap();
}

fn until_it_is_here(leecher: &Leecher) -> Mount {
    let until = Instant::now() + SOON;
    loop {
        match leecher.finalize() {
            Ok(here) => return here,
            Err(error) => assert!(error.is_retryable() && Instant::now() < until, "{error}"),
        }
    }
}

/// More than the network takes: the whole of a region again and again.
fn outpaced(source: &Source) -> Leecher {
    let leecher = source.leech(options()).unwrap();
    leecher.wait_local(0.3, SOON).unwrap();
    let until = Instant::now() + SOON;
    while leecher.state().unwrap() != LeechState::Outpaced {
        assert!(Instant::now() < until, "{:?} {:?}", leecher.state(), leecher.stats());
        std::thread::sleep(Duration::from_millis(5));
    }
    let stats = leecher.stats().unwrap();
    assert!(stats.get("dirty_rate") > Some(0) && stats.get("pull_rate").is_some(), "{stats:?}");
    leecher
}

fn slow() -> Conditions {
    Conditions::default().with_rate(1 << 20)
}

#[test]
fn a_region_written_faster_than_the_network_is_said_to_be_and_can_be_switched_over_all_the_same() {
    let source = Source::new(2 << 20);
    source.network.set(slow());
    let leecher = outpaced(&source);
    let here = leecher.finalize().unwrap();
    source.check(&here);
}

#[test]
fn a_region_written_faster_than_the_network_can_be_left_where_it_is() {
    let source = Source::new(2 << 20);
    source.network.set(slow());
    outpaced(&source).close().unwrap();
    source.seeder.close().unwrap();
    let (left, committed) = source.app.join();
    assert_eq!(committed, 0);
    same(&read_all(&source.mount), &left);
    source.mount.write_at(b"goes on", 5).unwrap();
    source.mount.close().unwrap();
}
