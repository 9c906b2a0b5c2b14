//! 552: a mount over a long line that the kernel itself makes of `lo`: 30 ms there and back.
//! In the guest: --module sch_netem

use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use r3map_core::backend::memory::Memory;
use r3map_core::{
    Backend, BackendOptions, DeviceChoice, ExportOptions, Mode, Mount, MountOptions, Server, ServerOptions,
};

mod faults;
#[path = "../../tests/skip.rs"]
mod skip;

use faults::{Random, assert_same, pattern};

const SIZE: usize = 8 << 20;
/// There and back.
const ROUND_TRIP: Duration = Duration::from_millis(30);

/// `lo` with a delay, until this is dropped.
struct LongLine;

impl LongLine {
    fn new() -> LongLine {
        // By default no more than 1,000 packets are on the way, and what comes on top is lost.
        tc(&["qdisc", "add", "dev", "lo", "root", "netem", "delay", "15ms", "limit", "100000"]);
        LongLine
    }
}

impl Drop for LongLine {
    fn drop(&mut self) {
        tc(&["qdisc", "del", "dev", "lo", "root"]);
    }
}

fn tc(arguments: &[&str]) {
    let done = Command::new("tc").args(arguments).env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin").output().unwrap();
    assert!(done.status.success(), "tc {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn a_block_device_over_a_long_line_of_the_kernel_reads_and_writes_every_byte() {
    if !skip::in_guest() {
        return skip::leave_to_guest("lo is made a long line in the guest alone");
    }
    let memory = Arc::new(Memory::new(SIZE as u64).unwrap());
    let mut twin = pattern(SIZE, 52);
    memory.write_at(&twin, 0).unwrap();
    let server = Server::new(ServerOptions::default()).unwrap();
    server.export("region", memory.clone(), &ExportOptions::default()).unwrap();
    let url = format!("{}/region", server.listen("127.0.0.1:0").unwrap());
    let line = LongLine::new();
    let options = Mount::options().mode(Mode::Managed).device(DeviceChoice::Nbd(None));
    let mount = MountOptions { pull: r3map_core::Pull::Demand, ..options }.open_url(&url, &BackendOptions::default());
    let mount = mount.unwrap();
    let file = mount.file().unwrap();
    let begun = Instant::now();
    mount.pull(SIZE as u64 / 2, 1).unwrap();
    assert!(begun.elapsed() >= ROUND_TRIP, "that was no long line");
    let mut found = vec![0; SIZE];
    file.read_exact_at(&mut found, 0).unwrap();
    assert_same(&found, &twin, "by the device");
    let mut random = Random::new(52);
    for round in 0..200_u64 {
        let length = 1 + random.below(40_000) as usize;
        let at = random.below((SIZE - length) as u64) as usize;
        let bytes = pattern(length, round);
        file.write_all_at(&bytes, at as u64).unwrap();
        twin[at..at + length].copy_from_slice(&bytes);
        if round % 50 == 0 {
            file.sync_all().unwrap();
            memory.read_at(&mut found, 0).unwrap();
            assert_same(&found, &twin, "after fsync");
        }
    }
    drop(file);
    mount.close().unwrap();
    drop(line);
    memory.read_at(&mut found, 0).unwrap();
    assert_same(&found, &twin, "after closing");
    server.close().unwrap();
}
