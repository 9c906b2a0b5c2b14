//! What a server acknowledged, and whether it lasts: none of these protocols can say that a server lost what it held in
//! memory, so the end of a connection counts as that.

use std::sync::{Mutex, MutexGuard};

use super::Call;
use super::link::Watch;
use crate::error::{Code, Error, Result};

/// What the server acknowledged of one client.
pub struct Kept {
    name: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The number of the newest connection.
    newest: u64,
    /// The number of the newest one that has ended.
    lost: u64,
    /// How many writes were acknowledged.
    acknowledged: u64,
    /// How many of those were so before a sync that worked.
    synced: u64,
    /// Set when writes that were not synced may be gone: every later sync says so.
    failure: Option<Error>,
}

impl Kept {
    /// Nothing acknowledged yet of the backend with that name.
    pub fn new(name: &str) -> Kept {
        Kept { name: name.to_owned(), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// A call is about to be sent: says how many writes a sync covers, which fails here where it could promise nothing.
    pub fn begin(&self, call: &Call) -> Result<u64> {
        let state = self.state();
        match &state.failure {
            Some(failure) if matches!(call, Call::Sync) => Err(failure.clone()),
            _ => Ok(state.acknowledged),
        }
    }

    /// A call was answered as it should, on the connection of that number. A sync fails here if what it was to cover
    /// is lost.
    pub fn answered(&self, call: &Call, covers: u64, connection: u64) -> Result<()> {
        let mut state = self.state();
        match call {
            Call::Read { .. } => {}
            Call::Write { .. } => {
                state.acknowledged += 1;
                // The answer came, and then the connection ended before anybody looked at it.
                if connection <= state.lost {
                    self.fail(&mut state);
                }
            }
            Call::Sync => {
                if let Some(failure) = &state.failure {
                    return Err(failure.clone());
                }
                state.synced = state.synced.max(covers);
            }
        }
        Ok(())
    }

    fn fail(&self, state: &mut State) {
        if state.failure.is_none() {
            let message = format!(
                "{}: the connection broke with writes that were not synced, and nothing tells whether the server that is \
                 there now still has them",
                self.name
            );
            tracing::warn!(backend = self.name, "the connection broke with writes that were not synced");
            state.failure = Some(Error::new(Code::Io, message));
        }
    }
}

/// Of the connection that carries writes.
impl Watch for Kept {
    fn connected(&self) -> u64 {
        let mut state = self.state();
        state.newest += 1;
        state.newest
    }

    fn lost(&self, connection: u64) {
        let mut state = self.state();
        state.lost = state.lost.max(connection);
        if state.acknowledged > state.synced {
            self.fail(&mut state);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::buffer::Buffer;

    fn write() -> Call {
        Call::Write { offset: 0, data: Arc::new(Buffer::zeroed(1)) }
    }

    fn done(kept: &Kept, call: &Call, connection: u64) -> Result<()> {
        kept.begin(call).and_then(|covers| kept.answered(call, covers, connection))
    }

    #[test]
    fn a_connection_that_ends_with_unsynced_writes_fails_every_later_sync() {
        let kept = Kept::new("x");
        let one = kept.connected();
        done(&kept, &write(), one).unwrap();
        done(&kept, &Call::Sync, one).unwrap();
        kept.lost(one);
        let two = kept.connected();
        done(&kept, &Call::Sync, two).unwrap();
        done(&kept, &write(), two).unwrap();
        let covers = kept.begin(&Call::Sync).unwrap();
        kept.lost(two);
        assert_eq!(kept.answered(&Call::Sync, covers, two).unwrap_err().code(), Code::Io);
        assert_eq!(done(&kept, &Call::Sync, kept.connected()).unwrap_err().code(), Code::Io);
    }

    #[test]
    fn a_write_that_is_sent_again_is_kept_and_one_answered_by_a_lost_connection_is_not() {
        let kept = Kept::new("x");
        let one = kept.connected();
        let covers = kept.begin(&write()).unwrap();
        kept.lost(one);
        let two = kept.connected();
        kept.answered(&write(), covers, two).unwrap();
        done(&kept, &Call::Sync, two).unwrap();
        kept.lost(two);
        kept.answered(&write(), 1, two).unwrap();
        assert!(done(&kept, &Call::Sync, kept.connected()).is_err());
    }
}
