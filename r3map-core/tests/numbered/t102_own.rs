use std::sync::atomic::Ordering;

use super::*;
use own::Own;

#[test]
fn a_backend_of_ones_own_is_read_written_synced_and_freed() {
    let own = Arc::new(Own::new(300_001));
    let mount = Mount::open(own.clone(), MountOptions::default()).unwrap();
    let (written, mut found) = (pattern(300_001, 2), vec![0; 300_001]);
    mount.write_at(&written, 0).unwrap();
    mount.read_at(&mut found, 0).unwrap();
    assert!(found == written && *own.bytes.lock().unwrap() == written);
    let before = own.syncs.load(Ordering::SeqCst);
    mount.sync().unwrap();
    assert!(own.syncs.load(Ordering::SeqCst) > before);
    mount.close().unwrap();
    drop(mount);
    assert_eq!(Arc::strong_count(&own), 1, "somebody still holds it");
}
