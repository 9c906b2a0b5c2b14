//! What a seeder waits for besides messages: the app, a destination that is away, a disk that failed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cancel::deadline_in;
use crate::migration::Message;
use crate::migration::seeder::events::SeedState;
use crate::migration::seeder::peers::Peer;

/// How long the end of a connection may take to be noticed, before another destination is told that one is here.
const NOTICE: Duration = Duration::from_millis(300);
/// How long a destination whose connection broke may take to come back while another waits.
const GRACE: Duration = Duration::from_secs(1);
/// How often one looks whether a region has arrived.
const LOOK: Duration = Duration::from_millis(50);
/// The pauses between tries to write a record.
const AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// What the time has come for.
pub enum Due {
    /// The region may have arrived.
    Arriving,
    /// The app was asked to stop by that event and did not answer.
    Suspend {
        /// The event.
        sequence: u64,
    },
    /// The partner has been away for too long.
    PartnerLost,
    /// What failed is to be tried again.
    Again,
    /// A destination that came while there was another is to be answered.
    Rival {
        /// What it said.
        message: Message,
        /// Where.
        peer: Arc<Peer>,
        /// Whether the other one has been away for long enough.
        takes_over: bool,
    },
}

/// The clocks that run.
#[derive(Default)]
pub struct Clocks {
    arriving: Option<Instant>,
    suspend: Option<(u64, Instant)>,
    /// Since when the partner is away, and when that is too long.
    away: Option<(Instant, Option<Instant>)>,
    again: Option<Instant>,
    pause: Duration,
    rival: Option<(Message, Arc<Peer>, Instant)>,
}

impl Clocks {
    /// To look again soon whether the region has arrived.
    pub fn arrives(&mut self) {
        self.arriving = deadline_in(LOOK);
    }

    /// The app was told that; of [`SeedState::Suspending`] it has that long.
    pub fn told(&mut self, state: SeedState, sequence: u64, suspend_deadline: Duration) {
        match state {
            SeedState::Suspending => self.suspend = deadline_in(suspend_deadline).map(|at| (sequence, at)),
            SeedState::Trouble => {
                self.pause = (self.pause * 2).clamp(AGAIN.0, AGAIN.1);
                self.again = deadline_in(self.pause);
            }
            _ => (self.suspend, self.again, self.pause) = (None, None, Duration::ZERO),
        }
    }

    /// The partner is connected.
    pub fn partner_is_here(&mut self) {
        self.away = None;
    }

    /// It is not, and may be away that long.
    pub fn partner_is_gone(&mut self, deadline: Duration) {
        self.away = Some((Instant::now(), deadline_in(deadline)));
    }

    /// Another destination came.
    pub fn rival(&mut self, message: Message, peer: Arc<Peer>) {
        // Who asks again waits no longer for it.
        let since = self.rival.as_ref().filter(|(_, other, _)| other.client == peer.client).map(|(_, _, at)| *at);
        self.rival = Some((message, peer, since.unwrap_or_else(Instant::now)));
    }

    fn rival_at(&self) -> Option<Instant> {
        let (_, _, since) = self.rival.as_ref()?;
        Some(match self.away {
            Some((away, _)) => away + GRACE,
            None => *since + NOTICE,
        })
    }

    /// When the next one runs out.
    pub fn next(&self) -> Option<Instant> {
        let suspend = self.suspend.map(|(_, at)| at);
        let away = self.away.and_then(|(_, until)| until);
        [self.arriving, suspend, away, self.again, self.rival_at()].into_iter().flatten().min()
    }

    /// One that has run out; it is stopped.
    pub fn due(&mut self) -> Option<Due> {
        let now = Instant::now();
        if self.arriving.is_some_and(|at| at <= now) {
            self.arriving = None;
            return Some(Due::Arriving);
        }
        if let Some((sequence, _)) = self.suspend.filter(|(_, at)| *at <= now) {
            self.suspend = None;
            return Some(Due::Suspend { sequence });
        }
        if self.again.is_some_and(|at| at <= now) {
            self.again = None;
            return Some(Due::Again);
        }
        if self.rival_at().is_some_and(|at| at <= now) {
            let takes_over = self.away.is_some();
            return self.rival.take().map(|(message, peer, _)| Due::Rival { message, peer, takes_over });
        }
        if self.away.is_some_and(|(_, until)| until.is_some_and(|until| until <= now)) {
            self.away = None;
            return Some(Due::PartnerLost);
        }
        None
    }
}
