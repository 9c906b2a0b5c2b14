//! Floors: moving bytes through a socket with nothing around it.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::LazyLock;
use std::thread;

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::time;

/// Chunk of the bare transfers.
const CHUNK: usize = 1 << 20;

fn memory_file(size: u64) -> File {
    let file = File::from(memfd_create(c"floor", MFdFlags::empty()).unwrap());
    file.set_len(size).unwrap();
    file
}

/// Receives `size` bytes in chunks and `pwrite`s each to a fresh file in memory.
fn receive(mut from: impl Read, size: u64) {
    let store = memory_file(size);
    let mut chunk = vec![0; CHUNK];
    for offset in (0..size).step_by(CHUNK) {
        from.read_exact(&mut chunk).unwrap();
        store.write_all_at(&chunk, offset).unwrap();
    }
}

/// Bytes to move, as many as the largest transfer: what is sent has to come from memory, not from a cache.
static SOURCE: LazyLock<Vec<u8>> = LazyLock::new(|| (0..1 << 30).map(|at: usize| (at >> 6) as u8 | 1).collect());

fn send(mut to: impl Write, size: u64) {
    for chunk in SOURCE[..size as usize].chunks(CHUNK) {
        to.write_all(chunk).unwrap();
    }
}

/// A bare pull over TCP of this host.
pub fn pull_tcp(size: u64) -> f64 {
    LazyLock::force(&SOURCE);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || send(listener.accept().unwrap().0, size));
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    let seconds = time(|| receive(stream, size));
    server.join().unwrap();
    seconds
}

/// A bare pull over a UNIX socket.
pub fn pull_unix(size: u64) -> f64 {
    LazyLock::force(&SOURCE);
    let (near, far) = UnixStream::pair().unwrap();
    let server = thread::spawn(move || send(far, size));
    let seconds = time(|| receive(near, size));
    server.join().unwrap();
    seconds
}

/// A bare push over a UNIX socket: the time until the other side has stored the last byte.
pub fn push_unix(size: u64) -> f64 {
    LazyLock::force(&SOURCE);
    let (near, far) = UnixStream::pair().unwrap();
    let seconds = time(|| {
        let server = thread::spawn(move || receive(far, size));
        send(near, size);
        server.join().unwrap();
    });
    seconds
}
