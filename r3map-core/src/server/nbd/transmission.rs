//! The requests of a client that has chosen an export.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Peer;
use super::negotiation::{Agreed, most_payload};
use crate::backend::{self, Completion, Operation, Priority, Reply};
use crate::buffer::{Buffer, is_zero};
use crate::cancel::deadline_in;
use crate::error::{Code, Error, Result};
use crate::server::under_way::UnderWay;
use crate::server::{Export, Working};
use crate::wire::channel::Channel;
use crate::wire::incoming::Incoming;
use crate::wire::nbd::{Command, MOST_PAYLOAD, REQUEST_SIZE, Request, command_flags};

/// From this length on bytes go from a file to the socket without being read.
const LONG: u32 = 64 << 10;
/// The most extents in one answer.
const MOST_EXTENTS: usize = 4096;

/// A client and its export.
pub struct Connection {
    pub(super) channel: Arc<Channel>,
    export: Arc<Export>,
    /// Where all bytes are in one.
    pub(super) file: Option<Arc<File>>,
    /// Whether reads are answered in chunks.
    pub(super) structured: bool,
    /// Whether the client may ask which bytes are zeros.
    allocation: bool,
    peer: Peer,
    deadline: Duration,
    under_way: UnderWay,
}

impl Connection {
    /// A client that has agreed; each request may take so long, and so may what follows the head of one.
    pub fn new(agreed: Agreed, channel: Arc<Channel>, peer: Peer, deadline: Duration) -> Connection {
        let Agreed { export, structured, allocation } = agreed;
        let file = export.backend.file().filter(|_| channel.send_files().is_ok());
        Connection { channel, export, file, structured, allocation, peer, deadline, under_way: UnderWay::default() }
    }

    /// Takes requests until the connection ends.
    pub fn take_requests(self: &Arc<Self>, incoming: &mut Incoming) -> Result<()> {
        loop {
            if self.channel.is_stuck() {
                self.channel.uncork()?;
            }
            // Nobody who does not receive answers gets more of them made.
            while (self.channel.is_stuck() || self.under_way.is_full()) && !self.channel.is_stopped() {
                self.channel.wait(false, None)?;
            }
            let Some(bytes) = incoming.head::<REQUEST_SIZE>(&self.channel, None, self.deadline)? else {
                return Ok(());
            };
            // What is asked for in one breath is answered in one.
            if incoming.has(REQUEST_SIZE) {
                self.channel.cork();
            } else {
                self.channel.uncork()?;
            }
            let request = Request::parse(&bytes)
                .ok_or_else(|| Error::new(Code::InvalidArgument, "what the client sent is no NBD request"))?;
            match request.command {
                Some(Command::Disconnect) => return Ok(()),
                Some(Command::Write) => self.write(request, incoming)?,
                _ => match self.check(&request) {
                    Ok(()) => self.take(request)?,
                    Err(error) => self.answer(&request, Err(error))?,
                },
            }
        }
    }

    /// Takes a request that brings no bytes and makes sense.
    fn take(self: &Arc<Self>, request: Request) -> Result<()> {
        let (offset, length) = (request.offset, u64::from(request.length));
        match request.command {
            Some(Command::Read) if self.sends_file(&request) => return self.answer_from_file(&request),
            Some(Command::Read) => {
                let mut buffer = Buffer::new(request.length as usize);
                match self.export.backend.try_read_at(&mut buffer, offset) {
                    Some(outcome) => return self.answer(&request, outcome.map(|()| Reply::Data(buffer))),
                    None => self.submit(request, length, Operation::Read { offset, buffer }),
                }
            }
            Some(Command::Flush) => self.submit(request, 0, Operation::Sync),
            Some(Command::Cache) => {
                self.export.backend.prefetch(offset, length);
                return self.answer(&request, Ok(Reply::Done));
            }
            Some(Command::WriteZeroes) if request.has(command_flags::NO_HOLE) => {
                let backend = self.export.backend.clone();
                self.run(request, move || backend::write_zeros(&*backend, offset, length));
            }
            Some(Command::Trim | Command::WriteZeroes) => self.submit(request, 0, Operation::Zero { offset, length }),
            _ => return self.block_status(request),
        }
        Ok(())
    }

    /// Whether the bytes may go from their file to the socket: there are many, and they do not begin as a hole would.
    fn sends_file(&self, request: &Request) -> bool {
        let Some(file) = self.file.as_ref().filter(|_| request.length >= LONG) else { return false };
        let mut first = [0; 64];
        file.read_exact_at(&mut first, request.offset).is_ok() && !is_zero(&first)
    }

    fn write(self: &Arc<Self>, request: Request, incoming: &mut Incoming) -> Result<()> {
        if request.length as usize > MOST_PAYLOAD {
            // What follows might as well be anything.
            return Err(Error::new(Code::InvalidArgument, format!("a write of {} bytes", request.length)));
        }
        if let Err(error) = self.check(&request) {
            incoming.skip_bytes(&self.channel, request.length as usize)?;
            return self.answer(&request, Err(error));
        }
        let mut data = Buffer::new(request.length as usize);
        incoming.fill(&self.channel, &mut data)?;
        match self.export.backend.try_write_at(&data, request.offset) {
            Some(Ok(())) if request.is_fua() => {
                self.submit(request.without(command_flags::FUA), 0, Operation::Sync);
                Ok(())
            }
            Some(outcome) => self.answer(&request, outcome.map(|()| Reply::Done)),
            None => {
                self.submit(request, u64::from(request.length), Operation::Write { offset: request.offset, data });
                Ok(())
            }
        }
    }

    /// Why a request is refused before it reaches the backend, if it is. Of one that writes the client becomes the
    /// writer of the export; that waits, here and for this connection alone, while another may still come back.
    fn check(&self, request: &Request) -> Result<()> {
        use command_flags::{DF, FAST_ZERO, FUA, NO_HOLE, REQ_ONE};
        let refuse = |code, why: String| Err(Error::new(code, why));
        let info = self.export.backend.info();
        let (known, writes) = match request.command {
            Some(Command::Read) => (DF, false),
            Some(Command::Write | Command::Trim) => (0, true),
            Some(Command::WriteZeroes) => (NO_HOLE | FAST_ZERO, true),
            Some(Command::BlockStatus) if self.allocation => (REQ_ONE, false),
            Some(Command::BlockStatus) => {
                return refuse(Code::InvalidArgument, "block status was not negotiated".to_owned());
            }
            Some(Command::Cache) => (0, false),
            Some(Command::Flush) => return Ok(()),
            Some(Command::Disconnect) | None => {
                return refuse(Code::InvalidArgument, "an unknown command".to_owned());
            }
        };
        // Whatever reads is durable already.
        if request.flags & !(known | FUA) != 0 {
            return refuse(Code::InvalidArgument, format!("unknown flags {:#x}", request.flags));
        }
        info.check(request.offset, request.length.into())?;
        let alignment = u64::from(info.alignment.max(1));
        let end = request.offset + u64::from(request.length);
        if request.offset % alignment != 0 || (end % alignment != 0 && end != info.size) {
            return refuse(Code::InvalidArgument, format!("requests are multiples of {alignment} bytes"));
        }
        let carries = matches!(request.command, Some(Command::Read | Command::Write));
        let most = most_payload(info.max_request, info.alignment);
        if carries && request.length > most {
            return refuse(Code::InvalidArgument, format!("{} bytes at once; the most is {most}", request.length));
        }
        if request.has(FAST_ZERO) && request.command == Some(Command::WriteZeroes) {
            return refuse(Code::Unsupported, "nobody knows whether zeros are fast here".to_owned());
        }
        if writes {
            if self.export.read_only {
                return refuse(Code::ReadOnly, "the export is read-only".to_owned());
            }
            let Peer { identity, display, .. } = &self.peer;
            // It may wait, and then nobody else shall.
            self.channel.uncork()?;
            self.export.claim_to_write(*identity, display, || self.channel.is_stopped())?;
            self.export.written.store(true, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Has the backend do what a request with so many bytes asks for, and answers it then.
    fn submit(self: &Arc<Self>, request: Request, bytes: u64, operation: Operation) {
        self.under_way.enter(bytes);
        let connection = self.clone();
        // These take long even where the bytes are local.
        let long = match &operation {
            Operation::Sync => true,
            Operation::Zero { length, .. } => *length > MOST_PAYLOAD as u64,
            _ => false,
        };
        let asked = backend::Request {
            operation,
            priority: Priority::Demand,
            deadline: deadline_in(self.deadline),
            completion: Completion::new(move |outcome| connection.complete(request, bytes, outcome)),
        };
        let backend = self.export.backend.clone();
        if long && backend.info().local { backend::perform_on_pool(backend, asked) } else { backend.submit(asked) }
    }

    /// Does what a request asks for on a thread that may wait.
    fn run(self: &Arc<Self>, request: Request, job: impl FnOnce() -> Result<()> + Send + 'static) {
        self.under_way.enter(0);
        let connection = self.clone();
        backend::run_on_pool(move || connection.complete(request, 0, job().map(|()| Reply::Done)));
    }

    fn complete(self: &Arc<Self>, request: Request, bytes: u64, outcome: Result<Reply>) {
        if request.is_fua() && outcome.is_ok() && !matches!(request.command, Some(Command::Read)) {
            self.submit(request.without(command_flags::FUA), 0, Operation::Sync);
        } else {
            // A client that is gone needs no answer, and its thread learns so by itself.
            let _ = self.answer(&request, outcome);
        }
        self.leave(bytes);
    }

    fn leave(&self, bytes: u64) {
        if self.under_way.leave(bytes) {
            self.channel.wake();
        }
    }

    fn block_status(self: &Arc<Self>, request: Request) -> Result<()> {
        if request.length == 0 {
            return self.answer(&request, Err(Error::new(Code::InvalidArgument, "no bytes have no status")));
        }
        let most = if request.has(command_flags::REQ_ONE) { 1 } else { MOST_EXTENTS };
        let backend = self.export.backend.clone();
        let ask = move || backend.extents(request.offset, request.length.into(), most);
        if self.export.backend.info().local {
            return self.answer_extents(&request, ask());
        }
        self.under_way.enter(0);
        let connection = self.clone();
        backend::run_on_pool(move || {
            let _ = connection.answer_extents(&request, ask());
            connection.leave(0);
        });
        Ok(())
    }

    /// Waits for what is under way and, if the server closes, until what it acknowledged is synced.
    pub fn finish(&self, working: Working<'_>) {
        // What ends the connection is known already, if this fails.
        let _ = self.channel.uncork();
        self.under_way.wait();
        // Clients of NBD seldom say goodbye, and none that comes back is known again for sure: the next may write.
        self.export.lease.leave(self.peer.identity, true);
        working.end();
    }
}
