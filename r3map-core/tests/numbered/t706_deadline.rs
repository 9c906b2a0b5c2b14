use super::*;
use own::Own;

#[test]
fn a_call_ends_at_its_deadline() {
    let own = Arc::new(Own::new(4096));
    let held = own.gate.lock().unwrap();
    let mount = MountOptions::default().deadline(Duration::from_millis(20)).open(own.clone()).unwrap();
    fails(mount.read_at(&mut [0], 0), Code::Timeout, "deadline");
    drop(held);
    mount.discard().unwrap();
}
