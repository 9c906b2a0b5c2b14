//! The direct way: every access goes straight to the backend, and a write that was lost is never forgotten.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use crate::backend::{Backend, Completion, Extent, Info, Operation, Request};
use crate::error::{Code, Error, Result};
use crate::gate;
use crate::migration::tracker::Marks;

/// A backend as a direct mount shows it to its device and handle.
pub struct Direct {
    info: Info,
    backend: Arc<dyn Backend>,
    failure: Arc<Failure>,
    marks: Arc<Marks>,
    seal: Seal,
}

/// Whether writes are refused because the region is being given away, or was: also those that come from a device
/// after the last one that counts.
#[derive(Default)]
pub struct Seal(AtomicU32);

impl Seal {
    /// Writes fail with this code from now on; with `None` they are taken again.
    pub fn set(&self, code: Option<Code>) {
        self.0.store(code.map_or(0, |code| code as u32), Ordering::SeqCst);
    }

    /// An error unless writes are taken.
    #[inline]
    pub fn check(&self) -> Result<()> {
        match self.0.load(Ordering::Acquire) {
            0 => Ok(()),
            code => Err(gate::refusal(Code::from_number(code).unwrap_or(Code::Fenced))),
        }
    }
}

/// The first write that was acknowledged to nobody and is lost: every later sync says so.
#[derive(Default)]
pub struct Failure(Mutex<Option<Error>>);

impl Failure {
    /// Keeps the error of a write that did not reach the backend.
    pub fn keep(&self, error: &Error) {
        let mut kept = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if kept.is_none() {
            tracing::error!(%error, "a write did not reach the backend");
            *kept = Some(error.clone());
        }
    }

    /// The error that was kept, if any.
    pub fn check(&self) -> Result<()> {
        match &*self.0.lock().unwrap_or_else(|e| e.into_inner()) {
            None => Ok(()),
            Some(error) => {
                Err(error.clone().context("an earlier write did not reach the backend").with_retryable(false))
            }
        }
    }

    fn keep_on_error<T>(&self, outcome: Result<T>) -> Result<T> {
        outcome.inspect_err(|error| self.keep(error))
    }
}

impl Direct {
    /// Shows `backend`, refusing writes if `read_only`.
    pub fn new(backend: Arc<dyn Backend>, read_only: bool) -> Direct {
        let info = backend.info().clone();
        let read_only = read_only || info.read_only;
        Direct {
            info: Info { read_only, ..info },
            backend,
            failure: Arc::default(),
            marks: Arc::default(),
            seal: Seal::default(),
        }
    }

    /// Who is told of every write through here.
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// What refuses writes when the region goes.
    pub fn seal(&self) -> &Seal {
        &self.seal
    }

    fn check_write(&self) -> Result<()> {
        if self.info.read_only {
            return Err(Error::new(Code::ReadOnly, format!("{} is open read-only", self.info.name)));
        }
        self.seal.check()
    }
}

impl Backend for Direct {
    fn info(&self) -> &Info {
        &self.info
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.backend.read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.check_write()?;
        let written = self.backend.write_at(data, offset);
        self.marks.mark_bytes(offset, data.len() as u64);
        self.failure.keep_on_error(written)
    }

    fn zero_at(&self, offset: u64, length: u64) -> Result<()> {
        self.check_write()?;
        let zeroed = self.backend.zero_at(offset, length);
        self.marks.mark_bytes(offset, length);
        self.failure.keep_on_error(zeroed)
    }

    fn extents(&self, offset: u64, length: u64, most: usize) -> Result<Vec<Extent>> {
        self.backend.extents(offset, length, most)
    }

    fn sync(&self) -> Result<()> {
        self.failure.check()?;
        self.backend.sync()
    }

    #[inline]
    fn try_read_at(&self, buffer: &mut [u8], offset: u64) -> Option<Result<()>> {
        self.backend.try_read_at(buffer, offset)
    }

    #[inline]
    fn try_write_at(&self, data: &[u8], offset: u64) -> Option<Result<()>> {
        match self.check_write() {
            Err(error) => Some(Err(error)),
            Ok(()) => {
                let written = self.backend.try_write_at(data, offset)?;
                self.marks.mark_bytes(offset, data.len() as u64);
                Some(self.failure.keep_on_error(written))
            }
        }
    }

    fn submit(self: Arc<Self>, mut request: Request) {
        let (check, written) = match &request.operation {
            Operation::Read { .. } => (Ok(()), None),
            Operation::Write { offset, data } => (self.check_write(), Some((*offset, data.len() as u64))),
            Operation::Zero { offset, length } => (self.check_write(), Some((*offset, *length))),
            Operation::Sync => (self.failure.check(), None),
        };
        if let Err(error) = check {
            return request.completion.complete(Err(error));
        }
        if let Some((offset, length)) = written {
            let (failure, marks, completion) = (self.failure.clone(), self.marks.clone(), request.completion);
            request.completion = Completion::new(move |outcome| {
                marks.mark_bytes(offset, length);
                completion.complete(failure.keep_on_error(outcome));
            });
        }
        self.backend.clone().submit(request);
    }
}
