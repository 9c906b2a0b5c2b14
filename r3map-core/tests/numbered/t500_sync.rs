use super::*;

#[test]
fn after_sync_the_bytes_are_at_the_store_and_close_syncs_too() {
    let directory = seeding::Directory::new();
    std::fs::write(directory.file("sync"), vec![0; 9999]).unwrap();
    let mount = mount_with(&directory.url("sync"), "mode", "managed");
    mount.write_at(b"synced", 100).unwrap();
    mount.sync().unwrap();
    assert_eq!(&std::fs::read(directory.file("sync")).unwrap()[100..106], b"synced");
    mount.write_at(b"closed", 9993).unwrap();
    mount.close().unwrap();
    assert_eq!(&std::fs::read(directory.file("sync")).unwrap()[9993..], b"closed");
}
