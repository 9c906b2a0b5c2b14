//! Copying a remote region.

use std::sync::Arc;

use r3map_core::backend::memory::Memory;
use r3map_core::copy::Copy;
use r3map_core::{BackendOptions, ExportOptions, Server, ServerOptions, backend};

use crate::{Measured, floor, speed, time};

const SIZE: u64 = 1 << 30;

/// `r3map://127.0.0.1` to memory, against a bare pull over TCP into a fresh file in memory.
pub fn over_tcp() -> Measured {
    let server = Server::new(ServerOptions::default()).unwrap();
    server.export("source", crate::slice::source(SIZE), &ExportOptions::default()).unwrap();
    let url = format!("{}/source", server.listen("127.0.0.1:0").unwrap());
    let ours = || {
        let source = backend::open(&url, &BackendOptions::default()).unwrap();
        let target = Arc::new(Memory::new(SIZE).unwrap());
        // Freed after the time is taken, as that of the floor.
        let kept = target.clone();
        let seconds = time(|| Copy::between(source, target).unwrap().run(None).unwrap());
        drop(kept);
        seconds
    };
    let measured = speed(SIZE, ours, || floor::pull_tcp(SIZE));
    server.close().unwrap();
    measured
}
