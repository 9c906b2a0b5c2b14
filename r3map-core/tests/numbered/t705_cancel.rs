use std::sync::atomic::Ordering;

use r3map_core::Cancel;

use super::*;
use own::Own;

#[test]
fn a_cancel_ends_a_call_that_waits() {
    let (own, cancel) = (Arc::new(Own::new(4096)), Cancel::new());
    let held = own.gate.lock().unwrap();
    let mount = Mount::open(own.clone(), MountOptions::default()).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while own.inside.load(Ordering::SeqCst) == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            cancel.trigger();
        });
        fails(mount.with_cancel(cancel.clone()).read_at(&mut [0], 0), Code::Cancelled, "cancelled");
    });
    drop(held);
    fails(mount.with_cancel(cancel).sync(), Code::Cancelled, "cancelled");
    mount.read_at(&mut [0], 0).unwrap();
    mount.close().unwrap();
}
