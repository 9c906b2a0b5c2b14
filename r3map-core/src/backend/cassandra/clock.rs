//! The times that writes bear.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::SystemTime;

use scylla::policies::timestamp_generator::TimestampGenerator;

/// Microseconds of the system's clock, but later than any that it gave or saw before.
#[derive(Clone, Default)]
pub struct Clock(Arc<AtomicI64>);

impl Clock {
    /// Gives later times from here on: another host's clock may be ahead of this one's.
    pub fn saw(&self, written: i64) {
        self.0.fetch_max(written, Ordering::Relaxed);
    }
}

impl TimestampGenerator for Clock {
    fn next_timestamp(&self) -> i64 {
        let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_micros() as i64);
        let later = |last: i64| now.max(last.saturating_add(1));
        let last = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(later(last)));
        later(last.unwrap_or_else(|last| last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_is_later_than_all_before_and_than_what_was_seen() {
        let clock = Clock::default();
        let first = clock.next_timestamp();
        let ahead = first + 3_600_000_000;
        clock.saw(ahead);
        clock.saw(first);
        assert_eq!(clock.next_timestamp(), ahead + 1);
        assert_eq!(clock.clone().next_timestamp(), ahead + 2);
        clock.saw(i64::MAX);
        assert_eq!(clock.next_timestamp(), i64::MAX);
    }
}
