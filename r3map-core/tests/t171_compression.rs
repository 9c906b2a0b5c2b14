//! 171: what is read and written travels as fewer bytes where both sides agree to it, and nothing that was packed wrongly
//! becomes a byte of the region.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;

use r3map_chaos::{Direction, Network};
use r3map_core::backend::memory::Memory;
use r3map_core::backend::{self, Backend, BackendOptions};
use r3map_core::options::Compression;
use r3map_core::wire::compress::{EAGER, FEATURES, FILLS, LZ4, Packing, ZSTD, unpack};
use r3map_core::wire::{HEADER_LENGTH, Header, Hello, Kind, Welcome};
use r3map_core::{Code, ExportOptions, Leecher, Mode, Mount, SeedOptions, Server, ServerOptions};

#[path = "../../tests/skip.rs"]
mod skip;
#[allow(dead_code)]
#[path = "wire/support/mod.rs"]
mod support;

use support::raw::{Raw, hello};
use support::{SOON, authority, network, open, pattern};

const SIZE: usize = 4 << 20;
const ALL: [Compression; 4] = [Compression::Auto, Compression::Off, Compression::Lz4, Compression::Zstd];

/// Made with the command-line tools of lz4 and zstd, and the CRC by hand.
const FILLED: &str = "\
    72336d572000200001000000000000000010000000000000000001000000000001000000000000ff447f5a54cb906643\
    ff";
const BY_LZ4: &str = "\
    72336d572000080002000000000000000000000000000000b0040000000000001a000000333c05d1cd9190bda4c695c8\
    cf72656d6f7465206d6d6170200c00ffffffff90506d6d617020";
const BY_ZSTD: &str = "\
    72336d571100400003000000000000000020000000000000b0040000000000001c00000001dd15bdcd9190bd62a747e3\
    28b52ffd00589d00006072656d6f7465206d6d6170200100a1fc2f49";

/// Bytes that become a sixth or less.
fn words(length: usize, seed: u64) -> Vec<u8> {
    let noise = pattern(length.div_ceil(32), seed);
    noise.iter().flat_map(|byte| std::iter::once(*byte).chain(1..32)).take(length).collect()
}

fn with(compression: Compression) -> BackendOptions {
    BackendOptions { compression, ..BackendOptions::default() }
}

/// A server of such a region behind a network that counts.
struct Served {
    _server: Server,
    bytes: Arc<Memory>,
    address: String,
    network: Network,
}

impl Served {
    fn new(compression: Compression, bytes: &[u8]) -> Served {
        let server = Server::new(ServerOptions { compression, ..ServerOptions::default() }).unwrap();
        let memory = Arc::new(Memory::new(bytes.len() as u64).unwrap());
        memory.write_at(bytes, 0).unwrap();
        server.export("region", memory.clone(), &ExportOptions::default()).unwrap();
        let url = server.listen("127.0.0.1:0").unwrap();
        Served { _server: server, bytes: memory, address: authority(&url).to_owned(), network: network(&url) }
    }

    fn open(&self, compression: Compression) -> Arc<dyn Backend> {
        backend::open(&self.network.url("region"), &with(compression)).unwrap()
    }

    fn assert_is(&self, bytes: &[u8]) {
        let mut there = vec![0; bytes.len()];
        self.bytes.read_at(&mut there, 0).unwrap();
        assert!(there == bytes, "other bytes are at the server");
    }
}

/// Reads all, writes other bytes over all of it; says how many bytes came and how many went by then.
fn read_and_write(served: &Served, client: Compression, old: &[u8], new: &[u8]) -> (u64, u64) {
    let remote = served.open(client);
    let mut got = vec![0; old.len()];
    remote.read_at(&mut got, 0).unwrap();
    assert!(got == old, "other bytes were read");
    let came = served.network.passed(Direction::Down);
    remote.write_at(new, 0).unwrap();
    served.assert_is(new);
    let (sent, received) = remote.traffic().unwrap();
    let went = served.network.passed(Direction::Up);
    // The greeting is not counted, nor what is still in the network's hands.
    assert!(sent <= went && went < sent + 4096 && came < received + 4096, "{sent} {went} {received} {came}");
    (came, went)
}

#[test]
fn bytes_that_shrink_travel_as_fewer_both_ways_and_noise_as_it_is() {
    let size = SIZE as u64;
    for (server, client) in [
        (Compression::Auto, Compression::Lz4),
        (Compression::Auto, Compression::Zstd),
        (Compression::Lz4, Compression::Lz4),
    ] {
        let served = Served::new(server, &words(SIZE, 1));
        let (came, went) = read_and_write(&served, client, &words(SIZE, 1), &words(SIZE, 2));
        assert!(came < size / 2 && went < size / 2, "{client:?}: {came} {went} of {size}");
        let served = Served::new(server, &pattern(SIZE, 3));
        let (came, went) = read_and_write(&served, client, &pattern(SIZE, 3), &pattern(SIZE, 4));
        let most = size + size / 50;
        assert!(came < most && went < most, "{client:?}: {came} {went} of {size} that do not shrink");
    }
    // What only the server is told is about what it sends.
    let served = Served::new(Compression::Zstd, &words(SIZE, 1));
    let (came, went) = read_and_write(&served, Compression::Auto, &words(SIZE, 1), &words(SIZE, 2));
    assert!(came < size / 2 && went >= size, "{came} {went} of {size}");
}

#[test]
fn within_a_host_and_where_one_side_does_not_want_it_bytes_travel_as_they_are_but_for_a_byte_repeated() {
    for (server, client) in [
        (Compression::Auto, Compression::Auto),
        (Compression::Off, Compression::Zstd),
        (Compression::Lz4, Compression::Off),
        (Compression::Lz4, Compression::Zstd),
    ] {
        let served = Served::new(server, &words(SIZE, 1));
        let (came, went) = read_and_write(&served, client, &words(SIZE, 1), &words(SIZE, 2));
        assert!(came >= SIZE as u64 && went >= SIZE as u64, "{server:?} {client:?}: {came} {went}");
        let fills = ![server, client].contains(&Compression::Off);
        let served = Served::new(server, &vec![0xff; SIZE]);
        let (came, went) = read_and_write(&served, client, &vec![0xff; SIZE], &vec![0xaa; SIZE]);
        let is_short = came.max(went) < SIZE as u64 / 100;
        assert_eq!(is_short, fills, "{server:?} {client:?}: {came} {went}");
    }
}

#[test]
fn a_mount_pulls_and_pushes_packed_and_says_how_much_travelled() {
    let served = Served::new(Compression::Auto, &words(SIZE, 1));
    let options = Mount::options().mode(Mode::Managed);
    let mount = options.open_url(&served.network.url("region"), &with(Compression::Lz4)).unwrap();
    let mut got = vec![0; SIZE];
    mount.read_at(&mut got, 0).unwrap();
    assert!(got == words(SIZE, 1));
    mount.write_at(&words(SIZE, 2), 0).unwrap();
    mount.sync().unwrap();
    served.assert_is(&words(SIZE, 2));
    let stats = mount.stats().unwrap();
    for name in ["sent_bytes", "received_bytes"] {
        let travelled = stats.get(name).unwrap();
        assert!((4096..SIZE as u64 / 2).contains(&travelled), "{name}: {travelled}");
    }
    mount.close().unwrap();
}

/// Runs in a network of its own, in which this host is another at 192.0.2.1, 20 MB/s away. Says why that cannot be.
fn far_away(what: impl FnOnce() + Send) -> Result<(), String> {
    let run = |program: &str, arguments: &str| {
        let paths = "/usr/sbin:/sbin:/usr/bin:/bin";
        let done = Command::new(program).args(arguments.split(' ')).env("PATH", paths).output();
        let done = done.map_err(|error| format!("{program}: {error}"))?;
        let complaint = String::from_utf8_lossy(&done.stderr);
        if done.status.success() { Ok(()) } else { Err(format!("{program} {arguments}: {complaint}")) }
    };
    let alone = || {
        // SAFETY: this changes where this thread's sockets live from here on, and those of threads that it starts.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            return Err(format!("a network of its own: {}", std::io::Error::last_os_error()));
        }
        run("ip", "link set lo up mtu 1500")?;
        run("ip", "address add 192.0.2.1/32 dev lo")?;
        run("tc", "qdisc add dev lo root tbf rate 160mbit burst 64kb latency 50ms")?;
        what();
        Ok(())
    };
    std::thread::scope(|scope| scope.spawn(alone).join().unwrap())
}

#[test]
fn over_a_slow_network_bytes_are_packed_both_ways_without_being_told() {
    let outcome = far_away(|| {
        let (old, new) = (words(SIZE, 1), words(SIZE, 2));
        let memory = Arc::new(Memory::new(SIZE as u64).unwrap());
        memory.write_at(&old, 0).unwrap();
        let server = Server::new(ServerOptions { insecure: true, ..ServerOptions::default() }).unwrap();
        server.export("region", memory.clone(), &ExportOptions::default()).unwrap();
        let url = server.listen("192.0.2.1:0").unwrap();
        let options = BackendOptions { insecure: true, ..BackendOptions::default() };
        let remote = backend::open(&format!("{url}/region"), &options).unwrap();
        let mut bytes = vec![0; SIZE];
        // What goes before the network is known goes as it is.
        for piece in bytes.chunks_mut(SIZE / 8).enumerate() {
            remote.read_at(piece.1, (piece.0 * SIZE / 8) as u64).unwrap();
        }
        assert!(bytes == old);
        for piece in new.chunks(SIZE / 8).enumerate() {
            remote.write_at(piece.1, (piece.0 * SIZE / 8) as u64).unwrap();
        }
        memory.read_at(&mut bytes, 0).unwrap();
        assert!(bytes == new);
        let (sent, received) = remote.traffic().unwrap();
        let most = SIZE as u64 * 3 / 4;
        assert!(sent < most && received < most, "{sent} went and {received} came of {SIZE} each");
    });
    if let Err(reason) = outcome {
        skip::skip(reason);
    }
}

#[test]
fn a_region_moves_packed_to_a_host_that_wants_it_so() {
    let source = Mount::options().open_url("memory:?size=4MiB", &BackendOptions::default()).unwrap();
    source.write_at(&words(SIZE, 5), 0).unwrap();
    let seeder = source.seed("127.0.0.1:0", &SeedOptions::default()).unwrap();
    for compression in [Compression::Off, Compression::Zstd] {
        let leecher = Leecher::open(seeder.url().unwrap(), "memory:", Mount::options(), &with(compression)).unwrap();
        leecher.wait_local(1.0, SOON).unwrap();
        let stats = leecher.stats().unwrap();
        let received = stats.get("received_bytes").unwrap();
        assert_eq!(received < SIZE as u64 / 2, compression == Compression::Zstd, "{compression:?}: {received}");
        assert_eq!(stats.get("pulled_bytes"), Some(SIZE as u64));
        leecher.close().unwrap();
    }
    seeder.close().unwrap();
    source.close().unwrap();
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn packed_frames_are_the_golden_ones_and_unknown_where_they_were_not_agreed_on() {
    let text = b"remote mmap ".repeat(100);
    for (golden, packing, kind, id, offset, plain) in [
        (FILLED, Packing::Fill, Kind::Data, 1, 4096, &vec![0xff; 65536]),
        (BY_LZ4, Packing::Lz4, Kind::Data, 2, 0, &text),
        (BY_ZSTD, Packing::Zstd, Kind::Write, 3, 8192, &text),
    ] {
        let golden = bytes(golden);
        let (header, payload) = golden.split_first_chunk::<HEADER_LENGTH>().unwrap();
        let crcs = (crc32c::crc32c(payload), crc32c::crc32c(plain));
        let about = Header::new(kind, id).about(offset, plain.len() as u64);
        let expected = about.with_packed(packing, payload.len(), crcs.0, crcs.1);
        assert_eq!(Header::decode_agreed(header, packing.feature()).unwrap(), expected);
        assert_eq!(expected.encode(), *header);
        assert_eq!(expected.packing(), Some(packing));
        let mut unpacked = vec![0; plain.len()];
        unpack(packing, payload, &mut unpacked, expected.unpacked_crc).unwrap();
        assert!(unpacked == *plain);
        for features in [0, 1, FEATURES & !packing.feature()] {
            assert_eq!(Header::decode_agreed(header, features).unwrap_err().code(), Code::Unsupported);
        }
        assert_eq!(Header::decode(header).unwrap_err().code(), Code::Unsupported);
    }
}

#[test]
fn the_header_of_a_packed_frame_that_makes_no_sense_is_refused_before_its_payload() {
    let about = |length| Header::new(Kind::Write, 1).about(0, length);
    let wrong = [
        ("longer than any request", about((32 << 20) + 1).with_packed(Packing::Lz4, 100, 0, 0)),
        ("longer than all", about(u64::MAX).with_packed(Packing::Zstd, 100, 0, 0)),
        ("no shorter", about(100).with_packed(Packing::Lz4, 100, 0, 0)),
        ("nothing", about(100).with_packed(Packing::Zstd, 0, 0, 0)),
        ("two bytes for one", about(100).with_packed(Packing::Fill, 2, 0, 0)),
        ("two ways", about(100).with_packed(Packing::Lz4, 1, 0, 0).with_flags(Packing::flags(LZ4 | FILLS))),
    ];
    for (what, header) in wrong {
        assert_eq!(Header::decode_agreed(&header.encode(), FEATURES).unwrap_err().code(), Code::Corrupt, "{what}");
    }
    let read = Header::new(Kind::Read, 1).about(0, 100).with_flags(Packing::Lz4.flag());
    assert_eq!(Header::decode_agreed(&read.encode(), FEATURES).unwrap_err().code(), Code::Unsupported);
}

/// A frame of zstd, by hand: so many blocks of 128 KiB that are one byte repeated.
fn bomb(blocks: u32) -> Vec<u8> {
    let mut bytes = vec![0x28, 0xb5, 0x2f, 0xfd, 0xa0];
    bytes.extend((blocks << 17).to_le_bytes());
    for block in 1..=blocks {
        let header = u32::from(block == blocks) | 1 << 1 | (1 << 17) << 3;
        bytes.extend(&header.to_le_bytes()[..3]);
        bytes.push(b'x');
    }
    bytes
}

/// A write whose checksums are right, whatever it says.
fn packed_write(packing: Packing, length: u64, payload: &[u8], crc: u32) -> Vec<u8> {
    let header = Header::new(Kind::Write, 1).about(0, length);
    let header = header.with_packed(packing, payload.len(), crc32c::crc32c(payload), crc);
    [&header.encode()[..], payload].concat()
}

/// A client that agreed to all of it.
fn agreed(address: &str, generation: u64) -> Raw {
    let mut raw = Raw::connect(address);
    raw.hello(&Hello { features: FEATURES, generation, ..hello("region") });
    let (header, payload) = raw.receive().unwrap();
    assert_eq!(header.kind, Kind::Welcome);
    assert_eq!(Welcome::decode(&payload).unwrap().features, FEATURES);
    raw
}

#[test]
fn bombs_and_damage_end_the_connection_as_corrupt_and_change_nothing() {
    let region = words(1 << 20, 1);
    let served = Served::new(Compression::Auto, &region);
    let right = crc32c::crc32c(&vec![b'x'; 128 << 10]);
    let one = bomb(1);
    let mut generation = 0;
    let mut refused = |bytes: &[u8]| {
        generation += 1;
        let mut raw = agreed(&served.address, generation);
        raw.bytes(bytes);
        raw.expect_end(Code::Corrupt);
        served.assert_is(&region);
    };
    // A bomb
    refused(&packed_write(Packing::Zstd, 128 << 10, &bomb(1024), right));
    // A bomb of lz4
    refused(&packed_write(Packing::Lz4, 4096, &[&[0x1f, b'x', 1, 0][..], &[255; 2000]].concat(), right));
    // Too few bytes
    refused(&packed_write(Packing::Zstd, (128 << 10) + 1, &one, right));
    // Other bytes than were packed
    refused(&packed_write(Packing::Zstd, 128 << 10, &one, !right));
    // A frame cut short
    refused(&packed_write(Packing::Zstd, 128 << 10, &one[..one.len() - 1], right));
    // Two frames
    refused(&packed_write(Packing::Zstd, 256 << 10, &[&one[..], &one].concat(), right));
    // Noise
    refused(&packed_write(Packing::Lz4, 4096, &pattern(1000, 9), right));
    // Another byte
    refused(&packed_write(Packing::Fill, 4096, b"y", crc32c::crc32c(&[b'x'; 4096])));
    let mut damaged = packed_write(Packing::Zstd, 128 << 10, &one, right);
    *damaged.last_mut().unwrap() ^= 1;
    // A payload damaged on its way
    refused(&damaged);
    // A bomb of the right length is just a write; one outside is refused and the connection goes on.
    let mut raw = agreed(&served.address, 100);
    let header = Header::new(Kind::Write, 7).about(1 << 20, 128 << 10);
    raw.bytes(&header.with_packed(Packing::Zstd, one.len(), crc32c::crc32c(&one), right).encode());
    raw.bytes(&one);
    assert_eq!(raw.refusal().1.code(), Code::OutOfRange);
    raw.bytes(&packed_write(Packing::Zstd, 128 << 10, &one, right));
    assert_eq!(raw.receive().unwrap().0.kind, Kind::Done);
    served.assert_is(&[&vec![b'x'; 128 << 10][..], &region[128 << 10..]].concat());
}

#[test]
fn a_packed_write_that_ends_anywhere_is_none() {
    let region = words(1 << 20, 1);
    let served = Served::new(Compression::Auto, &region);
    let (one, crc) = (bomb(1), crc32c::crc32c(&vec![b'x'; 128 << 10]));
    let write = packed_write(Packing::Zstd, 128 << 10, &one, crc);
    for length in 0..write.len() {
        agreed(&served.address, length as u64 + 1).bytes(&write[..length]);
    }
    drop(agreed(&served.address, 1000));
    served.assert_is(&region);
}

#[test]
fn an_old_client_and_an_old_server_see_the_protocol_as_it_was() {
    // A client that knows no feature, at a server that packs all it can.
    let region = words(1 << 20, 1);
    let served = Served::new(Compression::Lz4, &region);
    let mut raw = Raw::connect(&served.address);
    raw.hello(&hello("region"));
    let (_, payload) = raw.receive().unwrap();
    assert_eq!(Welcome::decode(&payload).unwrap().features, 0);
    raw.send(Header::new(Kind::Read, 1).about(0, 65536), &[]);
    let (header, payload) = raw.receive().unwrap();
    assert_eq!((header.flags, &payload[..]), (0, &region[..65536]));
    let packed = packed_write(Packing::Fill, 4096, b"y", crc32c::crc32c(&[b'y'; 4096]));
    raw.bytes(&packed);
    raw.expect_end(Code::Unsupported);
    served.assert_is(&region);

    // A server that knows none.
    let (listener, address) = listener();
    let server = std::thread::spawn(move || {
        let mut raw = welcome(&listener, 0);
        let (header, payload) = request(&mut raw);
        raw.send(Header::new(Kind::Done, header.id), &[]);
        (header.kind, header.flags, payload)
    });
    let remote = backend::open(&format!("r3map://{address}/region"), &with(Compression::Lz4)).unwrap();
    remote.write_at(&region[..65536], 0).unwrap();
    let (kind, flags, payload) = server.join().unwrap();
    assert_eq!((kind, flags, &payload[..]), (Kind::Write, 0, &region[..65536]));
}

fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

/// Takes a connection as a server would that uses these features.
fn welcome(listener: &TcpListener, features: u64) -> Raw {
    let mut raw = Raw::over(listener.accept().unwrap().0);
    let (header, payload) = raw.receive().unwrap();
    assert_eq!(header.kind, Kind::Hello);
    let offered = Hello::decode(&payload).unwrap().features;
    assert_eq!(offered & features, features, "the client did not offer it");
    let welcome = Welcome { features, ..support::raw::welcome() };
    raw.send(Header::new(Kind::Welcome, 0), &welcome.encode());
    raw
}

/// The next frame that is no question how far it is.
fn request(raw: &mut Raw) -> (Header, Vec<u8>) {
    loop {
        let (header, payload) = raw.receive().unwrap();
        if (header.kind, header.length) != (Kind::Read, 0) {
            return (header, payload);
        }
        raw.send(Header::new(Kind::Data, header.id).with_flags(1), &[]);
    }
}

/// Answers the next read with this.
fn answer(raw: &mut Raw, packing: Packing, payload: &[u8], crc: u32) {
    let (asked, _) = request(raw);
    let header = Header::new(Kind::Data, asked.id).about(asked.offset, asked.length);
    raw.bytes(&header.with_packed(packing, payload.len(), crc32c::crc32c(payload), crc).encode());
    raw.bytes(payload);
}

#[test]
fn an_answer_that_does_not_unpack_to_what_was_asked_for_is_asked_for_again() {
    let (listener, address) = listener();
    let crc = crc32c::crc32c(&vec![b'x'; 128 << 10]);
    let server = std::thread::spawn(move || {
        for (packing, payload, crc) in [
            (Packing::Zstd, bomb(1024), crc),
            (Packing::Zstd, bomb(1)[..10].to_vec(), crc),
            (Packing::Zstd, bomb(1), !crc),
            (Packing::Lz4, pattern(1000, 1), crc),
        ] {
            let mut raw = welcome(&listener, LZ4 | ZSTD);
            answer(&mut raw, packing, &payload, crc);
            // The client hangs up.
            while raw.receive().is_some() {}
        }
        let mut raw = welcome(&listener, ZSTD);
        answer(&mut raw, Packing::Zstd, &bomb(1), crc);
        raw
    });
    let remote = open_auto(&address);
    let mut got = vec![0; 128 << 10];
    remote.read_at(&mut got, 0).unwrap();
    assert!(got.iter().all(|byte| *byte == b'x'));
    drop(server.join().unwrap());
}

fn open_auto(address: &str) -> Arc<dyn Backend> {
    open(&format!("r3map://{address}/region")).unwrap()
}

#[test]
fn a_server_that_uses_what_was_not_offered_is_refused() {
    let (listener, address) = listener();
    let server = std::thread::spawn(move || {
        let (mut stream, _): (TcpStream, _) = listener.accept().unwrap();
        let mut hello = [0; HEADER_LENGTH];
        stream.read_exact(&mut hello).unwrap();
        let welcome = Welcome { features: EAGER, ..support::raw::welcome() };
        let payload = welcome.encode();
        let header = Header::new(Kind::Welcome, 0).with_payload(&payload);
        stream.write_all(&[&header.encode()[..], &payload].concat()).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let error = open(&format!("r3map://{address}/region")).err().unwrap();
    assert_eq!(error.code(), Code::Corrupt, "{error}");
    server.join().unwrap();
}

#[test]
fn the_option_is_known_by_its_words_and_refused_where_it_means_nothing() {
    let words = ["auto", "off", "lz4", "zstd"];
    assert_eq!(words.map(|word| word.parse::<Compression>().unwrap()), ALL);
    let error = "lzip".parse::<Compression>().unwrap_err();
    assert_eq!(error.message(), "unknown value \"lzip\"; did you mean \"lz4\"?");
    let error = backend::open("nbd://127.0.0.1:1/x", &with(Compression::Lz4)).err().unwrap();
    assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    let protocol = r3map_core::Protocol::Nbd;
    let options = ServerOptions { protocol, compression: Compression::Zstd, ..ServerOptions::default() };
    assert_eq!(Server::new(options).err().unwrap().code(), Code::Unsupported);
}
