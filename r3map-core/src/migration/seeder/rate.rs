//! How fast pages become dirty.

use std::time::{Duration, Instant};

use crate::page::PAGE;

/// Marks of less time than this say little.
const SHORTEST: Duration = Duration::from_millis(100);

/// The rate at which pages were newly marked, as of the last looks.
#[derive(Default)]
pub struct Rate {
    last: Option<(Instant, u64)>,
    rate: Option<f64>,
}

impl Rate {
    /// That many pages were marked until now.
    pub fn marked(&mut self, pages: u64) {
        let now = Instant::now();
        let Some((since, before)) = self.last else {
            self.last = Some((now, pages));
            return;
        };
        let time = now - since;
        if time < SHORTEST {
            return;
        }
        let fresh = pages.saturating_sub(before) as f64 * PAGE as f64 / time.as_secs_f64();
        self.rate = Some(self.rate.map_or(fresh, |rate| (rate + fresh) / 2.0));
        self.last = Some((now, pages));
    }

    /// Bytes a second; 0 while nobody knows.
    pub fn bytes_per_second(&self) -> u64 {
        self.rate.unwrap_or(0.0) as u64
    }
}
