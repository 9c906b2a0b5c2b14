use std::sync::atomic::Ordering;

use super::*;
use own::Own;

#[test]
fn a_lost_write_fails_every_later_sync() {
    let own = Arc::new(Own::new(65536));
    let mount = Mount::open(own.clone(), MountOptions::default()).unwrap();
    own.failures.store(1, Ordering::SeqCst);
    fails(mount.write_at(b"lost", 0), Code::Io, "out of order");
    mount.write_at(b"kept", 0).unwrap();
    for _ in 0..3 {
        fails(mount.sync(), Code::Io, "an earlier write did not reach the backend");
    }
    fails(mount.close(), Code::Io, "the mount stays open");
    mount.discard().unwrap();
}
