//! The options of a client, until it has chosen an export.

use std::sync::Arc;
use std::time::Instant;

use super::{GREETING_TIME, Peer};
use crate::buffer::Buffer;
use crate::error::{Code, Error, Result};
use crate::server::caller::Caller;
use crate::server::{Export, Guest, Inner};
use crate::tls::server::ServerTls;
use crate::wire::channel::{Channel, Packet, Payload};
use crate::wire::incoming::Incoming;
use crate::wire::nbd::handshake::{
    self, ALLOCATION, Ask, FIXED_NEWSTYLE, MOST_OPTION, MOST_SKIPPED, NO_ZEROES, Queries, infos, options, replies,
};
use crate::wire::nbd::{MOST_PAYLOAD, flags};

/// What one kind of metadata is called by number.
pub const ALLOCATION_ID: u32 = 1;
/// What is best asked for at once, where the backend has no chunks.
const BEST_BLOCK: u32 = 4096;

/// What client and server agreed to.
pub struct Agreed {
    /// The export that was chosen.
    pub export: Arc<Export>,
    /// Whether reads are answered in chunks.
    pub structured: bool,
    /// Whether the client may ask which bytes are zeros.
    pub allocation: bool,
}

struct Negotiation<'a> {
    server: &'a Inner,
    channel: &'a Channel,
    incoming: &'a mut Incoming,
    deadline: Instant,
    /// Whether several connections of this client are known to be its.
    is_known: bool,
    admitted: &'a Result<()>,
    /// How the connection is secured, where it has to be.
    tls: Option<&'a ServerTls>,
    /// Who the client is.
    caller: Caller,
    no_zeroes: bool,
    structured: bool,
    /// Of which export the client wants to know which bytes are zeros.
    allocation: Option<String>,
}

/// How an answer to an option is refused.
type Refusal = (u32, String);

/// Answers options until an export is chosen; `None` if the client went away instead.
pub(super) fn negotiate(guest: &Guest, incoming: &mut Incoming, peer: &Peer) -> Result<Option<Agreed>> {
    let channel = &guest.channel;
    let deadline = Instant::now() + GREETING_TIME;
    let mut greeting = Vec::with_capacity(18);
    greeting.extend(handshake::GREETING.to_be_bytes());
    greeting.extend(handshake::OPTION_MAGIC.to_be_bytes());
    greeting.extend((FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes());
    channel.send(Packet::raw(&greeting, Payload::Empty))?;
    let Some(flags) = incoming.head::<4>(channel, Some(deadline), GREETING_TIME)? else { return Ok(None) };
    let flags = u32::from_be_bytes(flags);
    if flags & !u32::from(FIXED_NEWSTYLE | NO_ZEROES) != 0 {
        return Err(Error::new(Code::InvalidArgument, format!("the client has unknown flags {flags:#x}")));
    }
    let negotiation = Negotiation {
        no_zeroes: flags & u32::from(NO_ZEROES) != 0,
        structured: false,
        allocation: None,
        server: &guest.inner,
        channel,
        incoming,
        deadline,
        is_known: peer.process.is_some(),
        admitted: &guest.admitted,
        tls: guest.tls.as_deref(),
        caller: if guest.tls.is_some() { Caller::Unknown } else { Caller::Anyone },
    };
    negotiation.run()
}

impl Negotiation<'_> {
    fn run(mut self) -> Result<Option<Agreed>> {
        loop {
            // Nobody who does not receive answers gets more of them made.
            while self.channel.is_backed_up() && !self.channel.is_stopped() {
                self.channel.wait(false, Some(self.deadline))?;
            }
            let Some((option, data)) = self.receive()? else { return Ok(None) };
            let Some(data) = data else {
                self.reply(option, replies::TOO_BIG, b"an option has at most 64 KiB")?;
                continue;
            };
            if self.caller == Caller::Unknown && !matches!(option, options::STARTTLS | options::ABORT) {
                if option == options::EXPORT_NAME {
                    return Err(Error::new(Code::NotAuthenticated, "the client chose an export without TLS"));
                }
                self.reply(option, replies::TLS_REQUIRED, b"this server speaks TLS only")?;
                continue;
            }
            if let (Err(error), false) = (self.admitted, option == options::ABORT) {
                self.reply(option, replies::POLICY, error.message().as_bytes())?;
                if matches!(option, options::GO | options::EXPORT_NAME) {
                    return Err(error.clone());
                }
                continue;
            }
            let outcome = match option {
                options::EXPORT_NAME => return self.export_name(&data).map(Some),
                options::ABORT => {
                    // A client that is gone already needs no answer.
                    let _ = self.reply(option, replies::ACK, &[]);
                    return Ok(None);
                }
                options::LIST => self.list(&data)?,
                options::INFO => self.info(option, &data)?.map(drop),
                options::GO => match self.info(option, &data)? {
                    Ok(export) => {
                        self.reply(option, replies::ACK, &[])?;
                        return Ok(Some(self.agreed(export)));
                    }
                    Err(refusal) => Err(refusal),
                },
                options::STRUCTURED_REPLY if data.is_empty() => {
                    self.structured = true;
                    Ok(())
                }
                options::STRUCTURED_REPLY => Err(invalid("STRUCTURED_REPLY has no data")),
                options::LIST_META_CONTEXT | options::SET_META_CONTEXT => self.meta_context(option, &data)?,
                options::STARTTLS => match self.tls {
                    None => Err((replies::UNSUPPORTED, "this server speaks no TLS".to_owned())),
                    Some(_) if self.caller != Caller::Unknown => Err(invalid("TLS is spoken already")),
                    Some(_) if !data.is_empty() => Err(invalid("STARTTLS has no data")),
                    Some(tls) => {
                        self.start_tls(tls)?;
                        continue;
                    }
                },
                _ => Err((replies::UNSUPPORTED, "this server does not know the option".to_owned())),
            };
            match outcome {
                Ok(()) => self.reply(option, replies::ACK, &[])?,
                Err((kind, why)) => self.reply(option, kind, why.as_bytes())?,
            }
        }
    }

    /// Goes over to TLS. Nothing that was said before counts: somebody else may have said it.
    fn start_tls(&mut self, tls: &ServerTls) -> Result<()> {
        if self.incoming.has(1) {
            return Err(Error::new(
                Code::NotAuthenticated,
                "plain bytes came behind STARTTLS: somebody put them there",
            ));
        }
        self.reply(options::STARTTLS, replies::ACK, &[])?;
        while self.channel.is_backed_up() && !self.channel.is_stopped() {
            self.channel.wait(false, Some(self.deadline))?;
        }
        self.caller = tls.begin(self.channel, self.deadline)?;
        (self.structured, self.allocation) = (false, None);
        Ok(())
    }

    /// The next option and its data, which is `None` if there is more of it than is taken in.
    fn receive(&mut self) -> Result<Option<(u32, Option<Vec<u8>>)>> {
        let Some(head) = self.incoming.head::<16>(self.channel, Some(self.deadline), GREETING_TIME)? else {
            return Ok(None);
        };
        let mut fields = handshake::Fields(&head);
        let (magic, option, length) = (fields.u64()?, fields.u32()?, fields.u32()?);
        if magic != handshake::OPTION_MAGIC {
            return Err(Error::new(Code::InvalidArgument, "the client speaks no NBD: an option begins otherwise"));
        }
        if length > MOST_SKIPPED {
            return Err(Error::new(Code::InvalidArgument, format!("the client sends an option of {length} bytes")));
        }
        if length > MOST_OPTION {
            self.incoming.skip_bytes(self.channel, length as usize)?;
            return Ok(Some((option, None)));
        }
        let mut data = vec![0; length as usize];
        self.incoming.fill(self.channel, &mut data)?;
        Ok(Some((option, Some(data))))
    }

    fn reply(&self, option: u32, kind: u32, data: &[u8]) -> Result<()> {
        let head = handshake::reply_head(option, kind, data.len());
        self.channel.send(Packet::raw(&head, Payload::Owned(Buffer::copy_of(data))))
    }

    /// The export of that name; the empty one is the only export there is.
    fn find(&self, name: &str) -> Result<Arc<Export>, Refusal> {
        let exports = self.server.exports.read().unwrap_or_else(|e| e.into_inner());
        let only = exports.values().next().filter(|_| name.is_empty() && exports.len() == 1);
        // What is being seeded has no meaning to a client that knows no migration.
        let found = exports.get(name).or(only).filter(|export| export.seed.is_none()).cloned();
        let found = found.ok_or_else(|| (replies::UNKNOWN, format!("nothing is exported as {name:?}")))?;
        match self.caller.check(name, &found.allow) {
            Ok(()) => Ok(found),
            Err(error) => Err((replies::POLICY, error.message().to_owned())),
        }
    }

    fn agreed(&self, export: Arc<Export>) -> Agreed {
        let chosen = self.allocation.as_ref().and_then(|name| self.find(name).ok());
        let allocation = chosen.is_some_and(|chosen| Arc::ptr_eq(&chosen, &export));
        Agreed { export, structured: self.structured, allocation }
    }

    fn export_name(&self, data: &[u8]) -> Result<Agreed> {
        let export = self.find(handshake::text(data)?).map_err(|(_, why)| Error::new(Code::NotFound, why))?;
        let mut answer = self.size_and_flags(&export);
        if !self.no_zeroes {
            answer.extend([0; handshake::ZEROES]);
        }
        self.channel.send(Packet::raw(&[], Payload::Owned(Buffer::copy_of(&answer))))?;
        Ok(self.agreed(export))
    }

    fn list(&self, data: &[u8]) -> Result<Result<(), Refusal>> {
        if !data.is_empty() {
            return Ok(Err(invalid("LIST has no data")));
        }
        let exports = self.server.exports.read().unwrap_or_else(|e| e.into_inner());
        let plain = exports
            .iter()
            .filter(|(name, export)| export.seed.is_none() && self.caller.check(name, &export.allow).is_ok());
        let mut names: Vec<String> = plain.map(|(name, _)| name.clone()).collect();
        drop(exports);
        names.sort();
        for name in names {
            let data = [&(name.len() as u32).to_be_bytes(), name.as_bytes()].concat();
            self.reply(options::LIST, replies::SERVER, &data)?;
        }
        Ok(Ok(()))
    }

    /// Answers INFO and GO, but for the acknowledgement.
    fn info(&self, option: u32, data: &[u8]) -> Result<Result<Arc<Export>, Refusal>> {
        let ask = match Ask::decode(data) {
            Ok(ask) => ask,
            Err(error) => return Ok(Err(invalid(error.message()))),
        };
        let export = match self.find(ask.export) {
            Ok(export) => export,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let info = export.backend.info();
        let asked = |kind| ask.infos.contains(&kind);
        if info.alignment > 1 && !asked(infos::BLOCK_SIZE) {
            let why = format!("its requests are multiples of {} bytes", info.alignment);
            return Ok(Err((replies::BLOCK_SIZE_REQUIRED, why)));
        }
        let say = |kind: u16, about: &[u8]| self.reply(option, replies::INFO, &[&kind.to_be_bytes(), about].concat());
        say(infos::EXPORT, &self.size_and_flags(&export))?;
        if asked(infos::NAME) {
            say(infos::NAME, ask.export.as_bytes())?;
        }
        if asked(infos::BLOCK_SIZE) {
            let most = most_payload(info.max_request, info.alignment);
            let best = if info.local { BEST_BLOCK } else { info.chunk_size };
            let sizes = [info.alignment, best.max(info.alignment).min(most), most];
            say(infos::BLOCK_SIZE, &sizes.map(u32::to_be_bytes).concat())?;
        }
        Ok(Ok(export))
    }

    fn meta_context(&mut self, option: u32, data: &[u8]) -> Result<Result<(), Refusal>> {
        let set = option == options::SET_META_CONTEXT;
        if set {
            self.allocation = None;
        }
        if !self.structured {
            return Ok(Err(invalid("ask for structured replies first")));
        }
        let asked = match Queries::decode(data) {
            Ok(asked) => asked,
            Err(error) => return Ok(Err(invalid(error.message()))),
        };
        if let Err(refusal) = self.find(asked.export) {
            return Ok(Err(refusal));
        }
        let listed = |query: &&str| !set && *query == "base:";
        if asked.queries.iter().any(|query| *query == ALLOCATION || listed(query)) || (!set && asked.queries.is_empty())
        {
            let id = if set { ALLOCATION_ID } else { 0 };
            self.reply(option, replies::META_CONTEXT, &[&id.to_be_bytes(), ALLOCATION.as_bytes()].concat())?;
            if set {
                self.allocation = Some(asked.export.to_owned());
            }
        }
        Ok(Ok(()))
    }

    fn size_and_flags(&self, export: &Export) -> Vec<u8> {
        use flags::*;
        let mut flags = HAS_FLAGS | SEND_FLUSH | SEND_FUA | SEND_CACHE;
        if export.read_only {
            flags |= READ_ONLY;
        } else {
            flags |= SEND_TRIM | SEND_WRITE_ZEROES | SEND_FAST_ZERO;
        }
        if self.structured {
            flags |= SEND_DF;
        }
        // All connections reach one backend, so that a flush covers them all. But one client may write, and where
        // nothing tells whose a connection is, the second of a client would be another's.
        if export.read_only || self.is_known {
            flags |= CAN_MULTI_CONN;
        }
        [&export.backend.info().size.to_be_bytes()[..], &flags.to_be_bytes()].concat()
    }
}

/// The longest read or write of an export.
pub fn most_payload(max_request: u32, alignment: u32) -> u32 {
    let most = max_request.min(MOST_PAYLOAD as u32);
    (most / alignment.max(1) * alignment.max(1)).max(alignment)
}

fn invalid(why: &str) -> Refusal {
    (replies::INVALID, why.to_owned())
}
