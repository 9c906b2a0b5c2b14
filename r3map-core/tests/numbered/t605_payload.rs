use super::*;

#[test]
fn a_payload_comes_out_of_the_mount_at_the_other_side() {
    for payload in [Vec::new(), b"registers".to_vec(), pattern(16 << 20, 5)] {
        let mount = mount("memory:?size=100001");
        let seeder = seeding::seed(&mount);
        assert!(mount.payload().is_empty());
        let (_leecher, here) = moving::take(&seeder, "memory:", &payload);
        assert!(here.payload() == payload);
        seeder.wait_drained(SOON).unwrap();
        seeder.close().unwrap();
    }
    let mount = mount("memory:?size=1");
    let seeder = seeding::seed(&mount);
    fails(seeder.suspended(1, &vec![0; (16 << 20) + 1]), Code::InvalidArgument, "16777216");
}
