//! What the errors of a Redis server and of its client mean here.

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::error::{Code, Error};

/// The error that tells of a failed command. Redis names no secret in its own.
pub fn translate(error: &RedisError) -> Error {
    let told = |code, hint: &str| Error::new(code, format!("{error}{hint}"));
    match (error.kind(), error.code()) {
        (ErrorKind::AuthenticationFailed, _) | (_, Some("WRONGPASS" | "NOAUTH")) => {
            told(Code::NotAuthenticated, ": give the user and password as redis://USER:PASSWORD@HOST or as token")
        }
        (ErrorKind::Server(ServerErrorKind::NoPerm), _) => told(Code::PermissionDenied, ""),
        (ErrorKind::Server(ServerErrorKind::BusyLoading | ServerErrorKind::TryAgain), _) | (_, Some("BUSY")) => {
            told(Code::Busy, "")
        }
        (ErrorKind::Server(ServerErrorKind::ClusterDown | ServerErrorKind::MasterDown), _)
        | (ErrorKind::ClusterConnectionNotFound, _) => told(Code::Disconnected, ""),
        // It becomes a master again, or another does.
        (ErrorKind::Server(ServerErrorKind::ReadOnly), _) => told(Code::ReadOnly, "").with_retryable(true),
        (ErrorKind::Server(ServerErrorKind::Moved | ServerErrorKind::Ask), _) => {
            told(Code::Unsupported, ": it is part of a cluster: add cluster=true")
        }
        (_, Some("STALEEPOCH")) => told(Code::StaleEpoch, ": nothing more is written here"),
        (_, Some("WRONGTYPE")) => told(Code::Corrupt, ": this key is no chunk's"),
        (ErrorKind::Io, _) if error.is_timeout() => told(Code::Timeout, ""),
        (ErrorKind::Io, _) if is_about_a_certificate(error) => told(Code::NotAuthenticated, ""),
        (ErrorKind::Io, _) => told(Code::Disconnected, ""),
        (ErrorKind::Parse, _) => told(Code::Corrupt, ": is that a Redis server?"),
        _ => told(Code::Io, ""),
    }
}

/// Whether the connection that brought this error is over.
pub fn ends_connection(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Io | ErrorKind::Parse) || error.is_unrecoverable_error()
}

fn is_about_a_certificate(error: &RedisError) -> bool {
    error.to_string().to_ascii_lowercase().contains("certificate")
}
