//! Ctrl-C, SIGTERM and SIGHUP as events that the main thread waits for.

use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use nix::sys::signal::Signal;
use r3map_core::{Error, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// The signals that ask the command to end, caught from now on.
pub struct Interrupts {
    events: Receiver<Event>,
    sender: Sender<Event>,
}

enum Event {
    Signal(Signal),
    WorkEnded,
}

impl Interrupts {
    /// Catches the signals for the rest of the process.
    pub fn catch() -> Result<Interrupts> {
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(|error| Error::io("catch signals", error))?;
        let (sender, events) = mpsc::channel();
        thread::spawn({
            let sender = sender.clone();
            move || {
                for signal in signals.forever().filter_map(|number| Signal::try_from(number).ok()) {
                    // Nobody listens any more only when the process is about to end.
                    let _ = sender.send(Event::Signal(signal));
                }
            }
        });
        Ok(Interrupts { events, sender })
    }

    /// Waits for a signal.
    pub fn wait(&self) {
        // The channel cannot be closed: we hold a sender.
        let _ = self.events.recv();
    }

    /// Runs `work` on a thread of its own and tells `on_signal` of signals that come meanwhile.
    pub fn during<T: Send>(&self, on_signal: impl Fn(Signal), work: impl FnOnce() -> T + Send) -> T {
        let ended = Ended(self.sender.clone());
        thread::scope(|scope| {
            let worker = scope.spawn(move || {
                let _ended = ended;
                work()
            });
            while let Ok(Event::Signal(signal)) = self.events.recv() {
                on_signal(signal);
            }
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// Tells that the work ended, also by a panic.
struct Ended(Sender<Event>);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.send(Event::WorkEnded);
    }
}
