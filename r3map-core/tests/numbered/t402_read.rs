use super::*;

#[test]
fn a_read_gives_every_byte_or_an_error() {
    let (directory, stored) = (seeding::Directory::new(), pattern(200_001, 7));
    std::fs::write(directory.file("read"), &stored).unwrap();
    for mode in ["direct", "managed"] {
        let (mount, mut found) = (mount_with(&directory.url("read"), "mode", mode), vec![0; 200_001]);
        mount.read_at(&mut found, 0).unwrap();
        assert!(found == stored, "{mode}");
        mount.read_at(&mut found[..5], 4094).unwrap();
        assert_eq!(found[..5], stored[4094..4099]);
        mount.read_at(&mut [], 200_001).unwrap();
        let mut untouched = [7; 2];
        fails(mount.read_at(&mut untouched, 200_000), Code::OutOfRange, "2 bytes at 200000");
        assert_eq!(untouched, [7; 2]);
        mount.close().unwrap();
    }
}
