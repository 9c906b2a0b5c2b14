//! The one error type: a code, what went wrong in words, an errno, and whether trying again may help.

use std::fmt;
use std::io;
use std::sync::Arc;

/// What went wrong, as a program tells it apart. The numbers are part of the C ABI and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Code {
    /// A value that could never be right: an unknown option, a malformed URL, a NULL pointer.
    InvalidArgument = 1,
    /// The file, export, key or host is confirmed not to be there.
    NotFound = 2,
    /// This process or client may not do it.
    PermissionDenied = 3,
    /// Not offered by this device, backend, kernel or build.
    Unsupported = 4,
    /// No device of the kind asked for can be attached here.
    NoDevice = 5,
    /// Somebody else holds it.
    Busy = 6,
    /// A write to something opened or exported read-only.
    ReadOnly = 7,
    /// Offset and length reach outside the region.
    OutOfRange = 8,
    /// The deadline passed first.
    Timeout = 9,
    /// The caller's cancel was triggered.
    Cancelled = 10,
    /// The peer is away and did not come back in time.
    Disconnected = 11,
    /// The storage under a backend failed.
    Io = 12,
    /// Bytes, a record or a frame failed their check.
    Corrupt = 13,
    /// The region is owned by another side now.
    Fenced = 14,
    /// An answer to something that is over: an old sequence number, session or epoch.
    StaleEpoch = 15,
    /// The region is suspended for a hand-over; try again after it.
    Suspended = 16,
    /// The peer asks for credentials that were missing or wrong.
    NotAuthenticated = 17,
    /// The handle was closed, or belongs to the parent of this forked process.
    Closed = 18,
    /// A defect of the library itself.
    Internal = 19,
}

impl Code {
    /// All codes in the order of their numbers.
    pub const ALL: [Code; 19] = [
        Code::InvalidArgument,
        Code::NotFound,
        Code::PermissionDenied,
        Code::Unsupported,
        Code::NoDevice,
        Code::Busy,
        Code::ReadOnly,
        Code::OutOfRange,
        Code::Timeout,
        Code::Cancelled,
        Code::Disconnected,
        Code::Io,
        Code::Corrupt,
        Code::Fenced,
        Code::StaleEpoch,
        Code::Suspended,
        Code::NotAuthenticated,
        Code::Closed,
        Code::Internal,
    ];

    /// The code of that number, as it comes over a wire or the C ABI.
    pub fn from_number(number: u32) -> Option<Code> {
        Code::ALL.get(number.checked_sub(1)? as usize).copied()
    }

    /// The name users read and bindings derive their own from, such as `out_of_range`.
    pub fn name(self) -> &'static str {
        match self {
            Code::InvalidArgument => "invalid_argument",
            Code::NotFound => "not_found",
            Code::PermissionDenied => "permission_denied",
            Code::Unsupported => "unsupported",
            Code::NoDevice => "no_device",
            Code::Busy => "busy",
            Code::ReadOnly => "read_only",
            Code::OutOfRange => "out_of_range",
            Code::Timeout => "timeout",
            Code::Cancelled => "cancelled",
            Code::Disconnected => "disconnected",
            Code::Io => "io",
            Code::Corrupt => "corrupt",
            Code::Fenced => "fenced",
            Code::StaleEpoch => "stale_epoch",
            Code::Suspended => "suspended",
            Code::NotAuthenticated => "not_authenticated",
            Code::Closed => "closed",
            Code::Internal => "internal",
        }
    }

    /// The errno of this code; fixed, and never 0.
    pub fn errno(self) -> i32 {
        match self {
            Code::InvalidArgument => libc::EINVAL,
            Code::NotFound => libc::ENOENT,
            Code::PermissionDenied => libc::EACCES,
            Code::Unsupported => libc::EOPNOTSUPP,
            Code::NoDevice => libc::ENODEV,
            Code::Busy => libc::EBUSY,
            Code::ReadOnly => libc::EROFS,
            Code::OutOfRange => libc::ERANGE,
            Code::Timeout => libc::ETIMEDOUT,
            Code::Cancelled => libc::ECANCELED,
            Code::Disconnected => libc::ENOTCONN,
            Code::Io => libc::EIO,
            Code::Corrupt => libc::EBADMSG,
            // What the kernel itself answers to a writer whose reservation was taken away.
            Code::Fenced => libc::EBADE,
            Code::StaleEpoch => libc::ESTALE,
            Code::Suspended => libc::EAGAIN,
            Code::NotAuthenticated => libc::EKEYREJECTED,
            Code::Closed => libc::EBADF,
            Code::Internal => libc::ENOTRECOVERABLE,
        }
    }

    fn retryable(self) -> bool {
        matches!(self, Code::Busy | Code::Timeout | Code::Disconnected | Code::Suspended)
    }
}

/// An error of the library: cheap to clone, so that one failure can be told to every waiter.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    code: Code,
    message: String,
    retryable: bool,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The library's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of this code. The message says what was tried on what, what went wrong and what to do.
    pub fn new(code: Code, message: impl Into<String>) -> Error {
        Error(Arc::new(Inner { code, message: message.into(), retryable: code.retryable(), source: None }))
    }

    /// The error of a system call: the code follows from the errno, the message from `what` and the system.
    pub fn io(what: impl fmt::Display, source: io::Error) -> Error {
        let code = match source.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => Code::NotFound,
            Some(libc::EACCES | libc::EPERM) => Code::PermissionDenied,
            Some(libc::EROFS) => Code::ReadOnly,
            Some(libc::EBUSY | libc::EADDRINUSE) => Code::Busy,
            Some(libc::ETIMEDOUT) => Code::Timeout,
            Some(libc::ECONNREFUSED | libc::ECONNRESET | libc::ECONNABORTED | libc::EPIPE)
            | Some(libc::ENOTCONN | libc::EHOSTUNREACH | libc::ENETUNREACH | libc::ENETDOWN) => Code::Disconnected,
            Some(libc::EOPNOTSUPP | libc::ENOSYS) => Code::Unsupported,
            _ if source.kind() == io::ErrorKind::UnexpectedEof => Code::Disconnected,
            _ => Code::Io,
        };
        Error(Arc::new(Inner {
            code,
            message: format!("{what}: {source}"),
            retryable: code.retryable(),
            source: Some(Box::new(source)),
        }))
    }

    /// The error of the system call that just failed on this thread.
    pub fn last_os(what: impl fmt::Display) -> Error {
        Error::io(what, io::Error::last_os_error())
    }

    /// The same error with `what` said before its message: what the caller was about.
    pub fn context(self, what: impl fmt::Display) -> Error {
        let (code, retryable) = (self.code(), self.is_retryable());
        let message = format!("{what}: {}", self.message());
        Error(Arc::new(Inner { code, message, retryable, source: Some(Box::new(self)) }))
    }

    /// The same error with another word on whether trying again may help.
    pub fn with_retryable(self, retryable: bool) -> Error {
        let code = self.code();
        let message = self.message().to_owned();
        Error(Arc::new(Inner { code, message, retryable, source: Some(Box::new(self)) }))
    }

    /// What went wrong, as a program tells it apart.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// What went wrong, in words. Holds no secret.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The errno of the code; never 0.
    pub fn errno(&self) -> i32 {
        self.0.code.errno()
    }

    /// Whether the same call may succeed later without any change by the caller.
    pub fn is_retryable(&self) -> bool {
        self.0.retryable
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.0.message, self.0.code.name())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        let kind = io::Error::from_raw_os_error(error.errno()).kind();
        io::Error::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_number_a_name_and_an_errno_of_its_own() {
        for (index, code) in Code::ALL.iter().enumerate() {
            assert_eq!(*code as u32, index as u32 + 1);
            assert_eq!(Code::from_number(*code as u32), Some(*code));
            assert_ne!(code.errno(), 0);
            assert_eq!(Code::ALL.iter().filter(|c| c.errno() == code.errno()).count(), 1, "{code:?}");
        }
        assert_eq!(Code::from_number(0), None);
        assert_eq!(Code::from_number(20), None);
    }
}
