//! What a region costs besides its bytes.

use std::sync::Arc;

use r3map_core::backend::memory::Memory;
use r3map_core::{DeviceChoice, Mode, Mount, MountOptions, Pull};

use crate::{Measured, ratio, time};

fn anonymous_kib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn demand() -> MountOptions {
    let options = Mount::options().device(DeviceChoice::Userfaultfd).mode(Mode::Managed);
    MountOptions { pull: Pull::Demand, ..options }
}

/// Private memory that grows while all pages of a region of 4 GiB get a state, for each GiB.
pub fn size() -> Measured {
    const GIB: u64 = 4;
    let mount = demand().open(Arc::new(Memory::new(GIB << 30).unwrap())).unwrap();
    mount.pull(0, 1 << 20).unwrap();
    let before = anonymous_kib();
    // A page of every word of states, so that all of the table is touched and none of the bytes stay.
    for offset in (0..GIB << 30).step_by(64 << 10) {
        mount.read_at(&mut [0; 1], offset).unwrap();
    }
    let ratio = (anonymous_kib() - before) / GIB as f64;
    mount.discard().unwrap();
    Measured { ratio, detail: "(private memory, all of the table touched)".to_owned() }
}

/// Opening a mount with a slice; closing it is not counted.
pub fn open() -> Measured {
    let open = |size: u64| {
        let backend = Arc::new(Memory::new(size).unwrap());
        let mut opened = None;
        let seconds = time(|| {
            let mount = demand().open(backend).unwrap();
            mount.slice().unwrap();
            opened = Some(mount);
        });
        opened.unwrap().discard().unwrap();
        seconds
    };
    ratio(|| open(1 << 40), || open(1 << 30), "ms", 1e3)
}
