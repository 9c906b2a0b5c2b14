//! r3map, "remote mmap": bytes that live elsewhere as a memory region of this process.
//!
//! The way of one byte: an app reads or writes through a [`device`] (slice, file, path) or the handle of a
//! [`Mount`]; the mount hands the access to its region, which answers it from here or from the
//! [`Backend`] where the bytes live.

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!("r3map runs on 64-bit Linux");

pub mod backend;
mod boot;
pub mod buffer;
pub mod cancel;
pub mod copy;
pub mod device;
pub mod error;
pub mod event;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod gate;
pub mod log;
mod mapping;
pub mod migration;
pub mod mount;
pub mod options;
pub mod page;
pub mod region;
#[cfg(feature = "runtime")]
mod runtime;
pub mod server;
#[cfg(test)]
#[path = "../../tests/skip.rs"]
mod skip;
pub mod stats;
mod sync;
pub mod thread;
#[cfg(feature = "tls")]
pub mod tls;
#[cfg(not(feature = "tls"))]
#[path = "tls_missing.rs"]
mod tls;
pub mod url;
pub mod version;
pub mod wire;

pub use backend::{Backend, BackendOptions, Info};
pub use cancel::Cancel;
pub use copy::Copy;
pub use error::{Code, Error, Result};
pub use migration::leecher::{LeechState, Leecher};
pub use migration::seeder::{Group, SeedEvent, SeedOptions, SeedState, Seeder};
pub use mount::{Mount, Slice};
pub use options::{Compression, Credentials, DeviceChoice, Mode, MountOptions, Pull};
pub use server::{ExportOptions, Protocol, Server, ServerOptions};
pub use stats::Stats;

/// The version of the library.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
