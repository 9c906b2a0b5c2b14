//! What C holds: a pointer to a value in a shell, whose first word tells a live handle of the right kind from
//! a freed one, another one, or something else.

use std::any::Any;
use std::collections::VecDeque;
use std::ffi::{CStr, c_char, c_void};
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use r3map_core::cancel::{Cancel, Limit, Waiter};
use r3map_core::thread::{self, Process};
use r3map_core::{Code, Error, Result};

use crate::error::r3map_error;

/// A noun of the interface.
pub(crate) trait Handle: Send + Sync + 'static {
    /// Its name in C.
    const NAME: &'static str;
    /// What the shell of a live one begins with; of this noun alone.
    const WORD: u64;
    /// Whether it is of no use in a forked child, where its threads, devices and mappings are not.
    const STAYS_WITH_PROCESS: bool;
}

#[repr(C)]
struct Shell<T> {
    word: AtomicU64,
    process: Process,
    value: MaybeUninit<T>,
}

/// How many shells a list keeps after their values are gone, so that a handle used after it was freed is found out
/// by its word without a look at memory that is somebody else's by now.
const FREED_KEPT: usize = 1024;

/// Several lists of them, as each is passed over while another thread has it.
static FREED: [Mutex<VecDeque<Box<dyn Any + Send>>>; 16] = [const { Mutex::new(VecDeque::new()) }; 16];

/// Makes a handle of a value.
pub(crate) fn give<T: Handle>(value: T) -> *mut T {
    let shell = Shell { word: AtomicU64::new(T::WORD), process: Process::current(), value: MaybeUninit::new(value) };
    Box::into_raw(Box::new(shell)).cast()
}

/// Writes a new handle where the caller wants it.
///
/// # Safety
/// `place` is valid for a write.
pub(crate) unsafe fn put<T: Handle>(place: *mut *mut T, value: T) {
    // SAFETY: the caller's promise.
    unsafe { place.write(give(value)) }
}

/// The value of a handle, or what is wrong with the handle.
///
/// # Safety
/// `handle` is NULL or came from [`give`], and is not freed while the result is in use.
pub(crate) unsafe fn get<'a, T: Handle>(handle: *const T) -> Result<&'a T> {
    // SAFETY: the caller's promise.
    let shell = unsafe { live(handle) }?;
    if T::STAYS_WITH_PROCESS && !shell.process.is_current() {
        let message = format!("this {} belongs to the process that was forked: open one in the child", T::NAME);
        return Err(Error::new(Code::Closed, message));
    }
    // SAFETY: the word says that the value is there.
    Ok(unsafe { shell.value.assume_init_ref() })
}

/// The value of a handle that may be left out.
///
/// # Safety
/// As for [`get`].
pub(crate) unsafe fn get_or_none<'a, T: Handle>(handle: *const T) -> Result<Option<&'a T>> {
    if handle.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    unsafe { get(handle) }.map(Some)
}

unsafe fn live<'a, T: Handle>(handle: *const T) -> Result<&'a Shell<T>> {
    let shell: *const Shell<T> = handle.cast();
    if shell.is_null() {
        return Err(invalid(format!("the {} is NULL", T::NAME)));
    }
    if shell.is_aligned() {
        // SAFETY: by the caller's promise this points at a shell: a live one, or one that is kept for this look.
        let word = unsafe { (*shell.cast::<AtomicU64>()).load(Ordering::Acquire) };
        if word == T::WORD {
            // SAFETY: it is live and of this noun.
            return Ok(unsafe { &*shell });
        }
    }
    Err(invalid(format!("this is no {}, or one that was freed", T::NAME)))
}

/// Frees a handle; NULL and what is freed already are left alone, and so is all in a forked child that belongs
/// to its parent.
///
/// # Safety
/// `handle` is NULL or came from [`give`], and no other call uses it.
pub(crate) unsafe fn free<T: Handle>(handle: *mut T) {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the caller's promise.
        let Ok(shell) = (unsafe { live(handle) }) else { return };
        if T::STAYS_WITH_PROCESS && !shell.process.is_current() {
            return;
        }
        if shell.word.swap(0, Ordering::AcqRel) != T::WORD {
            return;
        }
        // SAFETY: the swap made this the only call that frees it; the shell came from `Box::into_raw` in `give`.
        let mut shell = unsafe { Box::from_raw(handle.cast::<Shell<T>>()) };
        // SAFETY: the word said that the value is there, and nothing reads it from now on.
        unsafe { shell.value.assume_init_drop() };
        keep(shell);
    }));
    if outcome.is_err() {
        tracing::error!(handle = T::NAME, "freeing panicked; what it held is leaked");
    }
}

fn keep(shell: Box<dyn Any + Send>) {
    // A child may be forked while such a lock is held: never wait for it.
    let Some(mut freed) = FREED.iter().find_map(|list| list.try_lock().ok()) else {
        Box::leak(shell);
        return;
    };
    if freed.len() == FREED_KEPT {
        freed.pop_front();
    }
    freed.push_back(shell);
}

/// Runs the body of an export: its error becomes an object, its panic the error `internal`.
pub(crate) fn call(export: &str, body: impl FnOnce() -> Result<()>) -> *mut r3map_error {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => ptr::null_mut(),
        Ok(Err(error)) => give(error.into()),
        Err(panic) => give(panicked(export, &*panic).into()),
    }
}

/// Runs the body of an export that cannot report an error.
pub(crate) fn call_or<T>(otherwise: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(otherwise)
}

fn panicked(what: &str, panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let text = text.unwrap_or("no message");
    Error::new(Code::Internal, format!("{what} panicked ({text}): this is a defect of the library, please report it"))
}

/// Runs something that has no cancel of its own so that one ends it: on a thread then, which goes on with it and
/// throws the result away.
pub(crate) fn cancellable<T: Send + 'static>(
    cancel: Option<&Cancel>,
    what: &str,
    body: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let Some(cancel) = cancel else { return body() };
    let limit = Limit::none().with_cancel(Some(cancel.clone()));
    limit.check(what)?;
    let (waiter, notifier) = Waiter::new();
    let name = what.to_owned();
    thread::spawn("r3map-call", move || {
        let outcome = catch_unwind(AssertUnwindSafe(body));
        notifier.notify(outcome.unwrap_or_else(|panic| Err(panicked(&name, &*panic))));
    })
    .map_err(|error| Error::io(format!("{what}: start a thread"), error))?;
    waiter.wait(&limit, what)?
}

pub(crate) fn invalid(message: impl Into<String>) -> Error {
    Error::new(Code::InvalidArgument, message)
}

/// The text of a C string.
///
/// # Safety
/// `text` is NULL or ends with a NUL byte, and stays as it is while the result is in use.
pub(crate) unsafe fn text<'a>(text: *const c_char, name: &str) -> Result<&'a str> {
    if text.is_null() {
        return Err(invalid(format!("the {name} is NULL")));
    }
    // SAFETY: the caller's promise.
    let bytes = unsafe { CStr::from_ptr(text) };
    bytes.to_str().map_err(|_| invalid(format!("the {name} is not UTF-8")))
}

/// Checks the place of an output.
pub(crate) fn place<T>(place: *mut T, name: &str) -> Result<*mut T> {
    if place.is_null() { Err(invalid(format!("the place for the {name} is NULL"))) } else { Ok(place) }
}

/// Memory of the caller to read from.
///
/// # Safety
/// `start` is NULL or valid for reads of `length` bytes while the result is in use.
pub(crate) unsafe fn bytes<'a>(start: *const c_void, length: usize) -> Result<&'a [u8]> {
    match check_memory(start, length)? {
        0 => Ok(&[]),
        // SAFETY: the caller's promise; not NULL and no longer than memory can be.
        length => Ok(unsafe { std::slice::from_raw_parts(start.cast(), length) }),
    }
}

/// Memory of the caller to write to.
///
/// # Safety
/// `start` is NULL or valid for writes of `length` bytes while the result is in use.
pub(crate) unsafe fn bytes_mut<'a>(start: *mut c_void, length: usize) -> Result<&'a mut [u8]> {
    match check_memory(start, length)? {
        0 => Ok(&mut []),
        // SAFETY: as above; it is only written, so what it holds at first does not matter.
        length => Ok(unsafe { std::slice::from_raw_parts_mut(start.cast(), length) }),
    }
}

fn check_memory(start: *const c_void, length: usize) -> Result<usize> {
    if length > isize::MAX as usize {
        return Err(invalid(format!("a length of {length} bytes is more than memory can be")));
    }
    if start.is_null() && length > 0 {
        return Err(invalid("the buffer is NULL"));
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Thing(#[allow(dead_code)] u32);

    impl Handle for Thing {
        const NAME: &'static str = "thing";
        const WORD: u64 = u64::from_ne_bytes(*b"thing...");
        const STAYS_WITH_PROCESS: bool = true;
    }

    #[test]
    fn a_freed_handle_is_told_from_a_live_one() {
        let handle = give(Thing(7));
        // SAFETY: a handle from `give`, used as one may, and as one may not but is found out.
        unsafe {
            assert!(get(handle).is_ok());
            free(handle);
            free(handle);
            let error = get(handle.cast_const()).err().unwrap();
            assert_eq!(error.message(), "this is no thing, or one that was freed");
            assert_eq!(get::<Thing>(ptr::null()).err().unwrap().message(), "the thing is NULL");
        }
    }

    #[test]
    fn a_panic_becomes_an_error() {
        let error = call("r3map_test", || panic!("on {}", "purpose"));
        // SAFETY: the error is live until it is freed.
        unsafe {
            let found = get(error.cast_const()).unwrap();
            assert_eq!(found.error().code(), Code::Internal);
            assert!(found.error().message().starts_with("r3map_test panicked (on purpose)"));
            free(error);
        }
    }

    #[test]
    fn a_cancel_ends_a_call_that_knows_of_none() {
        let cancel = Cancel::new();
        let (release, held) = std::sync::mpsc::channel::<()>();
        let trigger = std::thread::spawn({
            let cancel = cancel.clone();
            move || cancel.trigger()
        });
        let outcome = cancellable(Some(&cancel), "test", move || held.recv().map_err(|_| invalid("gone")));
        assert_eq!(outcome.unwrap_err().code(), Code::Cancelled);
        drop(release);
        trigger.join().unwrap();
    }
}
