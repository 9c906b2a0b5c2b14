//! A backend of the test's own over memory, which counts its calls, and fails or waits when told to.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use r3map_core::{Backend, Code, Error, Info, Result};

pub struct Own {
    info: Info,
    pub bytes: Mutex<Vec<u8>>,
    pub syncs: AtomicU32,
    /// How many calls fail from now on.
    pub failures: AtomicU32,
    /// Reads wait for whoever holds it.
    pub gate: Mutex<()>,
    /// How many reads are under way.
    pub inside: AtomicU32,
}

impl Own {
    pub fn new(size: usize) -> Own {
        // Calls of one that is not local are made on threads of the library, which may give up waiting for them.
        let info = Info { local: false, ..Info::local("ours", size as u64) };
        Own {
            info,
            bytes: Mutex::new(vec![0; size]),
            syncs: AtomicU32::new(0),
            failures: AtomicU32::new(0),
            gate: Mutex::default(),
            inside: AtomicU32::new(0),
        }
    }

    fn enter(&self) -> Result<()> {
        let one_less = |left: u32| left.checked_sub(1);
        match self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less) {
            Ok(_) => Err(Error::new(Code::Io, "out of order")),
            Err(_) => Ok(()),
        }
    }
}

impl Backend for Own {
    fn info(&self) -> &Info {
        &self.info
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.inside.fetch_add(1, Ordering::SeqCst);
        drop(self.gate.lock().unwrap());
        let outcome = self.enter().map(|()| {
            let at = offset as usize;
            buffer.copy_from_slice(&self.bytes.lock().unwrap()[at..at + buffer.len()]);
        });
        self.inside.fetch_sub(1, Ordering::SeqCst);
        outcome
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.enter()?;
        let at = offset as usize;
        self.bytes.lock().unwrap()[at..at + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.enter()?;
        self.syncs.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}
