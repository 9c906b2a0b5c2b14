//! One connection of a client, made again when it is lost, and the requests that are under way on it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::client::{Absence, Client, Connected};
use super::leech::Heard;
use crate::backend::{Completion, Reply};
use crate::buffer::Buffer;
use crate::error::{Code, Error, Result};
use crate::migration::Message;
use crate::page::PAGE;
use crate::thread;
use crate::wire::channel::{Channel, Packet, Payload};
use crate::wire::header::{SYNCED, ZEROES};
use crate::wire::incoming::Incoming;
use crate::wire::{Header, Kind, greeting, socket};

/// The pause after the first attempt to connect that failed; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A connection for one kind of traffic.
pub struct Link {
    role: u16,
    generation: AtomicU64,
    state: Mutex<State>,
    /// Told when there is something to send without a connection, and at the end.
    changed: Condvar,
}

struct State {
    started: bool,
    /// Every request that is not answered, sent or not, by its id.
    under_way: BTreeMap<u64, Sent>,
    last_id: u64,
    /// The connection, if there is one: who adds a request while there is sends it.
    channel: Option<Arc<Channel>>,
    /// When the server last answered something.
    heard: Option<Instant>,
    /// Why the connection was lost or cannot be made, until the server answers again.
    cause: Option<Error>,
    /// With what everything fails, at the end.
    end: Option<Error>,
}

/// A request to be sent.
pub struct Travel {
    /// Its frame's header, but for the id.
    pub header: Header,
    /// What goes or comes with it.
    pub body: Body,
    /// When to give up.
    pub deadline: Option<Instant>,
    /// Whom to tell.
    pub completion: Completion,
}

/// What goes or comes with a request.
pub enum Body {
    /// Room for the bytes; out while they arrive.
    Read(Option<Buffer>),
    /// The bytes of a write, kept to be sent again; none for a zero.
    Change(Option<Arc<Buffer>>),
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

struct Sent {
    travel: Travel,
    at: Instant,
}

impl Sent {
    fn packet(&self) -> Packet {
        let payload = match &self.travel.body {
            Body::Change(Some(data)) => Payload::Shared(data.clone()),
            _ => Payload::Empty,
        };
        Packet::ready(self.travel.header, payload)
    }
}

impl Link {
    /// A link that connects when it is first used.
    pub fn new(role: u16) -> Link {
        let state = State {
            started: false,
            under_way: BTreeMap::new(),
            last_id: 0,
            channel: None,
            heard: None,
            cause: None,
            end: None,
        };
        // The first connection of role 0 is made before there is a link.
        let generation = AtomicU64::new(1);
        Link { role, generation, state: Mutex::new(state), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Starts the thread that connects and receives.
    pub fn start(self: &Arc<Self>, client: &Arc<Client>, connected: Option<Connected>) -> Result<()> {
        let mut state = self.state();
        if state.started {
            return Ok(());
        }
        let (link, client) = (self.clone(), client.clone());
        let started = thread::spawn("r3map-link", move || link.run(&client, connected));
        started.map_err(|error| Error::io("start a thread for a connection", error))?;
        state.started = true;
        Ok(())
    }

    /// Takes a request and sends it, now or once there is a connection.
    pub fn submit(self: &Arc<Self>, client: &Arc<Client>, mut travel: Travel) {
        let deadline = travel.deadline;
        let mut state = self.state();
        if let Some(error) = state.end.clone() {
            drop(state);
            return travel.completion.complete(Err(error));
        }
        if !state.started {
            drop(state);
            if let Err(error) = self.start(client, None) {
                return travel.completion.complete(Err(error));
            }
            return self.submit(client, travel);
        }
        state.last_id += 1;
        travel.header.id = state.last_id;
        let sent = Sent { travel, at: Instant::now() };
        let channel = state.channel.clone();
        let packet = channel.is_some().then(|| sent.packet());
        let id = state.last_id;
        state.under_way.insert(id, sent);
        drop(state);
        match (channel, packet) {
            // If that fails the connection is over: the receiving thread sees it and sends again.
            (Some(channel), Some(packet)) => drop(channel.send(packet)),
            _ => self.changed.notify_all(),
        }
        client.timer().arm(deadline);
    }

    /// Sends a message of a migration, or loses it.
    pub fn say(&self, message: &Message) {
        let channel = self.state().channel.clone();
        let Some(channel) = channel else { return };
        let (header, payload) = message.encode();
        drop(channel.send(Packet::ready(header, Payload::Owned(Buffer::copy_of(&payload)))));
    }

    /// Ends the connection there is; what is under way is sent again on the next.
    pub fn cut(&self) {
        if let Some(channel) = &self.state().channel {
            channel.shutdown();
        }
    }

    /// The same if the server has answered nothing since then.
    pub fn cut_if_silent(&self, since: Instant) {
        let state = self.state();
        if let Some(channel) = state.channel.as_ref().filter(|_| state.heard.is_none_or(|heard| heard < since)) {
            tracing::info!("a connection is silent: making it anew");
            channel.shutdown();
        }
    }

    /// Completes requests whose deadline passed; says when the next one does.
    pub fn expire(&self, client: &Client, now: Instant) -> Option<Instant> {
        let mut state = self.state();
        let late = |sent: &Sent| sent.travel.deadline.is_some_and(|deadline| deadline <= now);
        let ids: Vec<u64> = state.under_way.iter().filter(|(_, sent)| late(sent)).map(|(id, _)| *id).collect();
        let expired: Vec<Sent> = ids.into_iter().filter_map(|id| state.under_way.remove(&id)).collect();
        let next = state.under_way.values().filter_map(|sent| sent.travel.deadline).min();
        let heard = state.heard;
        // A write given up must not land after a later one: its session ends before another begins. And a
        // server that has said nothing since the request was sent may be gone.
        let cut =
            |sent: &Sent| matches!(sent.travel.body, Body::Change(_)) || heard.is_none_or(|heard| heard < sent.at);
        let connected = state.channel.is_some();
        if let Some(channel) = state.channel.as_ref().filter(|_| expired.iter().any(cut)) {
            channel.shutdown();
        }
        let cause = state.cause.clone();
        drop(state);
        for Sent { travel, .. } in expired {
            let Header { kind, offset, length, .. } = travel.header;
            let what = match kind {
                Kind::Sync => "sync".to_owned(),
                Kind::Claim => "ask for the writer's lease".to_owned(),
                Kind::Release => "give the writer's lease back".to_owned(),
                kind => format!("{} {length} bytes at {offset}", format!("{kind:?}").to_lowercase()),
            };
            let cause = cause.as_ref().map(|cause| format!(": {}", cause.message())).unwrap_or_default();
            let (code, why) = match connected {
                true => (Code::Timeout, "the server did not answer before the deadline"),
                false => (Code::Disconnected, "there was no connection before the deadline"),
            };
            let error = Error::new(code, format!("{}: {what}: {why}{cause}", client.info().name));
            travel.completion.complete(Err(error));
        }
        next
    }

    /// Fails all requests, now and later, and ends the connection and its thread.
    pub fn end(&self, error: &Error) {
        let mut state = self.state();
        if state.end.is_none() {
            state.end = Some(error.clone());
        }
        let under_way = std::mem::take(&mut state.under_way);
        let channel = state.channel.take();
        drop(state);
        self.changed.notify_all();
        if let Some(channel) = channel {
            let _ = channel.send(Packet::bare(Header::new(Kind::Close, 0)));
            channel.shutdown();
        }
        for sent in under_way.into_values() {
            sent.travel.completion.complete(Err(error.clone()));
        }
    }

    /// Keeps a connection while it is needed and receives what comes, until the end.
    fn run(&self, client: &Arc<Client>, mut connected: Option<Connected>) {
        // Bulk gives way to what the app waits for.
        if self.role > 0 {
            thread::as_batch();
        }
        let mut pause = FIRST_PAUSE;
        while let Some(next) = connected.take().or_else(|| self.connect(client, &mut pause)) {
            let Connected { channel, mut incoming } = next;
            if !self.adopt(&channel) {
                return;
            }
            self.tell(client, Heard::Connected);
            let begun = Instant::now();
            let error = self.receive(client, &channel, &mut incoming);
            channel.shutdown();
            let mut state = self.state();
            if state.end.is_some() {
                return;
            }
            state.channel = None;
            let of_use = state.heard.is_some_and(|heard| heard >= begun);
            tracing::info!(backend = client.info().name, %error, "a connection was lost");
            state.cause = Some(error.clone());
            drop(state);
            self.tell(client, Heard::Lost(error.clone()));
            if !client.can_reconnect() {
                let name = &client.info().name;
                let message = format!("{name}: the connection was lost: {}", error.message());
                return client.end(&Error::new(Code::Disconnected, message).with_retryable(false));
            }
            // A server that takes connections and answers nothing is not asked without a pause either.
            if of_use {
                pause = FIRST_PAUSE;
            } else {
                self.rest(&mut pause);
            }
        }
    }

    /// Tells whoever drives a migration, whose connection the first one is.
    fn tell(&self, client: &Client, heard: Heard) {
        if let Some(leech) = client.leech().filter(|_| self.role == 0) {
            leech.hear(heard);
        }
    }

    /// Connects once a request or a migration needs it, as often as it takes. `None` at the end.
    fn connect(&self, client: &Client, pause: &mut Duration) -> Option<Connected> {
        let always = self.role == 0 && client.leech().is_some();
        loop {
            let mut state = self.state();
            while state.under_way.is_empty() && !always && state.end.is_none() {
                state = self.changed.wait(state).unwrap_or_else(|e| e.into_inner());
            }
            if state.end.is_some() {
                return None;
            }
            drop(state);
            let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
            match client.connect(self.role, generation) {
                Ok(connected) => return Some(connected),
                Err(Absence::Changed(error)) => {
                    client.end(&error);
                    return None;
                }
                Err(Absence::Refused(error)) => {
                    let error = error.context(format!("connect to {} again", client.info().name));
                    self.tell(client, Heard::Lost(error.clone()));
                    let refused = std::mem::take(&mut self.state().under_way);
                    for sent in refused.into_values() {
                        sent.travel.completion.complete(Err(error.clone()));
                    }
                }
                Err(Absence::Away(error)) => {
                    tracing::debug!(backend = client.info().name, %error, "cannot connect");
                    self.state().cause = Some(error);
                }
            }
            self.rest(pause);
        }
    }

    /// Waits between half of that time and all of it, so that many clients do not come back as one, and
    /// makes the next pause longer.
    fn rest(&self, pause: &mut Duration) {
        let random = socket::random().map_or(0, |bytes| bytes[0]);
        let until = Instant::now() + *pause / 2 + *pause / 2 * u32::from(random) / 256;
        *pause = (*pause * 2).min(LONGEST_PAUSE);
        let mut state = self.state();
        while state.end.is_none() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(|e| e.into_inner()).0;
        }
    }

    /// Makes this the connection and sends all that is under way; says whether it is still wanted.
    fn adopt(&self, channel: &Arc<Channel>) -> bool {
        let mut state = self.state();
        if state.end.is_some() {
            drop(state);
            channel.shutdown();
            return false;
        }
        state.channel = Some(channel.clone());
        let now = Instant::now();
        let mut packets = Vec::with_capacity(state.under_way.len());
        for sent in state.under_way.values_mut() {
            sent.at = now;
            packets.push(sent.packet());
        }
        drop(state);
        for packet in packets {
            if channel.send(packet).is_err() {
                break;
            }
        }
        true
    }

    /// Receives answers until the connection is over; says why it is.
    fn receive(&self, client: &Client, channel: &Channel, incoming: &mut Incoming) -> Error {
        loop {
            if let Err(error) = self.receive_one(client, channel, incoming) {
                return error;
            }
        }
    }

    fn receive_one(&self, client: &Client, channel: &Channel, incoming: &mut Incoming) -> Result<()> {
        let header = incoming
            .header(channel, None, Duration::ZERO)?
            .ok_or_else(|| Error::new(Code::Disconnected, "the connection was closed"))?;
        match header.kind {
            Kind::Data | Kind::Digests => self.receive_data(client, channel, incoming, &header),
            Kind::Done => self.finish(client, header.id, Ok(Reply::Done)),
            Kind::Error => {
                let mut payload = Buffer::new(header.payload as usize);
                incoming.payload(channel, &header, &mut payload)?;
                let error = greeting::decode_error(&header, &payload);
                match header.id {
                    0 => Err(error.context("the server ends the connection")),
                    id => self.finish(client, id, Err(error.context(&client.info().name))),
                }
            }
            Kind::Close => {
                if header.flags & SYNCED != 0 {
                    client.server_synced();
                }
                Err(Error::new(Code::Disconnected, "the server closed"))
            }
            kind if kind.is_of_migration() && self.role == 0 => {
                let mut payload = Buffer::new(header.payload as usize);
                incoming.payload(channel, &header, &mut payload)?;
                let message = Message::decode(kind, &payload, client.info().size.div_ceil(PAGE))?;
                self.state().heard = Some(Instant::now());
                self.tell(client, Heard::Message(message));
                Ok(())
            }
            other => Err(Error::new(Code::Corrupt, format!("a frame {other:?} makes no sense from a server"))),
        }
    }

    fn receive_data(&self, client: &Client, channel: &Channel, incoming: &mut Incoming, header: &Header) -> Result<()> {
        let room = match self.state().under_way.get_mut(&header.id).map(|sent| &mut sent.travel) {
            Some(Travel { header: asked, body: Body::Read(room), .. })
                if header.kind == Kind::Data && asked.length == header.length =>
            {
                if header.flags & ZEROES != 0 {
                    None
                } else {
                    room.take()
                }
            }
            Some(Travel { header: asked, body: Body::Digest, .. })
                if header.kind == Kind::Digests && asked.length == header.length =>
            {
                Some(Buffer::new(header.payload as usize))
            }
            Some(_) => return Err(Error::new(Code::Corrupt, "the server sent other bytes than were asked for")),
            None => None,
        };
        if header.flags & ZEROES != 0 {
            return self.finish(client, header.id, Ok(Reply::Zeroes));
        }
        // Nobody waits for the answer to a request that was given up.
        let Some(mut buffer) = room else { return incoming.skip(channel, header) };
        let received = incoming.payload(channel, header, &mut buffer);
        match received {
            Ok(()) => self.finish(client, header.id, Ok(Reply::Data(buffer))),
            Err(error) => {
                // The request is sent again, with room for its answer.
                if let Some(Body::Read(room)) =
                    self.state().under_way.get_mut(&header.id).map(|sent| &mut sent.travel.body)
                {
                    *room = Some(buffer);
                }
                Err(error)
            }
        }
    }

    /// Completes a request, if somebody still waits for it.
    fn finish(&self, client: &Client, id: u64, outcome: Result<Reply>) -> Result<()> {
        let mut state = self.state();
        state.heard = Some(Instant::now());
        state.cause = None;
        let Some(sent) = state.under_way.remove(&id) else { return Ok(()) };
        drop(state);
        let Travel { body, completion, .. } = sent.travel;
        let fits = matches!(
            (&body, &outcome),
            (_, Err(_))
                | (Body::Read(_), Ok(Reply::Data(_) | Reply::Zeroes))
                | (Body::Digest, Ok(Reply::Data(_)))
                | (Body::Change(_) | Body::Sync { .. } | Body::Claim | Body::Release, Ok(Reply::Done))
        );
        if !fits {
            let message = "the server answered another kind of request";
            completion.complete(Err(Error::new(Code::Corrupt, message)));
            return Err(Error::new(Code::Corrupt, message));
        }
        let outcome = outcome.and_then(|reply| client.acknowledged(&body).map(|()| reply));
        completion.complete(outcome);
        Ok(())
    }
}
