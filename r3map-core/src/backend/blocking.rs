//! The blocking methods of a backend whose requests travel, made of its [`submit`](Backend::submit).

use std::sync::Arc;
use std::time::Duration;

use crate::backend::{self, Backend, Operation};
use crate::cancel::Limit;
use crate::error::Result;

/// Bound of a blocking call made without one.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// As [`Backend::read_at`].
pub fn read_at(backend: Arc<dyn Backend>, buffer: &mut [u8], offset: u64) -> Result<()> {
    backend::read(&backend, buffer, offset, &Limit::within(DEADLINE))
}

/// As [`Backend::write_at`].
pub fn write_at(backend: Arc<dyn Backend>, data: &[u8], offset: u64) -> Result<()> {
    backend::write(&backend, data, offset, &Limit::within(DEADLINE))
}

/// As [`Backend::zero_at`].
pub fn zero_at(backend: Arc<dyn Backend>, offset: u64, length: u64) -> Result<()> {
    backend::call(&backend, Operation::Zero { offset, length }, &Limit::within(DEADLINE), "zero").map(drop)
}

/// As [`Backend::sync`].
pub fn sync(backend: Arc<dyn Backend>) -> Result<()> {
    backend::call(&backend, Operation::Sync, &Limit::within(DEADLINE), "sync").map(drop)
}
