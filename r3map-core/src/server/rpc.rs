//! Exports in the protocols of the Go library r3map, whose words are in a file each.
//!
//! Those protocols have no names: a server that speaks one has one export. Nor do they name clients, so the writer's
//! lease goes to a connection, or to the process at the other end of a UNIX socket.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use once_cell::sync::OnceCell;

use super::peer::Peer;
use super::under_way::UnderWay;
use super::{Export, Inner, Working, caller, seeding};
use crate::backend::{self, Completion, Operation, Priority, Reply, Request};
use crate::buffer::Buffer;
use crate::cancel::deadline_in;
use crate::error::{Code, Error, Result};
#[cfg(feature = "grpc")]
use crate::migration::seeder::driver::Driver;
use crate::wire::channel::Channel;

#[cfg(feature = "frpc")]
pub mod frpc;
#[cfg(feature = "grpc")]
pub mod grpc;
#[cfg(feature = "panrpc")]
pub mod panrpc;

/// The longest read or write, as in the Go library.
const MOST_AT_ONCE: u32 = 32 << 20;

/// A connection as a caller of what is exported.
pub struct Caller {
    server: Arc<Inner>,
    channel: Arc<Channel>,
    peer: Peer,
    /// What it uses, from its first request on, and the name of that.
    export: OnceCell<(String, Arc<Export>)>,
    /// Whether it has the writer's lease, and so keeps it.
    writes: AtomicBool,
    under_way: UnderWay,
    /// Whether its thread may wait for a disk.
    may_wait: bool,
    /// Set when nothing more is taken.
    over: AtomicBool,
}

impl Caller {
    /// A connection that has asked nothing yet, on a thread of its own or on one that `may_wait` for no disk.
    pub fn new(server: &Arc<Inner>, channel: &Arc<Channel>, may_wait: bool) -> Result<Arc<Caller>> {
        let peer = Peer::of(channel, server.options.protocol.name())?;
        let (server, channel) = (server.clone(), channel.clone());
        let (writes, over) = (AtomicBool::new(false), AtomicBool::new(false));
        let (export, under_way) = (OnceCell::new(), UnderWay::default());
        Ok(Arc::new(Caller { server, channel, peer, export, writes, under_way, may_wait, over }))
    }

    fn named(&self) -> Result<&(String, Arc<Export>)> {
        self.export.get_or_try_init(|| {
            let found = self.server.only_export()?;
            found.1.lease.arrive(self.peer.identity);
            Ok(found)
        })
    }

    /// An error unless the export is for somebody of whom that much is known.
    #[cfg(feature = "grpc")]
    pub fn check(&self, who: &caller::Caller) -> Result<()> {
        let (name, export) = self.server.only_export()?;
        who.check(&name, &export.allow)
    }

    fn export(&self) -> Result<&Arc<Export>> {
        self.named().map(|(_, export)| export)
    }

    /// An error where what is here is to be leeched.
    pub fn check_plain(&self) -> Result<()> {
        let (name, export) = self.named()?;
        if export.seed.is_some() { Err(seeding::refuse_plain(name)) } else { Ok(()) }
    }

    /// What moves away what is here, where that may be by this protocol.
    #[cfg(feature = "grpc")]
    pub fn seed(&self) -> Result<&Arc<Driver>> {
        let (name, export) = self.named()?;
        let seed = export.seed.as_ref().filter(|_| export.allows_legacy());
        seed.ok_or_else(|| Error::new(Code::Unsupported, format!("{name:?} is not seeded, or not with allow_legacy")))
    }

    /// How many bytes there are.
    #[cfg(feature = "panrpc")]
    pub fn size(&self) -> Result<u64> {
        self.check_plain()?;
        self.export().map(|export| export.backend.info().size)
    }

    /// Whether a read or write can be, before anything is done or set aside for it: its offset.
    pub fn range(&self, offset: i64, length: i64) -> Result<u64> {
        let info = self.export()?.backend.info();
        let most = MOST_AT_ONCE.min(info.max_request);
        let (Ok(start), Ok(bytes)) = (u64::try_from(offset), u64::try_from(length)) else {
            return Err(Error::new(Code::InvalidArgument, format!("{length} bytes at {offset}: neither is negative")));
        };
        if bytes > most.into() {
            return Err(Error::new(Code::InvalidArgument, format!("{length} bytes at once; the most is {most}")));
        }
        info.check(start, bytes).map(|()| start)
    }

    /// Whether this is the writer of the export, so that [`claim`](Caller::claim) would say so at once.
    pub fn writes(&self) -> bool {
        self.writes.load(Ordering::SeqCst)
    }

    /// Makes this the writer of the export. Waits while another may still come back.
    pub fn claim(&self) -> Result<()> {
        if self.writes() {
            return Ok(());
        }
        let export = self.export()?;
        if export.read_only {
            return Err(Error::new(Code::ReadOnly, "the export is read-only"));
        }
        export.lease.claim(self.peer.identity, &self.peer.display, || self.channel.is_stopped())?;
        self.writes.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Reads in place, where no disk is waited for.
    pub fn try_read(&self, buffer: &mut Buffer, offset: u64) -> Result<Option<Result<()>>> {
        let export = self.export()?;
        Ok(if self.leaves(export) { None } else { export.backend.try_read_at(buffer, offset) })
    }

    /// Writes in place, where no disk is waited for.
    pub fn try_write(&self, data: &[u8], offset: u64) -> Result<Option<Result<()>>> {
        let export = self.export()?;
        export.written.store(true, Ordering::SeqCst);
        Ok(if self.leaves(export) { None } else { export.backend.try_write_at(data, offset) })
    }

    /// Has the backend do something with so many bytes, and tells the outcome from any thread.
    pub fn submit(
        self: &Arc<Self>,
        operation: Operation,
        bytes: u64,
        tell: impl FnOnce(Result<Reply>) + Send + 'static,
    ) {
        let export = match self.export() {
            Ok(export) => export,
            Err(error) => return tell(Err(error)),
        };
        if matches!(operation, Operation::Write { .. }) {
            export.written.store(true, Ordering::SeqCst);
        }
        let on_pool = export.backend.info().local && (self.leaves(export) || matches!(operation, Operation::Sync));
        self.under_way.enter(bytes);
        if self.over.load(Ordering::SeqCst) {
            self.under_way.leave(bytes);
            return tell(Err(Error::new(Code::Disconnected, "the connection is closing")));
        }
        let caller = self.clone();
        let request = Request {
            operation,
            priority: Priority::Demand,
            deadline: deadline_in(self.server.options.deadline),
            completion: Completion::new(move |outcome| {
                tell(outcome);
                if caller.under_way.leave(bytes) {
                    caller.channel.wake();
                }
            }),
        };
        let backend = export.backend.clone();
        if on_pool { backend::perform_on_pool(backend, request) } else { backend.submit(request) }
    }

    /// Whether requests are left to a thread of the pool, since a disk may have to be waited for: what lies in memory
    /// has no identity.
    fn leaves(&self, export: &Export) -> bool {
        let info = export.backend.info();
        !self.may_wait && info.local && info.identity.is_some()
    }

    /// Does what a client asks on a thread that may wait, and tells the outcome: what was read, or nothing.
    #[cfg(any(feature = "frpc", feature = "panrpc"))]
    pub fn perform(self: &Arc<Self>, ask: Ask, tell: impl FnOnce(Result<Buffer>) + Send + 'static) {
        if let Err(error) = self.check_plain() {
            return tell(Err(error));
        }
        let ready = match ask {
            Ask::Read { offset, length } => self.range(offset, length).and_then(|offset| {
                let mut buffer = Buffer::new(length as usize);
                let here = self.try_read(&mut buffer, offset)?;
                Ok(match here {
                    Some(outcome) => Ready::Now(outcome.map(|()| buffer)),
                    None => Ready::Later(Operation::Read { offset, buffer }, length as u64),
                })
            }),
            Ask::Write { offset, data } => self.range(offset, data.len() as i64).and_then(|offset| {
                self.claim()?;
                let length = data.len() as u64;
                Ok(match self.try_write(&data, offset)? {
                    Some(outcome) => Ready::Now(outcome.map(|()| Buffer::new(0))),
                    None => Ready::Later(Operation::Write { offset, data }, length),
                })
            }),
            Ask::Sync => Ok(Ready::Later(Operation::Sync, 0)),
        };
        match ready {
            Ok(Ready::Now(outcome)) => tell(outcome),
            Ok(Ready::Later(operation, bytes)) => {
                let length = if matches!(operation, Operation::Read { .. }) { bytes as usize } else { 0 };
                self.submit(operation, bytes, move |outcome| {
                    tell(outcome.and_then(|reply| match reply {
                        Reply::Done => Ok(Buffer::new(0)),
                        reply => bytes_of(reply, length),
                    }));
                });
            }
            Err(error) => tell(Err(error)),
        }
    }

    /// Nobody who does not receive answers gets more of them made.
    #[cfg(any(feature = "frpc", feature = "panrpc"))]
    pub fn wait_for_room(&self) -> Result<()> {
        while (self.channel.is_backed_up() || self.under_way.is_full()) && !self.channel.is_stopped() {
            self.channel.wait(false, None)?;
        }
        Ok(())
    }

    /// Waits for what is under way.
    #[cfg(feature = "grpc")]
    pub fn wait(&self) {
        self.under_way.wait();
    }

    /// Waits for what is under way and, if the server closes, until what it acknowledged is synced.
    pub fn finish(&self, working: Working<'_>) {
        self.over.store(true, Ordering::SeqCst);
        self.under_way.wait();
        if let Some((_, export)) = self.export.get() {
            // A client that comes back is known again for sure over a UNIX socket alone: the next may write.
            export.lease.leave(self.peer.identity, true);
        }
        working.end();
    }
}

/// What a client asks; nothing of it is checked.
#[cfg(any(feature = "frpc", feature = "panrpc"))]
pub enum Ask {
    /// So many bytes there.
    Read {
        /// Where.
        offset: i64,
        /// How many.
        length: i64,
    },
    /// These bytes there.
    Write {
        /// Where.
        offset: i64,
        /// The bytes.
        data: Buffer,
    },
    /// What was written is to be durable.
    Sync,
}

/// What was asked, done or to be done.
#[cfg(any(feature = "frpc", feature = "panrpc"))]
enum Ready {
    Now(Result<Buffer>),
    Later(Operation, u64),
}

/// The bytes of a reply to a read, zeros among them.
pub fn bytes_of(reply: Reply, length: usize) -> Result<Buffer> {
    match reply {
        Reply::Data(buffer) if buffer.len() == length => Ok(buffer),
        Reply::Zeroes => Ok(Buffer::zeroed(length)),
        _ => Err(Error::new(Code::Internal, "a read was answered with another number of bytes")),
    }
}
