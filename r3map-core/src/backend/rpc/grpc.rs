//! gRPC: two connections, one for what is waited for and whatever writes, one for reads in the background.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::bytes::Bytes;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::metadata::{Ascii, MetadataValue};

pub mod seeder;

use super::dial::Dial;
use super::kept::Kept;
use super::link::{Driving, Link, Speaker};
use super::{Answer, Call, Wire, check_read, check_write};
use crate::backend::{Priority, Reply};
use crate::buffer::Buffer;
use crate::error::{Code, Error, Result};
use crate::wire::grpc::backend::backend_client::BackendClient;
use crate::wire::grpc::backend::{ReadAtArgs, SyncArgs, WriteAtArgs};
use crate::wire::grpc::{self, CONNECTION_WINDOW, FRAME_SIZE, STREAM_WINDOW};
use crate::wire::socket::Address;
use crate::wire::stream::{Refusal, Stream};

/// How long a server may be silent before it is asked whether it is there, and then for its answer.
const ASK_AFTER: Duration = Duration::from_secs(20);

/// A client of the service Backend.
pub struct Grpc {
    links: [Link<Speech>; 2],
    origin: http::Uri,
    most: usize,
    /// By which the server knows this client, inside TLS.
    token: Option<MetadataValue<Ascii>>,
}

/// What requests name as the server.
pub fn origin(dial: &Dial) -> http::Uri {
    let authority = match &dial.address {
        Address::Tcp(host, port) if host.contains(':') => format!("[{host}]:{port}"),
        Address::Tcp(host, port) => format!("{host}:{port}"),
        Address::Unix(_) => "localhost".to_owned(),
    };
    let scheme = if dial.tls.is_some() { "https" } else { "http" };
    let origin = http::Uri::builder().scheme(scheme).authority(authority).path_and_query("/").build();
    // A URL's host is one here too.
    origin.unwrap_or_else(|_| http::Uri::from_static("http://localhost/"))
}

impl Grpc {
    /// A client that connects when it is first used; no message it takes is longer than `most`.
    pub fn new(dial: Dial, kept: &Arc<Kept>, most: usize) -> Result<Grpc> {
        let origin = origin(&dial);
        let token = dial.tls.as_ref().and_then(|tls| tls.token()).map(bearer).transpose()?;
        let links = [Link::new(dial.clone(), Some(kept.clone()), most), Link::new(dial, None, most)];
        Ok(Grpc { links, origin, most, token })
    }

    /// A request, with who asks.
    fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", token.clone());
        }
        request
    }

    async fn ask(&self, call: Call, priority: Priority) -> Result<(Reply, u64)> {
        let bulk = priority == Priority::Bulk && matches!(call, Call::Read { .. });
        let (speech, number) = self.links[usize::from(bulk)].speaker().await?;
        let client = BackendClient::with_origin(speech.clone(), self.origin.clone());
        let mut client = client.max_decoding_message_size(self.most);
        let failed = |status: Status| speech.failed(&status);
        let reply = match call {
            Call::Read { offset, length } => {
                let asked = ReadAtArgs { length: length as i32, off: offset as i64 };
                let reply = client.read_at(self.request(asked)).await.map_err(failed)?.into_inner();
                check_read(length, reply.n.into(), reply.p.len())?;
                Reply::Data(Buffer::copy_of(&reply.p))
            }
            Call::Write { offset, data } => {
                let sent = data.len();
                let asked = WriteAtArgs { off: offset as i64, p: Bytes::from_owner(Resendable(data)) };
                let reply = client.write_at(self.request(asked)).await.map_err(failed)?.into_inner();
                check_write(sent, reply.length.into())?;
                Reply::Done
            }
            Call::Sync => client.sync(self.request(SyncArgs {})).await.map(|_| Reply::Done).map_err(failed)?,
        };
        Ok((reply, number))
    }
}

impl Wire for Grpc {
    fn call(&self, call: Call, priority: Priority) -> Answer<'_> {
        Box::pin(self.ask(call, priority))
    }
}

/// Bytes that may have to be sent again.
struct Resendable(Arc<Buffer>);

impl AsRef<[u8]> for Resendable {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// A token as gRPC sends it: with every request.
fn bearer(token: &str) -> Result<MetadataValue<Ascii>> {
    let value = MetadataValue::try_from(format!("Bearer {token}"));
    let mut value = value.map_err(|_| Error::new(Code::InvalidArgument, "token: gRPC takes visible ASCII alone"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// An HTTP/2 connection.
#[derive(Clone)]
pub struct Speech {
    requests: SendRequest<Body>,
    refusal: Refusal,
}

impl Speech {
    /// What a status says, as an error.
    pub fn failed(&self, status: &Status) -> Error {
        match status.code() {
            _ if self.refusal.get().is_some() => self.refusal.get().cloned().unwrap_or_else(|| grpc::error(status)),
            // What was under way on a connection that ended was not answered, whatever it is called.
            _ if self.is_over() => Error::new(Code::Disconnected, format!("the connection ended: {status}")),
            tonic::Code::Unavailable => Error::new(Code::Disconnected, status.message()),
            _ => grpc::error(status),
        }
    }
}

impl Speaker for Speech {
    async fn start(stream: Stream, _most: usize) -> Result<(Speech, Driving)> {
        let refusal = stream.refusal();
        let handshake = Builder::new(TokioExecutor::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME_SIZE)
            .timer(TokioTimer::new())
            .keep_alive_interval(ASK_AFTER)
            .keep_alive_timeout(ASK_AFTER)
            .handshake(TokioIo::new(stream));
        let failed = |error| Error::new(Code::Disconnected, format!("greet the gRPC server: {error}"));
        let (requests, connection) = handshake.await.map_err(failed)?;
        let driving = async move {
            if let Err(error) = connection.await {
                tracing::info!(%error, "a gRPC connection was lost");
            }
        };
        Ok((Speech { requests, refusal }, Box::pin(driving)))
    }

    fn is_over(&self) -> bool {
        self.requests.is_closed()
    }
}

impl Service<http::Request<Body>> for Speech {
    type Response = http::Response<Incoming>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        // Hyper queues what the server does not take yet.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answer = self.requests.send_request(request);
        Box::pin(async move { answer.await.map_err(|error| Status::unavailable(error.to_string())) })
    }
}
