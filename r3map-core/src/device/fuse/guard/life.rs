//! A word that guard and process share, by which the kernel itself tells the guard that the process died.
//!
//! The word is on the robust list of one thread, as the word of a robust mutex would be: when that thread
//! ends, the kernel marks the word and wakes who waits for it, before it does anything that could wait.

use std::mem::offset_of;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

/// The guard may go home: no thread has this number.
const DISMISSED: u32 = 0;

/// `struct robust_list_head` with the one entry that is on the list.
#[repr(C)]
struct Shared {
    first: *mut Entry,
    futex_offset: libc::c_long,
    pending: *mut Entry,
    entry: Entry,
    word: AtomicU32,
}

/// `struct robust_list`
#[repr(C)]
struct Entry {
    next: *mut Entry,
}

/// The shared word, which stays where it is in a forked child.
#[derive(Clone, Copy)]
pub struct Life(*mut Shared);

// SAFETY: the memory is shared by design; after `begin` only its atomic word changes.
unsafe impl Send for Life {}

impl Life {
    pub fn new() -> std::io::Result<Life> {
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping of one page, zeroed, at an address of the kernel's choice.
        let page = unsafe { libc::mmap(ptr::null_mut(), size_of::<Shared>(), access, kind, -1, 0) };
        if page == libc::MAP_FAILED { Err(std::io::Error::last_os_error()) } else { Ok(Life(page.cast())) }
    }

    /// Where it lies.
    pub fn address(self) -> usize {
        self.0 as usize
    }

    /// Ties it to the calling thread.
    pub fn begin(self) {
        // SAFETY: the page is mapped and nobody else knows it yet. The list has the form the kernel asks for:
        // the last entry points back to the head.
        unsafe {
            let shared = &mut *self.0;
            shared.first = &raw mut shared.entry;
            shared.entry.next = self.0.cast();
            shared.futex_offset = (offset_of!(Shared, word) - offset_of!(Shared, entry)) as libc::c_long;
            shared.word.store(libc::gettid() as u32 | libc::FUTEX_WAITERS, Ordering::SeqCst);
            libc::syscall(libc::SYS_set_robust_list, self.0, offset_of!(Shared, entry));
        }
    }

    /// Unties it from the thread that began it, and sends the guard home.
    pub fn dismiss(self) {
        // SAFETY: the page is mapped; the word is woken as it is waited for.
        unsafe {
            libc::syscall(libc::SYS_set_robust_list, ptr::null::<Shared>(), offset_of!(Shared, entry));
            let word = &(*self.0).word;
            word.store(DISMISSED, Ordering::SeqCst);
            libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1);
        }
    }

    /// Waits for the end, in the guard; tells whether the process died. Calls only what a forked child may.
    pub fn wait(self) -> bool {
        // SAFETY: the page is mapped here too.
        let word = unsafe { &(*self.0).word };
        loop {
            let now = word.load(Ordering::SeqCst);
            if now == DISMISSED || now & libc::FUTEX_OWNER_DIED != 0 {
                return now != DISMISSED;
            }
            // SAFETY: returns when the word is woken or is no longer `now`.
            unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, now, ptr::null::<u8>()) };
        }
    }

    /// Gives the memory back.
    ///
    /// # Safety
    /// No copy is used any more.
    pub unsafe fn free(self) {
        // SAFETY: it was mapped with this length, and nobody uses it.
        unsafe { libc::munmap(self.0.cast(), size_of::<Shared>()) };
    }
}
