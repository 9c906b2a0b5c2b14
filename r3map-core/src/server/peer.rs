//! Who a client is, where its protocol has no word for that.

use std::os::fd::{AsFd, AsRawFd};

use nix::sys::socket::{SockaddrStorage, getpeername};

use crate::error::Result;
use crate::wire::channel::Channel;
use crate::wire::socket::PeerProcess;
use crate::wire::{Identity, socket};

/// Who a client is.
pub struct Peer {
    /// What its connections have in common.
    pub identity: Identity,
    /// For people.
    pub display: String,
    /// The process, where the kernel knows: all connections of the client have this identity then.
    pub process: Option<PeerProcess>,
}

impl Peer {
    /// The process at the other end of a UNIX socket, where the kernel knows. Nothing tells two TCP connections of
    /// one client from those of two, so each is a client.
    pub fn of(channel: &Channel, protocol: &str) -> Result<Peer> {
        let process = socket::peer_process(channel.socket().as_fd());
        if let Some((number, began)) = process {
            let mut identity = Identity::default();
            identity[..4].copy_from_slice(&number.to_be_bytes());
            identity[8..].copy_from_slice(&began.to_be_bytes());
            return Ok(Peer { identity, display: format!("process {number}"), process });
        }
        let address = getpeername::<SockaddrStorage>(channel.socket().as_raw_fd()).ok();
        let display = address.filter(|address| address.as_unix_addr().is_none()).map(|address| address.to_string());
        let display = display
            .map_or(format!("a client of {protocol}"), |address| format!("the client of {protocol} at {address}"));
        Ok(Peer { identity: socket::random()?, display, process })
    }
}
