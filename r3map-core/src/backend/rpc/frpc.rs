//! fRPC, over one connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use tokio::io::{AsyncReadExt, BufReader, split};

use super::dial::Dial;
use super::exchange::{Exchange, Outgoing};
use super::kept::Kept;
use super::link::{Driving, Link, Speaker};
use super::{Answer, Call, Wire, check_read, check_write};
use crate::backend::{Priority, Reply};
use crate::buffer::Buffer;
use crate::error::{Code, Error, Result};
use crate::wire::frpc::operations::{PING, PONG, READ_AT, SYNC, WRITE_AT};
use crate::wire::frpc::{AROUND, Fields, HEAD, Head, Message};
use crate::wire::stream::Stream;

/// A client of the service Backend.
pub struct Frpc {
    link: Link<Speech>,
}

impl Frpc {
    /// A client that connects when it is first used; no message it takes is longer than `most`.
    pub fn new(dial: Dial, kept: &Arc<Kept>, most: usize) -> Frpc {
        Frpc { link: Link::new(dial, Some(kept.clone()), most) }
    }

    async fn ask(&self, call: Call) -> Result<(Reply, u64)> {
        let (speech, number) = self.link.speaker().await?;
        let reply = match call {
            Call::Read { offset, length } => {
                let asked = Message::empty().int32(length as i32).int64(offset as i64);
                let answer = speech.ask(READ_AT, asked, None).await?;
                let mut fields = opened(&answer)?;
                let (said, data) = (fields.int32()?, fields.bytes()?);
                check_read(length, said.into(), data.len())?;
                Reply::Data(Buffer::copy_of(data))
            }
            Call::Write { offset, data } => {
                let sent = data.len();
                let asked = Message::empty().int64(offset as i64).bytes(sent as u32);
                let answer = speech.ask(WRITE_AT, asked, Some(data)).await?;
                check_write(sent, opened(&answer)?.int32()?.into())?;
                Reply::Done
            }
            Call::Sync => {
                opened(&speech.ask(SYNC, Message::empty(), None).await?)?;
                Reply::Done
            }
        };
        Ok((reply, number))
    }
}

impl Wire for Frpc {
    fn call(&self, call: Call, _: Priority) -> Answer<'_> {
        Box::pin(self.ask(call))
    }
}

/// The fields of an answer, unless it is an error.
fn opened(answer: &[u8]) -> Result<Fields<'_>> {
    Fields::open(answer)?.map_err(|text| Error::new(Code::Io, format!("the server said: {text}")))
}

/// A request's number among those of its operation, and the operation.
type Key = (u16, u16);

/// A connection.
#[derive(Clone)]
pub struct Speech {
    exchange: Arc<Exchange<Key, Vec<u8>>>,
    next: Arc<AtomicU16>,
}

impl Speech {
    async fn ask(&self, operation: u16, message: Message, data: Option<Arc<Buffer>>) -> Result<Vec<u8>> {
        let keys = (0..=u16::MAX).map(|_| (self.next.fetch_add(1, Ordering::Relaxed), operation));
        let following = data.as_ref().map_or(0, |data| data.len());
        self.exchange.ask(keys, |(id, _)| Outgoing { head: message.frame(*id, operation, following), data }).await
    }
}

impl Speaker for Speech {
    async fn start(stream: Stream, most: usize) -> Result<(Speech, Driving)> {
        let (exchange, sent) = Exchange::new();
        let (reader, writer) = split(stream);
        let speech = Speech { exchange: exchange.clone(), next: Arc::default() };
        let driving = async move {
            let receive = receive(&exchange, BufReader::with_capacity(64 << 10, reader), most + AROUND);
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
    exchange: &Exchange<Key, Vec<u8>>,
    mut reader: impl tokio::io::AsyncRead + Unpin,
    most: usize,
) -> Result<()> {
    loop {
        let mut head = [0; HEAD];
        reader.read_exact(&mut head).await.map_err(|error| Error::io("receive", error))?;
        let Head { id, operation, length } = Head::decode(&head);
        if length as usize > most {
            return Err(Error::new(Code::Corrupt, format!("an answer of {length} bytes; the most is {most}")));
        }
        let mut message = vec![0; length as usize];
        reader.read_exact(&mut message).await.map_err(|error| Error::io("receive", error))?;
        match operation {
            PING => {
                exchange.send(Outgoing { head: Head { id, operation: PONG, length: 0 }.encode().to_vec(), data: None })
            }
            PONG => {}
            _ => exchange.answer(&(id, operation), message)?,
        }
    }
}
