use super::*;

#[test]
fn a_write_changes_its_bytes_and_no_others() {
    let (directory, mut expected) = (seeding::Directory::new(), vec![0; 200_001]);
    std::fs::write(directory.file("write"), &expected).unwrap();
    for (seed, mode) in [(1, "direct"), (2, "managed")] {
        let (mount, mut found) = (mount_with(&directory.url("write"), "mode", mode), vec![0; 200_001]);
        for (at, length) in [(0, 1), (4095, 2), (8192, 4096), (65536, 70_000), (200_000, 1)] {
            expected[at..at + length].copy_from_slice(&pattern(length, seed));
            mount.write_at(&expected[at..at + length], at as u64).unwrap();
        }
        mount.read_at(&mut found, 0).unwrap();
        assert!(found == expected, "{mode}");
        fails(mount.write_at(b"xy", 200_000), Code::OutOfRange, "2 bytes at 200000");
        mount.close().unwrap();
        assert!(std::fs::read(directory.file("write")).unwrap() == expected, "{mode}");
    }
}
