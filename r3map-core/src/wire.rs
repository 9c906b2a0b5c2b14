//! The native protocol: frames of a fixed header and a payload, over any stream socket.
//!
//! `docs/wire.md` is its specification; what stands here is one implementation of it. Headers and greetings
//! are pure functions of bytes; `channel` and `incoming` move them over a socket.

pub(crate) mod channel;
#[cfg(feature = "compression")]
mod codec;
#[cfg(not(feature = "compression"))]
#[path = "wire/codec_missing.rs"]
mod codec;
pub mod compress;
#[cfg(feature = "frpc")]
pub mod frpc;
pub mod greeting;
#[cfg(feature = "grpc")]
pub(crate) mod grpc;
pub mod header;
pub(crate) mod incoming;
pub mod nbd;
#[cfg(feature = "panrpc")]
pub mod panrpc;
pub(crate) mod socket;
#[cfg(any(feature = "grpc", feature = "frpc", feature = "panrpc"))]
pub(crate) mod stream;

pub use greeting::{Hello, Welcome};
pub use header::{Header, Kind};

/// The first bytes of every frame.
pub const MAGIC: [u8; 4] = *b"r3mW";
/// The oldest version of the protocol this build speaks.
pub const OLDEST_VERSION: u16 = 1;
/// The newest version of the protocol this build speaks.
pub const NEWEST_VERSION: u16 = 1;
/// Length of a header in bytes.
pub const HEADER_LENGTH: usize = 48;
/// The longest payload in bytes, and so the longest read or write: the largest chunk.
pub const MAX_PAYLOAD: u32 = 32 << 20;
/// The longest HELLO or WELCOME in bytes, without its header.
pub const MAX_GREETING: u32 = 4 << 10;
/// The longest name of an export in bytes.
pub const MAX_NAME: usize = 255;
/// The longest message of an error in bytes.
pub const MAX_MESSAGE: usize = 4 << 10;
/// The port of a URL that names none.
pub const DEFAULT_PORT: u16 = 7070;

/// Sixteen random bytes that name something for good.
pub type Identity = [u8; 16];

/// Bytes as people write identities, pins and tokens.
#[cfg(any(feature = "chunks", feature = "tls"))]
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
