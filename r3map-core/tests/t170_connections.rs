//! 170: bulk takes as many connections as help, and demand none of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use r3map_chaos::{Conditions, Direction, Fault, Network};
use r3map_core::backend::memory::Memory;
use r3map_core::copy::Copy;
use r3map_core::{Backend, BackendOptions, ExportOptions, Server, ServerOptions, backend};

const SIZE: u64 = 12 << 20;
/// More than a connection carries that is not for bulk.
const MUCH: u64 = 1 << 20;

/// A server of random bytes behind a network in which one connection carries 256 KiB in 40 ms.
struct Far {
    server: Server,
    network: Network,
    bytes: Arc<Memory>,
    remote: Arc<dyn Backend>,
}

impl Far {
    fn new(max_connections: usize) -> Far {
        let bytes = Arc::new(Memory::new(SIZE).unwrap());
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut block = vec![0; 1 << 20];
        for byte in &mut block {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = (state >> 32) as u8;
        }
        for start in (0..SIZE).step_by(block.len()) {
            block[..8].copy_from_slice(&start.to_le_bytes());
            bytes.write_at(&block, start).unwrap();
        }
        let server = Server::new(ServerOptions { max_connections, ..ServerOptions::default() }).unwrap();
        server.export("far", bytes.clone(), &ExportOptions::default()).unwrap();
        let address = server.listen("127.0.0.1:0").unwrap();
        let window = Conditions { window: Some(256 << 10), ..Conditions::round_trip(Duration::from_millis(40)) };
        let network = Network::to(address.strip_prefix("r3map://").unwrap(), window).unwrap();
        let remote = backend::open(&network.url("far"), &BackendOptions::default()).unwrap();
        Far { server, network, bytes, remote }
    }

    /// Pulls everything once and looks whether all of it is right.
    fn pull(&self) {
        let here = Arc::new(Memory::new(SIZE).unwrap());
        Copy::between(self.remote.clone(), here.clone()).unwrap().run(None).unwrap();
        let (mut got, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
        for start in (0..SIZE).step_by(got.len()) {
            here.read_at(&mut got, start).unwrap();
            self.bytes.read_at(&mut right, start).unwrap();
            assert!(got == right, "wrong bytes in the MiB at {start}");
        }
    }

    /// How many bytes each connection brought so far, the first of them being for what the app waits for.
    fn brought(&self) -> Vec<u64> {
        self.network.passed_by_connection(Direction::Down)
    }

    /// Pulls again and again until `what` has returned.
    fn while_pulling(&self, what: impl FnOnce()) {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let pulls = scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    self.pull();
                }
            });
            let end = SetOnDrop(&done);
            what();
            drop(end);
            pulls.join().unwrap();
        });
    }

    fn end(self) {
        self.remote.close().unwrap();
        self.server.close().unwrap();
    }
}

/// Ends the pulls also where a test fails.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Does something again and again until it is as said; not for ever.
fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !reached() {
        assert!(begun.elapsed() < Duration::from_secs(120), "two minutes were not enough for: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn bulk_takes_more_connections_while_they_bring_more_and_none_of_it_comes_by_the_one_for_demand() {
    let far = Far::new(100);
    let mut asked = 0;
    far.while_pulling(|| {
        until("three connections for bulk", || {
            let at = asked * 4096 % SIZE;
            let (mut got, mut right) = ([0; 4096], [0; 4096]);
            far.remote.read_at(&mut got, at).unwrap();
            far.bytes.read_at(&mut right, at).unwrap();
            assert_eq!(got, right);
            asked += 1;
            far.brought().iter().filter(|bytes| **bytes > MUCH).count() >= 3
        });
    });
    let brought = far.brought();
    // Each with its header; the greeting and the answers to probes are small.
    let most = asked * (4096 + 48) + (64 << 10);
    assert!((asked * 4096..most).contains(&brought[0]), "{asked} reads: {brought:?}");
    let trip = far.remote.round_trip().unwrap();
    assert!(trip.least >= Duration::from_millis(40) && trip.latest >= trip.least, "{trip:?}");
    far.end();
}

#[test]
fn what_was_under_way_on_a_connection_that_is_cut_or_stuck_comes_by_another() {
    let far = Far::new(100);
    far.while_pulling(|| {
        until("more connections", || far.network.connections() >= 4);
        far.network.stall_newest();
        // Wherever it falls.
        (1..=3).for_each(|byte| far.network.plan(Direction::Down, byte * 300_007, Fault::Cut));
        until("cuts", || far.network.planned() == 0);
    });
    far.end();
}

#[test]
fn a_server_that_has_room_for_two_connections_is_pulled_over_one() {
    let far = Far::new(2);
    far.while_pulling(|| until("another connection to be refused", || far.brought().len() >= 3));
    far.pull();
    let brought = far.brought();
    assert!(brought[1] > SIZE && brought.iter().filter(|bytes| **bytes > MUCH).count() == 1, "{brought:?}");
    far.end();
}
