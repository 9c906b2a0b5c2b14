//! When to ask which pages were written, when to pull those again, and when that no longer pays.

use std::time::{Duration, Instant};

use crate::migration::leecher::pull::{Aim, Pull};

/// Between two rounds while nobody waits for one.
const ROUND: Duration = Duration::from_secs(1);
/// When a question that was not answered is asked again, at the earliest.
const PATIENCE: Duration = Duration::from_secs(1);
/// So many rounds unwritten is a page that may stay so.
const COLD: u64 = 3;
/// Bytes that are not worth another round.
const FEW: u64 = 256 << 10;
/// For how long it is believed that pulling again is in vain.
const LATELY: Duration = Duration::from_secs(5);
/// The most rounds in a row before the region is asked for.
const ROUNDS: u32 = 6;

/// What those want who wait.
pub struct Wish {
    /// The region.
    pub finalize: bool,
    /// More of it.
    pub more: bool,
    /// To pull what was never written without being asked.
    pub first: bool,
    /// Bytes of all of it.
    pub size: u64,
}

/// What is to be done now.
pub struct Next {
    /// Ask which pages were written.
    pub ask: bool,
    /// Ask for the region.
    pub finalize: bool,
    /// What to pull.
    pub aim: Aim,
}

/// Figures for people.
pub struct Figures {
    /// Bytes a second that are written at the source.
    pub dirty_rate: u64,
    /// How long a question takes.
    pub round_trip: Duration,
    /// Whether pages are written as fast as they come.
    pub outpaced: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Pulling what was never written.
    First,
    /// A round was asked for, to see what is left.
    Looking,
    /// Pulling again what was written until the last round.
    Again,
    /// Only now and then a round, until somebody wants more.
    Resting,
}

/// When what is pulled.
pub struct Plan {
    phase: Phase,
    /// When the question was asked that is not answered.
    asked: Option<Instant>,
    /// When the last round was answered, and how long that took.
    answered: Option<Instant>,
    round_trip: Duration,
    /// Bytes that were pulled again since the round before.
    batch: u64,
    /// Bytes that were pulled again without anybody waiting for it.
    spent: u64,
    /// Rounds in a row.
    rounds: u32,
    /// Whether pulling again left as much as there was.
    in_vain: bool,
    /// When that was found out.
    measured: Option<Instant>,
    /// What the last round said, in bytes, and in which time that was written.
    written: u64,
    dirty_rate: u64,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan {
            phase: Phase::First,
            asked: None,
            answered: None,
            round_trip: Duration::ZERO,
            batch: 0,
            spent: 0,
            rounds: 0,
            in_vain: false,
            measured: None,
            written: 0,
            dirty_rate: 0,
        }
    }
}

impl Plan {
    /// A round was answered.
    pub fn answered(&mut self) {
        if let Some(asked) = self.asked.take() {
            self.round_trip = asked.elapsed();
        }
    }

    /// The connection was made anew: a question may be lost.
    pub fn ask_again(&mut self) {
        self.asked = None;
    }

    /// A vote came to nothing: the pull goes on.
    pub fn begin_again(&mut self) {
        self.phase = Phase::First;
        self.rounds = 0;
    }

    /// A round says that so many bytes were written since the one before; so many are to be pulled again in all.
    pub fn learned(&mut self, written: u64, left: u64) {
        let now = Instant::now();
        if let Some(before) = self.answered.replace(now) {
            let time = (now - before).as_secs_f64().max(0.001);
            self.dirty_rate = (written as f64 / time) as u64;
        }
        self.written = written;
        if self.phase == Phase::Looking {
            let was_lately = self.in_vain && self.measured.is_some_and(|then| now - then < LATELY);
            if self.batch > FEW {
                self.in_vain = left > self.batch / 4 * 3;
                self.measured = Some(now);
            } else {
                // Nothing was pulled that would say anything about it.
                self.in_vain = was_lately;
            }
            self.rounds += 1;
            self.phase = Phase::Again;
            self.batch = left;
        }
    }

    /// How long a question takes.
    pub fn round_trip(&self) -> Duration {
        self.round_trip
    }

    /// What to do now, where nothing is under way if it is `idle`.
    pub fn next(&mut self, wish: &Wish, idle: bool, pull: &Pull) -> Next {
        let now = Instant::now();
        let mut next = Next { ask: false, finalize: false, aim: Aim::Nothing };
        if self.asked.is_some_and(|asked| now >= asked + PATIENCE.max(self.round_trip * 4)) {
            self.asked = None;
        }
        match self.phase {
            // Whoever wants the region now takes the rest afterwards.
            Phase::First if wish.finalize || !wish.first || idle && pull.is_walked() => {
                if idle {
                    self.look(&mut next, now);
                }
            }
            Phase::First => {
                next.aim = Aim::First;
                self.ask_in_time(&mut next, now);
            }
            Phase::Looking => {
                if self.asked.is_none() {
                    self.look(&mut next, now);
                }
            }
            Phase::Again => {
                let left = pull.bytes_again();
                let done = left == 0 && idle;
                if self.pays(wish, self.batch) && !done {
                    next.aim = Aim::Again;
                } else if done && self.batch > FEW && self.pays(wish, self.batch) {
                    self.spent += self.batch;
                    self.look(&mut next, now);
                } else if wish.finalize {
                    next.finalize = idle;
                } else if !idle {
                    // What is under way still lands.
                } else {
                    self.spent += self.batch;
                    (self.phase, self.rounds) = (Phase::Resting, 0);
                }
            }
            Phase::Resting => {
                if !pull.is_walked() && wish.first {
                    self.phase = Phase::First;
                } else if wish.finalize || wish.more && pull.bytes_again() > 0 {
                    (self.rounds, self.batch) = (0, 0);
                    self.look(&mut next, now);
                } else {
                    next.aim = if wish.first { Aim::Cold(COLD) } else { Aim::Nothing };
                    self.ask_in_time(&mut next, now);
                }
            }
        }
        next
    }

    fn look(&mut self, next: &mut Next, now: Instant) {
        self.phase = Phase::Looking;
        if self.asked.is_none() {
            self.asked = Some(now);
            next.ask = true;
        }
    }

    /// Whether to pull the written pages again, before or after having done so.
    fn pays(&self, wish: &Wish, left: u64) -> bool {
        if wish.more {
            return true;
        }
        let patient = if wish.finalize { self.rounds <= ROUNDS } else { self.spent + left <= wish.size / 5 };
        !self.in_vain && patient
    }

    fn interval(&self) -> Duration {
        ROUND.max(self.round_trip * 10)
    }

    fn ask_in_time(&mut self, next: &mut Next, now: Instant) {
        let begun = *self.answered.get_or_insert(now);
        if self.asked.is_none() && now >= begun + self.interval() {
            self.asked = Some(now);
            next.ask = true;
        }
    }

    /// When to look again if nothing happens.
    pub fn due(&self) -> Option<Instant> {
        match self.asked {
            Some(asked) => Some(asked + PATIENCE.max(self.round_trip * 4)),
            None => self.answered.map(|answered| answered + self.interval()),
        }
    }

    /// Figures for people, where bytes come at that rate.
    pub fn figures(&self, pull_rate: u64) -> Figures {
        let outpaced = self.in_vain || pull_rate > 0 && self.dirty_rate > pull_rate;
        Figures { dirty_rate: self.dirty_rate, round_trip: self.round_trip, outpaced }
    }
}
