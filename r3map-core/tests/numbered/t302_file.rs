use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use super::*;

#[test]
fn a_file_is_a_descriptor_of_ones_own_each_time() {
    let mount = mount_with("memory:?size=65536", "device", "fuse");
    let first = match mount.file() {
        Err(error) if is_missing(&error) => return skip::skip(error),
        file => file.unwrap(),
    };
    let (second, mut found) = (mount.file().unwrap(), [0; 4]);
    assert_ne!(first.as_raw_fd(), second.as_raw_fd());
    first.write_all_at(b"here", 1000).unwrap();
    second.read_exact_at(&mut found, 1000).unwrap();
    assert_eq!(&found, b"here");
    mount.read_at(&mut found, 1000).unwrap();
    assert_eq!(&found, b"here");
    drop((first, second));
    mount.close().unwrap();
}
