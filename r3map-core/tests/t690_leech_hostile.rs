//! 690: a source that says nonsense, or what nobody asked, is hung up on, and nothing of it becomes a region.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use r3map_core::migration::{Message, Moved};
use r3map_core::wire::greeting::Moving;
use r3map_core::wire::header::ZEROES;
use r3map_core::wire::{HEADER_LENGTH, Header, Kind, Welcome};
use r3map_core::{BackendOptions, Code, LeechState, Leecher};

mod leeching;
mod seeding;

use leeching::{code, options};
use seeding::SOON;

const PAGES: u64 = 256;
const REGION: Moved = Moved { identity: [7; 16], size: PAGES * 4096, epoch: 1 };
const SESSION: [u8; 16] = [9; 16];

/// A source of zeros that greets and tracks as it should, and answers ROUND with `dirty`.
struct Impostor {
    address: String,
    ended: Arc<AtomicBool>,
    /// Connections that the leecher made.
    connections: Arc<AtomicUsize>,
    /// Sets of pages that it was told.
    told: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

impl Impostor {
    fn start(dirty: Vec<u8>) -> Impostor {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (ended, connections, told) = <(Arc<AtomicBool>, Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let thread = std::thread::spawn({
            let (ended, connections, told) = (ended.clone(), connections.clone(), told.clone());
            move || {
                let mut threads = Vec::new();
                for stream in listener.incoming() {
                    if ended.load(Ordering::SeqCst) {
                        break;
                    }
                    connections.fetch_add(1, Ordering::SeqCst);
                    let (dirty, told) = (dirty.clone(), told.clone());
                    threads.push(std::thread::spawn(move || drop(serve(stream.unwrap(), &dirty, &told))));
                }
                threads.into_iter().for_each(|thread| thread.join().unwrap());
            }
        });
        Impostor { address, ended, connections, told, thread }
    }

    fn retire(self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(&self.address);
        self.thread.join().unwrap();
    }
}

fn say(stream: &mut TcpStream, header: Header, payload: &[u8]) -> std::io::Result<()> {
    stream.write_all(&[&header.with_payload(payload).encode()[..], payload].concat())
}

fn serve(mut stream: TcpStream, dirty: &[u8], told: &AtomicUsize) -> std::io::Result<()> {
    let welcome = Welcome {
        version: 1,
        features: 0,
        written: None,
        moving: Some(Moving { epoch: REGION.epoch, parts: vec![REGION.size] }),
        size: REGION.size,
        read_only: true,
        chunk_size: 256 << 10,
        alignment: 1,
        max_request: 32 << 20,
        identity: REGION.identity,
        keeper: [1; 16],
    };
    loop {
        let mut header = [0; HEADER_LENGTH];
        stream.read_exact(&mut header)?;
        let header = Header::decode_migrating(&header).unwrap();
        let mut payload = vec![0; header.payload as usize];
        stream.read_exact(&mut payload)?;
        match header.kind {
            Kind::Hello => say(&mut stream, Header::new(Kind::Welcome, 0), &welcome.encode())?,
            Kind::Track => {
                let Ok(Message::Track { attempt, .. }) = Message::decode(Kind::Track, &payload, PAGES) else {
                    panic!("a leecher says nonsense");
                };
                let tracking = Message::Tracking { attempt, session: SESSION, region: REGION };
                let (header, payload) = tracking.encode();
                say(&mut stream, header, &payload)?;
            }
            Kind::Read => {
                let mut zeroes = Header::new(Kind::Data, header.id).about(header.offset, header.length);
                zeroes.flags |= ZEROES;
                say(&mut stream, zeroes, &[])?;
            }
            Kind::Round => {
                told.fetch_add(1, Ordering::SeqCst);
                say(&mut stream, Header::new(Kind::Dirty, 0), dirty)?;
            }
            // Whatever else is asked for is not given.
            _ => {}
        }
    }
}

/// A DIRTY of the first round with this set of pages, of that length by its own word.
fn dirty(length: u32, set: &[u8]) -> Vec<u8> {
    [&SESSION[..], &1u64.to_le_bytes(), &length.to_le_bytes(), set].concat()
}

/// A number of seven bits a byte.
fn number(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 0x7F {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn set(numbers: &[u64]) -> Vec<u8> {
    let set: Vec<u8> = numbers.iter().flat_map(|value| number(*value)).collect();
    dirty(set.len() as u32, &set)
}

#[test]
fn a_source_that_says_nonsense_of_what_is_dirty_is_hung_up_on_and_gives_nothing() {
    // A set that is right, so that the others are refused for what is wrong with them.
    let impostor = Impostor::start(set(&[1, 3, 2]));
    let leecher = leech(&impostor);
    until(|| leecher.stats().unwrap().get("rounds") == Some(1));
    leecher.close().unwrap();
    drop(leecher);
    impostor.retire();
    for (what, dirty) in [
        ("2^60 runs", set(&[1 << 60, 0, 1])),
        ("a run without pages", set(&[1, 3, 0])),
        ("a page that stands there twice", set(&[2, 3, 2, 0, 2])),
        ("a run past the end", set(&[1, PAGES - 1, 2])),
        ("a run that overflows", set(&[1, u64::MAX, u64::MAX])),
        ("a number of eleven bytes", dirty(12, &[1, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1])),
        ("a length of 4 GiB", dirty(u32::MAX, &[1, 3, 2])),
        ("no length", SESSION.to_vec()),
    ] {
        let impostor = Impostor::start(dirty);
        let leecher = leech(&impostor);
        // Told it hangs up, and comes back, for a source may be mended.
        until(|| impostor.told.load(Ordering::SeqCst) >= 2 && impostor.connections.load(Ordering::SeqCst) >= 3);
        assert_eq!(leecher.stats().unwrap().get("rounds"), Some(0), "{what}");
        assert!(matches!(leecher.state().unwrap(), LeechState::Pulling | LeechState::Connecting), "{what}");
        assert_eq!(code(leecher.finalize().map(drop)), Code::Timeout, "{what}");
        drop(leecher);
        impostor.retire();
    }
}

fn leech(impostor: &Impostor) -> Leecher {
    let url = format!("r3map://{}/region", impostor.address);
    let options = options().deadline(Duration::from_millis(300));
    Leecher::open(&url, "memory:", options, &BackendOptions::default()).unwrap()
}

fn until(done: impl Fn() -> bool) {
    let end = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < end, "it does not come about");
        std::thread::sleep(Duration::from_millis(5));
    }
}
