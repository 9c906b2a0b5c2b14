//! Backends offered to others by name.
//!
//! One thread accepts at each address and one serves each connection, so a slow client holds up nobody
//! else. Requests of a connection are answered in any order: in place where the backend has the bytes at
//! hand, else by whichever thread brings them.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, RwLock};
use std::time::Duration;

use once_cell::sync::OnceCell;

use crate::backend::{self, Backend, Operation};
use crate::cancel::{Limit, deadline_in};
use crate::error::{Code, Error, Result};
use crate::migration::seeder::driver::Driver;
use crate::options::{Compression, Credentials};
use crate::thread::{self, Process};
use crate::tls::Above;
use crate::tls::server::ServerTls;
use crate::url::{SCHEMES, nearest, percent_encode, unknown_scheme};
use crate::wire::channel::Channel;
use crate::wire::compress::{self, EAGER};
use crate::wire::{Identity, greeting, socket};

pub(crate) mod caller;
mod connection;
mod lease;
mod listener;
mod nbd;
mod peer;
#[cfg(any(feature = "grpc", feature = "frpc", feature = "panrpc"))]
mod rpc;
mod seeding;
mod session;
mod under_way;
mod writes;

use lease::Lease;
use writes::Writes;

/// What a server speaks with its clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// r3map's own.
    #[default]
    R3map,
    /// NBD, for clients of all kinds.
    Nbd,
    /// The published protocol of the Go library r3map over gRPC.
    Grpc,
    /// The same over fRPC.
    Frpc,
    /// The same over panrpc.
    Panrpc,
}

impl Protocol {
    const NAMES: [(&'static str, Protocol); 5] = [
        ("r3map", Protocol::R3map),
        ("nbd", Protocol::Nbd),
        ("grpc", Protocol::Grpc),
        ("frpc", Protocol::Frpc),
        ("panrpc", Protocol::Panrpc),
    ];

    /// What is secured by TLS; `None` where that is not spoken.
    fn above(self) -> Option<Above> {
        match self {
            Protocol::R3map => Some(Above::Native),
            Protocol::Nbd => Some(Above::Nbd),
            #[cfg(feature = "grpc")]
            Protocol::Grpc => Some(Above::Grpc),
            _ => None,
        }
    }

    /// The name as it stands in options and begins a URL.
    pub fn name(self) -> &'static str {
        Protocol::NAMES[self as usize].0
    }

    /// Whether clients choose an export by name. Otherwise there is one, and its size stands in the URL.
    pub fn has_names(self) -> bool {
        matches!(self, Protocol::R3map | Protocol::Nbd)
    }

    /// An error unless this build speaks it.
    fn check(self) -> Result<()> {
        if SCHEMES.contains(&self.name()) { Ok(()) } else { Err(unknown_scheme(self.name())) }
    }
}

impl FromStr for Protocol {
    type Err = Error;

    fn from_str(text: &str) -> Result<Protocol> {
        let known = Protocol::NAMES.map(|(name, _)| name);
        Protocol::NAMES.iter().find(|(name, _)| *name == text).map(|(_, protocol)| *protocol).ok_or_else(|| {
            let message = format!("{text:?} is no protocol{}", nearest(text, &known, ""));
            Error::new(Code::InvalidArgument, message)
        })
    }
}

/// Options of a server.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// What it speaks.
    pub protocol: Protocol,
    /// How it proves who it is by TLS, and knows its clients. With any of it every TCP connection is TLS, and every
    /// NBD connection.
    pub credentials: Credentials,
    /// Allows plain TCP on an address that is not loopback.
    pub insecure: bool,
    /// Bound of each blocking operation, and of a client's silence inside a message; zero waits for ever.
    pub deadline: Duration,
    /// How many connections at once; more are refused with `busy`.
    pub max_connections: usize,
    /// Whether what is read and written travels packed, over r3map's own protocol; what asks for it of another is refused.
    pub compression: Compression,
}

impl Default for ServerOptions {
    fn default() -> ServerOptions {
        ServerOptions {
            protocol: Protocol::R3map,
            credentials: Credentials::default(),
            insecure: false,
            deadline: Duration::from_secs(30),
            max_connections: 1024,
            compression: Compression::Auto,
        }
    }
}

/// Options of an export.
#[derive(Clone, Debug, Default)]
pub struct ExportOptions {
    /// Refuse writes.
    pub read_only: bool,
    /// For whom it is: names of certificates or tokens. Whoever is let in may use one that names nobody.
    pub allow: Vec<String>,
}

/// Beyond `max_connections`, how many are told so; still more are just closed.
const TOLD_BUSY: usize = 32;

/// A server of any number of exports on any number of addresses. Every method may be called from any
/// thread. One that is dropped without `close` closes then, and can only log what fails.
pub struct Server {
    process: Process,
    inner: Arc<Inner>,
}

/// What the threads of a server share.
pub(crate) struct Inner {
    options: ServerOptions,
    /// Which features about packing it has.
    features: u64,
    /// Names this life of the server: what only its memory keeps is gone with it.
    life: Identity,
    /// How connections are secured, where they are.
    tls: OnceCell<Arc<ServerTls>>,
    exports: RwLock<HashMap<String, Arc<Export>>>,
    listeners: Mutex<Vec<listener::Listener>>,
    sessions: session::Sessions,
    crowd: Mutex<Crowd>,
    /// Told of every change of `crowd`.
    changed: Condvar,
}

/// The connections there are.
struct Crowd {
    phase: Phase,
    next: u64,
    live: HashMap<u64, Arc<Channel>>,
    /// Those of them that have not said yet who they are, the oldest first.
    strangers: BTreeSet<u64>,
    /// Connections that serve and may still have requests under way.
    working: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Connections come and go.
    Open,
    /// No more requests are taken; those under way are answered.
    Draining,
    /// Connections say goodbye; whether all they acknowledged is durable.
    Ended { synced: bool },
}

/// A backend under a name.
struct Export {
    backend: Arc<dyn Backend>,
    read_only: bool,
    /// For whom it is; all, where nobody is named.
    allow: Vec<String>,
    identity: Identity,
    /// Whether something was written that this server has not synced.
    written: AtomicBool,
    /// Who may write.
    lease: Lease,
    /// Which version clients are told; none where nobody writes by the server.
    writes: Option<Arc<Writes>>,
    /// What moves it away, where it may be taken rather than used.
    seed: Option<Arc<Driver>>,
}

impl Export {
    /// Makes a client the one who writes, and notes that it does.
    fn claim_to_write(&self, client: Identity, display: &str, stopped: impl Fn() -> bool) -> Result<()> {
        self.lease.claim(client, display, stopped)?;
        self.writes.as_ref().map_or(Ok(()), |writes| writes.begin(client))
    }

    fn of(backend: Arc<dyn Backend>) -> Export {
        let (written, lease) = (AtomicBool::new(false), Lease::default());
        let (read_only, allow, identity) = (false, Vec::new(), Identity::default());
        Export { backend, read_only, allow, identity, written, lease, writes: None, seed: None }
    }
}

impl Server {
    /// A server that offers nothing yet and listens nowhere.
    pub fn new(options: ServerOptions) -> Result<Server> {
        if options.max_connections == 0 {
            return Err(Error::new(Code::InvalidArgument, "a server with max_connections=0 would serve nobody"));
        }
        options.protocol.check().map_err(|error| error.context("protocol"))?;
        let (live, strangers) = (HashMap::new(), BTreeSet::new());
        let crowd = Crowd { phase: Phase::Open, next: 0, live, strangers, working: 0 };
        let tls = OnceCell::new();
        if options.credentials.are_given() {
            let above = options.protocol.above().ok_or_else(|| {
                let message = format!("{} is spoken without TLS: it takes no credentials", options.protocol.name());
                Error::new(Code::Unsupported, message)
            })?;
            // Nothing is set yet.
            let _ = tls.set(Arc::new(ServerTls::new(&options.credentials, above)?));
        }
        let features = compress::features(options.compression)?;
        if features & EAGER != 0 && options.protocol != Protocol::R3map {
            let message = format!("compression: {} has none", options.protocol.name());
            return Err(Error::new(Code::Unsupported, message));
        }
        let inner = Inner {
            options,
            features,
            life: socket::random()?,
            tls,
            exports: RwLock::default(),
            listeners: Mutex::default(),
            sessions: session::Sessions::default(),
            crowd: Mutex::new(crowd),
            changed: Condvar::new(),
        };
        Ok(Server { process: Process::current(), inner: Arc::new(inner) })
    }

    /// Listens at `host:port` (port 0: one is chosen) or `unix:/path`, and says the address as a client
    /// writes it in a URL, but for the name of the export: `r3map://host:port` or `r3map+unix:///path`; over NBD
    /// `nbd://host:port` or `nbd+unix:///?socket=/path`; `r3maps`, `grpcs`, `nbds` and `nbds+unix` by TLS. [`named`] puts the
    /// name in. The file of a UNIX socket whose server is dead is replaced; one that is served is `busy`. Beyond this
    /// host a server without credentials that speaks r3map's protocol or gRPC makes its own: see
    /// [`client_line`](Server::client_line).
    pub fn listen(&self, address: &str) -> Result<String> {
        self.check_open()?;
        let listener = listener::Listener::start(address, &self.inner)?;
        let url = listener.url().to_owned();
        self.inner.listeners.lock().unwrap_or_else(|e| e.into_inner()).push(listener);
        // A close that went by in between has not seen this one.
        if let Err(error) = self.check_open() {
            self.inner.stop_listening();
            return Err(error);
        }
        Ok(url)
    }

    /// The command by which a client shows the export at this URL, with all that it needs: its environment holds a
    /// token, which is a secret. `None` unless the server made certificate and token by itself.
    pub fn client_line(&self, url: &str) -> Option<String> {
        self.line_for("mount", url)
    }

    pub(crate) fn line_for(&self, verb: &str, url: &str) -> Option<String> {
        self.inner.tls.get().and_then(|tls| tls.client_line(verb, url))
    }

    /// Offers a backend under a name: 1 to 255 bytes of UTF-8 without NUL, a key and never a path. A name
    /// that is taken is `busy`.
    pub fn export(&self, name: &str, backend: Arc<dyn Backend>, options: &ExportOptions) -> Result<()> {
        self.check_open()?;
        greeting::check_name(name)?;
        backend::check_home(&*backend)?;
        let info = backend.info();
        let export = Export {
            read_only: options.read_only || info.read_only,
            allow: options.allow.clone(),
            identity: info.identity.map_or_else(socket::random, Ok)?,
            writes: Some(Writes::of(&*backend).map_err(|error| error.context(&info.name))?),
            ..Export::of(backend)
        };
        self.insert(name, export)
    }

    fn insert(&self, name: &str, export: Export) -> Result<()> {
        self.check_open()?;
        greeting::check_name(name)?;
        let mut exports = self.inner.exports.write().unwrap_or_else(|e| e.into_inner());
        if exports.contains_key(name) {
            return Err(Error::new(Code::Busy, format!("something is exported as {name:?} already")));
        }
        let protocol = self.inner.options.protocol;
        if protocol.above().is_none() && !export.allow.is_empty() {
            let message = format!("{} does not say who a client is, so an export cannot allow some", protocol.name());
            return Err(Error::new(Code::Unsupported, message));
        }
        if !protocol.has_names() && !exports.is_empty() {
            let message = format!("a server that speaks {} has one export: its clients name none", protocol.name());
            return Err(Error::new(Code::Unsupported, message));
        }
        exports.insert(name.to_owned(), Arc::new(export));
        Ok(())
    }

    /// Serves one connected stream socket. It is the server's from success on.
    pub fn handle(&self, descriptor: OwnedFd) -> Result<()> {
        self.check_open()?;
        self.inner.admit(descriptor, None)
    }

    /// Takes no more requests, answers those under way, and ends every connection. Acknowledged writes are
    /// synced to their backends first. Closing a closed server fails `closed`.
    pub fn close(&self) -> Result<()> {
        self.check_open()?;
        self.end_seeds(false)?;
        let inner = &self.inner;
        {
            let mut crowd = inner.crowd();
            if crowd.phase != Phase::Open {
                return Err(Error::new(Code::Closed, "the server is closed"));
            }
            crowd.phase = Phase::Draining;
            crowd.live.values().for_each(|channel| channel.stop());
        }
        inner.stop_listening();
        let limit = Limit::within(inner.options.deadline);
        let drained = inner.wait_until(&limit, "close: answer what is under way", |crowd| crowd.working == 0);
        let synced = inner.sync(&limit);
        inner.crowd().phase = Phase::Ended { synced: drained.is_ok() && synced.is_ok() };
        inner.changed.notify_all();
        let gone = inner.wait_until(&limit, "close: end every connection", |crowd| crowd.live.is_empty());
        inner.crowd().live.values().for_each(|channel| channel.shutdown());
        inner.exports.write().unwrap_or_else(|e| e.into_inner()).clear();
        drained.and(synced).and(gone)
    }

    /// Ends what is seeded here; without `force` one that somebody still needs is `busy`.
    fn end_seeds(&self, force: bool) -> Result<()> {
        let seeds: Vec<_> = {
            let exports = self.inner.exports.read().unwrap_or_else(|e| e.into_inner());
            exports.iter().filter_map(|(name, export)| Some((name.clone(), export.seed.clone()?))).collect()
        };
        for (name, seed) in seeds {
            seed.end(force).map_err(|error| error.context(format!("close: {name:?}")))?;
        }
        Ok(())
    }

    fn check_process(&self) -> Result<()> {
        if self.process.is_current() {
            return Ok(());
        }
        Err(Error::new(Code::Closed, "this server belongs to the process that was forked: make one in the child"))
    }

    fn check_open(&self) -> Result<()> {
        self.check_process()?;
        match self.inner.crowd().phase {
            Phase::Open => Ok(()),
            _ => Err(Error::new(Code::Closed, "the server is closed")),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.process.is_current() {
            return;
        }
        if self.check_open().is_ok() {
            let _ = self.end_seeds(true);
        }
        match self.close() {
            Err(error) if error.code() != Code::Closed => tracing::warn!(%error, "a dropped server did not close"),
            _ => {}
        }
    }
}

impl Inner {
    fn crowd(&self) -> MutexGuard<'_, Crowd> {
        self.crowd.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn export(&self, name: &str) -> Result<Arc<Export>> {
        let exports = self.exports.read().unwrap_or_else(|e| e.into_inner());
        exports.get(name).cloned().ok_or_else(|| Error::new(Code::NotFound, format!("nothing is exported as {name:?}")))
    }

    /// What a protocol without names is about: of a server that speaks others too, what is seeded for it.
    #[cfg(any(feature = "grpc", feature = "frpc", feature = "panrpc"))]
    fn only_export(&self) -> Result<(String, Arc<Export>)> {
        let exports = self.exports.read().unwrap_or_else(|e| e.into_inner());
        let has_names = self.options.protocol.has_names();
        let found = exports.iter().find(|(_, export)| !has_names || export.allows_legacy());
        let found = found.map(|(name, export)| (name.clone(), export.clone()));
        found.ok_or_else(|| Error::new(Code::NotFound, "nothing is exported"))
    }

    /// Gives a connection its thread. Too many are told so, by a thread that does nothing else.
    fn admit(self: &Arc<Inner>, descriptor: OwnedFd, tls: Option<Arc<ServerTls>>) -> Result<()> {
        let channel = Arc::new(Channel::new(descriptor, self.options.deadline)?);
        let (number, full) = {
            let mut crowd = self.crowd();
            if crowd.phase != Phase::Open {
                return Err(Error::new(Code::Closed, "the server is closing"));
            }
            let mut full = crowd.live.len() >= self.options.max_connections;
            // Connections that never say who they are keep nobody out: the oldest of them gives way.
            if let Some(oldest) = full.then(|| crowd.strangers.pop_first()).flatten() {
                if let Some(channel) = crowd.live.get(&oldest) {
                    channel.shutdown();
                }
                full = false;
            }
            if crowd.live.len() >= self.options.max_connections.saturating_add(TOLD_BUSY) {
                return Err(self.busy());
            }
            crowd.next += 1;
            let number = crowd.next;
            crowd.live.insert(number, channel.clone());
            if !full {
                crowd.strangers.insert(number);
            }
            (number, full)
        };
        let admitted = if full { Err(self.busy()) } else { Ok(()) };
        let guest = Guest { inner: self.clone(), number, channel, tls, admitted };
        let started = thread::spawn("r3map-serve", move || match guest.inner.options.protocol {
            #[cfg(feature = "grpc")]
            Protocol::R3map if rpc::grpc::is_begun(&guest) => rpc::grpc::serve(&guest),
            Protocol::R3map => connection::serve(&guest),
            Protocol::Nbd => nbd::serve(&guest),
            #[cfg(feature = "grpc")]
            Protocol::Grpc => rpc::grpc::serve(&guest),
            #[cfg(feature = "frpc")]
            Protocol::Frpc => rpc::frpc::serve(&guest),
            #[cfg(feature = "panrpc")]
            Protocol::Panrpc => rpc::panrpc::serve(&guest),
            // A server that was to speak it was refused.
            #[allow(unreachable_patterns)]
            _ => {}
        });
        started.map(drop).map_err(|error| Error::io("start a thread for a connection", error))
    }

    /// Whether there is room for connections that their clients can do without.
    fn has_spare_room(&self) -> bool {
        self.crowd().live.len() <= self.options.max_connections / 2
    }

    fn busy(&self) -> Error {
        let message = format!("the server has its {} connections: try again later", self.options.max_connections);
        Error::new(Code::Busy, message)
    }

    fn stop_listening(&self) {
        let listeners = std::mem::take(&mut *self.listeners.lock().unwrap_or_else(|e| e.into_inner()));
        listeners.into_iter().for_each(listener::Listener::stop);
    }

    fn wait_until(&self, limit: &Limit, what: &str, reached: impl Fn(&Crowd) -> bool) -> Result<()> {
        let mut crowd = self.crowd();
        while !reached(&crowd) {
            limit.check(what)?;
            let left = limit.deadline.map_or(Duration::from_secs(60), |deadline| {
                deadline.saturating_duration_since(std::time::Instant::now())
            });
            crowd = self.changed.wait_timeout(crowd, left).unwrap_or_else(|e| e.into_inner()).0;
        }
        Ok(())
    }

    /// Syncs what was written; tries every export and says the first failure.
    fn sync(&self, limit: &Limit) -> Result<()> {
        let exports: Vec<_> = {
            let exports = self.exports.read().unwrap_or_else(|e| e.into_inner());
            exports.iter().map(|(name, export)| (name.clone(), export.clone())).collect()
        };
        let mut outcome = Ok(());
        for (name, export) in exports {
            if export.written.swap(false, Ordering::SeqCst) {
                let limit = Limit { deadline: deadline_in(self.options.deadline), ..limit.clone() };
                let synced = backend::call(&export.backend, Operation::Sync, &limit, "sync").map(drop);
                outcome = outcome.and(synced.map_err(|error| error.context(format!("close: sync export {name:?}"))));
            }
        }
        outcome
    }
}

/// The URL by which a client opens an export at an address that [`Server::listen`] said. Where the protocol has no names
/// it takes more: see [`located`].
pub fn named(address: &str, name: &str) -> String {
    let name = percent_encode(name);
    if let Some((scheme, socket)) = address.split_once("+unix:///?socket=") {
        return format!("{scheme}+unix:///{name}?socket={socket}");
    }
    match address.starts_with("r3map+unix:") {
        true => format!("{address}?name={name}"),
        false => format!("{address}/{name}"),
    }
}

/// The same for any protocol, of an export of that size.
pub fn located(address: &str, name: &str, size: u64) -> String {
    let scheme = address.split([':', '+']).next().unwrap_or_default();
    let protocol = scheme.strip_suffix('s').unwrap_or(scheme).parse::<Protocol>().ok();
    match protocol.is_some_and(|protocol| !protocol.has_names()) {
        true => format!("{address}?size={size}"),
        false => named(address, name),
    }
}

/// A connection among the live ones, from its first byte to its last.
struct Guest {
    inner: Arc<Inner>,
    number: u64,
    channel: Arc<Channel>,
    /// How it is secured, where it has to be.
    tls: Option<Arc<ServerTls>>,
    /// Why there is no room for it, where there is none.
    admitted: Result<()>,
}

impl Guest {
    /// It has said who it is.
    fn greeted(&self) {
        self.inner.crowd().strangers.remove(&self.number);
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut crowd = self.inner.crowd();
        crowd.live.remove(&self.number);
        crowd.strangers.remove(&self.number);
        drop(crowd);
        self.inner.changed.notify_all();
    }
}

/// A connection's place among those that may have requests under way.
struct Working<'a> {
    inner: &'a Inner,
}

impl<'a> Working<'a> {
    /// Fails once the server drains.
    fn begin(inner: &'a Inner) -> Result<Working<'a>> {
        let mut crowd = inner.crowd();
        if crowd.phase != Phase::Open {
            return Err(Error::new(Code::Disconnected, "the server is closing"));
        }
        crowd.working += 1;
        Ok(Working { inner })
    }

    /// No request is under way any more. If the server drains, waits until what it acknowledged is synced
    /// and says whether that worked.
    fn end(self) -> Option<bool> {
        let inner = self.inner;
        drop(self);
        let mut crowd = inner.crowd();
        loop {
            match crowd.phase {
                Phase::Open => return None,
                Phase::Ended { synced } => return Some(synced),
                Phase::Draining => crowd = inner.changed.wait(crowd).unwrap_or_else(|e| e.into_inner()),
            }
        }
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.inner.crowd().working -= 1;
        self.inner.changed.notify_all();
    }
}
