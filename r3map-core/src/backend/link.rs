//! One connection of a client, made again when it is lost, and the requests that are under way on it: the same for
//! every protocol that is spoken over sockets. What is said on it is the protocol's own.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::backend::{Completion, Info, Operation, Priority};
use crate::error::{Code, Error, Result};
use crate::thread::{self, Process};
use crate::wire::channel::{Channel, Packet};
use crate::wire::incoming::Incoming;
use crate::wire::socket;

mod links;
mod timer;

pub use links::Links;

/// The pause after the first attempt to connect that failed; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A client whose connections are links.
pub trait Protocol: Send + Sync + Sized + 'static {
    /// A request as it is kept until it is answered.
    type Asked: Asked;

    /// What the server said of the region.
    fn info(&self) -> &Info;

    /// Its connections.
    fn links(&self) -> &Links<Self>;

    /// Connects and greets, for the link of this role and the so-manieth time.
    fn connect(&self, role: u16, generation: u64) -> std::result::Result<Connected, Absence>;

    /// Receives one message of the server. An error ends the connection.
    fn receive(self: &Arc<Self>, link: &Link<Self>, channel: &Channel, incoming: &mut Incoming) -> Result<()>;

    /// What is said last.
    fn goodbye(&self) -> Packet;

    /// Whether a request that is given up ends the connection, however well it is.
    fn given_up_ends(&self, asked: &Self::Asked) -> bool;

    /// Whether a lost connection can be made again.
    fn can_reconnect(&self) -> bool {
        true
    }

    /// There is a connection.
    fn connected(self: &Arc<Self>, _role: u16) {}

    /// There is none any more, or none to be had, though it is wanted.
    fn lost(&self, _role: u16, _error: &Error) {}

    /// Looks after what is due now; says when it wants to be asked again.
    fn tick(&self, _now: Instant) -> Option<Instant> {
        None
    }

    /// Nothing will be answered any more.
    fn over(&self, _error: &Error) {}
}

/// A request, but for when to give up and whom to tell.
pub trait Asked: Send + 'static {
    /// What is sent by this connection under this number, for the first time or once more.
    fn packet(&mut self, id: u64, channel: &Channel) -> Packet;

    /// What it is about, for messages.
    fn what(&self) -> String;
}

/// Why there is no connection.
pub enum Absence {
    /// The server is away or busy: it may be back.
    Away(Error),
    /// The server said no; the next request may ask again.
    Refused(Error),
    /// What is there now is another region: for good.
    Changed(Error),
}

/// A connection on which the server was greeted.
pub struct Connected {
    /// To send.
    pub channel: Arc<Channel>,
    /// To receive.
    pub incoming: Incoming,
}

/// A connection for one kind of traffic.
pub struct Link<P: Protocol> {
    role: u16,
    /// Whether another can do its work: then it is not made again when it is lost, unless it is wanted again.
    is_spare: bool,
    state: Mutex<State<P::Asked>>,
    /// Told when there is something to send without a connection, and at the end.
    changed: Condvar,
}

struct State<A> {
    started: bool,
    /// Whether there is to be a connection while no request is under way.
    wanted: bool,
    /// Every request that is not answered, sent or not, by its id.
    under_way: BTreeMap<u64, Sent<A>>,
    last_id: u64,
    /// How often it was tried to connect.
    generation: u64,
    /// The connection, if there is one: who adds a request while there is sends it.
    channel: Option<Arc<Channel>>,
    /// When the server last answered something.
    heard: Option<Instant>,
    /// Why the connection was lost or cannot be made, until the server answers again.
    cause: Option<Error>,
    /// With what everything fails, at the end.
    end: Option<Error>,
}

/// A request under way.
pub struct Sent<A> {
    /// What it asks.
    pub asked: A,
    /// When to give up.
    pub deadline: Option<Instant>,
    /// Whom to tell.
    pub completion: Completion,
    /// When it was sent last.
    pub at: Instant,
}

impl<P: Protocol> Link<P> {
    /// A link that connects when it is first used.
    fn new(role: u16, is_spare: bool) -> Link<P> {
        let state = State {
            started: false,
            wanted: false,
            under_way: BTreeMap::new(),
            last_id: 0,
            // The first connection of role 0 is made before there is a link.
            generation: 1,
            channel: None,
            heard: None,
            cause: None,
            end: None,
        };
        Link { role, is_spare, state: Mutex::new(state), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State<P::Asked>> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Which of the client's connections it is: the first is 0.
    pub fn role(&self) -> u16 {
        self.role
    }

    /// Has it connect without a request.
    pub fn want(self: &Arc<Self>, client: &Arc<P>) -> Result<()> {
        let mut state = self.state();
        state.wanted = true;
        self.changed.notify_all();
        self.start_once(&mut state, client, None)
    }

    /// Lets a spare connection go once what is under way is answered.
    pub fn retire(&self) {
        let mut state = self.state();
        state.wanted = false;
        state.end_if_idle();
    }

    /// The connection, if there is one.
    pub fn channel(&self) -> Option<Arc<Channel>> {
        self.state().channel.clone()
    }

    /// How many requests are under way, and whether there is a connection that may take more.
    pub fn load(&self) -> (usize, bool) {
        let state = self.state();
        (state.under_way.len(), state.channel.is_some() && (state.wanted || !self.is_spare))
    }

    /// Whether a connection is there or being made.
    pub fn is_up(&self) -> bool {
        let state = self.state();
        state.wanted || state.channel.is_some()
    }

    /// Starts the thread that connects and receives, unless it runs.
    fn start(self: &Arc<Self>, client: &Arc<P>, connected: Option<Connected>) -> Result<()> {
        self.start_once(&mut self.state(), client, connected)
    }

    fn start_once(
        self: &Arc<Self>,
        state: &mut State<P::Asked>,
        client: &Arc<P>,
        connected: Option<Connected>,
    ) -> Result<()> {
        if !state.started {
            let (link, client) = (self.clone(), client.clone());
            let started = thread::spawn("r3map-link", move || link.run(&client, connected));
            started.map_err(|error| Error::io("start a thread for a connection", error))?;
            state.started = true;
        }
        Ok(())
    }

    /// Takes a request and sends it, now or once there is a connection.
    pub fn submit(
        self: &Arc<Self>,
        client: &Arc<P>,
        mut asked: P::Asked,
        deadline: Option<Instant>,
        completion: Completion,
    ) {
        let mut state = self.state();
        let ended = state.end.clone().map_or(Ok(()), Err);
        if let Err(error) = ended.and_then(|()| self.start_once(&mut state, client, None)) {
            drop(state);
            return completion.complete(Err(error));
        }
        state.last_id += 1;
        let id = state.last_id;
        let channel = state.channel.clone();
        let packet = channel.as_ref().map(|channel| asked.packet(id, channel));
        state.under_way.insert(id, Sent { asked, deadline, completion, at: Instant::now() });
        drop(state);
        match (channel, packet) {
            // If that fails the connection is over: the receiving thread sees it and sends again.
            (Some(channel), Some(packet)) => drop(channel.send(packet)),
            _ => self.changed.notify_all(),
        }
        client.links().arm(deadline);
    }

    /// Sends what is no request, or loses it.
    pub fn say(&self, packet: Packet) {
        let channel = self.state().channel.clone();
        if let Some(channel) = channel {
            drop(channel.send(packet));
        }
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

    /// The same if the server has answered nothing since then to what was sent before.
    pub fn cut_if_stuck(&self, since: Instant) {
        let state = self.state();
        let waits = state.under_way.values().any(|sent| sent.at < since);
        if let Some(channel) = state.channel.as_ref().filter(|_| waits && state.heard.is_none_or(|at| at < since)) {
            tracing::info!("a connection is stuck: others do its work");
            channel.shutdown();
        }
    }

    /// Completes requests whose deadline passed; says when the next one does.
    fn expire(&self, client: &P, now: Instant) -> Option<Instant> {
        let mut state = self.state();
        let is_late = |sent: &Sent<P::Asked>| sent.deadline.is_some_and(|deadline| deadline <= now);
        let ids: Vec<u64> = state.under_way.iter().filter(|(_, sent)| is_late(sent)).map(|(id, _)| *id).collect();
        let expired: Vec<_> = ids.into_iter().filter_map(|id| state.under_way.remove(&id)).collect();
        let next = state.under_way.values().filter_map(|sent| sent.deadline).min();
        let heard = state.heard;
        // A server that has said nothing since the request was sent may be gone.
        let ends = |sent: &Sent<P::Asked>| client.given_up_ends(&sent.asked) || heard.is_none_or(|at| at < sent.at);
        let connected = state.channel.is_some();
        if let Some(channel) = state.channel.as_ref().filter(|_| expired.iter().any(ends)) {
            channel.shutdown();
        }
        let cause = state.cause.clone();
        drop(state);
        for Sent { asked, completion, .. } in expired {
            completion.complete(Err(late(client, &asked, connected, cause.as_ref())));
        }
        next
    }

    /// The error of a request that was for this link and is not sent in time.
    pub fn late(&self, client: &P, asked: &P::Asked) -> Error {
        let state = self.state();
        late(client, asked, state.channel.is_some(), state.cause.as_ref())
    }

    /// Fails all requests, now and later, and ends the connection and its thread.
    fn end(&self, client: &P, error: &Error) {
        let mut state = self.state();
        if state.end.is_none() {
            state.end = Some(error.clone());
        }
        let under_way = std::mem::take(&mut state.under_way);
        let channel = state.channel.take();
        drop(state);
        self.changed.notify_all();
        if let Some(channel) = channel {
            let _ = channel.send(client.goodbye());
            channel.shutdown();
        }
        fail(under_way, error);
    }

    /// Keeps a connection while it is needed and receives what comes, until the end.
    fn run(&self, client: &Arc<P>, mut connected: Option<Connected>) {
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
            client.connected(self.role);
            let begun = Instant::now();
            let error = loop {
                if let Err(error) = client.receive(self, &channel, &mut incoming) {
                    break error;
                }
            };
            channel.shutdown();
            let mut state = self.state();
            if state.end.is_some() {
                return;
            }
            state.channel = None;
            if self.is_spare {
                drop(state);
                self.stand_back(client, &error);
                continue;
            }
            let of_use = state.heard.is_some_and(|heard| heard >= begun);
            tracing::info!(backend = client.info().name, %error, "a connection was lost");
            state.cause = Some(error.clone());
            drop(state);
            client.lost(self.role, &error);
            if !client.can_reconnect() {
                let name = &client.info().name;
                let message = format!("{name}: the connection was lost: {}", error.message());
                return end(&**client, &Error::new(Code::Disconnected, message).with_retryable(false));
            }
            // A server that takes connections and answers nothing is not asked without a pause either.
            if of_use {
                pause = FIRST_PAUSE;
            } else {
                self.rest(&mut pause);
            }
        }
    }

    /// Connects once it is needed, as often as it takes. `None` at the end.
    fn connect(&self, client: &Arc<P>, pause: &mut Duration) -> Option<Connected> {
        loop {
            let mut state = self.state();
            while state.under_way.is_empty() && !state.wanted && state.end.is_none() {
                state = self.changed.wait(state).unwrap_or_else(|e| e.into_inner());
            }
            if state.end.is_some() {
                return None;
            }
            state.generation += 1;
            let generation = state.generation;
            drop(state);
            match client.connect(self.role, generation) {
                Ok(connected) => return Some(connected),
                Err(Absence::Changed(error)) => {
                    end(&**client, &error);
                    return None;
                }
                Err(Absence::Refused(error) | Absence::Away(error)) if self.is_spare => {
                    self.stand_back(client, &error);
                }
                Err(Absence::Refused(error)) => {
                    let error = error.context(format!("connect to {} again", client.info().name));
                    client.lost(self.role, &error);
                    let refused = std::mem::take(&mut self.state().under_way);
                    fail(refused, &error);
                }
                Err(Absence::Away(error)) => {
                    tracing::debug!(backend = client.info().name, %error, "cannot connect");
                    self.state().cause = Some(error);
                }
            }
            self.rest(pause);
        }
    }

    /// Gives what is under way on a spare link to the one that is always there.
    fn stand_back(&self, client: &Arc<P>, error: &Error) {
        let mut state = self.state();
        let wanted = std::mem::replace(&mut state.wanted, false);
        let under_way = std::mem::take(&mut state.under_way);
        drop(state);
        if wanted {
            tracing::info!(backend = client.info().name, %error, "a connection more is not there");
            client.lost(self.role, error);
        }
        let links = client.links();
        for Sent { asked, deadline, completion, .. } in under_way.into_values() {
            links.steady(Priority::Bulk).submit(client, asked, deadline, completion);
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
        for (id, sent) in &mut state.under_way {
            sent.at = now;
            packets.push(sent.asked.packet(*id, channel));
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
    pub fn with<T>(&self, id: u64, look: impl FnOnce(&mut P::Asked) -> T) -> Option<T> {
        self.state().under_way.get_mut(&id).map(|sent| look(&mut sent.asked))
    }

    /// The server is there.
    pub fn hear(&self) {
        self.state().heard = Some(Instant::now());
    }

    /// Takes a request that is answered, if somebody still waits for it.
    pub fn answered(&self, id: u64) -> Option<Sent<P::Asked>> {
        let mut state = self.state();
        state.heard = Some(Instant::now());
        state.cause = None;
        let sent = state.under_way.remove(&id);
        if self.is_spare {
            state.end_if_idle();
        }
        sent
    }
}

impl<A> State<A> {
    /// Ends a connection that is not wanted any more and has nothing to do.
    fn end_if_idle(&self) {
        if let Some(channel) = self.channel.as_ref().filter(|_| !self.wanted && self.under_way.is_empty()) {
            channel.shutdown();
        }
    }
}

/// Fails all requests of a client, now and later, and lets connections and threads go.
pub fn end<P: Protocol>(client: &P, error: &Error) {
    client.over(error);
    client.links().end(client, error);
}

/// The error of a request whose deadline passed.
fn late<P: Protocol>(client: &P, asked: &P::Asked, connected: bool, cause: Option<&Error>) -> Error {
    let cause = cause.map(|cause| format!(": {}", cause.message())).unwrap_or_default();
    let (code, why) = match connected {
        true => (Code::Timeout, "the server did not answer before the deadline"),
        false => (Code::Disconnected, "there was no connection before the deadline"),
    };
    Error::new(code, format!("{}: {}: {why}{cause}", client.info().name, asked.what()))
}

fn fail<A>(under_way: BTreeMap<u64, Sent<A>>, error: &Error) {
    for sent in under_way.into_values() {
        sent.completion.complete(Err(error.clone()));
    }
}

/// Why a request is refused before it travels, if it is.
pub fn check(process: Process, info: &Info, operation: &Operation) -> Result<()> {
    if !process.is_current() {
        let message = "this backend belongs to the process that was forked: open one in the child";
        return Err(Error::new(Code::Closed, message));
    }
    let (name, most) = (&info.name, u64::from(info.max_request));
    let (offset, length, longest) = match operation {
        Operation::Read { offset, buffer } => (*offset, buffer.len() as u64, most),
        Operation::Write { offset, data } => (*offset, data.len() as u64, most),
        Operation::Zero { offset, length } => (*offset, *length, u64::MAX),
        Operation::Sync => return Ok(()),
    };
    if info.read_only && !matches!(operation, Operation::Read { .. }) {
        return Err(Error::new(Code::ReadOnly, format!("{name} is exported read-only")));
    }
    if length > longest {
        let message = format!("{name}: {length} bytes in one request; the most is {longest}");
        return Err(Error::new(Code::InvalidArgument, message));
    }
    info.check(offset, length)
}
