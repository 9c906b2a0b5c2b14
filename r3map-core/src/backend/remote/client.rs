//! What the connections of one client have in common: who it is, which region it saw first, and what the
//! server holds that is not durable.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use once_cell::sync::OnceCell;

use super::bulk::{Bulk, MOST_SPARE};
use super::leech::{Heard, Leech};
use super::link::{Asked, Body};
use super::parcels::Parcels;
use crate::backend::link::{self, Absence, Connected, Links};
use crate::backend::{BackendOptions, Completion, Info, Operation, Priority, Reply, Request};
use crate::buffer::{Buffer, is_zero};
use crate::cancel::{Limit, Waiter};
use crate::error::{Code, Error, Result};
use crate::options::Compression;
use crate::thread::{self, Process};
use crate::tls::client::ClientTls;
use crate::version::{Lineage, Version};
use crate::wire::channel::{Channel, Packet, Payload};
use crate::wire::compress::FEATURES;
use crate::wire::greeting::{MIGRATE, VERSIONED};
use crate::wire::incoming::Incoming;
use crate::wire::socket::{self, Address};
use crate::wire::{self, Header, Hello, Identity, Kind, Welcome, greeting};

/// How long connecting and the greeting may take.
const GREETING_TIME: Duration = Duration::from_secs(10);
/// How long a server may take to take the lease back.
const RELEASE_TIME: Duration = Duration::from_secs(1);
/// The role of a connection that only asks for the version.
const ASKING: u16 = u16::MAX;
/// How many requests at once are of use: as many chunks as are under way at 30 Gbit/s over 30 ms. A read that waits
/// holds no memory.
const CONCURRENCY: u32 = 448;

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
    pub tls: Option<Box<ClientTls>>,
}

/// What must be known of a region to begin while its server is away.
pub struct Facts {
    /// Its identity, where it has one.
    pub identity: Option<Identity>,
    /// Its version, where it has one.
    pub version: Option<Version>,
    /// As which client the versions were made that are this one's own.
    pub own: Option<Identity>,
    /// Its size in bytes.
    pub size: u64,
    /// Unit of transfer in bytes.
    pub chunk_size: u32,
    /// Alignment in bytes.
    pub alignment: u32,
    /// The longest request in bytes.
    pub max_request: u32,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Whether it is to be written to.
    pub will_write: bool,
}

/// Who hears that the server is away, and why, or back.
pub type Ear = Box<dyn Fn(Option<Error>) + Send + Sync>;

/// What a client asks for in its greeting.
#[derive(Clone, Copy)]
pub struct Ask {
    /// The writer's lease, if the region can be written to at all.
    pub write: bool,
    /// How payloads may be packed.
    pub compression: Compression,
}

impl Ask {
    /// What these options say, and no lease.
    pub fn of(options: &BackendOptions) -> Ask {
        Ask { write: false, compression: options.compression }
    }
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
    /// Of a client that began while the server was away: who hears of it.
    ear: Option<Ear>,
    kept: Mutex<Kept>,
    /// Whether this client has the writer's lease, as far as it knows.
    writer: AtomicBool,
    pub(super) links: Links<Client>,
    /// How bulk uses them.
    pub(super) bulk: Bulk,
    /// How what they carry is packed and counted.
    pub(super) parcels: Parcels,
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
    /// The version that the server said last, where it says one.
    version: Option<Version>,
    /// The version whose bytes are kept by whoever uses this client: no other but those it makes will do.
    held: Option<Version>,
    /// How many connections were made to ask for the version.
    asked: u64,
    /// Set when the keeper of writes that were not synced is gone: every later sync says so.
    lost: Option<Error>,
}

impl Client {
    /// Connects, greets, and starts the threads. A client that leeches a region it knows starts also while the server is
    /// away.
    pub fn start(url: &str, route: Route, export: &str, ask: Ask, leech: Option<Leech>) -> Result<Arc<Client>> {
        let session = leech.as_ref().map(Leech::session);
        let parcels = Parcels::new(ask.compression)?;
        let hello = Hello { write: ask.write, ..Client::hello(export, socket::random()?, &parcels, session) };
        let deadline = Instant::now() + GREETING_TIME;
        let (socket, way) = match route {
            Route::Descriptor(socket) => (Ok(socket), None),
            Route::Address(way) => (socket::connect(&way.address, way.insecure, deadline), Some(way)),
        };
        let bulk = Bulk::default();
        let greeted = socket.and_then(|socket| {
            let tls = way.as_ref().and_then(|way| way.tls.as_deref());
            let begun = Instant::now();
            let (connected, welcome) = greet(socket, &hello, tls, deadline)?;
            bulk.greeted(begun.elapsed());
            parcels.greeted(&connected.channel);
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
        Client::begin(url, way, hello, (welcome, connected), (leech, None), (bulk, parcels))
    }

    /// Begins while the server is away, with what is known of the region. Once it is back it has to be the same, in
    /// that version or one of its own.
    pub fn away(url: &str, route: Route, export: &str, ask: Ask, facts: &Facts, ear: Ear) -> Result<Arc<Client>> {
        let Route::Address(way) = route else {
            return Err(Error::new(Code::Unsupported, "a socket that was brought cannot be connected again"));
        };
        let parcels = Parcels::new(ask.compression)?;
        let own = facts.own.map_or_else(socket::random, Ok)?;
        // Who will write has the lease before the server says the version.
        let hello = Hello { write: ask.write, ..Client::hello(export, own, &parcels, None) };
        let welcome = Welcome {
            version: wire::NEWEST_VERSION,
            features: 0,
            written: facts.version,
            moving: None,
            size: facts.size,
            read_only: facts.read_only,
            chunk_size: facts.chunk_size,
            alignment: facts.alignment,
            max_request: facts.max_request,
            identity: facts.identity.unwrap_or_default(),
            keeper: Identity::default(),
        };
        Client::begin(url, Some(way), hello, (welcome, None), (None, Some(ear)), (Bulk::default(), parcels))
    }

    fn hello(export: &str, client: Identity, parcels: &Parcels, session: Option<Identity>) -> Hello {
        Hello {
            versions: (wire::OLDEST_VERSION, wire::NEWEST_VERSION),
            features: VERSIONED | parcels.offers(),
            session,
            client,
            generation: 1,
            role: 0,
            write: false,
            export: export.to_owned(),
            display: thread::display(),
        }
    }

    fn begin(
        url: &str,
        way: Option<Way>,
        hello: Hello,
        (welcome, connected): (Welcome, Option<Connected>),
        (leech, ear): (Option<Leech>, Option<Ear>),
        (bulk, parcels): (Bulk, Parcels),
    ) -> Result<Arc<Client>> {
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
        // A connection that was brought is the only one.
        let (roles, spare) = if way.is_some() { (2, MOST_SPARE) } else { (1, 0) };
        let writer = AtomicBool::new(hello.write && !welcome.read_only);
        let held = welcome.written.filter(|_| ear.is_some());
        let client = Arc::new(Client {
            process: Process::current(),
            way,
            hello,
            info,
            identity: welcome.identity,
            leech,
            ear,
            kept: Mutex::new(Kept {
                keeper: welcome.keeper,
                acknowledged: 0,
                synced: 0,
                version: welcome.written,
                held,
                asked: 0,
                lost: None,
            }),
            writer,
            links: Links::new(roles, spare),
            bulk,
            parcels,
            closed: OnceCell::new(),
        });
        Links::start(&client, connected)?;
        // A migration speaks without requests, and a server that was away is looked out for.
        if client.leech.is_some() || client.ear.is_some() {
            client.links.first().want(&client)?;
        }
        Ok(client)
    }

    /// What it is besides where a region is to be moved here.
    pub fn leech(&self) -> Option<&Leech> {
        self.leech.as_ref()
    }

    /// Tells who would know what became of the first connection, or came by it.
    pub(super) fn tell(&self, heard: Heard) {
        match (&self.leech, &self.ear, heard) {
            (Some(leech), _, heard) => leech.hear(heard),
            (None, Some(ear), Heard::Connected) => ear(None),
            (None, Some(ear), Heard::Lost(error)) => ear(Some(error)),
            _ => {}
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
        let (header, body) = match operation {
            Operation::Read { buffer, .. } if buffer.is_empty() => return completion.complete(Ok(Reply::Data(buffer))),
            Operation::Write { data, .. } if data.is_empty() => return completion.complete(Ok(Reply::Done)),
            Operation::Zero { length: 0, .. } => return completion.complete(Ok(Reply::Done)),
            Operation::Read { offset, buffer } => {
                let header = Header::new(Kind::Read, 0).about(offset, buffer.len() as u64);
                let asked = Asked { header, body: Body::Read(Some(buffer)) };
                return match priority {
                    Priority::Bulk => self.read_in_bulk(asked, deadline, completion),
                    Priority::Demand => self.links.first().submit(self, asked, deadline, completion),
                };
            }
            Operation::Write { offset, data } if is_zero(&data) => {
                (Header::new(Kind::Zero, 0).about(offset, data.len() as u64), Body::Change(None))
            }
            Operation::Write { offset, data } => {
                let header = Header::new(Kind::Write, 0).about(offset, data.len() as u64).with_payload(&data);
                (header, Body::Change(Some(self.parcels.pack(data, self.links.steady(priority)))))
            }
            Operation::Zero { offset, length } => {
                (Header::new(Kind::Zero, 0).about(offset, length), Body::Change(None))
            }
            Operation::Sync => (Header::new(Kind::Sync, 0), Body::Sync { covers: self.kept().acknowledged }),
        };
        let is_sync = matches!(body, Body::Sync { .. });
        let link = if is_sync { self.links.first() } else { self.links.steady(priority) };
        link.submit(self, Asked { header, body }, deadline, completion);
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
        self.links.steady(priority).submit(self, Asked { header, body: Body::Digest }, deadline, completion);
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
        let write = self.says_to_write(role, generation) && self.writer.load(Ordering::SeqCst);
        let session = self.leech.as_ref().map(Leech::session);
        let hello = Hello { generation, role, write, session, ..self.hello.clone() };
        let socket = socket::connect(address, *insecure, deadline).map_err(|error| match error.code() {
            Code::PermissionDenied => Absence::Refused(error),
            _ => Absence::Away(error),
        })?;
        if role > 0 {
            socket::prepare_bulk(&socket);
        }
        let greeted = greet(socket, &hello, tls.as_deref(), deadline).map_err(|error| match error.code() {
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
        self.parcels.greeted(&connected.channel);
        Ok(connected)
    }

    /// Whether a connection is greeted as the writer's, if this client is that: only where it may carry writes that were
    /// sent before. One that the server hears of when the lease was given back already would take it again.
    fn says_to_write(&self, role: u16, generation: u64) -> bool {
        let is_first = generation == 2 && self.ear.is_none();
        role == 0 || role == ASKING || role == 1 && !is_first
    }

    /// Makes sure that the region is the one that was opened, and notices a keeper that is gone.
    fn recognize(&self, welcome: &Welcome) -> Result<()> {
        let parts = self.leech.as_ref().and_then(Leech::parts);
        let same_parts = parts.is_none_or(|parts| welcome.moving.as_ref().is_some_and(|now| now.parts == parts));
        if welcome.size != self.info.size || welcome.identity != self.identity || !same_parts {
            return Err(changed(&self.info.name, welcome, self.info.size));
        }
        let mut kept = self.kept();
        let is_own = |version: Version| version.writer == self.hello.client;
        if kept.held.is_some() && kept.held != welcome.written && !welcome.written.is_some_and(is_own) {
            let message = format!(
                "{}: somebody else wrote to the region while it was away: what is kept of it here is of an older \
                 version, and what was not pushed would go over theirs",
                self.info.name
            );
            return Err(Error::new(Code::Corrupt, message));
        }
        kept.version = welcome.written;
        kept.now_with(welcome.keeper, &self.info.name);
        Ok(())
    }

    /// Asks which version the server has by now, by a connection for that alone: with the lease it stays that one. Who
    /// asked for the lease in the greeting was told then.
    pub fn lineage(&self) -> Result<Option<Lineage>> {
        let has_asked = self.hello.write && !self.info.read_only;
        if self.way.is_some() && !has_asked && self.ear.is_none() && self.kept().version.is_some() {
            let asked = {
                let mut kept = self.kept();
                kept.asked += 1;
                kept.asked
            };
            let connected = self.connect_again(ASKING, asked).map_err(|absence| match absence {
                Absence::Away(error) | Absence::Refused(error) | Absence::Changed(error) => error,
            })?;
            connected.channel.shutdown();
        }
        Ok(self.kept().version.map(|version| Lineage { version, own: Some(self.hello.client) }))
    }

    /// Goes on with this version, or its own, only.
    pub fn hold(&self, version: Version) {
        self.kept().held = Some(version);
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
    if !(wire::OLDEST_VERSION..=wire::NEWEST_VERSION).contains(&welcome.version)
        || welcome.features & !(hello.features & FEATURES) != 0
        || !offered
    {
        return Err(Error::new(Code::Corrupt, "the server chose a version or feature that was not offered"));
    }
    incoming.agree(welcome.features);
    channel.agree(welcome.features);
    match welcome.moving {
        Some(_) => incoming.agree(MIGRATE),
        None if hello.session.is_some() => {
            let message = "it is exported and not being seeded: mount it, or have its owner seed it";
            return Ok((Connected { channel, incoming }, Err(Error::new(Code::Unsupported, message))));
        }
        None => {}
    }
    Ok((Connected { channel, incoming }, Ok(welcome)))
}
