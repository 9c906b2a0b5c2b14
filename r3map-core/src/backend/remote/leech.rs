//! A client to which a region is to be moved: it also asks for hashes, and says and hears what a migration says.

use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use super::client::{Ask, Client, Route};
use super::{Handle, check_options, is_spoken, route};
use crate::backend::link::Protocol;
use crate::backend::{BackendOptions, Completion, Info, Operation, Priority, Request};
#[cfg(feature = "grpc")]
use crate::backend::{Reply, rpc::legacy::Legacy};
use crate::buffer::Buffer;
use crate::error::{Code, Error, Result};
use crate::migration::Message;
use crate::url::Location;
use crate::wire::channel::{Packet, Payload};
use crate::wire::greeting::{Moving, Welcome, check_name};
#[cfg(feature = "grpc")]
use crate::wire::header::{BLOCK, HASH};
use crate::wire::{Identity, MAX_PAYLOAD};

/// Unit of transfer where the source has not said one yet: 256 KiB.
const CHUNK_SIZE: u32 = 256 << 10;

/// What a client hears of a migration.
pub enum Heard {
    /// The source said this.
    Message(Message),
    /// There is a connection to the source.
    Connected,
    /// The connection was lost, or could not be made; it is tried again.
    Lost(Error),
    /// There will be no connection any more.
    Over(Error),
}

/// Who hears it, on the thread that receives.
pub type Ear = Box<dyn Fn(Heard) + Send + Sync>;

/// A region that was leeched before, so that its source need not be there to begin.
#[derive(Clone, Debug)]
pub struct Known {
    /// Its identity.
    pub identity: Identity,
    /// Its size in bytes.
    pub size: u64,
    /// Sizes of its parts in bytes.
    pub parts: Vec<u64>,
    /// Whether nothing ties it to its source any more.
    pub independent: bool,
}

impl Known {
    /// Whether a source shows this region.
    pub fn is_of(&self, welcome: &Welcome) -> bool {
        let parts = welcome.moving.as_ref().is_some_and(|moving| moving.parts == self.parts);
        (welcome.identity, welcome.size) == (self.identity, self.size) && parts
    }

    /// What its source would say, as far as it matters before it does.
    pub fn welcome(&self, version: u16) -> Welcome {
        Welcome {
            version,
            features: 0,
            written: None,
            moving: None,
            size: self.size,
            read_only: true,
            chunk_size: CHUNK_SIZE,
            alignment: 1,
            max_request: MAX_PAYLOAD,
            identity: self.identity,
            keeper: Identity::default(),
        }
    }
}

/// What a client has besides where it leeches.
pub struct Leech {
    ear: Ear,
    known: Option<Known>,
    said: Mutex<Said>,
}

struct Said {
    /// Zeros where none has begun.
    session: Identity,
    /// What the source said last.
    moving: Option<Moving>,
}

impl Leech {
    /// A client that goes on in `session`, zeros for none, and knows the region if it leeched it before.
    pub fn new(session: Identity, known: Option<Known>, ear: Ear) -> Leech {
        Leech { ear, known, said: Mutex::new(Said { session, moving: None }) }
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The session that new connections say.
    pub fn session(&self) -> Identity {
        self.said().session
    }

    /// The region, where it is known without its source.
    pub fn known(&self) -> Option<&Known> {
        self.known.as_ref()
    }

    /// The parts of the region, once they are known.
    pub fn parts(&self) -> Option<Vec<u64>> {
        let said = self.said().moving.as_ref().map(|moving| moving.parts.clone());
        said.or_else(|| self.known.as_ref().map(|known| known.parts.clone()))
    }

    /// The source greeted.
    pub fn greeted(&self, moving: &Moving) {
        self.said().moving = Some(moving.clone());
    }

    /// Tells who drives the migration.
    pub fn hear(&self, heard: Heard) {
        (self.ear)(heard);
    }
}

/// A region of a seeder, to be moved here.
pub struct Seed {
    way: Way,
}

/// What its seeder speaks.
enum Way {
    Native(Handle),
    #[cfg(feature = "grpc")]
    Legacy(Legacy),
}

impl Seed {
    /// Connects to the seeder that a URL names; to one of the Go library only where that is allowed.
    pub fn open(url: &str, options: &BackendOptions, allow_legacy: bool, leech: Leech) -> Result<Seed> {
        let location = Location::parse(url)?;
        #[cfg(feature = "grpc")]
        if matches!(location.scheme(), "grpc" | "grpc+unix") {
            if !allow_legacy {
                let message = format!(
                    "{url}: gRPC knows neither sessions nor votes nor fencing: say allow_legacy if that will do, or \
                     leech from an r3map:// URL"
                );
                return Err(Error::new(Code::Unsupported, message));
            }
            return Ok(Seed { way: Way::Legacy(Legacy::open(&location, options, leech)?) });
        }
        if allow_legacy {
            let message = format!("{url}: allow_legacy is for the grpc:// of a seeder of the Go library");
            return Err(Error::new(Code::InvalidArgument, message));
        }
        if !is_spoken(location.scheme()) {
            let message = format!("{url}: a region is leeched from the r3map:// of its seeder");
            return Err(Error::new(Code::Unsupported, message));
        }
        let (route, export) = route(&location, options)?;
        Seed::start(url, route, &export, options, leech)
    }

    /// Speaks to a seeder over a connected stream socket, as [`Remote::connect`](super::Remote::connect) does.
    pub fn connect(descriptor: OwnedFd, name: &str, options: &BackendOptions, leech: Leech) -> Result<Seed> {
        let url = format!("descriptor:{name}");
        check_options(&url, options)?;
        Seed::start(&url, Route::Descriptor(descriptor), name, options, leech)
    }

    fn start(url: &str, route: Route, export: &str, options: &BackendOptions, leech: Leech) -> Result<Seed> {
        check_name(export).map_err(|error| error.context(url))?;
        let client =
            Client::start(url, route, export, Ask::of(options), Some(leech)).map_err(|error| error.context(url))?;
        Ok(Seed { way: Way::Native(Handle { client }) })
    }

    /// What the source said of the region when it was first greeted.
    pub fn info(&self) -> &Info {
        match &self.way {
            Way::Native(handle) => handle.client.info(),
            #[cfg(feature = "grpc")]
            Way::Legacy(legacy) => legacy.info(),
        }
    }

    /// What the source said of its epoch and parts, if it was reached.
    pub fn moving(&self) -> Option<Moving> {
        match &self.way {
            Way::Native(handle) => handle.client.leech().and_then(|leech| leech.said().moving.clone()),
            #[cfg(feature = "grpc")]
            Way::Legacy(legacy) => Some(Moving { epoch: 0, parts: vec![legacy.info().size] }),
        }
    }

    /// Says a message, or loses it.
    pub fn say(&self, message: &Message) {
        match &self.way {
            Way::Native(handle) => {
                let (header, payload) = message.encode();
                let payload = Payload::Owned(Buffer::copy_of(&payload));
                handle.client.links.first().say(Packet::ready(header, payload));
            }
            #[cfg(feature = "grpc")]
            Way::Legacy(legacy) => legacy.say(message),
        }
    }

    /// Makes the connection that carries messages anew if nothing came by it since then, and it can be made anew.
    pub fn cut_if_silent(&self, since: Instant) {
        match &self.way {
            Way::Native(handle) if handle.client.can_reconnect() => handle.client.links.first().cut_if_silent(since),
            // HTTP/2 asks by itself whether the other side is there.
            _ => {}
        }
    }

    /// What is read from here on is of this session.
    pub fn enter(&self, session: Identity) {
        match &self.way {
            Way::Native(handle) => {
                let Some(leech) = handle.client.leech() else { return };
                let before = std::mem::replace(&mut leech.said().session, session);
                if before != session {
                    handle.client.greet_again();
                }
            }
            #[cfg(feature = "grpc")]
            Way::Legacy(_) => {}
        }
    }

    /// Asks for bytes.
    pub fn read(&self, operation: Operation, priority: Priority, deadline: Option<Instant>, completion: Completion) {
        let request = Request { operation, priority, deadline, completion };
        match &self.way {
            Way::Native(handle) => handle.client.submit(request),
            #[cfg(feature = "grpc")]
            Way::Legacy(legacy) => legacy.submit(request),
        }
    }

    /// Asks for the hashes of a range, which begins at a whole block; they come as the reply's data.
    pub fn digest(&self, range: (u64, u64), priority: Priority, deadline: Option<Instant>, completion: Completion) {
        match &self.way {
            Way::Native(handle) => handle.client.digest(range.0, range.1, priority, (deadline, completion)),
            // Nobody can be asked: hashes of nothing there is have all of it come.
            #[cfg(feature = "grpc")]
            Way::Legacy(_) => {
                let hashes = range.1.div_ceil(BLOCK) * HASH;
                completion.complete(Ok(Reply::Data(Buffer::zeroed(hashes as usize))));
            }
        }
    }

    /// How many bytes were sent and received.
    pub fn traffic(&self) -> (u64, u64) {
        match &self.way {
            Way::Native(handle) => handle.client.parcels.traffic(),
            // Its connections do not count.
            #[cfg(feature = "grpc")]
            Way::Legacy(_) => (0, 0),
        }
    }

    /// Ends the connections; every request under way or to come fails `closed`.
    pub fn close(&self) {
        match &self.way {
            // Closed twice is closed.
            Way::Native(handle) => drop(handle.client.close()),
            #[cfg(feature = "grpc")]
            Way::Legacy(legacy) => legacy.close(),
        }
    }
}
