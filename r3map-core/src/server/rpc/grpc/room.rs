//! What the messages of one connection take in memory: no more than so much at once, whatever a client sends or leaves
//! unread. Room is taken for a whole message before any of it, so nobody waits for the rest of another's.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Frame, Incoming, SizeHint};
use prost::bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use crate::server::rpc::MOST_AT_ONCE;

/// How much there is, in units: two of the longest messages.
const UNIT: usize = 4 << 10;
const ALL: usize = 2 * MOST_AT_ONCE as usize / UNIT + 2;
/// Shorter messages take none: there are only so many of them.
const SHORT: usize = 64 << 10;
/// What is handed to HTTP/2 at once: it keeps what the client does not take.
const PIECE: usize = 64 << 10;
/// What every message begins with: a flag and its length.
const HEAD: usize = 5;

/// The room of one connection.
#[derive(Clone)]
pub struct Room(Arc<Semaphore>);

/// Some of it; free again when the last clone is dropped.
#[derive(Clone)]
pub struct Taken {
    _permit: Option<Arc<OwnedSemaphorePermit>>,
}

/// What a request took, for whoever answers it to keep.
pub type Slot = Arc<Mutex<Option<Taken>>>;

impl Room {
    /// All of it free.
    pub fn new() -> Room {
        Room(Arc::new(Semaphore::new(ALL)))
    }

    /// Waits for room for so many bytes, at most those of the longest message.
    pub async fn take(self, bytes: usize) -> Result<Taken, Status> {
        if bytes <= SHORT {
            return Ok(Taken { _permit: None });
        }
        let units = bytes.min(MOST_AT_ONCE as usize + UNIT).div_ceil(UNIT) as u32;
        let permit = self.0.acquire_many_owned(units).await;
        let permit = permit.map_err(|_| Status::unavailable("the connection is closing"))?;
        Ok(Taken { _permit: Some(Arc::new(permit)) })
    }
}

type Taking = Pin<Box<dyn Future<Output = Result<Taken, Status>> + Send>>;

/// A request that waits for room before its message is taken in.
pub struct Request {
    inner: Incoming,
    room: Room,
    slot: Slot,
    /// What came first, while room is waited for.
    first: Option<(Bytes, Taking)>,
    begun: bool,
}

impl Request {
    /// A request, and where to find what it took.
    pub fn new(inner: Incoming, room: Room) -> (Request, Slot) {
        let slot = Slot::default();
        (Request { inner, room, slot: slot.clone(), first: None, begun: false }, slot)
    }
}

impl Body for Request {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        loop {
            if let Some((first, taking)) = &mut this.first {
                let taken = ready!(taking.as_mut().poll(context));
                let first = std::mem::take(first);
                this.first = None;
                return Poll::Ready(Some(taken.map(|taken| {
                    *this.slot.lock().unwrap_or_else(|e| e.into_inner()) = Some(taken);
                    Frame::data(first)
                })));
            }
            let frame = ready!(Pin::new(&mut this.inner).poll_frame(context));
            let Some(frame) = frame else { return Poll::Ready(None) };
            let frame = frame.map_err(|error| Status::unavailable(error.to_string()))?;
            match frame.into_data() {
                Ok(data) if !this.begun && !data.is_empty() => {
                    this.begun = true;
                    this.first = Some((data.clone(), Box::pin(this.room.clone().take(declared(&data)))));
                }
                Ok(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Err(frame) => return Poll::Ready(Some(Ok(frame))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// How long the message that begins so says it is; one that begins with less than that may be as long as any.
fn declared(first: &[u8]) -> usize {
    match first.first_chunk::<HEAD>() {
        Some([_, length @ ..]) => u32::from_be_bytes(*length) as usize,
        None => MOST_AT_ONCE as usize,
    }
}

/// A response that keeps what it takes until all of it is with HTTP/2, which gets it piece by piece.
pub struct Response {
    inner: tonic::body::Body,
    rest: Bytes,
    _taken: Option<Taken>,
}

impl Response {
    /// The response of a service, with what its message took among its extensions.
    pub fn new(inner: tonic::body::Body, taken: Option<Taken>) -> Response {
        Response { inner, rest: Bytes::new(), _taken: taken }
    }
}

impl Body for Response {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            let Some(frame) = ready!(Pin::new(&mut this.inner).poll_frame(context)) else { return Poll::Ready(None) };
            match frame?.into_data() {
                Ok(data) => this.rest = data,
                Err(frame) => return Poll::Ready(Some(Ok(frame))),
            }
        }
        let piece = this.rest.split_to(this.rest.len().min(PIECE));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_take_room_for_all_of_them_and_short_ones_none() {
        let runtime = crate::runtime::handle().unwrap();
        let room = Room::new();
        let take = |bytes| runtime.block_on(room.clone().take(bytes)).unwrap();
        let (one, two) = (take(MOST_AT_ONCE as usize), take(usize::MAX));
        let _short = take(SHORT);
        assert!(room.0.available_permits() * UNIT < SHORT);
        drop((one, two));
        assert_eq!(room.0.available_permits(), ALL);
        assert_eq!(declared(b"\0\x00\x01\x00\x00rest"), 65536);
        assert_eq!(declared(b"\0\x00"), MOST_AT_ONCE as usize);
    }
}
