//! What the connections of one client have in common: who it is, which region it saw first, and what the
//! server holds that is not durable.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use once_cell::sync::OnceCell;

use super::leech::{Heard, Leech};
use super::link::{Asked, Body};
use crate::backend::link::{self, Absence, Connected, Link, Links};
use crate::backend::{Completion, Info, Operation, Priority, Reply, Request};
use crate::buffer::{Buffer, is_zero};
use crate::cancel::{Limit, Waiter};
use crate::error::{Code, Error, Result};
use crate::thread::Process;
use crate::tls::client::ClientTls;
use crate::wire::channel::{Channel, Packet, Payload};
use crate::wire::incoming::Incoming;
use crate::wire::socket::{self, Address};
use crate::wire::{self, Header, Hello, Identity, Kind, Welcome, greeting};

/// How long connecting and the greeting may take.
const GREETING_TIME: Duration = Duration::from_secs(10);
/// How long a server may take to take the lease back.
const RELEASE_TIME: Duration = Duration::from_secs(1);
/// More requests at once than this fill no network the server's answers do not fill already.
const CONCURRENCY: u32 = 64;

/// How a server is reached.
pub enum Route {
    /// At an address, as often as needed.
    Address(Way),
    /// Over one connection that somebody else made.
    Descriptor(OwnedFd),
}

/// Where a server is, and how safely it is reached.
#[derive(Clone)]
pub struct Way {
    /// Where.
    pub address: Address,
    /// Whether TCP to another host is allowed: it is encrypted, or was asked for in plain.
    pub insecure: bool,
    /// How TLS begins, where it does.
    pub tls: Option<ClientTls>,
}

/// A client of one export.
pub struct Client {
    process: Process,
    /// Where to connect again; `None` where there is one connection only.
    pub(super) way: Option<Way>,
    hello: Hello,
    pub(super) info: Info,
    identity: Identity,
    /// Of a client to which the region is to be moved.
    pub(super) leech: Option<Leech>,
    kept: Mutex<Kept>,
    /// Whether this client has the writer's lease, as far as it knows.
    writer: AtomicBool,
    pub(super) links: Links<Client>,
    closed: OnceCell<()>,
}

/// What the server acknowledged and where it stands.
struct Kept {
    /// Who keeps what was acknowledged and not synced.
    keeper: Identity,
    /// How many writes were acknowledged.
    acknowledged: u64,
    /// How many of those were so before a sync that worked.
    synced: u64,
    /// Set when the keeper of writes that were not synced is gone: every later sync says so.
    lost: Option<Error>,
}

impl Client {
    /// Connects, greets, and starts the threads. A client that leeches a region it knows starts also while the
    /// server is away.
    pub fn start(url: &str, route: Route, export: &str, leech: Option<Leech>) -> Result<Arc<Client>> {
        let hello = Hello {
            versions: (wire::OLDEST_VERSION, wire::NEWEST_VERSION),
            features: 0,
            session: leech.as_ref().map(Leech::session),
            client: socket::random()?,
            generation: 1,
            role: 0,
            write: false,
            export: export.to_owned(),
            display: display(),
        };
        let deadline = Instant::now() + GREETING_TIME;
        let (socket, way) = match route {
            Route::Descriptor(socket) => (Ok(socket), None),
            Route::Address(way) => (socket::connect(&way.address, way.insecure, deadline), Some(way)),
        };
        let greeted = socket.and_then(|socket| {
            let tls = way.as_ref().and_then(|way| way.tls.as_ref());
            let (connected, welcome) = greet(socket, &hello, tls, deadline)?;
            Ok((Some(connected), welcome?))
        });
        let known = leech.as_ref().and_then(Leech::known).filter(|_| way.is_some());
        let (connected, welcome) = match (greeted, known) {
            (Ok((_, welcome)), Some(known)) if !known.is_of(&welcome) => {
                return Err(changed(url, &welcome, known.size));
            }
            (Err(error), Some(known)) => {
                tracing::info!(backend = url, %error, "the source is away");
                (None, known.welcome(wire::NEWEST_VERSION))
            }
            (greeted, _) => greeted?,
        };
        if let (Some(leech), Some(moving)) = (&leech, &welcome.moving) {
            leech.greeted(moving);
        }
        let info = Info {
            local: false,
            read_only: welcome.read_only,
            chunk_size: welcome.chunk_size,
            alignment: welcome.alignment,
            max_request: welcome.max_request,
            concurrency: CONCURRENCY,
            identity: Some(welcome.identity),
            managed_by_default: true,
            ..Info::local(url, welcome.size)
        };
        let roles = if way.is_some() { 2 } else { 1 };
        let client = Arc::new(Client {
            process: Process::current(),
            way,
            hello,
            info,
            identity: welcome.identity,
            leech,
            kept: Mutex::new(Kept { keeper: welcome.keeper, acknowledged: 0, synced: 0, lost: None }),
            writer: AtomicBool::new(false),
            links: Links::new(roles),
            closed: OnceCell::new(),
        });
        Links::start(&client, connected)?;
        Ok(client)
    }

    /// What it is besides where a region is to be moved here.
    pub fn leech(&self) -> Option<&Leech> {
        self.leech.as_ref()
    }

    /// Tells whoever drives a migration, whose connection the first one is.
    pub(super) fn tell(&self, role: u16, heard: Heard) {
        if let Some(leech) = self.leech.as_ref().filter(|_| role == 0) {
            leech.hear(heard);
        }
    }

    /// Makes connections that were greeted in another session anew.
    pub fn greet_again(&self) {
        self.links.bulk().iter().for_each(|link| link.cut());
    }

    /// Sends a request on its way.
    pub fn submit(self: &Arc<Self>, request: Request) {
        let Request { operation, priority, deadline, completion } = request;
        if let Err(error) = link::check(self.process, &self.info, &operation) {
            return completion.complete(Err(error));
        }
        let link = match &operation {
            Operation::Sync => self.links.first(),
            _ => self.link(priority),
        };
        let (header, body) = match operation {
            Operation::Read { buffer, .. } if buffer.is_empty() => return completion.complete(Ok(Reply::Data(buffer))),
            Operation::Write { data, .. } if data.is_empty() => return completion.complete(Ok(Reply::Done)),
            Operation::Zero { length: 0, .. } => return completion.complete(Ok(Reply::Done)),
            Operation::Read { offset, buffer } => {
                (Header::new(Kind::Read, 0).about(offset, buffer.len() as u64), Body::Read(Some(buffer)))
            }
            Operation::Write { offset, data } if is_zero(&data) => {
                (Header::new(Kind::Zero, 0).about(offset, data.len() as u64), Body::Change(None))
            }
            Operation::Write { offset, data } => {
                let header = Header::new(Kind::Write, 0).about(offset, data.len() as u64).with_payload(&data);
                (header, Body::Change(Some(Arc::new(data))))
            }
            Operation::Zero { offset, length } => {
                (Header::new(Kind::Zero, 0).about(offset, length), Body::Change(None))
            }
            Operation::Sync => (Header::new(Kind::Sync, 0), Body::Sync { covers: self.kept().acknowledged }),
        };
        link.submit(self, Asked { header, body }, deadline, completion);
    }

    fn link(&self, priority: Priority) -> &Arc<Link<Client>> {
        match (priority, self.links.bulk()) {
            (Priority::Bulk, [link, ..]) => link,
            _ => self.links.first(),
        }
    }

    /// Asks for the hashes of a range, which begins at a whole block.
    pub fn digest(
        self: &Arc<Self>,
        offset: u64,
        length: u64,
        priority: Priority,
        travel: (Option<Instant>, Completion),
    ) {
        let (deadline, completion) = travel;
        let header = Header::new(Kind::Digest, 0).about(offset, length);
        self.link(priority).submit(self, Asked { header, body: Body::Digest }, deadline, completion);
    }

    /// Asks for the writer's lease.
    pub fn claim(self: &Arc<Self>, deadline: Option<Instant>, completion: Completion) {
        let header = Header::new(Kind::Claim, 0);
        self.links.first().submit(self, Asked { header, body: Body::Claim }, deadline, completion);
    }

    /// Connects again for a link.
    pub(super) fn connect_again(&self, role: u16, generation: u64) -> std::result::Result<Connected, Absence> {
        let Some(Way { address, insecure, tls }) = &self.way else {
            return Err(Absence::Away(Error::new(Code::Disconnected, "there is no address to connect to again")));
        };
        let deadline = Instant::now() + GREETING_TIME;
        let write = self.writer.load(Ordering::SeqCst);
        let session = self.leech.as_ref().map(Leech::session);
        let hello = Hello { generation, role, write, session, ..self.hello.clone() };
        let socket = socket::connect(address, *insecure, deadline).map_err(|error| match error.code() {
            Code::PermissionDenied => Absence::Refused(error),
            _ => Absence::Away(error),
        })?;
        let greeted = greet(socket, &hello, tls.as_ref(), deadline).map_err(|error| match error.code() {
            Code::InvalidArgument | Code::Unsupported | Code::NotAuthenticated => Absence::Refused(error),
            _ => Absence::Away(error),
        });
        let (connected, welcome) = greeted?;
        let welcome = welcome.map_err(|error| match error.code() {
            Code::InvalidArgument | Code::NotFound | Code::PermissionDenied => Absence::Refused(error),
            Code::Unsupported | Code::NotAuthenticated => Absence::Refused(error),
            _ => Absence::Away(error),
        })?;
        self.recognize(&welcome).map_err(Absence::Changed)?;
        if let (Some(leech), Some(moving)) = (&self.leech, &welcome.moving) {
            leech.greeted(moving);
        }
        Ok(connected)
    }

    /// Makes sure that the region is the one that was opened, and notices a keeper that is gone.
    fn recognize(&self, welcome: &Welcome) -> Result<()> {
        let parts = self.leech.as_ref().and_then(Leech::parts);
        let same_parts = parts.is_none_or(|parts| welcome.moving.as_ref().is_some_and(|now| now.parts == parts));
        if welcome.size != self.info.size || welcome.identity != self.identity || !same_parts {
            return Err(changed(&self.info.name, welcome, self.info.size));
        }
        self.kept().now_with(welcome.keeper, &self.info.name);
        Ok(())
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Takes down that the server acknowledged this, or says why it is worth nothing.
    pub fn acknowledged(&self, body: &Body) -> Result<()> {
        let mut kept = self.kept();
        match body {
            Body::Read(_) | Body::Digest => {}
            Body::Change(_) => {
                kept.acknowledged += 1;
                self.writer.store(true, Ordering::SeqCst);
            }
            Body::Claim => self.writer.store(true, Ordering::SeqCst),
            Body::Release => self.writer.store(false, Ordering::SeqCst),
            Body::Sync { covers } => match &kept.lost {
                Some(lost) => return Err(lost.clone()),
                None => kept.synced = kept.synced.max(*covers),
            },
        }
        Ok(())
    }

    /// Takes down that the server made all it acknowledged durable before it closed.
    pub fn server_synced(&self) {
        let mut kept = self.kept();
        kept.synced = kept.acknowledged;
    }

    /// Ends everything with `closed`; fails so itself if that was done before.
    pub fn close(self: &Arc<Self>) -> Result<()> {
        let error = Error::new(Code::Closed, format!("{} is closed", self.info.name));
        if !self.process.is_current() || self.closed.set(()).is_err() {
            return Err(error);
        }
        self.release();
        link::end(&**self, &error);
        Ok(())
    }

    /// Gives the lease back, so that whoever mounts next finds it free. A server that is away learns it from
    /// the connection that ended.
    pub fn release(self: &Arc<Self>) {
        if !self.writer.load(Ordering::SeqCst) || !self.process.is_current() {
            return;
        }
        let (waiter, notifier) = Waiter::new();
        let limit = Limit::within(RELEASE_TIME);
        let completion = Completion::new(move |outcome| notifier.notify(outcome));
        let asked = Asked { header: Header::new(Kind::Release, 0), body: Body::Release };
        self.links.first().submit(self, asked, limit.deadline, completion);
        if let Ok(Err(error)) | Err(error) = waiter.wait(&limit, "give the writer's lease back") {
            tracing::debug!(%error, "the lease was not given back");
        }
    }
}

impl Kept {
    fn now_with(&mut self, keeper: Identity, name: &str) {
        if keeper == self.keeper {
            return;
        }
        self.keeper = keeper;
        if self.acknowledged > self.synced && self.lost.is_none() {
            let message = format!(
                "{name}: the server was restarted and may have lost {} writes that it acknowledged and nobody synced",
                self.acknowledged - self.synced
            );
            let lost = Error::new(Code::Io, message);
            tracing::error!(error = %lost, "acknowledged writes may be lost");
            self.lost = Some(lost);
        }
    }
}

/// The error of a server that shows another region than the one that was opened, of `size` bytes.
fn changed(name: &str, welcome: &Welcome, size: u64) -> Error {
    let what = match welcome.size {
        now if now != size => format!("{now} bytes instead of {size}"),
        _ => "another identity".to_owned(),
    };
    let message = format!("{name}: the server now shows another region, with {what}: open it anew");
    Error::new(Code::Corrupt, message)
}

/// Says HELLO and takes the answer: a WELCOME, or the error with which the server refuses. With TLS it is begun first,
/// and the token said only inside.
fn greet(
    socket: OwnedFd,
    hello: &Hello,
    tls: Option<&ClientTls>,
    deadline: Instant,
) -> Result<(Connected, Result<Welcome>)> {
    let channel = Arc::new(Channel::new(socket, Duration::ZERO)?);
    if let Some(tls) = tls {
        tls.begin(&channel, deadline)?;
        if let Some(token) = tls.token() {
            let payload = Payload::Owned(Buffer::copy_of(token.as_bytes()));
            channel.send(Packet::new(Header::new(Kind::Token, 0), payload))?;
        }
    }
    let mut incoming = Incoming::new();
    let payload = Payload::Owned(Buffer::copy_of(&hello.encode()));
    // The send may meet a refusal that is on its way already: what the server says counts.
    let sent = channel.send(Packet::new(Header::new(Kind::Hello, 0), payload));
    let header = match incoming.header(&channel, Some(deadline), GREETING_TIME) {
        Ok(Some(header)) => header,
        Ok(None) => {
            sent?;
            return Err(Error::new(Code::Disconnected, "the server closed the connection without a word"));
        }
        Err(error) if error.code() == Code::NotAuthenticated => return Err(error),
        Err(error) => return Err(sent.err().unwrap_or(error).context("greet the server")),
    };
    let mut payload = Buffer::new(header.payload as usize);
    incoming.payload(&channel, &header, &mut payload)?;
    let welcome = match header.kind {
        Kind::Welcome => Welcome::decode(&payload)?,
        Kind::Error => return Ok((Connected { channel, incoming }, Err(greeting::decode_error(&header, &payload)))),
        other => return Err(Error::new(Code::Corrupt, format!("the server answered a HELLO with {other:?}"))),
    };
    let offered = welcome.moving.is_none() || hello.session.is_some();
    if !(wire::OLDEST_VERSION..=wire::NEWEST_VERSION).contains(&welcome.version) || welcome.features != 0 || !offered {
        return Err(Error::new(Code::Corrupt, "the server chose a version or feature that was not offered"));
    }
    match welcome.moving {
        Some(_) => incoming.migrate(),
        None if hello.session.is_some() => {
            let message = "it is exported and not being seeded: mount it, or have its owner seed it";
            return Ok((Connected { channel, incoming }, Err(Error::new(Code::Unsupported, message))));
        }
        None => {}
    }
    Ok((Connected { channel, incoming }, Ok(welcome)))
}

/// Who this is, for the people at the server: program, process and host.
fn display() -> String {
    let program = std::env::current_exe().ok();
    let program = program.as_deref().and_then(|path| path.file_name()).unwrap_or_default().to_string_lossy();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let display = format!("{program}[{}]@{}", std::process::id(), host.trim());
    display.chars().filter(|letter| letter.is_ascii_graphic()).take(wire::MAX_NAME).collect()
}
