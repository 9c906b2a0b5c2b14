//! One connection of a client, made again when it is lost, and the requests that are under way on it.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::client::{Absence, Client};
use super::greet::Connected;
use super::replies::Filled;
use crate::backend::{Completion, Extent, Reply};
use crate::buffer::Buffer;
use crate::error::{Code, Error, Result};
use crate::thread;
use crate::wire::channel::{Channel, Packet, Payload};
use crate::wire::nbd::{Command, Request};
use crate::wire::socket;

/// The pause after the first attempt to connect that failed; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A connection for one kind of traffic.
pub struct Link {
    role: usize,
    state: Mutex<State>,
    /// Told when there is something to send without a connection, and at the end.
    changed: Condvar,
}

struct State {
    started: bool,
    /// Every request that is not answered, sent or not, by its number.
    under_way: BTreeMap<u64, Sent>,
    last: u64,
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
    /// When to give up.
    pub deadline: Option<Instant>,
    /// Whom to tell.
    pub completion: Completion,
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

/// A request under way.
pub struct Sent {
    /// What it asks.
    pub asked: Asked,
    /// What the server said went wrong, until its reply is complete.
    pub failure: Option<Error>,
    at: Instant,
}

impl Sent {
    fn packet(&self, number: u64) -> Packet {
        let Asked { command, flags, offset, length, ref body, .. } = self.asked;
        let request = Request { command: Some(command), flags, cookie: number.to_be_bytes(), offset, length };
        let payload = match body {
            Body::Write(data) => Payload::Shared(data.clone()),
            _ => Payload::Empty,
        };
        Packet::raw(&request.encode(), payload)
    }

    /// Forgets what came of a reply, since the request is sent again.
    fn begin_again(&mut self) {
        self.failure = None;
        match &mut self.asked.body {
            Body::Read(_, filled) => *filled = Filled::default(),
            Body::Status(found) => found.lock().unwrap_or_else(|e| e.into_inner()).clear(),
            _ => {}
        }
    }
}

impl Link {
    /// A link that connects when it is first used.
    pub fn new(role: usize) -> Link {
        let state = State {
            started: false,
            under_way: BTreeMap::new(),
            last: 0,
            channel: None,
            heard: None,
            cause: None,
            end: None,
        };
        Link { role, state: Mutex::new(state), changed: Condvar::new() }
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
    pub fn submit(self: &Arc<Self>, client: &Arc<Client>, asked: Asked) {
        let deadline = asked.deadline;
        let mut state = self.state();
        if let Some(error) = state.end.clone() {
            drop(state);
            return asked.completion.complete(Err(error));
        }
        if !state.started {
            drop(state);
            if let Err(error) = self.start(client, None) {
                return asked.completion.complete(Err(error));
            }
            return self.submit(client, asked);
        }
        state.last += 1;
        let number = state.last;
        let sent = Sent { asked, failure: None, at: Instant::now() };
        let channel = state.channel.clone();
        let packet = channel.is_some().then(|| sent.packet(number));
        state.under_way.insert(number, sent);
        drop(state);
        match (channel, packet) {
            // If that fails the connection is over: the receiving thread sees it and sends again.
            (Some(channel), Some(packet)) => drop(channel.send(packet)),
            _ => self.changed.notify_all(),
        }
        client.timer().arm(deadline);
    }

    /// Completes requests whose deadline passed; says when the next one does.
    pub fn expire(&self, client: &Client, now: Instant) -> Option<Instant> {
        let mut state = self.state();
        let late = |sent: &Sent| sent.asked.deadline.is_some_and(|deadline| deadline <= now);
        let numbers: Vec<u64> = state.under_way.iter().filter(|(_, sent)| late(sent)).map(|(id, _)| *id).collect();
        let expired: Vec<Sent> = numbers.into_iter().filter_map(|number| state.under_way.remove(&number)).collect();
        let next = state.under_way.values().filter_map(|sent| sent.asked.deadline).min();
        let heard = state.heard;
        // A write given up must not land after a later one, as far as we can see to it; the length of a simple reply
        // is known only from its request; and a server that has said nothing since may be gone.
        let cut = |sent: &Sent| match sent.asked.command {
            Command::Write | Command::WriteZeroes => true,
            Command::Read if !client.agreed().structured => true,
            _ => heard.is_none_or(|heard| heard < sent.at),
        };
        let connected = state.channel.is_some();
        if let Some(channel) = state.channel.as_ref().filter(|_| expired.iter().any(cut)) {
            channel.shutdown();
        }
        let cause = state.cause.clone();
        drop(state);
        for Sent { asked, .. } in expired {
            let cause = cause.as_ref().map(|cause| format!(": {}", cause.message())).unwrap_or_default();
            let (code, why) = match connected {
                true => (Code::Timeout, "the server did not answer before the deadline"),
                false => (Code::Disconnected, "there was no connection before the deadline"),
            };
            let error = Error::new(code, format!("{}: {}: {why}{cause}", client.info().name, asked.what()));
            asked.completion.complete(Err(error));
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
            let request =
                Request { command: Some(Command::Disconnect), flags: 0, cookie: [0; 8], offset: 0, length: 0 };
            let _ = channel.send(Packet::raw(&request.encode(), Payload::Empty));
            channel.shutdown();
        }
        for sent in under_way.into_values() {
            sent.asked.completion.complete(Err(error.clone()));
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
            let Connected { channel, mut incoming, .. } = next;
            if !self.adopt(&channel) {
                return;
            }
            let begun = Instant::now();
            let error = loop {
                if let Err(error) = self.receive(client, &channel, &mut incoming) {
                    break error;
                }
            };
            channel.shutdown();
            let mut state = self.state();
            if state.end.is_some() {
                return;
            }
            state.channel = None;
            let of_use = state.heard.is_some_and(|heard| heard >= begun);
            tracing::info!(backend = client.info().name, %error, "a connection was lost");
            state.cause = Some(error);
            drop(state);
            // A server that takes connections and answers nothing is not asked without a pause either.
            if of_use {
                pause = FIRST_PAUSE;
            } else {
                self.rest(&mut pause);
            }
        }
    }

    /// Connects once a request needs it, as often as it takes. `None` at the end.
    fn connect(&self, client: &Client, pause: &mut Duration) -> Option<Connected> {
        loop {
            let mut state = self.state();
            while state.under_way.is_empty() && state.end.is_none() {
                state = self.changed.wait(state).unwrap_or_else(|e| e.into_inner());
            }
            if state.end.is_some() {
                return None;
            }
            drop(state);
            match client.connect() {
                Ok(connected) => return Some(connected),
                Err(Absence::Changed(error)) => {
                    client.end(&error);
                    return None;
                }
                Err(Absence::Refused(error)) => {
                    let error = error.context(format!("connect to {} again", client.info().name));
                    let refused = std::mem::take(&mut self.state().under_way);
                    for sent in refused.into_values() {
                        sent.asked.completion.complete(Err(error.clone()));
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
        for (number, sent) in &mut state.under_way {
            sent.at = now;
            sent.begin_again();
            packets.push(sent.packet(*number));
        }
        drop(state);
        for packet in packets {
            if channel.send(packet).is_err() {
                break;
            }
        }
        true
    }

    /// Looks at a request that is under way, if it still is.
    pub fn with<T>(&self, number: u64, look: impl FnOnce(&mut Sent) -> T) -> Option<T> {
        self.state().under_way.get_mut(&number).map(look)
    }

    /// Completes a request, if somebody still waits for it.
    pub fn finish(&self, client: &Client, number: u64) -> Result<()> {
        let mut state = self.state();
        state.heard = Some(Instant::now());
        state.cause = None;
        let Some(sent) = state.under_way.remove(&number) else { return Ok(()) };
        drop(state);
        let Sent { asked, failure, .. } = sent;
        let acknowledged = match failure {
            Some(error) => Err(error),
            None => client.acknowledged((asked.command, &asked.body)),
        };
        let outcome = acknowledged.and_then(|()| match asked.body {
            Body::Read(buffer, filled) => filled.reply(buffer, asked.length),
            Body::Status(ref found) if found.lock().unwrap_or_else(|e| e.into_inner()).is_empty() => {
                Err(Error::new(Code::Corrupt, "the server answered block status with nothing"))
            }
            _ => Ok(Reply::Done),
        });
        let broken = outcome.as_ref().err().filter(|error| error.code() == Code::Corrupt).cloned();
        asked.completion.complete(outcome.map_err(|error| error.context(&client.info().name)));
        // Whoever answers so is not to be trusted with what comes next.
        broken.map_or(Ok(()), Err)
    }
}

impl Asked {
    /// What it is about, for messages.
    pub fn what(&self) -> String {
        match self.command {
            Command::Flush => "sync".to_owned(),
            command => format!("{} of {} bytes at {}", command.name(), self.length, self.offset),
        }
    }
}
