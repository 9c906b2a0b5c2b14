use super::*;

#[test]
fn options_are_taken_and_wrong_ones_named() {
    let mut options = MountOptions::default();
    options.set("chunk_size", "64KiB").unwrap();
    options.set("deadline", "1.5").unwrap();
    assert_eq!((options.chunk_size, options.deadline), (Some(65536), Duration::from_millis(1500)));
    fails(options.set("chunk_sice", "64KiB"), Code::InvalidArgument, "did you mean \"chunk_size\"?");
    fails(options.set("mode", "indirect"), Code::InvalidArgument, "indirect");
    let odd = MountOptions { chunk_size: Some(5000), ..MountOptions::default() };
    fails(odd.open_url("memory:?size=1", &BackendOptions::default()), Code::InvalidArgument, "chunk_size");
}
