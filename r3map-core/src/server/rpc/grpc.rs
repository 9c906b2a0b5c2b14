//! gRPC: a connection is a task of the runtime, and its thread waits for the end of either.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::bytes::Bytes;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use tonic::codegen::{Service as _, http};
use tonic::{Request, Response, Status};

use self::gate::Gate;
use self::room::{Room, Slot, Taken};
use super::{Caller, MOST_AT_ONCE, bytes_of};
use crate::backend::{Operation, Reply};
use crate::buffer::Buffer;
use crate::cancel::deadline_in;
use crate::error::{Code, Error, Result};
use crate::server::{Guest, Working};
use crate::wire::channel::Channel;
use crate::wire::grpc::backend::backend_server::{Backend, BackendServer};
use crate::wire::grpc::backend::{ReadAtArgs, ReadAtReply, SyncArgs, SyncReply, WriteAtArgs, WriteAtReply};
use crate::wire::grpc::seeder::seeder_server::{SERVICE_NAME as SEEDER, SeederServer};
use crate::wire::grpc::{self, CONNECTION_WINDOW, FRAME_SIZE};
use crate::wire::socket;
use crate::wire::stream::Stream;

mod gate;
mod leeching;
mod room;

use leeching::Leeching;

/// What a client of HTTP/2 says first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0";
/// How long a client may take for its first byte, and one that is turned away to ask.
const GREETING_TIME: Duration = Duration::from_secs(10);
/// How long the last replies may take to reach the client.
const GOODBYE_TIME: Duration = Duration::from_secs(1);
/// How long a client may be silent before it is asked whether it is there, and then for its answer.
const ASK_AFTER: Duration = Duration::from_secs(20);
/// How many requests of one connection are under way at once; a client keeps the others back.
const MOST_STREAMS: u32 = 256;
/// What a message has besides its bytes, at most.
const AROUND: usize = 64;

/// Whether a connection speaks gRPC though the server speaks r3map's protocol: where something is seeded for both.
pub(in crate::server) fn is_begun(guest: &Guest) -> bool {
    let may_be = guest.tls.is_none() && guest.inner.seeds_legacy();
    may_be
        && guest.channel.wait(true, deadline_in(GREETING_TIME)).is_ok()
        && socket::begins_with(guest.channel.socket(), PREFACE)
}

/// Serves a connection to its end. One that is not admitted is told the reason when it asks.
pub(in crate::server) fn serve(guest: &Guest) {
    if let Err(error) = run(guest) {
        tracing::debug!(%error, "a gRPC connection ended");
        // So that the client hears why.
        guest.channel.linger(GOODBYE_TIME);
    }
}

fn run(guest: &Guest) -> Result<()> {
    let Guest { inner: server, channel, admitted, .. } = guest;
    let caller = Caller::new(server, channel, false)?;
    let gate = Arc::new(Gate::new(guest, &caller)?);
    let working = Working::begin(server)?;
    let runtime = crate::runtime::handle()?;
    let stream = {
        let _inside = runtime.enter();
        Stream::of(channel).map_err(|error| Error::io("prepare a connection", error))?
    };
    let over = Arc::new(Over { channel: channel.clone(), is_over: AtomicBool::new(false) });
    let (end, ended) = watch::channel(false);
    let refused = admitted.as_ref().err().map(grpc::status);
    let exported = Exported { caller: caller.clone(), refused, room: Room::new() };
    let leeching = Leeching::new(exported.clone());
    let mut task = runtime.spawn({
        let (over, gate, leeching) = (over.clone(), gate.clone(), leeching.clone());
        async move {
            let _over = over.guard();
            speak(stream, exported, leeching, gate, ended).await
        }
    });
    let mut patience = deadline_in(GREETING_TIME);
    while !over.is_over() && !channel.is_stopped() {
        if gate.is_opened() && admitted.is_ok() && patience.take().is_some() {
            guest.greeted();
        }
        // An error: the client is gone, or was turned away and has had its time.
        if channel.wait(false, patience).is_err() {
            channel.shutdown();
        }
    }
    end.send_replace(true);
    // What is under way is answered; then the client, too, has to agree to the end of the connection.
    let mut wait = || runtime.block_on(async { timeout(GOODBYE_TIME, &mut task).await.is_err() });
    if wait() {
        caller.wait();
        if wait() {
            task.abort();
        }
    }
    leeching.leave();
    caller.finish(working);
    Ok(())
}

/// Tells the thread of a connection that its task has ended.
struct Over {
    channel: Arc<Channel>,
    is_over: AtomicBool,
}

struct OverGuard(Arc<Over>);

impl Over {
    fn guard(self: Arc<Self>) -> OverGuard {
        OverGuard(self)
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }
}

impl Drop for OverGuard {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::SeqCst);
        self.0.channel.wake();
    }
}

/// Answers requests until the client closes or the server `ended`.
async fn speak(
    stream: Stream,
    exported: Exported,
    leeching: Leeching,
    gate: Arc<Gate>,
    mut ended: watch::Receiver<bool>,
) {
    let room = exported.room.clone();
    let backend = BackendServer::new(exported).max_decoding_message_size(MOST_AT_ONCE as usize + AROUND);
    let seeder = SeederServer::new(leeching);
    let service = service_fn(move |request: http::Request<Incoming>| {
        let (mut backend, mut seeder) = (backend.clone(), seeder.clone());
        let (mut head, body) = request.into_parts();
        let (body, slot) = room::Request::new(body, room.clone());
        head.extensions.insert(slot);
        let refused = gate.check(&head.headers).err();
        async move {
            if let Some(status) = refused {
                return Ok(status.into_http().map(|body| room::Response::new(body, None)));
            }
            let leeches = head.uri.path().split('/').nth(1) == Some(SEEDER);
            let request = http::Request::from_parts(head, body);
            let response = if leeches { seeder.call(request).await? } else { backend.call(request).await? };
            let (mut head, body) = response.into_parts();
            let taken = head.extensions.remove::<Taken>();
            Ok::<_, Infallible>(http::Response::from_parts(head, room::Response::new(body, taken)))
        }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        // What waits for room in every stream leaves the connection's window open.
        .initial_stream_window_size(CONNECTION_WINDOW / MOST_STREAMS)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_SIZE)
        .max_concurrent_streams(MOST_STREAMS)
        .keep_alive_interval(ASK_AFTER)
        .keep_alive_timeout(ASK_AFTER)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let closed = tokio::select! {
        outcome = connection.as_mut() => Some(outcome),
        () = async { ended.wait_for(|ended| *ended).await.map(drop).unwrap_or_default() } => None,
    };
    let outcome = match closed {
        Some(outcome) => outcome,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a gRPC connection ended");
    }
}

/// The service Backend for one connection. Clones are the same.
#[derive(Clone)]
struct Exported {
    caller: Arc<Caller>,
    /// What a client is told that is turned away.
    refused: Option<Status>,
    room: Room,
}

impl Exported {
    fn check(&self) -> Result<(), Status> {
        self.refused.clone().map_or(Ok(()), Err)
    }

    fn check_plain(&self) -> Result<(), Status> {
        self.check()?;
        self.caller.check_plain().map_err(|error| grpc::status(&error))
    }

    async fn ask(&self, operation: Operation, bytes: u64) -> Result<Reply> {
        let (tell, told) = oneshot::channel();
        self.caller.submit(operation, bytes, move |outcome| {
            // A client that is gone needs no answer.
            let _ = tell.send(outcome);
        });
        told.await.unwrap_or_else(|_| Err(Error::new(Code::Internal, "a request was dropped before it was answered")))
    }

    /// So many bytes there, and the room that they have.
    async fn read(&self, offset: i64, length: i32) -> Result<(Buffer, Taken), Status> {
        let failed = |error| grpc::status(&error);
        let offset = self.caller.range(offset, length.into()).map_err(failed)?;
        let taken = self.room.clone().take(length as usize).await?;
        let mut buffer = Buffer::new(length as usize);
        let length = buffer.len();
        let read = match self.caller.try_read(&mut buffer, offset).map_err(failed)? {
            Some(outcome) => outcome.map(|()| buffer),
            None => {
                let reply = self.ask(Operation::Read { offset, buffer }, length as u64).await;
                reply.and_then(|reply| bytes_of(reply, length))
            }
        };
        read.map(|read| (read, taken)).map_err(failed)
    }

    async fn write(&self, args: WriteAtArgs) -> Result<()> {
        let offset = self.caller.range(args.off, args.p.len() as i64)?;
        if !self.caller.writes() {
            let caller = self.caller.clone();
            let claimed = tokio::task::spawn_blocking(move || caller.claim()).await;
            claimed.unwrap_or_else(|_| Err(Error::new(Code::Internal, "the wait for the lease panicked")))?;
        }
        if let Some(outcome) = self.caller.try_write(&args.p, offset)? {
            return outcome;
        }
        let data = Buffer::copy_of(&args.p);
        let length = data.len() as u64;
        drop(args);
        self.ask(Operation::Write { offset, data }, length).await.map(drop)
    }
}

#[tonic::async_trait]
impl Backend for Exported {
    async fn read_at(&self, request: Request<ReadAtArgs>) -> Result<Response<ReadAtReply>, Status> {
        self.check_plain()?;
        let ReadAtArgs { length, off } = request.into_inner();
        let (read, taken) = self.read(off, length).await?;
        let mut response = Response::new(ReadAtReply { n: read.len() as i32, p: Bytes::from_owner(read) });
        response.extensions_mut().insert(taken);
        Ok(response)
    }

    async fn write_at(&self, request: Request<WriteAtArgs>) -> Result<Response<WriteAtReply>, Status> {
        self.check_plain()?;
        let length = request.get_ref().p.len() as i32;
        let (_, mut extensions, args) = request.into_parts();
        // What the message takes is kept until it is written.
        let _taken = extensions.remove::<Slot>();
        self.write(args).await.map_err(|error| grpc::status(&error))?;
        Ok(Response::new(WriteAtReply { length }))
    }

    async fn sync(&self, _: Request<SyncArgs>) -> Result<Response<SyncReply>, Status> {
        self.check_plain()?;
        let synced = self.ask(Operation::Sync, 0).await;
        synced.map(|_| Response::new(SyncReply {})).map_err(|error| grpc::status(&error))
    }
}
