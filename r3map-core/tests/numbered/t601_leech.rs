use r3map_core::{LeechState, Leecher, SeedState};

use super::*;

#[test]
fn a_leecher_pulls_while_the_region_is_written_and_closed_it_leaves_it_there() {
    let mount = mount("memory:?size=1000001");
    let seeder = seeding::seed(&mount);
    let open = || Leecher::open(seeder.url().unwrap(), "memory:", MountOptions::default(), &BackendOptions::default());
    let leecher = open().unwrap();
    let mut after = 0;
    seeding::expect(&seeder, &mut after, &[SeedState::Waiting, SeedState::Tracking]);
    mount.write_at(b"goes on", 1000).unwrap();
    fails(open(), Code::Busy, "");
    leecher.wait_local(0.5, SOON).unwrap();
    assert!(matches!(leecher.state().unwrap(), LeechState::Pulling | LeechState::Outpaced));
    assert_eq!(leecher.stats().unwrap().get("size"), Some(1_000_001));
    leecher.close().unwrap();
    seeding::expect(&seeder, &mut after, &[SeedState::Waiting]);
    mount.write_at(b"goes on", 2000).unwrap();
    seeder.close().unwrap();
    mount.close().unwrap();
}
