//! The side that a region moves away from, as an app holds it.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use crate::cancel::{Cancel, Limit};
use crate::error::{Code, Error, Result};
use crate::migration::seeder::driver::Driver;
use crate::migration::seeder::truth::Truth;
use crate::migration::source::Event;
use crate::mount::Mount;
use crate::mount::seeding::Seeded;
use crate::options::Credentials;
use crate::server::{self, Server, ServerOptions};
use crate::stats::Stats;
use crate::thread::Process;
use crate::wire::greeting::MAX_PARTS;

mod clocks;
pub(crate) mod driver;
mod events;
#[cfg(feature = "grpc")]
pub(crate) mod legacy;
pub(crate) mod peers;
mod rate;
mod records;
mod truth;

pub use events::{SeedEvent, SeedState};

/// Options of a seeder.
#[derive(Clone, Debug)]
pub struct SeedOptions {
    /// The name under which it listens by itself; under a server the name is given there.
    pub name: String,
    /// How long the app may take to stop when it is asked to, before the leecher is refused; zero is for ever.
    pub suspend_deadline: Duration,
    /// Keep in this process who has the region, where it cannot be written down beside it.
    pub cache_trust: bool,
    /// Give the region also to leechers of the Go library r3map, over gRPC at the same address, whose protocol knows
    /// neither sessions nor votes nor fencing: see docs/interop.md.
    pub allow_legacy: bool,
    /// How it proves who it is by TLS, and knows its leechers, where it listens by itself.
    pub credentials: Credentials,
    /// For whom it is: names of certificates or tokens. Whoever is let in may take one that names nobody.
    pub allow: Vec<String>,
    /// Allows plain TCP on an address that is not loopback.
    pub insecure: bool,
    /// Bound of each blocking operation, and of a leecher's absence before the commit; zero waits for ever.
    pub deadline: Duration,
}

impl Default for SeedOptions {
    fn default() -> SeedOptions {
        SeedOptions {
            name: "region".to_owned(),
            suspend_deadline: Duration::from_secs(30),
            cache_trust: false,
            allow_legacy: false,
            credentials: Credentials::default(),
            allow: Vec::new(),
            insecure: false,
            deadline: Duration::from_secs(30),
        }
    }
}

/// Mounts that move as one, in the order in which they were added.
#[derive(Default)]
pub struct Group(Mutex<Vec<Mount>>);

impl Group {
    /// None yet.
    pub fn new() -> Group {
        Group::default()
    }

    /// Adds a mount, at most 256.
    pub fn add(&self, mount: &Mount) -> Result<()> {
        let mut mounts = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if mounts.len() >= MAX_PARTS {
            return Err(Error::new(Code::InvalidArgument, format!("a group has at most {MAX_PARTS} mounts")));
        }
        mounts.push(mount.clone());
        Ok(())
    }

    /// Seeds them as one, listening at `host:port` or `unix:/path`.
    pub fn seed(&self, listen: &str, options: &SeedOptions) -> Result<Seeder> {
        seed_alone(listen, options, &self.mounts())
    }

    pub(crate) fn mounts(&self) -> Vec<Mount> {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }
}

impl Mount {
    /// Makes this mount a region that a leecher may take, listening at `host:port` (port 0: one is chosen) or
    /// `unix:/path`. It stays in use meanwhile. A mount has one seeder at a time, and is closed after it.
    pub fn seed(&self, listen: &str, options: &SeedOptions) -> Result<Seeder> {
        seed_alone(listen, options, std::slice::from_ref(self))
    }
}

fn seed_alone(listen: &str, options: &SeedOptions, mounts: &[Mount]) -> Result<Seeder> {
    let settings = ServerOptions {
        credentials: options.credentials.clone(),
        insecure: options.insecure,
        deadline: options.deadline,
        ..ServerOptions::default()
    };
    let server = Server::new(settings)?;
    server.check_legacy(mounts.len(), options)?;
    let driver = server.offer(&options.name, start(mounts, options)?, &options.allow)?;
    let url = match server.listen(listen) {
        Ok(url) => server::named(&url, &options.name),
        Err(error) => {
            let _ = driver.end(true);
            return Err(error);
        }
    };
    Ok(Seeder::new(driver, Place::Own(server), Some(url)))
}

/// Begins to seed mounts as one.
pub(crate) fn start(mounts: &[Mount], options: &SeedOptions) -> Result<Arc<Driver>> {
    if mounts.is_empty() {
        return Err(Error::new(Code::InvalidArgument, "seed: a group without mounts"));
    }
    let truth = Truth::new(mounts.iter().map(Seeded::take).collect::<Result<_>>()?)?;
    Driver::start(truth, options)
}

/// What a mount, or several as one, are moved away by. Clones are the same seeder; every method may be called from any
/// thread. It ends when the last is dropped.
#[derive(Clone)]
pub struct Seeder {
    inner: Arc<Inner>,
    cancel: Option<Cancel>,
}

struct Inner {
    process: Process,
    driver: Arc<Driver>,
    place: Place,
    url: Option<String>,
}

/// Where leechers find it.
enum Place {
    /// At a server of its own.
    Own(Server),
    /// Under a name of another.
    Shared(Weak<server::Inner>, String),
}

impl Seeder {
    pub(crate) fn shared(driver: Arc<Driver>, server: Weak<server::Inner>, name: &str) -> Seeder {
        Seeder::new(driver, Place::Shared(server, name.to_owned()), None)
    }

    fn new(driver: Arc<Driver>, place: Place, url: Option<String>) -> Seeder {
        Seeder { inner: Arc::new(Inner { process: Process::current(), driver, place, url }), cancel: None }
    }

    /// The same seeder, each of whose waits through this handle ends with `cancelled` once `cancel` is triggered.
    pub fn with_cancel(&self, cancel: Cancel) -> Seeder {
        Seeder { inner: self.inner.clone(), cancel: Some(cancel) }
    }

    /// Where a leecher finds it, as it stands in a URL: of a seeder that listens by itself.
    pub fn url(&self) -> Option<&str> {
        self.inner.url.as_deref()
    }

    /// The command by which a leecher takes the region, with all that it needs: its environment holds a token, which is
    /// a secret. `None` unless the seeder made certificate and token by itself.
    pub fn client_line(&self) -> Option<String> {
        match &self.inner.place {
            Place::Own(server) => server.line_for("leech", self.url()?).map(|line| line + " LOCAL"),
            Place::Shared(..) => None,
        }
    }

    /// The event after number `after` (0 for the first of all), waiting for it at most `timeout` (zero: for ever).
    /// Each has the next number, and none is left out for who keeps up: the newest 1024 are kept, and who asks for an
    /// older one gets the oldest of them. After the last event of a closed seeder: `closed`.
    pub fn next(&self, after: u64, timeout: Duration) -> Result<SeedEvent> {
        self.driver()?.log().next(after, &self.limit(timeout))
    }

    /// The app has stopped writing, as the event of that number asked; `payload` (at most 16 MiB) goes with the
    /// region. Calls on the mount fail `suspended` from now on. What comes of it is told by an event. An answer to an
    /// older event is `stale_epoch`.
    pub fn suspended(&self, sequence: u64, payload: &[u8]) -> Result<()> {
        self.driver()?.suspended(sequence, payload)
    }

    /// The app does not stop now, though the event of that number asked; the leecher hears `reason` and goes on pulling.
    pub fn refuse(&self, sequence: u64, reason: &str) -> Result<()> {
        self.driver()?.on(Event::Refused { sequence, reason: reason.to_owned() })
    }

    /// Waits until the leecher has every byte, for at most `timeout` (zero: for ever).
    pub fn wait_drained(&self, timeout: Duration) -> Result<()> {
        self.driver()?.log().wait(SeedState::Drained, &self.limit(timeout), "wait until the region is drained")
    }

    /// Gives up what the leecher still lacks: those bytes are lost. For a region that was given away.
    pub fn abandon(&self) -> Result<()> {
        self.driver()?.on(Event::Abandon)
    }

    /// Takes the region back by force from a leecher that is lost for good: what was written there is lost, and should
    /// it come back it fences itself. The mount goes on by its handle; its device was taken away with the region.
    pub fn reclaim(&self) -> Result<()> {
        self.driver()?.on(Event::Reclaim)
    }

    /// Figures of this seeder.
    pub fn stats(&self) -> Result<Stats> {
        Ok(self.driver()?.stats())
    }

    /// Ends it; a leecher that pulls hears so. `busy` between `committed` and `drained`, when the leecher still lacks
    /// bytes: [`abandon`](Seeder::abandon) gives them up. The mount stays open.
    pub fn close(&self) -> Result<()> {
        self.driver()?;
        self.inner.end(false)
    }

    fn driver(&self) -> Result<&Driver> {
        if self.inner.process.is_current() {
            return Ok(&self.inner.driver);
        }
        Err(Error::new(Code::Closed, "this seeder belongs to the process that was forked"))
    }

    fn limit(&self, timeout: Duration) -> Limit {
        Limit::within(timeout).with_cancel(self.cancel.clone())
    }
}

impl Inner {
    fn end(&self, force: bool) -> Result<()> {
        self.driver.end(force)?;
        match &self.place {
            Place::Own(server) => match server.close() {
                Err(error) if error.code() != Code::Closed => Err(error),
                _ => Ok(()),
            },
            Place::Shared(server, name) => {
                server.upgrade().iter().for_each(|server| server.withdraw(name, &self.driver));
                Ok(())
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if !self.process.is_current() {
            return;
        }
        if self.driver.is_needed() {
            tracing::warn!("a seeder was dropped whose leecher still lacked bytes");
        }
        if let Err(error) = self.end(true) {
            tracing::warn!(%error, "a seeder that was dropped did not end cleanly");
        }
    }
}
