//! How many bytes the background has under way: as many as the network carries in a round trip, and a little more.
//!
//! It doubles each round trip until three rounds in a row brought less than a quarter more; from then on it is the best
//! rate of the last rounds times the least round trip and a quarter more than that, so that it finds out by itself when
//! there is more to have. What lands slowly, for whatever reason, makes it small. The quarter is given up when what the
//! app waits for takes longer than it could. No clock is read here: the time is told.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::backend::RoundTrip;
use crate::page::PAGE;

/// What it begins with.
const FIRST: u64 = 1 << 20;
/// What it never falls below.
const LEAST: u64 = 64 << 10;
/// The most, as far as memory goes: this, or a sixteenth of what the host has.
const MOST: u64 = 256 << 20;
/// A round that brought so much more than the best before it is one of growth.
const GROWTH: f64 = 1.25;
/// Rounds without growth after which it is no longer doubled.
const STALE: u32 = 3;
/// The best of the rates of so many round trips counts, and of this time at least.
const REMEMBERED: (u32, Duration) = (8, Duration::from_millis(100));
/// A round is no shorter than this: on a near network one would be too few bytes to tell a rate.
const SHORTEST: Duration = Duration::from_millis(2);
/// By how much what the app waits for may take longer than it could: half of what it should ever be, as news of it is a
/// round trip old.
const HELD_UP: Duration = Duration::from_micros(2500);
/// Beyond a quarter of the round trip's bytes as many may be under way as come in this time.
const BESIDES: Duration = Duration::from_millis(5);
/// What is under way beyond a round trip's bytes is half of what it was after a round in which the app was held up, and
/// what comes in this time more after each other.
const STEP: Duration = Duration::from_micros(500);
/// After this the least round trip is looked for anew, as the way may have become longer: for a round half as much is
/// under way, so that nothing waits before a narrow place.
const LOOK_ANEW: Duration = Duration::from_secs(10);

/// The window of a puller.
pub struct Window {
    bytes: u64,
    most: u64,
    is_fixed: bool,
    is_growing: bool,
    /// Bytes asked for and landed since the beginning.
    asked: u64,
    landed: u64,
    /// Up to where was asked by when, of what has not landed.
    under_way: VecDeque<(u64, Instant)>,
    round: Option<Round>,
    /// When the last rounds ended, and with how many bytes a second.
    rates: VecDeque<(Instant, f64)>,
    /// The best of them while it grows.
    best: f64,
    stale: u32,
    /// What is under way beyond a round trip's bytes, as time.
    spare: Option<Duration>,
    trips: Trips,
    /// How long the app's last request took.
    app: Option<Duration>,
}

/// Begins with a look at what was asked for, and ends when that has landed.
struct Round {
    began: Instant,
    landed: u64,
    until: u64,
    course: Course,
}

/// How a round is spent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Course {
    /// With all the window under way.
    Full,
    /// Coming down to half of it.
    Drain,
    /// Coming back from that.
    Refill,
}

/// The least time from asking to landing, of the last ten to twenty seconds.
#[derive(Default)]
struct Trips {
    since: Option<Instant>,
    least: Option<Duration>,
    before: Option<Duration>,
    latest: Option<Duration>,
}

impl Trips {
    fn add(&mut self, now: Instant, trip: Duration) {
        self.latest = Some(trip);
        self.least = Some(self.least.map_or(trip, |least| least.min(trip)));
        self.since.get_or_insert(now);
    }

    /// Whether it is time to look anew, which begins with this.
    fn renew(&mut self, now: Instant) -> bool {
        let is_due = self.since.is_some_and(|since| now.saturating_duration_since(since) >= LOOK_ANEW);
        if is_due {
            (self.before, self.least, self.since) = (self.least, None, Some(now));
        }
        is_due
    }

    fn least(&self) -> Option<Duration> {
        self.least.into_iter().chain(self.before).min()
    }
}

impl Window {
    /// A window for a host with this much memory; `fixed` is one that stays as it is.
    pub fn new(memory: u64, fixed: Option<u64>) -> Window {
        let most = MOST.min(memory / 16).max(FIRST);
        Window {
            bytes: fixed.unwrap_or(FIRST),
            most,
            is_fixed: fixed.is_some(),
            is_growing: fixed.is_none(),
            asked: 0,
            landed: 0,
            under_way: VecDeque::new(),
            round: None,
            rates: VecDeque::new(),
            best: 0.0,
            stale: 0,
            spare: None,
            trips: Trips::default(),
            app: None,
        }
    }

    /// How many bytes may be under way.
    pub fn bytes(&self) -> u64 {
        let Some(round) = &self.round else { return self.bytes };
        let landed = self.landed - round.landed;
        // Evenly over the round, there and back: a gap would come back as a burst.
        let bytes = match round.course {
            Course::Full => return self.bytes,
            Course::Drain => self.bytes.saturating_sub(landed / 2).max(self.bytes / 2),
            Course::Refill => (self.bytes / 2 + landed).min(self.bytes),
        };
        bytes.max(LEAST)
    }

    /// The longest request to make now: a few of them are under way, so that one can land while others come.
    pub fn longest(&self, chunk: u64) -> u64 {
        if self.is_fixed { chunk } else { (self.bytes / 4 / PAGE * PAGE).clamp(PAGE, chunk.max(PAGE)) }
    }

    /// How many bytes a second land at this moment.
    pub fn rate(&self, now: Instant) -> u64 {
        let last = self.rates.back().map_or(0.0, |(_, rate)| *rate);
        let Some(round) = &self.round else { return 0 };
        let so_far = (self.landed - round.landed) as f64 / seconds(now, round.began);
        // What has stopped is not as fast as it was.
        let is_long = now.saturating_duration_since(round.began) > Duration::from_secs(1);
        if is_long || self.rates.is_empty() { so_far as u64 } else { last as u64 }
    }

    /// How long what landed last took to.
    pub fn trip(&self) -> Option<Duration> {
        self.trips.latest
    }

    /// So many bytes were asked for since the beginning.
    pub fn asked(&mut self, now: Instant, total: u64) {
        if total <= self.asked {
            return;
        }
        if self.asked == self.landed {
            // Nothing was under way: the pause before this says nothing of the network.
            self.round = None;
        }
        self.asked = total;
        self.under_way.push_back((total, now));
        if self.round.is_none() {
            self.begin_round(now, Course::Full);
        }
    }

    /// So many of them have landed; `app` says how long the store takes to answer what the app waits for, where that
    /// is known.
    pub fn landed(&mut self, now: Instant, total: u64, app: Option<RoundTrip>) {
        let total = total.clamp(self.landed, self.asked);
        if self.is_growing && self.stale == 0 {
            self.bytes = (self.bytes + total - self.landed).min(self.most);
        }
        self.landed = total;
        // Answers may come in another order, and then a trip counts as longer than it was, never as shorter.
        while let Some((_, at)) = self.under_way.front().copied().filter(|(until, _)| *until <= total) {
            self.under_way.pop_front();
            self.trips.add(now, now.saturating_duration_since(at));
        }
        let is_over = |round: &Round| {
            total >= round.until && now.saturating_duration_since(round.began) >= SHORTEST && total > round.landed
        };
        if let Some(round) = self.round.take_if(|round| is_over(round)) {
            let rate = (total - round.landed) as f64 / seconds(now, round.began);
            if round.course == Course::Full {
                self.end_round(now, rate, app);
            }
            self.begin_round(now, round.course);
        }
    }

    /// What was asked for failed: nobody knows what the network is like now.
    pub fn lost(&mut self) {
        self.under_way.clear();
        self.round = None;
    }

    fn begin_round(&mut self, now: Instant, last: Course) {
        let course = match last {
            Course::Drain => Course::Refill,
            _ if !self.is_growing && !self.is_fixed && self.trips.renew(now) => Course::Drain,
            _ => Course::Full,
        };
        self.round = Some(Round { began: now, landed: self.landed, until: self.asked, course });
    }

    fn end_round(&mut self, now: Instant, rate: f64, app: Option<RoundTrip>) {
        let least = self.trips.least().unwrap_or_default();
        let age = REMEMBERED.1.max(least * REMEMBERED.0);
        self.rates.push_back((now, rate));
        while self.rates.len() > 2 && self.rates.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) > age)
        {
            self.rates.pop_front();
        }
        if self.is_fixed {
            return;
        }
        let held_up = self.is_app_held_up(app);
        if self.is_growing {
            self.stale = if rate >= self.best * GROWTH { 0 } else { self.stale + 1 };
            self.best = self.best.max(rate);
            self.is_growing = self.stale < STALE && !held_up;
        }
        if self.is_growing {
            return;
        }
        // A quarter of the round trip, and what either side needs to get to it; never so little that a jitter of the
        // network makes the window smaller round by round.
        let (low, high) = (least / 64 + STEP, least / 4 + BESIDES);
        let spare = self.spare.unwrap_or(high);
        let spare = if held_up { spare / 2 } else { spare + STEP }.clamp(low, high);
        self.spare = Some(spare);
        let best = self.rates.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
        self.bytes = ((best * (least + spare).as_secs_f64()) as u64).clamp(LEAST, self.most);
    }

    /// Whether the app's requests take longer than they could, as far as there is news of it.
    fn is_app_held_up(&mut self, app: Option<RoundTrip>) -> bool {
        let Some(RoundTrip { least, latest }) = app else { return false };
        let is_news = self.app.replace(latest) != Some(latest);
        is_news && latest > least + HELD_UP
    }
}

fn seconds(now: Instant, then: Instant) -> f64 {
    now.saturating_duration_since(then).as_secs_f64().max(1e-6)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIGABIT: f64 = 125e6;
    const MEMORY: u64 = 64 << 30;
    const CHUNK: u64 = 256 << 10;

    /// A link with one narrow place, before which everything queues, and a window that fills it.
    struct Link {
        window: Window,
        begun: Instant,
        /// Seconds since then.
        now: f64,
        rate: f64,
        trip: f64,
        /// When the narrow place is free.
        free: f64,
        asked: u64,
        landed: u64,
        under_way: VecDeque<(f64, u64)>,
        /// Whether the app asks for something at every moment, and how it fares.
        app: bool,
        least: f64,
    }

    impl Link {
        fn new(rate: f64, trip: f64) -> Link {
            let (window, begun) = (Window::new(MEMORY, None), Instant::now());
            let under_way = VecDeque::new();
            Link {
                window,
                begun,
                now: 0.0,
                rate,
                trip,
                free: 0.0,
                asked: 0,
                landed: 0,
                under_way,
                app: false,
                least: f64::INFINITY,
            }
        }

        fn at(&self, seconds: f64) -> Instant {
            self.begun + Duration::from_secs_f64(seconds)
        }

        /// How long something small would wait before the narrow place now.
        fn queue(&self) -> f64 {
            (self.free - self.now).max(0.0)
        }

        fn app(&mut self) -> Option<RoundTrip> {
            let latest = self.trip + self.queue();
            self.least = self.least.min(latest);
            let time = Duration::from_secs_f64;
            self.app.then(|| RoundTrip { least: time(self.least), latest: time(latest) })
        }

        /// Runs so many seconds and says how many bytes landed.
        fn run(&mut self, time: f64) -> u64 {
            let (end, before) = (self.now + time, self.landed);
            loop {
                while self.asked - self.landed < self.window.bytes() {
                    let bytes = self.window.longest(CHUNK);
                    self.asked += bytes;
                    self.window.asked(self.at(self.now), self.asked);
                    self.free = self.free.max(self.now) + bytes as f64 / self.rate;
                    self.under_way.push_back((self.free + self.trip, bytes));
                }
                let (due, bytes) = self.under_way.pop_front().unwrap();
                if due > end {
                    self.under_way.push_front((due, bytes));
                    self.now = end;
                    return self.landed - before;
                }
                self.now = due;
                self.landed += bytes;
                let app = self.app();
                self.window.landed(self.at(due), self.landed, app);
            }
        }
    }

    #[test]
    fn it_fills_a_gigabit_at_any_round_trip_soon_and_stays_with_it() {
        for trip in [0.0001, 0.01, 0.03, 0.1, 0.3] {
            let mut link = Link::new(GIGABIT, trip);
            link.run(1.0 + 10.0 * trip);
            let share = link.run(20.0) as f64 / (20.0 * GIGABIT);
            assert!(share > 0.96, "{share} at {trip} s");
            let most = GIGABIT * (trip * 1.3 + 0.02);
            assert!((link.window.bytes() as f64) < most, "{} bytes at {trip} s", link.window.bytes());
        }
    }

    #[test]
    fn it_doubles_each_round_trip_from_a_mebibyte_on() {
        let mut link = Link::new(10e9, 0.1);
        link.run(0.099);
        assert_eq!(link.window.bytes(), FIRST);
        for doubled in 1..=7 {
            link.run(0.1);
            let (least, most) = ((FIRST << doubled) * 9 / 10, (FIRST << doubled) * 5 / 4);
            assert!((least..=most).contains(&link.window.bytes()), "{} after {doubled} trips", link.window.bytes());
        }
        link.run(5.0);
        assert_eq!(link.window.bytes(), MOST);
    }

    #[test]
    fn it_follows_a_network_or_a_store_that_becomes_slower_faster_or_farther() {
        let mut link = Link::new(GIGABIT, 0.1);
        link.run(5.0);
        let wide = link.window.bytes();
        link.rate = GIGABIT / 20.0;
        link.run(20.0);
        assert!(link.window.bytes() < wide / 10, "{} of {wide}", link.window.bytes());
        assert!(link.queue() < 0.2, "{} s of queue", link.queue());
        link.rate = GIGABIT;
        link.run(10.0);
        assert!(link.run(5.0) as f64 > 5.0 * GIGABIT * 0.97);
        link.trip = 0.3;
        link.run(30.0);
        assert!(link.run(20.0) as f64 > 20.0 * GIGABIT * 0.95);
    }

    #[test]
    fn it_gives_way_to_what_the_app_waits_for() {
        for trip in [0.01, 0.1] {
            let mut link = Link::new(GIGABIT, trip);
            link.app = true;
            link.run(3.0);
            let (mut worst, mut landed) = (0.0f64, 0);
            for _ in 0..500 {
                landed += link.run(0.02);
                worst = worst.max(link.queue());
            }
            // What may be, and what a round adds until it is noticed.
            assert!(worst < 0.009, "{worst} s of queue at {trip} s");
            assert!(landed as f64 > 10.0 * GIGABIT * 0.9, "{landed} bytes in 10 s at {trip} s");
        }
    }

    #[test]
    fn a_pause_of_the_puller_says_nothing_of_the_network_and_a_fixed_window_stays() {
        let mut link = Link::new(GIGABIT, 0.03);
        link.run(5.0);
        let before = link.window.bytes();
        // All of it lands, and nothing is asked for meanwhile.
        while let Some((due, bytes)) = link.under_way.pop_front() {
            link.now = due;
            link.landed += bytes;
            link.window.landed(link.at(due), link.landed, None);
        }
        link.now += 60.0;
        link.run(1.0);
        assert!(link.window.bytes() > before / 2, "{} of {before}", link.window.bytes());

        let mut fixed = Link { window: Window::new(MEMORY, Some(5000)), ..Link::new(GIGABIT, 0.03) };
        fixed.run(5.0);
        assert_eq!(fixed.window.bytes(), 5000);
    }

    #[test]
    fn a_host_with_little_memory_has_a_small_window() {
        let mut link = Link { window: Window::new(128 << 20, None), ..Link::new(10e9, 0.1) };
        link.run(5.0);
        assert_eq!(link.window.bytes(), 8 << 20);
    }
}
