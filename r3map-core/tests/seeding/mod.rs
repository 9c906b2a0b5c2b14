//! What the tests of seeders share: a destination that says what a test wants said, and places for regions.

#![allow(dead_code)] // No test file uses all of it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use r3map_core::migration::{Dirty, Message, Moved, Runs, Vote};
use r3map_core::wire::{HEADER_LENGTH, Header, Hello, Kind, Welcome, greeting};
use r3map_core::{BackendOptions, Error, Mount, Result, SeedEvent, SeedOptions, SeedState, Seeder};

/// Far more than anything here takes, and far less than for ever.
pub const SOON: Duration = Duration::from_secs(20);

/// A directory that is gone when dropped.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new() -> Directory {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("r3map-seeding-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn url(&self, name: &str) -> String {
        format!("file://{}", self.file(name).display())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn mount(url: &str) -> Mount {
    Mount::options().open_url(url, &BackendOptions::default()).unwrap()
}

pub fn seed(mount: &Mount) -> Seeder {
    mount.seed("127.0.0.1:0", &SeedOptions::default()).unwrap()
}

/// The next events of a seeder, which must be these; the last of them.
pub fn expect(seeder: &Seeder, after: &mut u64, states: &[SeedState]) -> SeedEvent {
    let mut last = None;
    for state in states {
        let event = seeder.next(*after, SOON).unwrap();
        assert_eq!((event.sequence, event.state), (*after + 1, *state), "{event:?}");
        *after += 1;
        last = Some(event);
    }
    last.expect("states to wait for")
}

/// The other side, as a leecher would be that does only what it is told.
pub struct Taker {
    stream: Box<dyn Stream>,
    pub welcome: Welcome,
    /// Of the welcome.
    pub region: Moved,
    next: u64,
    /// Taken into account.
    pub rounds: u64,
}

trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

pub fn hello(name: &str, client: u8) -> Hello {
    Hello {
        versions: (1, 1),
        features: 0,
        session: Some([0; 16]),
        client: [client; 16],
        generation: 1,
        role: 0,
        write: false,
        export: name.to_owned(),
        display: "test".to_owned(),
    }
}

fn authority(seeder: &Seeder) -> (String, String) {
    let url = seeder.url().unwrap().strip_prefix("r3map://").unwrap();
    let (authority, name) = url.split_once('/').unwrap();
    (authority.to_owned(), name.to_owned())
}

impl Taker {
    /// Connects to a seeder that listens by itself.
    pub fn connect(seeder: &Seeder, client: u8) -> Taker {
        let (_, name) = authority(seeder);
        Taker::greet(seeder, &hello(&name, client)).unwrap()
    }

    /// The same with a greeting of the test's.
    pub fn greet(seeder: &Seeder, hello: &Hello) -> Result<Taker> {
        let stream = TcpStream::connect(authority(seeder).0).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.set_nodelay(true).unwrap();
        Taker::over(Box::new(stream), hello)
    }

    /// Says this before any greeting, and is refused.
    pub fn first(seeder: &Seeder, header: Header, payload: &[u8]) -> Error {
        let mut stream = TcpStream::connect(authority(seeder).0).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        send(&mut stream, header, payload);
        let (header, payload) = receive(&mut stream).expect("the connection ended without a word");
        assert!(header.kind == Kind::Error && receive(&mut stream).is_none());
        greeting::decode_error(&header, &payload)
    }

    /// Speaks on one end of a pair of sockets; the other end is returned.
    pub fn pair() -> (UnixStream, OwnedFd) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(SOON)).unwrap();
        (ours, theirs.into())
    }

    /// Greets on a connection there is.
    pub fn on(stream: UnixStream, hello: &Hello) -> Result<Taker> {
        Taker::over(Box::new(stream), hello)
    }

    fn over(mut stream: Box<dyn Stream>, hello: &Hello) -> Result<Taker> {
        send(&mut *stream, Header::new(Kind::Hello, 0), &hello.encode());
        let (header, payload) = receive(&mut *stream).expect("the connection ended without a word");
        if header.kind == Kind::Error {
            return Err(greeting::decode_error(&header, &payload));
        }
        assert_eq!(header.kind, Kind::Welcome);
        let welcome = Welcome::decode(&payload).unwrap();
        let epoch = welcome.moving.as_ref().map_or(0, |moving| moving.epoch);
        let region = Moved { identity: welcome.identity, size: welcome.size, epoch };
        Ok(Taker { stream, welcome, region, next: 0, rounds: 0 })
    }

    pub fn send(&mut self, header: Header, payload: &[u8]) {
        send(&mut *self.stream, header, payload);
    }

    /// The next frame, or `None` at the end.
    pub fn receive(&mut self) -> Option<(Header, Vec<u8>)> {
        receive(&mut *self.stream)
    }

    pub fn say(&mut self, message: &Message) {
        let (header, payload) = message.encode();
        self.send(header, &payload);
    }

    /// The next message.
    pub fn hear(&mut self) -> Message {
        let (header, payload) = self.receive().expect("the connection ended");
        Message::decode(header.kind, &payload, self.region.pages()).unwrap()
    }

    pub fn ask(&mut self, message: &Message) -> Message {
        self.say(message);
        self.hear()
    }

    /// Begins a session.
    pub fn track(&mut self, attempt: u8) -> [u8; 16] {
        let track = Message::Track { attempt: [attempt; 16], region: self.region };
        match self.ask(&track) {
            Message::Tracking { attempt: answered, session, region } => {
                assert_eq!((answered, region), ([attempt; 16], self.region));
                session
            }
            other => panic!("{other:?}"),
        }
    }

    /// The pages of the next round.
    pub fn round(&mut self, session: [u8; 16], acknowledged: u64) -> Runs {
        match self.ask(&Message::Round { session, acknowledged }) {
            Message::Dirty { session: of, round, pages } => {
                assert_eq!((of, round), (session, acknowledged + 1));
                self.rounds = acknowledged;
                pages
            }
            other => panic!("{other:?}"),
        }
    }

    pub fn request(&mut self, kind: Kind, offset: u64, length: u64) -> Result<(Header, Vec<u8>), Error> {
        self.next += 1;
        self.send(Header::new(kind, self.next).about(offset, length), &[]);
        let (header, payload) = self.receive().expect("the connection ended");
        assert_eq!(header.id, self.next);
        if header.kind == Kind::Error { Err(greeting::decode_error(&header, &payload)) } else { Ok((header, payload)) }
    }

    pub fn read(&mut self, offset: u64, length: usize) -> Result<Vec<u8>> {
        let (header, payload) = self.request(Kind::Read, offset, length as u64)?;
        assert_eq!(header.kind, Kind::Data);
        Ok(if header.flags & r3map_core::wire::header::ZEROES != 0 { vec![0; length] } else { payload })
    }

    /// All the bytes of the region.
    pub fn read_all(&mut self) -> Vec<u8> {
        let (size, step) = (self.region.size, 1 << 20);
        let parts = (0..size).step_by(step).map(|at| self.read(at, step.min((size - at) as usize)).unwrap());
        parts.collect::<Vec<_>>().concat()
    }

    /// Reads those pages anew.
    pub fn refresh(&mut self, bytes: &mut [u8], pages: &Runs) {
        for run in pages.iter() {
            let end = (run.end as usize * 4096).min(bytes.len());
            let start = run.start as usize * 4096;
            let fresh = self.read(start as u64, end - start).unwrap();
            bytes[start..end].copy_from_slice(&fresh);
        }
    }

    pub fn vote(&self, session: [u8; 16]) -> Vote {
        Vote { session, epoch: self.region.epoch + 1, ballot: 1 }
    }

    /// Asks for the region.
    pub fn finalize(&mut self, vote: Vote, acknowledged: u64) {
        assert_eq!(self.ask(&Message::Finalize { vote, acknowledged }), Message::Pending { vote });
    }

    /// The region, once it is given: what is dirty and what the app handed over.
    pub fn given(&mut self) -> (Dirty, Vec<u8>) {
        match self.hear() {
            Message::Given { dirty, payload, .. } => (dirty, payload),
            other => panic!("{other:?}"),
        }
    }
}

fn send(stream: &mut dyn Stream, header: Header, payload: &[u8]) {
    // A peer that has hung up already is what some tests wait for.
    let _ = stream.write_all(&[&header.with_payload(payload).encode()[..], payload].concat());
}

fn receive(stream: &mut dyn Stream) -> Option<(Header, Vec<u8>)> {
    let mut header = [0; HEADER_LENGTH];
    stream.read_exact(&mut header).ok()?;
    let header = Header::decode_migrating(&header).unwrap();
    let mut payload = vec![0; header.payload as usize];
    stream.read_exact(&mut payload).unwrap();
    assert_eq!(header, header.with_payload(&payload), "the checksum is wrong");
    Some((header, payload))
}

/// Bytes that differ from place to place and from seed to seed.
pub fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = vec![0; length];
    for byte in &mut bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = state as u8;
    }
    bytes
}
