//! What the option objects have in common: setters return nothing, so the first value that could not be taken
//! is kept and reported by whatever opens with the options.

use std::ffi::c_char;
use std::sync::Mutex;
use std::time::Duration;

use r3map_core::{Error, Result};

use crate::handle::{Handle, call_or, get, get_or_none, text};

/// Options under way.
#[derive(Default)]
pub(crate) struct Kept<T>(Mutex<State<T>>);

#[derive(Default)]
struct State<T> {
    options: T,
    /// The first value that could not be taken.
    fault: Option<Error>,
}

impl<T: Clone + Default> Kept<T> {
    /// Changes the options; of several errors the first is kept.
    pub(crate) fn change(&self, change: impl FnOnce(&mut T) -> Result<()>) {
        let mut state = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if let Err(error) = change(&mut state.options) {
            state.fault.get_or_insert(error);
        }
    }

    fn options(&self) -> Result<T> {
        let state = self.0.lock().unwrap_or_else(|e| e.into_inner());
        state.fault.clone().map_or_else(|| Ok(state.options.clone()), Err)
    }
}

/// A noun that holds options.
pub(crate) trait Options: Handle {
    /// The core's options.
    type Core: Clone + Default;

    fn kept(&self) -> &Kept<Self::Core>;
}

/// Sets an option to a value; a value that could not be had is kept as an error, with the option's name before it.
/// A handle that is NULL or freed has nowhere to keep one, and opening with it fails.
///
/// # Safety
/// As for [`get`].
pub(crate) unsafe fn set<T: Options, V>(
    options: *mut T,
    name: &str,
    value: Result<V>,
    store: impl FnOnce(&mut T::Core, V),
) {
    call_or((), || {
        // SAFETY: the caller's promise.
        let Ok(options) = (unsafe { get(options.cast_const()) }) else { return };
        options.kept().change(|core| match value {
            Ok(value) => {
                store(core, value);
                Ok(())
            }
            Err(error) => Err(error.context(name)),
        });
    })
}

/// Sets an option of many by its name; what cannot be taken is kept as an error.
///
/// # Safety
/// As for [`get`], and for [`text`].
pub(crate) unsafe fn set_named<T: Options>(
    options: *mut T,
    name: *const c_char,
    value: *const c_char,
    store: impl FnOnce(&mut T::Core, &str, &str) -> Result<()>,
) {
    call_or((), || {
        // SAFETY: the caller's promise.
        let Ok(options) = (unsafe { get(options.cast_const()) }) else { return };
        // SAFETY: the caller's promise.
        let texts = unsafe { text(name, "name of an option").map(|name| (name, text(value, name))) };
        options.kept().change(|core| {
            let (name, value) = texts?;
            store(core, name, value?)
        });
    })
}

/// The options to open with: the defaults for NULL.
///
/// # Safety
/// As for [`get`].
pub(crate) unsafe fn options_of<T: Options>(options: *const T) -> Result<T::Core> {
    // SAFETY: the caller's promise.
    match unsafe { get_or_none(options) }? {
        None => Ok(T::Core::default()),
        Some(options) => options.kept().options(),
    }
}

/// A time as C gives it.
pub(crate) fn milliseconds(time: u64) -> Duration {
    Duration::from_millis(time)
}
