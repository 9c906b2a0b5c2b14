//! lz4 and zstd on slices of known lengths: neither allocates what the other side of a connection says.

use std::sync::Mutex;

use zstd::bulk::{Compressor, Decompressor};

use super::compress::{LZ4, Packing, ZSTD};

/// The features that this build has codecs for.
pub const FEATURES: u64 = LZ4 | ZSTD;
/// The third, its default, is a twentieth shorter and takes half as long again.
const LEVEL: i32 = 1;
/// How many of zstd's contexts are kept of each kind, some hundreds of KiB each, for whoever packs next.
const KEPT: usize = 4;

static COMPRESSORS: Mutex<Vec<Compressor<'static>>> = Mutex::new(Vec::new());
static DECOMPRESSORS: Mutex<Vec<Decompressor<'static>>> = Mutex::new(Vec::new());

/// How much room packing so many bytes needs.
pub fn room(packing: Packing, length: usize) -> usize {
    match packing {
        Packing::Lz4 => lz4_flex::block::get_maximum_output_size(length),
        _ => length,
    }
}

/// How long the bytes are when packed into `room`; `None` where they do not fit.
pub fn pack_lz4(bytes: &[u8], room: &mut [u8]) -> Option<usize> {
    lz4_flex::block::compress_into(bytes, room).ok()
}

/// The same by zstd.
pub fn pack_zstd(bytes: &[u8], room: &mut [u8]) -> Option<usize> {
    let mut compressor = take(&COMPRESSORS, || Compressor::new(LEVEL))?;
    let length = compressor.compress_to_buffer(bytes, room);
    keep(&COMPRESSORS, compressor);
    length.ok()
}

/// How many bytes of `into` these unpack to; `None` where they are more, or nonsense.
pub fn unpack_lz4(packed: &[u8], into: &mut [u8]) -> Option<usize> {
    lz4_flex::block::decompress_into(packed, into).ok()
}

/// The same by zstd, of one frame.
pub fn unpack_zstd(packed: &[u8], into: &mut [u8]) -> Option<usize> {
    if zstd::zstd_safe::find_frame_compressed_size(packed).ok()? != packed.len() {
        return None;
    }
    let mut decompressor = take(&DECOMPRESSORS, Decompressor::new)?;
    let length = decompressor.decompress_to_buffer(packed, into);
    keep(&DECOMPRESSORS, decompressor);
    length.ok()
}

fn take<T>(kept: &Mutex<Vec<T>>, make: impl FnOnce() -> std::io::Result<T>) -> Option<T> {
    let found = kept.lock().unwrap_or_else(|e| e.into_inner()).pop();
    found.or_else(|| make().ok())
}

fn keep<T>(kept: &Mutex<Vec<T>>, context: T) {
    let mut kept = kept.lock().unwrap_or_else(|e| e.into_inner());
    if kept.len() < KEPT {
        kept.push(context);
    }
}
