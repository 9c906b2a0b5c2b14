//! The client's side of the negotiation.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backend::link::Connected;
use crate::buffer::Buffer;
use crate::error::{Code, Error, Result};
use crate::tls::client::ClientTls;
use crate::wire::channel::{Channel, Packet, Payload};
use crate::wire::incoming::Incoming;
use crate::wire::nbd::handshake::{
    self, ALLOCATION, Ask, FIXED_NEWSTYLE, Fields, MOST_OPTION, NO_ZEROES, Queries, infos, options, replies,
};
use crate::wire::nbd::{MOST_PAYLOAD, flags};

/// What the server says of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// Bytes.
    pub size: u64,
    /// What it can: [`flags`].
    pub flags: u16,
    /// Whether replies come in chunks.
    pub structured: bool,
    /// The number of the metadata that says which bytes are zeros, where the server knows.
    pub allocation: Option<u32>,
    /// Offsets and lengths are multiples of this.
    pub alignment: u32,
    /// The longest read or write.
    pub max_request: u32,
}

struct Greeting<'a> {
    channel: Arc<Channel>,
    incoming: Incoming,
    deadline: Instant,
    export: &'a str,
}

/// An answer to an option.
type Answer = (u32, Vec<u8>);

/// Chooses an export. A server that says no does so by an error that is not retryable.
pub fn greet(socket: OwnedFd, export: &str, tls: Option<&ClientTls>, deadline: Instant) -> Result<(Connected, Agreed)> {
    let channel = Arc::new(Channel::new(socket, Duration::ZERO)?);
    let mut greeting = Greeting { channel, incoming: Incoming::new(), deadline, export };
    let agreed = greeting.run(tls).map_err(|error| error.context("greet the NBD server"))?;
    Ok((Connected { channel: greeting.channel, incoming: greeting.incoming }, agreed))
}

impl Greeting<'_> {
    fn run(&mut self, tls: Option<&ClientTls>) -> Result<Agreed> {
        let greeting = u64::from_be_bytes(self.head()?);
        if greeting != handshake::GREETING {
            return Err(Error::new(Code::Unsupported, "what listens there speaks no NBD"));
        }
        let magic = u64::from_be_bytes(self.head()?);
        if magic == handshake::OLDSTYLE_MAGIC {
            return Err(Error::new(Code::Unsupported, "the server speaks only the old style, without options"));
        }
        let known = u16::from_be_bytes(self.head()?);
        if magic != handshake::OPTION_MAGIC {
            return Err(Error::new(Code::Corrupt, "the server's greeting is malformed"));
        }
        let flags = u32::from(known & (FIXED_NEWSTYLE | NO_ZEROES));
        self.channel.send(Packet::raw(&flags.to_be_bytes(), Payload::Empty))?;
        match tls {
            Some(_) if known & FIXED_NEWSTYLE == 0 => return Err(stripped("it knows no options")),
            Some(tls) => self.start_tls(tls)?,
            None => {}
        }
        let mut agreed = Agreed {
            size: 0,
            flags: 0,
            structured: false,
            allocation: None,
            alignment: 1,
            max_request: MOST_PAYLOAD as u32,
        };
        if known & FIXED_NEWSTYLE == 0 || !self.go(&mut agreed)? {
            self.export_name(&mut agreed, known & NO_ZEROES != 0)?;
        }
        check(&agreed)?;
        Ok(agreed)
    }

    /// Goes over to TLS, or fails: nothing is said in plain where TLS was asked for.
    fn start_tls(&mut self, tls: &ClientTls) -> Result<()> {
        self.send(options::STARTTLS, &[])?;
        let (kind, why) = self.receive(options::STARTTLS)?;
        if kind != replies::ACK {
            return Err(stripped(handshake::text(&why).unwrap_or_default()));
        }
        if self.incoming.has(1) {
            let message = "plain bytes came where TLS begins: somebody in between put them there";
            return Err(Error::new(Code::NotAuthenticated, message));
        }
        tls.begin(&self.channel, self.deadline)
    }

    /// The newer way. `false` if the server knows only the older one.
    fn go(&mut self, agreed: &mut Agreed) -> Result<bool> {
        self.send(options::STRUCTURED_REPLY, &[])?;
        agreed.structured = self.receive(options::STRUCTURED_REPLY)?.0 == replies::ACK;
        if agreed.structured {
            let queries = Queries { export: self.export, queries: vec![ALLOCATION] };
            self.send(options::SET_META_CONTEXT, &queries.encode())?;
            while let (replies::META_CONTEXT, data) = self.receive(options::SET_META_CONTEXT)? {
                let mut fields = Fields(&data);
                let id = fields.u32()?;
                if fields.0 == ALLOCATION.as_bytes() {
                    agreed.allocation = Some(id);
                }
            }
        }
        self.send(options::GO, &Ask { export: self.export, infos: vec![infos::BLOCK_SIZE] }.encode())?;
        let mut told = false;
        loop {
            match self.receive(options::GO)? {
                (replies::INFO, data) => {
                    let mut fields = Fields(&data);
                    match fields.u16()? {
                        infos::EXPORT => {
                            (agreed.size, agreed.flags) = (fields.u64()?, fields.u16()?);
                            told = true;
                        }
                        infos::BLOCK_SIZE => {
                            let (least, _best, most) = (fields.u32()?, fields.u32()?, fields.u32()?);
                            (agreed.alignment, agreed.max_request) = (least, most.min(MOST_PAYLOAD as u32));
                        }
                        _ => {}
                    }
                }
                (replies::ACK, _) if told => return Ok(true),
                (replies::UNSUPPORTED, _) => return Ok(false),
                (kind, data) => return Err(self.refused(kind, &data)),
            }
        }
    }

    /// The older way, in which the server closes where it refuses.
    fn export_name(&mut self, agreed: &mut Agreed, no_zeroes: bool) -> Result<()> {
        self.send(options::EXPORT_NAME, self.export.as_bytes())?;
        agreed.size = u64::from_be_bytes(self.head().map_err(|error| match error.code() {
            Code::Disconnected => {
                let message = format!("the server closed the connection: perhaps it has no export {:?}", self.export);
                Error::new(Code::NotFound, message)
            }
            _ => error,
        })?);
        agreed.flags = u16::from_be_bytes(self.head()?);
        if !no_zeroes {
            self.incoming.skip_bytes(&self.channel, handshake::ZEROES)?;
        }
        Ok(())
    }

    fn head<const N: usize>(&mut self) -> Result<[u8; N]> {
        let head = self.incoming.head(&self.channel, Some(self.deadline), Duration::ZERO)?;
        head.ok_or_else(|| Error::new(Code::Disconnected, "the server closed the connection"))
    }

    fn send(&self, option: u32, data: &[u8]) -> Result<()> {
        let head = handshake::option_head(option, data.len());
        self.channel.send(Packet::raw(&head, Payload::Owned(Buffer::copy_of(data))))
    }

    fn receive(&mut self, option: u32) -> Result<Answer> {
        let head = self.head::<20>()?;
        let mut fields = Fields(&head);
        let (magic, about, kind, length) = (fields.u64()?, fields.u32()?, fields.u32()?, fields.u32()?);
        if magic != handshake::REPLY_MAGIC || about != option {
            return Err(Error::new(Code::Corrupt, "the server answered something else than it was asked"));
        }
        if length > MOST_OPTION {
            return Err(Error::new(Code::Corrupt, format!("the server answers an option with {length} bytes")));
        }
        let mut data = vec![0; length as usize];
        self.incoming.fill(&self.channel, &mut data)?;
        Ok((kind, data))
    }

    fn refused(&self, kind: u32, data: &[u8]) -> Error {
        let why = handshake::text(data).unwrap_or_default();
        let why = if why.is_empty() { String::new() } else { format!(": {why}") };
        let export = self.export;
        let (code, says) = match kind {
            replies::UNKNOWN => (Code::NotFound, format!("there is no export {export:?}")),
            replies::POLICY => (Code::PermissionDenied, format!("export {export:?} is not for this client")),
            replies::TLS_REQUIRED => (Code::Unsupported, "it demands TLS: write nbds://".to_owned()),
            replies::SHUTDOWN => (Code::Disconnected, "it is closing".to_owned()),
            kind => (Code::Corrupt, format!("it refused export {export:?} with {kind:#x}")),
        };
        Error::new(code, format!("{says}{why}"))
    }
}

/// The error of a server that will not speak TLS.
fn stripped(why: &str) -> Error {
    let message = format!("it speaks no TLS, or somebody in between hides that; nothing was asked in plain: {why}");
    Error::new(Code::NotAuthenticated, message)
}

/// Whether what the server says can be.
fn check(agreed: &Agreed) -> Result<()> {
    let Agreed { size, flags, alignment, max_request, .. } = *agreed;
    let wrong = |what: String| Err(Error::new(Code::Corrupt, format!("the server says what cannot be: {what}")));
    if flags & flags::HAS_FLAGS == 0 {
        return wrong(format!("flags {flags:#x}"));
    }
    if i64::try_from(size).is_err() {
        return wrong(format!("a size of {size} bytes"));
    }
    if !alignment.is_power_of_two() || alignment > 64 << 10 || max_request < alignment || max_request % alignment != 0 {
        return wrong(format!("requests of {alignment} to {max_request} bytes"));
    }
    Ok(())
}
