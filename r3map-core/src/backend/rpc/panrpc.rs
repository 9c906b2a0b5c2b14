//! panrpc, over one connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader, split};

use super::dial::Dial;
use super::exchange::{Exchange, Outgoing};
use super::kept::Kept;
use super::link::{Driving, Link, Speaker};
use super::{Answer, Call, Wire, check_read, check_write};
use crate::backend::{Priority, Reply};
use crate::buffer::Buffer;
use crate::error::{Code, Error, Result};
use crate::wire::panrpc::{Line, bytes, bytes_of, line_length, number_of};
use crate::wire::stream::Stream;

/// A client of the service Backend.
pub struct Panrpc {
    link: Link<Speech>,
}

impl Panrpc {
    /// A client that connects when it is first used; no line it takes carries more than `most` bytes.
    pub fn new(dial: Dial, kept: &Arc<Kept>, most: usize) -> Panrpc {
        Panrpc { link: Link::new(dial, Some(kept.clone()), most) }
    }

    async fn ask(&self, call: Call) -> Result<(Reply, u64)> {
        let (speech, number) = self.link.speaker().await?;
        let reply = match call {
            Call::Read { offset, length } => {
                let answer = speech.ask("ReadAt", vec![json!(length), json!(offset)]).await?;
                let data = bytes_of(answer.get("P"))?;
                check_read(length, number_of(answer.get("N"))?, data.len())?;
                Reply::Data(Buffer::copy_of(&data))
            }
            Call::Write { offset, data } => {
                let answer = speech.ask("WriteAt", vec![bytes(&data), json!(offset)]).await?;
                check_write(data.len(), number_of(Some(&answer))?)?;
                Reply::Done
            }
            Call::Sync => {
                speech.ask("Sync", Vec::new()).await?;
                Reply::Done
            }
        };
        Ok((reply, number))
    }
}

impl Wire for Panrpc {
    fn call(&self, call: Call, _: Priority) -> Answer<'_> {
        Box::pin(self.ask(call))
    }
}

/// A connection.
#[derive(Clone)]
pub struct Speech {
    exchange: Arc<Exchange<String, Result<Value, String>>>,
    next: Arc<AtomicU64>,
}

impl Speech {
    async fn ask(&self, function: &str, args: Vec<Value>) -> Result<Value> {
        let keys = std::iter::once_with(|| self.next.fetch_add(1, Ordering::Relaxed).to_string());
        let message = |call: &String| {
            let line = Line::Request { call: call.clone(), function: function.to_owned(), args };
            Outgoing { head: line.encode(), data: None }
        };
        let outcome = self.exchange.ask(keys, message).await?;
        outcome.map_err(|text| Error::new(Code::Io, format!("the server said: {text}")))
    }
}

impl Speaker for Speech {
    async fn start(stream: Stream, most: usize) -> Result<(Speech, Driving)> {
        let (exchange, sent) = Exchange::new();
        let (reader, writer) = split(stream);
        let speech = Speech { exchange: exchange.clone(), next: Arc::default() };
        let driving = async move {
            let receive = receive(&exchange, BufReader::with_capacity(64 << 10, reader), line_length(most));
            exchange.drive(sent, writer, receive).await;
        };
        Ok((speech, Box::pin(driving)))
    }

    fn is_over(&self) -> bool {
        self.exchange.is_over()
    }
}

/// Brings answers to those who wait, until something is wrong.
async fn receive(
    exchange: &Exchange<String, Result<Value, String>>,
    mut reader: impl AsyncBufRead + Unpin,
    most: usize,
) -> Result<()> {
    loop {
        match Line::decode(&line(&mut reader, most).await?)? {
            Line::Response { call, outcome } => exchange.answer(&call, outcome)?,
            Line::Request { call, function, .. } => {
                let outcome = Err(format!("a client of a backend offers no {function:?}"));
                exchange.send(Outgoing { head: Line::Response { call, outcome }.encode(), data: None });
            }
        }
    }
}

/// The next line, no longer than `most`.
async fn line(reader: &mut (impl AsyncBufRead + Unpin), most: usize) -> Result<Vec<u8>> {
    let mut line = Vec::new();
    loop {
        let here = reader.fill_buf().await.map_err(|error| Error::io("receive", error))?;
        if here.is_empty() {
            return Err(Error::new(Code::Disconnected, "the server closed the connection"));
        }
        let end = here.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(here.len(), |end| end + 1);
        if line.len() + taken > most {
            return Err(Error::new(Code::Corrupt, format!("the server sends a line of more than {most} bytes")));
        }
        line.extend_from_slice(&here[..taken]);
        reader.consume(taken);
        if end.is_some() {
            return Ok(line);
        }
    }
}
