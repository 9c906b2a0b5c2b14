//! Exports in the protocols of the Go library r3map, whose words are in a file each.
//!
//! Those protocols have no names: a server that speaks one has one export. Nor do they name clients, so the writer's
//! lease goes to a connection, or to the process at the other end of a UNIX socket.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use once_cell::sync::OnceCell;

use super::peer::Peer;
use super::under_way::UnderWay;
use super::{Export, Inner, Working, seeding};
use crate::backend::{self, Completion, Operation, Priority, Reply, Request};
use crate::buffer::Buffer;
use crate::cancel::deadline_in;
use crate::error::{Code, Error, Result};
use crate::wire::channel::Channel;

#[cfg(feature = "grpc")]
pub mod grpc;

/// The longest read or write, as in the Go library.
const MOST_AT_ONCE: u32 = 32 << 20;

/// A connection as a caller of what is exported.
pub struct Caller {
    server: Arc<Inner>,
    channel: Arc<Channel>,
    peer: Peer,
    /// What it uses, from its first request on.
    export: OnceCell<Arc<Export>>,
    /// Whether it has the writer's lease, and so keeps it.
    writes: AtomicBool,
    under_way: UnderWay,
    /// Set when nothing more is taken.
    over: AtomicBool,
}

impl Caller {
    /// A connection that has asked nothing yet.
    pub fn new(server: &Arc<Inner>, channel: &Arc<Channel>) -> Result<Arc<Caller>> {
        let peer = Peer::of(channel, server.options.protocol.name())?;
        let (server, channel) = (server.clone(), channel.clone());
        let (writes, over) = (AtomicBool::new(false), AtomicBool::new(false));
        let (export, under_way) = (OnceCell::new(), UnderWay::default());
        Ok(Arc::new(Caller { server, channel, peer, export, writes, under_way, over }))
    }

    fn export(&self) -> Result<&Arc<Export>> {
        self.export.get_or_try_init(|| {
            let (name, export) = self.server.only_export()?;
            if export.seed.is_some() {
                return Err(seeding::refuse_plain(&name));
            }
            export.lease.arrive(self.peer.identity);
            Ok(export)
        })
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
        Ok(if waits(export) { None } else { export.backend.try_read_at(buffer, offset) })
    }

    /// Writes in place, where no disk is waited for.
    pub fn try_write(&self, data: &[u8], offset: u64) -> Result<Option<Result<()>>> {
        let export = self.export()?;
        export.written.store(true, Ordering::SeqCst);
        Ok(if waits(export) { None } else { export.backend.try_write_at(data, offset) })
    }

    /// Has the backend do something with so many bytes, and tells the outcome from any thread.
    pub fn submit(
        self: &Arc<Self>,
        operation: Operation,
        bytes: u64,
        tell: impl FnOnce(Result<Reply>) + Send + 'static,
    ) -> Result<()> {
        let export = self.export()?;
        if matches!(operation, Operation::Write { .. }) {
            export.written.store(true, Ordering::SeqCst);
        }
        let on_pool = export.backend.info().local && (waits(export) || matches!(operation, Operation::Sync));
        self.under_way.enter(bytes);
        if self.over.load(Ordering::SeqCst) {
            self.under_way.leave(bytes);
            return Err(Error::new(Code::Disconnected, "the connection is closing"));
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
        if on_pool {
            backend::perform_on_pool(backend, request)
        } else {
            backend.submit(request)
        }
        Ok(())
    }

    /// Waits for what is under way.
    pub fn wait(&self) {
        self.under_way.wait();
    }

    /// Waits for what is under way and, if the server closes, until what it acknowledged is synced.
    pub fn finish(&self, working: Working<'_>) {
        self.over.store(true, Ordering::SeqCst);
        self.under_way.wait();
        if let Some(export) = self.export.get() {
            // A client that comes back is known again for sure over a UNIX socket alone: the next may write.
            export.lease.leave(self.peer.identity, true);
        }
        working.end();
    }
}

/// Whether a disk may have to be waited for: what lies in memory has no identity.
fn waits(export: &Export) -> bool {
    let info = export.backend.info();
    info.local && info.identity.is_some()
}

/// The bytes of a reply to a read, zeros among them.
pub fn bytes_of(reply: Reply, length: usize) -> Result<Buffer> {
    match reply {
        Reply::Data(buffer) if buffer.len() == length => Ok(buffer),
        Reply::Zeroes => Ok(Buffer::zeroed(length)),
        _ => Err(Error::new(Code::Internal, "a read was answered with another number of bytes")),
    }
}
