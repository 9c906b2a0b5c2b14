//! Arithmetic of regions that lie in chunks, each named by its byte offset in decimal: the Go library's layout.

use std::ops::RangeInclusive;

/// Chunks that can be stored: the Go library took any size, so powers of two are not asked for.
pub(super) const CHUNKS: RangeInclusive<u64> = 512..=1 << 30;

/// A range's share of one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Offset of the chunk in the region, which names it.
    pub chunk: u64,
    /// Where the share begins in the chunk.
    pub within: u64,
    /// How many bytes; never none.
    pub length: u64,
}

/// The shares that `length` bytes at `offset` have of chunks of `chunk` bytes, in order.
pub(super) fn parts(chunk: u64, offset: u64, length: u64) -> impl Iterator<Item = Part> + Send {
    let end = offset + length;
    let mut at = offset;
    std::iter::from_fn(move || {
        let within = at % chunk;
        let length = (chunk - within).min(end - at);
        let part = (length > 0).then_some(Part { chunk: at - within, within, length });
        at += length;
        part
    })
}

/// The unit of transfer that suits chunks of `chunk` bytes.
pub(super) fn transfer_unit(chunk: u64) -> u32 {
    chunk.next_power_of_two().clamp(4 << 10, 32 << 20) as u32
}
