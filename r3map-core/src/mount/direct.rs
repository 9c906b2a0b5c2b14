//! The direct way: every access goes straight to the backend, and a write that was lost is never forgotten.

use std::sync::{Arc, Mutex};

use crate::backend::{Backend, Completion, Info, Operation, Request};
use crate::error::{Code, Error, Result};

/// A backend as a direct mount shows it to its device and handle.
pub struct Direct {
    info: Info,
    backend: Arc<dyn Backend>,
    failure: Arc<Failure>,
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
        Direct { info: Info { read_only, ..info }, backend, failure: Arc::default() }
    }

    fn check_write(&self) -> Result<()> {
        if self.info.read_only {
            return Err(Error::new(Code::ReadOnly, format!("{} is open read-only", self.info.name)));
        }
        Ok(())
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
        self.failure.keep_on_error(self.backend.write_at(data, offset))
    }

    fn zero_at(&self, offset: u64, length: u64) -> Result<()> {
        self.check_write()?;
        self.failure.keep_on_error(self.backend.zero_at(offset, length))
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
            Ok(()) => Some(self.failure.keep_on_error(self.backend.try_write_at(data, offset)?)),
        }
    }

    fn submit(self: Arc<Self>, mut request: Request) {
        let check = match request.operation {
            Operation::Read { .. } => Ok(()),
            Operation::Write { .. } | Operation::Zero { .. } => self.check_write(),
            Operation::Sync => self.failure.check(),
        };
        if let Err(error) = check {
            return request.completion.complete(Err(error));
        }
        if matches!(request.operation, Operation::Write { .. } | Operation::Zero { .. }) {
            let (failure, completion) = (self.failure.clone(), request.completion);
            request.completion = Completion::new(move |outcome| completion.complete(failure.keep_on_error(outcome)));
        }
        self.backend.clone().submit(request);
    }
}
