//! 131: NBD peers that mean harm or speak nonsense: a typed refusal, nothing allocated for their sake, and everybody
//! else served as before.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use r3map_core::backend::memory::Memory;
use r3map_core::cancel::Limit;
use r3map_core::wire::nbd::handshake::{self, ALLOCATION, Ask, Queries, infos, options, replies};
use r3map_core::wire::nbd::{Chunk, Command, Request, chunks, flags, reply};
use r3map_core::{Backend, Code, Result, backend};

mod peers;

use peers::{Ours, Random, SOON, all, open, pattern, refused};

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
const SIZE: usize = 1 << 20;

fn ours() -> (Ours, Arc<dyn Backend>) {
    let memory: Arc<dyn Backend> = Arc::new(Memory::new(SIZE as u64).unwrap());
    memory.write_at(&pattern(SIZE, 1), 0).unwrap();
    (Ours::new(memory.clone()), memory)
}

fn connect(ours: &Ours) -> TcpStream {
    let place = ours.tcp.strip_prefix("nbd://").unwrap().strip_suffix("/region").unwrap();
    let stream = TcpStream::connect(place).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(peers::SOON)).unwrap();
    stream
}

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    [&handshake::option_head(number, data.len())[..], data].concat()
}

fn go() -> Vec<u8> {
    let flags = [0, 0, 0, 3];
    [&flags[..], &option(options::GO, &Ask { export: "region", infos: vec![] }.encode())].concat()
}

fn request(command: Option<Command>, offset: u64, length: u32) -> Vec<u8> {
    Request { command, flags: 0, cookie: *b"hostile!", offset, length }.encode().to_vec()
}

/// All that the server says until it ends the connection.
fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return bytes,
            Ok(count) => bytes.extend(&piece[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return bytes,
            Err(error) => panic!("the server keeps the connection: {error}"),
        }
    }
}

#[test]
fn nonsense_ends_the_connection_and_nothing_is_allocated_for_it() {
    let (ours, _memory) = ours();
    let other = open(&ours.unix).unwrap();
    let long = |number, length: usize| handshake::option_head(number, length).to_vec();
    let with_flags = |bytes: Vec<u8>| [vec![0, 0, 0, 3], bytes].concat();
    let nonsense: Vec<(&str, Vec<u8>)> = vec![
        ("unknown flags", vec![0x80, 0, 0, 3]),
        ("another protocol", b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n".to_vec()),
        ("an option with a wrong magic", with_flags(vec![b'x'; 16])),
        ("an option of 4 GiB", with_flags(long(options::GO, u32::MAX as usize))),
        ("an unknown export by the old option", with_flags(option(options::EXPORT_NAME, b"regoin"))),
        ("a name that is no text by the old option", with_flags(option(options::EXPORT_NAME, &[0xff; 10]))),
        ("a request with a wrong magic", [go(), vec![0x25; 28]].concat()),
        ("a write of 4 GiB", [go(), request(Some(Command::Write), 0, u32::MAX)].concat()),
        ("a write of 32 MiB and one", [go(), request(Some(Command::Write), 0, (32 << 20) + 1)].concat()),
    ];
    for (what, bytes) in nonsense {
        let mut stream = connect(&ours);
        stream.write_all(&bytes).unwrap();
        rest(&mut stream);
        assert!(all(&other) == pattern(SIZE, 1), "{what}");
    }
    assert!(LARGEST.load(Ordering::Relaxed) < MODEST);
}

#[test]
fn options_that_make_no_sense_are_refused_and_the_next_is_answered() {
    let (ours, _memory) = ours();
    let queries = |queries: &[&'static str]| Queries { export: "region", queries: queries.to_vec() }.encode();
    let refusals: Vec<(&str, u32, u32, Vec<u8>)> = vec![
        ("an unknown option", 4242, replies::UNSUPPORTED, b"what?".to_vec()),
        ("TLS", options::STARTTLS, replies::UNSUPPORTED, vec![]),
        ("a list with data", options::LIST, replies::INVALID, vec![1]),
        ("structured replies with data", options::STRUCTURED_REPLY, replies::INVALID, vec![1]),
        ("metadata before structured replies", options::SET_META_CONTEXT, replies::INVALID, queries(&[ALLOCATION])),
        ("a name longer than its option", options::INFO, replies::INVALID, b"\xff\xff\xff\xffregion\0\0".to_vec()),
        ("a name that is no text", options::GO, replies::INVALID, b"\0\0\0\x01\xff\0\0".to_vec()),
        ("a name with NUL", options::GO, replies::INVALID, b"\0\0\0\x03a\0b\0\0".to_vec()),
        ("another export", options::INFO, replies::UNKNOWN, Ask { export: "../region", infos: vec![] }.encode()),
        ("an option of 100 KB", options::INFO, replies::TOO_BIG, vec![0; 100_000]),
    ];
    let mut stream = connect(&ours);
    stream.read_exact(&mut [0; 18]).unwrap();
    stream.write_all(&[0, 0, 0, 3]).unwrap();
    for (what, number, expected, data) in refusals {
        stream.write_all(&option(number, &data)).unwrap();
        let mut head = [0; 20];
        stream.read_exact(&mut head).unwrap();
        let word = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
        assert_eq!((word(8), word(12)), (number, expected), "{what}");
        let mut message = vec![0; word(16) as usize];
        stream.read_exact(&mut message).unwrap();
        assert!(!message.is_empty(), "{what}");
    }
    stream.write_all(&option(options::ABORT, &[])).unwrap();
    assert_eq!(rest(&mut stream), handshake::reply_head(options::ABORT, replies::ACK, 0));
}

#[test]
fn a_connection_that_ends_after_any_byte_harms_nobody() {
    let (ours, memory) = ours();
    let before = pattern(SIZE, 1);
    let all_of_it = [go(), request(Some(Command::Write), 100, 50), vec![9; 50]].concat();
    for length in 0..all_of_it.len() {
        connect(&ours).write_all(&all_of_it[..length]).unwrap();
    }
    assert!(all(&open(&ours.unix).unwrap()) == before);
    let mut stream = connect(&ours);
    stream.write_all(&[all_of_it, request(Some(Command::Disconnect), 0, 0)].concat()).unwrap();
    rest(&mut stream);
    assert_eq!(all(&memory)[100..150], [9; 50]);
}

#[test]
fn random_bytes_after_any_good_beginning_never_stop_the_server() {
    let (ours, _memory) = ours();
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let good = [
        [&[0, 0, 0, 3][..], &option(options::STRUCTURED_REPLY, &[])].concat(),
        [go(), request(Some(Command::Read), 0, 4096), request(Some(Command::BlockStatus), 0, 4096)].concat(),
        [go(), request(None, 0, 4096), request(Some(Command::Cache), u64::MAX, 4096)].concat(),
    ];
    for round in 0..300 {
        let mut bytes = good[round % good.len()].clone();
        let length = bytes.len() as u64;
        for _ in 0..random.below(5) {
            let at = random.below(length) as usize;
            bytes[at] = random.next() as u8;
        }
        bytes.extend((0..random.below(200)).map(|_| random.next() as u8));
        let mut stream = connect(&ours);
        // The server may have ended it by then.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        rest(&mut stream);
    }
    assert_eq!(open(&ours.unix).unwrap().info().size, SIZE as u64);
    ours.server.close().unwrap();
}

/// A server that says these bytes to each client, one after another, having read so much before each.
fn says(script: Vec<(usize, Vec<u8>)>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            for (length, bytes) in &script {
                if stream.read_exact(&mut vec![0; *length]).is_err() || stream.write_all(bytes).is_err() {
                    break;
                }
            }
            let _ = stream.shutdown(std::net::Shutdown::Write);
        }
    });
    format!("nbd://{place}/region")
}

fn answer(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    [&handshake::reply_head(option, kind, data.len())[..], data].concat()
}

const GREETING: &[u8] = b"NBDMAGICIHAVEOPT\0\x03";
/// Bytes of a client's flags and first option, and of the two that follow if structured replies are refused or not.
const FIRST: usize = 4 + 16;
const GO: usize = 16 + 4 + 6 + 2 + 2;
const META: usize = 16 + 4 + 6 + 4 + 4 + 15;

fn export(size: u64, flags: u16) -> Vec<u8> {
    let data = [&infos::EXPORT.to_be_bytes()[..], &size.to_be_bytes(), &flags.to_be_bytes()].concat();
    answer(options::GO, replies::INFO, &data)
}

#[test]
fn a_server_that_speaks_nonsense_is_refused_with_a_reason() {
    let refuse = || answer(options::STRUCTURED_REPLY, replies::UNSUPPORTED, &[]);
    let go = |bytes: Vec<u8>| says(vec![(0, GREETING.to_vec()), (FIRST, refuse()), (GO, bytes)]);
    let endless = handshake::reply_head(options::STRUCTURED_REPLY, replies::ACK, u32::MAX as usize).to_vec();
    let sizes = |least: u32, most: u32| {
        let data = [&infos::BLOCK_SIZE.to_be_bytes()[..], &[least, 4096, most].map(u32::to_be_bytes).concat()].concat();
        let sizes = answer(options::GO, replies::INFO, &data);
        [export(4096, flags::HAS_FLAGS), sizes, answer(options::GO, replies::ACK, &[])].concat()
    };
    let huge = [export(u64::MAX, flags::HAS_FLAGS), answer(options::GO, replies::ACK, &[])].concat();
    let no_flags = [export(4096, 0), answer(options::GO, replies::ACK, &[])].concat();
    for (what, code, url) in [
        ("nothing", Code::Disconnected, says(vec![])),
        ("another protocol", Code::Unsupported, says(vec![(0, b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec())])),
        ("a wrong magic", Code::Corrupt, says(vec![(0, b"NBDMAGICIHAVEOPX\0\x03".to_vec())])),
        ("another answer", Code::Corrupt, says(vec![(0, GREETING.to_vec()), (FIRST, answer(99, 1, &[]))])),
        ("an answer of 4 GiB", Code::Corrupt, says(vec![(0, GREETING.to_vec()), (FIRST, endless)])),
        ("no size", Code::Corrupt, go(answer(options::GO, replies::ACK, &[]))),
        ("an info that is cut short", Code::InvalidArgument, go(answer(options::GO, replies::INFO, &[0]))),
        ("16 EiB", Code::Corrupt, go(huge)),
        ("no flags", Code::Corrupt, go(no_flags)),
        ("blocks of no bytes", Code::Corrupt, go(sizes(0, 65536))),
        ("blocks of 3 bytes", Code::Corrupt, go(sizes(3, 65536))),
        ("blocks larger than requests", Code::Corrupt, go(sizes(4096, 512))),
        ("an end in the middle", Code::Disconnected, go(export(4096, 1)[..25].to_vec())),
        ("TLS", Code::Unsupported, go(answer(options::GO, replies::TLS_REQUIRED, b"tls first"))),
        ("a policy", Code::PermissionDenied, go(answer(options::GO, replies::POLICY, b"not you"))),
    ] {
        let error = refused(&url);
        assert_eq!(error.code(), code, "{what}: {error}");
    }
    assert!(LARGEST.load(Ordering::Relaxed) < MODEST);
}

/// A server that answers a request of any client so, and what comes of a read of 4096 bytes at 8192.
fn answered(structured: bool, bytes: Vec<u8>, patience: Duration) -> Result<Vec<u8>> {
    let acknowledge = answer(options::GO, replies::ACK, &[]);
    let go = [export(1 << 20, flags::HAS_FLAGS), acknowledge].concat();
    let script = if structured {
        let context = [&7_u32.to_be_bytes()[..], ALLOCATION.as_bytes()].concat();
        let set = options::SET_META_CONTEXT;
        vec![
            (0, GREETING.to_vec()),
            (FIRST, answer(options::STRUCTURED_REPLY, replies::ACK, &[])),
            (META, [answer(set, replies::META_CONTEXT, &context), answer(set, replies::ACK, &[])].concat()),
            (GO, go),
            (28, bytes),
        ]
    } else {
        let refuse = answer(options::STRUCTURED_REPLY, replies::UNSUPPORTED, &[]);
        vec![(0, GREETING.to_vec()), (FIRST, refuse), (GO, go), (28, bytes)]
    };
    let backend = open(&says(script))?;
    let mut buffer = vec![0xEE; 4096];
    backend::read(&backend, &mut buffer, 8192, &Limit::within(patience)).map(|()| buffer)
}

fn chunk(done: bool, kind: u16, content: &[u8]) -> Vec<u8> {
    let head = Chunk { done, kind, cookie: 1_u64.to_be_bytes(), length: content.len() as u32 };
    [&head.encode()[..], content].concat()
}

fn data(done: bool, offset: u64, bytes: &[u8]) -> Vec<u8> {
    chunk(done, chunks::OFFSET_DATA, &[&offset.to_be_bytes(), bytes].concat())
}

fn hole(done: bool, offset: u64, length: u32) -> Vec<u8> {
    chunk(done, chunks::OFFSET_HOLE, &[&offset.to_be_bytes()[..], &length.to_be_bytes()].concat())
}

#[test]
fn the_pieces_of_a_read_are_put_together_whatever_their_order() {
    let pieces = [data(false, 11264, &[3; 1024]), hole(false, 8192, 2048), data(true, 10240, &[2; 1024])].concat();
    let expected = [&[0; 2048][..], &[2; 1024], &[3; 1024]].concat();
    assert!(answered(true, pieces, SOON).unwrap() == expected);
    assert!(answered(true, hole(true, 8192, 4096), SOON).unwrap() == [0; 4096]);
    assert!(answered(false, [&reply(1_u64.to_be_bytes(), 0)[..], &[5; 4096]].concat(), SOON).unwrap() == [5; 4096]);
    let failed = chunk(true, chunks::ERROR_OFFSET, b"\0\0\0\x05\0\x04disk\0\0\0\0\0\0\x20\0");
    let error = answered(true, [data(false, 8192, &[1; 10]), failed].concat(), SOON).unwrap_err();
    assert_eq!(error.code(), Code::Io);
    assert!(error.message().contains("disk"), "{error}");
}

#[test]
fn replies_that_lie_never_pass_for_bytes() {
    let huge = Chunk { done: true, kind: chunks::OFFSET_DATA, cookie: 1_u64.to_be_bytes(), length: u32::MAX };
    for (what, bytes) in [
        ("some of the bytes", data(true, 8192, &[1; 4095])),
        ("none of the bytes", chunk(true, chunks::NONE, &[])),
        ("the same bytes twice", [data(false, 8192, &[1; 100]), data(true, 8200, &[1; 100])].concat()),
        ("bytes before", data(true, 8191, &[1; 100])),
        ("bytes behind", data(true, 12288, &[1; 100])),
        ("too many bytes", data(true, 8192, &[1; 4097])),
        ("a hole too long", hole(true, 8192, u32::MAX)),
        ("a hole of nothing", hole(true, 8192, 0)),
        ("4 GiB", huge.encode().to_vec()),
        ("block status", chunk(true, chunks::BLOCK_STATUS, &[0; 12])),
        ("an error that is none", chunk(true, chunks::ERROR, &[0; 6])),
        ("an error that is cut", chunk(true, chunks::ERROR, &[0, 0, 0, 5, 0, 9])),
        ("an unknown kind", chunk(true, 77, &[])),
        ("a reply without chunks", [&reply(1_u64.to_be_bytes(), 0)[..], &[1; 4096]].concat()),
        ("another protocol", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
    ] {
        let error = answered(true, bytes, Duration::from_millis(300)).unwrap_err();
        // Most end the connection, after which there is none that answers.
        let codes = [Code::Corrupt, Code::Timeout, Code::Disconnected];
        assert!(codes.contains(&error.code()), "{what}: {error:?}");
    }
    assert!(
        answered(false, data(true, 8192, &[1; 4096]), Duration::from_millis(300)).is_err(),
        "chunks that were not agreed to"
    );
    assert!(LARGEST.load(Ordering::Relaxed) < MODEST);
}
