use super::*;

#[test]
fn negative_huge_and_unknown_numbers_are_errors() {
    let mount = mount("memory:?size=8192");
    for offset in [8192, u64::MAX, -16_i64 as u64, i64::MAX as u64, i64::MAX as u64 + 1] {
        fails(mount.read_at(&mut [0; 16], offset), Code::OutOfRange, "16 bytes at");
        fails(mount.write_at(&[0; 16], offset), Code::OutOfRange, "16 bytes at");
        fails(mount.pull(offset, 16), Code::OutOfRange, "");
        fails(mount.prefetch(offset, 16), Code::OutOfRange, "");
        fails(mount.missing(offset, 16), Code::OutOfRange, "");
    }
    fails(mount.pull(1, u64::MAX), Code::OutOfRange, "");
    mount.close().unwrap();
    for chunk in [0, 1, 4095, 5000, 64 << 20] {
        let options = MountOptions { chunk_size: Some(chunk), ..MountOptions::default() };
        fails(options.open(open("memory:?size=1").unwrap()), Code::InvalidArgument, "chunk_size");
    }
}
