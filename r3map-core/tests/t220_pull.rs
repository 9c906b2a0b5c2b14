//! 220: what is pulled in the background.

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use r3map_core::backend::memory::Memory;
use r3map_core::{Backend, Code, Error, Info, Mode, Mount, MountOptions, Result, event};

const PAGE: u64 = 4096;
const PAGES: u64 = 8;

/// A backend whose answers for some pages wait until the test lets them go, well or not.
struct Gated {
    info: Info,
    bytes: Memory,
    held: Mutex<Vec<(u64, Option<Result<()>>)>>,
    changed: Condvar,
}

impl Gated {
    fn new(held: &[u64]) -> Arc<Gated> {
        Arc::new(Gated {
            info: Info { local: false, ..Info::local("gated", PAGES * PAGE) },
            bytes: Memory::new(PAGES * PAGE).unwrap(),
            held: Mutex::new(held.iter().map(|page| (*page, None)).collect()),
            changed: Condvar::new(),
        })
    }

    /// Answers the read of a held page, and later ones of it at once and well.
    fn release(&self, page: u64, outcome: Result<()>) {
        let mut held = self.held.lock().unwrap();
        held.iter_mut().find(|(held, _)| *held == page).unwrap().1 = Some(outcome);
        self.changed.notify_all();
    }
}

impl Backend for Gated {
    fn info(&self) -> &Info {
        &self.info
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let mut held = self.held.lock().unwrap();
        while let Some(index) = held.iter().position(|(page, _)| *page == offset / PAGE) {
            if let Some(outcome) = held[index].1.take() {
                held.remove(index);
                outcome?;
                break;
            }
            held = self.changed.wait(held).unwrap();
        }
        self.bytes.read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.bytes.write_at(data, offset)
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

/// Waits until `done`, or fails after 20 seconds.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(20), "20 seconds were not enough for: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn the_background_pulls_again_what_the_app_asked_for_in_vain_and_then_says_that_all_is_here() {
    let backend = Gated::new(&[0, 3]);
    // One page at a time: the background waits for page 0 while the app asks for page 3.
    let options =
        MountOptions { chunk_size: Some(4096), max_in_flight: Some(1), ..Mount::options().mode(Mode::Managed) };
    let mount = options.open(backend.clone()).unwrap();
    let reader = std::thread::spawn({
        let mount = mount.clone();
        move || mount.read_at(&mut [0; 10], 3 * PAGE)
    });
    until("the app's fetch to be under way", || mount.stats().unwrap().get("reads") == Some(1));
    std::thread::sleep(Duration::from_millis(50));
    backend.release(0, Ok(()));
    until("all others to be here", || mount.stats().unwrap().get("local_bytes") == Some((PAGES - 1) * PAGE));
    backend.release(3, Err(Error::new(Code::Io, "not this time")));
    assert_eq!(reader.join().unwrap().unwrap_err().message(), "not this time");
    mount.wait_local(1.0, Duration::from_secs(20)).unwrap();
    let mut event = mount.next(0, Duration::from_secs(20)).unwrap();
    while event.kind != event::Kind::Local {
        event = mount.next(event.sequence, Duration::from_secs(20)).unwrap();
    }
    assert!(mount.missing(0, PAGES * PAGE).unwrap().is_empty());
    mount.close().unwrap();
}
