//! (to come)

use std::sync::Arc;

use crate::backend::Backend;
use crate::device::{Attach, Device};
use crate::error::{Code, Error, Result};

/// Whether this process could attach one now.
pub fn probe() -> Result<()> {
    Err(Error::new(Code::NoDevice, "userfaultfd: not built yet"))
}

/// Attaches a device.
pub fn attach(_region: Arc<dyn Backend>, _how: &Attach) -> Result<Arc<dyn Device>> {
    Err(Error::new(Code::NoDevice, "userfaultfd: not built yet"))
}
