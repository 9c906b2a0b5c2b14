//! What the errors of S3 and of its client mean here.

use std::error::Error as _;

use object_store::Error as StoreError;
use object_store::client::{HttpError, HttpErrorKind};

use crate::error::{Code, Error};

/// What a server and a client say of a failure, and the status and code of S3 in it.
struct Told {
    text: String,
    http: Option<HttpErrorKind>,
}

impl Told {
    fn of(error: &StoreError) -> Told {
        let mut http = None;
        // The last cause says most; those before repeat it.
        let mut cause = error.source();
        let mut last = error.to_string();
        while let Some(next) = cause {
            http = http.or_else(|| next.downcast_ref::<HttpError>().map(HttpError::kind));
            last = next.to_string();
            cause = next.source();
        }
        let whole = error.to_string();
        let text = if whole.contains(&last) { whole } else { format!("{whole}: {last}") };
        Told { text, http }
    }

    /// Whether the answer names this code of S3's.
    fn names(&self, code: &str) -> bool {
        self.text.contains(&format!("<Code>{code}</Code>"))
    }

    /// Whether the server answered with this status.
    fn has_status(&self, status: &str) -> bool {
        self.text.contains(&format!("status code: {status}"))
    }
}

/// Whether the server confirms that there is no such object, in a bucket that is there.
pub fn is_missing_object(error: &StoreError) -> bool {
    matches!(error, StoreError::NotFound { .. }) && Told::of(error).names("NoSuchKey")
}

/// Whether an object is too short for the range that was asked for.
pub fn is_empty_object(error: &StoreError) -> bool {
    let told = Told::of(error);
    told.names("InvalidRange") || told.has_status("416")
}

/// Whether the server does not know what it was asked for.
pub fn is_not_implemented(error: &StoreError) -> bool {
    let told = Told::of(error);
    told.names("NotImplemented") || told.has_status("501")
}

/// The error that tells of a failed request. S3 names no secret in its own.
pub fn translate(error: StoreError, what: &str) -> Error {
    let told = Told::of(&error);
    let any = |codes: &[&str]| codes.iter().any(|code| told.names(code));
    let gone = |status: &&str| told.has_status(status);
    let unknown =
        ["InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired"];
    let code = if any(&unknown) || matches!(error, StoreError::Unauthenticated { .. }) {
        Code::NotAuthenticated
    } else if matches!(error, StoreError::PermissionDenied { .. }) {
        Code::PermissionDenied
    } else if matches!(error, StoreError::NotFound { .. }) {
        Code::NotFound
    } else if any(&["SlowDown", "ServiceUnavailable", "RequestTimeout"]) || ["503", "429", "408"].iter().any(gone) {
        Code::Busy
    } else if ["500", "502", "504"].iter().any(gone) {
        Code::Disconnected
    } else {
        match told.http {
            Some(HttpErrorKind::Timeout) => Code::Timeout,
            _ if told.text.contains("certificate") => Code::NotAuthenticated,
            Some(_) => Code::Disconnected,
            None => Code::Io,
        }
    };
    let hint = match code {
        Code::NotFound if told.names("NoSuchBucket") => ": create=true would make it",
        _ => "",
    };
    Error::new(code, format!("{what}: {}{hint}", one_line(&told.text)))
}

/// A message without the lines of an XML document, and of bounded length.
fn one_line(text: &str) -> String {
    let line: Vec<&str> = text.split_whitespace().collect();
    line.join(" ").chars().take(600).collect()
}
