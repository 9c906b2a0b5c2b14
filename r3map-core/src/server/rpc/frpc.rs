//! fRPC: a connection has a thread, which takes its requests; whoever has an answer sends it.

use std::sync::Arc;
use std::time::Duration;

use super::{Ask, Caller, MOST_AT_ONCE};
use crate::buffer::Buffer;
use crate::error::{Code, Error, Result};
use crate::server::{Guest, Working};
use crate::wire::channel::{Channel, Packet, Payload};
use crate::wire::frpc::operations::{PING, PONG, READ_AT, SYNC, WRITE_AT};
use crate::wire::frpc::{AROUND, Fields, HEAD, Head, Message};
use crate::wire::incoming::Incoming;

/// How long the last replies may take to reach the client.
const GOODBYE_TIME: Duration = Duration::from_secs(1);

/// Serves a connection to its end. One that is not admitted is told the reason when it asks.
pub(in crate::server) fn serve(guest: &Guest) {
    let (server, channel) = (&guest.inner, &guest.channel);
    let outcome = Caller::new(server, channel, true).and_then(|caller| {
        let working = Working::begin(server)?;
        let outcome = take_requests(guest, &caller);
        caller.finish(working);
        outcome
    });
    if let Err(error) = outcome {
        tracing::debug!(%error, "an fRPC connection ended");
    }
    channel.linger(GOODBYE_TIME);
}

fn take_requests(guest: &Guest, caller: &Arc<Caller>) -> Result<()> {
    let Guest { inner, channel, admitted, .. } = guest;
    let deadline = inner.options.deadline;
    let mut incoming = Incoming::new();
    loop {
        caller.wait_for_room()?;
        let Some(head) = incoming.head::<HEAD>(channel, None, deadline)? else { return Ok(()) };
        let head = Head::decode(&head);
        let most = MOST_AT_ONCE as usize + AROUND;
        if head.length as usize > most {
            return Err(Error::new(Code::InvalidArgument, format!("a frame of {} bytes", head.length)));
        }
        let mut message = Buffer::new(head.length as usize);
        incoming.fill(channel, &mut message)?;
        let ask = match head.operation {
            PING => {
                let pong = Head { operation: PONG, length: 0, ..head };
                channel.send(Packet::raw(&pong.encode(), Payload::Empty))?;
                continue;
            }
            PONG => continue,
            READ_AT | WRITE_AT | SYNC => ask(head.operation, &message)?,
            other => return Err(Error::new(Code::Unsupported, format!("the client asks for operation {other}"))),
        };
        drop(message);
        guest.greeted();
        if let Err(error) = admitted {
            return answer(channel, head, 0, Err(error.clone()));
        }
        let written = if let Ask::Write { data, .. } = &ask { data.len() } else { 0 };
        let to = channel.clone();
        // A client that is gone needs no answer, and its thread learns so by itself.
        caller.perform(ask, move |outcome| drop(answer(&to, head, written, outcome)));
    }
}

/// What a request asks. A client that says it in words nobody understands is not to be trusted with the next ones.
fn ask(operation: u16, message: &[u8]) -> Result<Ask> {
    let fields = Fields::open(message)?;
    let mut fields = fields.map_err(|_| Error::new(Code::InvalidArgument, "the client asks by an error"))?;
    Ok(match operation {
        READ_AT => {
            let (length, offset) = (fields.int32()?, fields.int64()?);
            Ask::Read { offset, length: length.into() }
        }
        WRITE_AT => Ask::Write { offset: fields.int64()?, data: Buffer::copy_of(fields.bytes()?) },
        _ => Ask::Sync,
    })
}

fn answer(channel: &Channel, asked: Head, written: usize, outcome: Result<Buffer>) -> Result<()> {
    let Head { id, operation, .. } = asked;
    let (message, data) = match outcome {
        Ok(data) if operation == READ_AT => {
            let length = data.len();
            (Message::empty().int32(length as i32).bytes(length as u32), Payload::Owned(data))
        }
        Ok(_) if operation == WRITE_AT => (Message::empty().int32(written as i32), Payload::Empty),
        Ok(_) => (Message::empty(), Payload::Empty),
        Err(error) => {
            let frame = Message::error(error.message()).frame(id, operation, 0);
            let (head, text) = frame.split_at(HEAD);
            return channel.send(Packet::raw(head, Payload::Owned(Buffer::copy_of(text))));
        }
    };
    let following = if let Payload::Owned(data) = &data { data.len() } else { 0 };
    channel.send(Packet::raw(&message.frame(id, operation, following), data))
}
