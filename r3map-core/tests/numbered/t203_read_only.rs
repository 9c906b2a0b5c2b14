use super::*;

#[test]
fn a_read_only_mount_reads_and_refuses_writes() {
    let mount = mount_with("memory:?size=8192", "read_only", "true");
    assert!(mount.is_read_only());
    mount.read_at(&mut [1], 0).unwrap();
    fails(mount.write_at(&[1], 0), Code::ReadOnly, "read-only");
    mount.close().unwrap();
}
