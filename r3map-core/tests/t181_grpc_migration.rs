//! 181: a region moves from and to any gRPC peer of the published protocol, where that is allowed.

#![cfg(feature = "grpc")]

use std::process::Command;
use std::time::Duration;

use r3map_core::{
    BackendOptions, Code, Group, LeechState, Leecher, Mount, MountOptions, Protocol, Pull, SeedOptions, SeedState,
    Seeder, Server, ServerOptions,
};

mod backends;
mod leeching;
mod rpc;
mod seeding;
#[path = "../../tests/skip.rs"]
mod skip;

use leeching::{App, SIZE, Writer, code, options, read_all, same, wait_for};
use rpc::{Peer, interop, python};
use seeding::{Directory, SOON, mount};

fn legacy() -> SeedOptions {
    SeedOptions { allow_legacy: true, ..SeedOptions::default() }
}

/// Where a seeder listens: host and port.
fn address(seeder: &Seeder) -> &str {
    seeder.url().unwrap().split("://").nth(1).unwrap().split('/').next().unwrap()
}

fn peer(arguments: &[&str]) -> Result<Peer, String> {
    Ok(Peer::start(Command::new(python()?).arg(interop().join("grpc_migration.py")).args(arguments)))
}

fn grpcio(address: &str) -> Result<Peer, String> {
    peer(&["leecher", address, &SIZE.to_string()])
}

/// A region in a file, with something in it.
fn region(directory: &Directory, name: &str) -> (Mount, Vec<u8>) {
    let mount = mount(&format!("{}?size={SIZE}", directory.url(name)));
    let bytes: Vec<u8> = (0..SIZE).map(|byte| (byte % 251) as u8).collect();
    mount.write_at(&bytes, 0).unwrap();
    (mount, bytes)
}

fn suspend(seeder: &Seeder, after: &mut u64) {
    let event = wait_for(seeder, after, SeedState::Suspending);
    seeder.suspended(event.sequence, b"").unwrap();
}

fn saved(peer: &mut Peer, directory: &Directory) -> Vec<u8> {
    let path = directory.file("saved");
    peer.tell(&format!("save {}", path.display()));
    std::fs::read(path).unwrap()
}

#[test]
fn a_grpcio_leecher_takes_a_region_that_is_written_all_the_while() {
    let directory = Directory::new();
    // Blocks of the Go library; longer ones; some that are no pages at all.
    for (index, block) in ["4096", "65536", "100000"].into_iter().enumerate() {
        let (mount, bytes) = region(&directory, block);
        let listen = match index {
            0 => format!("unix:{}", directory.file("socket").display()),
            _ => "127.0.0.1:0".to_owned(),
        };
        let seeder = mount.seed(&listen, &legacy()).unwrap();
        let there = if index == 0 { listen } else { address(&seeder).to_owned() };
        let mut peer = match grpcio(&there) {
            Ok(peer) => peer,
            Err(why) => return skip::skip(why),
        };
        let app = App::start(&seeder, Writer::start(mount.clone(), bytes, 7 + index as u64), b"");
        peer.tell("track");
        peer.tell(&format!("pull {block}"));
        let said = peer.ask("sync");
        let dirty: u64 = said.strip_prefix("ok ").expect(&said).parse().unwrap();
        assert!(dirty > 0, "nothing was written meanwhile");
        wait_for(&seeder, &mut 0, SeedState::Committed);
        assert_eq!(code(mount.write_at(b"x", 0)), Code::Fenced);
        assert_eq!(code(seeder.close()), Code::Busy);
        peer.tell("again");
        same(&saved(&mut peer, &directory), &app.bytes());
        peer.tell("close");
        wait_for(&seeder, &mut 0, SeedState::Drained);
        app.join();
        seeder.close().unwrap();
        mount.close().unwrap();
    }
}

#[test]
fn who_is_not_told_allow_legacy_gives_nothing_over_grpc() {
    let directory = Directory::new();
    let (mount, _) = region(&directory, "region");
    let unsupported = |outcome: r3map_core::Result<Seeder>, why: &str| {
        let error = outcome.err().unwrap_or_else(|| panic!("it was seeded: {why}"));
        assert!(error.code() == Code::Unsupported && error.message().contains(why), "{error:?}");
    };
    for protocol in [Protocol::Grpc, Protocol::Nbd] {
        let server = Server::new(ServerOptions { protocol, ..ServerOptions::default() }).unwrap();
        let why = if protocol == Protocol::Grpc { "allow_legacy" } else { "over nbd" };
        unsupported(server.seed("region", &mount, &SeedOptions::default()), why);
    }
    unsupported(mount.seed("127.0.0.1:0", &SeedOptions { allow: vec!["ann".to_owned()], ..legacy() }), "who they are");
    assert_eq!(code(mount.seed("0.0.0.0:0", &legacy()).map(drop)), Code::PermissionDenied);
    let group = Group::new();
    group.add(&mount).unwrap();
    group.add(&Mount::options().open_url("memory:?size=4096", &BackendOptions::default()).unwrap()).unwrap();
    unsupported(group.seed("127.0.0.1:0", &legacy()), "moves alone");

    let seeder = mount.seed("127.0.0.1:0", &SeedOptions::default()).unwrap();
    let mut refused = match grpcio(address(&seeder)) {
        Ok(peer) => peer,
        Err(why) => return skip::skip(why),
    };
    assert!(refused.ask("track").starts_with("error UNAVAILABLE"));
    seeder.close().unwrap();
    // A server that speaks nothing else.
    let server = Server::new(ServerOptions { protocol: Protocol::Grpc, ..ServerOptions::default() }).unwrap();
    let seeder = server.seed("region", &mount, &legacy()).unwrap();
    let url = server.listen("127.0.0.1:0").unwrap();
    let mut peer = grpcio(url.strip_prefix("grpc://").unwrap()).unwrap();
    for (what, why) in [
        ("read 0 1", "say Track first"),
        ("sync", "say Track first"),
        ("read -1 1", "negative"),
        ("read 0 100000000", "the most is"),
    ] {
        let said = peer.ask(what);
        assert!(said.starts_with("error INVALID_ARGUMENT") && said.contains(why), "{what}: {said}");
    }
    assert!(peer.ask(&format!("read {SIZE} 1")).starts_with("error OUT_OF_RANGE"));
    peer.tell("track");
    assert_eq!(peer.ask("read 0 1"), "ok 1");
    // It may be leeched, and not used.
    let used = rpc::refused(&format!("{url}?size={SIZE}"));
    assert!(used.code() == Code::Unsupported && used.message().contains("leech it"), "{used:?}");
    peer.tell("close");
    seeder.close().unwrap();
}

#[test]
fn a_region_has_one_leecher_at_a_time_of_whatever_protocol() {
    let directory = Directory::new();
    let (mount, bytes) = region(&directory, "region");
    let seeder = mount.seed("127.0.0.1:0", &legacy()).unwrap();
    let there = address(&seeder).to_owned();
    let mut first = match grpcio(&there) {
        Ok(peer) => peer,
        Err(why) => return skip::skip(why),
    };
    first.tell("track");
    first.tell("track");
    let mut second = grpcio(&there).unwrap();
    let said = second.ask("track");
    assert!(said.starts_with("error ABORTED") && said.contains("another destination"), "{said}");
    let native = || Leecher::open(seeder.url().unwrap(), "memory:", options(), &BackendOptions::default());
    assert_eq!(code(native().map(drop)), Code::Busy);
    // Who was refused ends nothing by closing; who pulls ends that.
    second.tell("close");
    first.tell("pull 65536");
    first.tell("close");
    let mut after = 0;
    wait_for(&seeder, &mut after, SeedState::Tracking);
    wait_for(&seeder, &mut after, SeedState::Waiting);
    assert!(first.ask("read 0 1").contains("say Track first"));
    // Who dies ends it too.
    second.tell("track");
    wait_for(&seeder, &mut after, SeedState::Tracking);
    drop(second);
    wait_for(&seeder, &mut after, SeedState::Waiting);
    let leecher = native().unwrap();
    let said = first.ask("track");
    assert!(said.starts_with("error ABORTED"), "{said}");
    let app = std::thread::spawn({
        let seeder = seeder.clone();
        move || suspend(&seeder, &mut after)
    });
    let moved = leecher.finalize().unwrap();
    app.join().unwrap();
    assert!(first.ask("track").contains("given away"));
    first.tell("close");
    same(&read_all(&moved), &bytes);
    seeder.wait_drained(SOON).unwrap();
}

#[test]
fn the_answer_to_sync_is_the_commit_and_comes_again_on_its_connection_alone() {
    let directory = Directory::new();
    let (mount, mut bytes) = region(&directory, "region");
    let seeder = mount.seed("127.0.0.1:0", &legacy()).unwrap();
    let mut peer = match grpcio(address(&seeder)) {
        Ok(peer) => peer,
        Err(why) => return skip::skip(why),
    };
    let mut after = 0;
    peer.tell("track");
    peer.tell("pull 65536");
    mount.write_at(b"dirty", 70_000).unwrap();
    bytes[70_000..70_005].copy_from_slice(b"dirty");
    // The app does not stop; then nobody waits any more for it to stop; then it has something that cannot be said.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let event = wait_for(&seeder, &mut after, SeedState::Suspending);
            seeder.refuse(event.sequence, "not now").unwrap();
        });
        let said = peer.ask("sync");
        assert!(said.starts_with("error ABORTED") && said.contains("not now"), "{said}");
    });
    assert!(peer.ask("sync 0.2").starts_with("error DEADLINE_EXCEEDED"));
    let event = wait_for(&seeder, &mut after, SeedState::Suspending);
    // What is answered over the same connection now was asked after that was given up.
    peer.tell("pull 65536");
    seeder.suspended(event.sequence, b"").unwrap();
    let resumed = wait_for(&seeder, &mut after, SeedState::Resumed);
    assert!(resumed.cause.unwrap().message().contains("does not wait"));
    mount.write_at(b"more", 200_000).unwrap();
    bytes[200_000..200_004].copy_from_slice(b"more");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let event = wait_for(&seeder, &mut after, SeedState::Suspending);
            assert_eq!(code(seeder.suspended(event.sequence, b"payload")), Code::Unsupported);
            seeder.suspended(event.sequence, b"").unwrap();
        });
        assert_eq!(peer.ask("sync"), "ok 2");
    });
    assert_eq!(peer.ask("sync"), "ok 2");
    assert!(peer.ask("track").contains("given away"));
    assert_eq!(peer.ask("read 0 1"), "ok 1");
    // Another connection reads on, but is not given the region.
    peer.tell("reconnect");
    peer.tell("again");
    assert!(peer.ask("sync").contains("not on this connection"));
    same(&saved(&mut peer, &directory), &bytes);
    peer.tell("close");
    seeder.wait_drained(SOON).unwrap();
}

#[test]
fn a_region_whose_leecher_was_lost_is_taken_back_and_one_whose_seeder_began_anew_is_read_on() {
    let directory = Directory::new();
    let (mount, bytes) = region(&directory, "region");
    let seeder = mount.seed("127.0.0.1:0", &legacy()).unwrap();
    let mut peer = match grpcio(address(&seeder)) {
        Ok(peer) => peer,
        Err(why) => return skip::skip(why),
    };
    peer.tell("track");
    std::thread::scope(|scope| {
        scope.spawn(|| suspend(&seeder, &mut 0));
        assert_eq!(peer.ask("sync"), "ok 0");
    });
    drop(peer);
    wait_for(&seeder, &mut 0, SeedState::Committed);
    assert_eq!(code(mount.read_at(&mut [0], 0)), Code::Fenced);
    seeder.reclaim().unwrap();
    let mut after = 0;
    wait_for(&seeder, &mut after, SeedState::Resumed);
    wait_for(&seeder, &mut after, SeedState::Waiting);
    same(&read_all(&mount), &bytes);

    let mut peer = grpcio(address(&seeder)).unwrap();
    peer.tell("track");
    std::thread::scope(|scope| {
        scope.spawn(|| suspend(&seeder, &mut after));
        assert_eq!(peer.ask("sync"), "ok 0");
    });
    drop((peer, seeder, mount));
    let mount = seeding::mount(&format!("{}?size={SIZE}", directory.url("region")));
    assert_eq!(code(mount.read_at(&mut [0], 0)), Code::Fenced);
    let seeder = mount.seed("127.0.0.1:0", &legacy()).unwrap();
    let mut peer = grpcio(address(&seeder)).unwrap();
    peer.tell("pull 65536");
    same(&saved(&mut peer, &directory), &bytes);
    peer.tell("close");
    seeder.wait_drained(Duration::ZERO).unwrap();
}

/// Blocks of the seeder in Python; no multiple of one.
const BLOCK: u64 = 8192;

struct Theirs {
    peer: Peer,
    url: String,
}

impl Theirs {
    fn start() -> Result<Theirs, String> {
        let peer = peer(&["seeder", &SIZE.to_string(), &BLOCK.to_string()])?;
        let url = format!("grpc://127.0.0.1:{}?size={SIZE}&chunk={BLOCK}", peer.port);
        Ok(Theirs { peer, url })
    }

    fn leech(&self, local: &str) -> r3map_core::Result<Leecher> {
        leech(&self.url, local)
    }
}

fn leech(url: &str, local: &str) -> r3map_core::Result<Leecher> {
    let options = MountOptions { allow_legacy: true, ..options() };
    Leecher::open(url, local, options, &BackendOptions::default())
}

#[test]
fn a_region_that_grpcio_seeds_comes_here_with_what_was_written_meanwhile() {
    let mut theirs = match Theirs::start() {
        Ok(theirs) => theirs,
        Err(why) => return skip::skip(why),
    };
    let directory = Directory::new();
    let refused = Leecher::open(&theirs.url, "memory:", options(), &BackendOptions::default()).map(drop).unwrap_err();
    assert!(refused.code() == Code::Unsupported && refused.message().contains("allow_legacy"), "{refused:?}");
    for (url, why) in [
        (theirs.url.replace(&format!("&chunk={BLOCK}"), ""), "no chunk"),
        (theirs.url.replace(&format!("size={SIZE}&"), ""), "no size"),
        ("r3map://127.0.0.1:1/region".to_owned(), "is for the grpc://"),
    ] {
        let error = leech(&url, "memory:").map(drop).unwrap_err();
        assert!(error.code() == Code::InvalidArgument && error.message().contains(why), "{error:?}");
    }
    assert_eq!(
        code(leech(&format!("grpc://127.0.0.1:1?size={SIZE}&chunk=4KiB"), "memory:").map(drop)),
        Code::Disconnected
    );

    let leecher = theirs.leech(&directory.url("here")).unwrap();
    leecher.wait_local(1.0, SOON).unwrap();
    for write in ["write 100 9000", "write 1000000 1", "write 5000000 300000", "write 6292689 1"] {
        theirs.peer.tell(write);
    }
    theirs.peer.tell("mode refuse");
    let error = leecher.finalize().map(drop).unwrap_err();
    assert!(error.code() == Code::Busy && error.message().contains("the app goes on"), "{error:?}");
    theirs.peer.tell("mode none");
    let mount = leecher.finalize().unwrap();
    let expected = saved(&mut theirs.peer, &directory);
    same(&read_all(&mount), &expected);
    mount.wait_local(1.0, SOON).unwrap();
    rpc::eventually("the source hears that all is here", || theirs.peer.ask("asked") == "ok track sync sync close");
    // It moves on as any other, and what is here is not taken for what comes from there next time.
    leecher.close().unwrap();
    mount.write_at(b"mine", 0).unwrap();
    mount.close().unwrap();
    assert_eq!(code(theirs.leech(&directory.url("here")).map(drop)), Code::Busy);
    let mount = seeding::mount(&directory.url("here"));
    let seeder = mount.seed("127.0.0.1:0", &SeedOptions::default()).unwrap();
    let native = leeching::leech(&seeder, "memory:");
    let app = std::thread::spawn({
        let seeder = seeder.clone();
        move || suspend(&seeder, &mut 0)
    });
    same(&read_all(&native.finalize().unwrap())[4..], &expected[4..]);
    app.join().unwrap();
}

#[test]
fn what_came_of_sync_is_taken_only_where_it_is_known() {
    let mut theirs = match Theirs::start() {
        Ok(theirs) => theirs,
        Err(why) => return skip::skip(why),
    };
    let directory = Directory::new();
    theirs.peer.tell("mode untracked");
    let error = theirs.leech("memory:").map(drop).unwrap_err();
    assert!(error.message().contains("the disk is on fire"), "{error:?}");
    theirs.peer.tell("mode none");
    let leecher = theirs.leech("memory:").unwrap();
    leecher.wait_local(1.0, SOON).unwrap();
    for (mode, why) in [("negative", "a block at -4096"), ("beyond", "a block at 1099511627776")] {
        theirs.peer.tell(&format!("mode {mode}"));
        let error = leecher.finalize().map(drop).unwrap_err();
        assert!(error.code() == Code::Busy && error.message().contains(why), "{error:?}");
        // All of it is pulled anew, since nobody knows any more what was written.
        leecher.wait_local(1.0, SOON).unwrap();
        theirs.peer.tell("write 70000 5");
    }
    theirs.peer.tell("mode long");
    let lied = theirs.leech("memory:").unwrap();
    let error = lied.wait_local(1.0, Duration::from_secs(1)).unwrap_err();
    assert_eq!(error.code(), Code::Timeout, "{error:?}");
    drop(lied);
    theirs.peer.tell("mode none");
    same(&read_all(&leecher.finalize().unwrap()), &saved(&mut theirs.peer, &directory));

    // Its answer is lost with it; or it dies before.
    for dies in ["mode lose", ""] {
        let mut theirs = Theirs::start().unwrap();
        let hurried = MountOptions { allow_legacy: true, ..options() }.deadline(Duration::from_secs(2));
        let there = directory.url("there");
        let leecher = Leecher::open(&theirs.url, &there, hurried, &BackendOptions::default()).unwrap();
        leecher.wait_local(1.0, SOON).unwrap();
        match dies {
            "" => drop(theirs),
            mode => theirs.peer.tell(mode),
        }
        let error = leecher.finalize().map(drop).unwrap_err();
        assert!(matches!(error.code(), Code::Busy | Code::Timeout | Code::Disconnected), "{error:?}");
        assert_ne!(leecher.state().unwrap(), LeechState::Owner);
        leecher.close().unwrap();
        // Nothing of it is taken for another's.
        std::fs::remove_file(directory.file("there")).unwrap();
        std::fs::remove_file(directory.file("there.r3map")).unwrap();
    }
    // It dies afterwards: what has come stays, and what has not is an error until somebody has it.
    let theirs = Theirs::start().unwrap();
    let lazy = MountOptions { allow_legacy: true, pull: Pull::Demand, ..options() }.deadline(Duration::from_secs(2));
    let leecher = Leecher::open(&theirs.url, &directory.url("there"), lazy, &BackendOptions::default()).unwrap();
    let mount = leecher.finalize().unwrap();
    let (mut first, mut again) = ([0; 10], [0; 10]);
    mount.read_at(&mut first, 0).unwrap();
    drop(theirs);
    mount.read_at(&mut again, 0).unwrap();
    assert_eq!(first, again);
    let error = mount.read_at(&mut [0; 10], 3 << 20).unwrap_err();
    assert!(matches!(error.code(), Code::Disconnected | Code::Timeout), "{error:?}");
    mount.close().unwrap();
}

#[test]
fn our_leecher_takes_our_seeders_region_over_grpc_and_goes_on_after_it_was_closed() {
    let directory = Directory::new();
    let (mount, bytes) = region(&directory, "there");
    let seeder = mount.seed("127.0.0.1:0", &legacy()).unwrap();
    let url = format!("grpc://{}?size={SIZE}&chunk=64KiB", address(&seeder));
    let app = App::start(&seeder, Writer::start(mount.clone(), bytes, 99), b"");
    let leecher = leech(&url, &directory.url("here")).unwrap();
    assert_eq!(code(leech(&url, "memory:").map(drop)), Code::Busy);
    leecher.wait_local(0.5, SOON).unwrap();
    let moved = leecher.finalize().unwrap();
    moved.write_at(b"mine", 3 << 20).unwrap();
    let mut expected = app.bytes();
    expected[3 << 20..][..4].copy_from_slice(b"mine");
    drop(leecher);
    moved.close().unwrap();
    // What is here stays, and what is not still comes; unless all of it was here.
    match leech(&url, &directory.url("here")) {
        Ok(leecher) => {
            let moved = leecher.finalize().unwrap();
            same(&read_all(&moved), &expected);
            drop(leecher);
            moved.close().unwrap();
        }
        Err(error) => {
            assert_eq!(error.code(), Code::Busy, "{error:?}");
            same(&read_all(&seeding::mount(&directory.url("here"))), &expected);
        }
    }
    wait_for(&seeder, &mut 0, SeedState::Drained);
    app.join();
}
