//! One direction of one connection: bytes wait as long as the conditions say, and meet what was planned for them.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use crate::stream::Stream;
use crate::{Direction, Fault, Shared};

/// Bytes taken from a socket at once, at most.
const PIECE: usize = 64 << 10;
/// Bytes on the way at once on a connection whose conditions name no window.
const MOST: usize = 256 << 20;

/// What has come in and is not out yet.
#[derive(Default)]
struct Way {
    queue: VecDeque<(Instant, Vec<u8>)>,
    /// Bytes that count against the window, and until when: they are freed once word of them could be back.
    in_flight: VecDeque<(Instant, usize)>,
    flying: usize,
    ended: bool,
}

#[derive(Default)]
struct Road {
    way: Mutex<Way>,
    changed: Condvar,
}

impl Road {
    fn way(&self) -> MutexGuard<'_, Way> {
        self.way.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn end(&self) {
        self.way().ended = true;
        self.changed.notify_all();
    }
}

/// Passes bytes from one socket to the other until either ends, on two threads.
pub fn start(shared: &Arc<Shared>, direction: Direction, connection: u64, from: Stream, to: Stream) {
    let road = Arc::new(Road::default());
    {
        let (shared, road) = (shared.clone(), road.clone());
        thread::spawn(move || {
            take_in(&shared, direction, connection, &from, &road);
            road.end();
        });
    }
    let shared = shared.clone();
    thread::spawn(move || {
        bring_out(&shared, &to, &road);
        road.end();
        if shared.leave(connection) {
            to.end(Shutdown::Write);
        }
    });
}

fn take_in(shared: &Shared, direction: Direction, connection: u64, mut from: &Stream, road: &Road) {
    let mut random = shared.conditions().seed ^ connection << 1 ^ direction as u64;
    let mut last = Instant::now();
    let mut bytes = vec![0; PIECE];
    loop {
        let conditions = shared.conditions();
        wait_for_room(road, conditions.window.unwrap_or(MOST));
        // A slow link takes small pieces, so that none of them holds the others up.
        let most = conditions.bytes_per_second.map_or(PIECE as u64, |rate| (rate / 1000).clamp(1, PIECE as u64));
        let count = match from.read(&mut bytes[..most as usize]) {
            Ok(0) | Err(_) => return,
            Ok(count) => count,
        };
        shared.wait_while_stalled(connection);
        // They may have changed while nothing came.
        let conditions = shared.conditions();
        let swallowed = shared.swallows();
        let (fault, piece) = shared.meet(direction, connection, &mut bytes[..count]);
        let left = shared.pace(direction, piece, &conditions);
        let jitter = conditions.jitter.mul_f64(next_random(&mut random));
        let due = (left + conditions.delay + jitter).max(last);
        last = due;
        {
            let mut way = road.way();
            if !swallowed && piece > 0 {
                way.queue.push_back((due, bytes[..piece].to_vec()));
            }
            way.flying += piece;
            way.in_flight.push_back((due + conditions.delay, piece));
        }
        road.changed.notify_all();
        match fault {
            None => {}
            Some(Fault::Cut | Fault::Reset) => {
                // What came before it arrives.
                thread::sleep(due.saturating_duration_since(Instant::now()) + Duration::from_millis(1));
                return shared.end(connection, fault == Some(Fault::Reset));
            }
            Some(Fault::Stall) => shared.stall_one(connection),
            Some(Fault::Corrupt) => {}
        }
        // The queue before the narrow place is short: whoever sends more is held up.
        let ahead = left.saturating_duration_since(Instant::now());
        if ahead > conditions.queue {
            thread::sleep(ahead - conditions.queue);
        }
    }
}

fn wait_for_room(road: &Road, window: usize) {
    let mut way = road.way();
    loop {
        let now = Instant::now();
        while way.in_flight.front().is_some_and(|(until, _)| *until <= now) {
            let count = way.in_flight.pop_front().map_or(0, |(_, count)| count);
            way.flying -= count;
        }
        if way.flying < window || way.ended {
            return;
        }
        let until = way.in_flight.front().map_or(now, |(until, _)| *until);
        let nap = until.saturating_duration_since(now).max(Duration::from_micros(50));
        way = road.changed.wait_timeout(way, nap).unwrap_or_else(|e| e.into_inner()).0;
    }
}

fn bring_out(shared: &Shared, mut to: &Stream, road: &Road) {
    loop {
        let mut way = road.way();
        let (due, piece) = loop {
            match way.queue.pop_front() {
                Some(next) => break next,
                None if way.ended => return,
                None => way = road.changed.wait(way).unwrap_or_else(|e| e.into_inner()),
            }
        };
        drop(way);
        let wait = due.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            thread::sleep(wait);
        }
        if shared.has_ended() || to.write_all(&piece).is_err() {
            return;
        }
    }
}

/// A number from 0 to 1, and the next seed.
fn next_random(seed: &mut u64) -> f64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *seed;
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ mixed >> 31) as f64 / u64::MAX as f64
}
