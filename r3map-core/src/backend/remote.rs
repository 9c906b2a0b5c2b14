//! `r3map://host:port/name` and `r3map+unix:///socket?name=name` — an export of another r3map.

use crate::backend::{Backend, BackendOptions, Info};
use crate::error::{Code, Error, Result};
use crate::url::Location;

/// An export of an r3map server.
pub struct Remote {
    info: Info,
}

impl Remote {
    /// Connects to the server that the location names.
    pub fn open(location: &Location, _options: &BackendOptions) -> Result<Remote> {
        Err(Error::new(Code::Unsupported, format!("{}: not built yet", location.as_str())))
    }
}

impl Backend for Remote {
    fn info(&self) -> &Info {
        &self.info
    }
    fn read_at(&self, _buffer: &mut [u8], _offset: u64) -> Result<()> {
        Err(Error::new(Code::Unsupported, "not built yet"))
    }
    fn write_at(&self, _data: &[u8], _offset: u64) -> Result<()> {
        Err(Error::new(Code::Unsupported, "not built yet"))
    }
    fn sync(&self) -> Result<()> {
        Err(Error::new(Code::Unsupported, "not built yet"))
    }
}
