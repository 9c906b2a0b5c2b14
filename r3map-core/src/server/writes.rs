//! Which version of an export its clients are told, and when it becomes another.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use crate::backend::Backend;
use crate::cancel::Limit;
use crate::error::{Code, Result};
use crate::migration::home::Home;
use crate::version::Version;
use crate::wire::{Identity, socket};

/// How long a backend may take to say which version it has.
const ASKING_TIME: Duration = Duration::from_secs(10);

/// The version of a region, which all exports of it in this process have in common.
pub struct Writes(Mutex<State>);

struct State {
    /// Where it is written down, once for each name of its file; nowhere where nothing lasts.
    homes: Vec<Arc<Home>>,
    version: Version,
    /// Whether somebody who is not its writer may have been told it.
    is_told: bool,
    /// Whether it stands in a record, which must not be older than the bytes.
    is_recorded: bool,
}

/// The versions of exports that are open, by their regions' places.
static SHARED: Mutex<BTreeMap<(u64, u64), Weak<Writes>>> = Mutex::new(BTreeMap::new());

impl Writes {
    /// The version of another export of the same region, else the one that was written down, else what the backend
    /// knows, else one that nobody was ever told.
    pub fn of(backend: &dyn Backend) -> Result<Arc<Writes>> {
        let Some(home) = backend.home() else { return Writes::new(backend, None).map(Arc::new) };
        let place = home.place()?;
        let mut shared = SHARED.lock().unwrap_or_else(|e| e.into_inner());
        shared.retain(|_, writes| writes.strong_count() > 0);
        if let Some(writes) = shared.get(&place).and_then(Weak::upgrade) {
            writes.join(home)?;
            return Ok(writes);
        }
        let writes = Arc::new(Writes::new(backend, Some(home))?);
        shared.insert(place, Arc::downgrade(&writes));
        Ok(writes)
    }

    /// Keeps it by one more name of the file as well. What was written down there may be of another past: then neither
    /// goes on, but one that nobody was told.
    fn join(&self, home: Arc<Home>) -> Result<()> {
        let mut state = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if state.homes.iter().any(|known| known.is_at(&home)) {
            return Ok(());
        }
        let recorded = home.version()?;
        if recorded != Some(state.version) {
            let count = recorded.map_or(0, |version| version.count).max(state.version.count);
            state.version = Version { writer: socket::random()?, count };
            state.is_recorded |= recorded.is_some();
        }
        state.homes.push(home);
        Ok(())
    }

    fn new(backend: &dyn Backend, home: Option<Arc<Home>>) -> Result<Writes> {
        let recorded = home.as_ref().map_or(Ok(None), |home| home.version())?;
        let known = match recorded {
            Some(version) => Some(version),
            None => backend.lineage(&Limit::within(ASKING_TIME))?.map(|lineage| lineage.version),
        };
        let version = match known {
            Some(version) => version,
            None => Version { writer: socket::random()?, count: 0 },
        };
        let (homes, is_recorded) = (home.into_iter().collect(), recorded.is_some());
        Ok(Writes(Mutex::new(State { homes, version, is_told: true, is_recorded })))
    }

    /// What a client is told when it is welcomed.
    pub fn tell(&self, client: Identity) -> Version {
        let mut state = self.0.lock().unwrap_or_else(|e| e.into_inner());
        state.is_told |= state.version.writer != client;
        state.version
    }

    /// Before a client's bytes reach the backend: whoever was told of another's version must not take them for it.
    pub fn begin(&self, client: Identity) -> Result<()> {
        let mut state = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if state.version.writer == client && !state.is_told {
            return Ok(());
        }
        let version = Version { writer: client, count: state.version.count + 1 };
        for home in 0..state.homes.len() {
            match state.homes[home].save_version(version) {
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
        drop(writes);
        let after_a_restart = Writes::of(&memory).unwrap();
        assert_eq!(after_a_restart.tell(TWO).writer, TWO);
        after_a_restart.begin(TWO).unwrap();
        assert_eq!(after_a_restart.tell(ONE).count, third.count + 2, "who was told before is not known");
    }

    #[test]
    fn exports_of_one_file_have_one_version_by_whatever_name_it_goes() {
        use std::os::unix::fs::symlink;

        use crate::backend::{self, BackendOptions};

        let directory = std::env::temp_dir().join(format!("r3map-writes-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let at = |name: &str| directory.join(name);
        let of = |name: &str, parameters: &str| {
            let url = format!("file://{}{parameters}", at(name).display());
            Writes::of(&*backend::open(&url, &BackendOptions::default()).unwrap()).unwrap()
        };
        let (one, other) = (of("one", "?size=4096"), of("other", "?size=4096"));
        symlink(at("one"), at("linked")).unwrap();
        std::fs::hard_link(at("one"), at("hard")).unwrap();
        one.begin(ONE).unwrap();
        let told = of("linked", "").tell(TWO);
        assert_eq!(told.writer, ONE);
        one.begin(ONE).unwrap();
        let next = of("one", "").tell(TWO);
        assert_eq!((next.writer, next.count), (ONE, told.count + 1), "who was told by the link is not told the same");
        assert_ne!(other.tell(TWO).writer, ONE);

        // A name that was served before, by itself: what it says goes on nowhere, and both are written from here on.
        let hard = of("hard", "");
        assert!(Arc::ptr_eq(&one, &hard));
        let joined = hard.tell(TWO);
        assert!(joined.writer != ONE && joined.count == next.count);
        hard.begin(TWO).unwrap();
        let last = one.tell(ONE);
        assert_eq!((last.writer, last.count), (TWO, next.count + 1));
        drop((one, hard));
        assert_eq!((of("one", "").tell(ONE), of("hard", "").tell(ONE)), (last, last));
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
