//! Regions that may be moved, offered by name among the exports; and the connections of those who would have them.

use std::sync::Arc;

use super::connection::{Connection, Farewell, send_error};
use super::{Export, Inner, Protocol, Server};
use crate::buffer::Buffer;
use crate::error::{Code, Error, Result};
use crate::migration::Message;
use crate::migration::seeder::driver::Driver;
use crate::migration::seeder::peers::Peer;
use crate::migration::seeder::{self, Group, SeedOptions, Seeder};
use crate::mount::Mount;
use crate::wire::Kind;
use crate::wire::greeting;
use crate::wire::header::BLOCK;
use crate::wire::incoming::Incoming;

impl Server {
    /// Offers a mount to a leecher under a name, among the exports. The name in `options` has no meaning here, nor
    /// have `insecure` and credentials: the server listens.
    pub fn seed(&self, name: &str, mount: &Mount, options: &SeedOptions) -> Result<Seeder> {
        self.seed_mounts(name, std::slice::from_ref(mount), options)
    }

    /// Offers several mounts, which move as one, under a name.
    pub fn seed_group(&self, name: &str, group: &Group, options: &SeedOptions) -> Result<Seeder> {
        self.seed_mounts(name, &group.mounts(), options)
    }

    fn seed_mounts(&self, name: &str, mounts: &[Mount], options: &SeedOptions) -> Result<Seeder> {
        greeting::check_name(name)?;
        self.check_legacy(mounts.len(), options)?;
        let driver = self.offer(name, seeder::start(mounts, options)?, &options.allow)?;
        Ok(Seeder::shared(driver, Arc::downgrade(&self.inner), name))
    }

    /// An error unless what is to be seeded here can be leeched by what this server speaks.
    pub(crate) fn check_legacy(&self, mounts: usize, options: &SeedOptions) -> Result<()> {
        let protocol = self.inner.options.protocol;
        let refuse = |why: &str| Err(Error::new(Code::Unsupported, format!("seed: {why}")));
        match (protocol, options.allow_legacy) {
            (Protocol::R3map, false) => return Ok(()),
            (Protocol::R3map, true) => Protocol::Grpc.check().map_err(|error| error.context("allow_legacy"))?,
            (Protocol::Grpc, true) => {}
            (Protocol::Grpc, false) => {
                return refuse("gRPC knows neither sessions nor votes nor fencing: say allow_legacy if that will do");
            }
            _ => return refuse(&format!("a region does not move over {}", protocol.name())),
        }
        if !options.allow.is_empty() || self.inner.tls.get().is_some() {
            return refuse(
                "allow_legacy: leechers over gRPC cannot prove who they are: leave allow and credentials away",
            );
        }
        if mounts > 1 {
            return refuse("allow_legacy: over gRPC a region moves alone");
        }
        if self.inner.seeds_legacy() {
            return refuse("allow_legacy: gRPC has no names, and another region is seeded here for it");
        }
        Ok(())
    }

    /// Answers to that name with what is seeded; ends it where the name is taken.
    pub(crate) fn offer(&self, name: &str, driver: Arc<Driver>, allow: &[String]) -> Result<Arc<Driver>> {
        let export = Export {
            read_only: true,
            allow: allow.to_vec(),
            identity: driver.region().identity,
            seed: Some(driver.clone()),
            ..Export::of(driver.truth().clone())
        };
        self.insert(name, export).inspect_err(|_| drop(driver.end(true)))?;
        Ok(driver)
    }
}

impl Export {
    /// Whether it is seeded for leechers of the Go library.
    pub(super) fn allows_legacy(&self) -> bool {
        self.seed.as_ref().is_some_and(|seed| seed.allows_legacy())
    }
}

impl Inner {
    /// Whether something is seeded for leechers of the Go library.
    pub(super) fn seeds_legacy(&self) -> bool {
        let exports = self.exports.read().unwrap_or_else(|e| e.into_inner());
        exports.values().any(|export| export.allows_legacy())
    }

    /// Takes a name back from what was seeded under it.
    pub(crate) fn withdraw(&self, name: &str, driver: &Arc<Driver>) {
        let mut exports = self.exports.write().unwrap_or_else(|e| e.into_inner());
        if exports.get(name).and_then(|export| export.seed.as_ref()).is_some_and(|seed| Arc::ptr_eq(seed, driver)) {
            exports.remove(name);
        }
    }
}

impl Connection {
    /// Takes what a destination says and asks, on a connection whose both ends said that they migrate.
    pub(super) fn migrate(
        self: &Arc<Self>,
        incoming: &mut Incoming,
        seed: &Driver,
        peer: &Arc<Peer>,
    ) -> Result<Farewell> {
        let pages = seed.region().pages();
        loop {
            self.wait_for_room()?;
            let Some(header) = incoming.header(&self.channel, None, self.deadline)? else {
                return Ok(Farewell::Unsaid);
            };
            match header.kind {
                Kind::Read | Kind::Digest => match self.check_migrating(&header, seed, peer) {
                    Ok(()) => self.read(&header)?,
                    Err(error) => send_error(&self.channel, header.id, &error)?,
                },
                Kind::Track | Kind::Round | Kind::Finalize | Kind::Status | Kind::Taken | Kind::Complete => {
                    let mut payload = Buffer::new(header.payload as usize);
                    incoming.payload(&self.channel, &header, &mut payload)?;
                    seed.received(Message::decode(header.kind, &payload, pages)?, peer);
                }
                Kind::Write | Kind::Zero | Kind::Sync | Kind::Claim | Kind::Release => {
                    incoming.skip(&self.channel, &header)?;
                    let message = "what is seeded is not written by its destination: it has to take the region first";
                    send_error(&self.channel, header.id, &Error::new(Code::Unsupported, message))?;
                }
                Kind::Close => return Ok(Farewell::Said),
                other => {
                    let message = format!("a frame {other:?} makes no sense from a destination");
                    return Err(Error::new(Code::InvalidArgument, message));
                }
            }
        }
    }

    fn check_migrating(&self, header: &crate::wire::Header, seed: &Driver, peer: &Peer) -> Result<()> {
        if header.kind == Kind::Digest && header.offset % BLOCK != 0 {
            let message = format!("hashes at {}, which is no multiple of {BLOCK}", header.offset);
            return Err(Error::new(Code::InvalidArgument, message));
        }
        seed.check_read(peer)
    }
}

/// The hashes of these bytes, one for each block.
pub(super) fn digests(bytes: &[u8]) -> Buffer {
    let hashes: Vec<u8> = bytes.chunks(BLOCK as usize).flat_map(|block| *blake3::hash(block).as_bytes()).collect();
    Buffer::copy_of(&hashes)
}

/// Why a client that does not migrate is refused where something is seeded.
pub(super) fn refuse_plain(name: &str) -> Error {
    let message = format!("{name:?} is being seeded and is no plain export: leech it");
    Error::new(Code::Unsupported, message)
}
