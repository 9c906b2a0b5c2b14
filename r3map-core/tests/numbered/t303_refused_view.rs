use super::*;

#[test]
fn a_view_that_the_device_cannot_give_names_those_that_can() {
    let fuse = mount_with("memory:?size=4096", "device", "fuse");
    fails(fuse.slice(), Code::Unsupported, "userfaultfd");
    fuse.close().unwrap();
    let userfaultfd = mount_with("memory:?size=4096", "device", "userfaultfd");
    fails(userfaultfd.path(), Code::Unsupported, "fuse");
    userfaultfd.close().unwrap();
}
