use super::*;

#[test]
fn the_second_close_fails_closed_and_harms_nothing() {
    let memory = open("memory:?size=5000").unwrap();
    let mount = Mount::open(memory.clone(), MountOptions::default()).unwrap();
    mount.write_at(b"kept", 4996).unwrap();
    mount.close().unwrap();
    fails(mount.close(), Code::Closed, "closed");
    fails(mount.discard(), Code::Closed, "closed");
    let mut found = [0; 4];
    memory.read_at(&mut found, 4996).unwrap();
    assert_eq!(&found, b"kept");
}
