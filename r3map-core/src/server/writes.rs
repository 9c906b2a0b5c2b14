//! Which version of an export its clients are told, and when it becomes another.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::backend::Backend;
use crate::cancel::Limit;
use crate::error::{Code, Result};
use crate::migration::home::Home;
use crate::version::Version;
use crate::wire::{Identity, socket};

/// How long a backend may take to say which version it has.
const ASKING_TIME: Duration = Duration::from_secs(10);

/// The version of one export.
pub struct Writes {
    /// Where it is written down; none where nothing lasts.
    home: Option<Arc<Home>>,
    state: Mutex<State>,
}

struct State {
    version: Version,
    /// Whether somebody who is not its writer may have been told it.
    is_told: bool,
    /// Whether it stands in a record, which must not be older than the bytes.
    is_recorded: bool,
}

impl Writes {
    /// The version that was written down, else what the backend knows, else one that nobody was ever told.
    pub fn of(backend: &dyn Backend) -> Result<Writes> {
        let home = backend.home();
        let recorded = home.as_ref().map_or(Ok(None), |home| home.version())?;
        let known = match recorded {
            Some(version) => Some(version),
            None => backend.lineage(&Limit::within(ASKING_TIME))?.map(|lineage| lineage.version),
        };
        let version = match known {
            Some(version) => version,
            None => Version { writer: socket::random()?, count: 0 },
        };
        let state = State { version, is_told: true, is_recorded: recorded.is_some() };
        Ok(Writes { home, state: Mutex::new(state) })
    }

    /// What a client is told when it is welcomed.
    pub fn tell(&self, client: Identity) -> Version {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        state.is_told |= state.version.writer != client;
        state.version
    }

    /// Before a client's bytes reach the backend: whoever was told of another's version must not take them for it.
    pub fn begin(&self, client: Identity) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        if state.version.writer == client && !state.is_told {
            return Ok(());
        }
        let version = Version { writer: client, count: state.version.count + 1 };
        if let Some(home) = &self.home {
            match home.save_version(version) {
                Ok(()) => state.is_recorded = true,
                // Without a record the backend itself says at the next start that it is another.
                Err(error) if !state.is_recorded && error.code() != Code::Corrupt => {
                    tracing::debug!(%error, "caches of this export will not outlive its server");
                }
                Err(error) => return Err(error.context("note that the region is about to change")),
            }
        }
        (state.version, state.is_told) = (version, false);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::memory::Memory;

    const ONE: Identity = [1; 16];
    const TWO: Identity = [2; 16];

    #[test]
    fn a_version_changes_with_the_first_write_after_another_was_told_it() {
        let memory = Memory::new(4096).unwrap();
        let writes = Writes::of(&memory).unwrap();
        let first = writes.tell(ONE);
        writes.begin(ONE).unwrap();
        let second = writes.tell(ONE);
        assert!(second != first && second.writer == ONE);
        writes.begin(ONE).unwrap();
        assert_eq!(writes.tell(ONE), second, "nobody else was told");
        assert_eq!(writes.tell(TWO), second);
        writes.begin(ONE).unwrap();
        let third = writes.tell(TWO);
        assert_eq!((third.writer, third.count), (ONE, second.count + 1), "what the other was told is over");
        writes.begin(TWO).unwrap();
        assert_eq!(writes.tell(ONE).writer, TWO);
        let after_a_restart = Writes::of(&memory).unwrap();
        assert_eq!(after_a_restart.tell(TWO).writer, TWO);
        after_a_restart.begin(TWO).unwrap();
        assert_eq!(after_a_restart.tell(ONE).count, third.count + 2, "who was told before is not known");
    }
}
