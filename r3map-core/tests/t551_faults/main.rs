//! 551: faults of network and server that must not show: bytes are right or there is a typed error by the deadline,
//! never zeros, never old bytes, never a hang, and afterwards the same mount goes on. Each row of the list of faults is a
//! module, each way to reach the mount a test of it.

use std::time::Duration;

use r3map_core::MountOptions;
use r3map_core::device::Kind;

#[path = "../faults/mod.rs"]
mod faults;
#[path = "../../../tests/skip.rs"]
mod skip;

mod backend_errors;
mod cuts;
mod flips;
mod silence;
mod store;
mod world;

use world::{World, expected};

/// By what the bytes of a mount are reached: its handle, or the view of a device.
type Way = Option<Kind>;

/// A test for each way. Where a device is missing its test says so.
macro_rules! by_every_way {
    ($row:ident, $scenario:expr) => {
        mod $row {
            use super::*;

            #[test]
            fn by_the_handle() {
                $scenario(None);
            }

            #[test]
            fn by_a_slice_of_userfaultfd() {
                crate::with(Kind::Userfaultfd, $scenario);
            }

            #[test]
            fn by_a_file_of_fuse() {
                crate::with(Kind::Fuse, $scenario);
            }

            #[test]
            fn by_a_block_device() {
                crate::with(Kind::Nbd, $scenario);
            }
        }
    };
}
pub(crate) use by_every_way;

fn with(kind: Kind, scenario: impl Fn(Way)) {
    match kind.probe() {
        Ok(()) => scenario(Some(kind)),
        Err(error) if kind == Kind::Nbd => skip::leave_to_guest(error),
        Err(error) => skip::skip(error),
    }
}

/// A managed mount that brings nothing by itself and pushes nothing before `sync`.
fn quiet() -> MountOptions {
    MountOptions { pull: r3map_core::Pull::Demand, push_interval: Duration::ZERO, ..MountOptions::default() }
}

#[test]
#[ignore = "started by another test"]
fn serves_until_it_is_killed() {
    faults::serve();
}
