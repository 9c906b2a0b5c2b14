//! `r3map info`: what a backend says of itself.

use clap::Args;
use indicatif::HumanBytes;
use r3map_core::{Result, backend};
use serde_json::json;

use crate::flags::BackendFlags;
use crate::print;
use crate::progress::Progress;

/// Show the size of a backend and how it is read
#[derive(Args)]
pub struct Info {
    /// URL of the backend
    url: String,
    #[command(flatten)]
    backend: BackendFlags,
}

impl Info {
    /// Opens the backend and prints what it says.
    pub fn run(self, progress: &Progress) -> Result<()> {
        let backend = backend::open(&self.url, &self.backend.options(&[&self.url])?)?;
        let info = backend.info();
        if progress.json {
            return print(json!({
                "name": info.name, "size": info.size, "chunk_size": info.chunk_size, "read_only": info.read_only,
            }));
        }
        print(format_args!("name        {}", info.name))?;
        print(format_args!("size        {} ({})", info.size, HumanBytes(info.size)))?;
        print(format_args!("chunk_size  {} ({})", info.chunk_size, HumanBytes(info.chunk_size.into())))?;
        print(format_args!("read_only   {}", info.read_only))
    }
}
