//! Requests and answers of one connection, matched by their key, for protocols that are spoken here byte by byte.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::buffer::Buffer;
use crate::error::{Code, Error, Result};

/// A message to be sent.
pub struct Outgoing {
    /// What it begins with.
    pub head: Vec<u8>,
    /// What follows, kept to be sent again.
    pub data: Option<Arc<Buffer>>,
}

/// What was asked on a connection and not answered.
pub struct Exchange<K, A> {
    /// `None` once the connection is over.
    waiting: Mutex<Option<HashMap<K, oneshot::Sender<A>>>>,
    outgoing: mpsc::UnboundedSender<Outgoing>,
    /// How many answers came.
    heard: AtomicU64,
    /// Told when the connection is to end.
    cut: Notify,
}

impl<K: Eq + Hash + Clone, A> Exchange<K, A> {
    /// Nothing asked yet; what is to be sent comes out of the other end.
    pub fn new() -> (Arc<Exchange<K, A>>, mpsc::UnboundedReceiver<Outgoing>) {
        let (outgoing, sent) = mpsc::unbounded_channel();
        let waiting = Mutex::new(Some(HashMap::new()));
        (Arc::new(Exchange { waiting, outgoing, heard: AtomicU64::new(0), cut: Notify::new() }), sent)
    }

    fn waiting(&self) -> MutexGuard<'_, Option<HashMap<K, oneshot::Sender<A>>>> {
        self.waiting.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Asks under the first of these keys that is free, and waits for the answer.
    pub async fn ask(&self, keys: impl Iterator<Item = K>, message: impl FnOnce(&K) -> Outgoing) -> Result<A> {
        let (tell, told) = oneshot::channel();
        {
            let mut waiting = self.waiting();
            let waiting = waiting.as_mut().ok_or_else(over)?;
            // The key of a request that was given up is taken until it is answered.
            let mut keys = keys;
            let key = keys.find(|key| !waiting.contains_key(key));
            let key = key.ok_or_else(|| Error::new(Code::Busy, "as many requests are under way as have numbers"))?;
            let message = message(&key);
            waiting.insert(key, tell);
            self.outgoing.send(message).map_err(|_| over())?;
        }
        let silence = Silence { exchange: self, heard: self.heard.load(Ordering::SeqCst), answered: false };
        let answer = told.await;
        silence.broken();
        answer.map_err(|_| over())
    }

    /// Sends what nobody waits for.
    pub fn send(&self, message: Outgoing) {
        // Nobody sends any more where the connection is over.
        let _ = self.outgoing.send(message);
    }

    /// Brings an answer to whoever waits for it.
    pub fn answer(&self, key: &K, answer: A) -> Result<()> {
        self.heard.fetch_add(1, Ordering::SeqCst);
        let asked = self.waiting().as_mut().and_then(|waiting| waiting.remove(key));
        let asked = asked.ok_or_else(|| Error::new(Code::Corrupt, "the server answers what it was not asked"))?;
        // Nobody waits for one that was given up.
        let _ = asked.send(answer);
        Ok(())
    }

    /// Whether nothing more can be asked.
    pub fn is_over(&self) -> bool {
        self.waiting().is_none()
    }

    /// Sends what is asked and runs `receive`, until one of them fails or the connection is cut.
    pub async fn drive(
        &self,
        mut sent: mpsc::UnboundedReceiver<Outgoing>,
        mut writer: impl AsyncWrite + Unpin,
        receive: impl Future<Output = Result<()>>,
    ) {
        let send = async {
            while let Some(Outgoing { head, data }) = sent.recv().await {
                writer.write_all(&head).await.map_err(|error| Error::io("send", error))?;
                if let Some(data) = data {
                    writer.write_all(&data).await.map_err(|error| Error::io("send", error))?;
                }
            }
            Ok(())
        };
        let outcome: Result<()> = tokio::select! {
            outcome = receive => outcome,
            outcome = send => outcome,
            () = self.cut.notified() => Err(Error::new(Code::Timeout, "the server went silent")),
        };
        if let Err(error) = outcome {
            tracing::info!(%error, "a connection was lost");
        }
        // Whoever waits hears that nobody will answer.
        *self.waiting() = None;
    }
}

/// A request without an answer. One that is given up before anything came since cuts the connection: the server may be
/// gone.
struct Silence<'a, K: Eq + Hash + Clone, A> {
    exchange: &'a Exchange<K, A>,
    heard: u64,
    answered: bool,
}

impl<K: Eq + Hash + Clone, A> Silence<'_, K, A> {
    fn broken(mut self) {
        self.answered = true;
    }
}

impl<K: Eq + Hash + Clone, A> Drop for Silence<'_, K, A> {
    fn drop(&mut self) {
        if !self.answered && self.exchange.heard.load(Ordering::SeqCst) == self.heard {
            self.exchange.cut.notify_one();
        }
    }
}

fn over() -> Error {
    Error::new(Code::Disconnected, "the connection ended before the answer")
}
