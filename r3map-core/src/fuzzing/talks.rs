//! Whole conversations: this side of one is the real thing on a real socket, and the other says what the bytes are.

use std::io::{ErrorKind, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::{MsgFlags, send};

use super::{choose, frames};
use crate::backend::memory::Memory;
use crate::backend::remote::Remote;
use crate::backend::{self, Backend, BackendOptions, Completion, Operation, Priority, Request};
use crate::buffer::Buffer;
use crate::cancel::deadline_in;
use crate::error::Result;
use crate::migration::seeder::SeedOptions;
use crate::mount::Mount;
use crate::server::{ExportOptions, Protocol, Server, ServerOptions};

/// Bytes of the region that is spoken of.
const SIZE: u64 = 64 << 10;
/// What nothing here takes unless it hangs.
const HANGS: Duration = Duration::from_secs(60);
/// The most messages of a peer: it waits before each.
const MOST_MESSAGES: usize = 32;
/// How long a peer waits for the other side, which may be waiting for it.
const SILENCE: Duration = Duration::from_millis(20);
/// How often it is looked whether something is over.
const MOMENT: Duration = Duration::from_millis(1);

/// Says all of the bytes; whoever does not listen any more misses the rest.
fn say(socket: &UnixStream, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match send(socket.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL) {
            Ok(count) => bytes = &bytes[count..],
            Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

/// Listens until the other side ends.
fn hear_out(socket: &mut UnixStream) {
    socket.set_read_timeout(Some(HANGS)).unwrap();
    let mut heard = vec![0; 64 << 10];
    loop {
        match socket.read(&mut heard) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("the connection does not end"),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

fn memory() -> Arc<dyn Backend> {
    Arc::new(Memory::new(SIZE).unwrap())
}

fn server(protocol: Protocol) -> Server {
    Server::new(ServerOptions { protocol, deadline: HANGS, ..ServerOptions::default() }).unwrap()
}

/// A server hears the bytes, then no more; it has to end the connection, and to close.
fn talk_to(server: &Server, bytes: &[u8]) {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    server.handle(OwnedFd::from(theirs)).unwrap();
    say(&ours, bytes);
    let _ = ours.shutdown(std::net::Shutdown::Write);
    hear_out(&mut ours);
    drop(ours);
    server.close().unwrap();
}

fn talk_about_a_region(protocol: Protocol, bytes: &[u8]) {
    let server = server(protocol);
    server.export("region", memory(), &ExportOptions::default()).unwrap();
    talk_to(&server, bytes);
}

/// Frames of a client, whose checksums are put right where the first byte is odd.
fn as_frames(bytes: &[u8]) -> Option<Vec<u8>> {
    let (choice, rest) = choose(bytes)?;
    Some(if choice & 1 == 1 { frames(rest) } else { rest.to_vec() })
}

pub fn native_server(bytes: &[u8]) {
    if let Some(bytes) = as_frames(bytes) {
        talk_about_a_region(Protocol::R3map, &bytes);
    }
}

/// A source of a migration, whose app stops as soon as it is asked to.
pub fn native_seeder(bytes: &[u8]) {
    let Some(bytes) = as_frames(bytes) else { return };
    let server = server(Protocol::R3map);
    let mount = Mount::open(memory(), Mount::options()).unwrap();
    let seeder = Arc::new(server.seed("region", &mount, &SeedOptions::default()).unwrap());
    let app = std::thread::spawn({
        let seeder = seeder.clone();
        move || {
            let mut after = 0;
            while let Ok(event) = seeder.next(after, HANGS) {
                after = event.sequence;
                if event.state == crate::SeedState::Suspending {
                    // It may have thought better of it already.
                    let _ = seeder.suspended(event.sequence, b"payload");
                }
            }
        }
    });
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    server.handle(OwnedFd::from(theirs)).unwrap();
    say(&ours, &bytes);
    let _ = ours.shutdown(std::net::Shutdown::Write);
    hear_out(&mut ours);
    drop(ours);
    // Where the region was given away somebody may still wait for bytes of it.
    let _ = seeder.abandon();
    let _ = seeder.close();
    app.join().unwrap();
    drop(mount);
    drop(server);
}

pub fn nbd_server(bytes: &[u8]) {
    talk_about_a_region(Protocol::Nbd, bytes);
}

#[cfg(feature = "frpc")]
pub fn frpc_server(bytes: &[u8]) {
    talk_about_a_region(Protocol::Frpc, bytes);
}

#[cfg(feature = "panrpc")]
pub fn panrpc_server(bytes: &[u8]) {
    talk_about_a_region(Protocol::Panrpc, bytes);
}

/// The messages that the bytes are, each behind its length.
fn messages(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut messages = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let (message, rest) = rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len()));
        messages.push(message);
        bytes = rest;
    }
    messages.retain(|message| !message.is_empty());
    messages.truncate(MOST_MESSAGES);
    messages
}

/// The other side of a client: what it says, and whether it speaks first.
struct Script {
    messages: Vec<Vec<u8>>,
    speaks_first: bool,
}

impl Script {
    fn of(bytes: &[u8], speaks_first: bool) -> Script {
        Script { messages: messages(bytes).into_iter().map(<[u8]>::to_vec).collect(), speaks_first }
    }

    /// Says a message whenever something was heard, or nothing is, and at last ends.
    fn play(&self, mut socket: UnixStream) {
        socket.set_read_timeout(Some(SILENCE)).unwrap();
        let mut heard = vec![0; 64 << 10];
        for (index, message) in self.messages.iter().enumerate() {
            if index > 0 || !self.speaks_first {
                let _ = socket.read(&mut heard);
            }
            say(&socket, message);
        }
        let _ = socket.shutdown(std::net::Shutdown::Write);
        hear_out(&mut socket);
    }
}

/// A client of a server that says these messages.
pub fn native_client(bytes: &[u8]) {
    let Some((choice, rest)) = choose(bytes) else { return };
    let mut script = Script::of(rest, false);
    if choice & 1 == 1 {
        script.messages.iter_mut().for_each(|message| *message = frames(message));
    }
    let (ours, theirs) = UnixStream::pair().unwrap();
    let player = std::thread::spawn(move || script.play(theirs));
    if let Ok(remote) = Remote::connect(OwnedFd::from(ours), "region", &BackendOptions::default()) {
        let length = remote.info().size.min(SIZE) as usize;
        let _ = remote.read_at(&mut vec![0; length.min(5000)], 0);
        let _ = remote.write_at(&vec![1; length.min(100)], 0);
        let _ = remote.zero_at(0, length as u64);
        let _ = remote.sync();
        let _ = remote.read_at(&mut vec![0; length], 0);
        let _ = remote.close();
    }
    player.join().unwrap();
}

/// A server that clients reach by the path of its socket. It plays one script, to who comes first.
struct Stage {
    path: PathBuf,
    /// Disconnected once somebody else came: the first was cut off.
    over: Receiver<()>,
    done: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Stage {
    fn set(script: Script) -> Stage {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("r3map-fuzzing-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst));
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let done = Arc::new(AtomicBool::new(false));
        let (tell, over) = channel();
        let thread = std::thread::spawn({
            let done = done.clone();
            move || {
                let (mut first, mut player) = (Some((script, tell)), None);
                for socket in listener.incoming() {
                    let socket = socket.unwrap();
                    match first.take() {
                        _ if done.load(Ordering::SeqCst) => break,
                        None => {}
                        Some((script, tell)) => {
                            player = Some((std::thread::spawn(move || script.play(socket)), tell));
                            continue;
                        }
                    }
                    player = player.map(|(player, _)| (player, channel().0));
                }
                player.into_iter().for_each(|(player, _)| player.join().unwrap());
            }
        });
        Stage { path, over, done, thread }
    }

    fn is_over(&self) -> bool {
        self.over.try_recv() == Err(TryRecvError::Disconnected)
    }

    /// To be called when no client is left.
    fn strike(self) {
        self.done.store(true, Ordering::SeqCst);
        drop(UnixStream::connect(&self.path));
        self.thread.join().unwrap();
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A client of NBD, whose server speaks first.
pub fn nbd_client(bytes: &[u8]) {
    let stage = Stage::set(Script::of(bytes, true));
    let url = format!("nbd+unix:///region?socket={}", stage.path.display());
    if let Ok(client) = backend::open(&url, &BackendOptions::default()) {
        ask_all(&client, &stage);
        let _ = client.close();
    }
    stage.strike();
}

/// Asks one thing after another, until the client is cut off: then it would only ask for it again.
fn ask_all(client: &Arc<dyn Backend>, stage: &Stage) {
    let length = client.info().size.min(SIZE);
    for operation in [
        Operation::Read { offset: 0, buffer: Buffer::new(length.min(5000) as usize) },
        Operation::Write { offset: 0, data: Buffer::zeroed(length.min(100) as usize) },
        Operation::Zero { offset: 0, length },
        Operation::Sync,
    ] {
        let (tell, told) = channel();
        let completion = Completion::new(move |outcome| {
            let _ = tell.send(outcome.is_ok());
        });
        let request = Request { operation, priority: Priority::Demand, deadline: deadline_in(HANGS), completion };
        client.clone().submit(request);
        while matches!(told.recv_timeout(MOMENT), Err(RecvTimeoutError::Timeout)) {
            if stage.is_over() {
                return;
            }
        }
    }
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| drop(client.extents(0, length, 10)));
        while !asking.is_finished() && !stage.is_over() {
            std::thread::sleep(MOMENT);
        }
        let _ = client.close();
    });
}

/// A client of one of the Go library's protocols, which asks for a byte when it is opened.
#[cfg(any(feature = "grpc", feature = "frpc", feature = "panrpc"))]
fn talk_by(scheme: &str, script: Script) {
    let stage = Stage::set(script);
    let url = format!("{scheme}+unix://{}?size={SIZE}", stage.path.display());
    let _ = backend::open(&url, &BackendOptions::default());
    stage.strike();
}

#[cfg(feature = "frpc")]
pub fn frpc_client(bytes: &[u8]) {
    talk_by("frpc", Script::of(bytes, false));
}

#[cfg(feature = "panrpc")]
pub fn panrpc_client(bytes: &[u8]) {
    talk_by("panrpc", Script::of(bytes, false));
}

/// A frame of HTTP/2.
#[cfg(feature = "grpc")]
fn http2(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = (payload.len() as u32).to_be_bytes();
    [&length[..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Headers of HTTP/2 in their plainest form.
#[cfg(feature = "grpc")]
fn headers(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in pairs {
        bytes.push(0);
        for text in [name, value] {
            bytes.push(text.len() as u8);
            bytes.extend(text.as_bytes());
        }
    }
    bytes
}

/// Requests whose messages, as frames of HTTP/2, are what the bytes are, each behind its length. The first byte says
/// what is called; where its highest bit is set the bytes are a connection as it is.
#[cfg(feature = "grpc")]
pub fn grpc_server(bytes: &[u8]) {
    let Some((choice, rest)) = choose(bytes) else { return };
    let mut said = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    said.extend(http2(4, 0, 0, &[]));
    if choice & 0x80 != 0 {
        said.extend(rest);
        return talk_about_a_region(Protocol::Grpc, &said);
    }
    for (index, message) in messages(rest).into_iter().enumerate().take(16) {
        let stream = 2 * index as u32 + 1;
        let method = ["ReadAt", "WriteAt", "Sync", "Other"][(usize::from(choice) + index) % 4];
        let path = format!("/com.pojtinger.felicitas.r3map.mount.v1.Backend/{method}");
        let head = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", &path),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ];
        said.extend(http2(1, 4, stream, &headers(&head)));
        // In two pieces, so that a message may be cut anywhere.
        let (one, two) = message.split_at(message.len().min(usize::from(choice >> 2)));
        said.extend(http2(0, 0, stream, one));
        said.extend(http2(0, 1, stream, two));
    }
    talk_about_a_region(Protocol::Grpc, &said);
}

/// An answer whose message is what the bytes are; the first says what stands behind it.
#[cfg(feature = "grpc")]
pub fn grpc_client(bytes: &[u8]) {
    let Some((choice, rest)) = choose(bytes) else { return };
    let rest = &rest[..rest.len().min(16 << 10)];
    let greeting = http2(4, 0, 0, &[]);
    if choice & 0x80 != 0 {
        return talk_by("grpc", Script { messages: vec![[greeting, rest.to_vec()].concat()], speaks_first: false });
    }
    let mut answer = [greeting, http2(4, 1, 0, &[])].concat();
    answer.extend(http2(1, 4, 1, &headers(&[(":status", "200"), ("content-type", "application/grpc")])));
    answer.extend(http2(0, 0, 1, rest));
    let text: String = rest.iter().take(64).map(|byte| char::from(byte & 0x7f)).collect();
    let status = (choice & 0x1f).to_string();
    answer.extend(http2(1, 5, 1, &headers(&[("grpc-status", &status), ("grpc-message", &text)])));
    talk_by("grpc", Script { messages: vec![answer], speaks_first: false });
}

/// What a peer of TLS shows: an authority, and certificates of both sides by it.
#[cfg(feature = "tls")]
fn certificates() -> &'static PathBuf {
    use std::sync::OnceLock;
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let place = std::env::temp_dir().join(format!("r3map-fuzzing-tls-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&place);
        crate::tls::make::keygen(&place, &["localhost".to_owned()], "client").unwrap();
        place
    })
}

/// Begins TLS with a peer that says the bytes and no more, which ends in an error.
#[cfg(feature = "tls")]
fn begin_tls(bytes: &[u8], begin: impl FnOnce(&crate::wire::channel::Channel) -> Result<()>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    say(&ours, bytes);
    let _ = ours.shutdown(std::net::Shutdown::Write);
    let channel = crate::wire::channel::Channel::new(theirs.into(), HANGS).unwrap();
    assert!(begin(&channel).is_err(), "nobody who only repeats what was said once is known");
}

#[cfg(feature = "tls")]
pub fn tls_server(bytes: &[u8]) {
    use std::sync::OnceLock;

    use crate::tls::{Above, server::ServerTls};
    static TLS: OnceLock<ServerTls> = OnceLock::new();
    let tls = TLS.get_or_init(|| {
        let file = |name: &str| Some(certificates().join(name));
        let credentials = crate::Credentials {
            tls_cert: file("server-cert.pem"),
            tls_key: file("server-key.pem"),
            tls_ca: file("ca-cert.pem"),
            ..crate::Credentials::default()
        };
        ServerTls::new(&credentials, Above::Native).unwrap()
    });
    begin_tls(bytes, |channel| tls.begin(channel, std::time::Instant::now() + HANGS).map(drop));
}

#[cfg(feature = "tls")]
pub fn tls_client(bytes: &[u8]) {
    use std::sync::OnceLock;

    use crate::tls::{Above, client::ClientTls};
    static TLS: OnceLock<ClientTls> = OnceLock::new();
    let tls = TLS.get_or_init(|| {
        let options = BackendOptions { tls_ca: Some(certificates().join("ca-cert.pem")), ..BackendOptions::default() };
        ClientTls::new(&options, "localhost", Above::Native).unwrap()
    });
    begin_tls(bytes, |channel| tls.begin(channel, std::time::Instant::now() + HANGS));
}
