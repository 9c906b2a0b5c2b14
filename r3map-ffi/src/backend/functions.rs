//! A backend of your own
//!
//! A store that your program implements by functions. It stands wherever a backend may: under a mount, or exported
//! by a server.

use std::ffi::{CStr, c_char, c_void};
use std::sync::{Arc, Condvar, Mutex};

use r3map_core::backend::{Backend, Info};
use r3map_core::{Code, Error, Result};

use super::r3map_backend;
use crate::error::r3map_error;
use crate::handle::{call, free, get, invalid, place, put};

/// What a backend of your own says of itself, added up in r3map_backend_functions.flags.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum r3map_backend_flag {
    /// Calls return at once, as from memory or a local file: they are made in place, on the thread that needs the
    /// bytes. Without it calls are made on threads of the library, and tried again until the deadline where their
    /// error is retryable.
    R3MAP_BACKEND_LOCAL = 1,
    /// Writes are refused; write_at may be NULL.
    R3MAP_BACKEND_READ_ONLY = 2,
    /// The functions run code of a language with a garbage collector or an interpreter lock (Go, Python, Java): a
    /// page fault that waited for them could wait for itself, so a mount of it gives no slice.
    R3MAP_BACKEND_MANAGED_RUNTIME = 4,
}

/// The functions of a backend of your own. They are the only code of yours that the library calls. Each returns
/// NULL, or an error from r3map_error_new, which the library frees. None may throw, longjmp or end the thread.
///
/// They are called from any thread, most often one of the library's, which blocks all signals; and from several
/// at once, `concurrency` of them at most. They may call the library, but not use a mount of this backend. A
/// function that serves a slice must not touch that slice.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct r3map_backend_functions {
    /// sizeof(r3map_backend_functions), by which the library knows the version you compiled with.
    pub struct_size: usize,
    /// A sum of r3map_backend_flag.
    pub flags: u32,
    /// The default unit of transfer in bytes: a power of two, 4 KiB to 32 MiB. 0 is 64 KiB.
    pub chunk_size: u32,
    /// The longest call in bytes, up to 32 MiB. 0 is 32 MiB.
    pub max_request: u32,
    /// How many calls there may be at once. 0 is 16; with 1 no two are ever under way together.
    pub concurrency: u32,
    /// What messages call it, copied; NULL is "a backend of the program's own".
    pub name: *const c_char,
    /// Gives the size in bytes. Called once, by r3map_backend_new.
    pub size: Option<unsafe extern "C" fn(user_data: *mut c_void, size: *mut u64) -> *mut r3map_error>,
    /// Fills `buffer` with all `length` bytes at `offset`, or fails. The range lies inside the size.
    pub read_at: Option<
        unsafe extern "C" fn(
            user_data: *mut c_void,
            buffer: *mut c_void,
            length: usize,
            offset: u64,
        ) -> *mut r3map_error,
    >,
    /// Stores all `length` bytes of `data` at `offset`, or fails. Later reads see them.
    pub write_at: Option<
        unsafe extern "C" fn(
            user_data: *mut c_void,
            data: *const c_void,
            length: usize,
            offset: u64,
        ) -> *mut r3map_error,
    >,
    /// Makes every write acknowledged before durable. NULL where there is nothing to do.
    pub sync: Option<unsafe extern "C" fn(user_data: *mut c_void) -> *mut r3map_error>,
    /// Called once, when no handle, mount or export uses the backend any more. NULL where there is nothing to do.
    pub free: Option<unsafe extern "C" fn(user_data: *mut c_void)>,
}

/// The bits of all flags there are.
const FLAGS: u32 = r3map_backend_flag::R3MAP_BACKEND_LOCAL as u32
    | r3map_backend_flag::R3MAP_BACKEND_READ_ONLY as u32
    | r3map_backend_flag::R3MAP_BACKEND_MANAGED_RUNTIME as u32;

const MOST: u32 = 32 << 20;

/// Makes a backend of functions of your own; the structure is copied. `user_data` is handed to each of them, and is
/// the library's, to be freed by functions->free, from success on. A mount of it is direct unless told otherwise.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn r3map_backend_new(
    functions: *const r3map_backend_functions,
    user_data: *mut c_void,
    backend: *mut *mut r3map_backend,
) -> *mut r3map_error {
    call("r3map_backend_new", || {
        let place = place(backend, "backend")?;
        // SAFETY: the caller's promise: as many bytes as the structure says, or NULL.
        let functions = unsafe { read_functions(functions) }?;
        // SAFETY: the caller's promise: functions as they are documented.
        let own = unsafe { Own::new(functions, user_data) }?;
        // SAFETY: the caller's promise: not NULL, so valid for a write.
        unsafe { put(place, r3map_backend::new(Arc::new(own))) };
        Ok(())
    })
}

/// Copies the structure of a program that was compiled with this version or another one.
///
/// # Safety
/// `functions` is NULL or valid for reads of as many bytes as its first member says.
unsafe fn read_functions(functions: *const r3map_backend_functions) -> Result<r3map_backend_functions> {
    const OURS: usize = size_of::<r3map_backend_functions>();
    if functions.is_null() {
        return Err(invalid("the functions are NULL"));
    }
    // SAFETY: the caller's promise: the size comes first.
    let theirs = unsafe { functions.cast::<usize>().read() };
    if !(OURS..=1 << 16).contains(&theirs) {
        return Err(invalid(format!("struct_size is {theirs}; it must be sizeof(r3map_backend_functions), {OURS}")));
    }
    // SAFETY: the caller's promise: that many bytes are there.
    let rest = unsafe { std::slice::from_raw_parts(functions.cast::<u8>().add(OURS), theirs - OURS) };
    if rest.iter().any(|byte| *byte != 0) {
        return Err(invalid("the functions use what only a newer library knows: struct_size is larger than ours"));
    }
    // SAFETY: at least our size is there.
    Ok(unsafe { functions.read() })
}

/// A backend of the program's own.
struct Own {
    info: Info,
    functions: r3map_backend_functions,
    user_data: *mut c_void,
    turns: Turns,
}

// SAFETY: the functions may be called from any thread with `user_data`; that is their contract.
unsafe impl Send for Own {}
// SAFETY: as above, and at once as often as `turns` lets them.
unsafe impl Sync for Own {}

impl Own {
    /// # Safety
    /// The functions do as they are documented.
    unsafe fn new(functions: r3map_backend_functions, user_data: *mut c_void) -> Result<Own> {
        let flagged = |flag: r3map_backend_flag| functions.flags & flag as u32 != 0;
        let or = |value: u32, default: u32| if value == 0 { default } else { value };
        let read_only = flagged(r3map_backend_flag::R3MAP_BACKEND_READ_ONLY);
        if functions.flags & !FLAGS != 0 {
            return Err(invalid(format!("flags: {:#x} is unknown", functions.flags & !FLAGS)));
        }
        let chunk_size = or(functions.chunk_size, 64 << 10);
        if !chunk_size.is_power_of_two() || !(4096..=MOST).contains(&chunk_size) {
            return Err(invalid(format!("chunk_size: {chunk_size} is not a power of two from 4 KiB to 32 MiB")));
        }
        let max_request = or(functions.max_request, MOST);
        if max_request > MOST {
            return Err(invalid(format!("max_request: {max_request} is more than 32 MiB")));
        }
        let missing = |name: &str| invalid(format!("the function {name} is NULL"));
        let size = functions.size.ok_or_else(|| missing("size"))?;
        functions.read_at.ok_or_else(|| missing("read_at"))?;
        if functions.write_at.is_none() && !read_only {
            return Err(missing("write_at").context("a backend that is not R3MAP_BACKEND_READ_ONLY"));
        }
        let name = if functions.name.is_null() {
            "a backend of the program's own".to_owned()
        } else {
            // SAFETY: the caller's promise: a C string.
            unsafe { CStr::from_ptr(functions.name) }.to_string_lossy().into_owned()
        };
        let mut bytes = 0;
        // SAFETY: the caller's promise.
        unsafe { outcome(size(user_data, &mut bytes)) }.map_err(|error| error.context(format!("{name}: size")))?;
        if bytes > i64::MAX as u64 {
            return Err(invalid(format!("{name}: size: {bytes} is more than 8 EiB less one byte")));
        }
        let info = Info {
            local: flagged(r3map_backend_flag::R3MAP_BACKEND_LOCAL),
            read_only,
            chunk_size,
            max_request,
            concurrency: or(functions.concurrency, 16),
            managed_runtime: flagged(r3map_backend_flag::R3MAP_BACKEND_MANAGED_RUNTIME),
            ..Info::local(name, bytes)
        };
        let turns = Turns::new(info.concurrency);
        Ok(Own { info, functions, user_data, turns })
    }

    fn told(&self, what: &str, error: *mut r3map_error) -> Result<()> {
        // SAFETY: a function's result is NULL or an error that is ours now; that is its contract.
        unsafe { outcome(error) }.map_err(|error| error.context(format!("{}: {what}", self.info.name)))
    }

    fn lacks(&self, what: &str) -> Error {
        Error::new(Code::ReadOnly, format!("{}: it has no {what}", self.info.name))
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if let Some(free) = self.functions.free {
            // SAFETY: nothing else uses `user_data` any more; that is the function's contract.
            unsafe { free(self.user_data) }
        }
    }
}

/// Takes over what a function of the program's own returned.
///
/// # Safety
/// `error` is NULL or a handle that nobody else uses.
unsafe fn outcome(error: *mut r3map_error) -> Result<()> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: the caller's promise.
    unsafe {
        let found = match get(error.cast_const()) {
            Ok(found) => found.error().clone(),
            Err(_) => Error::new(Code::Internal, "the function returned what is no live r3map_error"),
        };
        free(error);
        Err(found)
    }
}

impl Backend for Own {
    fn info(&self) -> &Info {
        &self.info
    }

    fn read_at(&self, buffer: &mut [u8], mut offset: u64) -> Result<()> {
        self.info.check(offset, buffer.len() as u64)?;
        let read_at = self.functions.read_at.ok_or_else(|| self.lacks("read_at"))?;
        for piece in buffer.chunks_mut(self.info.max_request as usize) {
            let _turn = self.turns.take();
            // SAFETY: the function's contract; the piece is that long and nobody else's.
            let error = unsafe { read_at(self.user_data, piece.as_mut_ptr().cast(), piece.len(), offset) };
            self.told("read", error)?;
            offset += piece.len() as u64;
        }
        Ok(())
    }

    fn write_at(&self, data: &[u8], mut offset: u64) -> Result<()> {
        self.info.check(offset, data.len() as u64)?;
        let write_at = self.functions.write_at.filter(|_| !self.info.read_only);
        let write_at = write_at.ok_or_else(|| self.lacks("write_at"))?;
        for piece in data.chunks(self.info.max_request as usize) {
            let _turn = self.turns.take();
            // SAFETY: the function's contract; the piece is that long and does not change.
            let error = unsafe { write_at(self.user_data, piece.as_ptr().cast(), piece.len(), offset) };
            self.told("write", error)?;
            offset += piece.len() as u64;
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        let Some(sync) = self.functions.sync else { return Ok(()) };
        let _turn = self.turns.take();
        // SAFETY: the function's contract.
        self.told("sync", unsafe { sync(self.user_data) })
    }

    fn try_read_at(&self, buffer: &mut [u8], offset: u64) -> Option<Result<()>> {
        self.info.local.then(|| self.read_at(buffer, offset))
    }

    fn try_write_at(&self, data: &[u8], offset: u64) -> Option<Result<()>> {
        self.info.local.then(|| self.write_at(data, offset))
    }
}

/// How many calls may still begin.
struct Turns {
    left: Mutex<u32>,
    freed: Condvar,
}

/// A call that has begun.
struct Turn<'a>(&'a Turns);

impl Turns {
    fn new(most: u32) -> Turns {
        Turns { left: Mutex::new(most), freed: Condvar::new() }
    }

    fn take(&self) -> Turn<'_> {
        let mut left = self.left.lock().unwrap_or_else(|e| e.into_inner());
        while *left == 0 {
            left = self.freed.wait(left).unwrap_or_else(|e| e.into_inner());
        }
        *left -= 1;
        Turn(self)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.left.lock().unwrap_or_else(|e| e.into_inner()) += 1;
        self.0.freed.notify_one();
    }
}
