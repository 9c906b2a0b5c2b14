//! `r3map://host:port/name`, `r3map+unix:///socket?name=name` and, by TLS, `r3maps://host:port/name` — an export of
//! another r3map.
//!
//! A request goes out on the thread that submits it and is completed on the thread that receives. Demand has a
//! connection of its own, so that the app never waits behind a megabyte of background; bulk has as many as help.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::backend::link::Protocol;
use crate::backend::{Backend, BackendOptions, Completion, Info, Request, RoundTrip, blocking};
use crate::cancel::{Limit, Waiter};
use crate::error::{Code, Error, Result};
use crate::tls::Above;
use crate::tls::client::ClientTls;
use crate::url::Location;
use crate::version::{Lineage, Version};
use crate::wire::DEFAULT_PORT;
use crate::wire::greeting::check_name;
use crate::wire::socket::Address;

mod bulk;
mod client;
pub mod leech;
mod link;
mod parcels;
mod spread;
mod timing;

pub(super) use client::Way;
use client::{Ask, Client, Route};
pub(crate) use client::{Ear, Facts};

/// An export of an r3map server. A connection that is lost is made again while requests wait for it; those
/// under way are sent once more. A server that then shows another region fails every call with `corrupt`.
pub struct Remote {
    handle: Arc<Handle>,
}

/// Ends the client, whose threads hold it too, when nobody uses it any more.
struct Handle {
    client: Arc<Client>,
}

impl Remote {
    /// Connects to the server that the location names.
    pub fn open(location: &Location, options: &BackendOptions) -> Result<Remote> {
        let (route, export) = route(location, options)?;
        Remote::start(location.as_str(), route, &export, Ask::of(options))
    }

    /// Speaks to a server over a connected stream socket, which is the backend's from here on. There is this
    /// one connection and no other: once it is lost every call fails `disconnected`.
    pub fn connect(descriptor: OwnedFd, name: &str, options: &BackendOptions) -> Result<Remote> {
        let url = format!("descriptor:{name}");
        check_options(&url, options)?;
        Remote::start(&url, Route::Descriptor(descriptor), name, Ask::of(options))
    }

    fn start(url: &str, route: Route, export: &str, ask: Ask) -> Result<Remote> {
        check_name(export).map_err(|error| error.context(url))?;
        let client = Client::start(url, route, export, ask, None).map_err(|error| error.context(url))?;
        Ok(Remote { handle: Arc::new(Handle { client }) })
    }

    /// This backend as one that is shared, for the ways of waiting that all backends have in common.
    fn shared(&self) -> Arc<dyn Backend> {
        Arc::new(Remote { handle: self.handle.clone() })
    }
}

/// The export that a URL names, with the writer's lease if it can be written to: the greeting asks for it, which saves a
/// round trip. `None` where the URL is none of this protocol's.
pub(crate) fn open_to_write(url: &str, options: &BackendOptions) -> Result<Option<Arc<dyn Backend>>> {
    let location = Location::parse(url)?;
    if !is_spoken(location.scheme()) {
        return Ok(None);
    }
    let (route, export) = route(&location, options)?;
    Ok(Some(Arc::new(Remote::start(url, route, &export, Ask { write: true, ..Ask::of(options) })?)))
}

/// Whether a URL of that scheme is of r3map's own protocol.
pub(super) fn is_spoken(scheme: &str) -> bool {
    matches!(scheme, "r3map" | "r3map+unix" | "r3maps")
}

/// The export that a URL names, while its server is away: it is connected to as soon as it is back, and has to show the
/// region of these facts. `ear` hears when it comes and goes.
pub(crate) fn open_away(url: &str, options: &BackendOptions, facts: &Facts, ear: Ear) -> Result<Arc<dyn Backend>> {
    let location = Location::parse(url)?;
    if !is_spoken(location.scheme()) {
        let message = format!("offline: {url} cannot be told from another region when it is back: use r3map://");
        return Err(Error::new(Code::Unsupported, message));
    }
    let (route, export) = route(&location, options)?;
    let ask = Ask { write: facts.will_write, ..Ask::of(options) };
    let client = Client::away(url, route, &export, ask, facts, ear).map_err(|error| error.context(url))?;
    Ok(Arc::new(Remote { handle: Arc::new(Handle { client }) }))
}

/// How to the server that a location names, and the name of the export there.
fn route(location: &Location, options: &BackendOptions) -> Result<(Route, String)> {
    let url = location.as_str();
    let mut tls = None;
    let (address, export) = match location.scheme() {
        "r3map+unix" => {
            check_options(url, options)?;
            let parameters = location.parameters(&["name"])?;
            let export = parameters.get("name").unwrap_or_default().to_owned();
            (Address::Unix(location.file_path()?), export)
        }
        scheme => {
            location.parameters(&[])?;
            let (host, port) = location.host_and_port(DEFAULT_PORT)?;
            match scheme {
                "r3maps" => tls = Some(ClientTls::new(options, &host, Above::Native).map_err(|e| e.context(url))?),
                _ => check_options(url, options)?,
            }
            (Address::Tcp(host, port), location.name()?)
        }
    };
    // Nobody in between reads what is encrypted.
    let insecure = options.insecure || tls.is_some();
    Ok((Route::Address(Way { address, insecure, tls: tls.map(Box::new) }), export))
}

/// Options that need TLS are refused where it is not spoken.
pub(super) fn check_options(url: &str, options: &BackendOptions) -> Result<()> {
    let BackendOptions { tls_cert, tls_key, tls_ca, tls_pin, token, insecure: _, compression: _ } = options;
    let given = [
        ("tls_cert", tls_cert.is_some()),
        ("tls_key", tls_key.is_some()),
        ("tls_ca", tls_ca.is_some()),
        ("tls_pin", tls_pin.is_some()),
        ("token", token.is_some()),
    ];
    match given.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((option, _)) => {
            let message = format!("{url}: {option} needs TLS, which this scheme does not speak");
            Err(Error::new(Code::InvalidArgument, message))
        }
    }
}

impl Backend for Remote {
    fn info(&self) -> &Info {
        self.handle.client.info()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        blocking::read_at(self.shared(), buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        blocking::write_at(self.shared(), data, offset)
    }

    fn zero_at(&self, offset: u64, length: u64) -> Result<()> {
        blocking::zero_at(self.shared(), offset, length)
    }

    fn sync(&self) -> Result<()> {
        blocking::sync(self.shared())
    }

    fn submit(self: Arc<Self>, request: Request) {
        self.handle.client.submit(request);
    }

    fn round_trip(&self) -> Option<RoundTrip> {
        self.handle.client.bulk.round_trip()
    }

    fn traffic(&self) -> Option<(u64, u64)> {
        Some(self.handle.client.parcels.traffic())
    }

    fn claim(&self, limit: &Limit) -> Result<()> {
        let (waiter, notifier) = Waiter::new();
        let completion = Completion::new(move |outcome| notifier.notify(outcome));
        self.handle.client.claim(limit.deadline, completion);
        waiter.wait(limit, "ask for the writer's lease")?.map(drop)
    }

    fn lineage(&self, _limit: &Limit) -> Result<Option<Lineage>> {
        self.handle.client.lineage()
    }

    fn hold(&self, version: Version) {
        self.handle.client.hold(version);
    }

    fn release(&self) {
        self.handle.client.release();
    }

    fn close(&self) -> Result<()> {
        self.handle.client.close()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // One that was closed, or belongs to the parent of this process, has nothing left to end.
        let _ = self.client.close();
    }
}
