//! Peers that mean harm or speak nonsense: a typed refusal, nothing allocated for their sake, and everybody
//! else served as before.

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use r3map_core::backend::{Operation, Priority};
use r3map_core::buffer::Buffer;
use r3map_core::wire::{HEADER_LENGTH, Header, Kind, Welcome};
use r3map_core::{Backend, Code};

#[path = "wire/support/mod.rs"]
#[allow(dead_code)]
mod support;

use support::raw::{Raw, frame, hello, welcome};
use support::{authority, memory_server, open, pattern, read, submit, wait};

/// Remembers the largest allocation of this process.
struct Watched;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is the system's allocator; a figure is kept on the way.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// More than anything in this file needs, far less than a hostile length asks for.
const MODEST: usize = 4 << 20;

/// A header with its own checksum right, whatever else it says.
fn sealed(mut header: [u8; HEADER_LENGTH], change: impl FnOnce(&mut [u8; HEADER_LENGTH])) -> [u8; HEADER_LENGTH] {
    change(&mut header);
    let crc = crc32c::crc32c(&header[..44]);
    header[44..].copy_from_slice(&crc.to_le_bytes());
    header
}

/// First frames and frames after the greeting that are refused, and with which code.
fn nonsense() -> Vec<(&'static str, Code, Vec<u8>)> {
    let read = Header::new(Kind::Read, 1).about(0, 100).encode();
    let write = Header::new(Kind::Write, 1).about(0, 100).with_payload(&[1; 100]).encode();
    let hello = Header::new(Kind::Hello, 0).encode();
    let with = |header, at: usize, bytes: &[u8]| {
        sealed(header, |header| header[at..at + bytes.len()].copy_from_slice(bytes)).to_vec()
    };
    let mut wrong_crc = frame(Header::new(Kind::Write, 1).about(0, 100), &[1; 100]);
    wrong_crc[HEADER_LENGTH + 50] ^= 1;
    let mut wrong_header = read;
    wrong_header[20] ^= 1;
    vec![
        ("another protocol", Code::Corrupt, [&b"GET / HTTP/1.1\r\nHost: example.org\r\n"[..], &[b'x'; 40]].concat()),
        ("a wrong magic", Code::Corrupt, with(read, 0, b"R3mW")),
        ("a header that fails its checksum", Code::Corrupt, wrong_header.to_vec()),
        ("a payload that fails its checksum", Code::Corrupt, wrong_crc),
        ("an unknown type", Code::Unsupported, with(read, 4, &[0x99, 0])),
        ("an unknown flag", Code::Unsupported, with(read, 6, &[0, 0x80])),
        ("a write of 4 GiB", Code::Corrupt, with(with16(write, 24, 0xffff_ffff), 32, &[0xff; 4])),
        ("a write whose length is not its payload's", Code::Corrupt, with(write, 24, &[101])),
        ("a payload of 4 GiB behind a read", Code::Corrupt, with(read, 32, &[0xff; 4])),
        ("a HELLO of 4 GiB", Code::Corrupt, with(hello, 32, &[0xff; 4])),
        ("a HELLO of 4097 bytes", Code::Corrupt, with(hello, 32, &4097_u32.to_le_bytes())),
        ("what only a server says", Code::InvalidArgument, Header::new(Kind::Done, 1).encode().to_vec()),
    ]
}

fn with16(header: [u8; HEADER_LENGTH], at: usize, value: u64) -> [u8; HEADER_LENGTH] {
    sealed(header, |header| header[at..at + 8].copy_from_slice(&value.to_le_bytes()))
}

#[test]
fn nonsense_is_refused_with_a_reason_before_and_after_the_greeting_and_nothing_is_allocated_for_it() {
    let (_server, url, memory) = memory_server("region", 1 << 20);
    memory.write_at(&[7; 4096], 0).unwrap();
    let other = open(&format!("{url}/region")).unwrap();
    for greeted in [false, true] {
        for (what, code, bytes) in nonsense() {
            let mut raw = Raw::connect(authority(&url));
            if greeted {
                raw.hello(&hello("region"));
                assert_eq!(raw.receive().unwrap().0.kind, Kind::Welcome);
            }
            raw.bytes(&bytes);
            let (id, error) = raw.refusal();
            // Before the greeting even a good frame of another kind is refused.
            let expected = if !greeted && what.contains("payload that fails") { Code::InvalidArgument } else { code };
            assert_eq!((id, error.code()), (0, expected), "{what}: {error}");
            assert!(raw.receive().is_none(), "{what}: the connection stays open");
            assert_eq!(read(&other, 4096, 0), [7; 4096], "{what}");
        }
    }
    assert!(LARGEST.load(Ordering::Relaxed) < MODEST);
}

#[test]
fn a_connection_that_ends_after_any_byte_harms_nobody() {
    let (_server, url, memory) = memory_server("region", 1 << 20);
    memory.write_at(&[7; 4096], 0).unwrap();
    let other = open(&format!("{url}/region")).unwrap();
    let greeting = frame(Header::new(Kind::Hello, 0), &hello("region").encode());
    let write = frame(Header::new(Kind::Write, 1).about(100, 50), &[9; 50]);
    let all = [greeting, write].concat();
    for length in 0..all.len() {
        Raw::connect(authority(&url)).bytes(&all[..length]);
    }
    assert_eq!(read(&other, 4096, 0), [7; 4096], "a write that never came whole was applied");
}

#[test]
fn ranges_that_are_huge_or_overflow_fail_their_request_and_not_the_connection() {
    let (_server, url, _memory) = memory_server("region", 1 << 20);
    let mut raw = Raw::welcomed(authority(&url), &hello("region"));
    let huge = [(0, 1 << 60), (0, u64::MAX), (0, (32 << 20) + 1), (1, u64::MAX), (u64::MAX, u64::MAX)];
    let outside = [(u64::MAX, 1), (1 << 20, 1), ((1 << 20) - 1, 2), (1 << 63, 4096)];
    for (offset, length) in huge {
        raw.send(Header::new(Kind::Read, 5).about(offset, length), &[]);
        assert_eq!(raw.refusal().1.code(), Code::InvalidArgument, "{length} at {offset}");
        raw.send(Header::new(Kind::Zero, 5).about(offset, length), &[]);
        assert_eq!(raw.refusal().1.code(), Code::OutOfRange, "{length} at {offset}");
    }
    for (offset, length) in outside {
        raw.send(Header::new(Kind::Read, 6).about(offset, length), &[]);
        assert_eq!(raw.refusal().1.code(), Code::OutOfRange, "{length} at {offset}");
        raw.send(Header::new(Kind::Write, 6).about(offset, length), &vec![1; length as usize]);
        assert_eq!(raw.refusal().1.code(), Code::OutOfRange, "{length} at {offset}");
    }
    raw.send(Header::new(Kind::Read, 7).about((1 << 20) - 1, 1), &[]);
    assert_eq!(raw.receive().unwrap().0.id, 7);
    assert!(LARGEST.load(Ordering::Relaxed) < MODEST);
}

/// A server that greets every client with these bytes, and answers every frame after that with `answer`.
fn impostor(greeting: Vec<u8>, answer: Vec<u8>) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let thread = std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let mut raw = Raw::over(stream);
            match raw.receive() {
                Some((header, _)) if header.kind == Kind::Hello => raw.bytes(&greeting),
                // The test is over.
                _ => return,
            }
            while raw.receive().is_some() {
                raw.bytes(&answer);
            }
        }
    });
    (address, thread)
}

fn retire((address, thread): (String, JoinHandle<()>)) {
    drop(TcpStream::connect(address));
    thread.join().unwrap();
}

#[test]
fn a_server_that_greets_with_nonsense_is_an_error_and_never_a_region() {
    let greeting = |welcome: &Welcome| frame(Header::new(Kind::Welcome, 0), &welcome.encode());
    let mut cases: Vec<(Code, Vec<u8>)> = nonsense().into_iter().map(|(_, _, bytes)| (Code::Corrupt, bytes)).collect();
    for wrong in [
        Welcome { size: u64::MAX, ..welcome() },
        Welcome { chunk_size: 3, ..welcome() },
        Welcome { chunk_size: 1 << 31, ..welcome() },
        Welcome { alignment: 0, ..welcome() },
        Welcome { max_request: 0, ..welcome() },
        Welcome { max_request: u32::MAX, ..welcome() },
        Welcome { version: 2, ..welcome() },
        Welcome { features: 1, ..welcome() },
    ] {
        cases.push((Code::Corrupt, greeting(&wrong)));
    }
    for (code, bytes) in cases {
        let impostor = impostor(bytes, Vec::new());
        let error = open(&format!("r3map://{}/region", impostor.0)).err().expect("a region was opened");
        assert!(error.code() == code || error.code() == Code::Unsupported, "{error:?}");
        retire(impostor);
    }
    assert!(LARGEST.load(Ordering::Relaxed) < MODEST);
}

#[test]
fn a_server_that_answers_with_nonsense_fails_the_request_by_its_deadline() {
    let greeting = frame(Header::new(Kind::Welcome, 0), &welcome().encode());
    let data = |id, length: usize| frame(Header::new(Kind::Data, id).about(0, length as u64), &pattern(length, 1));
    let done = Header::new(Kind::Done, 1).encode().to_vec();
    let answers = [data(1, 99), data(1, 101), data(77, 100), done, data(1, 100)[..100].to_vec(), vec![0xff; 48]];
    for (case, answer) in answers.into_iter().enumerate() {
        let impostor = impostor(greeting.clone(), answer);
        let backend = open(&format!("r3map://{}/region", impostor.0)).unwrap();
        let operation = Operation::Read { offset: 0, buffer: Buffer::new(100) };
        let waiter = submit(&backend, operation, Priority::Demand, Duration::from_millis(200));
        let error = wait(waiter).err().expect("nonsense was taken for bytes");
        let codes = [Code::Corrupt, Code::Timeout, Code::Disconnected];
        assert!(codes.contains(&error.code()), "case {case}: {error:?}");
        drop(backend);
        retire(impostor);
    }
}
