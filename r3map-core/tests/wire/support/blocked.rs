//! A region of memory whose requests wait until they are let go: a slow backend without sleeping.

use std::sync::{Arc, Condvar, Mutex};

use r3map_core::backend::memory::Memory;
use r3map_core::{Backend, Info, Result};

/// Answers nothing while it is shut.
pub struct Blocked {
    info: Info,
    memory: Memory,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    shut: bool,
    waiting: usize,
    syncs: usize,
}

impl Blocked {
    /// An open region of that size.
    pub fn new(size: u64) -> Arc<Blocked> {
        let memory = Memory::new(size).unwrap();
        let info = Info { local: false, ..memory.info().clone() };
        Arc::new(Blocked { info, memory, state: Mutex::default(), changed: Condvar::new() })
    }

    /// Makes requests wait, or lets them go.
    pub fn shut(&self, shut: bool) {
        self.state.lock().unwrap().shut = shut;
        self.changed.notify_all();
    }

    /// Returns when that many requests wait.
    pub fn wait_for(&self, waiting: usize) {
        let state = self.state.lock().unwrap();
        let (_state, late) =
            self.changed.wait_timeout_while(state, super::SOON, |state| state.waiting < waiting).unwrap();
        assert!(!late.timed_out(), "no request came");
    }

    /// How many syncs were done.
    pub fn syncs(&self) -> usize {
        self.state.lock().unwrap().syncs
    }

    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.waiting += 1;
        self.changed.notify_all();
        while state.shut {
            state = self.changed.wait(state).unwrap();
        }
        state.waiting -= 1;
    }
}

impl Backend for Blocked {
    fn info(&self) -> &Info {
        &self.info
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.pass();
        self.memory.read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.pass();
        self.memory.write_at(data, offset)
    }

    fn sync(&self) -> Result<()> {
        self.pass();
        self.state.lock().unwrap().syncs += 1;
        Ok(())
    }
}
