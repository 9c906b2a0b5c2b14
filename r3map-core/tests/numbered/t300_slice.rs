use super::*;

#[test]
fn a_slice_the_handle_and_the_store_agree() {
    const LENGTH: usize = 1_000_001;
    let directory = seeding::Directory::new();
    std::fs::write(directory.file("slice"), vec![0; LENGTH]).unwrap();
    let (mount, mut expected, mut found) = (mount(&directory.url("slice")), pattern(LENGTH, 5), vec![0; LENGTH]);
    mount.write_at(&expected, 0).unwrap();
    let slice = match mount.slice() {
        Err(error) if is_missing(&error) => return skip::skip(error),
        slice => slice.unwrap(),
    };
    let bytes = unsafe { std::slice::from_raw_parts_mut(slice.as_ptr(), slice.len()) };
    assert!(bytes == expected.as_slice());
    for at in (17..LENGTH).step_by(50_000) {
        bytes[at] = !expected[at];
        expected[at] = bytes[at];
    }
    mount.read_at(&mut found, 0).unwrap();
    assert!(found == expected);
    mount.write_at(b"written", 4093).unwrap();
    expected[4093..4100].copy_from_slice(b"written");
    assert_eq!(&bytes[4093..4100], b"written");
    mount.sync().unwrap();
    assert!(std::fs::read(directory.file("slice")).unwrap() == expected);
    mount.close().unwrap();
}
