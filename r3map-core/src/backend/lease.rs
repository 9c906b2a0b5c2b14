//! The writer's lease of a region in a store that many hosts reach, by compare-and-swap on one small record.
//!
//! The record has an epoch, and every change of it is the next epoch: the holder writes one each third of its time to
//! live, to say that it lives; whoever takes over, and who lets go, writes one too. A store has to decide a race for an
//! epoch, and nothing more.
//!
//! Nobody's clock is compared with another's. Who wants the place of a holder that is silent watches its record for a
//! whole time to live by a clock of its own, and only then writes the next epoch. The holder counts from before it sent
//! its record, and stops sending writes when two thirds have passed, until it has written another; so a write has a third
//! to arrive. A holder that finds an epoch of somebody else's is fenced: `stale_epoch`, for good. Clocks count a host's
//! sleep (CLOCK_BOOTTIME).

use std::future::Future;
use std::time::Duration;

use crate::error::{Code, Error, Result};
use crate::url::Parameters;
use crate::wire::{Identity, socket};

mod clock;
mod holder;
pub(crate) mod record;

pub(super) use holder::{Lease, UnderWay};
pub(super) use record::{MOST_BYTES, Record};

/// The parameters of a URL that say how the lease is.
pub(super) const PARAMETERS: [&str; 2] = ["lease", "lease_ttl"];
const USUAL_TIME: Duration = Duration::from_secs(15);
const LEAST_TIME: Duration = Duration::from_millis(500);
const MOST_TIME: Duration = Duration::from_secs(3600);

/// Where the record of a region's lease is kept: what a store must offer. An error that [is
/// retryable](Error::is_retryable) is tried again; after any error the change may have been made, or be made later.
pub(super) trait Records: Send + Sync + 'static {
    /// The newest record, if there is any. Never an older one than a call that returned before this one began, of
    /// whichever process, has seen or stored.
    fn newest(&self) -> impl Future<Output = Result<Option<Record>>> + Send;

    /// Stores `next` in the place of `old` if the newest record is still exactly `old`, or there is none: `true` says
    /// that it was stored by this call, `false` that it was not. Of many who try the same epoch at once, from wherever,
    /// one is told `true`. `next.epoch` is one more than that of `old`, or 1 without one.
    ///
    /// A store that cannot compare, but creates a name only once, creates that of `next.epoch`, and looks afterwards
    /// that nobody has a later one.
    fn replace(&self, old: Option<&Record>, next: &Record) -> impl Future<Output = Result<bool>> + Send;

    /// Makes sure that the store decides races, once `held` was stored by [`replace`](Records::replace) and before
    /// anything else is written: for stores of which some only seem to. The error says what to do.
    fn probe(&self, _held: &Record) -> impl Future<Output = Result<()>> + Send {
        async { Ok(()) }
    }
}

/// How one who may write takes part.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// Who it is: nobody else, anywhere, has this number.
    pub holder: Identity,
    /// How long it may be silent before others take its place.
    pub time_to_live: Duration,
}

/// What `lease=on` or `off` and `lease_ttl=` say; `None` without a lease.
pub(super) fn asked(name: &str, parameters: &Parameters) -> Result<Option<Terms>> {
    let invalid = |message| Error::new(Code::InvalidArgument, message);
    let time_to_live = match parameters.get("lease_ttl") {
        None => USUAL_TIME,
        Some(text) => crate::options::parse_time(text).map_err(|error| error.context(format!("{name}: lease_ttl")))?,
    };
    if !(LEAST_TIME..=MOST_TIME).contains(&time_to_live) {
        return Err(invalid(format!("{name}: lease_ttl is half a second to an hour, not {time_to_live:?}")));
    }
    match parameters.get("lease") {
        None | Some("on") => Ok(Some(Terms { holder: socket::random()?, time_to_live })),
        Some("off") => Ok(None),
        Some(other) => Err(invalid(format!("{name}: lease is on or off, not {other:?}"))),
    }
}
