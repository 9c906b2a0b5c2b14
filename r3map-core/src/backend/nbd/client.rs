//! What the connections of one client have in common: the export as it was first seen, and what the server
//! acknowledged that may not be durable.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use once_cell::sync::OnceCell;

use super::greet::{Agreed, greet};
use super::link::{Asked, Body};
use crate::backend::link::{self, Absence, Connected, Link, Links};
use crate::backend::remote::Way;
use crate::backend::{self, Completion, Extent, Info, Operation, Priority, Reply, Request};
use crate::buffer::{Buffer, is_zero};
use crate::cancel::{Limit, Waiter};
use crate::error::{Code, Error, Result};
use crate::thread::Process;
use crate::wire::nbd::{Command, command_flags, flags};
use crate::wire::socket::{self, PeerProcess};

/// How long connecting and the negotiation may take.
const GREETING_TIME: Duration = Duration::from_secs(10);
/// More requests at once than this fill no network the server's answers do not fill already.
const CONCURRENCY: u32 = 64;
/// The unit of transfer over a network.
const CHUNK_SIZE: u32 = 256 << 10;
/// Connections for bulk, where the server agrees to several.
const BULK_LINKS: u16 = 2;
/// The longest range in one request that carries no bytes: a multiple of any alignment.
const LONGEST_RANGE: u64 = 1 << 30;

/// A client of one export.
pub struct Client {
    process: Process,
    way: Way,
    export: String,
    pub(super) info: Info,
    agreed: Agreed,
    kept: Mutex<Kept>,
    pub(super) links: Links<Client>,
    next: AtomicUsize,
    closed: OnceCell<()>,
}

/// What the server acknowledged and whether it lasts.
struct Kept {
    /// The process that serves, where the kernel knows.
    server: Option<PeerProcess>,
    /// How many writes were acknowledged.
    acknowledged: u64,
    /// How many of those were so before a sync that worked.
    synced: u64,
    /// Set when writes that were not synced may be gone: every later sync says so.
    lost: Option<Error>,
}

impl Client {
    /// Connects, chooses the export, and starts the threads.
    pub fn start(url: &str, way: Way, export: &str) -> Result<Arc<Client>> {
        let deadline = Instant::now() + GREETING_TIME;
        let socket = socket::connect(&way.address, way.insecure, deadline)?;
        let (connected, agreed) = greet(socket, export, way.tls.as_ref(), deadline)?;
        let offered = |flag| agreed.flags & flag != 0;
        let info = Info {
            local: false,
            read_only: offered(flags::READ_ONLY),
            chunk_size: CHUNK_SIZE,
            alignment: agreed.alignment,
            max_request: agreed.max_request,
            concurrency: CONCURRENCY,
            managed_by_default: true,
            ..Info::local(url, agreed.size)
        };
        let links = if offered(flags::CAN_MULTI_CONN) { 1 + BULK_LINKS } else { 1 };
        let kept = Kept { server: server_of(&connected), acknowledged: 0, synced: 0, lost: None };
        let client = Arc::new(Client {
            process: Process::current(),
            way,
            export: export.to_owned(),
            info,
            agreed,
            kept: Mutex::new(kept),
            links: Links::new(links),
            next: AtomicUsize::new(0),
            closed: OnceCell::new(),
        });
        Links::start(&client, Some(connected))?;
        Ok(client)
    }

    /// What was agreed to.
    pub fn agreed(&self) -> &Agreed {
        &self.agreed
    }

    fn offers(&self, flag: u16) -> bool {
        self.agreed.flags & flag != 0
    }

    /// Sends a request on its way.
    pub fn submit(self: &Arc<Self>, request: Request) {
        let Request { operation, priority, deadline, completion } = request;
        if let Err(error) = self.check(&operation) {
            return completion.complete(Err(error));
        }
        let (command, offset, length, body) = match operation {
            Operation::Read { buffer, .. } if buffer.is_empty() => return completion.complete(Ok(Reply::Data(buffer))),
            Operation::Write { data, .. } if data.is_empty() => return completion.complete(Ok(Reply::Done)),
            Operation::Zero { length: 0, .. } => return completion.complete(Ok(Reply::Done)),
            Operation::Read { offset, buffer } if !self.is_aligned(offset, buffer.len() as u64) => {
                let (client, limit) = (self.clone(), Limit { deadline, cancel: None });
                return backend::run_on_pool(move || {
                    completion.complete(client.read_wider(offset, buffer, priority, &limit))
                });
            }
            Operation::Read { offset, buffer } => (Command::Read, offset, buffer.len() as u64, Body::read(buffer)),
            Operation::Write { offset, data } if self.offers(flags::SEND_WRITE_ZEROES) && is_zero(&data) => {
                (Command::WriteZeroes, offset, data.len() as u64, Body::Nothing)
            }
            Operation::Write { offset, data } => {
                (Command::Write, offset, data.len() as u64, Body::Write(Arc::new(data)))
            }
            Operation::Zero { offset, length } if self.offers(flags::SEND_WRITE_ZEROES) && length <= LONGEST_RANGE => {
                (Command::WriteZeroes, offset, length, Body::Nothing)
            }
            Operation::Zero { offset, length } => {
                let (client, limit) = (self.clone(), Limit { deadline, cancel: None });
                return backend::run_on_pool(move || {
                    completion.complete(client.zero(offset, length, priority, &limit))
                });
            }
            Operation::Sync => match self.needs_flush() {
                Ok(false) => return completion.complete(Ok(Reply::Done)),
                Ok(true) => (Command::Flush, 0, 0, Body::Flush { covers: self.kept().acknowledged }),
                Err(error) => return completion.complete(Err(error)),
            },
        };
        let writes = matches!(command, Command::Write | Command::WriteZeroes);
        let flags = if writes && self.is_written_through() { command_flags::FUA } else { 0 };
        let asked = Asked { command, flags, offset, length: length as u32, body, failure: None };
        let link = if command == Command::Flush { self.links.first() } else { self.link(priority) };
        link.submit(self, asked, deadline, completion);
    }

    /// The connection for the next request of this priority.
    fn link(&self, priority: Priority) -> &Arc<Link<Client>> {
        match (priority, self.links.bulk()) {
            (Priority::Bulk, bulk @ [_, ..]) => &bulk[self.next.fetch_add(1, Ordering::Relaxed) % bulk.len()],
            _ => self.links.first(),
        }
    }

    /// Submits an operation and waits for it.
    fn call(self: &Arc<Self>, operation: Operation, priority: Priority, limit: &Limit) -> Result<Reply> {
        let (waiter, notifier) = Waiter::new();
        let completion = Completion::new(move |outcome| notifier.notify(outcome));
        self.submit(Request { operation, priority, deadline: limit.deadline, completion });
        waiter.wait(&limit.and_a_moment(), &self.info.name)?
    }

    /// Whether a request keeps to the server's blocks.
    fn is_aligned(&self, offset: u64, length: u64) -> bool {
        let alignment = u64::from(self.info.alignment);
        offset % alignment == 0 && (length % alignment == 0 || offset + length == self.info.size)
    }

    /// Reads the blocks in which the bytes lie.
    fn read_wider(
        self: &Arc<Self>,
        offset: u64,
        mut buffer: Buffer,
        priority: Priority,
        limit: &Limit,
    ) -> Result<Reply> {
        let alignment = u64::from(self.info.alignment);
        let end = offset + buffer.len() as u64;
        let most = u64::from(self.info.max_request);
        let mut at = offset / alignment * alignment;
        while at < end {
            let length = (end.next_multiple_of(alignment).min(self.info.size) - at).min(most);
            let operation = Operation::Read { offset: at, buffer: Buffer::new(length as usize) };
            let reply = self.call(operation, priority, limit)?;
            let (from, until) = (at.max(offset), (at + length).min(end));
            let wanted = &mut buffer[(from - offset) as usize..(until - offset) as usize];
            match reply {
                Reply::Data(data) => wanted.copy_from_slice(&data[(from - at) as usize..(until - at) as usize]),
                _ => wanted.fill(0),
            }
            at += length;
        }
        Ok(Reply::Data(buffer))
    }

    /// Makes a range zero in several requests, which carry zeros where the server has no better way.
    fn zero(self: &Arc<Self>, offset: u64, length: u64, priority: Priority, limit: &Limit) -> Result<Reply> {
        let short = self.offers(flags::SEND_WRITE_ZEROES);
        let most = if short { LONGEST_RANGE } else { u64::from(self.info.max_request.min(1 << 20)) };
        let mut done = 0;
        while done < length {
            let (offset, length) = (offset + done, (length - done).min(most));
            let operation = match short {
                true => Operation::Zero { offset, length },
                false => Operation::Write { offset, data: Buffer::zeroed(length as usize) },
            };
            self.call(operation, priority, limit)?;
            done += length;
        }
        Ok(Reply::Done)
    }

    /// Why a request is refused before it travels, if it is.
    fn check(&self, operation: &Operation) -> Result<()> {
        link::check(self.process, &self.info, operation)?;
        let (offset, length) = match operation {
            Operation::Write { offset, data } => (*offset, data.len() as u64),
            Operation::Zero { offset, length } => (*offset, *length),
            Operation::Read { .. } | Operation::Sync => return Ok(()),
        };
        if self.is_aligned(offset, length) {
            return Ok(());
        }
        let message = format!(
            "{}: a write of {length} bytes at {offset}, where the server takes whole blocks of {} bytes: mount it \
             managed, which writes whole pages",
            self.info.name, self.info.alignment
        );
        Err(Error::new(Code::InvalidArgument, message))
    }

    /// Asks which bytes are zeros, where the server knows.
    pub fn extents(self: &Arc<Self>, offset: u64, length: u64, most: usize, limit: &Limit) -> Result<Vec<Extent>> {
        self.info.check(offset, length)?;
        if self.agreed.allocation.is_none() || length == 0 || !self.is_aligned(offset, length) {
            return Ok(vec![Extent { length, zero: false }]);
        }
        let length = length.min(LONGEST_RANGE);
        let found = Arc::new(Mutex::new(Vec::new()));
        let (waiter, notifier) = Waiter::new();
        let asked = Asked {
            command: Command::BlockStatus,
            flags: if most == 1 { command_flags::REQ_ONE } else { 0 },
            offset,
            length: length as u32,
            body: Body::Status(found.clone()),
            failure: None,
        };
        let completion = Completion::new(move |outcome| notifier.notify(outcome));
        self.links.first().submit(self, asked, limit.deadline, completion);
        waiter.wait(&limit.and_a_moment(), &self.info.name)??;
        let mut extents = std::mem::take(&mut *found.lock().unwrap_or_else(|e| e.into_inner()));
        extents.truncate(most.max(1));
        Ok(extents)
    }

    /// Has the server bring bytes near, if it can; nobody waits for it.
    pub fn prefetch(self: &Arc<Self>, offset: u64, length: u64) {
        let length = length.min(LONGEST_RANGE);
        if !self.offers(flags::SEND_CACHE)
            || self.info.check(offset, length).is_err()
            || !self.is_aligned(offset, length)
        {
            return;
        }
        let asked = Asked {
            command: Command::Cache,
            flags: 0,
            offset,
            length: length as u32,
            body: Body::Nothing,
            failure: None,
        };
        let deadline = Some(Instant::now() + GREETING_TIME);
        self.link(Priority::Bulk).submit(self, asked, deadline, Completion::new(drop));
    }

    /// Connects again for a link.
    pub(super) fn connect_again(&self) -> std::result::Result<Connected, Absence> {
        let deadline = Instant::now() + GREETING_TIME;
        let away_or_refused = |error: Error| match error.code() {
            Code::InvalidArgument
            | Code::NotFound
            | Code::PermissionDenied
            | Code::Unsupported
            | Code::NotAuthenticated => Absence::Refused(error),
            _ => Absence::Away(error),
        };
        // A path that is not there is a server that is away.
        let socket =
            socket::connect(&self.way.address, self.way.insecure, deadline).map_err(|error| match error.code() {
                Code::PermissionDenied => Absence::Refused(error),
                _ => Absence::Away(error),
            })?;
        let greeted = greet(socket, &self.export, self.way.tls.as_ref(), deadline);
        let (connected, agreed) = greeted.map_err(away_or_refused)?;
        if agreed != self.agreed {
            let (now, then) = (agreed, self.agreed);
            let what = if now.size != then.size {
                format!("{} bytes instead of {}", now.size, then.size)
            } else {
                "other abilities".to_owned()
            };
            let message = format!("{}: the server now shows another export, with {what}: open it anew", self.info.name);
            return Err(Absence::Changed(Error::new(Code::Corrupt, message)));
        }
        self.kept().now_with(server_of(&connected), &self.info.name);
        Ok(connected)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Whether each write is durable when it is acknowledged, because the server knows no other way to make it so.
    fn is_written_through(&self) -> bool {
        !self.offers(flags::SEND_FLUSH) && self.offers(flags::SEND_FUA)
    }

    /// Whether a sync has something to do; an error where it could not be done.
    fn needs_flush(&self) -> Result<bool> {
        let kept = self.kept();
        if let Some(lost) = &kept.lost {
            return Err(lost.clone());
        }
        if self.offers(flags::SEND_FLUSH) {
            return Ok(!self.info.read_only);
        }
        if self.is_written_through() || kept.acknowledged == 0 {
            return Ok(false);
        }
        let message = format!(
            "{}: sync: the server knows no way to make writes durable: neither FLUSH nor FUA are offered",
            self.info.name
        );
        Err(Error::new(Code::Unsupported, message))
    }

    /// Takes down that the server acknowledged this, or says why it is worth nothing.
    pub fn acknowledged(&self, asked: (Command, &Body)) -> Result<()> {
        match asked {
            (Command::Write | Command::WriteZeroes, _) if !self.is_written_through() => {
                self.kept().acknowledged += 1;
            }
            (_, Body::Flush { covers }) => {
                let mut kept = self.kept();
                match &kept.lost {
                    Some(lost) => return Err(lost.clone()),
                    None => kept.synced = kept.synced.max(*covers),
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Ends everything with `closed`; fails so itself if that was done before.
    pub fn close(self: &Arc<Self>) -> Result<()> {
        let error = Error::new(Code::Closed, format!("{} is closed", self.info.name));
        if !self.process.is_current() || self.closed.set(()).is_err() {
            return Err(error);
        }
        link::end(&**self, &error);
        Ok(())
    }
}

impl Kept {
    fn now_with(&mut self, server: Option<PeerProcess>, name: &str) {
        if self.server.is_some() && server == self.server {
            return;
        }
        self.server = server;
        if self.acknowledged > self.synced && self.lost.is_none() {
            let message = format!(
                "{name}: the connection broke, and if the server was restarted it may have lost {} writes that it \
                 acknowledged and nobody synced",
                self.acknowledged - self.synced
            );
            let lost = Error::new(Code::Io, message);
            tracing::error!(error = %lost, "acknowledged writes may be lost");
            self.lost = Some(lost);
        }
    }
}

fn server_of(connected: &Connected) -> Option<PeerProcess> {
    socket::peer_process(connected.channel.socket().as_fd())
}
