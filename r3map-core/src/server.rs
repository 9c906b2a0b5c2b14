//! Backends offered to others by name.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::Backend;
use crate::error::{Code, Error, Result};

/// Options of a server.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Allows plain TCP on an address that is not loopback.
    pub insecure: bool,
    /// Bound of each blocking operation, and of a client's silence inside a message; zero waits for ever.
    pub deadline: Duration,
    /// How many connections at once; more are refused with `busy`.
    pub max_connections: usize,
}

impl Default for ServerOptions {
    fn default() -> ServerOptions {
        ServerOptions { insecure: false, deadline: Duration::from_secs(30), max_connections: 1024 }
    }
}

/// Options of an export.
#[derive(Clone, Debug, Default)]
pub struct ExportOptions {
    /// Refuse writes.
    pub read_only: bool,
}

/// A server of any number of exports on any number of addresses.
pub struct Server {}

impl Server {
    /// A server that offers nothing yet and listens nowhere.
    pub fn new(_options: ServerOptions) -> Result<Server> {
        Err(Error::new(Code::Unsupported, "not built yet"))
    }

    /// Listens at `host:port` (port 0: one is chosen) or `unix:/path`, and says the address as a client
    /// writes it in a URL: `r3map://host:port` or `r3map+unix:///path`.
    pub fn listen(&self, _address: &str) -> Result<String> {
        Err(Error::new(Code::Unsupported, "not built yet"))
    }

    /// Offers a backend under a name: 1 to 255 bytes of UTF-8 without NUL, a key and never a path.
    pub fn export(&self, _name: &str, _backend: Arc<dyn Backend>, _options: &ExportOptions) -> Result<()> {
        Err(Error::new(Code::Unsupported, "not built yet"))
    }

    /// Serves one connected stream socket. It is the server's from success on.
    pub fn handle(&self, _descriptor: OwnedFd) -> Result<()> {
        Err(Error::new(Code::Unsupported, "not built yet"))
    }

    /// Takes no more requests, answers those under way, and ends every connection. Acknowledged writes are
    /// synced to their backends first.
    pub fn close(&self) -> Result<()> {
        Err(Error::new(Code::Unsupported, "not built yet"))
    }
}
