//! `read_at` of a mount without a device.

use std::hint::black_box;
use std::sync::Arc;

use r3map_core::Mount;
use r3map_core::backend::memory::Memory;

use crate::{Measured, ratio, time};

/// 4 KiB of one hot page, against copying it.
pub fn read_at() -> Measured {
    const CALLS: usize = 2_000_000;
    let mount = Mount::options().open(Arc::new(Memory::new(1 << 20).unwrap())).unwrap();
    mount.write_at(&[1; 4096], 0).unwrap();
    let hot = vec![1u8; 4096];
    let mut buffer = vec![0u8; 4096];
    let mut copy = vec![0u8; 4096];
    let ours = || {
        time(|| {
            for _ in 0..CALLS {
                mount.read_at(black_box(&mut buffer), black_box(0)).unwrap();
            }
        })
    };
    let floor = || {
        time(|| {
            for _ in 0..CALLS {
                black_box(&mut copy).copy_from_slice(black_box(&hot));
            }
        })
    };
    ratio(ours, floor, "ns", 1e9 / CALLS as f64)
}
