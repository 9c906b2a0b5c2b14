//! A network one can hold in the hand: a proxy for TCP and UNIX sockets with delay, jitter, bandwidth and a window,
//! that cuts, resets, stalls, swallows, corrupts and duplicates when it is told to, or at a byte that was named
//! before. What it does depends on its seed and on the bytes alone; how fast, on the machine.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

mod road;
mod stream;

use stream::Door;
pub use stream::{Stream, pair};

/// What the network is like. It may be changed while connections run.
#[derive(Clone, Debug)]
pub struct Conditions {
    /// How long a byte is under way, one way: half the round trip.
    pub delay: Duration,
    /// At most this is added to the delay of each piece; pieces of a connection keep their order.
    pub jitter: Duration,
    /// How much passes each way, for all connections together; `None` is as fast as the machine.
    pub bytes_per_second: Option<u64>,
    /// How long a byte may wait before the narrow place until whoever sends is held up.
    pub queue: Duration,
    /// Bytes of one connection that are under way at once, as a sender's buffer bounds them.
    pub window: Option<usize>,
    /// What chance follows.
    pub seed: u64,
}

impl Default for Conditions {
    fn default() -> Conditions {
        Conditions {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            bytes_per_second: None,
            queue: Duration::from_millis(2),
            window: None,
            seed: 1,
        }
    }
}

impl Conditions {
    /// A round trip of that time, and nothing else.
    pub fn round_trip(time: Duration) -> Conditions {
        Conditions { delay: time / 2, ..Conditions::default() }
    }

    /// The same at this rate each way.
    pub fn with_rate(self, bytes_per_second: u64) -> Conditions {
        Conditions { bytes_per_second: Some(bytes_per_second), ..self }
    }
}

/// One gigabit a second, in bytes.
pub const GIGABIT: u64 = 125_000_000;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From who connected.
    Up,
    /// To who connected.
    Down,
}

/// What happens to a connection at a byte that was named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// What came before arrives, then it ends in both directions.
    Cut,
    /// The same with a reset, which may take the last bytes along.
    Reset,
    /// A bit of that byte is flipped.
    Corrupt,
    /// Nothing passes any more, and it stays open.
    Stall,
}

/// A proxy and its connections, which end with it.
pub struct Network {
    address: String,
    shared: Arc<Shared>,
}

struct Shared {
    target: Mutex<String>,
    conditions: Mutex<Conditions>,
    connections: Mutex<HashMap<u64, Connection>>,
    /// Those that end without a last word.
    resets: Mutex<HashSet<u64>>,
    next: AtomicU64,
    stalls: AtomicBool,
    swallows: AtomicBool,
    doubles: AtomicBool,
    ended: AtomicBool,
    /// Told of the end of a stall.
    released: Condvar,
    up: Mutex<Lane>,
    down: Mutex<Lane>,
}

struct Connection {
    client: Stream,
    server: Stream,
    stalls: bool,
    /// Directions that still pass.
    open: usize,
}

/// What all connections share in one direction.
struct Lane {
    /// When the narrow place is free again.
    free: Instant,
    passed: u64,
    /// The same by connection.
    by: HashMap<u64, u64>,
    /// What happens at which byte, counted over all connections.
    planned: Vec<(u64, Fault)>,
}

impl Lane {
    fn new() -> Mutex<Lane> {
        Mutex::new(Lane { free: Instant::now(), passed: 0, by: HashMap::new(), planned: Vec::new() })
    }
}

impl Network {
    /// A proxy in front of `target`, `host:port` or `unix:/path`, at an address of the same kind.
    pub fn to(target: &str, conditions: Conditions) -> io::Result<Network> {
        Network::between(&Door::like(target), target, conditions)
    }

    /// A proxy at an address in front of another.
    pub fn between(address: &str, target: &str, conditions: Conditions) -> io::Result<Network> {
        let door = Door::at(address)?;
        let address = door.address()?;
        let shared = Arc::new(Shared {
            target: Mutex::new(target.to_owned()),
            conditions: Mutex::new(conditions),
            connections: Mutex::default(),
            resets: Mutex::default(),
            next: AtomicU64::new(0),
            stalls: AtomicBool::new(false),
            swallows: AtomicBool::new(false),
            doubles: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            released: Condvar::new(),
            up: Lane::new(),
            down: Lane::new(),
        });
        let accepting = shared.clone();
        thread::spawn(move || {
            while let Ok(client) = door.accept() {
                if accepting.has_ended() {
                    return;
                }
                accepting.connect(client);
            }
        });
        Ok(Network { address, shared })
    }

    /// Where it listens: `host:port` or `unix:/path`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The URL of an export of r3map behind it.
    pub fn url(&self, name: &str) -> String {
        match self.address.strip_prefix("unix:") {
            Some(path) => format!("r3map+unix://{path}?name={name}"),
            None => format!("r3map://{}/{name}", self.address),
        }
    }

    /// From now on it is like this.
    pub fn set(&self, conditions: Conditions) {
        *lock(&self.shared.conditions) = conditions;
    }

    /// How many bytes have come in that way.
    pub fn passed(&self, direction: Direction) -> u64 {
        self.shared.lane(direction).passed
    }

    /// The same by connection, in the order in which they were made, also of those that are gone.
    pub fn passed_by_connection(&self, direction: Direction) -> Vec<u64> {
        let lane = self.shared.lane(direction);
        (0..self.shared.next.load(Ordering::SeqCst)).map(|number| lane.by.get(&number).map_or(0, |by| *by)).collect()
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        lock(&self.shared.connections).len()
    }

    /// At this byte from now on, counted over all connections of that direction, this happens to the connection
    /// that it comes by.
    pub fn plan(&self, direction: Direction, byte: u64, fault: Fault) {
        let mut lane = self.shared.lane(direction);
        let at = lane.passed + byte;
        lane.planned.push((at, fault));
    }

    /// How much of what was planned has not happened yet.
    pub fn planned(&self) -> usize {
        self.shared.lane(Direction::Up).planned.len() + self.shared.lane(Direction::Down).planned.len()
    }

    /// Cuts every connection there is; new ones are passed on.
    pub fn cut(&self) {
        self.shared.end_all(false);
    }

    /// The same with a reset.
    pub fn reset(&self) {
        self.shared.end_all(true);
    }

    /// From now on, or no longer, nothing passes, and nobody is told.
    pub fn stall(&self, stalls: bool) {
        self.shared.stalls.store(stalls, Ordering::SeqCst);
        lock(&self.shared.connections).values_mut().for_each(|connection| connection.stalls = stalls);
        self.shared.released.notify_all();
    }

    /// Stalls the newest connection alone.
    pub fn stall_newest(&self) {
        let mut connections = lock(&self.shared.connections);
        if let Some(newest) = connections.keys().max().copied() {
            connections.entry(newest).and_modify(|connection| connection.stalls = true);
        }
    }

    /// From now on, or no longer, takes bytes and passes none on.
    pub fn swallow(&self, swallows: bool) {
        self.shared.swallows.store(swallows, Ordering::SeqCst);
    }

    /// From now on, or no longer, each new connection goes to the target twice: the second says what the first
    /// says, and nobody hears its answers.
    pub fn double(&self, doubles: bool) {
        self.shared.doubles.store(doubles, Ordering::SeqCst);
    }

    /// Cuts, and leads new connections elsewhere.
    pub fn lead_to(&self, target: &str) {
        *lock(&self.shared.target) = target.to_owned();
        self.cut();
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.stall(false);
        self.cut();
        // The thread that accepts looks once more and leaves.
        let _ = Stream::connect(&self.address);
    }
}

impl Shared {
    fn connect(self: &Arc<Shared>, client: Stream) {
        let target = lock(&self.target).clone();
        let made = Stream::connect(&target).and_then(|server| {
            let kept = Connection { client: client.copy()?, server: server.copy()?, stalls: false, open: 2 };
            Ok((client.copy()?, server.copy()?, server, kept))
        });
        let Ok((reading, writing, server, mut kept)) = made else { return client.end(Shutdown::Both) };
        kept.stalls = self.stalls.load(Ordering::SeqCst);
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        lock(&self.connections).insert(number, kept);
        let writing = if self.doubles.load(Ordering::SeqCst) { self.twin(&target, writing) } else { writing };
        road::start(self, Direction::Up, number, reading, writing);
        road::start(self, Direction::Down, number, server, client);
    }

    /// A stream to write to in place of that one, whose bytes go to it and to a second connection.
    fn twin(&self, target: &str, first: Stream) -> Stream {
        let made = pair().and_then(|(near, far)| Ok((near, far, Stream::connect(target)?, first.copy()?)));
        let Ok((near, far, second, into)) = made else { return first };
        let from = Stream::Unix(far.into());
        thread::spawn(move || {
            let mut bytes = vec![0; 64 << 10];
            while let Ok(count @ 1..) = (&from).read(&mut bytes) {
                let _ = (&second).write_all(&bytes[..count]);
                if (&into).write_all(&bytes[..count]).is_err() {
                    break;
                }
            }
            second.end(Shutdown::Both);
            into.end(Shutdown::Write);
        });
        Stream::Unix(near.into())
    }

    fn conditions(&self) -> Conditions {
        lock(&self.conditions).clone()
    }

    fn lane(&self, direction: Direction) -> MutexGuard<'_, Lane> {
        lock(match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        })
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    fn swallows(&self) -> bool {
        self.swallows.load(Ordering::SeqCst)
    }

    fn wait_while_stalled(&self, connection: u64) {
        let mut connections = lock(&self.connections);
        while connections.get(&connection).is_some_and(|connection| connection.stalls) && !self.has_ended() {
            let nap = Duration::from_millis(100);
            connections = self.released.wait_timeout(connections, nap).unwrap_or_else(|e| e.into_inner()).0;
        }
    }

    fn stall_one(&self, connection: u64) {
        lock(&self.connections).entry(connection).and_modify(|connection| connection.stalls = true);
    }

    /// Counts a piece, and says what was planned for a byte of it and how much of it still passes.
    fn meet(&self, direction: Direction, connection: u64, bytes: &mut [u8]) -> (Option<Fault>, usize) {
        let mut lane = self.lane(direction);
        *lane.by.entry(connection).or_default() += bytes.len() as u64;
        let start = lane.passed;
        lane.passed += bytes.len() as u64;
        let end = lane.passed;
        let mut due: Vec<_> = lane.planned.iter().copied().filter(|(at, _)| *at < end).collect();
        lane.planned.retain(|(at, _)| *at >= end);
        due.sort_by_key(|(at, _)| *at);
        for (at, fault) in due {
            let index = at.saturating_sub(start) as usize;
            match fault {
                Fault::Corrupt => bytes[index] ^= 0x10,
                _ => return (Some(fault), index),
            }
        }
        (None, bytes.len())
    }

    /// When that many bytes have left the narrow place.
    fn pace(&self, direction: Direction, bytes: usize, conditions: &Conditions) -> Instant {
        let now = Instant::now();
        let Some(rate) = conditions.bytes_per_second else { return now };
        let mut lane = self.lane(direction);
        let time = Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        lane.free = lane.free.max(now) + time;
        lane.free
    }

    fn end(&self, connection: u64, reset: bool) {
        let ended = lock(&self.connections).remove(&connection);
        for stream in ended.into_iter().flat_map(|Connection { client, server, .. }| [client, server]) {
            if reset {
                lock(&self.resets).insert(connection);
                stream.reset_on_close();
            }
            stream.end(if reset { Shutdown::Read } else { Shutdown::Both });
        }
    }

    /// One direction of a connection is over: says whether the other side is told.
    fn leave(&self, connection: u64) -> bool {
        let mut connections = lock(&self.connections);
        if let Some(kept) = connections.get_mut(&connection) {
            kept.open -= 1;
            if kept.open == 0 {
                connections.remove(&connection);
            }
        }
        !lock(&self.resets).contains(&connection)
    }

    fn end_all(&self, reset: bool) {
        let numbers: Vec<u64> = lock(&self.connections).keys().copied().collect();
        numbers.into_iter().for_each(|number| self.end(number, reset));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}
