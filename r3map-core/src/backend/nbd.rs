//! `nbd://host:port/name` and `nbd+unix:///name?socket=/path` — an export of any NBD server; `nbds` and `nbds+unix`
//! by TLS, without which nothing is said then.
//!
//! As with an r3map server, a request goes out on the thread that submits it and is completed on the thread that
//! receives; demand and bulk traffic have connections of their own where the server says that several agree.
//!
//! NBD cannot say whether a server is the one that it was, nor end the requests of a connection that was lost: a sync
//! fails once a connection broke with writes that were not synced, unless the kernel knows the server for the same
//! process.

use std::sync::Arc;

use crate::backend::link::Protocol;
use crate::backend::remote::{Way, check_options};
use crate::backend::{Backend, BackendOptions, Extent, Info, Request, blocking};
use crate::cancel::Limit;
use crate::error::{Code, Error, Result};
use crate::tls::Above;
use crate::tls::client::ClientTls;
use crate::url::Location;
use crate::wire::nbd::{DEFAULT_PORT, handshake};
use crate::wire::socket::Address;

mod client;
mod greet;
mod link;
mod replies;

use client::Client;

/// An export of an NBD server. A connection that is lost is made again while requests wait for it; those under way
/// are sent once more. A server whose export has another size then fails every call with `corrupt`.
pub struct Nbd {
    handle: Arc<Handle>,
}

/// Ends the client, whose threads hold it too, when nobody uses it any more.
struct Handle {
    client: Arc<Client>,
}

impl Nbd {
    /// Connects to the server that the location names.
    pub fn open(location: &Location, options: &BackendOptions) -> Result<Nbd> {
        let url = location.as_str();
        let mut host = "localhost".to_owned();
        let address = match location.scheme() {
            "nbd+unix" | "nbds+unix" => {
                let parameters = location.parameters(&["socket"])?;
                let path = parameters.get("socket").filter(|path| path.starts_with('/'));
                let path = path.ok_or_else(|| {
                    let message = format!("{url}: no socket; write nbd+unix:///NAME?socket=/PATH");
                    Error::new(Code::InvalidArgument, message)
                })?;
                Address::Unix(path.into())
            }
            _ => {
                location.parameters(&[])?;
                let (found, port) = location.host_and_port(DEFAULT_PORT)?;
                host.clone_from(&found);
                Address::Tcp(found, port)
            }
        };
        let tls = match location.scheme() {
            "nbds" | "nbds+unix" => Some(ClientTls::new(options, &host, Above::Nbd).map_err(|e| e.context(url))?),
            _ => check_options(url, options).map(|()| None)?,
        };
        let way = Way { address, insecure: options.insecure || tls.is_some(), tls };
        let export = location.name()?;
        handshake::text(export.as_bytes()).map_err(|error| error.context(format!("{url}: name of the export")))?;
        let client = Client::start(url, way, &export).map_err(|error| error.context(url))?;
        Ok(Nbd { handle: Arc::new(Handle { client }) })
    }

    /// This backend as one that is shared, for the ways of waiting that all backends have in common.
    fn shared(&self) -> Arc<dyn Backend> {
        Arc::new(Nbd { handle: self.handle.clone() })
    }
}

impl Backend for Nbd {
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

    fn extents(&self, offset: u64, length: u64, most: usize) -> Result<Vec<Extent>> {
        self.handle.client.extents(offset, length, most, &Limit::within(blocking::DEADLINE))
    }

    fn prefetch(&self, offset: u64, length: u64) {
        self.handle.client.prefetch(offset, length);
    }

    fn sync(&self) -> Result<()> {
        blocking::sync(self.shared())
    }

    fn submit(self: Arc<Self>, request: Request) {
        self.handle.client.submit(request);
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
