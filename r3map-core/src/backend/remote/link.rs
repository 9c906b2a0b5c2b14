//! What a client of r3map sends and what it is answered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::client::Client;
use super::leech::Heard;
use super::parcels::Parcel;
use crate::backend::link::{self, Absence, Connected, Link, Links, Protocol};
use crate::backend::{Info, Reply};
use crate::buffer::Buffer;
use crate::error::{Code, Error, Result};
use crate::migration::Message;
use crate::page::PAGE;
use crate::wire::channel::{Channel, Packet};
use crate::wire::header::{SYNCED, ZEROES};
use crate::wire::incoming::Incoming;
use crate::wire::{Header, Kind, greeting};

/// A request to be sent.
pub struct Asked {
    /// Its frame's header, but for the id.
    pub header: Header,
    /// What goes or comes with it.
    pub body: Body,
}

/// What goes or comes with a request.
pub enum Body {
    /// Room for the bytes; out while they arrive.
    Read(Option<Buffer>),
    /// The bytes of a write; none for a zero.
    Change(Option<Parcel>),
    /// How many acknowledged writes it makes durable.
    Sync {
        /// As counted by the client.
        covers: u64,
    },
    /// Nothing: it asks for hashes.
    Digest,
    /// Nothing: it asks for the writer's lease.
    Claim,
    /// Nothing: it gives the lease back.
    Release,
}

impl link::Asked for Asked {
    fn packet(&mut self, id: u64, channel: &Channel) -> Packet {
        self.header.id = id;
        match &self.body {
            Body::Change(Some(parcel)) => parcel.packet(self.header, channel.features()),
            _ => Packet::bare(self.header),
        }
    }

    fn what(&self) -> String {
        let Header { kind, offset, length, .. } = self.header;
        match kind {
            Kind::Sync => "sync".to_owned(),
            Kind::Claim => "ask for the writer's lease".to_owned(),
            Kind::Release => "give the writer's lease back".to_owned(),
            kind => format!("{} {length} bytes at {offset}", format!("{kind:?}").to_lowercase()),
        }
    }
}

impl Protocol for Client {
    type Asked = Asked;

    fn info(&self) -> &Info {
        &self.info
    }

    fn links(&self) -> &Links<Client> {
        &self.links
    }

    fn connect(&self, role: u16, generation: u64) -> std::result::Result<Connected, Absence> {
        self.connect_again(role, generation)
    }

    fn receive(self: &Arc<Self>, link: &Link<Client>, channel: &Channel, incoming: &mut Incoming) -> Result<()> {
        let header = incoming
            .header(channel, None, Duration::ZERO)?
            .ok_or_else(|| Error::new(Code::Disconnected, "the connection was closed"))?;
        match header.kind {
            Kind::Data | Kind::Digests => link.receive_data(self, channel, incoming, &header),
            Kind::Done => link.finish(self, header.id, Ok(Reply::Done)),
            Kind::Error => {
                let mut payload = Buffer::new(header.payload as usize);
                incoming.payload(channel, &header, &mut payload)?;
                let error = greeting::decode_error(&header, &payload);
                match header.id {
                    0 => Err(error.context("the server ends the connection")),
                    id => link.finish(self, id, Err(error.context(&self.info.name))),
                }
            }
            Kind::Close => {
                if header.flags & SYNCED != 0 {
                    self.server_synced();
                }
                Err(Error::new(Code::Disconnected, "the server closed"))
            }
            kind if kind.is_of_migration() && link.role() == 0 => {
                let mut payload = Buffer::new(header.payload as usize);
                incoming.payload(channel, &header, &mut payload)?;
                let message = Message::decode(kind, &payload, self.info.size.div_ceil(PAGE))?;
                link.hear();
                self.tell(Heard::Message(message));
                Ok(())
            }
            other => Err(Error::new(Code::Corrupt, format!("a frame {other:?} makes no sense from a server"))),
        }
    }

    fn goodbye(&self) -> Packet {
        Packet::bare(Header::new(Kind::Close, 0))
    }

    /// A write given up must not land after a later one: its session ends before another begins.
    fn given_up_ends(&self, asked: &Asked) -> bool {
        matches!(asked.body, Body::Change(_))
    }

    fn can_reconnect(&self) -> bool {
        self.way.is_some()
    }

    fn connected(self: &Arc<Self>, role: u16) {
        match role {
            0 => self.tell(Heard::Connected),
            1 => {}
            _ => self.bulk.opened(),
        }
        self.send_waiting();
    }

    fn lost(&self, role: u16, error: &Error) {
        match role {
            0 => self.tell(Heard::Lost(error.clone())),
            1 => {}
            _ => self.bulk.failed(),
        }
    }

    fn tick(&self, now: Instant) -> Option<Instant> {
        self.look_after_bulk(now)
    }

    fn over(&self, error: &Error) {
        self.bulk.end(error);
        self.tell(Heard::Over(error.clone()));
    }
}

impl Link<Client> {
    fn receive_data(
        &self,
        client: &Arc<Client>,
        channel: &Channel,
        incoming: &mut Incoming,
        header: &Header,
    ) -> Result<()> {
        let zeroes = header.flags & ZEROES != 0;
        let room = self.with(header.id, |asked| match (&mut asked.body, header.kind) {
            (Body::Read(_), Kind::Data) if asked.header.length == header.length && zeroes => Ok(None),
            (Body::Read(room), Kind::Data) if asked.header.length == header.length => Ok(room.take()),
            (Body::Digest, Kind::Digests) if asked.header.length == header.length => {
                Ok(Some(Buffer::new(header.payload as usize)))
            }
            _ => Err(Error::new(Code::Corrupt, "the server sent other bytes than were asked for")),
        });
        let room = room.transpose()?.flatten();
        if zeroes {
            return self.finish(client, header.id, Ok(Reply::Zeroes));
        }
        // Nobody waits for the answer to a request that was given up.
        let Some(mut buffer) = room else { return incoming.skip(channel, header) };
        match incoming.unpacked(channel, header, &mut buffer) {
            Ok(()) => self.finish(client, header.id, Ok(Reply::Data(buffer))),
            Err(error) => {
                // The request is sent again, with room for its answer.
                self.with(header.id, |asked| {
                    if let Body::Read(room) = &mut asked.body {
                        *room = Some(buffer);
                    }
                });
                Err(error)
            }
        }
    }

    /// Completes a request, if somebody still waits for it.
    fn finish(&self, client: &Arc<Client>, id: u64, outcome: Result<Reply>) -> Result<()> {
        let Some(sent) = self.answered(id) else { return Ok(()) };
        let fits = matches!(
            (&sent.asked.body, &outcome),
            (_, Err(_))
                | (Body::Read(_), Ok(Reply::Data(_) | Reply::Zeroes))
                | (Body::Digest, Ok(Reply::Data(_)))
                | (Body::Change(_) | Body::Sync { .. } | Body::Claim | Body::Release, Ok(Reply::Done))
        );
        if !fits {
            let error = Error::new(Code::Corrupt, "the server answered another kind of request");
            sent.completion.complete(Err(error.clone()));
            return Err(error);
        }
        if let Body::Read(_) = sent.asked.body {
            client.came(self, sent.asked.header.length, sent.at.elapsed());
        }
        let outcome = outcome.and_then(|reply| client.acknowledged(&sent.asked.body).map(|()| reply));
        sent.completion.complete(outcome);
        Ok(())
    }
}
