//! How many connections the background takes: one more for as long as that brings more.
//!
//! What one connection carries in a round trip is bounded by the buffers of its two sockets, and nobody says by how
//! much. So the rate is measured, another connection is tried, and it stays if the rate has risen. Nothing here knows
//! of sockets or clocks.

use std::time::{Duration, Instant};

/// Nearer than this no buffer is what holds bulk up.
pub const FAR: Duration = Duration::from_millis(1);
/// How many round trips a rate is measured over.
const TRIPS: u32 = 4;
/// For how long at least.
const SHORTEST: Duration = Duration::from_millis(20);
/// Over how many answers at least, of which one more or less is no change.
const ANSWERS: u32 = 16;
/// How many round trips it takes until more asked for is more received.
const TRIPS_BEFORE: u32 = 2;
/// How often a rate is measured before another connection is found to bring nothing: a new one begins slowly.
const TRIALS: u32 = 3;
/// What another must bring.
const GAIN: f64 = 1.1;
/// When it is tried again after one that brought nothing; doubled each time.
const PAUSES: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Stay,
    /// Make another connection.
    Open,
    /// Let the newest one go.
    Close,
}

/// What is known of the rate.
pub struct Spread {
    phase: Phase,
    /// From when on bytes count.
    since: Option<Instant>,
    bytes: u64,
    answers: u32,
    pause: Duration,
}

#[derive(Clone, Copy)]
enum Phase {
    /// Rather more of them.
    Growing,
    /// Another is being made; the rate without it.
    Opening(f64),
    /// Another is there; the rate without it, and how often to measure still.
    Trying(f64, u32),
    /// No more of them until then, or until twice as many requests are under way.
    Enough(Instant, usize),
}

impl Default for Spread {
    fn default() -> Spread {
        Spread { phase: Phase::Growing, since: None, bytes: 0, answers: 0, pause: PAUSES.0 }
    }
}

impl Spread {
    /// Bytes of bulk came, while so many requests for more are under way and the way there and back takes `trip`.
    pub fn came(&mut self, now: Instant, bytes: usize, under_way: usize, trip: Duration) -> Step {
        // Who asks for no more holds itself up.
        if trip < FAR || under_way == 0 {
            self.since = None;
            return Step::Stay;
        }
        let since = *self.since.get_or_insert(now);
        let time = now.saturating_duration_since(since);
        if now > since {
            self.bytes += bytes as u64;
            self.answers += 1;
        }
        if time < (trip * TRIPS).max(SHORTEST) || self.answers < ANSWERS {
            return Step::Stay;
        }
        let rate = self.bytes as f64 / time.as_secs_f64();
        self.measure_from(now);
        match self.phase {
            Phase::Growing => self.phase = Phase::Opening(rate),
            Phase::Trying(before, _) if rate >= before * GAIN => {
                self.phase = Phase::Opening(rate);
                self.pause = PAUSES.0;
            }
            Phase::Trying(before, left) if left > 1 => {
                self.phase = Phase::Trying(before, left - 1);
                return Step::Stay;
            }
            Phase::Trying(..) => {
                self.enough(now, under_way);
                return Step::Close;
            }
            Phase::Enough(until, then) if now >= until || under_way >= then.saturating_mul(2) => {
                self.phase = Phase::Growing;
                return Step::Stay;
            }
            Phase::Opening(_) | Phase::Enough(..) => return Step::Stay,
        }
        Step::Open
    }

    /// Another connection is there.
    pub fn opened(&mut self, now: Instant, trip: Duration) {
        if let Phase::Opening(before) = self.phase {
            self.phase = Phase::Trying(before, TRIALS);
            self.measure_from(now + trip * TRIPS_BEFORE);
        }
    }

    /// A connection more could not be made, or was lost.
    pub fn failed(&mut self, now: Instant) {
        self.enough(now, usize::MAX);
    }

    fn enough(&mut self, now: Instant, under_way: usize) {
        self.phase = Phase::Enough(now + self.pause, under_way);
        self.pause = (self.pause * 2).min(PAUSES.1);
        self.measure_from(now);
    }

    fn measure_from(&mut self, from: Instant) {
        (self.since, self.bytes, self.answers) = (Some(from), 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A network in which one connection carries `one` bytes a second and all together `all`, for so many seconds of
    /// bulk that never pauses; says how many connections there are at the end, and how many were made.
    fn run(spread: &mut Spread, one: usize, all: usize, trip: Duration, seconds: u32, most: usize) -> (usize, usize) {
        let (step, mut now) = (Duration::from_millis(1), Instant::now());
        let (mut width, mut made, mut opens) = (1, 0, None);
        for _ in 0..seconds * 1000 {
            now += step;
            if opens.is_some_and(|at| now >= at) {
                opens = None;
                match width < most {
                    true => (width, made) = (width + 1, made + 1),
                    false => spread.failed(now),
                }
                spread.opened(now, trip);
            }
            match spread.came(now, (one * width).min(all) / 1000, 64, trip) {
                Step::Stay => {}
                Step::Open => opens = Some(now + trip * 2),
                Step::Close => width -= 1,
            }
        }
        (width, made)
    }

    const TRIP: Duration = Duration::from_millis(30);

    #[test]
    fn there_are_as_many_as_help() {
        // The fourth would bring less than a tenth, and may be on trial.
        let (width, _) = run(&mut Spread::default(), 40_000_000, 125_000_000, TRIP, 5, 8);
        assert!((3..=4).contains(&width), "{width}");
        assert_eq!(run(&mut Spread::default(), 10_000_000, 1 << 40, TRIP, 8, 8).0, 8);
    }

    #[test]
    fn one_that_brings_nothing_goes_again_and_is_tried_ever_less_often() {
        let (width, made) = run(&mut Spread::default(), 125_000_000, 125_000_000, TRIP, 300, 8);
        assert!(width <= 2 && (5..=12).contains(&made), "{width} {made}");
    }

    #[test]
    fn a_near_server_and_one_who_asks_for_little_get_one() {
        assert_eq!(run(&mut Spread::default(), 1000, 1 << 40, Duration::from_micros(300), 5, 8), (1, 0));
        let (mut spread, mut now) = (Spread::default(), Instant::now());
        for _ in 0..10_000 {
            now += Duration::from_millis(1);
            assert_eq!(spread.came(now, 4096, 0, TRIP), Step::Stay);
        }
    }
}
