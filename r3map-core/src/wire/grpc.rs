//! The messages of the published protocol, made from `proto/` by `proto/generate`, and what errors are called there.

use tonic::{Code as Grpc, Status};

use crate::error::{Code, Error};

#[allow(missing_docs, clippy::all)]
#[rustfmt::skip]
pub mod backend;
#[allow(missing_docs, clippy::all)]
#[rustfmt::skip]
pub mod seeder;

/// The longest text of an error: it travels in a header, of which peers take little.
const MOST_TEXT: usize = 1 << 10;
/// What a leecher may say with `Sync`: the unit of what is dirty, for which the published protocol has no word.
pub const BLOCK: &str = "r3map-block";
/// HTTP/2's window of one message on its way.
pub const STREAM_WINDOW: u32 = 4 << 20;
/// HTTP/2's window of all messages on their way over a connection.
pub const CONNECTION_WINDOW: u32 = 64 << 20;
/// The longest frame that is taken: fewer frames are less work.
pub const FRAME_SIZE: u32 = 1 << 20;

const NAMES: [(Code, Grpc); 14] = [
    (Code::InvalidArgument, Grpc::InvalidArgument),
    (Code::NotFound, Grpc::NotFound),
    (Code::PermissionDenied, Grpc::PermissionDenied),
    (Code::Unsupported, Grpc::Unimplemented),
    // Not Unavailable: clients repeat what fails so.
    (Code::Busy, Grpc::Aborted),
    (Code::ReadOnly, Grpc::FailedPrecondition),
    (Code::OutOfRange, Grpc::OutOfRange),
    (Code::Timeout, Grpc::DeadlineExceeded),
    (Code::Cancelled, Grpc::Cancelled),
    (Code::Disconnected, Grpc::Unavailable),
    (Code::Corrupt, Grpc::DataLoss),
    (Code::NotAuthenticated, Grpc::Unauthenticated),
    (Code::Internal, Grpc::Internal),
    // What the Go library says of every error.
    (Code::Io, Grpc::Unknown),
];

/// What a client is told of an error.
pub fn status(error: &Error) -> Status {
    let named = NAMES.iter().find(|(code, _)| *code == error.code()).map_or(Grpc::Unknown, |(_, named)| *named);
    let text = error.message();
    let end = (0..=text.len().min(MOST_TEXT)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    Status::new(named, &text[..end])
}

/// What a server said, as an error of ours.
pub fn error(status: &Status) -> Error {
    let code = NAMES.iter().find(|(_, named)| *named == status.code()).map_or(Code::Io, |(code, _)| *code);
    let (name, text) = (status.code().description(), status.message());
    let hint = match status.code() {
        Grpc::ResourceExhausted => ": is the message longer than it takes? see max_message",
        Grpc::Unimplemented => ": is it a server of the published protocol?",
        _ => "",
    };
    let said = match code {
        Code::Io if status.code() == Grpc::Unknown => format!("the server said: {text}"),
        _ => format!("the server said: {name}: {text}{hint}"),
    };
    // Only what was never answered is asked again.
    Error::new(code, said).with_retryable(matches!(code, Code::Busy | Code::Disconnected))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_keep_their_codes_and_text_from_server_to_client() {
        for (code, _) in NAMES {
            let heard = error(&status(&Error::new(code, "why ü")));
            assert_eq!((heard.code(), heard.message().contains("why ü")), (code, true));
        }
        for code in [Code::Fenced, Code::Closed, Code::Suspended] {
            assert_eq!(error(&status(&Error::new(code, "why"))).code(), Code::Io);
        }
        let long = status(&Error::new(Code::Io, "ü".repeat(5000)));
        assert_eq!(long.message().len(), MOST_TEXT);
    }
}
