//! Where a server is, and connecting to it.

use std::time::Instant;

use super::GREETING_TIME;
use crate::error::{Code, Error, Result};
use crate::wire::socket::{self, Address};
use crate::wire::stream::Stream;

/// Where the server is, and how it may be reached. Encryption has its place here, around the stream.
#[derive(Clone)]
pub struct Dial {
    /// Where it listens.
    pub address: Address,
    /// Whether plain TCP to another host is fine.
    pub insecure: bool,
}

impl Dial {
    /// Connects. A server that is away is `disconnected`, and a name nobody knows now may be known later.
    pub async fn connect(&self) -> Result<Stream> {
        let dial = self.clone();
        // Looking up a name waits.
        let connected = tokio::task::spawn_blocking(move || {
            socket::connect(&dial.address, dial.insecure, Instant::now() + GREETING_TIME)
        });
        let connected = connected.await.map_err(|_| Error::new(Code::Internal, "connect: the attempt panicked"))?;
        let socket = connected.map_err(|error| match error.code() {
            Code::Timeout => Error::new(Code::Disconnected, error.message()),
            Code::NotFound => error.with_retryable(true),
            _ => error,
        })?;
        Stream::new(socket).map_err(|error| Error::io("prepare a connection", error))
    }
}
