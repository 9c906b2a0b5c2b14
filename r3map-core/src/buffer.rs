//! Buffers that requests own while they travel: reused, so that a transfer neither maps nor zeroes memory.

use std::ops::{Deref, DerefMut};
use std::sync::Mutex;

use memmap2::{Mmap, MmapMut};
use once_cell::sync::Lazy;

/// The smallest buffer kept for reuse, 4 KiB.
const SMALLEST: usize = 1 << 12;
/// The largest, 32 MiB: the largest chunk.
const LARGEST: usize = 1 << 25;
const CLASSES: usize = (LARGEST.trailing_zeros() - SMALLEST.trailing_zeros() + 1) as usize;
/// How many bytes of each size class are kept when nobody uses them.
const KEPT_PER_CLASS: usize = 32 << 20;

static POOL: [Mutex<Vec<Box<[u8]>>>; CLASSES] = [const { Mutex::new(Vec::new()) }; CLASSES];

/// What a buffer shows that nobody has written to. Pages that are only read take no memory, and as no constant it takes
/// no room in the library's file either.
static UNWRITTEN: Lazy<Mmap> = Lazy::new(|| {
    let mapped = MmapMut::map_anon(LARGEST).and_then(MmapMut::make_read_only);
    mapped.expect("32 MiB of addresses, where any request may take as much memory")
});

/// Does now what the first buffer would else do in a thread that serves a region, and such a thread maps nothing.
pub fn prepare() {
    Lazy::force(&UNWRITTEN);
}

/// A length of bytes that a request owns. Its content is unspecified until it is written: zeros, or what an
/// earlier user of the library in this process left there; fill all of it before showing it to anybody.
pub struct Buffer {
    // Taken at the first write: one that waits for its bytes holds no memory, and the bytes then go to the
    // memory that was used last and is still in the processor's cache.
    bytes: Option<Box<[u8]>>,
    length: usize,
}

fn class(length: usize) -> Option<usize> {
    let size = length.max(SMALLEST).checked_next_power_of_two()?;
    (size <= LARGEST).then(|| (size.trailing_zeros() - SMALLEST.trailing_zeros()) as usize)
}

impl Buffer {
    /// A buffer of that many bytes with unspecified content.
    pub fn new(length: usize) -> Buffer {
        Buffer { bytes: (length > LARGEST).then(|| vec![0; length].into_boxed_slice()), length }
    }

    /// The memory itself, taken now if it was not yet.
    fn memory(&mut self) -> &mut [u8] {
        let length = self.length;
        self.bytes.get_or_insert_with(|| match class(length) {
            None => vec![0; length].into_boxed_slice(),
            Some(class) => {
                let kept = POOL[class].lock().unwrap_or_else(|e| e.into_inner()).pop();
                kept.unwrap_or_else(|| vec![0; SMALLEST << class].into_boxed_slice())
            }
        })
    }

    /// A buffer of that many zeros.
    pub fn zeroed(length: usize) -> Buffer {
        let mut buffer = Buffer::new(length);
        buffer.fill(0);
        buffer
    }

    /// A buffer that holds a copy of these bytes.
    pub fn copy_of(bytes: &[u8]) -> Buffer {
        let mut buffer = Buffer::new(bytes.len());
        buffer.copy_from_slice(bytes);
        buffer
    }

    /// How many bytes; to ask takes no memory.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Shortens it to `length`, which must not be more than it has.
    pub fn truncate(&mut self, length: usize) {
        assert!(length <= self.length);
        self.length = length;
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match &self.bytes {
            Some(bytes) => &bytes[..self.length],
            None => &UNWRITTEN[..self.length],
        }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        let length = self.length;
        &mut self.memory()[..length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(bytes) = self.bytes.take() else { return };
        if let Some(class) = class(bytes.len()).filter(|class| bytes.len() == SMALLEST << class) {
            let mut kept = POOL[class].lock().unwrap_or_else(|e| e.into_inner());
            if kept.len() < (KEPT_PER_CLASS >> class) / SMALLEST {
                kept.push(bytes);
            }
        }
    }
}

/// Whether all of these bytes are zero. Runs at memory speed and stops at the first that is not.
pub fn is_zero(bytes: &[u8]) -> bool {
    // SAFETY: any bit pattern is a u128, and the middle part is aligned for it.
    let (head, middle, tail) = unsafe { bytes.align_to::<u128>() };
    head.iter().all(|byte| *byte == 0)
        && tail.iter().all(|byte| *byte == 0)
        && middle.chunks(16).all(|block| block.iter().fold(0, |sum, word| sum | word) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_has_the_length_asked_for_whatever_it_is() {
        for length in [0, 1, 4095, 4096, 4097, 1 << 20, (32 << 20) + 1] {
            assert_eq!(Buffer::zeroed(length).len(), length);
            assert!(is_zero(&Buffer::zeroed(length)));
        }
    }

    #[test]
    fn one_set_byte_anywhere_is_not_zero() {
        let mut bytes = vec![0; 1000];
        for index in 0..bytes.len() {
            bytes[index] = 1;
            assert!(!is_zero(&bytes[1.min(index)..]));
            bytes[index] = 0;
        }
        assert!(is_zero(&bytes[3..997]));
    }
}
