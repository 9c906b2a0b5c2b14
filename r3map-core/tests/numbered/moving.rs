//! Both sides of a move in one process.

use r3map_core::{Leecher, SeedState, Seeder};

use super::*;

/// Takes the region of a seeder whose app stops as soon as it is asked to.
pub fn take(seeder: &Seeder, local: &str, payload: &[u8]) -> (Leecher, Mount) {
    let url = seeder.url().unwrap();
    let leecher = Leecher::open(url, local, MountOptions::default(), &BackendOptions::default()).unwrap();
    let taking = std::thread::spawn({
        let leecher = leecher.clone();
        move || leecher.finalize_when("95%", SOON).unwrap()
    });
    seeder.suspended(asked(seeder, 0), payload).unwrap();
    (leecher, taking.join().unwrap())
}

/// The number of the first event after `after` by which the leecher asks for the region.
pub fn asked(seeder: &Seeder, mut after: u64) -> u64 {
    loop {
        let event = seeder.next(after, SOON).unwrap();
        after = event.sequence;
        if event.state == SeedState::Suspending {
            return after;
        }
    }
}
