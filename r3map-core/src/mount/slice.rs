//! A mount's region as memory of this process.

use std::ptr::NonNull;
use std::sync::Arc;

use crate::device::Device;

/// The region as memory: valid while the mount is open, whoever holds it.
///
/// The first touch of a page that is not here waits for it. A page that cannot be had is a SIGBUS, after a
/// line in the log that says why; [`Mount::pull`](super::Mount::pull) gives an error instead. After the mount is closed any touch
/// is a SIGSEGV.
#[derive(Clone)]
pub struct Slice {
    start: NonNull<u8>,
    length: usize,
    read_only: bool,
    _device: Arc<dyn Device>,
}

// SAFETY: the memory is shared by design, and `Slice` itself gives out only raw pointers.
unsafe impl Send for Slice {}
// SAFETY: as above.
unsafe impl Sync for Slice {}

impl Slice {
    /// The memory of a device that is attached.
    pub(super) fn new(start: NonNull<u8>, length: usize, read_only: bool, device: Arc<dyn Device>) -> Slice {
        Slice { start, length, read_only, _device: device }
    }

    /// The first byte.
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Bytes: the region's size.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether the region has no bytes.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Whether a store is a SIGSEGV.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// The bytes, to be read.
    ///
    /// # Safety
    /// While the result lives nobody writes to the region and the mount is not closed.
    pub unsafe fn as_slice(&self) -> &[u8] {
        // SAFETY: the range is mapped while the device is attached, which the caller promises.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }

    /// The bytes, to be read and written.
    ///
    /// # Safety
    /// While the result lives nobody else reads or writes the region, it is not read-only, and the mount is
    /// not closed.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn as_mut_slice(&self) -> &mut [u8] {
        // SAFETY: as in `as_slice`; that nobody else touches it is the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}
