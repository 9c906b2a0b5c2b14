//! Error
//!
//! A function that can fail returns `r3map_error *`: NULL for success, else an error that the caller owns and
//! frees. An error never changes, so threads may share it; its message lives as long as it does. Nothing is
//! kept per thread, and errno is neither read nor promised to be kept.

use std::ffi::{CString, c_char, c_int};

use r3map_core::{Code, Error};

use crate::handle::{Handle, call_or, free, get, give, invalid, text};

/// What went wrong, as a program tells it apart. The numbers never change; new ones may come.
///
/// What takes or gives a code has the type `uint32_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum r3map_code {
    /// A value that could never be right: an unknown option, a malformed URL, a NULL or freed handle. EINVAL
    R3MAP_INVALID_ARGUMENT = 1,
    /// The file, export, key or host is confirmed not to be there. ENOENT
    R3MAP_NOT_FOUND = 2,
    /// This process or client may not do it. EACCES
    R3MAP_PERMISSION_DENIED = 3,
    /// Not offered by this device, backend, kernel or build. EOPNOTSUPP
    R3MAP_UNSUPPORTED = 4,
    /// No device of the kind asked for can be attached here; the message says what each would need. ENODEV
    R3MAP_NO_DEVICE = 5,
    /// Somebody else holds it. EBUSY, retryable
    R3MAP_BUSY = 6,
    /// A write to something opened or exported read-only. EROFS
    R3MAP_READ_ONLY = 7,
    /// Offset and length reach outside the region. ERANGE
    R3MAP_OUT_OF_RANGE = 8,
    /// The deadline passed first. ETIMEDOUT, retryable
    R3MAP_TIMEOUT = 9,
    /// The caller's cancel was triggered. ECANCELED
    R3MAP_CANCELLED = 10,
    /// The peer is away and did not come back in time. ENOTCONN, retryable
    R3MAP_DISCONNECTED = 11,
    /// The storage under a backend failed. EIO
    R3MAP_IO = 12,
    /// Bytes, a record or a frame failed their check. EBADMSG
    R3MAP_CORRUPT = 13,
    /// The region is owned by another side now. EBADE
    R3MAP_FENCED = 14,
    /// An answer to something that is over. ESTALE
    R3MAP_STALE_EPOCH = 15,
    /// The region is suspended for a hand-over. EAGAIN, retryable
    R3MAP_SUSPENDED = 16,
    /// The peer asks for credentials that were missing or wrong. EKEYREJECTED
    R3MAP_NOT_AUTHENTICATED = 17,
    /// The handle was closed, or belongs to the parent of this forked process. EBADF
    R3MAP_CLOSED = 18,
    /// A defect of the library itself. ENOTRECOVERABLE
    R3MAP_INTERNAL = 19,
}

/// Why a call failed.
pub struct r3map_error {
    error: Error,
    message: CString,
}

impl Handle for r3map_error {
    const NAME: &'static str = "r3map_error";
    const WORD: u64 = u64::from_ne_bytes(*b"r3merror");
    const STAYS_WITH_PROCESS: bool = false;
}

impl r3map_error {
    pub(crate) fn error(&self) -> &Error {
        &self.error
    }
}

impl From<Error> for r3map_error {
    fn from(error: Error) -> r3map_error {
        let message = c_string(error.message());
        r3map_error { error, message }
    }
}

/// A C string of any text: a NUL byte inside becomes U+FFFD.
pub(crate) fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', "\u{fffd}")).unwrap_or_default()
}

/// Makes an error, for a backend's own functions to return: a code and a message, which is copied. Whether it
/// is retryable follows from the code. An unknown code or a message that is not UTF-8 makes an error
/// R3MAP_INVALID_ARGUMENT that says so. The library frees an error that a backend's function returned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_error_new(code: u32, message: *const c_char) -> *mut r3map_error {
    let made = call_or(invalid("r3map_error_new panicked"), || {
        // SAFETY: the caller's promise: a C string or NULL.
        let message = unsafe { text(message, "message") };
        match (Code::from_number(code), message) {
            (Some(code), Ok(message)) => Error::new(code, message),
            (None, _) => invalid(format!("r3map_error_new: {code} is no code of an error")),
            (_, Err(error)) => error.context("r3map_error_new"),
        }
    });
    give(made.into())
}

/// The error's code, one of r3map_code; 0 for NULL, which is no error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_error_code(error: *const r3map_error) -> u32 {
    // SAFETY: the caller's promise: an error or NULL.
    match unsafe { get(error) } {
        Ok(found) => found.error.code() as u32,
        Err(_) if error.is_null() => 0,
        Err(wrong) => wrong.code() as u32,
    }
}

/// What was tried on what, what went wrong and what to do: UTF-8 without a line break or a secret. Lives as long
/// as the error. "" for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_error_message(error: *const r3map_error) -> *const c_char {
    // SAFETY: the caller's promise: an error or NULL.
    match unsafe { get(error) } {
        Ok(found) => found.message.as_ptr(),
        Err(_) if error.is_null() => c"".as_ptr(),
        Err(_) => c"this is no r3map_error, or one that was freed".as_ptr(),
    }
}

/// The errno that stands for the code; never 0, but for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_error_errno(error: *const r3map_error) -> c_int {
    // SAFETY: the caller's promise: an error or NULL.
    match unsafe { get(error) } {
        Ok(found) => found.error.errno(),
        Err(_) if error.is_null() => 0,
        Err(wrong) => wrong.errno(),
    }
}

/// Whether the same call may succeed later without any change by the caller.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_error_retryable(error: *const r3map_error) -> bool {
    // SAFETY: the caller's promise: an error or NULL.
    unsafe { get(error) }.is_ok_and(|found| found.error.is_retryable())
}

/// Frees an error and its message.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_error_free(error: *mut r3map_error) {
    // SAFETY: the caller's promise: an error that no other call uses, or NULL.
    unsafe { free(error) }
}

#[cfg(test)]
mod tests {
    use super::r3map_code::*;
    use super::*;

    #[test]
    fn the_codes_are_those_of_the_core() {
        let ours = [
            R3MAP_INVALID_ARGUMENT,
            R3MAP_NOT_FOUND,
            R3MAP_PERMISSION_DENIED,
            R3MAP_UNSUPPORTED,
            R3MAP_NO_DEVICE,
            R3MAP_BUSY,
            R3MAP_READ_ONLY,
            R3MAP_OUT_OF_RANGE,
            R3MAP_TIMEOUT,
            R3MAP_CANCELLED,
            R3MAP_DISCONNECTED,
            R3MAP_IO,
            R3MAP_CORRUPT,
            R3MAP_FENCED,
            R3MAP_STALE_EPOCH,
            R3MAP_SUSPENDED,
            R3MAP_NOT_AUTHENTICATED,
            R3MAP_CLOSED,
            R3MAP_INTERNAL,
        ];
        assert_eq!(ours.len(), Code::ALL.len());
        assert!(ours.iter().zip(Code::ALL).all(|(ours, core)| *ours as u32 == core as u32));
    }
}
