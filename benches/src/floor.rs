//! Floors: moving bytes through a socket with nothing around it.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::LazyLock;
use std::thread;

use nix::sys::memfd::{MFdFlags, memfd_create};
use r3map_chaos::{Conditions, Network};

use crate::time;

/// Chunk of the bare transfers.
const CHUNK: usize = 1 << 20;

fn memory_file(size: u64) -> File {
    let file = File::from(memfd_create(c"floor", MFdFlags::empty()).unwrap());
    file.set_len(size).unwrap();
    file
}

/// Receives `size` bytes in chunks and `pwrite`s each to a file in memory.
fn receive(mut from: impl Read, size: u64, store: &File) {
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

/// A bare pull over TCP of this host into a fresh file in memory, which is freed after the time that is told.
pub fn pull_tcp(size: u64) -> f64 {
    LazyLock::force(&SOURCE);
    let store = memory_file(size);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || send(listener.accept().unwrap().0, size));
    let seconds = time(|| {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        receive(stream, size, &store);
    });
    server.join().unwrap();
    seconds
}

/// The same through a network of these conditions.
pub fn pull_through(size: u64, conditions: &Conditions) -> f64 {
    LazyLock::force(&SOURCE);
    let store = memory_file(size);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let network = Network::to(&listener.local_addr().unwrap().to_string(), conditions.clone()).unwrap();
    let server = thread::spawn(move || send(listener.accept().unwrap().0, size));
    let seconds = time(|| receive(TcpStream::connect(network.address()).unwrap(), size, &store));
    server.join().unwrap();
    seconds
}

/// A bare push through such a network: the time until word is back that the other side has stored the last byte.
pub fn push_through(size: u64, conditions: &Conditions) -> f64 {
    LazyLock::force(&SOURCE);
    let store = memory_file(size);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let network = Network::to(&listener.local_addr().unwrap().to_string(), conditions.clone()).unwrap();
    let server = thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        receive(&stream, size, &store);
        stream.write_all(&[1]).unwrap();
    });
    let seconds = time(|| {
        let mut stream = TcpStream::connect(network.address()).unwrap();
        send(&stream, size);
        stream.read_exact(&mut [0]).unwrap();
    });
    server.join().unwrap();
    seconds
}

/// The same over a UNIX socket.
pub fn pull_unix(size: u64) -> f64 {
    LazyLock::force(&SOURCE);
    let store = memory_file(size);
    let (near, far) = UnixStream::pair().unwrap();
    time(|| {
        let server = thread::spawn(move || send(far, size));
        receive(near, size, &store);
        server.join().unwrap();
    })
}

/// A bare push over a UNIX socket: the time until the other side has stored the last byte, over older bytes as a
/// server does.
pub fn push_unix(size: u64) -> f64 {
    static STORE: LazyLock<File> = LazyLock::new(|| {
        let store = memory_file(SOURCE.len() as u64);
        store.write_all_at(&SOURCE, 0).unwrap();
        store
    });
    LazyLock::force(&STORE);
    let (near, far) = UnixStream::pair().unwrap();
    time(|| {
        let server = thread::spawn(move || receive(far, size, &STORE));
        send(near, size);
        server.join().unwrap();
    })
}
