//! Exports as any NBD client sees them.
//!
//! A connection has a thread, which takes its requests; whoever has an answer sends it. All bytes go through the
//! [`Channel`](crate::wire::channel::Channel) and what reads from it; encryption lies below those, and begins where STARTTLS is answered.

use std::sync::Arc;
use std::time::Duration;

use super::peer::Peer;
use super::{Guest, Working};
use crate::error::Result;
use crate::wire::incoming::Incoming;

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
    let peer = Peer::of(channel, "NBD")?;
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
