//! One connection of a client, made again when it is lost.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::dial::Dial;
use super::{FIRST_PAUSE, GREETING_TIME};
use crate::error::{Code, Error, Result};
use crate::wire::stream::Stream;

/// How long answers may go on to come on a connection that takes no more requests.
const ENDING: Duration = Duration::from_secs(1);

/// What keeps a connection going, until it ends.
pub type Driving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What speaks a protocol over one connection. Clones are the same.
pub trait Speaker: Clone + Send + 'static {
    /// Begins to speak, in messages no longer than `most`.
    fn start(stream: Stream, most: usize) -> impl Future<Output = Result<(Self, Driving)>> + Send;

    /// Whether nothing more can be asked.
    fn is_over(&self) -> bool;
}

/// Who is told of the beginnings and ends of a connection.
pub trait Watch: Send + Sync {
    /// One begins, once the one before has ended; says its number.
    fn connected(&self) -> u64;

    /// The one of that number has ended.
    fn lost(&self, connection: u64);
}

/// A connection that is made when it is first used.
pub struct Link<S> {
    dial: Dial,
    watch: Option<Arc<dyn Watch>>,
    most: usize,
    state: Mutex<State<S>>,
}

struct State<S> {
    current: Option<Current<S>>,
    /// Why the last attempt failed, and when: those who waited for it need not make their own.
    failed: Option<(Instant, Error)>,
}

struct Current<S> {
    speaker: S,
    number: u64,
    driving: JoinHandle<()>,
}

impl<S: Speaker> Link<S> {
    /// A link that connects when it is first used.
    pub fn new(dial: Dial, watch: Option<Arc<dyn Watch>>, most: usize) -> Link<S> {
        Link { dial, watch, most, state: Mutex::new(State { current: None, failed: None }) }
    }

    /// The connection as it is, or a new one, and its number.
    pub async fn speaker(&self) -> Result<(S, u64)> {
        let mut state = self.state.lock().await;
        if let Some(current) = state.current.as_mut() {
            if !current.speaker.is_over() {
                return Ok((current.speaker.clone(), current.number));
            }
            // The end of this one is to be told before the next one begins.
            if timeout(ENDING, &mut current.driving).await.is_err() {
                current.driving.abort();
                let _ = (&mut current.driving).await;
            }
            if let Some((watch, current)) = self.watch.as_ref().zip(state.current.take()) {
                watch.lost(current.number);
            }
            state.current = None;
        }
        if let Some((at, error)) = state.failed.as_ref().filter(|(at, _)| at.elapsed() < FIRST_PAUSE) {
            tracing::trace!(?at, "an attempt to connect is not repeated at once");
            return Err(error.clone());
        }
        match self.connect().await {
            Ok((speaker, driving)) => {
                let number = self.watch.as_ref().map_or(0, |watch| watch.connected());
                let watch = self.watch.clone();
                let driving = tokio::spawn(async move {
                    driving.await;
                    if let Some(watch) = watch {
                        watch.lost(number);
                    }
                });
                state.current = Some(Current { speaker: speaker.clone(), number, driving });
                Ok((speaker, number))
            }
            Err(error) => {
                state.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// Ends the connection, if there is one.
    #[cfg(feature = "grpc")]
    pub async fn end(&self) {
        if let Some(current) = self.state.lock().await.current.take() {
            current.driving.abort();
        }
    }

    async fn connect(&self) -> Result<(S, Driving)> {
        let stream = self.dial.connect().await?;
        let started = timeout(GREETING_TIME, S::start(stream, self.most)).await;
        started.unwrap_or_else(|_| Err(Error::new(Code::Disconnected, "connect: the server does not greet")))
    }
}

impl<S> Drop for Link<S> {
    fn drop(&mut self) {
        if let Some(current) = self.state.get_mut().current.take() {
            current.driving.abort();
        }
    }
}
