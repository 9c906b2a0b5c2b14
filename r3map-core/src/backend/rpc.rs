//! `grpc://host:port?size=…`, by TLS `grpcs://…`, `frpc://…` and `panrpc://…` — a region served by the Go library r3map, or by whoever
//! speaks one of its protocols.
//!
//! The three say the same in other words: read, write, sync. What is common stands here, the words in a file each. Every
//! request is a task of the one runtime, so thousands are under way without a thread each.
//!
//! None of them can say how large the region is, so the URL does; nor whether a server is the one that it was. So a sync
//! fails once a connection broke with writes that were not synced.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::runtime::Handle as Runtime;
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until, timeout};

use crate::backend::remote::check_options;
use crate::backend::{self, Backend, BackendOptions, Completion, Info, Operation, Priority, Reply, Request};
use crate::buffer::Buffer;
use crate::cancel::{Limit, Waiter};
use crate::error::{Code, Error, Result};
use crate::thread::Process;
use crate::tls::Above;
use crate::tls::client::ClientTls;
use crate::url::Location;
use crate::wire::socket::Address;

mod dial;
#[cfg(any(feature = "frpc", feature = "panrpc"))]
mod exchange;
#[cfg(feature = "frpc")]
mod frpc;
#[cfg(feature = "grpc")]
mod grpc;
mod kept;
#[cfg(feature = "grpc")]
pub mod legacy;
mod link;
#[cfg(feature = "panrpc")]
mod panrpc;

use dial::Dial;
use kept::Kept;

/// Bound of a blocking call made without one.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long connecting and the first answer may take.
const GREETING_TIME: Duration = Duration::from_secs(10);
/// The port of a URL that names none: the Go library's examples listen there.
const DEFAULT_PORT: u16 = 1337;
/// The unit of transfer over a network.
const CHUNK_SIZE: u32 = 256 << 10;
/// More at once than fill any network there is.
const CONCURRENCY: u32 = 1024;
/// The longest message that the Go library's side of gRPC takes unless told otherwise.
const MAX_MESSAGE: u64 = 4 << 20;
/// The shortest and the longest that may be asked for: requests are multiples of a page, and 32 MiB at most.
const MESSAGES: std::ops::RangeInclusive<u64> = (8 << 10)..=(33 << 20);
/// What a message has besides its bytes, at most; rounded up to a page, so that requests are multiples of one.
const AROUND: u64 = 4 << 10;
/// The longest read or write that a server of the Go library takes.
const MOST_AT_ONCE: u64 = 32 << 20;
/// The pause after the first attempt that found no server; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What is asked of a server.
#[derive(Clone)]
enum Call {
    /// So many bytes there.
    Read { offset: u64, length: u32 },
    /// These bytes there; kept to be sent again.
    Write { offset: u64, data: Arc<Buffer> },
    /// Everything written is to be durable.
    Sync,
}

impl Call {
    /// What it is about, for messages.
    fn what(&self) -> String {
        match self {
            Call::Read { offset, length } => format!("read of {length} bytes at {offset}"),
            Call::Write { offset, data } => format!("write of {} bytes at {offset}", data.len()),
            Call::Sync => "sync".to_owned(),
        }
    }
}

/// An answer to come, and the number of the connection that brought it.
type Answer<'a> = Pin<Box<dyn Future<Output = Result<(Reply, u64)>> + Send + 'a>>;

/// One way to say a call to a server and hear its answer.
trait Wire: Send + Sync + 'static {
    /// Asks and waits for the answer, once.
    fn call(&self, call: Call, priority: Priority) -> Answer<'_>;
}

/// A region at the other end of one of the Go library's protocols. A connection that is lost is made again while
/// requests wait for it, and those under way are sent once more.
pub struct Rpc {
    handle: Arc<Handle>,
}

/// Ends the client, whose tasks hold it too, when nobody uses it any more.
struct Handle {
    client: Arc<Client>,
}

struct Client {
    process: Process,
    info: Info,
    runtime: Runtime,
    wire: Box<dyn Wire>,
    kept: Arc<Kept>,
    closed: watch::Sender<bool>,
}

impl Rpc {
    /// Makes a client of the server that the location names; it connects with the first request.
    pub fn open(location: &Location, options: &BackendOptions) -> Result<Rpc> {
        let Served { protocol, info, dial, message, .. } = Served::parse(location, options)?;
        let kept = Arc::new(Kept::new(location.as_str()));
        let wire: Box<dyn Wire> = match protocol.as_str() {
            #[cfg(feature = "grpc")]
            "grpc" | "grpcs" => Box::new(grpc::Grpc::new(dial, &kept, message)?),
            #[cfg(feature = "frpc")]
            "frpc" => Box::new(frpc::Frpc::new(dial, &kept, message)),
            #[cfg(feature = "panrpc")]
            "panrpc" => Box::new(panrpc::Panrpc::new(dial, &kept, message)),
            other => return Err(crate::url::unknown_scheme(other)),
        };
        let rpc = Rpc::over(info, wire, kept)?;
        rpc.try_out()?;
        Ok(rpc)
    }

    fn over(info: Info, wire: Box<dyn Wire>, kept: Arc<Kept>) -> Result<Rpc> {
        let (runtime, closed) = (crate::runtime::handle()?, watch::Sender::new(false));
        let client = Arc::new(Client { process: Process::current(), info, runtime, wire, kept, closed });
        Ok(Rpc { handle: Arc::new(Handle { client }) })
    }

    /// Reads a byte, without a second attempt: a server that is not there, or speaks something else, is found out when
    /// it is opened.
    fn try_out(&self) -> Result<()> {
        let client = self.handle.client.clone();
        if client.info.size == 0 {
            return Ok(());
        }
        let (waiter, notifier) = Waiter::new();
        let probe = client.clone();
        client.runtime.spawn(async move {
            let answer = timeout(GREETING_TIME, probe.wire.call(Call::Read { offset: 0, length: 1 }, Priority::Demand));
            notifier.notify(answer.await.unwrap_or_else(|_| Err(Error::new(Code::Timeout, "connect: no answer"))));
        });
        let answer = waiter.wait(&Limit::within(GREETING_TIME).and_a_moment(), "connect");
        answer.and_then(|answer| answer).map(drop).map_err(|error| error.context(&client.info.name))
    }

    /// This backend as one that is shared, for the ways of waiting that all backends have in common.
    fn shared(&self) -> Arc<dyn Backend> {
        Arc::new(Rpc { handle: self.handle.clone() })
    }
}

/// What a URL says of a server.
struct Served {
    protocol: String,
    info: Info,
    dial: Dial,
    /// The longest message.
    message: usize,
    /// Whether the unit of transfer was said.
    #[cfg_attr(not(feature = "grpc"), allow(dead_code))]
    has_chunk: bool,
}

impl Served {
    fn parse(location: &Location, options: &BackendOptions) -> Result<Served> {
        let url = location.as_str();
        let (protocol, unix) = match location.scheme().split_once('+') {
            Some((protocol, _)) => (protocol, true),
            None => (location.scheme(), false),
        };
        let parameters = location.parameters(&["size", "chunk", "max_message"])?;
        let invalid = |why: String| Err(Error::new(Code::InvalidArgument, format!("{url}: {why}")));
        let Some(size) = parameters.size("size")? else {
            return invalid(format!("no size, and {protocol} cannot ask for it: write ?size=1GiB"));
        };
        let message = parameters.size("max_message")?.unwrap_or(MAX_MESSAGE);
        if !MESSAGES.contains(&message) {
            return invalid(format!("max_message={message}: from 8KiB to 33MiB"));
        }
        let chunk = parameters.size("chunk")?;
        let chunk_size = chunk.unwrap_or(u64::from(CHUNK_SIZE));
        if !chunk_size.is_power_of_two() || !(4 << 10..=MOST_AT_ONCE).contains(&chunk_size) {
            return invalid(format!("chunk={chunk_size}: a power of two from 4KiB to 32MiB"));
        }
        let address = if unix {
            Address::Unix(location.file_path()?)
        } else {
            if !matches!(location.name()?.as_str(), "" | "/") {
                return invalid(format!("{protocol} has no names of exports: leave the path away"));
            }
            let (host, port) = location.host_and_port(DEFAULT_PORT)?;
            Address::Tcp(host, port)
        };
        let info = Info {
            local: false,
            chunk_size: chunk_size as u32,
            max_request: ((message - AROUND) / AROUND * AROUND).min(MOST_AT_ONCE) as u32,
            concurrency: CONCURRENCY,
            managed_by_default: true,
            ..Info::local(url, size)
        };
        let tls = match (&address, protocol) {
            (Address::Tcp(host, _), "grpcs") => {
                Some(Arc::new(ClientTls::new(options, host, Above::Grpc).map_err(|error| error.context(url))?))
            }
            _ => check_options(url, options).map(|()| None)?,
        };
        let dial = Dial { address, insecure: options.insecure, tls };
        Ok(Served { protocol: protocol.to_owned(), info, dial, message: message as usize, has_chunk: chunk.is_some() })
    }
}

/// What is to be done for an operation.
enum Step {
    Call(Call),
    Zero { offset: u64, length: u64 },
    Reply(Reply),
}

impl Client {
    /// Sends a request on its way.
    fn submit(self: &Arc<Self>, request: Request) {
        let Request { operation, priority, deadline, completion } = request;
        let call = match self.call_for(operation) {
            Ok(Step::Call(call)) => call,
            Ok(Step::Reply(reply)) => return completion.complete(Ok(reply)),
            Ok(Step::Zero { offset, length }) => {
                // No protocol knows zeros: they are written, which waits for each piece.
                let (client, limit) = (self.clone(), Limit { deadline, cancel: None });
                return backend::run_on_pool(move || completion.complete(client.zero(offset, length, &limit)));
            }
            Err(error) => return completion.complete(Err(error)),
        };
        let client = self.clone();
        self.runtime.spawn(async move {
            let outcome = client.run(call, priority, deadline).await;
            let outcome = outcome.map_err(|error| error.context(&client.info.name));
            // Whoever is told may let go of the backend, and then no task shall hold it any more.
            drop(client);
            completion.complete(outcome);
        });
    }

    /// What is to be done for an operation, or why it is refused here.
    fn call_for(&self, operation: Operation) -> Result<Step> {
        if !self.process.is_current() || *self.closed.borrow() {
            return Err(self.ended());
        }
        let too_long = |length: usize| {
            let most = self.info.max_request;
            let message = format!("{}: {length} bytes at once; the most is {most}: see max_message", self.info.name);
            if length > most as usize { Err(Error::new(Code::InvalidArgument, message)) } else { Ok(()) }
        };
        Ok(match operation {
            Operation::Read { offset, buffer } => {
                self.info.check(offset, buffer.len() as u64)?;
                too_long(buffer.len())?;
                match buffer.len() {
                    0 => Step::Reply(Reply::Data(buffer)),
                    length => Step::Call(Call::Read { offset, length: length as u32 }),
                }
            }
            Operation::Write { offset, data } => {
                self.info.check(offset, data.len() as u64)?;
                too_long(data.len())?;
                match data.is_empty() {
                    true => Step::Reply(Reply::Done),
                    false => Step::Call(Call::Write { offset, data: Arc::new(data) }),
                }
            }
            Operation::Zero { offset, length } => {
                self.info.check(offset, length)?;
                Step::Zero { offset, length }
            }
            Operation::Sync => Step::Call(Call::Sync),
        })
    }

    fn ended(&self) -> Error {
        let why = if self.process.is_current() { "it is closed" } else { "it belongs to the process that was forked" };
        Error::new(Code::Closed, format!("{}: {why}", self.info.name))
    }

    /// Has a call answered before the deadline, however often it takes.
    async fn run(&self, call: Call, priority: Priority, deadline: Option<Instant>) -> Result<Reply> {
        let mut closed = self.closed.subscribe();
        let cause = Mutex::new(None);
        let late = async {
            match deadline {
                Some(deadline) => sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => Err(self.ended()),
            outcome = self.attempt(&call, priority, &cause) => outcome,
            () = late => {
                let cause = cause.lock().unwrap_or_else(|e| e.into_inner()).take();
                Err(match cause {
                    Some(cause) => {
                        let what = format!("{}: there was no connection before the deadline", call.what());
                        Error::new(Code::Disconnected, format!("{what}: {}", cause.message()))
                    }
                    None => {
                        let what = call.what();
                        Error::new(Code::Timeout, format!("{what}: the server did not answer before the deadline"))
                    }
                })
            }
        }
    }

    async fn attempt(&self, call: &Call, priority: Priority, cause: &Mutex<Option<Error>>) -> Result<Reply> {
        let mut pause = FIRST_PAUSE;
        loop {
            let covers = self.kept.begin(call)?;
            match self.wire.call(call.clone(), priority).await {
                Err(error) if error.is_retryable() && matches!(error.code(), Code::Disconnected | Code::NotFound) => {
                    *cause.lock().unwrap_or_else(|e| e.into_inner()) = Some(error);
                }
                Err(error) => return Err(error),
                Ok((reply, connection)) => return self.kept.answered(call, covers, connection).map(|()| reply),
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Makes a range zero by writing zeros.
    fn zero(self: &Arc<Self>, offset: u64, length: u64, limit: &Limit) -> Result<Reply> {
        let most = u64::from(self.info.max_request).min(1 << 20);
        let mut done = 0;
        while done < length {
            let step = (length - done).min(most);
            let (waiter, notifier) = Waiter::new();
            self.submit(Request {
                operation: Operation::Write { offset: offset + done, data: Buffer::zeroed(step as usize) },
                priority: Priority::Bulk,
                deadline: limit.deadline,
                completion: Completion::new(move |outcome| notifier.notify(outcome)),
            });
            waiter.wait(&limit.and_a_moment(), &self.info.name)??;
            done += step;
        }
        Ok(Reply::Done)
    }
}

impl Backend for Rpc {
    fn info(&self) -> &Info {
        &self.handle.client.info
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        backend::read(&self.shared(), buffer, offset, &Limit::within(DEADLINE))
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        backend::write(&self.shared(), data, offset, &Limit::within(DEADLINE))
    }

    fn zero_at(&self, offset: u64, length: u64) -> Result<()> {
        let limit = Limit::within(DEADLINE);
        backend::call(&self.shared(), Operation::Zero { offset, length }, &limit, "zero").map(drop)
    }

    fn sync(&self) -> Result<()> {
        backend::call(&self.shared(), Operation::Sync, &Limit::within(DEADLINE), "sync").map(drop)
    }

    fn submit(self: Arc<Self>, request: Request) {
        self.handle.client.submit(request);
    }

    fn close(&self) -> Result<()> {
        let client = &self.handle.client;
        if !client.process.is_current() || client.closed.send_replace(true) {
            return Err(client.ended());
        }
        Ok(())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.client.process.is_current() {
            self.client.closed.send_replace(true);
        }
    }
}

/// An error unless a reply to a read says, and has, as many bytes as were asked for.
fn check_read(asked: u32, said: i64, has: usize) -> Result<()> {
    if said == i64::from(asked) && has as u64 == u64::from(asked) {
        return Ok(());
    }
    if (0..i64::from(asked)).contains(&said) && has <= asked as usize {
        let message = format!("the server read {said} bytes where {asked} were asked for: is its region so short?");
        return Err(Error::new(Code::Io, message));
    }
    let message = format!("a read of {asked} bytes was answered with {has}, said to be {said}");
    Err(Error::new(Code::Corrupt, message))
}

/// An error unless a reply to a write says that as many bytes were stored as were sent.
fn check_write(sent: usize, said: i64) -> Result<()> {
    match said {
        said if said == sent as i64 => Ok(()),
        said if (0..sent as i64).contains(&said) => {
            Err(Error::new(Code::Io, format!("the server stored {said} bytes of {sent}: is its region so short?")))
        }
        said => Err(Error::new(Code::Corrupt, format!("a write of {sent} bytes was answered with {said}"))),
    }
}
