//! Exports as any NBD client sees them.
//!
//! A connection has a thread, which takes its requests; whoever has an answer sends it. All bytes go through the
//! [`Channel`] and what reads from it; encryption lies below those, and begins where STARTTLS is answered.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{SockaddrStorage, getpeername};

use super::{Guest, Working};
use crate::error::Result;
use crate::wire::channel::Channel;
use crate::wire::incoming::Incoming;
use crate::wire::socket::PeerProcess;
use crate::wire::{Identity, socket};

mod answer;
mod negotiation;
mod transmission;

use transmission::Connection;

/// How long the negotiation may take.
const GREETING_TIME: Duration = Duration::from_secs(10);
/// How long the last replies may take to reach the client.
const GOODBYE_TIME: Duration = Duration::from_secs(1);

/// Serves a connection to its end. One that is not admitted is told the reason.
pub(super) fn serve(guest: &Guest) {
    if let Err(error) = run(guest) {
        tracing::debug!(%error, "an NBD connection ended");
    }
    guest.channel.linger(GOODBYE_TIME);
}

fn run(guest: &Guest) -> Result<()> {
    let (server, channel, mut incoming) = (&*guest.inner, &guest.channel, Incoming::new());
    let peer = Peer::of(channel)?;
    let Some(agreed) = negotiation::negotiate(guest, &mut incoming, &peer)? else {
        return Ok(());
    };
    guest.greeted();
    let working = Working::begin(server)?;
    agreed.export.lease.arrive(peer.identity);
    let connection = Arc::new(Connection::new(agreed, channel.clone(), peer, server.options.deadline));
    let outcome = connection.take_requests(&mut incoming);
    connection.finish(working);
    outcome
}

/// Who a client is.
pub struct Peer {
    identity: Identity,
    /// For people.
    display: String,
    /// The process, where the kernel knows: all connections of the client have this identity then.
    process: Option<PeerProcess>,
}

impl Peer {
    /// The process at the other end of a UNIX socket, where the kernel knows. Nothing tells two TCP connections of
    /// one client from those of two, so each is a client.
    fn of(channel: &Channel) -> Result<Peer> {
        let process = socket::peer_process(channel.socket().as_fd());
        if let Some((number, began)) = process {
            let mut identity = Identity::default();
            identity[..4].copy_from_slice(&number.to_be_bytes());
            identity[8..].copy_from_slice(&began.to_be_bytes());
            return Ok(Peer { identity, display: format!("process {number}"), process });
        }
        let address = getpeername::<SockaddrStorage>(channel.socket().as_raw_fd()).ok();
        let display = address.filter(|address| address.as_unix_addr().is_none()).map(|address| address.to_string());
        let display = display.map_or("an NBD client".to_owned(), |address| format!("the NBD client at {address}"));
        Ok(Peer { identity: socket::random()?, display, process })
    }
}
