//! 140: exports over NBD, as libnbd, qemu, nbdkit's tools and the kernel see them.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use r3map_core::backend::memory::Memory;
use r3map_core::wire::nbd::handshake::{self, Ask, options};
use r3map_core::wire::nbd::{Command, Request};
use r3map_core::{Backend, BackendOptions, Code, ExportOptions, Mode, Mount, Server, ServerOptions, backend};

#[path = "nbd/mod.rs"]
mod device;
mod peers;

use peers::{Ours, all, eventually, open, pattern, run, succeeds};

/// The one that Debian's libnbd is for.
const PYTHON: &str = "/usr/bin/python3";

fn memory(size: u64) -> Arc<dyn Backend> {
    Arc::new(Memory::new(size).unwrap())
}

/// A file of a test's own as a backend.
fn file(path: &Path, bytes: &[u8]) -> Arc<dyn Backend> {
    std::fs::write(path, bytes).unwrap();
    backend::open(&format!("file://{}", path.display()), &BackendOptions::default()).unwrap()
}

#[test]
fn libnbd_finds_everything_as_the_specification_says() {
    let read_only = Ours::with(
        memory(1 << 20),
        ServerOptions::default(),
        &ExportOptions { read_only: true, ..ExportOptions::default() },
    );
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/libnbd.py");
    let ours = Ours::new(memory(1 << 20));
    for (uri, refused) in [(&ours.unix, &read_only.tcp), (&ours.tcp, &read_only.unix)] {
        succeeds(&[PYTHON, script, uri, refused]);
    }
    let directory = peers::Directory::new();
    let ours = Ours::new(file(&directory.file("disk"), &[]));
    assert!(run(&["nbdinfo", "--size", &ours.unix]).1.starts_with('0'));
    let path = directory.file("sparse");
    File::create(&path).unwrap().set_len(1 << 20).unwrap();
    let url = format!("file://{}", path.display());
    let ours = Ours::new(backend::open(&url, &BackendOptions::default()).unwrap());
    succeeds(&[PYTHON, script, &ours.unix, &read_only.tcp]);
}

#[test]
fn nbdinfo_shows_what_an_export_can_and_where_its_holes_are() {
    let memory = memory(8 << 20);
    memory.write_at(&pattern(1 << 20, 1), 2 << 20).unwrap();
    let ours = Ours::new(memory);
    // The map first: to look at an export nbdinfo reads a little, for which memory takes pages.
    let map: Vec<String> = succeeds(&["nbdinfo", "--map", &ours.unix])
        .lines()
        .map(|line| line.split_whitespace().take(3).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(map, ["0 2097152 3", "2097152 1048576 0", "3145728 5242880 3"]);
    let info = succeeds(&["nbdinfo", "--json", &ours.unix]);
    for (name, value) in [
        ("structured", "true"),
        ("is_read_only", "false"),
        ("can_cache", "true"),
        ("can_df", "true"),
        ("can_flush", "true"),
        ("can_fua", "true"),
        ("can_multi_conn", "true"),
        ("can_trim", "true"),
        ("can_zero", "true"),
        ("block_size_minimum", "1"),
        ("block_size_maximum", "33554432"),
        ("export-size", "8388608"),
    ] {
        assert!(info.contains(&format!("\"{name}\": {value}")), "{name}\n{info}");
    }
    // Nothing tells two TCP connections of one client from those of two, and one may write.
    assert!(succeeds(&["nbdinfo", "--json", &ours.tcp]).contains("\"can_multi_conn\": false"));
}

#[test]
fn nbdcopy_and_qemu_img_bring_every_byte_there_and_back() {
    const SIZE: usize = (20 << 20) + 512;
    let directory = peers::Directory::new();
    let mut bytes = pattern(SIZE, 7);
    bytes[3 << 20..9 << 20].fill(0);
    let (from, back) = (directory.file("from"), directory.file("back"));
    std::fs::write(&from, &bytes).unwrap();
    let (from, back) = (from.to_str().unwrap(), back.to_str().unwrap());
    for mode in [None, Some(Mode::Direct), Some(Mode::Managed)] {
        let store = memory(SIZE as u64);
        store.write_at(&vec![1; SIZE], 0).unwrap();
        let served = match mode {
            None => store.clone(),
            Some(mode) => Arc::new(Mount::options().mode(mode).open(store.clone()).unwrap()),
        };
        let ours = Ours::new(served);
        for url in [&ours.unix, &ours.tcp] {
            succeeds(&["nbdcopy", "--flush", from, url]);
            assert!(all(&store) == bytes, "{mode:?} {url}");
            succeeds(&["nbdcopy", url, back]);
            assert!(std::fs::read(back).unwrap() == bytes, "{mode:?} {url}");
            std::fs::remove_file(back).unwrap();
            succeeds(&["qemu-img", "compare", "--force-share", "-f", "raw", "-F", "raw", from, url]);
            store.zero_at(0, SIZE as u64 / 2).unwrap();
            if mode != Some(Mode::Managed) {
                let (status, out, _) = run(&["qemu-img", "compare", "-f", "raw", "-F", "raw", from, url]);
                assert_eq!(status, Some(1), "{out}");
            }
            succeeds(&["qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", from, url]);
            if mode == Some(Mode::Managed) {
                continue; // It knows nothing of the zeros behind its back.
            }
            assert!(all(&store) == bytes, "{mode:?} {url}");
        }
    }
}

#[test]
fn qemu_io_writes_zeroes_discards_and_verifies() {
    let ours = Ours::new(memory(8 << 20));
    for url in [&ours.unix, &ours.tcp] {
        let out = succeeds(&[
            "qemu-io",
            "-f",
            "raw",
            "-c",
            "write -P 5 1000 5000",
            "-c",
            "read -P 5 1000 5000",
            "-c",
            "write -z 2000 1000",
            "-c",
            "read -P 0 2000 1000",
            "-c",
            "write -f -P 9 1M 2M",
            "-c",
            "discard 1M 1M",
            "-c",
            "read -P 0 1M 1M",
            "-c",
            "read -P 9 2M 1M",
            "-c",
            "write -z -u 2M 1M",
            "-c",
            "read -P 0 2M 1M",
            "-c",
            "flush",
            "-c",
            "aio_write -P 3 4M 1M",
            "-c",
            "aio_write -P 4 5M 1M",
            "-c",
            "aio_flush",
            "-c",
            "read -P 3 4M 1M",
            "-c",
            "read -P 4 5M 1M",
            "-c",
            "discard 0 8M",
            url,
        ]);
        assert!(!out.contains("failed"), "{out}");
    }
}

/// A client by hand, past its negotiation.
fn raw(socket: &Path) -> UnixStream {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(peers::SOON)).unwrap();
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).unwrap();
    let ask = Ask { export: "region", infos: vec![] }.encode();
    stream.write_all(&3_u32.to_be_bytes()).unwrap();
    stream.write_all(&handshake::option_head(options::GO, ask.len())).unwrap();
    stream.write_all(&ask).unwrap();
    let mut answers = [0; 20 + 12 + 20];
    stream.read_exact(&mut answers).unwrap();
    stream
}

#[test]
fn a_client_that_reads_no_answers_holds_nobody_else() {
    let ours = Ours::new(memory(64 << 20));
    let mut slow = raw(&ours.socket());
    slow.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let request = Request { command: Some(Command::Read), flags: 0, cookie: [0; 8], offset: 0, length: 32 << 20 };
    // Until it takes no more, which it does not wait for the answers with.
    let taken = (0..10_000).take_while(|_| slow.write_all(&request.encode()).is_ok()).count();
    assert!(taken < 10_000, "a client that reads nothing may ask without end");
    let other = open(&ours.unix).unwrap();
    other.write_at(&pattern(1 << 20, 1), 0).unwrap();
    other.sync().unwrap();
    ours.server.close().unwrap();
}

#[test]
fn one_client_writes_at_a_time_and_the_other_is_told_who() {
    let store = memory(1 << 20);
    let ours = Ours::new(store.clone());
    let one = open(&ours.tcp).unwrap();
    let other = open(&ours.unix).unwrap();
    one.write_at(&[1; 100], 0).unwrap();
    let error = other.write_at(&[2; 100], 0).unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied);
    assert!(error.message().contains("127.0.0.1") && error.message().contains("writes to this export"), "{error}");
    other.read_at(&mut [0; 100], 0).unwrap();
    assert_eq!(other.zero_at(0, 1).unwrap_err().code(), Code::PermissionDenied);
    one.close().unwrap();
    // All connections of this process are one client.
    eventually("the lease is free", || other.write_at(&[3; 100], 0).is_ok());
    assert_eq!(&all(&store)[..101], [&[3; 100][..], &[0]].concat());
}

#[test]
fn what_was_acknowledged_is_synced_before_a_server_is_closed_and_clients_come_back_to_the_next() {
    let directory = peers::Directory::new();
    let path = directory.file("disk");
    let store = file(&path, &pattern(1 << 20, 1));
    let ours = Ours::new(store.clone());
    let client = open(&ours.unix).unwrap();
    client.write_at(&[7; 5000], 100).unwrap();
    client.sync().unwrap();
    ours.server.close().unwrap();
    assert_eq!(ours.server.close().unwrap_err().code(), Code::Closed);
    let mut expected = pattern(1 << 20, 1);
    expected[100..5100].fill(7);
    assert!(std::fs::read(&path).unwrap() == expected);
    let again = Server::new(ServerOptions { protocol: r3map_core::Protocol::Nbd, ..Default::default() }).unwrap();
    again.export("region", store, &ExportOptions::default()).unwrap();
    again.listen(&format!("unix:{}", ours.socket().display())).unwrap();
    assert!(all(&client) == expected);
    client.write_at(&[8; 10], 0).unwrap();
}

#[test]
fn too_many_clients_are_told_so() {
    let options = ServerOptions { max_connections: 1, ..ServerOptions::default() };
    let ours = Ours::with(memory(4096), options, &ExportOptions::default());
    let first = open(&ours.tcp).unwrap();
    let error = peers::refused(&ours.tcp);
    assert!(error.message().contains("1 connections"), "{error}");
    first.read_at(&mut [0; 10], 0).unwrap();
}

#[test]
fn the_kernels_own_client_attaches_an_export() {
    let Some(_machine) = device::machine() else { return };
    let store = memory(16 << 20);
    let ours = Ours::new(store.clone());
    let mut all = (0..16).map(|number| format!("nbd{number}"));
    let free = all.rfind(|name| !std::fs::exists(format!("/sys/block/{name}/pid")).unwrap()).unwrap();
    let node = format!("/dev/{free}");
    let socket = ours.socket();
    let attach = ["nbd-client", "-unix", socket.to_str().unwrap(), &node, "-name", "region", "-nonetlink"];
    succeeds(&attach);
    let disk = OpenOptions::new().read(true).write(true).open(&node).unwrap();
    let mut bytes = pattern(4 << 20, 9);
    disk.write_all_at(&bytes, 1 << 20).unwrap();
    disk.sync_all().unwrap();
    let mut found = vec![0; 4 << 20];
    store.read_at(&mut found, 1 << 20).unwrap();
    assert!(found == bytes, "the kernel wrote something else");
    device::range_ioctl(&disk, device::BLKZEROOUT, 2 << 20, 1 << 20).unwrap();
    disk.sync_all().unwrap();
    bytes[1 << 20..2 << 20].fill(0);
    store.read_at(&mut found, 1 << 20).unwrap();
    assert!(found == bytes, "the kernel zeroed something else");
    drop(disk);
    succeeds(&["nbd-client", "-d", &node]);
    let kept = peers::all(&store);
    assert!(kept[1 << 20..5 << 20] == bytes[..]);
}
