use std::sync::atomic::Ordering;

use super::*;
use own::Own;

#[test]
fn an_error_of_ones_own_backend_reaches_the_caller_as_it_is() {
    let own = Arc::new(Own::new(4096));
    let mount = Mount::open(own.clone(), MountOptions::default()).unwrap();
    own.failures.store(1, Ordering::SeqCst);
    fails(mount.read_at(&mut [0; 4], 0), Code::Io, "out of order");
    mount.read_at(&mut [0; 4], 0).unwrap();
    mount.close().unwrap();
}
