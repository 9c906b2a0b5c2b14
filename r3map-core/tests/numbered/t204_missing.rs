use super::*;

#[test]
fn pull_makes_resident_and_missing_lists_what_is_not_here() {
    let mut options = MountOptions::default();
    options.set("mode", "managed").unwrap();
    options.set("pull", "demand").unwrap();
    let mount = options.open(open("memory:?size=1MiB").unwrap()).unwrap();
    assert_eq!(mount.missing(0, 1 << 20).unwrap(), vec![0..1 << 20]);
    mount.pull(0, 1).unwrap();
    let missing = mount.missing(0, 1 << 20).unwrap();
    assert!(missing.len() == 1 && missing[0].start > 0 && missing[0].end == 1 << 20, "{missing:?}");
    mount.pull(0, 1 << 20).unwrap();
    assert!(mount.missing(0, 1 << 20).unwrap().is_empty());
    mount.wait_local(1.0, SOON).unwrap();
    mount.close().unwrap();
}
