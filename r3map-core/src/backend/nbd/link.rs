//! What a client of NBD sends.

use std::sync::{Arc, Mutex};

use super::client::Client;
use super::replies::Filled;
use crate::backend::link::{self, Absence, Connected, Link, Links, Protocol};
use crate::backend::{Extent, Info};
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::wire::channel::{Channel, Packet, Payload};
use crate::wire::incoming::Incoming;
use crate::wire::nbd::{Command, Request};

/// A request to be sent.
pub struct Asked {
    /// What to do.
    pub command: Command,
    /// How.
    pub flags: u16,
    /// Where, in bytes.
    pub offset: u64,
    /// How many bytes.
    pub length: u32,
    /// What goes or comes with it.
    pub body: Body,
    /// What the server said went wrong, until its reply is complete.
    pub failure: Option<Error>,
}

/// What goes or comes with a request.
pub enum Body {
    /// Room for the bytes, out while some arrive, and which of them are here.
    Read(Option<Buffer>, Filled),
    /// The bytes, kept to be sent again.
    Write(Arc<Buffer>),
    /// What was found out about the range.
    Status(Arc<Mutex<Vec<Extent>>>),
    /// How many acknowledged writes it makes durable.
    Flush {
        /// As counted by the client.
        covers: u64,
    },
    /// Neither.
    Nothing,
}

impl Body {
    /// The body of a read.
    pub fn read(buffer: Buffer) -> Body {
        Body::Read(Some(buffer), Filled::default())
    }
}

impl link::Asked for Asked {
    fn packet(&mut self, id: u64, _: &Channel) -> Packet {
        // What came of an earlier reply is forgotten, since the request is sent again.
        self.failure = None;
        match &mut self.body {
            Body::Read(_, filled) => *filled = Filled::default(),
            Body::Status(found) => found.lock().unwrap_or_else(|e| e.into_inner()).clear(),
            _ => {}
        }
        let Asked { command, flags, offset, length, ref body, .. } = *self;
        let request = Request { command: Some(command), flags, cookie: id.to_be_bytes(), offset, length };
        let payload = match body {
            Body::Write(data) => Payload::Shared(data.clone()),
            _ => Payload::Empty,
        };
        Packet::raw(&request.encode(), payload)
    }

    fn what(&self) -> String {
        match self.command {
            Command::Flush => "sync".to_owned(),
            command => format!("{} of {} bytes at {}", command.name(), self.length, self.offset),
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

    fn connect(&self, _role: u16, _generation: u64) -> std::result::Result<Connected, Absence> {
        self.connect_again()
    }

    fn receive(self: &Arc<Self>, link: &Link<Client>, channel: &Channel, incoming: &mut Incoming) -> Result<()> {
        link.receive(self, channel, incoming)
    }

    fn goodbye(&self) -> Packet {
        let request = Request { command: Some(Command::Disconnect), flags: 0, cookie: [0; 8], offset: 0, length: 0 };
        Packet::raw(&request.encode(), Payload::Empty)
    }

    /// A write given up must not land after a later one, as far as we can see to it; and the length of a simple
    /// reply is known only from its request.
    fn given_up_ends(&self, asked: &Asked) -> bool {
        match asked.command {
            Command::Write | Command::WriteZeroes => true,
            Command::Read => !self.agreed().structured,
            _ => false,
        }
    }
}
