//! 600: a mount is seeded: what its app hears, what a destination gets, and what is over afterwards.
#![allow(clippy::undocumented_unsafe_blocks)] // They touch the slice of the test's own mount, where nobody else does.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::time::Duration;

use r3map_core::device::Kind;
use r3map_core::migration::record::{Record, State, Store};
use r3map_core::migration::{Dirty, Message, Moved, Runs};
use r3map_core::{
    BackendOptions, Code, Copy, DeviceChoice, ExportOptions, Group, Mode, Mount, MountOptions, SeedOptions, SeedState,
    Seeder, Server, ServerOptions, backend,
};

mod seeding;
#[path = "../../tests/skip.rs"]
mod skip;

use SeedState::{Committed, Drained, Resumed, Suspending, Tracking, Waiting};
use seeding::{Directory, SOON, Taker, expect, hello, mount, pattern, seed};

fn runs<const N: usize>(ranges: [std::ops::Range<u64>; N]) -> Runs {
    ranges.into_iter().collect()
}

/// A destination that has all bytes, as its session began, and the seeder's events so far.
fn pulled(seeder: &Seeder) -> (Taker, [u8; 16], Vec<u8>, u64) {
    let mut after = 0;
    expect(seeder, &mut after, &[Waiting]);
    let mut taker = Taker::connect(seeder, 1);
    let session = taker.track(7);
    expect(seeder, &mut after, &[Tracking]);
    let bytes = taker.read_all();
    (taker, session, bytes, after)
}

/// Takes the region: what was handed over; `bytes` are as the app left them.
fn take(seeder: &Seeder, after: &mut u64, taker: &mut Taker, session: [u8; 16], bytes: &mut [u8]) -> Vec<u8> {
    let vote = taker.vote(session);
    taker.finalize(vote, taker.rounds);
    let event = expect(seeder, after, &[Suspending]);
    seeder.suspended(event.sequence, b"registers").unwrap();
    let (dirty, payload) = taker.given();
    let Dirty::Pages(dirty) = dirty else { panic!("all pages") };
    taker.refresh(bytes, &dirty);
    expect(seeder, after, &[Committed]);
    payload
}

fn drain(seeder: &Seeder, taker: &mut Taker, session: [u8; 16]) {
    let vote = taker.vote(session);
    taker.say(&Message::Taken { vote });
    // It is asked what became of the vote until it is told.
    loop {
        match taker.ask(&Message::Complete { vote }) {
            Message::Drained { .. } => break,
            Message::Given { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    seeder.wait_drained(SOON).unwrap();
}

#[test]
fn a_region_moves_while_it_is_written_and_is_fenced_here_afterwards() {
    for url in ["memory:?size=3000000", "dir", "file"] {
        let place = Directory::new();
        let url = match url {
            "file" => format!("{}?size=3000000", place.url("region")),
            "dir" => format!("dir://{}?size=3000000", place.file("chunks").display()),
            memory => memory.to_owned(),
        };
        let mount = mount(&url);
        let mut model = pattern(3_000_000, 1);
        mount.write_at(&model, 0).unwrap();
        let seeder = seed(&mount);
        let (mut taker, session, mut bytes, mut after) = pulled(&seeder);
        assert!(bytes == model);
        for (at, length) in [(5000, 10), (40960, 4096), (2_999_999, 1)] {
            model[at..at + length].fill(0xA5);
            mount.write_at(&model[at..at + length], at as u64).unwrap();
        }
        assert_eq!(taker.round(session, 0), runs([1..2, 10..11, 732..733]), "{url}");
        model[0] = 9;
        mount.write_at(&model[..1], 0).unwrap();
        assert_eq!(taker.round(session, 1), Runs::all(1));
        model[8192] = 7;
        mount.write_at(&model[8192..8193], 8192).unwrap();
        let vote = taker.vote(session);
        taker.finalize(vote, 1);
        let event = expect(&seeder, &mut after, &[Suspending]);
        seeder.suspended(event.sequence, b"registers").unwrap();
        assert!([Code::Suspended, Code::Fenced].contains(&mount.write_at(&[1], 0).unwrap_err().code()));
        let (dirty, payload) = taker.given();
        // The round that was not acknowledged comes once more.
        assert_eq!((dirty, &payload[..]), (Dirty::Pages(runs([0..1, 2..3])), &b"registers"[..]));
        taker.refresh(&mut bytes, &runs([0..3, 10..11, 732..733]));
        assert!(bytes == model, "{url}");
        expect(&seeder, &mut after, &[Committed]);
        for error in [mount.write_at(&[1], 0).unwrap_err(), mount.read_at(&mut [0], 0).unwrap_err()] {
            assert_eq!(error.code(), Code::Fenced);
        }
        assert_eq!(seeder.close().unwrap_err().code(), Code::Busy);
        assert_eq!(mount.close().unwrap_err().code(), Code::Busy);
        assert!(taker.read_all() == model);
        drain(&seeder, &mut taker, session);
        expect(&seeder, &mut after, &[Drained]);
        assert_eq!(taker.read(0, 1).unwrap_err().code(), Code::StaleEpoch);
        seeder.close().unwrap();
        assert_eq!(seeder.next(after, SOON).unwrap_err().code(), Code::Closed);
        assert_eq!(mount.read_at(&mut [0], 0).unwrap_err().code(), Code::Fenced);
        mount.close().unwrap();
    }
}

#[test]
fn stores_to_a_slice_are_in_a_round_and_after_the_commit_it_cannot_be_touched() {
    for (mode, early) in [(Mode::Direct, true), (Mode::Direct, false), (Mode::Managed, true), (Mode::Managed, false)] {
        let options = Mount::options().device(DeviceChoice::Userfaultfd).mode(mode);
        let mount = options.open_url("memory:?size=8MiB", &BackendOptions::default()).unwrap();
        let mut model = pattern(8 << 20, 2);
        mount.write_at(&model, 0).unwrap();
        let attach = || match mount.slice() {
            Ok(slice) => Some(slice),
            Err(error) => {
                skip::skip(error);
                None
            }
        };
        let mut slice = None;
        if early {
            slice = attach();
            if slice.is_none() {
                return;
            }
            // A page that was brought counts as written at the first look, which is before the session begins.
            mount.pull(0, 1 << 20).unwrap();
        }
        let seeder = seed(&mount);
        let (mut taker, session, mut bytes, mut after) = pulled(&seeder);
        assert!(bytes == model, "{mode:?}");
        assert_eq!(taker.round(session, 0), Runs::default(), "{mode:?} {early}");
        if !early {
            slice = attach();
            if slice.is_none() {
                return;
            }
        }
        let slice = slice.unwrap();
        let mapped = unsafe { slice.as_mut_slice() };
        for page in [0, 3, 4, 500, 2047] {
            mapped[page * 4096 + 17] ^= 0xFF;
            model[page * 4096 + 17] ^= 0xFF;
        }
        let round = taker.round(session, 1);
        for page in [0, 3, 4, 500, 2047] {
            assert!(round.contains(page), "{mode:?} {early}: {round:?}");
        }
        taker.refresh(&mut bytes, &round);
        assert!(bytes == model);
        mapped[100 * 4096] ^= 0xFF;
        model[100 * 4096] ^= 0xFF;
        assert_eq!(take(&seeder, &mut after, &mut taker, session, &mut bytes), b"registers");
        assert!(bytes == model, "{mode:?} {early}");
        assert!(taker.read_all() == model);
        let (_reader, writer) = nix::unistd::pipe().unwrap();
        // A system call that reads it says what a touch would come to.
        let touched = unsafe { libc::write(writer.as_raw_fd(), slice.as_ptr().cast(), 1) };
        assert_eq!((touched, std::io::Error::last_os_error().raw_os_error()), (-1, Some(libc::EFAULT)));
        drain(&seeder, &mut taker, session);
        seeder.close().unwrap();
        mount.close().unwrap();
    }
}

#[test]
fn writes_to_a_file_of_fuse_are_in_a_round_and_after_the_commit_it_is_gone() {
    if let Err(error) = Kind::Fuse.probe() {
        return skip::skip(error);
    }
    writes_to_a_path_are_in_a_round_and_after_the_commit_it_is_gone(Kind::Fuse, DeviceChoice::Fuse);
}

#[test]
fn writes_to_a_block_device_are_in_a_round_and_after_the_commit_it_is_gone() {
    if let Err(error) = Kind::Nbd.probe() {
        return skip::leave_to_guest(error);
    }
    writes_to_a_path_are_in_a_round_and_after_the_commit_it_is_gone(Kind::Nbd, DeviceChoice::Nbd(None));
}

fn writes_to_a_path_are_in_a_round_and_after_the_commit_it_is_gone(kind: Kind, device: DeviceChoice) {
    let options = Mount::options().device(device);
    let mount = options.open_url("memory:?size=4MiB", &BackendOptions::default()).unwrap();
    let path = mount.path().unwrap();
    let mut file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    let mut model = pattern(4 << 20, 3);
    file.write_all(&model).unwrap();
    let seeder = seed(&mount);
    let (mut taker, session, mut bytes, mut after) = pulled(&seeder);
    let before = taker.round(session, 0);
    taker.refresh(&mut bytes, &before);
    assert!(bytes == model, "{kind}");
    model[9000..9100].fill(1);
    std::os::unix::fs::FileExt::write_all_at(&file, &model[9000..9100], 9000).unwrap();
    // Not flushed by us: the seeder does that.
    let round = taker.round(session, 1);
    assert!(round.contains(2), "{kind}: {round:?}");
    taker.refresh(&mut bytes, &round);
    model[0] = 200;
    std::os::unix::fs::FileExt::write_all_at(&file, &[200], 0).unwrap();
    take(&seeder, &mut after, &mut taker, session, &mut bytes);
    assert!(bytes == model, "{kind}");
    let written = std::os::unix::fs::FileExt::write_all_at(&file, &[1], 0).and_then(|()| file.sync_all());
    assert!(written.is_err(), "{kind}");
    drop(file);
    assert!(std::fs::File::open(&path).and_then(|mut file| file.read_exact(&mut [0])).is_err(), "{kind}");
    assert!(taker.read_all() == model);
    drain(&seeder, &mut taker, session);
    seeder.close().unwrap();
    mount.close().unwrap();
}

#[test]
fn an_app_that_refuses_or_does_not_stop_goes_on_and_may_be_asked_again() {
    let mount = mount("memory:?size=1MiB");
    let options = SeedOptions { suspend_deadline: Duration::from_millis(50), ..SeedOptions::default() };
    let seeder = mount.seed("127.0.0.1:0", &options).unwrap();
    let (mut taker, session, _, mut after) = pulled(&seeder);
    let mut vote = taker.vote(session);
    taker.finalize(vote, 0);
    let asked = expect(&seeder, &mut after, &[Suspending]);
    // Refused by the app or by the deadline, whichever is first here; the other is then too late.
    let refused = seeder.refuse(asked.sequence, "not now");
    let cause = expect(&seeder, &mut after, &[Resumed]).cause.unwrap();
    match refused {
        Ok(()) => assert_eq!(cause.message(), "not now"),
        Err(error) => assert_eq!((error.code(), cause.code()), (Code::StaleEpoch, Code::Timeout)),
    }
    assert!(matches!(taker.hear(), Message::Aborted { tracking: true, .. }));
    vote.ballot = 2;
    taker.finalize(vote, 0);
    let asked = expect(&seeder, &mut after, &[Suspending]);
    let cause = expect(&seeder, &mut after, &[Resumed]).cause.unwrap();
    assert_eq!(cause.code(), Code::Timeout);
    assert!(matches!(taker.hear(), Message::Aborted { tracking: true, .. }));
    assert_eq!(seeder.suspended(asked.sequence, &[]).unwrap_err().code(), Code::StaleEpoch);
    mount.write_at(&[1], 0).unwrap();
    assert_eq!(taker.round(session, 0), Runs::all(1));
    seeder.close().unwrap();
    mount.write_at(&[2], 0).unwrap();
    mount.close().unwrap();
}

#[test]
fn a_seeder_that_closes_while_it_writes_down_that_all_has_gone_says_so_to_both_sides() {
    let place = Directory::new();
    for round in 0..10 {
        let mount = mount(&format!("{}?size=100000", place.url(&format!("region{round}"))));
        let seeder = seed(&mount);
        let (mut taker, session, mut bytes, mut after) = pulled(&seeder);
        take(&seeder, &mut after, &mut taker, session, &mut bytes);
        let vote = taker.vote(session);
        taker.say(&Message::Complete { vote });
        // As soon as it is no longer needed, which it is before the record is written.
        while let Err(error) = seeder.close() {
            assert_eq!(error.code(), Code::Busy);
        }
        assert_eq!(taker.hear(), Message::Drained { vote });
        expect(&seeder, &mut after, &[Drained]);
        assert_eq!(seeder.next(after, SOON).unwrap_err().code(), Code::Closed);
        mount.close().unwrap();
    }
}

#[test]
fn a_destination_that_goes_away_before_the_commit_leaves_the_region_here() {
    let mount = mount("memory:?size=1MiB");
    let seeder = seed(&mount);
    let (mut taker, session, _, mut after) = pulled(&seeder);
    let vote = taker.vote(session);
    taker.finalize(vote, 0);
    expect(&seeder, &mut after, &[Suspending]);
    taker.send(r3map_core::wire::Header::new(r3map_core::wire::Kind::Close, 0), &[]);
    let cause = expect(&seeder, &mut after, &[Resumed]).cause.unwrap();
    assert_eq!(cause.code(), Code::Disconnected);
    expect(&seeder, &mut after, &[Waiting]);
    mount.write_at(&[1], 0).unwrap();
    // Its vote is dead, whoever asks.
    let mut other = Taker::connect(&seeder, 2);
    assert!(matches!(other.ask(&Message::Status { vote }), Message::Aborted { tracking: false, .. }));
    assert_eq!(other.read(0, 1).unwrap_err().code(), Code::StaleEpoch);
    assert_ne!(other.track(8), session);
    other.read(0, 1).unwrap();
}

#[test]
fn what_was_given_away_stays_so_after_a_restart_and_is_given_again_as_often_as_asked() {
    let place = Directory::new();
    let url = place.url("region");
    std::fs::write(place.file("region"), pattern(1 << 20, 4)).unwrap();
    let model = pattern(1 << 20, 4);
    let (vote, region) = {
        let mount = mount(&url);
        let seeder = seed(&mount);
        let (mut taker, session, mut bytes, mut after) = pulled(&seeder);
        mount.write_at(&model[..1], 0).unwrap();
        take(&seeder, &mut after, &mut taker, session, &mut bytes);
        (taker.vote(session), taker.region)
        // Here the process dies.
    };
    let open = || backend::open(&url, &BackendOptions::default()).unwrap();
    let server = Server::new(ServerOptions::default()).unwrap();
    let exported = server.export("region", open(), &ExportOptions::default());
    assert_eq!(exported.unwrap_err().code(), Code::Fenced);
    let copy = Copy::open(&url, &place.url("copy"), &BackendOptions::default());
    assert_eq!(copy.err().unwrap().code(), Code::Fenced);
    let mount = seeding::mount(&url);
    assert_eq!(mount.read_at(&mut [0], 0).unwrap_err().code(), Code::Fenced);
    let seeder = seed(&mount);
    let mut after = 0;
    expect(&seeder, &mut after, &[Committed]);
    let mut taker = Taker::connect(&seeder, 9);
    assert_eq!(taker.region, Moved { epoch: region.epoch + 1, ..region });
    for question in [Message::Status { vote }, Message::Finalize { vote, acknowledged: 0 }] {
        let given = Message::Given { vote, dirty: Dirty::Pages(Runs::all(1)), payload: b"registers".to_vec() };
        assert_eq!(taker.ask(&question), given);
    }
    assert!(taker.read_all() == model);
    let track = Message::Track { attempt: [3; 16], region };
    assert!(matches!(taker.ask(&track), Message::Refused { code: Code::Fenced, .. }));
    assert_eq!(taker.ask(&Message::Complete { vote }), Message::Drained { vote });
    seeder.wait_drained(SOON).unwrap();
    drop(seeder);
    drop(mount);

    // Taken back by force, it is a mount like any other, at an epoch beyond the one that was lost.
    let mount = seeding::mount(&url);
    let seeder = seed(&mount);
    let mut after = 0;
    expect(&seeder, &mut after, &[Drained]);
    seeder.reclaim().unwrap();
    expect(&seeder, &mut after, &[Resumed, Waiting]);
    mount.write_at(&[1], 0).unwrap();
    assert_eq!(seeder.stats().unwrap().get("epoch"), Some(region.epoch + 2));
    let mut taker = Taker::connect(&seeder, 9);
    assert!(matches!(taker.ask(&Message::Taken { vote }), Message::Aborted { epoch, .. } if epoch == region.epoch + 2));
    drop(seeder);
    drop(mount);
    seeding::mount(&url).write_at(&[2], 0).unwrap();
}

#[test]
fn a_region_that_came_back_by_force_goes_on_by_its_handle_with_all_that_its_slice_had() {
    let options = Mount::options().device(DeviceChoice::Userfaultfd);
    let mount = options.open_url("memory:?size=1MiB", &BackendOptions::default()).unwrap();
    let slice = match mount.slice() {
        Ok(slice) => slice,
        Err(error) => return skip::skip(error),
    };
    unsafe { slice.as_mut_slice()[5000] = 42 };
    let seeder = seed(&mount);
    let (mut taker, session, mut bytes, mut after) = pulled(&seeder);
    take(&seeder, &mut after, &mut taker, session, &mut bytes);
    assert_eq!(bytes[5000], 42);
    seeder.reclaim().unwrap();
    expect(&seeder, &mut after, &[Resumed, Waiting]);
    let mut byte = [0];
    mount.read_at(&mut byte, 5000).unwrap();
    assert_eq!(byte, [42]);
    mount.write_at(&[43], 5000).unwrap();
    assert_eq!(mount.slice().err().unwrap().code(), Code::Unsupported);
    seeder.close().unwrap();
    mount.sync().unwrap();
    mount.close().unwrap();
}

#[test]
fn what_is_given_away_is_in_its_file_before_that_is_written_down() {
    for mode in [Mode::Direct, Mode::Managed] {
        let place = Directory::new();
        let url = format!("{}?size=8MiB", place.url("region"));
        let options = MountOptions { push_interval: Duration::ZERO, ..Mount::options() };
        let options = options.device(DeviceChoice::Userfaultfd).mode(mode);
        let mount = options.open_url(&url, &BackendOptions::default()).unwrap();
        let mut model = vec![0; 8 << 20];
        let slice = match mount.slice() {
            Ok(slice) => slice,
            Err(error) => return skip::skip(error),
        };
        let seeder = seed(&mount);
        let (mut taker, session, mut bytes, mut after) = pulled(&seeder);
        model[1 << 20..2 << 20].copy_from_slice(&pattern(1 << 20, 6));
        unsafe { slice.as_mut_slice()[1 << 20..2 << 20].copy_from_slice(&model[1 << 20..2 << 20]) };
        take(&seeder, &mut after, &mut taker, session, &mut bytes);
        assert!(bytes == model, "{mode:?}");
        assert!(std::fs::read(place.file("region")).unwrap() == model, "{mode:?}");
    }
}

#[test]
fn what_the_leecher_lacks_can_be_given_up_once_it_was_given_away() {
    let mount = mount("memory:?size=1MiB");
    let seeder = seed(&mount);
    assert_eq!(seeder.abandon().unwrap_err().code(), Code::InvalidArgument);
    let (mut taker, session, mut bytes, mut after) = pulled(&seeder);
    take(&seeder, &mut after, &mut taker, session, &mut bytes);
    seeder.abandon().unwrap();
    expect(&seeder, &mut after, &[Drained]);
    let vote = taker.vote(session);
    assert_eq!(taker.ask(&Message::Taken { vote }), Message::Drained { vote });
    seeder.close().unwrap();
    mount.close().unwrap();
}

#[test]
fn of_two_leechers_the_second_is_busy_until_the_first_is_gone() {
    let mount = mount("memory:?size=1MiB");
    let seeder = seed(&mount);
    let (first, _, _, _) = pulled(&seeder);
    let mut second = Taker::connect(&seeder, 2);
    let track = Message::Track { attempt: [8; 16], region: second.region };
    assert!(matches!(second.ask(&track), Message::Refused { code: Code::Busy, .. }));
    // Without a goodbye: it may come back for a moment, and then the other one has it.
    drop(first);
    second.track(8);
}

#[test]
fn another_region_an_unknown_epoch_and_a_client_that_does_not_migrate_are_refused() {
    let mount = mount("memory:?size=1MiB");
    let seeder = seed(&mount);
    let mut taker = Taker::connect(&seeder, 1);
    let region = taker.region;
    for (wanted, code) in [
        (Moved { identity: [0; 16], ..region }, Code::InvalidArgument),
        (Moved { size: 4096, ..region }, Code::InvalidArgument),
        (Moved { epoch: region.epoch + 1, ..region }, Code::StaleEpoch),
    ] {
        let answer = taker.ask(&Message::Track { attempt: [1; 16], region: wanted });
        assert!(matches!(answer, Message::Refused { code: refused, .. } if refused == code), "{answer:?}");
    }
    let plain = r3map_core::wire::Hello { session: None, ..hello("region", 2) };
    let error = Taker::greet(&seeder, &plain).err().unwrap();
    assert_eq!((error.code(), error.message().contains("leech it")), (Code::Unsupported, true));
    let error = backend::open(seeder.url().unwrap(), &BackendOptions::default()).err().unwrap();
    assert_eq!(error.code(), Code::Unsupported);
    // Nothing of that changed anything.
    taker.track(1);
}

#[test]
fn a_seed_is_a_name_among_exports_and_any_carrier_will_do() {
    let server = Server::new(ServerOptions::default()).unwrap();
    let memory = backend::open("memory:?size=4096", &BackendOptions::default()).unwrap();
    server.export("plain", memory, &ExportOptions::default()).unwrap();
    let mount = mount("memory:?size=1MiB");
    mount.write_at(b"here", 0).unwrap();
    let seeder = server.seed("moving", &mount, &SeedOptions::default()).unwrap();
    assert_eq!(seeder.url(), None);
    assert_eq!(mount.seed("127.0.0.1:0", &SeedOptions::default()).err().unwrap().code(), Code::Busy);
    let (ours, theirs) = Taker::pair();
    server.handle(theirs).unwrap();
    let mut taker = Taker::on(ours, &hello("moving", 1)).unwrap();
    taker.track(1);
    assert_eq!(taker.read(0, 4).unwrap(), b"here");
    let (ours, theirs) = Taker::pair();
    server.handle(theirs).unwrap();
    // An export that cannot be moved does not agree to it.
    assert_eq!(Taker::on(ours, &hello("plain", 1)).unwrap().welcome.moving, None);
    seeder.close().unwrap();
    let (ours, theirs) = Taker::pair();
    server.handle(theirs).unwrap();
    assert_eq!(Taker::on(ours, &hello("moving", 1)).err().unwrap().code(), Code::NotFound);
    mount.close().unwrap();
}

#[test]
fn several_mounts_move_as_one_with_one_commit() {
    let place = Directory::new();
    let urls = [place.url("one"), place.url("two"), place.url("three")];
    let sizes = [10_000, 1 << 20, 5];
    let models: Vec<_> = (0..3).map(|index| pattern(sizes[index], index as u64)).collect();
    let names = ["one", "two", "three"];
    names.iter().zip(&models).for_each(|(name, model)| std::fs::write(place.file(name), model).unwrap());
    let group_of = |mounts: &[Mount]| {
        let group = Group::new();
        mounts.iter().for_each(|mount| group.add(mount).unwrap());
        group
    };
    let mounts: Vec<_> = urls.iter().map(|url| mount(url)).collect();
    let seeder = group_of(&mounts).seed("127.0.0.1:0", &SeedOptions::default()).unwrap();
    let (mut taker, session, mut bytes, mut after) = pulled(&seeder);
    assert_eq!(taker.welcome.moving.as_ref().unwrap().parts, [10_000, 1 << 20, 5]);
    // Each begins at a whole page.
    let starts = [0, 12288, 12288 + (1 << 20)];
    let whole = |bytes: &[u8]| (0..3).all(|index| bytes[starts[index]..][..sizes[index]] == models[index][..]);
    assert!(bytes.len() == starts[2] + 5 && whole(&bytes) && bytes[10_000..12_288].iter().all(|byte| *byte == 0));
    mounts[1].write_at(&models[1][4096..4097], 4096).unwrap();
    mounts[2].write_at(&models[2][..1], 0).unwrap();
    assert_eq!(taker.round(session, 0), runs([4..5, 259..260]));
    take(&seeder, &mut after, &mut taker, session, &mut bytes);
    assert!(whole(&bytes));
    for mount in &mounts {
        assert_eq!(mount.read_at(&mut [0], 0).unwrap_err().code(), Code::Fenced);
    }
    let vote = taker.vote(session);
    drop((seeder, mounts, taker));
    // Also each by itself after a restart, and only together are they given again.
    let mounts: Vec<_> = urls.iter().map(|url| mount(url)).collect();
    for mount in &mounts {
        assert_eq!(mount.read_at(&mut [0], 0).unwrap_err().code(), Code::Fenced);
        assert_eq!(mount.seed("127.0.0.1:0", &SeedOptions::default()).err().unwrap().code(), Code::Fenced);
    }
    let turned = [mounts[0].clone(), mounts[2].clone(), mounts[1].clone()];
    assert_eq!(group_of(&turned).seed("127.0.0.1:0", &SeedOptions::default()).err().unwrap().code(), Code::Fenced);
    let seeder = group_of(&mounts).seed("127.0.0.1:0", &SeedOptions::default()).unwrap();
    let mut taker = Taker::connect(&seeder, 4);
    assert!(matches!(taker.ask(&Message::Status { vote }), Message::Given { .. }));
    assert!(whole(&taker.read_all()));
    seeder.abandon().unwrap();
    seeder.wait_drained(SOON).unwrap();
}

#[test]
fn a_commit_that_cannot_be_written_down_gives_the_region_to_nobody_until_it_is_undone() {
    let place = Directory::new();
    std::fs::create_dir(place.file("inner")).unwrap();
    std::fs::write(place.file("inner/region"), vec![1; 1 << 20]).unwrap();
    let mount = mount(&place.url("inner/region"));
    let seeder = seed(&mount);
    let (mut taker, session, _, mut after) = pulled(&seeder);
    let vote = taker.vote(session);
    taker.finalize(vote, 0);
    let event = expect(&seeder, &mut after, &[Suspending]);
    // Where the record lies is gone for a while.
    std::fs::rename(place.file("inner"), place.file("elsewhere")).unwrap();
    seeder.suspended(event.sequence, &[]).unwrap();
    let cause = expect(&seeder, &mut after, &[SeedState::Trouble]).cause.unwrap();
    assert_eq!(cause.code(), Code::NotFound);
    assert_eq!(taker.ask(&Message::Status { vote }), Message::Pending { vote });
    assert_eq!(mount.write_at(&[1], 0).unwrap_err().code(), Code::Suspended);
    assert_eq!(seeder.close().unwrap_err().code(), Code::Busy);
    std::fs::rename(place.file("elsewhere"), place.file("inner")).unwrap();
    while seeder.next(after, SOON).unwrap().state == SeedState::Trouble {
        after += 1;
    }
    let cause = expect(&seeder, &mut after, &[Resumed]).cause.unwrap();
    assert_eq!(cause.code(), Code::NotFound);
    expect(&seeder, &mut after, &[Waiting]);
    mount.write_at(&[1], 0).unwrap();
    assert!(matches!(taker.ask(&Message::Status { vote }), Message::Aborted { tracking: false, .. }));
    seeder.close().unwrap();
}

#[test]
fn what_is_said_out_of_turn_or_is_nonsense_ends_that_connection_and_nothing_else() {
    use r3map_core::wire::{Header, Kind as Frame};
    let mount = mount("memory:?size=1MiB");
    let seeder = seed(&mount);
    let mut good = Taker::connect(&seeder, 1);
    let session = good.track(1);
    let track = Message::Track { attempt: [1; 16], region: good.region }.encode();
    // Before any greeting.
    let refused = Taker::first(&seeder, track.0, &track.1);
    assert_eq!(refused.code(), Code::Unsupported);
    for (frame, payload) in [
        (Frame::Track, vec![1; 10]),
        (Frame::Finalize, vec![0; 39]),
        (Frame::Given, vec![0; 100]),
        (Frame::Dirty, vec![0xFF; 4096]),
        (Frame::Hello, hello("region", 3).encode()),
        (Frame::Done, Vec::new()),
    ] {
        let mut bad = Taker::connect(&seeder, 3);
        bad.send(Header::new(frame, 0), &payload);
        let (header, _) = bad.receive().unwrap();
        assert_eq!(header.kind, Frame::Error, "{frame:?}");
        assert!(bad.receive().is_none(), "{frame:?}");
    }
    // A request that may not be is an answer, and the connection goes on.
    for frame in [Frame::Zero, Frame::Sync, Frame::Claim, Frame::Release] {
        assert_eq!(good.request(frame, 0, 0).unwrap_err().code(), Code::Unsupported, "{frame:?}");
    }
    assert_eq!(good.request(Frame::Read, 1 << 20, 1).unwrap_err().code(), Code::OutOfRange);
    assert_eq!(good.request(Frame::Read, 0, 1 << 40).unwrap_err().code(), Code::InvalidArgument);
    // Questions of a session that never was, and votes of another epoch, move nothing.
    let stranger = Message::Round { session: [9; 16], acknowledged: 0 };
    assert!(matches!(good.ask(&stranger), Message::Aborted { tracking: false, .. }));
    let vote = r3map_core::migration::Vote { epoch: 1, ..good.vote(session) };
    assert!(matches!(good.ask(&Message::Finalize { vote, acknowledged: 0 }), Message::Aborted { tracking: true, .. }));
    assert_eq!(good.round(session, 0), Runs::default());
    assert_eq!(good.read(0, 4096).unwrap(), [0; 4096]);
}

#[test]
fn a_server_closes_only_once_nobody_needs_what_was_given_away_from_it() {
    let server = Server::new(ServerOptions::default()).unwrap();
    let mount = mount("memory:?size=1MiB");
    let seeder = server.seed("region", &mount, &SeedOptions::default()).unwrap();
    let (ours, theirs) = Taker::pair();
    server.handle(theirs).unwrap();
    let mut taker = Taker::on(ours, &hello("region", 1)).unwrap();
    let session = taker.track(1);
    let mut after = 0;
    expect(&seeder, &mut after, &[Waiting, Tracking]);
    let mut bytes = taker.read_all();
    take(&seeder, &mut after, &mut taker, session, &mut bytes);
    assert_eq!(server.close().unwrap_err().code(), Code::Busy);
    drain(&seeder, &mut taker, session);
    server.close().unwrap();
    seeder.close().unwrap();
    mount.close().unwrap();
}

#[test]
fn what_cannot_say_who_has_it_is_seeded_only_on_trust() {
    let server = Server::new(ServerOptions::default()).unwrap();
    let memory = backend::open("memory:?size=1MiB", &BackendOptions::default()).unwrap();
    server.export("plain", memory, &ExportOptions::default()).unwrap();
    let mount = mount(&format!("{}/plain", server.listen("127.0.0.1:0").unwrap()));
    mount.write_at(b"far", 0).unwrap();
    let refused = mount.seed("127.0.0.1:0", &SeedOptions::default()).err().unwrap();
    assert_eq!((refused.code(), refused.message().contains("cache_trust")), (Code::Unsupported, true));
    let trusting = SeedOptions { cache_trust: true, ..SeedOptions::default() };
    let seeder = mount.seed("127.0.0.1:0", &trusting).unwrap();
    let (mut taker, session, mut bytes, mut after) = pulled(&seeder);
    mount.write_at(b"far away", 4096).unwrap();
    take(&seeder, &mut after, &mut taker, session, &mut bytes);
    assert_eq!((&bytes[..3], &bytes[4096..4104]), (&b"far"[..], &b"far away"[..]));
    drain(&seeder, &mut taker, session);
    seeder.close().unwrap();
    mount.close().unwrap();
}

#[test]
fn hashes_are_those_of_the_bytes_and_only_within_a_session() {
    let mount = mount("memory:?size=200000");
    let model = pattern(200_000, 5);
    mount.write_at(&model, 0).unwrap();
    let seeder = seed(&mount);
    let mut taker = Taker::connect(&seeder, 1);
    let digest = r3map_core::wire::Kind::Digest;
    assert_eq!(taker.request(digest, 0, 65536).unwrap_err().code(), Code::StaleEpoch);
    taker.track(1);
    let (header, hashes) = taker.request(digest, 65536, 134_464).unwrap();
    assert_eq!((header.kind, hashes.len()), (r3map_core::wire::Kind::Digests, 3 * 32));
    for (index, block) in model[65536..].chunks(65536).enumerate() {
        assert_eq!(hashes[index * 32..][..32], *blake3::hash(block).as_bytes());
    }
    assert_eq!(taker.request(digest, 4096, 65536).unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(taker.request(digest, 196_608, 65536).unwrap_err().code(), Code::OutOfRange);
}

#[test]
fn bytes_whose_record_says_that_they_are_elsewhere_are_neither_opened_nor_exported_nor_copied() {
    let place = Directory::new();
    let chunks = place.file("chunks");
    for (url, path) in [
        (format!("{}?size=4096", place.url("region")), place.file("region")),
        (format!("dir://{}?size=4096", chunks.display()), chunks),
    ] {
        let backend = || backend::open(&url, &BackendOptions::default()).unwrap();
        backend();
        let store = Store::beside(&path);
        let region = Moved { identity: [1; 16], size: 4096, epoch: 3 };
        for state in [State::Copy, State::Willing, State::Taken, State::Given, State::Drained] {
            store.save(&Record::new(state, region)).unwrap();
            match Mount::options().open(backend()) {
                Err(error) => assert_eq!(error.code(), Code::Fenced, "{state:?}"),
                Ok(mount) => {
                    assert!([State::Given, State::Drained].contains(&state));
                    assert_eq!(mount.read_at(&mut [0], 0).unwrap_err().code(), Code::Fenced, "{state:?}");
                    mount.close().unwrap();
                }
            }
            let server = Server::new(ServerOptions::default()).unwrap();
            let exported = server.export("region", backend(), &ExportOptions::default());
            assert_eq!(exported.unwrap_err().code(), Code::Fenced, "{state:?}");
            let memory = backend::open("memory:?size=4096", &BackendOptions::default()).unwrap();
            assert_eq!(Copy::between(backend(), memory.clone()).err().unwrap().code(), Code::Fenced, "{state:?}");
            assert_eq!(Copy::between(memory, backend()).err().unwrap().code(), Code::Fenced, "{state:?}");
        }
        for state in [State::Owner, State::Complete] {
            store.save(&Record::new(state, region)).unwrap();
            let mount = Mount::options().open(backend()).unwrap();
            mount.read_at(&mut [0], 0).unwrap();
            // It is still the region that it was.
            assert_eq!(seed(&mount).stats().unwrap().get("epoch"), Some(3));
        }
    }
}

#[test]
fn a_region_has_one_seeder_among_all_mounts_of_its_file() {
    let place = Directory::new();
    let url = format!("{}?size=1MiB", place.url("region"));
    let (one, other) = (mount(&url), mount(&url));
    let seeder = seed(&one);
    assert_eq!(other.seed("127.0.0.1:0", &SeedOptions::default()).err().unwrap().code(), Code::Busy);
    seeder.close().unwrap();
    seed(&other);
}
