//! What stands in place of TLS in a build without the feature: nothing that could be had.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;
use std::time::Instant;

use crate::backend::BackendOptions;
use crate::error::{Code, Error, Result};
use crate::wire::channel::Channel;

fn missing() -> Error {
    Error::new(Code::Unsupported, "this build of r3map speaks no TLS: build it with the feature \"tls\"")
}

/// The protocol above TLS.
#[derive(Clone, Copy)]
pub(crate) enum Above {
    /// r3map's own.
    Native,
    /// NBD.
    Nbd,
    /// gRPC.
    #[cfg(feature = "grpc")]
    Grpc,
}

pub(crate) mod secure {
    use super::*;

    /// Encryption, of which there is none.
    pub(crate) enum Secure {}

    impl Secure {
        pub fn owes(&self) -> bool {
            match *self {}
        }

        pub fn push(&self, _: &OwnedFd) -> nix::Result<()> {
            match *self {}
        }

        pub fn send(&self, _: &OwnedFd, _: &[IoSlice<'_>]) -> nix::Result<usize> {
            match *self {}
        }

        pub fn receive(&self, _: &OwnedFd, _: &mut [IoSliceMut<'_>]) -> Result<Option<usize>> {
            match *self {}
        }

        pub fn say_goodbye(&self, _: &OwnedFd) {
            match *self {}
        }
    }
}

pub(crate) mod client {
    use super::*;

    /// How a client begins TLS.
    #[derive(Clone)]
    pub(crate) enum ClientTls {}

    impl ClientTls {
        pub fn new(_: &BackendOptions, _: &str, _: Above) -> Result<ClientTls> {
            Err(missing())
        }

        pub fn begin(&self, _: &Channel, _: Instant) -> Result<()> {
            match *self {}
        }

        pub fn token(&self) -> Option<&str> {
            match *self {}
        }
    }
}

pub(crate) mod server {
    use super::*;
    use crate::options::Credentials;
    use crate::server::caller::Caller;

    /// How a server begins TLS.
    pub(crate) enum ServerTls {}

    impl ServerTls {
        pub fn new(_: &Credentials, _: Above) -> Result<ServerTls> {
            Err(missing())
        }

        pub fn made(_: &Credentials, _: Above) -> Result<ServerTls> {
            Err(missing())
        }

        pub fn begin(&self, _: &Channel, _: Instant) -> Result<Caller> {
            match *self {}
        }

        pub fn know(&self, _: &[u8]) -> Result<Caller> {
            match *self {}
        }

        pub fn demands(&self) -> &'static str {
            match *self {}
        }

        pub fn client_line(&self, _: &str, _: &str) -> Option<String> {
            match *self {}
        }
    }
}
