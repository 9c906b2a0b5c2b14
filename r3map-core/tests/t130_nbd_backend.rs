//! 130: the NBD client as a backend, against nbdkit, qemu-nbd and our own server.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use r3map_core::backend::memory::Memory;
use r3map_core::backend::{Completion, Extent, Operation, Priority, Reply, Request};
use r3map_core::buffer::Buffer;
use r3map_core::cancel::Limit;
use r3map_core::copy::Copy;
use r3map_core::{Backend, Cancel, Code, Info, Mode, Mount, MountOptions, Result, backend};

mod peers;

use peers::{Ours, Peer, Random, all, eventually, open, pattern, refused};

/// A whole number of sectors, as qemu-nbd wants, and of nothing larger.
const SIZE: u64 = 3 * 65536 + 4608;

/// Servers of `SIZE` zeros, with what each of them can and cannot do.
fn servers() -> Vec<(&'static str, Peer)> {
    let size = SIZE.to_string();
    let file = format!("DIRECTORY/disk#{SIZE}");
    let with = |arguments: &[&str], more: &[&str]| Peer::nbdkit(&[arguments, &["memory", &size], more].concat());
    let plain = |arguments: &[&str]| with(arguments, &[]);
    vec![
        ("nbdkit memory", plain(&[])),
        ("nbdkit file", Peer::nbdkit(&["file", &format!("file={file}")])),
        ("nbdkit without structured replies", plain(&["--no-sr"])),
        ("nbdkit without options", plain(&["--mask-handshake=0"])),
        ("nbdkit without extents", plain(&["--filter=noextents"])),
        ("nbdkit without zeros", plain(&["--filter=nozero"])),
        ("nbdkit on one connection", with(&["--filter=multi-conn"], &["multi-conn-mode=disable"])),
        ("nbdkit with delays", with(&["--filter=delay"], &["delay-read=1ms", "delay-write=1ms"])),
        ("nbdkit with short requests", with(&["--filter=blocksize-policy"], &["blocksize-maximum=64K"])),
        ("qemu-nbd", Peer::qemu(&["--format=raw", "--discard=unmap", &file])),
        ("qemu-nbd by old options", Peer::qemu(&["--format=raw", "--cache=writeback", &file])),
    ]
}

#[test]
fn random_writes_zeroes_and_reads_agree_with_a_plain_array_on_every_server() {
    let ours = Ours::new(Arc::new(Memory::new(SIZE).unwrap()));
    let peers = servers();
    let urls = peers.iter().map(|(name, peer)| (*name, peer.url()));
    for (name, url) in urls.chain([("ours, unix", ours.unix.clone()), ("ours, tcp", ours.tcp.clone())]) {
        let mut backend = open(&url).unwrap();
        assert_eq!(backend.info().size, SIZE, "{name}");
        assert!(!backend.info().read_only && backend.info().alignment == 1, "{name}");
        // Ours was written to before.
        backend.zero_at(0, SIZE).unwrap();
        let (seed, mut expected) = (0x9E37_79B9_7F4A_7C15, vec![0; SIZE as usize]);
        let mut random = Random(seed);
        for step in 0..300u32 {
            let what = format!("{name}: seed {seed:#x}, step {step}");
            let offset = random.below(SIZE + 1);
            let most = [64, 9000, 150_000, SIZE][random.below(4) as usize].min(SIZE - offset);
            let range = offset as usize..(offset + random.below(most + 1)) as usize;
            match random.below(10) {
                0..4 => {
                    expected[range.clone()].fill(step as u8 | 1);
                    backend.write_at(&expected[range], offset).expect(&what);
                }
                4..6 => {
                    expected[range.clone()].fill(0);
                    backend.zero_at(offset, range.len() as u64).expect(&what);
                }
                6..9 => {
                    let mut bytes = vec![0xEE; range.len()];
                    backend.read_at(&mut bytes, offset).expect(&what);
                    assert!(bytes == expected[range], "{what}");
                }
                _ if step % 3 == 0 => backend = open(&url).unwrap(),
                _ => backend.sync().expect(&what),
            }
        }
        assert!(all(&backend) == expected, "{name}: seed {seed:#x}");
        let mut one = [0];
        assert_eq!(backend.read_at(&mut one, SIZE).unwrap_err().code(), Code::OutOfRange, "{name}");
        assert_eq!(backend.write_at(&one, u64::MAX).unwrap_err().code(), Code::OutOfRange, "{name}");
    }
}

#[test]
fn what_a_server_knows_to_be_zeros_is_neither_read_nor_copied() {
    const SIZE: u64 = 64 << 20;
    let (memory, read) = (Memory::new(SIZE).unwrap(), Arc::new(AtomicU64::new(0)));
    let bytes = pattern(1 << 20, 1);
    memory.write_at(&bytes, 5 << 20).unwrap();
    let source = Arc::new(Store { read: read.clone(), ..Store::of(memory) });
    let ours = Ours::new(source);
    let target = Arc::new(Memory::new(SIZE).unwrap());
    Copy::between(open(&ours.unix).unwrap(), target.clone()).unwrap().run(None).unwrap();
    let mut found = vec![0; 1 << 20];
    target.read_at(&mut found, 5 << 20).unwrap();
    assert!(found == bytes);
    assert_eq!(read.load(Ordering::SeqCst), 1 << 20, "holes were read");

    let peer = Peer::qemu(&["--format=raw", &format!("DIRECTORY/disk#{SIZE}")]);
    let qemu = peer.open();
    qemu.write_at(&bytes, 5 << 20).unwrap();
    let extents = qemu.extents(0, SIZE, 16).unwrap();
    let extents: Vec<_> = extents.iter().map(|extent| (extent.length, extent.zero)).collect();
    assert_eq!(extents, [(5 << 20, true), (1 << 20, false), (58 << 20, true)]);
    assert_eq!(qemu.extents(0, SIZE, 1).unwrap(), [Extent { length: 5 << 20, zero: true }]);
    let read = |offset, length| submit(&qemu, Operation::Read { offset, buffer: Buffer::new(length) });
    assert!(matches!(read(0, 65536), Ok(Reply::Zeroes)), "zeros were moved");
    assert!(matches!(read(5 << 20, 65536), Ok(Reply::Data(data)) if data[..] == bytes[..65536]));
    let copied = Arc::new(Memory::new(SIZE).unwrap());
    Copy::between(qemu, copied.clone()).unwrap().run(None).unwrap();
    assert!(all(&(copied as Arc<dyn Backend>)) == all(&(target as Arc<dyn Backend>)));
}

fn submit(backend: &Arc<dyn Backend>, operation: Operation) -> Result<Reply> {
    let limit = Limit::within(Duration::from_secs(30));
    backend::call(backend, operation, &limit, "test")
}

#[test]
fn errors_of_a_server_keep_their_meaning() {
    let memory = ["memory", "1M"];
    for (error, code, says) in [
        ("EIO", Code::Io, "store failed"),
        ("ENOSPC", Code::Io, "room"),
        ("EPERM", Code::PermissionDenied, "allow"),
        ("EINVAL", Code::InvalidArgument, "sense"),
        ("ENOMEM", Code::Io, "memory"),
    ] {
        let error = format!("error={error}");
        for structured in [&["--threads=1"][..], &["--no-sr"]] {
            let peer = Peer::nbdkit(&[structured, &["--filter=error"], &memory, &[&error, "error-rate=100%"]].concat());
            let backend = peer.open();
            let mut bytes = [0; 512];
            let outcomes = [backend.read_at(&mut bytes, 0), backend.write_at(&[1; 512], 0), backend.zero_at(0, 512)];
            for failed in outcomes {
                let failed = failed.unwrap_err();
                assert_eq!(failed.code(), code, "{error}: {failed}");
                assert!(failed.message().contains(says), "{error}: {failed}");
            }
        }
    }
}

#[test]
fn a_read_only_export_is_one_and_says_so() {
    for arguments in [&["--readonly", "memory", "1M"][..], &["--readonly", "--no-sr", "memory", "1M"]] {
        let peer = Peer::nbdkit(arguments);
        let backend = peer.open();
        assert!(backend.info().read_only);
        assert_eq!(backend.write_at(&[1], 0).unwrap_err().code(), Code::ReadOnly);
        assert_eq!(backend.zero_at(0, 10).unwrap_err().code(), Code::ReadOnly);
        backend.read_at(&mut [0; 100], 0).unwrap();
        backend.sync().unwrap();
    }
}

#[test]
fn the_sizes_of_a_servers_blocks_are_kept_to() {
    let peer = Peer::nbdkit(&[
        "--filter=blocksize-policy",
        "memory",
        "1M",
        "blocksize-minimum=512",
        "blocksize-maximum=64K",
        "blocksize-error-policy=error",
    ]);
    let backend = peer.open();
    assert_eq!((backend.info().alignment, backend.info().max_request), (512, 65536));
    let bytes = pattern(1 << 20, 3);
    backend.write_at(&bytes, 0).unwrap();
    let mut some = vec![0; 200_000];
    backend.read_at(&mut some, 1001).unwrap();
    assert!(some == bytes[1001..201_001]);
    let error = backend.write_at(&[1; 100], 1).unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("managed"), "{error}");
    let mount = Mount::options().mode(Mode::Managed).open_url(&peer.url(), &Default::default()).unwrap();
    mount.write_at(&[9; 100], 1).unwrap();
    mount.sync().unwrap();
    mount.close().unwrap();
    let mut expected = bytes;
    expected[1..101].fill(9);
    assert!(all(&backend) == expected);
}

#[test]
fn a_sync_that_the_server_cannot_make_is_an_error_and_not_a_promise() {
    let disk = "DIRECTORY/disk";
    let peer = Peer::nbdkit(&[
        "eval",
        &format!("after_fork=truncate -s 65536 {disk}"),
        "get_size=echo 65536",
        &format!("pread=dd if={disk} bs=1 skip=$4 count=$3 2>/dev/null"),
        &format!("pwrite=dd of={disk} bs=1 seek=$4 conv=notrunc 2>/dev/null"),
    ]);
    let backend = peer.open();
    // Nothing was written, so nothing can be lost.
    backend.sync().unwrap();
    backend.write_at(&[5; 10], 100).unwrap();
    let error = backend.sync().unwrap_err();
    assert_eq!(error.code(), Code::Unsupported);
    assert!(error.message().contains("FLUSH"), "{error}");
}

#[test]
fn a_server_that_does_not_answer_is_given_up_at_the_deadline_or_by_cancel() {
    let peer = Peer::nbdkit(&["--filter=delay", "memory", "1M", "delay-read=100"]);
    let backend = peer.open();
    let mut bytes = [0; 512];
    let limit = Limit::within(Duration::from_millis(200));
    let error = backend::read(&backend, &mut bytes, 0, &limit).unwrap_err();
    assert_eq!(error.code(), Code::Timeout, "{error}");
    let cancel = Cancel::new();
    let waiting = std::thread::spawn({
        let (backend, limit) = (backend.clone(), Limit::none().with_cancel(Some(cancel.clone())));
        move || backend::read(&backend, &mut [0; 512], 0, &limit)
    });
    cancel.trigger();
    assert_eq!(waiting.join().unwrap().unwrap_err().code(), Code::Cancelled);
    // What was given up disturbs nobody: other requests go on.
    backend.write_at(&[1; 512], 0).unwrap();
    backend.close().unwrap();
}

#[test]
fn many_requests_are_under_way_at_once() {
    const MANY: usize = 32;
    let store = Arc::new(Store::of(Memory::new(1 << 20).unwrap()));
    *store.barrier.lock().unwrap() = MANY;
    let ours = Ours::new(store);
    for url in [&ours.unix, &ours.tcp] {
        let backend = open(url).unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        for number in 0..MANY {
            let tell = tell.clone();
            backend.clone().submit(Request {
                operation: Operation::Read { offset: number as u64 * 512, buffer: Buffer::new(512) },
                priority: if number % 2 == 0 { Priority::Demand } else { Priority::Bulk },
                deadline: None,
                completion: Completion::new(move |outcome| tell.send(outcome.map(drop)).unwrap()),
            });
        }
        // None of them is answered before all are there.
        for _ in 0..MANY {
            told.recv_timeout(peers::SOON).unwrap().unwrap();
        }
    }
}

#[test]
fn a_managed_mount_outlives_a_server_that_is_killed_and_started_again() {
    let mut peer = Peer::nbdkit(&["file", "file=DIRECTORY/disk#1048576"]);
    let options = MountOptions { push_interval: Duration::from_millis(10), ..Mount::options() };
    let mount = options.mode(Mode::Managed).open_url(&peer.url(), &Default::default()).unwrap();
    let (mut expected, mut random) = (vec![0; 1 << 20], Random(5));
    for round in 0..4 {
        for _ in 0..20 {
            let offset = random.below((1 << 20) - 5000) as usize;
            let data = pattern(5000, random.next());
            mount.write_at(&data, offset as u64).unwrap();
            expected[offset..offset + 5000].copy_from_slice(&data);
            let mut found = vec![0; 5000];
            let offset = random.below((1 << 20) - 5000) as usize;
            mount.read_at(&mut found, offset as u64).unwrap();
            assert!(found == expected[offset..offset + 5000], "round {round}");
        }
        mount.sync().unwrap();
        assert!(std::fs::read(peer.file("disk")).unwrap() == expected, "round {round}");
        peer.kill();
        // What is written while nobody is there is pushed later.
        mount.write_at(&[round; 100], 77).unwrap();
        expected[77..177].fill(round);
        peer.restart("", "");
    }
    mount.sync().unwrap();
    assert!(std::fs::read(peer.file("disk")).unwrap() == expected);
    mount.close().unwrap();
}

#[test]
fn writes_that_a_server_may_have_lost_fail_every_sync_from_then_on() {
    let mut peer = Peer::nbdkit(&["memory", "1M"]);
    let backend = peer.open();
    backend.write_at(&[1; 100], 0).unwrap();
    backend.sync().unwrap();
    peer.kill();
    peer.restart("", "");
    backend.read_at(&mut [0; 10], 0).unwrap();
    backend.sync().unwrap();
    backend.write_at(&[1; 100], 0).unwrap();
    peer.kill();
    peer.restart("", "");
    backend.read_at(&mut [0; 10], 0).unwrap();
    for _ in 0..2 {
        let error = backend.sync().unwrap_err();
        assert_eq!(error.code(), Code::Io);
        assert!(error.message().contains("1 writes"), "{error}");
    }
}

#[test]
fn a_server_whose_size_changed_is_corrupt_for_good() {
    let mut peer = Peer::nbdkit(&["memory", "1M"]);
    let backend = peer.open();
    backend.read_at(&mut [0; 10], 0).unwrap();
    peer.kill();
    peer.restart("1M", "2M");
    for _ in 0..2 {
        let error = backend.read_at(&mut [0; 10], 0).unwrap_err();
        assert_eq!(error.code(), Code::Corrupt, "{error}");
        assert!(error.message().contains("2097152"), "{error}");
    }
}

#[test]
fn what_cannot_be_opened_says_why() {
    let peer = Peer::nbdkit(&["--oldstyle", "memory", "1M"]);
    assert!(refused(&peer.url()).message().contains("old style"));
    let ours = Ours::new(Arc::new(Memory::new(10).unwrap()));
    let error = refused(&ours.tcp.replace("/region", "/regoin"));
    assert_eq!(error.code(), Code::NotFound);
    assert!(error.message().contains("regoin"), "{error}");
    // For want of what TLS needs, or of TLS.
    let error = refused("nbds://127.0.0.1/x");
    assert!(error.message().contains("tls"), "{error}");
    assert_eq!(refused("nbd+unix:///x").code(), Code::InvalidArgument);
    assert_eq!(refused("nbd+unix:///x?socket=relative").code(), Code::InvalidArgument);
    assert_eq!(refused("nbd+unix:///x?socket=/not/there").code(), Code::NotFound);
    assert!(refused("nbd://127.0.0.1:1/x?sokcet=/x").message().contains("sokcet"));
    assert_eq!(refused("nbd://127.0.0.1:1/x").code(), Code::Disconnected);
    assert_eq!(refused("nbd://192.0.2.1/x").code(), Code::PermissionDenied);
    let closed = open(&ours.unix).unwrap();
    closed.close().unwrap();
    assert_eq!(closed.read_at(&mut [0], 0).unwrap_err().code(), Code::Closed);
    eventually("the connection ends", || ours.server.close().is_ok());
}

/// A store in memory that counts what is read, and may hold reads back until there are enough of them.
struct Store {
    info: Info,
    memory: Arc<Memory>,
    read: Arc<AtomicU64>,
    barrier: Mutex<usize>,
    waiting: Mutex<Vec<Request>>,
}

impl Store {
    fn of(memory: Memory) -> Store {
        Store {
            info: Info { local: false, ..memory.info().clone() },
            memory: Arc::new(memory),
            read: Arc::default(),
            barrier: Mutex::new(0),
            waiting: Mutex::default(),
        }
    }
}

impl Backend for Store {
    fn info(&self) -> &Info {
        &self.info
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.read.fetch_add(buffer.len() as u64, Ordering::SeqCst);
        self.memory.read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.memory.write_at(data, offset)
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn extents(&self, offset: u64, length: u64, most: usize) -> Result<Vec<Extent>> {
        self.memory.extents(offset, length, most)
    }

    fn submit(self: Arc<Self>, request: Request) {
        let mut waiting = self.waiting.lock().unwrap();
        waiting.push(request);
        if waiting.len() >= *self.barrier.lock().unwrap() {
            waiting.drain(..).for_each(|request| backend::perform(&*self, request));
        }
    }
}
