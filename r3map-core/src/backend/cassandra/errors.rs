//! What the errors of Cassandra and of its driver mean here.

use std::fmt::Display;

use scylla::errors::{
    ConnectionError, ConnectionPoolError, ConnectionSetupRequestErrorKind as Setup, DbError, ExecutionError,
    MetadataError, MetadataFetchErrorKind, NewSessionError, PrepareError, RequestAttemptError,
};

use crate::error::{Code, Error};

/// The error of a session that does not come about.
pub fn of_session(error: &NewSessionError) -> Error {
    match error {
        NewSessionError::MetadataError(MetadataError::ConnectionPoolError(pool)) => of_pool(pool),
        NewSessionError::MetadataError(MetadataError::FetchError(fetch)) => match &fetch.error {
            MetadataFetchErrorKind::PrepareError(attempt) => of_attempt(attempt),
            _ => Error::new(Code::Disconnected, error.to_string()),
        },
        NewSessionError::FailedToResolveAnyHostname(_) => Error::new(Code::Disconnected, error.to_string()),
        _ => Error::new(Code::Io, error.to_string()),
    }
}

/// The error of a request that failed.
pub fn of_request(error: &ExecutionError) -> Error {
    match error {
        ExecutionError::LastAttemptError(attempt) => of_attempt(attempt),
        ExecutionError::ConnectionPoolError(pool) => of_pool(pool),
        ExecutionError::PrepareError(prepare) => of_prepare(prepare),
        ExecutionError::EmptyPlan => Error::new(Code::Disconnected, "no server that may be asked is known"),
        ExecutionError::RequestTimeout(_) => Error::new(Code::Timeout, error.to_string()),
        ExecutionError::SchemaAgreementError(_) => Error::new(Code::Timeout, error.to_string()),
        _ => Error::new(Code::Io, error.to_string()),
    }
}

/// The error of a statement that the servers do not take.
pub fn of_prepare(error: &PrepareError) -> Error {
    match error {
        PrepareError::ConnectionPoolError(pool) => of_pool(pool),
        PrepareError::AllAttemptsFailed { first_attempt } => of_attempt(first_attempt),
        _ => Error::new(Code::Io, error.to_string()),
    }
}

/// The error of an answer that is not what was asked for.
pub fn of_answer(error: impl Display) -> Error {
    Error::new(Code::Corrupt, format!("the answer is not one to what was asked: {error}"))
}

/// Whether no server was reached, rather than one that answered.
pub fn reached_none(error: &ExecutionError) -> bool {
    matches!(error, ExecutionError::ConnectionPoolError(_) | ExecutionError::EmptyPlan)
}

fn of_pool(error: &ConnectionPoolError) -> Error {
    match error {
        ConnectionPoolError::Broken { last_connection_error } => of_connection(last_connection_error),
        ConnectionPoolError::NodeDisabledByHostFilter => {
            let message = "the cluster's servers are not all on this host, and plain TCP would show every byte to the \
                           network between: say insecure if that network is trusted";
            Error::new(Code::PermissionDenied, message)
        }
        _ => Error::new(Code::Disconnected, error.to_string()),
    }
}

fn of_connection(error: &ConnectionError) -> Error {
    let ConnectionError::ConnectionSetupRequestError(setup) = error else {
        return Error::new(Code::Disconnected, error.to_string());
    };
    match setup.get_error() {
        Setup::DbError(kind, told) => of_server(kind, told),
        Setup::BrokenConnection(_) => Error::new(Code::Disconnected, error.to_string()),
        // The driver's own words name a builder of its.
        Setup::MissingAuthentication => {
            let hint = "the server asks who this is: give the user as cassandra://USER@HOST and the password as token";
            Error::new(Code::NotAuthenticated, hint)
        }
        Setup::StartAuthSessionError(_) | Setup::AuthChallengeEvaluationError(_) | Setup::AuthFinishError(_) => {
            Error::new(Code::NotAuthenticated, error.to_string())
        }
        _ => Error::new(Code::Corrupt, format!("{error}: is that a Cassandra server?")),
    }
}

fn of_attempt(error: &RequestAttemptError) -> Error {
    match error {
        RequestAttemptError::DbError(kind, told) => of_server(kind, told),
        RequestAttemptError::BrokenConnectionError(_) => Error::new(Code::Disconnected, error.to_string()),
        RequestAttemptError::UnableToAllocStreamId => Error::new(Code::Busy, error.to_string()),
        _ => of_answer(error),
    }
}

/// What a server says. It names no secret.
fn of_server(kind: &DbError, told: &str) -> Error {
    let said = |code, hint: &str| Error::new(code, format!("the server says: {told}{hint}"));
    match kind {
        DbError::Overloaded | DbError::IsBootstrapping | DbError::TruncateError | DbError::RateLimitReached { .. } => {
            said(Code::Busy, "")
        }
        DbError::ReadTimeout { received, required, .. } | DbError::WriteTimeout { received, required, .. } => {
            said(Code::Timeout, &format!(" ({received} of {required} replicas answered)"))
        }
        DbError::Unavailable { alive, required, .. } => {
            said(Code::Disconnected, &format!(" ({alive} of {required} replicas are there)"))
        }
        // Mostly that it is about to stop.
        DbError::ServerError => said(Code::Io, "").with_retryable(true),
        DbError::AuthenticationError => said(Code::NotAuthenticated, ""),
        DbError::Unauthorized => said(Code::PermissionDenied, ""),
        DbError::Invalid | DbError::ConfigError if told.contains("does not exist") || told.contains("unconfigured") => {
            said(Code::NotFound, "")
        }
        DbError::Invalid | DbError::ConfigError | DbError::SyntaxError => said(Code::InvalidArgument, ""),
        DbError::ProtocolError => said(Code::Unsupported, ""),
        // Of a comparison whose outcome nobody knows.
        DbError::Other(0x1700) => said(Code::Timeout, ""),
        _ => Error::new(Code::Io, format!("the server says: {kind}: {told}")),
    }
}

#[cfg(test)]
mod tests {
    use scylla::errors::WriteType;
    use scylla::statement::Consistency::Quorum;

    use super::*;

    #[test]
    fn what_may_be_over_soon_is_retryable_and_what_is_not_is_not() {
        let (received, required, write_type) = (1, 2, WriteType::Simple);
        let write = DbError::WriteTimeout { consistency: Quorum, received, required, write_type };
        let away = DbError::Unavailable { consistency: Quorum, required, alive: 1 };
        for (kind, code) in [
            (DbError::Overloaded, Code::Busy),
            (DbError::IsBootstrapping, Code::Busy),
            (write, Code::Timeout),
            (away, Code::Disconnected),
            (DbError::ServerError, Code::Io),
        ] {
            let error = of_server(&kind, "…");
            assert!(error.code() == code && error.is_retryable(), "{kind}: {error}");
        }
        for (kind, told, code) in [
            (DbError::Invalid, "table a.b does not exist", Code::NotFound),
            (DbError::Invalid, "Undefined column name data", Code::InvalidArgument),
            (DbError::Unauthorized, "", Code::PermissionDenied),
            (DbError::AuthenticationError, "", Code::NotAuthenticated),
            (DbError::Other(77), "", Code::Io),
        ] {
            let error = of_server(&kind, told);
            assert!(error.code() == code && !error.is_retryable(), "{kind}: {error}");
        }
    }
}
