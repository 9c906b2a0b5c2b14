//! Which connection of a client is its newest: an older one must be over before a newer one is answered,
//! so that no request of the old lands after one of the new.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use crate::error::{Code, Error, Result};
use crate::wire::channel::Channel;
use crate::wire::{Hello, Identity};

/// The newest connection of every client that has one.
#[derive(Default)]
pub struct Sessions {
    newest: Mutex<HashMap<Key, Entry>>,
    ended: Condvar,
}

/// A client, the export it has open, and what for.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    client: Identity,
    export: String,
    role: u16,
}

struct Entry {
    generation: u64,
    channel: Arc<Channel>,
}

/// A connection's place as the newest of its client. It ends, and lets a newer one in, when dropped.
pub struct Session<'a> {
    sessions: &'a Sessions,
    key: Key,
    generation: u64,
}

impl Sessions {
    /// Makes this connection the newest. An older one is cut and waited for until `deadline`; one that is
    /// not newer than another is `stale_epoch`.
    pub fn enter(&self, hello: &Hello, channel: &Arc<Channel>, deadline: Instant) -> Result<Session<'_>> {
        let key = Key { client: hello.client, export: hello.export.clone(), role: hello.role };
        let generation = hello.generation;
        let mut newest = self.newest.lock().unwrap_or_else(|e| e.into_inner());
        while let Some(entry) = newest.get(&key) {
            if entry.generation >= generation {
                let message = format!("connection {generation} of this client was overtaken by {}", entry.generation);
                return Err(Error::new(Code::StaleEpoch, message));
            }
            entry.channel.shutdown();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let message = "requests of this client's earlier connection are still under way";
                return Err(Error::new(Code::Busy, message));
            }
            newest = self.ended.wait_timeout(newest, left).unwrap_or_else(|e| e.into_inner()).0;
        }
        newest.insert(key.clone(), Entry { generation, channel: channel.clone() });
        Ok(Session { sessions: self, key, generation })
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        let mut newest = self.sessions.newest.lock().unwrap_or_else(|e| e.into_inner());
        if newest.get(&self.key).is_some_and(|entry| entry.generation == self.generation) {
            newest.remove(&self.key);
        }
        drop(newest);
        self.sessions.ended.notify_all();
    }
}
