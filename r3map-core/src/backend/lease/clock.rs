//! The clock of leases: it goes on while the host sleeps.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// A moment of this host since its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Duration);

impl Moment {
    /// This moment.
    pub fn now() -> Moment {
        // Every kernel that this runs on has the clock.
        Moment(clock_gettime(ClockId::CLOCK_BOOTTIME).expect("the kernel has CLOCK_BOOTTIME").into())
    }

    /// How long ago that was.
    pub fn elapsed(self) -> Duration {
        Moment::now().since(self)
    }

    /// How long after `earlier` this is.
    pub fn since(self, earlier: Moment) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}
