//! How long the way to the server and back takes.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::backend::RoundTrip;

/// How often it is asked at least while bulk is under way.
const OFTEN: Duration = Duration::from_millis(100);

/// What was measured of it.
#[derive(Default)]
pub struct Timing {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    known: Option<RoundTrip>,
    /// When that was.
    at: Option<Instant>,
    /// Whether a probe is under way.
    probes: bool,
}

impl Timing {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// What was measured, if something was.
    pub fn round_trip(&self) -> Option<RoundTrip> {
        self.state().known
    }

    /// About that long it takes, as far as one can tell from a greeting, which may have waited for the writer's lease:
    /// a probe soon says more.
    pub fn greeted(&self, time: Duration) {
        self.state().known = Some(RoundTrip { least: time, latest: time });
    }

    /// Something small was answered after that time.
    pub fn took(&self, time: Duration) {
        let mut state = self.state();
        let least = state.known.map_or(time, |known| known.least.min(time));
        state.known = Some(RoundTrip { least, latest: time });
        state.at = Some(Instant::now());
    }

    /// Whether to ask now, by a probe of whose end [`probed`](Timing::probed) tells.
    pub fn wants_probe(&self, now: Instant) -> bool {
        let mut state = self.state();
        let wait = state.known.map_or(OFTEN, |known| OFTEN.max(known.least));
        let wants = !state.probes && state.at.is_none_or(|at| now.saturating_duration_since(at) >= wait);
        state.probes |= wants;
        wants
    }

    /// A probe was answered, or never will be.
    pub fn probed(&self) {
        self.state().probes = false;
    }
}
