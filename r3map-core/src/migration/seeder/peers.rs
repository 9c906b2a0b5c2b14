//! The connections of those to whom a region may move.

use std::sync::{Arc, Mutex, MutexGuard};

use crate::buffer::Buffer;
use crate::migration::Message;
use crate::wire::channel::{Channel, Packet, Payload};
use crate::wire::{Hello, Identity};

/// One connection.
pub struct Peer {
    /// The client whose it is.
    pub client: Identity,
    role: u16,
    channel: Arc<Channel>,
    /// The session it belongs to.
    session: Mutex<Option<Identity>>,
}

impl Peer {
    /// A connection that was greeted so.
    pub fn new(hello: &Hello, channel: &Arc<Channel>) -> Arc<Peer> {
        let session = hello.session.filter(|session| *session != Identity::default());
        let (client, role, channel) = (hello.client, hello.role, channel.clone());
        Arc::new(Peer { client, role, channel, session: Mutex::new(session) })
    }

    /// The session it belongs to, if one was named.
    pub fn session(&self) -> Option<Identity> {
        *self.session.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// From now on it belongs to this session.
    pub fn join(&self, session: Identity) {
        *self.session.lock().unwrap_or_else(|e| e.into_inner()) = Some(session);
    }

    /// Sends a message, or loses it.
    pub fn say(&self, message: &Message) {
        if let Message::Tracking { session, .. } = message {
            self.join(*session);
        }
        let (header, payload) = message.encode();
        // A peer that is gone comes back and asks again.
        let _ = self.channel.send(Packet::ready(header, Payload::Owned(Buffer::copy_of(&payload))));
    }
}

/// Those that are connected, in the order in which they came.
#[derive(Default)]
pub struct Peers(Mutex<Vec<Arc<Peer>>>);

impl Peers {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Peer>>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// One more.
    pub fn arrive(&self, peer: &Arc<Peer>) {
        self.lock().push(peer.clone());
    }

    /// One less.
    pub fn leave(&self, peer: &Arc<Peer>) {
        self.lock().retain(|other| !Arc::ptr_eq(other, peer));
    }

    /// The newest of a client's connections on which messages travel.
    pub fn newest(&self, client: Identity) -> Option<Arc<Peer>> {
        self.lock().iter().rev().find(|peer| peer.client == client && peer.role == 0).cloned()
    }

    /// Ends every connection.
    pub fn cut(&self) {
        self.lock().iter().for_each(|peer| peer.channel.shutdown());
    }
}
