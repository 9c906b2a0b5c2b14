//! panrpc: a connection has a thread, which takes its requests; whoever has an answer sends it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Ask, Caller, MOST_AT_ONCE};
use crate::buffer::Buffer;
use crate::error::{Code, Error, Result};
use crate::server::{Guest, Working};
use crate::wire::channel::{Channel, Packet, Payload};
use crate::wire::incoming::Incoming;
use crate::wire::panrpc::{Line, bytes, bytes_of, line_length, number_of};

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
        tracing::debug!(%error, "a panrpc connection ended");
    }
    channel.linger(GOODBYE_TIME);
}

fn take_requests(guest: &Guest, caller: &Arc<Caller>) -> Result<()> {
    let Guest { inner, channel, admitted, .. } = guest;
    let deadline = inner.options.deadline;
    let (mut incoming, most) = (Incoming::new(), line_length(MOST_AT_ONCE as usize));
    loop {
        caller.wait_for_room()?;
        let Some(line) = incoming.line(channel, most, deadline)? else { return Ok(()) };
        let (call, function, args) = match Line::decode(&line)? {
            Line::Request { call, function, args } => (call, function, args),
            // Nothing was asked of the client.
            Line::Response { .. } => continue,
        };
        drop(line);
        guest.greeted();
        if let Err(error) = admitted {
            return send(channel, call, Err(error.clone()));
        }
        let (ask, written) = match function.as_str() {
            "ReadAt" => {
                let (length, offset) = (number_of(args.first())?, number_of(args.get(1))?);
                (Ask::Read { offset, length }, None)
            }
            "WriteAt" => {
                let (data, offset) = (bytes_of(args.first())?, number_of(args.get(1))?);
                (Ask::Write { offset, data: Buffer::copy_of(&data) }, Some(json!(data.len())))
            }
            "Sync" => (Ask::Sync, Some(Value::Null)),
            "Size" => {
                send(channel, call, caller.size().map(|size| json!(size)))?;
                continue;
            }
            other => {
                let error = Error::new(Code::Unsupported, format!("a backend offers no {other:?}"));
                send(channel, call, Err(error))?;
                continue;
            }
        };
        let to = channel.clone();
        caller.perform(ask, move |outcome| {
            let value = outcome.map(|read| written.unwrap_or_else(|| json!({"N": read.len(), "P": bytes(&read)})));
            // A client that is gone needs no answer, and its thread learns so by itself.
            let _ = send(&to, call, value);
        });
    }
}

fn send(channel: &Channel, call: String, outcome: Result<Value>) -> Result<()> {
    let outcome = outcome.map_err(|error| error.message().to_owned());
    let line = Line::Response { call, outcome }.encode();
    channel.send(Packet::raw(b"", Payload::Owned(Buffer::copy_of(&line))))
}
