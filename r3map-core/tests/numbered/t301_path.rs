use std::os::unix::fs::FileExt;

use super::*;

#[test]
fn a_path_is_a_regular_file_of_the_exact_size() {
    let mount = mount_with("memory:?size=100001", "device", "fuse");
    mount.write_at(b"head", 0).unwrap();
    let path = match mount.path() {
        Err(error) if is_missing(&error) => return skip::skip(error),
        path => path.unwrap(),
    };
    assert_eq!(path, mount.path().unwrap());
    let status = std::fs::metadata(&path).unwrap();
    assert!(status.is_file() && status.len() == 100_001);
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut found = [0; 4];
    file.read_exact_at(&mut found, 0).unwrap();
    assert_eq!(&found, b"head");
    file.write_all_at(b"tail", 99_997).unwrap();
    drop(file);
    mount.read_at(&mut found, 99_997).unwrap();
    assert_eq!(&found, b"tail");
    mount.close().unwrap();
}
