//! One connection: greeting, requests, answers, goodbye.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::caller::Caller;
use super::session::Session;
use super::under_way::UnderWay;
use super::{Export, Guest, Working, seeding};
use crate::backend::{self, Completion, Operation, Priority, Reply, Request};
use crate::boot::BOOT;
use crate::buffer::{Buffer, is_zero};
use crate::cancel::deadline_in;
use crate::error::{Code, Error, Result};
use crate::migration::seeder::peers::Peer;
use crate::thread;
use crate::tls::server::ServerTls;
use crate::wire::channel::{Channel, Packet, Payload};
use crate::wire::compress::{self, EAGER, Packed, Packer};
use crate::wire::greeting::{MIGRATE, Moving, VERSIONED};
use crate::wire::header::{SYNCED, ZEROES};
use crate::wire::incoming::Incoming;
use crate::wire::{self, Header, Hello, Identity, Kind, MAX_PAYLOAD, Welcome, greeting, socket};

/// How long a client may take for its HELLO.
const GREETING_TIME: Duration = Duration::from_secs(10);
/// How long the last frames may take to reach the client.
const GOODBYE_TIME: Duration = Duration::from_secs(1);
/// The default unit of transfer over a network, at least.
const CHUNK_SIZE: u32 = 256 << 10;

/// Serves a connection to its end. One that is not admitted is greeted with the reason.
pub(super) fn serve(guest: &Guest) {
    let (mut incoming, channel) = (Incoming::new(), &guest.channel);
    if let Err(error) = run(guest, &mut incoming) {
        tracing::debug!(%error, "a connection ended");
        let _ = send_error(channel, 0, &error);
    }
    channel.linger(GOODBYE_TIME);
}

fn run(guest: &Guest, incoming: &mut Incoming) -> Result<()> {
    let (server, channel) = (&*guest.inner, &guest.channel);
    let deadline = Instant::now() + GREETING_TIME;
    let Some((id, hello, caller)) = read_hello(guest, incoming, deadline)? else { return Ok(()) };
    guest.greeted();
    guest.admitted.clone()?;
    if hello.versions.0 > wire::NEWEST_VERSION || hello.versions.1 < wire::OLDEST_VERSION {
        let message = format!(
            "the client speaks versions {} to {} of the protocol, this server {} to {}: one of them is too old",
            hello.versions.0,
            hello.versions.1,
            wire::OLDEST_VERSION,
            wire::NEWEST_VERSION
        );
        return Err(Error::new(Code::Unsupported, message));
    }
    if hello.role > 1 && !server.has_spare_room() {
        return Err(Error::new(Code::Busy, "the server keeps its other connections for clients that have none"));
    }
    if hello.role > 0 {
        thread::as_batch();
        socket::prepare_bulk(channel.socket());
    }
    let export = server.export(&hello.export)?;
    caller.check(&hello.export, &export.allow)?;
    if export.seed.is_some() && hello.session.is_none() {
        return Err(seeding::refuse_plain(&hello.export));
    }
    let session = server.sessions.enter(&hello, channel, deadline)?;
    let working = Working::begin(server)?;
    export.lease.arrive(hello.client);
    let seed = export.seed.clone().map(|seed| (seed, Peer::new(&hello, channel)));
    let features = hello.features & compress::accepted(server.features);
    let connection = Arc::new(Connection {
        priority: if hello.role == 0 { Priority::Demand } else { Priority::Bulk },
        max_request: export.backend.info().max_request.clamp(1, MAX_PAYLOAD),
        deadline: server.options.deadline,
        channel: channel.clone(),
        export,
        client: hello.client,
        display: hello.display.clone(),
        versioned: hello.features & VERSIONED != 0,
        features,
        packer: Packer::new((server.features | features) & EAGER != 0),
        under_way: UnderWay::default(),
    });
    // A writer that comes back has its lease before it is welcomed, or is told who has it now.
    let means_to_write = hello.write && !connection.export.read_only;
    let claimed = if means_to_write { connection.claim() } else { Ok(()) };
    let outcome = claimed.and_then(|()| {
        let welcome = connection.welcome(server.life, hello.versions.1.min(wire::NEWEST_VERSION));
        let payload = Payload::Owned(Buffer::copy_of(&welcome.encode()));
        channel.send(Packet::new(Header::new(Kind::Welcome, id), payload))
    });
    incoming.agree(features);
    let outcome = outcome.and_then(|()| match &seed {
        None => connection.take_requests(incoming),
        Some((seed, peer)) => {
            incoming.agree(MIGRATE);
            seed.arrive(peer);
            let outcome = connection.migrate(incoming, seed, peer);
            seed.leave(peer, matches!(outcome, Ok(Farewell::Said)));
            outcome
        }
    });
    connection.finish(session, working, matches!(outcome, Ok(Farewell::Said)));
    outcome.map(drop)
}

/// How a connection ends without an error.
pub(super) enum Farewell {
    /// The client said goodbye.
    Said,
    /// It just ended.
    Unsaid,
}

/// Makes sure who the client is, and only then looks at its HELLO.
fn read_hello(guest: &Guest, incoming: &mut Incoming, deadline: Instant) -> Result<Option<(u64, Hello, Caller)>> {
    let channel = &guest.channel;
    let mut caller = guest.tls.as_ref().map_or(Ok(Caller::Anyone), |tls| tls.begin(channel, deadline))?;
    let unknown = |tls: &ServerTls| Error::new(Code::NotAuthenticated, tls.demands());
    let first = match (incoming.header(channel, Some(deadline), GREETING_TIME), &guest.tls) {
        // Even what is wrong with a frame is nobody's business yet.
        (Err(_), Some(tls)) if caller == Caller::Unknown => Err(unknown(tls)),
        (first, _) => first,
    };
    let Some(mut header) = first? else { return Ok(None) };
    if header.kind == Kind::Token {
        let mut token = Buffer::new(header.payload as usize);
        incoming.payload(channel, &header, &mut token)?;
        let plain = || Error::new(Code::NotAuthenticated, "a token came in plain text, where others may have read it");
        caller = caller.and(guest.tls.as_ref().ok_or_else(plain)?.know(&token)?);
        let Some(next) = incoming.header(channel, Some(deadline), GREETING_TIME)? else { return Ok(None) };
        header = next;
    }
    if let (Caller::Unknown, Some(tls)) = (&caller, &guest.tls) {
        return Err(unknown(tls));
    }
    if header.kind != Kind::Hello {
        return Err(Error::new(
            Code::InvalidArgument,
            format!("a connection begins with a HELLO, not {:?}", header.kind),
        ));
    }
    let mut payload = Buffer::new(header.payload as usize);
    incoming.payload(channel, &header, &mut payload)?;
    Ok(Some((header.id, Hello::decode(&payload)?, caller)))
}

pub(super) fn send_error(channel: &Channel, id: u64, error: &Error) -> Result<()> {
    let (header, payload) = greeting::encode_error(id, error);
    channel.send(Packet::new(header, Payload::Owned(Buffer::copy_of(&payload))))
}

pub(super) struct Connection {
    priority: Priority,
    max_request: u32,
    pub(super) deadline: Duration,
    pub(super) channel: Arc<Channel>,
    export: Arc<Export>,
    client: Identity,
    /// Who that is, for people.
    display: String,
    /// Whether the client would know which version it is shown.
    versioned: bool,
    /// Which features both sides use, of those about packing.
    features: u64,
    packer: Packer,
    under_way: UnderWay,
}

impl Connection {
    fn welcome(&self, life: Identity, version: u16) -> Welcome {
        let info = self.export.backend.info();
        Welcome {
            version,
            features: self.features,
            written: self.export.writes.as_ref().filter(|_| self.versioned).map(|writes| writes.tell(self.client)),
            moving: self
                .export
                .seed
                .as_ref()
                .map(|seed| Moving { epoch: seed.region().epoch, parts: seed.truth().sizes() }),
            size: info.size,
            read_only: self.export.read_only,
            chunk_size: info.chunk_size.max(CHUNK_SIZE),
            alignment: info.alignment,
            max_request: self.max_request,
            identity: self.export.identity,
            // A file's writes are in the kernel's keeping once acknowledged, also when this process dies.
            keeper: if info.local && info.identity.is_some() { BOOT.unwrap_or(life) } else { life },
        }
    }

    fn take_requests(self: &Arc<Self>, incoming: &mut Incoming) -> Result<Farewell> {
        loop {
            self.wait_for_room()?;
            let Some(header) = incoming.header(&self.channel, None, self.deadline)? else {
                return Ok(Farewell::Unsaid);
            };
            match header.kind {
                Kind::Read => self.read(&header)?,
                Kind::Write => self.write(&header, incoming)?,
                Kind::Zero => self.zero(&header)?,
                Kind::Sync => self.on_pool(&header, Operation::Sync),
                Kind::Claim => self.answer(&header, self.claim().map(|()| Reply::Done))?,
                Kind::Release => {
                    self.export.lease.release(self.client);
                    self.answer(&header, Ok(Reply::Done))?;
                }
                Kind::Close => return Ok(Farewell::Said),
                other => {
                    let message = format!("a frame {other:?} makes no sense from a client that was welcomed");
                    return Err(Error::new(Code::InvalidArgument, message));
                }
            }
        }
    }

    /// Nobody who does not receive answers gets more of them made.
    pub(super) fn wait_for_room(&self) -> Result<()> {
        while (self.channel.is_backed_up() || self.under_way.is_full()) && !self.channel.is_stopped() {
            self.channel.wait(false, None)?;
        }
        Ok(())
    }

    /// Makes this client the writer of the export. Waits, here and for this connection alone, while another
    /// may still come back.
    fn claim(&self) -> Result<()> {
        self.check_writable()?;
        self.export.lease.claim(self.client, &self.display, || self.channel.is_stopped())
    }

    fn check_writable(&self) -> Result<()> {
        match self.export.read_only {
            true => Err(Error::new(Code::ReadOnly, "the export is read-only")),
            false => Ok(()),
        }
    }

    /// Why a request is refused before it reaches the backend, if it is.
    fn check(&self, header: &Header) -> Result<()> {
        if !matches!(header.kind, Kind::Read | Kind::Digest) {
            self.check_writable()?;
            self.export.claim_to_write(self.client, &self.display, || self.channel.is_stopped())?;
        }
        if header.kind != Kind::Zero && header.length > u64::from(self.max_request) {
            let message = format!("{} bytes at once; the most is {}", header.length, self.max_request);
            return Err(Error::new(Code::InvalidArgument, message));
        }
        self.export.backend.info().check(header.offset, header.length)
    }

    pub(super) fn read(self: &Arc<Self>, header: &Header) -> Result<()> {
        if let Err(error) = self.check(header) {
            return send_error(&self.channel, header.id, &error);
        }
        // Somebody asks how far it is: the backend has no part in that.
        if header.length == 0 {
            return self.answer(header, Ok(Reply::Zeroes));
        }
        let mut buffer = Buffer::new(header.length as usize);
        match self.export.backend.try_read_at(&mut buffer, header.offset) {
            Some(outcome) => self.answer(header, outcome.map(|()| Reply::Data(buffer))),
            None => {
                self.submit(header, Operation::Read { offset: header.offset, buffer });
                Ok(())
            }
        }
    }

    fn write(self: &Arc<Self>, header: &Header, incoming: &mut Incoming) -> Result<()> {
        if let Err(error) = self.check(header) {
            incoming.skip(&self.channel, header)?;
            return send_error(&self.channel, header.id, &error);
        }
        let mut data = Buffer::new(header.length as usize);
        incoming.unpacked(&self.channel, header, &mut data)?;
        // A newer connection may have cut this one while the payload came.
        if self.channel.is_stopped() {
            return Ok(());
        }
        self.export.written.store(true, Ordering::SeqCst);
        match self.export.backend.try_write_at(&data, header.offset) {
            Some(outcome) => self.answer(header, outcome.map(|()| Reply::Done)),
            None => {
                self.submit(header, Operation::Write { offset: header.offset, data });
                Ok(())
            }
        }
    }

    fn zero(self: &Arc<Self>, header: &Header) -> Result<()> {
        if let Err(error) = self.check(header) {
            return send_error(&self.channel, header.id, &error);
        }
        self.export.written.store(true, Ordering::SeqCst);
        let operation = Operation::Zero { offset: header.offset, length: header.length };
        if header.length > u64::from(self.max_request) {
            self.on_pool(header, operation);
        } else {
            self.submit(header, operation);
        }
        Ok(())
    }

    fn submit(self: &Arc<Self>, header: &Header, operation: Operation) {
        let request = self.request(header, operation);
        self.export.backend.clone().submit(request);
    }

    /// As `submit`, for what takes long even where the bytes are local.
    fn on_pool(self: &Arc<Self>, header: &Header, operation: Operation) {
        let request = self.request(header, operation);
        let backend = self.export.backend.clone();
        if backend.info().local { backend::perform_on_pool(backend, request) } else { backend.submit(request) }
    }

    fn request(self: &Arc<Self>, header: &Header, operation: Operation) -> Request {
        let (connection, header) = (self.clone(), *header);
        let bytes = if header.kind == Kind::Zero { 0 } else { header.length };
        self.under_way.enter(bytes);
        Request {
            operation,
            priority: self.priority,
            deadline: deadline_in(self.deadline),
            completion: Completion::new(move |outcome| {
                // A client that is gone needs no answer, and its thread learns so by itself.
                let _ = connection.answer(&header, outcome);
                if connection.under_way.leave(bytes) {
                    connection.channel.wake();
                }
            }),
        }
    }

    fn answer(&self, header: &Header, outcome: Result<Reply>) -> Result<()> {
        let done = Header::new(Kind::Done, header.id);
        let data = Header::new(Kind::Data, header.id).about(header.offset, header.length);
        let packet = match (header.kind, outcome) {
            (_, Err(error)) => return send_error(&self.channel, header.id, &error),
            (Kind::Read, Ok(Reply::Zeroes)) => Packet::bare(data.with_flags(ZEROES)),
            (Kind::Read, Ok(Reply::Data(buffer))) if buffer.len() as u64 == header.length => {
                if is_zero(&buffer) {
                    Packet::bare(data.with_flags(ZEROES))
                } else {
                    self.packed(data, buffer)
                }
            }
            (Kind::Digest, Ok(Reply::Data(buffer))) if buffer.len() as u64 == header.length => {
                let digests = Header::new(Kind::Digests, header.id).about(header.offset, header.length);
                Packet::new(digests, Payload::Owned(seeding::digests(&buffer)))
            }
            (Kind::Digest, Ok(Reply::Zeroes)) => {
                return self.answer(header, Ok(Reply::Data(Buffer::zeroed(header.length as usize))));
            }
            (Kind::Read | Kind::Digest, Ok(_)) => {
                let error = backend::short_reply(self.export.backend.info());
                return send_error(&self.channel, header.id, &error);
            }
            (_, Ok(_)) => Packet::bare(done),
        };
        self.channel.send(packet)
    }

    /// The answer with these bytes, as fewer where that pays.
    fn packed(&self, header: Header, bytes: Buffer) -> Packet {
        match self.packer.pack(&bytes, self.features, || self.channel.rate()) {
            None => Packet::new(header, Payload::Owned(bytes)),
            Some(Packed { packing, bytes: packed }) => {
                let (crc, unpacked_crc) = (crc32c::crc32c(&packed), crc32c::crc32c(&bytes));
                Packet::ready(header.with_packed(packing, packed.len(), crc, unpacked_crc), Payload::Owned(packed))
            }
        }
    }

    /// Waits for what is under way, then says goodbye if the server closes.
    fn finish(&self, session: Session<'_>, working: Working<'_>, goodbye: bool) {
        self.under_way.wait();
        // Only now may a newer connection of this client begin.
        drop(session);
        self.export.lease.leave(self.client, goodbye);
        if let Some(synced) = working.end() {
            let flags = if synced { SYNCED } else { 0 };
            let _ = self.channel.send(Packet::bare(Header::new(Kind::Close, 0).with_flags(flags)));
        }
    }
}
