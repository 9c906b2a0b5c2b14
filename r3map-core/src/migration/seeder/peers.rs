//! The connections of those to whom a region may move.

use std::sync::{Arc, Mutex, MutexGuard, Weak};

use crate::buffer::Buffer;
use crate::error::Result;
use crate::migration::{Dirty, Message};
use crate::wire::channel::{Channel, Packet, Payload};
use crate::wire::{Hello, Identity};

/// One connection.
pub struct Peer {
    /// The client whose it is.
    pub client: Identity,
    role: u16,
    voice: Voice,
    /// The session it belongs to.
    session: Mutex<Option<Identity>>,
}

/// How it is spoken to.
enum Voice {
    /// In frames.
    Frames(Arc<Channel>),
    /// By somebody who has other words for it.
    #[cfg_attr(not(feature = "grpc"), allow(dead_code))]
    Bridge(Weak<dyn Bridge>),
}

/// What stands for a destination whose own protocol is another. It is called while the source's machine is held.
pub trait Bridge: Send + Sync {
    /// The source says this.
    fn hear(&self, message: &Message);

    /// An error unless it can still be given the region, of which it lacks these pages.
    fn check_take(&self, dirty: &Dirty) -> Result<()>;

    /// There is no source any more.
    fn cut(&self);
}

impl Peer {
    /// A connection that was greeted so.
    pub fn new(hello: &Hello, channel: &Arc<Channel>) -> Arc<Peer> {
        let session = hello.session.filter(|session| *session != Identity::default());
        let (client, role, voice) = (hello.client, hello.role, Voice::Frames(channel.clone()));
        Arc::new(Peer { client, role, voice, session: Mutex::new(session) })
    }

    /// A client behind a bridge.
    #[cfg(feature = "grpc")]
    pub fn behind(bridge: Weak<dyn Bridge>, client: Identity) -> Arc<Peer> {
        Arc::new(Peer { client, role: 0, voice: Voice::Bridge(bridge), session: Mutex::default() })
    }

    fn bridge(&self) -> Option<Arc<dyn Bridge>> {
        match &self.voice {
            Voice::Frames(_) => None,
            Voice::Bridge(bridge) => bridge.upgrade(),
        }
    }

    /// Whether its protocol has no words for what an app hands over.
    pub fn is_bridged(&self) -> bool {
        matches!(self.voice, Voice::Bridge(_))
    }

    /// An error unless it can still be given the region, of which it lacks these pages.
    pub fn check_take(&self, dirty: &Dirty) -> Result<()> {
        self.bridge().map_or(Ok(()), |bridge| bridge.check_take(dirty))
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
        match &self.voice {
            Voice::Frames(channel) => {
                let (header, payload) = message.encode();
                // A peer that is gone comes back and asks again.
                let _ = channel.send(Packet::ready(header, Payload::Owned(Buffer::copy_of(&payload))));
            }
            Voice::Bridge(bridge) => bridge.upgrade().iter().for_each(|bridge| bridge.hear(message)),
        }
    }

    fn cut(&self) {
        match &self.voice {
            Voice::Frames(channel) => channel.shutdown(),
            Voice::Bridge(bridge) => bridge.upgrade().iter().for_each(|bridge| bridge.cut()),
        }
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
        self.lock().iter().for_each(|peer| peer.cut());
    }
}
