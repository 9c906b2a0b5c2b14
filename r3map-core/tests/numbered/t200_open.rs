use super::*;

#[test]
fn a_mount_opens_without_a_device_and_stands_where_a_backend_may() {
    let mount = mount("memory:?size=10000");
    assert_eq!((mount.size(), mount.is_read_only(), mount.device()), (10_000, false, None));
    let second = Mount::open(Arc::new(mount.clone()), MountOptions::default()).unwrap();
    let mut found = [0; 3];
    second.write_at(b"abc", 9997).unwrap();
    mount.read_at(&mut found, 9997).unwrap();
    assert_eq!(&found, b"abc");
    second.close().unwrap();
    mount.close().unwrap();
}
