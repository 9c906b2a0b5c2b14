//! Where a server is, and connecting to it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::GREETING_TIME;
use crate::error::{Code, Error, Result};
use crate::tls::client::ClientTls;
use crate::wire::channel::Channel;
use crate::wire::socket::{self, Address};
use crate::wire::stream::Stream;

/// Where the server is, and how it may be reached.
#[derive(Clone)]
pub struct Dial {
    /// Where it listens.
    pub address: Address,
    /// Whether plain TCP to another host is fine.
    pub insecure: bool,
    /// How TLS begins, where it is spoken.
    pub tls: Option<Arc<ClientTls>>,
}

impl Dial {
    /// Connects. A server that is away is `disconnected`, and a name nobody knows now may be known later.
    pub async fn connect(&self) -> Result<Stream> {
        let dial = self.clone();
        // Looking up a name waits, and files are read for TLS.
        let connected = tokio::task::spawn_blocking(move || dial.connect_now());
        let connected = connected.await.map_err(|_| Error::new(Code::Internal, "connect: the attempt panicked"))?;
        connected.map_err(|error| match error.code() {
            Code::Timeout => Error::new(Code::Disconnected, error.message()),
            Code::NotFound => error.with_retryable(true),
            _ => error,
        })
    }

    fn connect_now(&self) -> Result<Stream> {
        let deadline = Instant::now() + GREETING_TIME;
        // Nobody in between reads what is encrypted.
        let socket = socket::connect(&self.address, self.insecure || self.tls.is_some(), deadline)?;
        let stream = match &self.tls {
            None => Stream::new(socket),
            Some(tls) => {
                let channel = Arc::new(Channel::new(socket, Duration::ZERO)?);
                tls.begin(&channel, deadline)?;
                Stream::of(&channel)
            }
        };
        stream.map_err(|error| Error::io("prepare a connection", error))
    }
}
